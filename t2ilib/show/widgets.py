"""Widgets for whoever watches, each with a static figure for whoever does not."""

from collections.abc import Callable, Sequence
from typing import Any

from .figures import grid
from ..media import picture_list, to_pil
from ..media.sheets import png_bytes
from ..runtime import is_interactive


def slider(draw: Callable[[Any], Any], values: Sequence[Any], *, label: str = "value", scale: float = 1.8) -> Any:
    """Return a slider over `values` that shows `draw(value)`; where nobody watches, a grid of all of them.

    Args:
        draw: value -> picture (see `to_pil`); called once for each value, when it is first wanted.
        values: stops of the slider.
        label: what the values are; static pictures are titled "label = value".
        scale: width of a picture in the static grid, in inches.
    """
    if not is_interactive():
        return grid([to_pil(draw(value)) for value in values], [f"{label} = {value}" for value in values], scale=scale)
    import ipywidgets

    drawn: dict[int, bytes] = {}
    control = ipywidgets.SelectionSlider(options=[(str(v), i) for i, v in enumerate(values)], description=label,
                                         continuous_update=False)
    picture = ipywidgets.Image(format="png", width=320)

    def update(_: Any = None) -> None:
        i = control.value
        if i not in drawn:
            drawn[i] = png_bytes(to_pil(draw(values[i])), 320)
        picture.value = drawn[i]

    control.observe(update, names="value")
    update()
    return ipywidgets.VBox([control, picture])


def gallery(images: Any, captions: Sequence[str] | None = None, *, columns: int | None = None, size: int = 160) -> Any:
    """Return the pictures as a grid of widgets with captions; where nobody watches, as a figure."""
    pictures = picture_list(images)
    if not is_interactive():
        return grid(pictures, captions, columns=columns)
    import ipywidgets

    cells = [ipywidgets.VBox([ipywidgets.Image(value=png_bytes(p, size), format="png", width=size),
                              ipywidgets.Label(str(captions[i]) if captions is not None else "")])
             for i, p in enumerate(pictures)]
    track = f"repeat({columns or min(6, len(cells))}, {size + 16}px)"
    return ipywidgets.GridBox(cells, layout=ipywidgets.Layout(grid_template_columns=track))

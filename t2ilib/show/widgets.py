"""Widgets for whoever watches, each with a static figure for whoever does not."""

import time
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from .figures import grid
from ..media import picture_list, to_pil
from ..media.sheets import png_bytes
from ..runtime import is_interactive

LEAST_PAUSE = 2.0  # seconds between two figures of a training
LEAST_CHANGE = 0.003  # of the range of values, mean over a picture: less than this nobody sees


def slider(draw: Callable[[Any], Any], values: Sequence[Any], *, label: str = "value", scale: float = 1.8) -> Any:
    """Return a slider over `values` that shows `draw(value)`; where nobody watches, a grid of all of them.

    Args:
        draw: value -> picture (see `to_pil`); called once for each value, when it is first wanted.
        values: stops of the slider.
        label: what the values are; static pictures are titled "label = value".
        scale: width of a picture in the static grid, in inches.

    Warns:
        UserWarning: where nobody watches, if two neighbouring stops show the same picture: the value does not act.
    """
    if not is_interactive():
        pictures = [to_pil(draw(value)) for value in values]
        _warn_of_idle_stops(pictures, values, label)
        return grid(pictures, [f"{label} = {value}" for value in values], scale=scale)
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


class Live:
    """One figure that is redrawn in place where a person watches; elsewhere it shows nothing.

    `refresh` in a training loop draws by itself whenever that costs little. Ask `watched` before drawing what only
    `update` needs.
    """

    def __init__(self) -> None:
        self.watched = is_interactive()
        self._handle: Any = None
        self._due = 0.0  # seconds of `time.monotonic`

    def refresh(self, draw: Callable[[], Any]) -> None:
        """Show the figure that `draw` returns, unless the last one is too young.

        Drawing takes at most a tenth of the time, and happens at most once in `LEAST_PAUSE` seconds. `draw` must leave
        what it draws as it is: no step of a random stream that the training uses.
        """
        began = time.monotonic()
        if not self.watched or began < self._due:
            return
        self.update(draw())
        ended = time.monotonic()
        self._due = ended + max(LEAST_PAUSE, 9 * (ended - began))

    def update(self, figure: Any) -> None:
        """Show the figure in the place of the one before."""
        if not self.watched:
            return
        from IPython.display import display

        if self._handle is None:
            self._handle = display(figure, display_id=True)
        else:
            self._handle.update(figure)


def _warn_of_idle_stops(pictures: Sequence[Image.Image], values: Sequence[Any], label: str) -> None:
    """Warn of each pair of neighbouring stops whose pictures are equal, or nearly so, and of a slider of such only."""
    changes = [picture_change(before, after) for before, after in pairwise(pictures)]
    for change, (first, second) in zip(changes, pairwise(values), strict=True):
        if change < LEAST_CHANGE:
            warnings.warn(f"the slider {label!r} does nothing between {first} and {second}: the picture changes by "
                          f"{change:.2%} of its range; let it move what decides the picture", stacklevel=3)
    if changes and max(changes) < LEAST_CHANGE:
        warnings.warn(f"the slider {label!r} does nothing at any stop", stacklevel=3)


def picture_change(before: Image.Image, after: Image.Image) -> float:
    """Return the mean difference of two pictures, from 0 (equal) to 1 (black and white); 1 if their sizes differ."""
    if before.size != after.size:
        return 1.0
    first = np.asarray(before.convert("RGB"), dtype=np.float32)
    second = np.asarray(after.convert("RGB"), dtype=np.float32)
    return float(np.abs(first - second).mean() / 255)


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

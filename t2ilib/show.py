"""Pictures of pictures: grids, comparisons, curves, contact sheets, and widgets with a static fallback.

Figures are returned, not shown: the last line of a cell, or `display(figure)`, shows one exactly once. They never
enter pyplot's list of open figures, so a loop that draws thousands leaks none and warns of none.
"""

import csv
import io
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from .errors import BadParameter, MissingAsset, unknown_name

STYLE = {
    "font.size": 10, "axes.titlesize": 10, "axes.titlepad": 5, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": "#8a8a8a", "axes.labelcolor": "#3d3d3d", "xtick.color": "#5c5c5c", "ytick.color": "#5c5c5c",
    "axes.grid": True, "grid.color": "#e8e6e1", "grid.linewidth": 0.8, "axes.axisbelow": True, "legend.frameon": False,
    "lines.linewidth": 1.8, "figure.facecolor": "white", "figure.dpi": 110,
}
COLOURS = ("#c2452d", "#2468b3", "#2d7d46", "#b07d00", "#7a4fb5", "#168a8a", "#c2478e", "#5c5c5c")
TOLERANCE = 0.25


class _Shown(Figure):
    """A figure that a notebook shows by itself, whether or not pyplot was ever imported."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", bbox_inches="tight")
        return buffer.getvalue()


def to_pil(images: Any) -> Image.Image | list[Image.Image]:
    """Return a PIL picture, or a list of them, from whatever holds pictures.

    Args:
        images: (3, H, W) or (1, H, W) -> one picture; (B, 3, H, W), (B, 1, H, W) or a sequence -> a list. Floats are in
            [0, 1] (small overshoot is clipped), integers in 0..255. PIL pictures pass through.

    Raises:
        BadParameter: another shape, NaN, or values far outside [0, 1], such as a model's [-1, 1].
    """
    if isinstance(images, Image.Image):
        return images
    if isinstance(images, Sequence):
        return [to_pil(image) for image in images]
    array = images.detach().cpu().float().numpy() if hasattr(images, "detach") else images
    scaled = str(getattr(images, "dtype", "")).removeprefix("torch.").startswith(("uint8", "int"))
    if array.ndim not in (3, 4) or array.shape[-3] not in (1, 3, 4):
        raise BadParameter(f"pictures must have shape (3, H, W) or (B, 3, H, W), got {tuple(array.shape)}")
    array = array / 255.0 if scaled else array
    low, high = float(array.min()), float(array.max())
    if not -TOLERANCE <= low <= high <= 1 + TOLERANCE:  # also false for NaN
        raise BadParameter(f"values of pictures must be in [0, 1], got [{low:.3g}, {high:.3g}]; "
                           "a model's [-1, 1] becomes that by (x + 1) / 2")
    if array.ndim == 4:
        return [_one(a) for a in array]
    return _one(array)


def _one(array: np.ndarray) -> Image.Image:
    import numpy as np
    pixels = np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def save(images: Any, path: str | Path, **options: Any) -> Path:
    """Save one picture, a contact sheet of several, or a figure, and return the path; folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if hasattr(images, "savefig"):
        images.savefig(path, bbox_inches="tight", **options)
    else:
        pictures = to_pil(images)
        (contact_sheet(pictures) if isinstance(pictures, list) else pictures).save(path, **options)
    return path


def grid(images: Any, titles: Sequence[str] | None = None, *, columns: int | None = None, scale: float = 1.6,
         title: str | None = None) -> Figure:
    """Return a figure with the pictures in rows.

    Args:
        images: (B, 3, H, W) in [0, 1], or a sequence of pictures (see `to_pil`).
        titles: one for each picture; long ones are wrapped.
        columns: pictures in a row; default is nearly square, at most 8.
        scale: width of one picture in inches.
        title: line above all.

    Raises:
        BadParameter: no pictures, or another number of titles.
    """
    pictures = _list(images)
    if titles is not None and len(titles) != len(pictures):
        raise BadParameter(f"got {len(titles)} titles for {len(pictures)} pictures")
    columns = min(columns or min(8, math.ceil(math.sqrt(len(pictures) * 1.6))), len(pictures))
    rows = math.ceil(len(pictures) / columns)
    lines = [textwrap.fill(str(t), max(12, int(scale * 11))) for t in titles] if titles is not None else []
    extra = 0.06 + 0.17 * max((line.count("\n") + 1 for line in lines), default=0)
    tallest = max(p.height / p.width for p in pictures)
    figure, axes = _figure(rows, columns, (columns * scale, rows * (scale * tallest + extra)), title)
    for i, axis in enumerate(axes.flat):
        axis.axis("off")
        if i < len(pictures):
            _draw(axis, pictures[i])
            if lines:
                axis.set_title(lines[i], fontsize=9)
    return figure


def compare(rows: Mapping[str, Any] | Sequence[tuple[str, Any]], *, titles: Sequence[str] | None = None,
            scale: float = 1.4, title: str | None = None) -> Figure:
    """Return a figure with one labelled row of pictures for each entry, such as real above reconstructed.

    Args:
        rows: label -> pictures; rows may differ in length.
        titles: one for each column.
        scale: width of one picture in inches.
        title: line above all.
    """
    rows = [(label, _list(images)) for label, images in (rows.items() if isinstance(rows, Mapping) else rows)]
    if not rows:
        raise BadParameter("compare needs at least one row of pictures, got none")
    columns = max(len(pictures) for _, pictures in rows)
    size = (columns * scale + 1, len(rows) * (scale + 0.06) + (0.25 if titles else 0))
    figure, axes = _figure(len(rows), columns, size, title)
    for r, (label, pictures) in enumerate(rows):
        for c, axis in enumerate(axes[r]):
            _bare(axis)
            if c < len(pictures):
                _draw(axis, pictures[c])
            if r == 0 and titles and c < len(titles):
                axis.set_title(titles[c], fontsize=9)
        axes[r][0].set_ylabel(textwrap.fill(label, 16), rotation=0, ha="right", va="center", labelpad=8)
    return figure


def curves(series: Mapping[str, Any] | str | Path, *, names: Sequence[str] | None = None, smooth: int = 1,
           separate: bool = False, log: bool = False, title: str | None = None, xlabel: str = "step",
           ylabel: str = "", size: tuple[float, float] = (6.0, 3.2)) -> Figure:
    """Return a figure of curves.

    Args:
        series: name -> values, or name -> (steps, values); or the path of a `metrics.csv` or its run folder.
        names: which of them, in this order; default all.
        smooth: moving average over so many points, drawn over the pale raw curve; 1 is none.
        separate: one panel for each curve, for quantities of different scale.
        log: logarithmic value axis.
        title, xlabel, ylabel: texts.
        size: width and height of one panel in inches.

    Raises:
        UnknownName: a name that is not there.
        BadParameter: nothing to draw.
    """
    data = {name: _xy(values) for name, values in (read_metrics(series) if isinstance(series, (str, Path))
                                                   else series).items()}
    for name in names or ():
        if name not in data:
            raise unknown_name("curve", name, data)
    data = {name: data[name] for name in names or data}
    if not data:
        raise BadParameter("curves needs at least one series, got none")
    panels = len(data) if separate else 1
    columns = min(panels, 3)
    figure, axes = _figure(math.ceil(panels / columns), columns,
                           (size[0] * (columns if panels == 1 else columns * 0.7),
                            size[1] * math.ceil(panels / columns)), title)
    for axis in list(axes.flat)[panels:]:
        axis.axis("off")
    for i, (name, (x, y)) in enumerate(data.items()):
        axis, colour = axes.flat[i if separate else 0], COLOURS[i % len(COLOURS)]
        _curve(axis, x, y, name, colour, smooth)
        axis.set(xlabel=xlabel, ylabel=name if separate else ylabel, yscale="log" if log else "linear")
    if not separate and len(data) > 1:
        axes.flat[0].legend()
    elif not separate and not ylabel:
        axes.flat[0].set_ylabel(next(iter(data)))
    return figure


def _curve(axis: Any, x: list[float], y: list[float], name: str, colour: str, smooth: int) -> None:
    smooth = min(smooth, len(y))
    if smooth > 1:
        axis.plot(x, y, color=colour, alpha=0.22, linewidth=1)
        windows = [y[max(0, i + 1 - smooth):i + 1] for i in range(len(y))]
        y = [sum(window) / len(window) for window in windows]
    axis.plot(x, y, color=colour, label=name, marker="o" if len(y) == 1 else None)


def read_metrics(path: str | Path, *, missing_ok: bool = False) -> dict[str, tuple[list[float], list[float]]]:
    """Return name -> (steps, values) from a `metrics.csv` (columns step, name, value), or the run folder with one.

    Raises:
        MissingAsset: there is none; with `missing_ok` the answer is {} then, as for a run that trained nothing.
    """
    path = Path(path)
    path = path if path.suffix == ".csv" else path / "metrics.csv"
    if not path.is_file():
        if missing_ok:
            return {}
        raise MissingAsset(f"there is no {path.name} in {path.parent}; a run writes it with Run.log(step, name=value)")
    found: dict[str, tuple[list[float], list[float]]] = {}
    with path.open(newline="") as f:
        for row in csv.DictReader(f):
            steps, values = found.setdefault(row["name"], ([], []))
            steps.append(float(row["step"]))
            values.append(float(row["value"]))
    return found


def contact_sheet(images: Any, captions: Sequence[str] | None = None, *, columns: int | None = None, size: int = 256,
                  title: str | None = None) -> Image.Image:
    """Return one PIL picture with all pictures in rows, each with its caption below.

    Args:
        images: pictures (see `to_pil`); each is fitted into a square of `size` pixels.
        captions: one for each picture.
        columns: pictures in a row; default nearly square, at most 6.
        size: side of one picture in pixels.
        title: line above all.
    """
    pictures = _list(images)
    if captions is not None and len(captions) != len(pictures):
        raise BadParameter(f"got {len(captions)} captions for {len(pictures)} pictures")
    columns = min(columns or min(6, math.ceil(math.sqrt(len(pictures)))), len(pictures))
    rows, gap = math.ceil(len(pictures) / columns), max(8, size // 16)
    small, large = _font(max(11, size // 16)), _font(max(14, size // 11))
    below, above = (int(small.size * 1.7) if captions else 0), (int(large.size * 2) if title else gap)
    sheet = Image.new("RGB", (gap + columns * (size + gap), above + rows * (size + below + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((gap, above // 2), _fit(title, large, sheet.width - 2 * gap), "#1d1d1f", font=large, anchor="lm")
    for i, picture in enumerate(pictures):
        x, y = gap + (i % columns) * (size + gap), above + (i // columns) * (size + below + gap)
        picture = _fitted(picture, size)
        sheet.paste(picture, (x + (size - picture.width) // 2, y + (size - picture.height) // 2))
        if captions:
            draw.text((x + size // 2, y + size + below // 2), _fit(captions[i], small, size), "#3d3d3d", font=small,
                      anchor="mm")
    return sheet


def slider(draw: Callable[[Any], Any], values: Sequence[Any], *, label: str = "value", scale: float = 1.8) -> Any:
    """Return a slider over `values` that shows `draw(value)`; where nobody watches, a grid of all of them.

    Args:
        draw: value -> picture (see `to_pil`); called once for each value, when it is first wanted.
        values: stops of the slider.
        label: what the values are; static pictures are titled "label = value".
        scale: width of a picture in the static grid, in inches.
    """
    from .runtime import is_interactive

    if not is_interactive():
        return grid([to_pil(draw(value)) for value in values], [f"{label} = {value}" for value in values], scale=scale)
    import ipywidgets

    seen: dict[int, bytes] = {}
    control = ipywidgets.SelectionSlider(options=[(str(v), i) for i, v in enumerate(values)], description=label,
                                         continuous_update=False)
    picture = ipywidgets.Image(format="png", width=320)

    def update(_: Any = None) -> None:
        i = control.value
        if i not in seen:
            seen[i] = _png(to_pil(draw(values[i])), 320)
        picture.value = seen[i]

    control.observe(update, names="value")
    update()
    return ipywidgets.VBox([control, picture])


def gallery(images: Any, captions: Sequence[str] | None = None, *, columns: int | None = None, size: int = 160) -> Any:
    """Return the pictures as a grid of widgets with captions; where nobody watches, as a figure."""
    from .runtime import is_interactive

    pictures = _list(images)
    if not is_interactive():
        return grid(pictures, captions, columns=columns)
    import ipywidgets

    cells = [ipywidgets.VBox([ipywidgets.Image(value=_png(p, size), format="png", width=size),
                              ipywidgets.Label(str(captions[i]) if captions is not None else "")])
             for i, p in enumerate(pictures)]
    track = f"repeat({columns or min(6, len(cells))}, {size + 16}px)"
    return ipywidgets.GridBox(cells, layout=ipywidgets.Layout(grid_template_columns=track))


def _figure(rows: int, columns: int, size: tuple[float, float], title: str | None) -> tuple[Figure, np.ndarray]:
    with matplotlib.rc_context(STYLE):
        figure = _Shown(figsize=size, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.02)
        if title:
            figure.suptitle(title, fontsize=11, fontweight="bold")
        return figure, figure.subplots(rows, columns, squeeze=False)


def _draw(axis: Any, picture: Any) -> None:
    axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest" if picture.width <= 32 else "lanczos")


def _bare(axis: Any) -> None:
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[:].set_visible(False)


def _xy(values: Any) -> tuple[list[float], list[float]]:
    if isinstance(values, tuple) and len(values) == 2 and isinstance(values[0], Iterable):
        return [float(x) for x in values[0]], [float(y) for y in values[1]]
    return list(map(float, range(len(values)))), [float(y) for y in values]


def _list(images: Any) -> list[Image.Image]:
    pictures = to_pil(images)
    pictures = pictures if isinstance(pictures, list) else [pictures]
    if not pictures:
        raise BadParameter("there are no pictures to show; got an empty list")
    return pictures


def _fitted(picture: Image.Image, size: int) -> Image.Image:
    """Scale to fit a square; upscaling of tiny pictures by a whole factor keeps their pixels sharp."""
    factor = size / max(picture.size)
    sharp = factor >= 4 and factor.is_integer()
    shape = tuple(max(1, round(side * factor)) for side in picture.size)
    return picture.convert("RGB").resize(shape, Image.Resampling.NEAREST if sharp else Image.Resampling.LANCZOS)


def _png(picture: Image.Image, size: int) -> bytes:
    buffer = io.BytesIO()
    _fitted(picture, size).save(buffer, "PNG")
    return buffer.getvalue()


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"

"""Figures: grids and comparisons of pictures, and curves.

Figures are returned, not shown: the last line of a cell, or `display(figure)`, shows one exactly once. They never
enter pyplot's list of open figures, so a loop that draws thousands leaks none and warns of none.
"""

import csv
import io
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ..errors import BadParameter, MissingAsset, MissingInput, check_name
from ..files import replacing
from ..media import picture_list, save_pictures

STYLE = {
    "font.size": 10, "axes.titlesize": 10, "axes.titlepad": 5, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": "#8a8a8a", "axes.labelcolor": "#3d3d3d", "xtick.color": "#5c5c5c", "ytick.color": "#5c5c5c",
    "axes.grid": True, "grid.color": "#e8e6e1", "grid.linewidth": 0.8, "axes.axisbelow": True, "legend.frameon": False,
    "lines.linewidth": 1.8, "figure.facecolor": "white", "figure.dpi": 110,
}
COLOURS = ("#c2452d", "#2468b3", "#2d7d46", "#b07d00", "#7a4fb5", "#168a8a", "#c2478e", "#5c5c5c")


class _Shown(Figure):
    """A figure that a notebook shows by itself, whether or not pyplot was ever imported."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", bbox_inches="tight")
        return buffer.getvalue()


def save(images: Any, path: str | Path, **options: Any) -> Path:
    """Save one picture, a contact sheet of several, or a figure, and return the path; folders are made."""
    if not hasattr(images, "savefig"):
        return save_pictures(images, path, **options)
    path = Path(path)
    options.setdefault("format", path.suffix.lstrip(".") or "png")
    with replacing(path) as temporary:
        images.savefig(temporary, bbox_inches="tight", **options)
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
    pictures = picture_list(images)
    if titles is not None and len(titles) != len(pictures):
        raise BadParameter(f"got {len(titles)} titles for {len(pictures)} pictures")
    if columns is None:
        columns = min(8, math.ceil(math.sqrt(len(pictures) * 1.6)))
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    lines, line_count = _wrapped(titles or (), scale)
    extra = 0.06 + 0.17 * line_count
    tallest = max(p.height / p.width for p in pictures)
    figure, axes = new_figure(rows, columns, (columns * scale, rows * (scale * tallest + extra)), title)
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
        titles: one for each column; long ones are wrapped.
        scale: width of one picture in inches.
        title: line above all.
    """
    rows = [(label, picture_list(images)) for label, images in (rows.items() if isinstance(rows, Mapping) else rows)]
    if not rows:
        raise BadParameter("compare needs at least one row of pictures, got none")
    columns = max(len(pictures) for _, pictures in rows)
    lines, line_count = _wrapped(titles or (), scale)
    size = (columns * scale + 1, len(rows) * (scale + 0.06) + 0.08 + 0.17 * line_count)
    figure, axes = new_figure(len(rows), columns, size, title)
    for r, (label, pictures) in enumerate(rows):
        for c, axis in enumerate(axes[r]):
            _bare(axis)
            if c < len(pictures):
                _draw(axis, pictures[c])
            if r == 0 and c < len(lines):
                axis.set_title(lines[c], fontsize=9)
        axes[r][0].set_ylabel(textwrap.fill(label, 16), rotation=0, ha="right", va="center", labelpad=8)
    return figure


def _wrapped(titles: Sequence[Any], scale: float) -> tuple[list[str], int]:
    """Return titles wrapped to the width of a picture of `scale` inches, and how many lines the longest takes."""
    characters = max(12, int(scale * 11))
    lines = [textwrap.fill(str(title), characters) for title in titles]
    return lines, max((line.count("\n") + 1 for line in lines), default=0)


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
    if isinstance(series, (str, Path)):
        series = read_metrics(series)
    for name in names or ():
        check_name("curve", name, series)
    data = {name: _xy(series[name]) for name in names or series}
    if not data:
        raise BadParameter("curves needs at least one series, got none")
    panels = len(data) if separate else 1
    columns = min(panels, 3)
    rows = math.ceil(panels / columns)
    width = size[0] if panels == 1 else 0.7 * size[0] * columns
    figure, axes = new_figure(rows, columns, (width, size[1] * rows), title)
    for axis in list(axes.flat)[panels:]:
        axis.axis("off")
    for i, (name, (x, y)) in enumerate(data.items()):
        axis = axes.flat[i if separate else 0]
        _curve(axis, x, y, name, COLOURS[i % len(COLOURS)], smooth)
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


def scatter(points: Mapping[str, tuple[float, float]], *, bars: Mapping[str, tuple[float, float]] | None = None,
            log: bool = False, title: str | None = None, xlabel: str = "", ylabel: str = "",
            size: tuple[float, float] = (6.0, 3.6)) -> Figure:
    """Return a figure of named points, each with its name beside it.

    Args:
        points: name -> (x, y). bars: name -> (low, high) of y, such as a 95 % interval.
        log: logarithmic x axis.
        title, xlabel, ylabel: texts. size: width and height in inches.

    Raises:
        BadParameter: no points. UnknownName: a bar without a point.
    """
    if not points:
        raise BadParameter("scatter needs at least one point, got none")
    figure, axes = new_figure(1, 1, size, title)
    axis = axes[0][0]
    for i, (name, (x, y)) in enumerate(points.items()):
        colour = COLOURS[i % len(COLOURS)]
        axis.plot([x], [y], "o", color=colour)
        axis.annotate(name, (x, y), xytext=(6, 5), textcoords="offset points", fontsize=8, color=colour)
    for name, (low, high) in (bars or {}).items():
        check_name("point", name, points)
        colour = COLOURS[list(points).index(name) % len(COLOURS)]
        axis.vlines(points[name][0], low, high, color=colour, alpha=0.5)
    axis.set(xlabel=xlabel, ylabel=ylabel, xscale="log" if log else "linear")
    if log:
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.margins(x=0.25)
    return figure


def clouds(rows: Mapping[str, Sequence[Any]], *, around: Any, titles: Sequence[str] | None = None, scale: float = 1.2,
           title: str | None = None) -> Figure:
    """Return a figure of point clouds in the plane, one labelled row of panels for each entry, all on the same axes.

    Args:
        rows: label -> clouds (N, 2), a panel each; rows may differ in length.
        around: (M, 2) places that are marked in every panel, such as those that the points should reach; they decide
            which part of the plane is seen.
        titles: one for each column.
        scale: width of one panel in inches.
        title: line above all.

    Raises:
        BadParameter: no clouds.
    """
    rows = {label: [np.asarray(cloud, dtype=float) for cloud in clouds_of_row] for label, clouds_of_row in rows.items()}
    columns = max((len(row) for row in rows.values()), default=0)
    if not columns:
        raise BadParameter("clouds needs at least one cloud of points, got none")
    marks = np.asarray(around, dtype=float)
    middle = (marks.max(0) + marks.min(0)) / 2  # (2,)
    reach = (marks.max(0) - marks.min(0)).max()
    size = (columns * scale + 1, len(rows) * (scale + 0.06) + (0.25 if titles else 0))
    figure, axes = new_figure(len(rows), columns, size, title)
    for r, (label, row) in enumerate(rows.items()):
        for c, axis in enumerate(axes[r]):
            _bare(axis)
            if c < len(row):
                axis.plot(*row[c].T, ".", markersize=2, alpha=0.5, color=COLOURS[1])
                axis.plot(*marks.T, "+", markersize=5, color=COLOURS[0])
                axis.set(xlim=(middle[0] - reach, middle[0] + reach), ylim=(middle[1] - reach, middle[1] + reach))
                axis.set_aspect("equal")
            if r == 0 and titles and c < len(titles):
                axis.set_title(titles[c], fontsize=9)
        axes[r][0].set_ylabel(textwrap.fill(label, 16), rotation=0, ha="right", va="center", labelpad=8)
    return figure


def film(path: str | Path) -> Any:
    """Return a film that plays in the notebook, where it is the last line of a cell.

    Args:
        path: a .webp or .gif, such as `media.film.FilmWriter` writes; its bytes go into the notebook.

    Raises:
        BadParameter: a film of another kind. MissingInput: there is no such file.
    """
    from IPython.display import Image

    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("webp", "gif"):
        raise BadParameter(f"{path.name}: notebooks play .webp and .gif; write the film under one of these endings")
    if not path.is_file():
        raise MissingInput(f"no film at {path}; correct the path")
    return Image(data=path.read_bytes(), format=kind)


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


def new_figure(rows: int, columns: int, size: tuple[float, float], title: str | None) -> tuple[Figure, np.ndarray]:
    """Return an empty figure of this house's style, and its axes (rows, columns); `size` is in inches."""
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

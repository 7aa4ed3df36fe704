"""Sketches of an architecture: boxes in rows, and arrows between them."""

import math
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import matplotlib
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch

from .figures import COLOURS, STYLE, new_figure
from ..errors import BadParameter, check_name

BOX = (1.0, 0.52)  # width and height of a box; a row is 1 high
COLUMN = 1.3  # width of a column
ARC = 0.29  # how high a gradient's arrow rises
LETTERS = 15  # in a line of a box
DASHES = (0, (4, 3))  # matplotlib's: 4 points drawn, 3 left out
ARROW = ">"  # between the boxes of a chain
KINDS = {  # kind -> colour of the ground, of the edge, and what the legend says
    "data": ("#f6f3ec", "#8a8a8a", "what passes through"),
    "learns": ("#dbe8f6", COLOURS[1], "learns"),
    "frozen": ("#e6e6e6", "#5c5c5c", "trained before, stays as it is"),
    "loss": ("#f8e0da", COLOURS[0], "loss"),
}


def diagram(rows: Sequence[Sequence[str]], arrows: Sequence[str], *, learns: Sequence[str] = (),
            frozen: Sequence[str] = (), losses: Sequence[str] = (), gradients: Sequence[str] = (),
            scale: float = 1.45) -> Any:
    """Return a figure of boxes that stand in rows, and of arrows between them.

    Args:
        rows: names of boxes from left to right, rows from above; "" leaves a place empty.
        arrows: chains of names such as "noise > generator > picture".
        learns, frozen, losses: which boxes are networks in training, networks that stay as they are, and losses.
        gradients: chains that are dashed: the way that a gradient goes, from the loss on.
        scale: width of a column in inches.

    Raises:
        BadParameter: no box, or two of one name. UnknownName: a chain or a kind names a box that is not there.
    """
    places = _places(rows)
    kinds = dict.fromkeys(places, "data")
    for kind, names in (("learns", learns), ("frozen", frozen), ("loss", losses)):
        for name in names:
            check_name("box", name, places)
            kinds[name] = kind
    columns = max(len(row) for row in rows)
    figure, axes = new_figure(1, 1, (columns * COLUMN * scale, len(rows) * 0.62 * scale + 0.35), None)
    axis = axes[0][0]
    axis.axis("off")
    axis.set(xlim=(-0.6, COLUMN * (columns - 1) + 0.6), ylim=(-len(rows) + 0.55, 0.45))
    with matplotlib.rc_context(STYLE):
        patches = {name: _draw_box(axis, name, place, kinds[name]) for name, place in places.items()}
        for first, second in _links(arrows, places):
            _draw_arrow(axis, patches, places, (first, second), colour="#3d3d3d", style="-", rise=0.0)
        for first, second in _links(gradients, places):
            _draw_arrow(axis, patches, places, (first, second), colour=COLOURS[0], style=DASHES, rise=ARC)
        _draw_legend(axis, set(kinds.values()), bool(gradients))
    return figure


def _places(rows: Sequence[Sequence[str]]) -> dict[str, tuple[float, float]]:
    """Return the middle of each box."""
    places: dict[str, tuple[float, float]] = {}
    for r, row in enumerate(rows):
        for c, name in enumerate(row):
            if name in places:
                raise BadParameter(f"the box {name!r} stands in two places; give each box a name of its own")
            if name:
                places[name] = (COLUMN * c, -float(r))
    if not places:
        raise BadParameter("a diagram needs at least one box, got none")
    return places


def _links(chains: Sequence[str], places: dict[str, tuple[float, float]]) -> list[tuple[str, str]]:
    """Return the pairs of boxes between which chains go."""
    links = []
    for chain in chains:
        names = [name.strip() for name in chain.split(ARROW)]
        for name in names:
            check_name("box", name, places)
        links.extend(pairwise(names))
    return links


def _draw_box(axis: Any, name: str, place: tuple[float, float], kind: str) -> FancyBboxPatch:
    ground, edge, _ = KINDS[kind]
    width, height = BOX
    corner = (place[0] - width / 2, place[1] - height / 2)
    is_data = kind == "data"
    box = FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=0.08", facecolor=ground,
                         edgecolor=edge, linewidth=0.8 if is_data else 1.4, zorder=2)
    axis.add_patch(box)
    axis.text(*place, textwrap.fill(name, LETTERS), ha="center", va="center", fontsize=8.5, zorder=3,
              fontweight="normal" if is_data else "bold")
    return box


def _draw_arrow(axis: Any, patches: dict[str, FancyBboxPatch], places: dict[str, tuple[float, float]],
                link: tuple[str, str], *, colour: str, style: Any, rise: float) -> None:
    first, second = link
    bend = 2 * rise / math.dist(places[first], places[second])  # matplotlib's: a share of the arrow's length
    axis.annotate("", xy=places[second], xytext=places[first], zorder=1,
                  arrowprops=dict(arrowstyle="-|>", color=colour, linestyle=style, linewidth=1.2,
                                  connectionstyle=f"arc3,rad={bend}", patchA=patches[first], patchB=patches[second],
                                  shrinkA=1, shrinkB=1))


def _draw_legend(axis: Any, kinds: set[str], has_gradients: bool) -> None:
    handles: list[Any] = []
    for kind, (ground, edge, label) in KINDS.items():
        if kind in kinds:
            handles.append(Patch(facecolor=ground, edgecolor=edge, label=label))
    if has_gradients:
        handles.append(Line2D([], [], color=COLOURS[0], linestyle=DASHES, linewidth=1.2, label="gradient"))
    axis.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=len(handles), fontsize=8)

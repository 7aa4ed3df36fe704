"""Percent scripts as text: where their cells are, without the packages of notebooks, which a training does not need."""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MARKER = re.compile(r"# %%(\s|$)")
TAGS = re.compile(r"tags=(\[[^\]]*\])")


@dataclass(frozen=True)
class PercentCell:
    """A cell of a percent script: its tags, its source, and the line behind it, counted from 0."""

    tags: tuple[str, ...]
    source: str
    end: int


def percent_cells(text: str) -> list[PercentCell]:
    """Return the cells of a percent script in their order, without the header before the first."""
    lines = text.split("\n")
    starts = [number for number, line in enumerate(lines) if MARKER.match(line)]
    ends = [*starts[1:], len(lines)]
    cells = []
    for start, end in zip(starts, ends, strict=False):
        tags = TAGS.search(lines[start])
        source = "\n".join(lines[start + 1:end]).strip("\n")
        cells.append(PercentCell(tuple(ast.literal_eval(tags[1])) if tags else (), source, end))
    return cells


def parameters_cells(text: str) -> list[PercentCell]:
    """Return the cells of a percent script that are tagged `parameters`; there should be one."""
    return [cell for cell in percent_cells(text) if "parameters" in cell.tags]


def with_parameters(text: str, values: Mapping[str, Any]) -> str:
    """Return a percent script with a cell behind that of its parameters which sets some anew, as papermill does it."""
    if not values:
        return text
    injected = ['# %% tags=["injected-parameters"]']
    injected += [f"{name} = {value!r}" for name, value in values.items()]
    lines = text.split("\n")
    end = parameters_cells(text)[0].end
    return "\n".join([*lines[:end], *injected, "", *lines[end:]])

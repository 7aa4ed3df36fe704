"""Pairs that do not belong together and are hard to tell: another concept of the same subgroup, by the same artist."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .captioned import CaptionedImages
from ..errors import BadParameter

# From hard to easy: what a partner shares with a row, the first of which any row offers is taken.
LEVELS = (("artist", "subgroup"), ("subgroup",), ("artist", "group"), ("group",), ())


def partner_rows(data: CaptionedImages) -> list[Tensor]:
    """Return for each row the rows of other concepts that are hardest to tell from it.

    Those of the same artist and subgroup, or where there are none, the next of `LEVELS` that has some. A set without
    these columns takes any row with another caption.

    Raises:
        BadParameter: all rows have the same caption.
    """
    names = data.columns.get("name", data.captions)
    partners: list[Tensor | None] = [None] * len(data)
    for columns in LEVELS:
        if not all(column in data.columns for column in columns):
            continue
        open_rows = [row for row in range(len(data)) if partners[row] is None]
        rows_of = _rows_by(data, columns)
        for row in open_rows:
            candidates = rows_of[_key(data, columns, row)]
            others = [other for other in candidates if names[other] != names[row]]
            if others:
                partners[row] = torch.tensor(others)
    found = [rows for rows in partners if rows is not None]
    if len(found) < len(data):
        raise BadParameter("all pictures have the same caption, so that none is wrong for another; give a set with two "
                           "captions or more")
    return found


def _key(data: CaptionedImages, columns: Sequence[str], row: int) -> tuple:
    return tuple(data.columns[column][row] for column in columns)


def _rows_by(data: CaptionedImages, columns: Sequence[str]) -> dict[tuple, list[int]]:
    """Return the rows by the values that they have in some columns."""
    rows_of: dict[tuple, list[int]] = {}
    for row in range(len(data)):
        rows_of.setdefault(_key(data, columns, row), []).append(row)
    return rows_of


def draw_partners(partners: Sequence[Tensor], rows: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a partner for each row: (B,) -> (B,)."""
    shares = torch.rand(len(rows), generator=generator).tolist()
    drawn = []
    for row, share in zip(rows.tolist(), shares, strict=True):
        candidates = partners[row]
        drawn.append(int(candidates[int(share * len(candidates))]))
    return torch.tensor(drawn)

"""Which drawings the judge never saw: one of each concept, so that its own accuracy can be asked on them."""

import torch
from torch import Tensor

from .captioned import CaptionedImages
from ..runtime import derived_seed

JUDGE_SEED = 2


def left_out_rows(data: CaptionedImages, *, seed: int = JUDGE_SEED) -> Tensor:
    """Return of each concept that at least two artists drew the row that the judge's training leaves out.

    Which one is decided by a hash of seed and name, so it is the same on every machine, for any order of rows of one
    concept's artists that the set keeps. Pass the whole set (`split="all"`), as the judge's training does.

    Args:
        data: pictures with a column `name`, one row for each artist's drawing.
        seed: of the choice; the default is that of the shipped `emoji-judge`.

    Shapes:
        result: (number of concepts with two drawings or more,), int64, in order of each concept's first row
    """
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(data.columns["name"]):
        rows_of.setdefault(name, []).append(row)
    left_out = []
    for name, rows in rows_of.items():
        if len(rows) > 1:
            choice = derived_seed(seed, "left out", name) % len(rows)
            left_out.append(rows[choice])
    return torch.tensor(left_out, dtype=torch.long)

"""What the methods are compared with: real drawings, a drawing looked up by its name, the mean picture, noise."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data import CaptionedImages
from ..encoders import TextEncoder
from ..media import to_unit
from ..metrics.judging import Judgement
from ..runtime import generator

REAL = "real drawings"
NEAREST = "the nearest name's drawing"
MEAN = "the mean picture"
NOISE = "noise"
BASELINES = (REAL, NEAREST, MEAN, NOISE)


def baseline_pictures(judgement: Judgement, pictures: CaptionedImages, text_encoder: TextEncoder,
                      names: Sequence[str], *, rows: int = 0, seed: int = 0) -> dict[str, Tensor]:
    """Return the pictures of each of `BASELINES` for concepts: (len(names), 3, H, W) in [0, 1].

    Args:
        judgement: knows which rows show which concept. pictures: the set of the judgement, all splits in the same
            order, at the size that is wanted.
        text_encoder: finds the training concept whose name is closest; of a training concept that is itself.
        rows: the mean is that of so many training drawings, spread over them; 0 is all.
    """
    real = to_unit(pictures.batch(torch.tensor(judgement.one_row_each(names))))
    looked_up = [judgement.rows_of[name][0] for name in nearest_names(judgement, text_encoder, names)]
    training_rows = [i for i, split in enumerate(pictures.columns["split"]) if split == "train"]
    if rows:
        training_rows = training_rows[::max(1, len(training_rows) // rows)]
    mean = mean_picture(pictures, training_rows)
    noise = torch.rand(real.shape, generator=generator(seed, "leaderboard", "noise"))
    return {REAL: real, NEAREST: to_unit(pictures.batch(torch.tensor(looked_up))),
            MEAN: mean.expand(len(names), -1, -1, -1), NOISE: noise}


def nearest_names(judgement: Judgement, text_encoder: TextEncoder, names: Sequence[str]) -> list[str]:
    """Return the training concept whose name is closest to each text by the cosine of pooled features."""
    known = judgement.concepts("train")
    known_features = F.normalize(text_encoder.encode(known).pooled, dim=-1)  # (M, E)
    features = F.normalize(text_encoder.encode(list(names)).pooled, dim=-1)  # (N, E)
    closest = (features @ known_features.T).argmax(dim=1)
    return [known[i] for i in closest.tolist()]


def mean_picture(pictures: CaptionedImages, rows: Sequence[int]) -> Tensor:
    """Return the mean of drawings on white: (3, H, W) in [0, 1]."""
    total = torch.zeros(())
    for part in torch.tensor(rows).split(256):
        total = total + to_unit(pictures.batch(part)).sum(0)
    return total / len(rows)

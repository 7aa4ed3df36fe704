"""What the methods are compared with: real drawings, a drawing looked up by its name, the mean picture, noise."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data import CaptionedImages
from ..data.text_features import pool_texts
from ..encoders import TextEncoder
from ..media import to_unit
from ..metrics.judging import Judgement
from ..paths import cache_dir
from ..runtime import generator

REAL = "real drawings, new to the judge"
NEAREST = "the nearest name's drawing"
MEAN = "the mean picture"
NOISE = "noise"


class NearestNames:
    """Which training concept has the name that is closest to a text, by the cosine of pooled features.

    Args:
        judgement: knows the training concepts. text_encoder: reads their names, once; what it makes of them is kept.
    """

    def __init__(self, judgement: Judgement, text_encoder: TextEncoder):
        self.text_encoder = text_encoder
        self.known = judgement.concepts("train")
        features = pool_texts(text_encoder, self.known, cache=cache_dir() / "texts")
        self._features = F.normalize(features, dim=-1)  # (M, E)

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Return the closest name for each text; a training concept's own is its name."""
        closest = (self._encode(texts) @ self._features.T).argmax(dim=1)
        return [self.known[i] for i in closest.tolist()]

    def _encode(self, texts: Sequence[str]) -> Tensor:
        return F.normalize(self.text_encoder.encode(list(texts)).pooled.float().cpu(), dim=-1)


class Baselines:
    """Pictures that need no method.

    Args:
        judgement: knows which rows show which concept. pictures: the set of the judgement, all splits in the same
            order, at the size that is to be compared.
        text_encoder: finds the training concept whose name is closest.
        rows: the mean is that of so many training drawings, spread over them; 0 is all.
    """

    def __init__(self, judgement: Judgement, pictures: CaptionedImages, text_encoder: TextEncoder, *, rows: int = 0):
        self.judgement = judgement
        self.data = pictures
        self.nearest = NearestNames(judgement, text_encoder)
        self.mean = mean_picture(pictures, pictures.rows_of_split("train", rows))

    def pictures(self, names: Sequence[str], *, seed: int = 0) -> dict[str, Tensor]:
        """Return name of a baseline -> its pictures of concepts, (len(names), 3, H, W) in [0, 1]."""
        looked_up = [self.judgement.rows_of[name][0] for name in self.nearest(names)]
        real = self._drawings(self.judgement.unseen_rows(names))
        noise = torch.rand(real.shape, generator=generator(seed, "leaderboard", "noise"))
        return {REAL: real, NEAREST: self._drawings(looked_up), MEAN: self.mean.expand(len(names), -1, -1, -1),
                NOISE: noise}

    def _drawings(self, rows: Sequence[int]) -> Tensor:
        return to_unit(self.data.batch(torch.tensor(rows)))


def mean_picture(pictures: CaptionedImages, rows: Sequence[int]) -> Tensor:
    """Return the mean of drawings on white: (3, H, W) in [0, 1]."""
    total = torch.zeros(())
    for part in torch.tensor(rows).split(256):
        total = total + to_unit(pictures.batch(part)).sum(0)
    return total / len(rows)

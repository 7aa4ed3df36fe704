"""A row of numbers for the pictures of one method: is the prompt shown, do they look drawn, do they differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import BadParameter
from ..metrics.alignment import retrieval_ranks, top_k
from ..metrics.eyes import Eyes
from ..metrics.judging import Judgement, diversity, photo_report

TOP = 10


@dataclass(frozen=True)
class Scored:
    """What was measured of one method's pictures of the concepts of a split.

    Attributes:
        row: what the table shows, see `Scorer.score`.
        hits: (N,) whether the concept is among the judge's `TOP` names, for paired differences.
        shuffled: top10 when each picture is asked for the name of another one, half the list away.
        photo_hits: (N,) as `hits`, by the second judge; None without eyes.
    """

    row: dict[str, Any]
    hits: Tensor
    shuffled: float
    photo_hits: Tensor | None


class Scorer:
    """Measure pictures of concepts.

    Args:
        judgement: the judge, with the names that compete.
        eyes: the second judge, KID, precision and recall on ImageNet features; None leaves them out.
        rows: so many training drawings are compared with, spread over them; 0 is all.
    """

    def __init__(self, judgement: Judgement, eyes: Eyes | None = None, *, rows: int = 0):
        self.judgement = judgement
        self.eyes = eyes
        self.rows = rows

    def score(self, pictures: Tensor, names: Sequence[str], *, seeds: int, side: int = 0) -> Scored:
        """Return the row of pictures (seeds * len(names), 3, H, W) in [0, 1], first all of the first seed.

        Args:
            names: concepts of one split. side: bring pictures to so many pixels first; 0 leaves them as they are.

        Returns:
            n; top1 and top10 with its 95 % interval (low, high), and chance10; kid_judge, in the judge's features;
            between and within, the mean of 1 - cosine of judge features of different prompts, and of one prompt's seeds
            (left out for one seed); nearest, the mean cosine to the nearest training drawing. By the eyes: photo1,
            and photo10 with its interval (photo_low, photo_high), of the second judge; kid and precision, each with its
            interval (kid_low, kid_high, precision_low, precision_high), and recall. These compare with training
            drawings. KID and recall look at one seed at a time and are averaged, see
            `Eyes.report`.

        Raises:
            BadParameter: another number of pictures, or names of several splits.
        """
        if len(pictures) != seeds * len(names):
            raise BadParameter(f"{seeds} seeds of {len(names)} names are {seeds * len(names)} pictures, got "
                               f"{len(pictures)}")
        splits = {self.judgement.split_of[name] for name in names}
        if len(splits) != 1:
            raise BadParameter(f"score the concepts of one split at a time, got {', '.join(sorted(splits))}")
        concepts = list(names) * seeds
        images = resized(pictures, side)
        features = self.judgement.features(images)
        training = self._training_features
        row = self.judgement.report(features, concepts)
        of_seeds = features.unflatten(0, (seeds, len(names)))
        if len(names) > 1:
            row["kid_judge"] = _mean([self.judgement.kid(of_seed, training) for of_seed in of_seeds])
        row |= diversity(of_seeds)
        nearest, _ = self.judgement.novelty(features, training)
        row["nearest"] = nearest.mean().item()
        photo_hits = None
        if self.eyes is not None:
            picture_seeds = [seed for seed in range(seeds) for _ in names]
            photo_features = self.eyes.features(images)
            photo_ranks = self.judgement.photo_ranks(self.eyes, photo_features, concepts)
            photo_hits = (photo_ranks <= TOP).float()
            row |= photo_report(photo_ranks, concepts)
            report = self.eyes.report(photo_features, groups=concepts, seeds=picture_seeds)
            row |= {name: report[name] for name in ("kid", "kid_low", "kid_high", "precision", "recall")}
            row |= {"precision_low": report["low"], "precision_high": report["high"]}
        ranks = self.judgement.ranks(features, concepts)
        half = len(names) // 2
        others = [*names[half:], *names[:half]] * seeds
        shuffled = top_k(self.judgement.ranks(features, others), TOP)
        return Scored(row, (ranks <= TOP).float(), shuffled, photo_hits)

    def free_ranks(self, pictures: Tensor, texts: Sequence[str], *, seeds: int) -> Tensor:
        """Return the rank of each picture's text among all `texts`, 1 being best: (seeds * len(texts),)."""
        features = self.judgement.features(pictures)
        with torch.no_grad():
            text_features = self.judgement.judge.encode_text(list(texts)).cpu()
        targets = torch.arange(len(texts)).repeat(seeds)
        return retrieval_ranks(features, text_features, targets)

    @cached_property
    def _training_features(self) -> Tensor:
        """Return the judge's features of the training drawings that all rows are compared with."""
        return self.judgement.training_features(every=True, count=self.rows)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def resized(pictures: Tensor, side: int) -> Tensor:
    """Return pictures with a side of so many pixels; as they are for 0 or where they have it."""
    if side in (0, pictures.shape[-1]):
        return pictures
    return F.interpolate(pictures, (side, side), mode="bicubic", antialias=True).clamp(0, 1)

"""Matching of pictures and texts as a yes-or-no question: its scores need pairs of both kinds."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .separation import auc
from ..errors import BadParameter


@dataclass(frozen=True)
class Matching:
    """What a matcher says of M matched and W mismatched pairs.

    Attributes:
        accuracy, precision, recall, f1: at the threshold; a ratio without a case is 0.
        ordered: share of all (matched, mismatched) couples in which the matched one has the larger score, ties half:
            the area under the ROC curve, which needs no threshold.
        matched, mismatched: mean, median and standard deviation of the scores.
        threshold: scores of it and above mean yes. n: (M, W).
    """

    accuracy: float
    precision: float
    recall: float
    f1: float
    ordered: float
    matched: tuple[float, float, float]
    mismatched: tuple[float, float, float]
    threshold: float
    n: tuple[int, int]

    def row(self) -> dict[str, float]:
        """Return the scores as one row of a table."""
        return {"accuracy": self.accuracy, "precision": self.precision, "recall": self.recall, "F1": self.f1,
                "ordered": self.ordered}


def matching(matched: Tensor, mismatched: Tensor, *, threshold: float = 0.5) -> Matching:
    """Count what a matcher gets right.

    With no mismatched pairs a matcher that always says yes has accuracy, precision, recall and F1 of 1: give both.

    Args:
        matched: (M,) scores of pairs that belong together. mismatched: (W,) of pairs that do not; may be empty.

    Raises:
        BadParameter: no matched pairs, or scores that are no finite numbers.
    """
    if not len(matched):
        raise BadParameter("there are no matched pairs to count; give some")
    scores = torch.cat([matched, mismatched]).double()
    if not scores.isfinite().all():
        raise BadParameter("some scores are no finite numbers")
    hits = int((matched >= threshold).sum())
    false_alarms = int((mismatched >= threshold).sum())
    right = hits + len(mismatched) - false_alarms
    precision = hits / (hits + false_alarms) if hits + false_alarms else 0.0
    recall = hits / len(matched)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    ordered = auc(-matched, -mismatched) if len(mismatched) else float("nan")  # of distances, hence the signs
    return Matching(right / len(scores), precision, recall, f1, ordered, _spread(matched), _spread(mismatched),
                    threshold, (len(matched), len(mismatched)))


def best_threshold(matched: Tensor, mismatched: Tensor) -> float:
    """Return the threshold with the highest accuracy; choose it on other pairs than those that are reported."""
    thresholds = torch.cat([matched, mismatched]).double().unique()  # (T,)
    accepted = (matched.double()[None] >= thresholds[:, None]).sum(1)  # (T,)
    rejected = (mismatched.double()[None] < thresholds[:, None]).sum(1)  # (T,)
    return float(thresholds[(accepted + rejected).argmax()])


def _spread(scores: Tensor) -> tuple[float, float, float]:
    """Return mean, median and standard deviation; of no scores, three times NaN."""
    if not len(scores):
        return (float("nan"),) * 3
    values = scores.double()
    deviation = float(values.std()) if len(values) > 1 else 0.0
    return float(values.mean()), float(values.median()), deviation

"""Which rows can be told apart: paired differences between methods on the same concepts, and places with ties."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import BadParameter
from ..metrics.alignment import bootstrap_interval

Interval = tuple[float, float, float]


def paired_differences(scores: Mapping[str, Tensor], concepts: Sequence[str]) -> dict[tuple[str, str], Interval]:
    """Return for each ordered pair of rows the mean of first minus second, with its 95 % interval over concepts.

    Args:
        scores: row -> (N,), one for each picture; the same N prompts and seeds in every row.
        concepts: of each of the N pictures; the seeds of a concept are averaged, and concepts are drawn.

    Raises:
        BadParameter: rows of different length.
    """
    means = {label: concept_means(values, concepts) for label, values in scores.items()}
    found = {}
    for one, first in means.items():
        for other, second in means.items():
            if one != other:
                found[one, other] = bootstrap_interval(first - second)
    return found


def concept_means(values: Tensor, concepts: Sequence[str]) -> Tensor:
    """Return the mean of the values (N,) of each concept, in the order in which they first appear: (G,)."""
    if values.shape != (len(concepts),):
        raise BadParameter(f"need a value for each of {len(concepts)} pictures, got {tuple(values.shape)}")
    index = {name: i for i, name in enumerate(dict.fromkeys(concepts))}
    group = torch.tensor([index[name] for name in concepts])
    totals = torch.zeros(len(index), dtype=torch.float64).index_add_(0, group, values.double())
    counts = torch.bincount(group, minlength=len(index))
    return totals / counts


def places(scores: Mapping[str, Tensor], concepts: Sequence[str]) -> dict[str, int]:
    """Return the place of each row: one more than the number of rows that are better beyond doubt.

    A row is better beyond doubt where the lower end of the paired difference is above 0. Rows that cannot be told apart
    share a place, so that several may be first. The intervals are not corrected for the number of pairs: of twenty
    pairs that are equal, one is expected to look different.
    """
    differences = paired_differences(scores, concepts)
    place = {}
    for label in scores:
        better = [other for other in scores if other != label and differences[other, label][1] > 0]
        place[label] = 1 + len(better)
    return place

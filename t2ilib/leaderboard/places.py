"""Which rows can be told apart: paired differences between methods on the same concepts, and places with ties."""

from collections.abc import Mapping, Sequence
from itertools import combinations

from torch import Tensor

from ..metrics.pairing import Paired, compare_paired, holm


def paired_differences(scores: Mapping[str, Tensor], concepts: Sequence[str]) -> dict[tuple[str, str], Paired]:
    """Return the comparison of each pair of rows, the one with the higher mean first.

    Its `p` holds for all pairs together (`metrics.pairing.holm`).

    Args:
        scores: row -> (N,), one for each picture; the same N prompts and seeds in every row.
        concepts: of each of the N pictures; the seeds of a concept are averaged, and concepts are drawn.

    Raises:
        BadParameter: rows of different length.
    """
    pairs = []
    for one, other in combinations(scores, 2):
        is_in_order = scores[one].double().mean() >= scores[other].double().mean()
        pairs.append((one, other) if is_in_order else (other, one))
    found = holm([compare_paired(scores[one] - scores[other], concepts) for one, other in pairs])
    return dict(zip(pairs, found, strict=True))


def places(scores: Mapping[str, Tensor], concepts: Sequence[str]) -> dict[str, int]:
    """Return the place of each row: one more than the number of rows that are better, by their paired comparison.

    Several rows may be first. Rows at neighbouring places may still be a tie of two, since to be told apart is not
    transitive: the comparisons themselves say which.
    """
    better = dict.fromkeys(scores, 0)  # how many rows are better than this one
    for (_, other), comparison in paired_differences(scores, concepts).items():
        if comparison.is_more:
            better[other] += 1
    return {label: 1 + count for label, count in better.items()}

"""Paired comparisons: does one row of a table differ from another, where both were asked the same prompts?"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .alignment import bootstrap_interval
from ..errors import BadParameter

LEVEL = 0.05  # the share of equal rows that may be called different
MOST_EXACT = 14  # groups whose signs are all tried
RANDOM_SIGNS = 20_000


@dataclass(frozen=True)
class Paired:
    """One row minus another on the same prompts.

    Attributes:
        mean: of the differences. low, high: its 95 % bootstrap interval over groups, which says how large it may be.
        p: of the sign-flip test, which says whether it is there at all: with few groups an interval is too narrow.
        groups: how many there were.
    """

    mean: float
    low: float
    high: float
    p: float
    groups: int

    @property
    def is_more(self) -> bool:
        """Whether the first row is above the second one, at the 5 % level."""
        return self.mean > 0 and self.p <= LEVEL

    @property
    def is_less(self) -> bool:
        """Whether the first row is below the second one, at the 5 % level."""
        return self.mean < 0 and self.p <= LEVEL

    def verdict(self, more: str = "more than 0", less: str = "less than 0",
                neither: str = "not to be told from 0") -> str:
        """Return one of three texts."""
        if self.is_more:
            return more
        return less if self.is_less else neither

    def __str__(self) -> str:
        p = f"p = {self.p:.3f}" if self.p >= 0.001 else "p < 0.001"
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}], {p}"


def compare_paired(differences: Tensor, groups: Sequence[Hashable] | None = None) -> Paired:
    """Compare two rows of measurements of the same prompts.

    Args:
        differences: (N,), the first row minus the second. groups: the concept of each; its several pictures are
            averaged, since they are no independent measurements. None takes each number as a group.

    Raises:
        BadParameter: no differences, or the number of groups differs.
    """
    labels = list(range(len(differences))) if groups is None else list(groups)
    means = group_means(differences, labels)
    return Paired(*bootstrap_interval(means), sign_flip_p(means), len(means))


def group_means(values: Tensor, groups: Sequence[Hashable]) -> Tensor:
    """Return the mean of the values (N,) of each group, in the order in which they first appear: (G,) float64."""
    if values.shape != (len(groups),):
        raise BadParameter(f"need a value for each of {len(groups)} pictures, got {tuple(values.shape)}")
    index = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    group = torch.tensor([index[name] for name in groups], dtype=torch.long)
    values = values.detach().double().cpu()
    totals = torch.zeros(len(index), dtype=torch.float64).index_add_(0, group, values)
    return totals / torch.bincount(group, minlength=len(index))


def sign_flip_p(differences: Tensor, *, seed: int = 0) -> float:
    """Return how often differences of random sign have a mean as far from 0 as these have: two-sided, in (0, 1].

    If two rows are equal, each difference could as well have had the other sign (Fisher 1935, "The design of
    experiments", section 21). All signs are tried where there are few differences, and 20,000 random ones elsewhere.
    With fewer than six differences the answer is never below 0.05.

    Shapes:
        differences: (G,)
    """
    differences = differences.detach().double().cpu()
    count = len(differences)
    if count <= MOST_EXACT:
        numbers = torch.arange(2 ** count)
        bits = numbers[:, None] >> torch.arange(count) & 1  # (2^G, G)
        found = _reached(bits, differences)
        return found / len(bits)
    rng = torch.Generator().manual_seed(seed)
    bits = torch.randint(2, (RANDOM_SIGNS, count), generator=rng)
    return (_reached(bits, differences) + 1) / (RANDOM_SIGNS + 1)  # the signs found are among those possible


def _reached(bits: Tensor, differences: Tensor) -> int:
    """Return how many rows of signs, bits (R, G), give a mean as far from 0 as the one found."""
    sums = (2.0 * bits.double() - 1) @ differences  # (R,)
    margin = 1e-9 * differences.abs().sum()
    return int((sums.abs() >= differences.sum().abs() - margin).sum())


def holm(found: Sequence[Paired]) -> list[Paired]:
    """Return comparisons of one table with `p` for all of them together (Holm 1979).

    The smallest of m is multiplied by m, the next by m - 1, and so on, and none may fall below one before: then all
    verdicts together are wrong at most as often as one alone would be.
    """
    order = sorted(range(len(found)), key=lambda i: found[i].p)
    adjusted = list(found)
    least = 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, found[i].p * (len(found) - rank)))
        adjusted[i] = replace(found[i], p=least)
    return adjusted

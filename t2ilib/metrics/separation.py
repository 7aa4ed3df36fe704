"""Which of two kinds of pairs lies closer together? Separation of distances as area under the ROC curve."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import BadParameter


class Separation(NamedTuple):
    """How often a near pair is closer than a far one, and the bounds of a bootstrap interval."""

    auc: float
    low: float
    high: float


def auc(near: Tensor, far: Tensor) -> float:
    """Return how often a distance of `near` is smaller than one of `far`; equal ones count half.

    This is the area under the ROC curve of "the pair is a near one" (Hanley and McNeil 1982): 1 separates them, 0.5 is
    chance, below 0.5 the far pairs lie closer.

    Shapes:
        near (N,), far (M,) -> a number in [0, 1]
    """
    return _wins(near, far).mean().item()


def separation(near: Tensor, far: Tensor, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Separation:
    """Return the AUC of two kinds of distances with its percentile bootstrap interval (Efron 1979).

    Args:
        near, far: distances, of which those in one row belong together, such as two pairs with one picture in common;
            rows are drawn anew, so that this dependence is kept.
        level: coverage of the interval. resamples: how often N rows are drawn with replacement.

    Shapes:
        near (N,), far (N,)

    Raises:
        BadParameter: no distances, not as many of each, a level outside (0, 1), or no resamples.
    """
    if near.shape != far.shape:
        raise BadParameter(f"near and far go together row by row, got {tuple(near.shape)} and {tuple(far.shape)}")
    if not 0 < level < 1 or resamples < 1:
        raise BadParameter(f"need a level in (0, 1) and resamples, got {level} and {resamples}")
    wins = _wins(near, far)  # (N, N)
    count = len(wins)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(count, (resamples, count), generator=generator)
    drawn = torch.zeros(resamples, count, dtype=wins.dtype)
    drawn.scatter_add_(1, rows, torch.ones_like(rows, dtype=wins.dtype))  # how often each row was drawn
    areas = ((drawn @ wins) * drawn).sum(1) / count**2  # (resamples,)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=areas.dtype)
    low, high = torch.quantile(areas, tails).tolist()
    return Separation(wins.mean().item(), low, high)


def _wins(near: Tensor, far: Tensor) -> Tensor:
    """Return for each two of near (N,) and far (M,) whether near is smaller, half where they are equal: (N, M)."""
    if near.ndim != 1 or far.ndim != 1 or not len(near) or not len(far):
        raise BadParameter(f"need distances (N,) and (M,), got {tuple(near.shape)} and {tuple(far.shape)}")
    near = near.detach().cpu().double()[:, None]
    far = far.detach().cpu().double()[None, :]
    return (near < far).double() + 0.5 * (near == far).double()

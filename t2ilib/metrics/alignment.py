"""Does the picture show its prompt? Rank of the prompt among all names, and how sure a number is.

The ranks are the retrieval measure of Radford et al. 2021 (section 3.1), asked strictly: every other name competes,
except those that mean the same.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import BadParameter


def paired_similarity(image_features: Tensor, text_features: Tensor) -> Tensor:
    """Return the cosine of each picture and its own text.

    Shapes:
        image_features (N, D), text_features (N, D) -> (N,) in [-1, 1]
    """
    return F.cosine_similarity(image_features.float(), text_features.float(), dim=-1)


def synonym_mask(text_features: Tensor, *, threshold: float | None = 0.9,
                 families: Sequence[Hashable] | None = None) -> Tensor:
    """Return which names mean so nearly the same that they must not compete with one another.

    Args:
        text_features: embeddings of the M names.
        threshold: names whose cosine exceeds it are synonyms; None asks `families` alone.
        families: one label for each name; names of one family are synonyms (None belongs to no family).

    Shapes:
        text_features (M, D) -> (M, M) bool, symmetric, False on the diagonal

    Raises:
        BadParameter: the number of families differs from that of the names.
    """
    count = len(text_features)
    mask = torch.zeros(count, count, dtype=torch.bool)
    if threshold is not None:
        unit = F.normalize(text_features.float(), dim=-1)
        mask |= (unit @ unit.T > threshold).cpu()
    if families is not None:
        if len(families) != count:
            raise BadParameter(f"families has {len(families)} entries for {count} names; give one for each")
        label = _family_numbers(families)
        mask |= label[:, None] == label
    return mask.fill_diagonal_(False)


def _family_numbers(families: Sequence[Hashable]) -> Tensor:
    """Return equal numbers (M,) for equal families; a name without a family gets a number of its own."""
    known: dict[Hashable, int] = {}
    numbers = []
    for i, family in enumerate(families):
        numbers.append(-1 - i if family is None else known.setdefault(family, len(known)))
    return torch.tensor(numbers)


def retrieval_ranks(image_features: Tensor, text_features: Tensor, targets: Tensor | Sequence[int], *,
                    exclude: Tensor | None = None) -> Tensor:
    """Return the rank of each picture's own text among all texts, 1 being best.

    A text with the same score as the target counts as ahead of it, so that an image tower that returns a constant
    gains nothing; a picture whose features are not numbers has the last rank.

    Args:
        targets: index of each picture's text among the M texts.
        exclude: texts that do not compete: (M, M) as from `synonym_mask`, or (N, M) for each picture.

    Shapes:
        image_features (N, D), text_features (M, D), targets (N,) -> (N,) int64 in [1, M]

    Raises:
        BadParameter: shapes do not fit, or a target is not an index of a text.
    """
    targets = torch.as_tensor(targets, dtype=torch.int64, device=image_features.device)
    n = len(image_features)
    m = len(text_features)
    if targets.shape != (n,):
        raise BadParameter(f"{n} pictures need {n} targets, got {tuple(targets.shape)}")
    if n and not (0 <= targets.min() and targets.max() < m):
        raise BadParameter(f"targets are indices of {m} texts, got values from {targets.min()} to {targets.max()}")
    if n == 0:
        return targets
    competes = _competitors(exclude, targets, m)
    images = F.normalize(image_features.float(), dim=-1)
    texts = F.normalize(text_features.float(), dim=-1)
    scores = images @ texts.T  # (N, M)
    of_target = scores.gather(1, targets[:, None])  # (N, 1)
    ahead = ~(scores < of_target)  # also true where a score is not a number
    return (ahead & competes).sum(dim=1) + 1


def _competitors(exclude: Tensor | None, targets: Tensor, count: int) -> Tensor:
    """Return which texts compete with each picture's own: (N, M) bool."""
    n = len(targets)
    competes = torch.ones(n, count, dtype=torch.bool, device=targets.device)
    if exclude is not None:
        exclude = exclude.to(targets.device, torch.bool)
        if exclude.shape == (count, count):
            # With as many pictures as texts the shape says nothing: only a mask of synonyms is symmetric.
            is_of_texts = n != count or torch.equal(exclude, exclude.T)
            exclude = exclude[targets] if is_of_texts else exclude
        if exclude.shape != (n, count):
            raise BadParameter(f"exclude has shape {tuple(exclude.shape)}, expected ({count}, {count}) for the texts "
                               f"or ({n}, {count}) for each picture")
        competes &= ~exclude
    return competes.scatter(1, targets[:, None], False)


def top_k(ranks: Tensor, k: int) -> float:
    """Return the share of ranks that are at most k."""
    return (ranks <= k).double().mean().item()


def chance_level(targets: Tensor | Sequence[int], texts: int, k: int, *, exclude: Tensor | None = None) -> float:
    """Return the `top_k` that random scores reach in expectation, given what is excluded."""
    targets = torch.as_tensor(targets, dtype=torch.int64)
    rivals = _competitors(exclude, targets, texts).sum(dim=1)  # (N,)
    chances = k / (rivals + 1).double()
    return chances.clamp(max=1).mean().item()


def bootstrap_interval(values: Tensor, *, level: float = 0.95, resamples: int = 2000, seed: int = 0,
                       groups: Sequence[Hashable] | None = None,
                       statistic: Callable[[Tensor], Tensor] | None = None) -> tuple[float, float, float]:
    """Return a statistic of values with its percentile bootstrap interval (Efron 1979): estimate, low, high.

    For the difference of two paired measurements pass their differences.

    Args:
        values: (N,) or (N, ...) measurements.
        level: coverage of the interval.
        resamples: how often N measurements are drawn anew with replacement.
        groups: a label for each value; whole groups are drawn, as is right for several seeds of one prompt.
        statistic: maps (n, ...) to a number; None is the mean of all numbers.

    Raises:
        BadParameter: no values, a level outside (0, 1), or the number of groups differs.
    """
    if len(values) == 0 or not 0 < level < 1 or resamples < 1:
        raise BadParameter(f"need values, a level in (0, 1) and resamples, got {len(values)}, {level} and {resamples}")
    values = values.detach().double().cpu()
    statistic = statistic or torch.mean
    labels = list(range(len(values))) if groups is None else list(groups)
    if len(labels) != len(values):
        raise BadParameter(f"groups has {len(labels)} entries for {len(values)} values; give one for each")
    rows = [torch.tensor(members) for members in rows_of_labels(labels)]
    g = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(rows), (resamples, len(rows)), generator=g)  # groups, drawn with replacement
    if groups is None and statistic is torch.mean:
        draws = values[picks].flatten(1).mean(dim=1)  # (resamples,)
    else:
        results = []
        for pick in picks.tolist():
            drawn = torch.cat([rows[i] for i in pick])
            results.append(statistic(values[drawn]))
        draws = torch.stack(results)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(draws, tails).tolist()
    return float(statistic(values)), low, high


def rows_of_labels(labels: Iterable[Hashable]) -> list[list[int]]:
    """Return the rows of each different label, labels in the order in which they first appear."""
    rows: dict[Hashable, list[int]] = {}
    for i, label in enumerate(labels):
        rows.setdefault(label, []).append(i)
    return list(rows.values())


def jackknife_interval(estimate: float, without_each: Tensor, *, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of a statistic from its values with one group of the measurements left out: low, high.

    It is for what a bootstrap cannot ask, such as a mean over pairs: of measurements that are drawn anew, some are
    paired with themselves. The variance is that of Tukey 1958, as good as a normal distribution is near.

    Args:
        estimate: of all groups. without_each: (G,), one for each group that is left out. level: coverage.
    """
    count = len(without_each)
    values = without_each.double()
    variance = (count - 1) / count * (values - values.mean()).square().sum()
    reach = NormalDist().inv_cdf((1 + level) / 2) * variance.sqrt().item()
    return estimate - reach, estimate + reach


def wilson_interval(share: float, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return the score interval of a share of n (Wilson 1927): low, high.

    It says something where all agree, too: 0 of 10 is [0, 0.28]. A bootstrap draws 0 of 10 every time, and says [0, 0].

    Raises:
        BadParameter: a share outside [0, 1], n < 1, or a level outside (0, 1).
    """
    if not 0 <= share <= 1 or n < 1 or not 0 < level < 1:
        raise BadParameter(f"need a share in [0, 1], n >= 1 and a level in (0, 1), got {share}, {n} and {level}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = share + z**2 / (2 * n)
    reach = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    low = 0.0 if share == 0 else (middle - reach) / scale  # exactly, whatever is rounded
    high = 1.0 if share == 1 else (middle + reach) / scale
    return low, high


def crossed_interval(values: Tensor, *, level: float = 0.95, resamples: int = 2000,
                     seed: int = 0) -> tuple[float, float, float]:
    """Return the mean of a table of values with its percentile interval over its rows and its columns: mean, low, high.

    Rows, such as trainings, and columns, such as the concepts that each of them was asked, are both drawn anew with
    replacement, each by itself (Owen 2007, "The pigeonhole bootstrap", arXiv:0712.1111). Of R rows it sees (R - 1) / R
    of their variance: half of it with two, and none with one, where the interval is that over columns alone.

    Shapes:
        values: (R, C)

    Raises:
        BadParameter: no table of values, a level outside (0, 1), or no resamples.
    """
    if values.ndim != 2 or not values.numel() or not 0 < level < 1 or resamples < 1:
        raise BadParameter("need values (R, C), a level in (0, 1) and resamples, got "
                           f"{tuple(values.shape)}, {level} and {resamples}")
    values = values.detach().double().cpu()
    rows, columns = values.shape
    g = torch.Generator().manual_seed(seed)
    row_picks = torch.randint(rows, (resamples, rows), generator=g)
    column_picks = torch.randint(columns, (resamples, columns), generator=g)
    draws = values[row_picks[:, :, None], column_picks[:, None, :]].mean(dim=(1, 2))  # (resamples,)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(draws, tails).tolist()
    return values.mean().item(), low, high

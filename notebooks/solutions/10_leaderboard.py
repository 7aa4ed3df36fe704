"""A solution of the exercise of notebook 10: who is better beyond doubt."""

import torch


def is_better(first, second, rng):
    difference = first - second
    picks = torch.randint(len(difference), (2000, len(difference)), generator=rng)
    means = difference[picks].mean(dim=1)
    return bool(means.quantile(0.025) > 0)


rng = torch.Generator().manual_seed(0)
level = torch.rand(200, generator=rng)
assert is_better(level + 0.01, level, rng)
assert not is_better(level, level, rng)
assert not is_better(level[torch.randperm(200, generator=rng)], level, rng)

"""A solution of the exercise of notebook 10: who is better."""

import torch


def is_better(first, second, rng):
    difference = first - second
    signs = torch.randint(2, (2000, len(difference)), generator=rng) * 2 - 1
    reached = (signs * difference).sum(dim=1).abs() >= difference.sum().abs() - 1e-6
    return bool(difference.mean() > 0 and reached.float().mean() <= 0.05)


rng = torch.Generator().manual_seed(0)
level = torch.rand(200, generator=rng)
assert is_better(level + 0.01, level, rng)
assert not is_better(level - 0.01, level, rng)
assert not is_better(level, level, rng)
assert not is_better(torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.zeros(4), rng)
assert not is_better(level[torch.randperm(200, generator=rng)], level, rng)

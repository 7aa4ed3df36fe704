"""A solution of the exercise of notebook 05: a diversity term."""

import torch


def diversity(x1, x2, z1, z2):
    apart = (x1 - x2).abs().mean((1, 2, 3))
    return (apart / (z1 - z2).abs().mean(1)).mean()


rng = torch.Generator().manual_seed(0)
x = torch.rand(2, 3, 3, 8, 8, generator=rng)
z = torch.randn(2, 3, 5, generator=rng)
ratios = [(a - b).abs().mean() / (c - d).abs().mean() for a, b, c, d in zip(*x, *z, strict=True)]
torch.testing.assert_close(diversity(*x, *z), sum(ratios) / 3)

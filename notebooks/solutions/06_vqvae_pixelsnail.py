"""A solution of the exercise of notebook 06: what a causal kernel sees."""

import torch


def visible(k, own):
    mask = torch.ones(k, k)
    mask[-1, k // 2 + (1 if own else 0):] = 0
    return mask


assert visible(3, own=True).tolist() == [[1, 1, 1], [1, 1, 1], [1, 1, 0]]
assert visible(3, own=False).tolist() == [[1, 1, 1], [1, 1, 1], [1, 0, 0]]
for k in (3, 5, 7):
    assert visible(k, own=True).sum() == k * (k - 1) + k // 2 + 1

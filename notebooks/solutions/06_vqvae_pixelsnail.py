"""A solution of the exercise of notebook 06: what a causal kernel sees."""

import torch


def visible(k, sees_itself):
    mask = torch.ones(k, k)
    mask[-1, k // 2 + (1 if sees_itself else 0):] = 0
    return mask


assert visible(3, sees_itself=True).tolist() == [[1, 1, 1], [1, 1, 1], [1, 1, 0]]
assert visible(3, sees_itself=False).tolist() == [[1, 1, 1], [1, 1, 1], [1, 0, 0]]
for k in (3, 5, 7):
    assert visible(k, sees_itself=True).sum() == k * (k - 1) + k // 2 + 1

"""A solution of the exercise of notebook 15: likeness by direction."""

import torch
from torch.nn import functional as F

from t2ilib.training import losses


def directions_apart(a, b):
    difference = F.normalize(a, dim=1) - F.normalize(b, dim=1)
    return difference.square().sum(1).mean((1, 2))


a, b = torch.rand(2, 3, 5, 4, 4, generator=torch.Generator().manual_seed(0))
expected = torch.stack([losses.feature_loss([a[i:i + 1]], [b[i:i + 1]]) for i in range(3)])
torch.testing.assert_close(directions_apart(a, b), expected)
torch.testing.assert_close(directions_apart(5 * a, b), expected)  # length does not count

"""A solution of the exercise of notebook 08: dynamic thresholding."""

import torch

from t2ilib.diffusion import threshold_x0


def dynamic_threshold(x_0, percentile):
    """Pictures (B, 3, H, W), also out of range -> (B, 3, H, W) in [-1, 1]."""
    s = x_0.abs().flatten(1).quantile(percentile, dim=1).clamp(min=1)  # (B,)
    s = s[:, None, None, None]  # (B, 1, 1, 1)
    return torch.clamp(x_0, -s, s) / s


rng = torch.Generator().manual_seed(0)
for size in (0.2, 1.0, 3.0):
    x_0 = size * torch.randn(4, 3, 8, 8, generator=rng)
    for percentile in (0.5, 0.9, 0.995):
        expected = threshold_x0(x_0, "dynamic", percentile=percentile)
        torch.testing.assert_close(dynamic_threshold(x_0, percentile), expected)
twos = torch.full((1, 3, 4, 4), 2.0)
assert (dynamic_threshold(twos, 0.995) == 1).all()

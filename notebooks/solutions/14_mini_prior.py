"""A solution of the exercise of notebook 14: what v says."""

import math

import torch


def from_v(z_t, v, phi):
    """Latents, v and the angle -> z_0 and eps."""
    z_0 = math.cos(phi) * z_t - math.sin(phi) * v
    eps = math.sin(phi) * z_t + math.cos(phi) * v
    return z_0, eps


rng = torch.Generator().manual_seed(0)
drawing, eps = torch.randn(2, 4, 8, 4, 4, generator=rng)  # (4, 8, 4, 4) each
for phi in (0.0, 0.4, 1.1, math.pi / 2):
    z_t = math.cos(phi) * drawing + math.sin(phi) * eps
    v = math.cos(phi) * eps - math.sin(phi) * drawing
    found, found_eps = from_v(z_t, v, phi)
    torch.testing.assert_close(found, drawing, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found_eps, eps, rtol=1e-4, atol=1e-5)

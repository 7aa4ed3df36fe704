"""A solution of the exercise of notebook 03: an angle without arccos."""

import math

import torch
from torch.nn import functional as F


def half_squared_angle(a, b):
    """Unit vectors (N, D) and (N, D) -> (N,)."""
    half_chord = (a - b).norm(dim=1) / 2
    return 2 * half_chord.asin().square()


rng = torch.Generator().manual_seed(0)
a, b = F.normalize(torch.randn(2, 8, 16, generator=rng, dtype=torch.float64), dim=2)
torch.testing.assert_close(half_squared_angle(a, b), (a * b).sum(1).arccos().square() / 2)
east = torch.tensor([[1.0, 0.0]])
north = torch.tensor([[0.0, 1.0]])
assert abs(half_squared_angle(east, north).item() - math.pi**2 / 8) < 1e-6
near = F.normalize(a + 1e-6 * b, dim=1).requires_grad_()
(gradient,) = torch.autograd.grad(half_squared_angle(near, a).sum(), near)
assert gradient.isfinite().all()

# More exercises, 1: the plain cosine has the same direction and a smaller factor, which Adam divides away
theta = torch.tensor([0.3, 1.0, math.pi / 2], dtype=torch.float64, requires_grad=True)
(by_angle,) = torch.autograd.grad((theta.square() / 2).sum(), theta)
(by_cosine,) = torch.autograd.grad((1 - theta.cos()).sum(), theta)
torch.testing.assert_close(by_cosine / by_angle, (theta.sin() / theta).detach())
steps = []
for factor in (1.0, 0.64):
    x = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([x], lr=0.1)
    (factor * (x * torch.tensor([1.0, -2.0, 3.0])).sum()).backward()
    optimizer.step()
    steps.append(x.detach())
torch.testing.assert_close(*steps)

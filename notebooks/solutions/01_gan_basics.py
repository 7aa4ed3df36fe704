"""A solution of the exercise of notebook 01: the penalty R1."""

import torch

from t2ilib.training import losses


def r1_penalty(critic, real):
    """A function (B, ...) -> (B,) and pictures (B, ...) -> scalar, with a graph."""
    real = real.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(real).sum(), real, create_graph=True)
    return 0.5 * gradient.flatten(1).square().sum(1).mean()


real = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
assert r1_penalty(lambda x: 2 * x.flatten(1).sum(1), real).item() == 2 * 9
weight = torch.linspace(-1, 1, 9, requires_grad=True)


def critic(x):
    return (x.flatten(1) @ weight).tanh()


torch.testing.assert_close(r1_penalty(critic, real), losses.zero_centred_penalty(critic, real))
(at_weight,) = torch.autograd.grad(r1_penalty(critic, real), weight)
assert at_weight.abs().max() > 0

import math

import pytest
import torch

from t2ilib.diffusion import (
    alpha_sigma,
    cosine_log_snr,
    from_v,
    min_snr_weight,
    q_sample,
    sample_ddim,
    sample_dpm_solver,
    stratified_times,
    v_target,
    with_guidance,
)
from t2ilib.errors import BadParameter

SAMPLERS = [sample_ddim, sample_dpm_solver]


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_schedule():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    log_snr = cosine_log_snr(t)
    assert log_snr[0].item() == pytest.approx(15) and log_snr[-1].item() == pytest.approx(-15)
    assert log_snr[50].item() == pytest.approx(0, abs=1e-9) and (log_snr.diff() < 0).all()
    alpha, sigma = alpha_sigma(t, 2)
    assert alpha.shape == (101, 1)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    # away from its clamped ends it is the cosine itself
    torch.testing.assert_close(alpha[20:81, 0], torch.cos(0.5 * math.pi * t[20:81]), atol=6e-4, rtol=0)
    assert cosine_log_snr(torch.tensor([0.0]), limit=9.0).item() == pytest.approx(9, rel=1e-4)
    ends = cosine_log_snr(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(ends, torch.tensor([15.0, -15.0]), rtol=1e-3, atol=0)  # in float32 too


def test_v_is_a_rotation():
    x_0, eps, t = randn(5, 2, 3, 3), randn(5, 2, 3, 3, seed=1), torch.linspace(0, 1, 5, dtype=torch.float64)
    x_t, v = q_sample(x_0, t, eps), v_target(x_0, t, eps)
    back = from_v(x_t, t, v)
    torch.testing.assert_close(back[0], x_0)
    torch.testing.assert_close(back[1], eps)
    torch.testing.assert_close(x_t**2 + v**2, x_0**2 + eps**2)  # length is kept
    torch.testing.assert_close(q_sample(x_0, t * 0, eps), x_0, atol=3e-3, rtol=0)
    torch.testing.assert_close(q_sample(x_0, t * 0 + 1, eps), eps, atol=3e-3, rtol=0)
    flat = q_sample(x_0.flatten(1), t, eps.flatten(1))  # any number of dimensions
    torch.testing.assert_close(flat, x_t.flatten(1))


def test_min_snr_weight():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    alpha, sigma = (x.flatten() for x in alpha_sigma(t, 1))
    snr = (alpha / sigma) ** 2
    torch.testing.assert_close(min_snr_weight(t), torch.minimum(snr, torch.tensor(5.0)) / (snr + 1))
    assert (min_snr_weight(t) <= 5 / 6 + 1e-9).all() and min_snr_weight(t)[0] < 1e-4


def test_stratified_times():
    t = stratified_times(64, torch.Generator().manual_seed(0))
    assert t.shape == (64,) and sorted((t * 64).long().tolist()) == list(range(64))
    assert (t.diff() > 0).sum() not in (0, 63)  # shuffled
    assert torch.equal(t, stratified_times(64, torch.Generator().manual_seed(0)))


class Gaussian:
    """The exact network for data drawn from N(mean, std^2), channel by channel; counts its passes."""

    def __init__(self, mean=2.0, std=0.5):
        self.mean, self.std, self.calls = mean, std, 0

    def __call__(self, x_t, t):
        self.calls += 1
        alpha, sigma = alpha_sigma(t, x_t.ndim)
        x_0 = self.mean + alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2) * (x_t - alpha * self.mean)
        return (alpha * x_t - x_0) / sigma

    def solution(self, x_t, start=1.0):
        """Where the probability flow leads from x_t at time `start`: it keeps the standardised value."""
        alpha, sigma = alpha_sigma(torch.full((len(x_t),), start, dtype=x_t.dtype), x_t.ndim)
        return self.mean + self.std * (x_t - alpha * self.mean) / (alpha**2 * self.std**2 + sigma**2).sqrt()


@pytest.mark.parametrize("start", [1.0, 0.6])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_are_exact_on_gaussian_data(sampler, start):
    x_t, network = randn(6, 3, 2, 2), Gaussian()
    found = sampler(network, x_t, steps=200, start=start)
    assert network.calls == 200
    torch.testing.assert_close(found, network.solution(x_t, start), atol=0.02, rtol=0)


@pytest.mark.parametrize(("sampler", "order"), [(sample_ddim, 1), (sample_dpm_solver, 2)])
def test_order_of_convergence(sampler, order):
    x_t, network = randn(6, 3, 2, 2), Gaussian(mean=0.5, std=0.8)

    def error(steps):
        return (sampler(network, x_t, steps=steps, start=0.8) - network.solution(x_t, 0.8)).abs().max().item()

    errors = [error(n) for n in (80, 160, 320)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[0] / errors[2] > 0.6 * 4**order


def test_the_second_order_sampler_needs_fewer_steps_for_the_same_result():
    x_t, network = randn(6, 3, 2, 2), Gaussian(mean=0.5, std=0.8)
    exact = network.solution(x_t)
    ddim = (sample_ddim(network, x_t, steps=25) - exact).abs().mean()
    dpm = (sample_dpm_solver(network, x_t, steps=12) - exact).abs().mean()
    assert dpm < ddim
    torch.testing.assert_close(sample_ddim(network, x_t, steps=300), sample_dpm_solver(network, x_t, steps=60),
                               atol=0.02, rtol=0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_one_step_callback_batch_and_errors(sampler):
    x_t, network, seen = randn(3, 2, 2, 2), Gaussian(), []
    one = sampler(network, x_t, steps=1)
    torch.testing.assert_close(one, from_v(x_t, torch.ones(3), network(x_t, torch.ones(3)))[0])
    found = sampler(network, x_t, steps=4, callback=lambda i, x_0: seen.append((i, x_0)))
    assert [i for i, _ in seen] == [0, 1, 2, 3] and torch.equal(seen[-1][1], found)
    torch.testing.assert_close(sampler(network, x_t[1:2], steps=4), found[1:2])  # rows do not mix
    for options in ({"steps": 0}, {"start": 0.0}, {"start": 1.5}):
        with pytest.raises(BadParameter, match="steps >= 1 and 0 < start <= 1"):
            sampler(network, x_t, **options)
    assert sampler(network, x_t.float(), steps=3).dtype == torch.float32


def test_guidance():
    passes = []

    def network(x_t, t, given):
        passes.append(len(x_t))
        return x_t * 0 + given["text"][:, None, None, None] + t[:, None, None, None]

    x_t, t = torch.zeros(2, 1, 1, 1), torch.tensor([0.25, 0.5])
    condition, nothing = {"text": torch.tensor([3.0, 4.0])}, {"text": torch.tensor([1.0, 1.0])}
    for scale, expected, sizes in ((1, [3.25, 4.5], [2]), (1.0, [3.25, 4.5], [2]), (0, [1.25, 1.5], [2]),
                                   (3.0, [7.25, 10.5], [4]), (0.5, [2.25, 3.0], [4])):
        passes.clear()
        v = with_guidance(network, condition, nothing, scale)(x_t, t)
        assert v.flatten().tolist() == expected and passes == sizes

import math

import numpy as np
import pytest
import torch

from t2ilib.diffusion import (
    SCHEDULES,
    TARGETS,
    Schedule,
    alpha_sigma,
    cosine_log_snr,
    diffusion_loss,
    linear_log_snr,
    loss_weight,
    noise_for,
    posterior,
    pseudo_huber,
    q_sample,
    resolution_shift,
    stratified_times,
    threshold_x0,
    to_x0_eps,
    training_target,
    upper_quantile,
    v_of_residual,
    with_guidance,
)
from t2ilib.errors import BadParameter, UnknownName

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)  # of DDPM; others scale them by 1000 / T
ALPHA_BAR = (1 - BETAS).cumprod(0)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cosine_schedule():
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


def test_linear_schedule_passes_through_every_step_of_the_discrete_one():
    t = torch.arange(1000, dtype=torch.float64) / 999
    discrete = torch.log(ALPHA_BAR / (1 - ALPHA_BAR))
    torch.testing.assert_close(linear_log_snr(t), discrete, rtol=0, atol=2e-7)
    torch.testing.assert_close(linear_log_snr(t.float()).double(), discrete, rtol=0, atol=1e-5)
    between = linear_log_snr(torch.linspace(0, 1, 9991, dtype=torch.float64))
    assert (between.diff() < 0).all() and between[-1] < -10 and between[0] > 9
    alpha, sigma = alpha_sigma(t, 1, schedule=Schedule("linear"))
    torch.testing.assert_close(alpha**2, ALPHA_BAR, rtol=1e-6, atol=0)
    torch.testing.assert_close(1 - (alpha[1:] / alpha[:-1]) ** 2, BETAS[1:], rtol=1e-4, atol=0)
    # a chain of T = 50 with betas 1000 / T times as large follows the same curve, roughly
    coarse = (1 - torch.linspace(0.002, 0.4, 50, dtype=torch.float64)).cumprod(0)
    torch.testing.assert_close(alpha[19::20], coarse.sqrt(), rtol=0, atol=0.04)


def test_shift_for_resolution():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert resolution_shift(32, 32) == 0 and resolution_shift(64, 32) == pytest.approx(-2 * math.log(2))
    for name in SCHEDULES:
        plain, shifted = Schedule(name), Schedule(name, shift=resolution_shift(64, 32))
        alpha, sigma = alpha_sigma(t, 1, schedule=plain)
        ours = alpha_sigma(t, 1, schedule=shifted)
        torch.testing.assert_close(ours[0] / ours[1], 0.5 * alpha / sigma)
    with pytest.raises(BadParameter, match=r"resolution_shift\(size, base\)"):
        Schedule("cosine", shift=40.0)
    with pytest.raises(BadParameter, match="resolution_shift"):
        Schedule("cosine", shift=float("nan"))
    with pytest.raises(BadParameter, match="at least 1; got size=0"):
        resolution_shift(0, 32)
    with pytest.raises(UnknownName, match="did you mean cosine"):
        Schedule("cosin")


def test_v_is_a_rotation():
    x_0, eps, t = randn(5, 2, 3, 3), randn(5, 2, 3, 3, seed=1), torch.linspace(0, 1, 5, dtype=torch.float64)
    x_t, v = q_sample(x_0, t, eps), training_target(x_0, t, eps)
    torch.testing.assert_close(x_t**2 + v**2, x_0**2 + eps**2)  # length is kept
    torch.testing.assert_close(q_sample(x_0, t * 0, eps), x_0, atol=3e-3, rtol=0)
    torch.testing.assert_close(q_sample(x_0, t * 0 + 1, eps), eps, atol=3e-3, rtol=0)
    flat = q_sample(x_0.flatten(1), t, eps.flatten(1))  # any number of dimensions
    torch.testing.assert_close(flat, x_t.flatten(1))


@pytest.mark.parametrize("schedule", [Schedule(), Schedule("linear"), Schedule(shift=-2.8)], ids=str)
@pytest.mark.parametrize("target", TARGETS)
def test_a_prediction_gives_back_what_it_was_made_of(target, schedule):
    x_0, eps, t = randn(5, 2, 3, 3), randn(5, 2, 3, 3, seed=1), torch.linspace(0, 1, 5, dtype=torch.float64)
    x_t = q_sample(x_0, t, eps, schedule=schedule)
    wanted = training_target(x_0, t, eps, target=target, schedule=schedule)
    for found, true in zip(to_x0_eps(x_t, t, wanted, target=target, schedule=schedule), (x_0, eps), strict=True):
        torch.testing.assert_close(found, true)
    # in float32 too, at both ends, and an x_t of half precision loses no more than it had
    found = to_x0_eps(x_t.float(), t.float(), wanted.float(), target=target, schedule=schedule)
    torch.testing.assert_close(found[0].double(), x_0, atol=4e-3, rtol=0)
    assert torch.isfinite(torch.cat(to_x0_eps(x_t.half(), t.float(), -wanted.half(), target=target))).all()


def test_target_errors():
    x, t = randn(2, 3, 4, 4), torch.rand(2)
    for call in (lambda: training_target(x, t, x, target="epsilon"), lambda: to_x0_eps(x, t, x, target="epsilon"),
                 lambda: loss_weight(t, target="epsilon")):
        with pytest.raises(UnknownName, match="unknown target 'epsilon'; did you mean eps"):
            call()
    with pytest.raises(BadParameter, match="as many channels out as in"):
        to_x0_eps(x, t, x[:, :1])


@pytest.mark.parametrize("schedule", [Schedule(), Schedule("linear")], ids=str)
def test_min_snr_weights_ask_for_the_same_error_of_x_0(schedule):
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    alpha, sigma = alpha_sigma(t, 1, schedule=schedule)
    snr = (alpha / sigma) ** 2
    weight = {target: loss_weight(t, target=target, schedule=schedule) for target in TARGETS}
    torch.testing.assert_close(weight["x0"], torch.minimum(snr, torch.tensor(5.0)))
    torch.testing.assert_close(weight["eps"], weight["x0"] / snr)
    torch.testing.assert_close(weight["v"], weight["x0"] / (snr + 1))
    assert (loss_weight(t, gamma=1.0) <= 0.5 + 1e-9).all() and torch.equal(loss_weight(t, weighting="none"), t * 0 + 1)
    x_t, off = randn(11, 6), randn(11, 6, seed=1)  # two predictions that differ, told as each target
    for target in TARGETS:
        made = [training_target(x_0, t, (x_t - alpha[:, None] * x_0) / sigma[:, None], target=target, schedule=schedule)
                for x_0 in (x_t * 0, off)]
        loss = weight[target][:, None] * (made[0] - made[1]).square()
        torch.testing.assert_close(loss, weight["x0"][:, None] * off.square())
    for options, match in (({"gamma": 0.0}, "gamma must be positive"), ({"weighting": "snr"}, "did you mean min_snr")):
        with pytest.raises(BadParameter, match=match):
            loss_weight(t, **options)


def test_weights_for_the_error_of_x_0():
    t = torch.tensor([0.1, 0.6, 0.9], dtype=torch.float64)
    alpha, sigma = alpha_sigma(t, 1)
    for target, weight in {"x0": torch.ones_like(t), "v": sigma**2, "eps": (sigma / alpha) ** 2}.items():
        torch.testing.assert_close(loss_weight(t, weighting="x0", target=target), weight)


def test_the_v_of_a_residual_is_edm_around_the_guess():
    x_0, eps, guess, residual = (randn(3, 2, 4, 4, seed=seed) for seed in range(4))
    t, std, schedule = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64), 0.12, Schedule("cosine", -1.4)
    x_t = q_sample(x_0, t, eps, schedule=schedule)
    alpha, sigma = alpha_sigma(t, schedule=schedule)
    noise = sigma / alpha  # of Karras et al. 2022, whose pictures are not shrunk
    c_skip = std**2 / (noise**2 + std**2)
    c_out = noise * std / (noise**2 + std**2).sqrt()
    denoised = guess + c_skip * (x_t / alpha - guess) + c_out * residual
    v = v_of_residual(residual, x_t, t, guess, std=std, schedule=schedule)
    torch.testing.assert_close(to_x0_eps(x_t, t, v, schedule=schedule)[0], denoised)
    # float32 keeps it where there is hardly any noise
    t = torch.full((3,), 1e-3)
    parts = [part.float() for part in (residual, x_t, guess)]
    exact = v_of_residual(residual, x_t, t.double(), guess, std=std, schedule=schedule)
    found = v_of_residual(parts[0], parts[1], t, parts[2], std=std, schedule=schedule)
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=1e-4)


def test_pseudo_huber_is_squared_then_straight():
    small, large = torch.tensor([1e-4, 50.0], dtype=torch.float64)
    torch.testing.assert_close(pseudo_huber(small**2, 0.1), small**2, rtol=1e-4, atol=0)
    torch.testing.assert_close(pseudo_huber(large**2, 0.1), 2 * 0.1 * (large - 0.1), rtol=1e-4, atol=0)
    x_0, eps, t = randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1), torch.tensor([0.2, 0.7], dtype=torch.float64)
    loss = diffusion_loss(lambda x_t, t: x_t, x_0, t, eps, weighting="x0", huber=0.1)
    error = q_sample(x_0, t, eps) - training_target(x_0, t, eps)
    _, sigma = alpha_sigma(t)
    torch.testing.assert_close(loss.double(), pseudo_huber((sigma * error).square(), 0.1).mean(), rtol=1e-5, atol=1e-6)
    with pytest.raises(BadParameter, match="huber must be at least 0"):
        diffusion_loss(lambda x_t, t: x_t, x_0, t, eps, huber=-1)


def test_posterior_is_that_of_the_discrete_chain():
    x_0, x_t, schedule = randn(999, 2), randn(999, 2, seed=1), Schedule("linear")
    i = torch.arange(1, 1000)
    mean, var = posterior(x_0, x_t, (i - 1) / torch.tensor(999.0).double(), i.double() / 999, schedule=schedule)
    now, before, beta = ALPHA_BAR[i, None], ALPHA_BAR[i - 1, None], BETAS[i, None]
    expected = before.sqrt() * beta / (1 - now) * x_0 + (1 - beta).sqrt() * (1 - before) / (1 - now) * x_t
    torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(var, (1 - before) / (1 - now) * beta, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("schedule", [Schedule(), Schedule("linear", shift=1.4)], ids=str)
def test_posterior_between_any_two_times_keeps_the_marginal(schedule):
    """E over q(x_t | x_0) of q(x_s | x_t, x_0) is q(x_s | x_0)."""
    x_0, eps = randn(4, 3), randn(4, 3, seed=1)
    s, t = torch.tensor([0.0, 0.1, 0.5, 0.9]).double(), torch.tensor([0.01, 0.95, 0.5, 1.0]).double()
    (alpha_s, sigma_s), (_, sigma_t) = (alpha_sigma(x, 2, schedule=schedule) for x in (s, t))
    centre, var = posterior(x_0, q_sample(x_0, t, eps * 0, schedule=schedule), s, t, schedule=schedule)
    torch.testing.assert_close(centre, alpha_s * x_0)
    slope = posterior(x_0 * 0, eps, s, t, schedule=schedule)[0] / eps
    torch.testing.assert_close(((slope * sigma_t) ** 2 + var)[:, 0], sigma_s[:, 0] ** 2)
    mean, var = posterior(x_0[2:3], eps[2:3], s[2:3], t[2:3], schedule=schedule)  # no time passes: nothing changes
    torch.testing.assert_close(mean, eps[2:3])
    assert var.item() == 0


@pytest.mark.parametrize("n", [1, 2, 7, 1000, 12288])
@pytest.mark.parametrize("q", [0.001, 0.5, 0.9, 0.95, 0.995, 1.0])
def test_quantile_equals_the_sorted_one(q, n):
    x = randn(3, n)
    assert torch.equal(upper_quantile(x, q), torch.quantile(x, q, dim=1))
    # in float32 versions of torch find the rank with more or fewer digits
    torch.testing.assert_close(upper_quantile(x.float(), q), torch.quantile(x.float(), q, dim=1), rtol=5e-7, atol=1e-9)


def test_quantile_of_more_values_than_float32_counts():
    x = -torch.rand(1, 2**24 + 6, generator=torch.Generator().manual_seed(0)).add_(1e-7).log_()
    expected = np.quantile(x[0].double().numpy(), float(np.float32(0.999)))
    assert upper_quantile(x, 0.999).item() == pytest.approx(expected, rel=3e-7)  # neighbours differ by 1e-5


def test_dynamic_threshold():
    x_0 = randn(3, 3, 16, 16).clamp(-1, 1)
    x_0[0] *= 0.9
    # the scale of each picture is its own. (Diffusers would only clip here, unless its sample_max_value is raised.)
    found = threshold_x0(torch.cat([3 * x_0[1:2], x_0[:1], 1.5 * x_0[2:]]), percentile=1.0)
    torch.testing.assert_close(found, torch.cat([x_0[1:2], x_0[:1], x_0[2:]]))
    wide = 2 * randn(3, 3, 16, 16)
    s = torch.quantile(wide.abs().flatten(1), 0.9, dim=1).view(3, 1, 1, 1)
    assert (s > 1).all() and torch.equal(threshold_x0(wide, "dynamic", percentile=0.9), wide.clamp(-s, s) / s)
    assert torch.equal(threshold_x0(0.3 * wide, percentile=0.5), (0.3 * wide).clamp(-1, 1))  # s < 1 is not stretched
    assert torch.equal(threshold_x0(wide, "static"), wide.clamp(-1, 1)) and threshold_x0(wide, "none") is wide
    half = threshold_x0(wide.half(), percentile=0.9)
    assert half.dtype == torch.float16 and half.abs().max() == 1
    for percentile in (0.0, 1.5, 99.5):
        with pytest.raises(BadParameter, match=r"a share in \(0, 1\], such as 0.995"):
            threshold_x0(wide, percentile=percentile)
    with pytest.raises(UnknownName, match="did you mean dynamic"):
        threshold_x0(wide, "dynamik")


def test_stratified_times():
    t = stratified_times(64, torch.Generator().manual_seed(0))
    assert t.shape == (64,) and sorted((t * 64).long().tolist()) == list(range(64))
    assert (t.diff() > 0).sum() not in (0, 63)  # shuffled
    assert torch.equal(t, stratified_times(64, torch.Generator().manual_seed(0)))


def test_noise_of_a_picture_is_its_own():
    streams = [torch.Generator().manual_seed(i) for i in range(3)]
    noise = noise_for(streams, (2, 4, 4))
    alone = noise_for([torch.Generator().manual_seed(1)], (2, 4, 4))
    assert noise.shape == (3, 2, 4, 4) and torch.equal(noise[1:2], alone)
    assert not torch.equal(noise_for(streams, (2, 4, 4)), noise)  # the streams go on
    with pytest.raises(BadParameter, match=r"one appears twice.*runtime.generator\(seed, 'picture', i\)"):
        noise_for(streams[:1] * 3, (2, 4, 4))


CONDITION, NOTHING = {"text": torch.tensor([3.0, 4.0])}, {"text": torch.tensor([1.0, 1.0])}


@pytest.fixture
def network():
    def call(x_t, t, given):
        call.passes.append(len(x_t))
        return x_t * 0 + given["text"][:, None, None, None] + t[:, None, None, None]

    call.passes = []
    return call


@pytest.mark.parametrize(("scale", "expected", "sizes"), [
    (1, [3.25, 4.5], [2]), (1.0, [3.25, 4.5], [2]), (0, [1.25, 1.5], [2]), (0.0, [1.25, 1.5], [2]),
    (3.0, [7.25, 10.5], [4]), (0.5, [2.25, 3.0], [4]), (-1.0, [-0.75, -1.5], [4])])
def test_guidance(network, scale, expected, sizes):
    v = with_guidance(network, CONDITION, NOTHING, scale)(torch.zeros(2, 1, 1, 1), torch.tensor([0.25, 0.5]))
    assert v.flatten().tolist() == expected and network.passes == sizes


def test_guidance_interval(network):
    x_t, inside, outside = torch.zeros(2, 1, 1, 1), [9.0, 13.0], [3.0, 4.0]  # 1 + 4 (c - 1), and c
    guided = with_guidance(network, CONDITION, NOTHING, 4.0, interval=(0.2, 0.7))
    for t, expected, size in ((0.2, inside, 4), (0.7, inside, 4), (0.19, outside, 2), (0.71, outside, 2),
                              (1, outside, 2)):
        network.passes.clear()
        v = guided(x_t, torch.full((2,), float(t))).flatten() - t
        torch.testing.assert_close(v, torch.tensor(expected))
        assert network.passes == [size]
    v = guided(x_t, torch.tensor([0.1, 0.5])).flatten()  # pictures at different times, as in training
    torch.testing.assert_close(v, torch.tensor([3.1, 13.5]))
    network.passes.clear()
    for t in (0.1, 0.5):  # at scale 1 no interval matters
        with_guidance(network, CONDITION, NOTHING, 1.0, interval=(0.2, 0.7))(x_t, torch.full((2,), t))
    assert network.passes == [2, 2]
    never = with_guidance(network, CONDITION, NOTHING, 0.0, interval=(0.2, 0.7))
    torch.testing.assert_close(never(x_t, torch.tensor([0.5, 0.5])).flatten(), torch.tensor([1.5, 1.5]))
    torch.testing.assert_close(never(x_t, torch.tensor([0.9, 0.9])).flatten(), torch.tensor([3.9, 4.9]))
    for interval in ((0.7, 0.2), (-0.1, 0.5), (0.5, 1.1)):
        with pytest.raises(BadParameter, match="0 <= low <= high <= 1"):
            with_guidance(network, CONDITION, NOTHING, 4.0, interval=interval)


def test_negative_prompt(network):
    negative = {"text": torch.tensor([2.0, 5.0])}
    v = with_guidance(network, CONDITION, negative, 3.0)(torch.zeros(2, 1, 1, 1), torch.zeros(2))
    assert v.flatten().tolist() == [5.0, 2.0]  # away from it, on either side
    for other in ({"text": torch.zeros(2, 3)}, {"words": torch.zeros(2)}, {}):
        with pytest.raises(BadParameter, match="encode both lists of texts in one call"):
            with_guidance(network, CONDITION, other, 3.0)

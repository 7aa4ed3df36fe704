import math

import pytest
import torch

from t2ilib.diffusion import TARGETS, Schedule, alpha_sigma, q_sample, to_x0_eps, training_target, with_guidance
from t2ilib.diffusion.samplers import (
    SAMPLERS,
    get_sampler,
    keep_known,
    sample_ancestral,
    sample_ddim,
    sample_dpm_solver,
)
from t2ilib.errors import BadParameter, UnknownName

LINEAR = Schedule("linear")
ODE = [sample_ddim, sample_dpm_solver]
EACH = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=list(SAMPLERS))


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def streams(count, first=0):
    return [torch.Generator().manual_seed(first + i) for i in range(count)]


class Gaussian:
    """The exact network for data drawn from N(mean, std^2), channel by channel; counts its passes."""

    def __init__(self, mean=2.0, std=0.5, target="v", schedule=LINEAR):
        self.mean, self.std, self.options, self.calls = mean, std, {"target": target, "schedule": schedule}, 0

    def __call__(self, x_t, t):
        self.calls += 1
        alpha, sigma = alpha_sigma(t, x_t.ndim, schedule=self.options["schedule"])
        x_0 = self.mean + alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2) * (x_t - alpha * self.mean)
        return training_target(x_0, t, (x_t - alpha * x_0) / sigma, **self.options)

    def solution(self, x_t, start=1.0):
        """Where the probability flow leads from x_t at time `start`: it keeps the standardised value."""
        t = torch.full((len(x_t),), start, dtype=x_t.dtype)
        alpha, sigma = alpha_sigma(t, x_t.ndim, schedule=self.options["schedule"])
        return self.mean + self.std * (x_t - alpha * self.mean) / (alpha**2 * self.std**2 + sigma**2).sqrt()


def wobbly(x_t, t):
    """Some nonlinear network; a picture's result depends on that picture alone."""
    return torch.tanh(1.5 * x_t.roll(1, dims=-1) - x_t.mean((1, 2, 3), keepdim=True) + t.view(-1, 1, 1, 1))


@pytest.mark.parametrize("schedule", [Schedule(), LINEAR, Schedule(shift=-1.4)], ids=str)
@pytest.mark.parametrize("start", [1.0, 0.6])
@pytest.mark.parametrize("sampler", ODE)
def test_deterministic_samplers_follow_the_flow_of_gaussian_data(sampler, start, schedule):
    x_t, network = randn(6, 3, 2, 2), Gaussian(schedule=schedule)
    found = sampler(network, x_t, steps=200, start=start, **network.options)
    assert network.calls == 200
    torch.testing.assert_close(found, network.solution(x_t, start), atol=0.03, rtol=0)


@pytest.mark.parametrize(("sampler", "order"), [(sample_ddim, 1), (sample_dpm_solver, 2)])
def test_order_of_convergence(sampler, order):
    x_t, network = randn(6, 3, 2, 2), Gaussian(mean=0.5, std=0.8, schedule=Schedule())

    def error(steps):
        return (sampler(network, x_t, steps=steps, start=0.8) - network.solution(x_t, 0.8)).abs().max().item()

    errors = [error(n) for n in (80, 160, 320)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[0] / errors[2] > 0.6 * 4**order


def moments(sampler, network, steps, size=250):
    """Mean and standard deviation of what comes from size^2 numbers of noise, themselves of mean 0 and deviation 1."""
    x_t = randn(1, 1, size, size, seed=9)
    x_t = (x_t - x_t.mean()) / x_t.std()  # leaves the error of the sampler alone, where that draws nothing
    found = sampler(network, x_t, steps=steps, generators=streams(1), **network.options)
    return torch.stack([found.mean(), found.std()])


# how far the deviation of 0.5 is off after 20 steps; 62,500 draws tell 0.002 apart
@pytest.mark.parametrize(("sampler", "order", "tolerance"), [
    (sample_ancestral, 1, {"cosine": 0.07, "linear": 0.115}), (sample_ddim, 1, {"cosine": 0.04, "linear": 0.075}),
    (sample_dpm_solver, 2, {"cosine": 0.004, "linear": 0.025})])
@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_20_steps_reproduce_gaussian_data(sampler, order, tolerance, name):
    network = Gaussian(0.4, 0.5, schedule=Schedule(name))
    off = {n: (moments(sampler, network, n) - torch.tensor([0.4, 0.5])).abs() for n in (20, 80)}
    assert off[20][0] < 0.01 and off[20][1] < tolerance[name]
    assert off[80][1] < (0.36 if order == 1 else 0.1) * off[20][1] + 0.002


@EACH
@pytest.mark.parametrize("schedule", [Schedule(), LINEAR], ids=str)
def test_every_target_samples_the_same(sampler, schedule):
    found = []
    for target in TARGETS:
        network = Gaussian(target=target, schedule=schedule)
        found.append(sampler(network, randn(3, 2, 2, 2), steps=6, generators=streams(3), **network.options))
    torch.testing.assert_close(found[1:], [found[0]] * 2)


def test_the_second_order_sampler_needs_fewer_steps_for_the_same_result():
    x_t, network = randn(6, 3, 2, 2), Gaussian(mean=0.5, std=0.8, schedule=Schedule())
    exact = network.solution(x_t)
    ddim = (sample_ddim(network, x_t, steps=25) - exact).abs().mean()
    dpm = (sample_dpm_solver(network, x_t, steps=12) - exact).abs().mean()
    assert dpm < ddim
    torch.testing.assert_close(sample_ddim(network, x_t, steps=300), sample_dpm_solver(network, x_t, steps=60),
                               atol=0.02, rtol=0)


@pytest.mark.parametrize("threshold", ["none", "dynamic"])
@pytest.mark.parametrize("schedule", [Schedule(), LINEAR], ids=str)
def test_ddim_with_eta_1_is_ancestral_sampling(schedule, threshold):
    x_t, options = randn(3, 2, 4, 4), dict(steps=10, schedule=schedule, threshold=threshold, percentile=0.9)
    ancestral = sample_ancestral(wobbly, x_t, generators=streams(3), **options)
    torch.testing.assert_close(sample_ddim(wobbly, x_t, eta=1.0, generators=streams(3), **options), ancestral)
    between = [sample_ddim(wobbly, x_t, eta=eta, generators=streams(3), **options) for eta in (0.0, 1e-6, 0.5)]
    torch.testing.assert_close(between[0], between[1], rtol=1e-4, atol=1e-4)
    assert (between[2] - between[0]).abs().max() > 1e-3 and (between[2] - ancestral).abs().max() > 1e-3


def levels(steps, schedule):
    """Our alpha^2 at the times of the steps, ascending in time from the last one that a network sees."""
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64).float()[1:]
    return torch.sigmoid(schedule.log_snr(times).double())


NAMES = {"v": "v_prediction", "eps": "epsilon", "x0": "sample"}


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("steps", [1, 2, 12, 20])
@pytest.mark.parametrize(("target", "schedule"), [("v", Schedule()), ("v", LINEAR), ("eps", LINEAR), ("x0", LINEAR)])
def test_dpm_solver_agrees_with_diffusers(target, schedule, steps):
    from diffusers import DPMSolverMultistepScheduler

    theirs = DPMSolverMultistepScheduler(num_train_timesteps=1000, solver_order=2, algorithm_type="dpmsolver++",
                                         lower_order_final=True, prediction_type=NAMES[target])
    theirs.set_timesteps(steps)
    alpha_bar = levels(steps, schedule).flip(0)
    theirs.sigmas = torch.cat([((1 - alpha_bar) / alpha_bar).sqrt(), torch.zeros(1).double()])
    start = x_t = randn(2, 3, 4, 4)
    for i, step in enumerate(theirs.timesteps):
        t = torch.full((2,), 1 - i / steps, dtype=torch.float64)
        x_t = theirs.step(wobbly(x_t, t), step, x_t).prev_sample
    ours = sample_dpm_solver(wobbly, start, steps=steps, target=target, schedule=schedule)
    torch.testing.assert_close(ours, x_t, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("threshold", ["none", "static", "dynamic"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("target", "schedule"), [("v", Schedule()), ("eps", LINEAR), ("x0", LINEAR)])
def test_ddim_agrees_with_diffusers(target, schedule, eta, threshold):
    from diffusers import DDIMScheduler

    steps = 20  # sample_max_value: its default of 1 would turn dynamic thresholding into clipping
    theirs = DDIMScheduler(num_train_timesteps=steps, prediction_type=NAMES[target], clip_sample=threshold == "static",
                           thresholding=threshold == "dynamic", dynamic_thresholding_ratio=0.8, sample_max_value=1e9)
    theirs.set_timesteps(steps)
    theirs.alphas_cumprod = levels(steps, schedule)
    start = x_t = 2 * randn(2, 3, 4, 4)
    same = streams(2)
    for step in theirs.timesteps:
        t = torch.full((2,), (int(step) + 1) / steps, dtype=torch.float64)
        noise = torch.stack([torch.randn(3, 4, 4, generator=g) for g in same]) if step else torch.zeros(2, 3, 4, 4)
        x_t = theirs.step(wobbly(x_t, t), step, x_t, eta=eta, variance_noise=noise.double(),
                          use_clipped_model_output=True).prev_sample
    ours = sample_ddim(wobbly, start, steps=steps, target=target, schedule=schedule, eta=eta, threshold=threshold,
                       percentile=0.8, generators=streams(2))
    torch.testing.assert_close(ours, x_t, rtol=1e-5, atol=1e-5)


@EACH
def test_one_step_callback_and_precision(sampler):
    x_t, network, seen = randn(3, 2, 2, 2), Gaussian(schedule=Schedule()), []
    one = sampler(network, x_t, steps=1, generators=streams(3))
    torch.testing.assert_close(one, to_x0_eps(x_t, torch.ones(3), network(x_t, torch.ones(3)))[0])
    found = sampler(network, x_t, steps=4, generators=streams(3), callback=lambda i, x_0: seen.append((i, x_0)))
    assert [i for i, _ in seen] == [0, 1, 2, 3] and torch.equal(seen[-1][1], found)
    assert sampler(network, x_t.float(), steps=3, generators=streams(3)).dtype == torch.float32
    half = sampler(network, x_t.half(), steps=20, generators=streams(3)).double()
    torch.testing.assert_close(half, sampler(network, x_t, steps=20, generators=streams(3)), rtol=0, atol=0.02)
    times = []
    sampler(lambda x_t, t: times.append(t) or x_t, x_t.half(), steps=7, generators=streams(3))
    assert [t[0].item() for t in times] == pytest.approx([1 - i / 7 for i in range(7)], rel=1e-6)  # not rounded to half


@EACH
def test_a_picture_does_not_depend_on_its_batch_mates(sampler):
    x_t = randn(3, 2, 4, 4)
    options = dict(steps=5, threshold="dynamic", percentile=0.9)
    together = sampler(wobbly, x_t, generators=streams(3), **options)
    assert torch.equal(together, sampler(wobbly, x_t, generators=streams(3), **options))
    torch.testing.assert_close(sampler(wobbly, x_t[1:2], generators=streams(1, first=1), **options), together[1:2])
    other = sampler(wobbly, x_t.flip(0), generators=streams(3)[::-1], **options)
    torch.testing.assert_close(other.flip(0), together)


@EACH
def test_thresholding_acts_after_guidance(sampler):
    """Scale 6 of a network that believes in x_0 = 0.8 wants 4.8; the picture stays in range and keeps its contrast."""
    pattern = torch.tensor([0.8, 0.4]).double().view(1, 1, 1, 2).expand(2, 1, 3, 2)

    def network(x_t, t, given):
        return pattern.repeat(len(x_t) // 2, 1, 1, 1) * given["on"].view(-1, 1, 1, 1)

    guided = with_guidance(network, {"on": torch.ones(2)}, {"on": torch.zeros(2)}, 6.0)
    x_t, found, seen = randn(2, 1, 3, 2), {}, []
    for how in ("none", "static", "dynamic"):
        found[how] = sampler(guided, x_t, steps=5, target="x0", threshold=how, generators=streams(2),
                             callback=lambda i, x_0, how=how: seen.append((how, x_0.abs().max().item())))
    torch.testing.assert_close(found["none"], 6 * pattern)
    torch.testing.assert_close(found["static"], torch.ones_like(pattern))
    torch.testing.assert_close(found["dynamic"], pattern / 0.8)
    assert all(largest <= 1 + 1e-9 for how, largest in seen if how != "none") and len(seen) == 15


@EACH
def test_inpainting_keeps_what_is_known(sampler):
    known, mask = randn(3, 2, 4, 4, seed=5).float(), torch.zeros(3, 1, 4, 4, dtype=torch.bool)
    mask[:, :, :2] = True
    x_t, seen, shown = randn(3, 2, 4, 4).float(), [], []

    def paint(picture, noise=7):
        inner = keep_known(picture, mask, streams(3, first=noise), schedule=LINEAR)

        def watched(x_t, t):
            seen.append((t, inner(x_t, t)))
            return seen[-1][1]

        return sampler(wobbly, x_t, steps=6, generators=streams(3), schedule=LINEAR, constrain=watched,
                       callback=lambda i, x_0: shown.append(x_0))

    found = paint(known)
    assert torch.equal(found[:, :, :2], known[:, :, :2]) and torch.equal(found, seen[-1][1])
    assert len(shown) == 6 and torch.equal(shown[-1], found)
    assert [t[0].item() for t, _ in seen] == pytest.approx([5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])
    eps = torch.stack([torch.randn(2, 4, 4, generator=g) for g in streams(3, first=7)])
    torch.testing.assert_close(seen[0][1][:, :, :2], q_sample(known, seen[0][0], eps, schedule=LINEAR)[:, :, :2])
    assert torch.equal(paint(torch.where(mask, known, 99.0)), found)  # what is not known is not looked at
    assert (paint(known + 2)[:, :, 2:] - found[:, :, 2:]).abs().max() > 0.01  # the rest is painted to fit it
    assert (paint(known, noise=70)[:, :, 2:] - found[:, :, 2:]).abs().max() > 1e-4


def test_inpainting_draws_the_rest_from_what_is_known():
    """Two pixels of correlation 0.9: given one, the other must follow it (all that the exact network knows)."""
    cov, schedule = torch.tensor([[1.0, 0.9], [0.9, 1.0]]).double(), Schedule()

    def network(x_t, t):
        alpha, sigma = (a[0, 0].item() for a in alpha_sigma(t[:1], 2))
        gain = alpha * cov @ torch.linalg.inv(alpha**2 * cov + sigma**2 * torch.eye(2, dtype=torch.float64))
        return torch.einsum("ij,bhwj->bhwi", gain, x_t)

    known = torch.full((1, 60, 60, 2), 1.5).double()
    mask = torch.tensor([True, False]).view(1, 1, 1, 2).expand(1, 60, 60, 2)
    found = sample_ancestral(network, randn(1, 60, 60, 2), steps=100, target="x0", schedule=schedule,
                             generators=streams(1), constrain=keep_known(known, mask, streams(1, first=1)))
    assert (found[..., 0] == 1.5).all()
    free = sample_ancestral(network, randn(1, 60, 60, 2), steps=100, target="x0", generators=streams(1))
    assert abs(free[..., 1].mean()) < 0.1 and free.std() == pytest.approx(1.0, abs=0.1)
    assert found[..., 1].mean() > 0.8 and found[..., 1].std() < 0.8  # 1.35 and 0.44 for an endless chain


@EACH
def test_errors_say_what_to_do(sampler):
    x_t, network = randn(3, 2, 2, 2), Gaussian()
    for options in ({"steps": 0}, {"start": 0.0}, {"start": 1.5}):
        with pytest.raises(BadParameter, match="steps >= 1 and 0 < start <= 1"):
            sampler(network, x_t, generators=streams(3), **options)
    for options, match in (({"target": "epsilon"}, "did you mean eps"), ({"threshold": "dynamik"}, "mean dynamic")):
        with pytest.raises(UnknownName, match=match):
            sampler(network, x_t, generators=streams(3), **options)
    assert network.calls == 0
    with pytest.raises(BadParameter, match="as many channels out as in"):
        sampler(lambda x_t, t: x_t.repeat(1, 2, 1, 1), x_t, generators=streams(3))
    with pytest.raises(BadParameter, match="a share in"):
        sampler(network, x_t, generators=streams(3), threshold="dynamic", percentile=99.5)


def test_errors_of_generators_eta_and_masks():
    x_t, network = randn(3, 2, 2, 2), Gaussian()
    for call in (sample_ancestral, lambda *args, **options: sample_ddim(*args, eta=0.5, **options)):
        for generators, got in ((None, "got none"), (streams(2), "got 2")):
            with pytest.raises(BadParameter, match=f"a generator of its own.* {got} for 3 pictures"):
                call(network, x_t, generators=generators)
        with pytest.raises(BadParameter, match="one appears twice"):
            call(network, x_t, generators=streams(1) * 3)
    for eta in (-0.1, 1.1, math.nan):
        with pytest.raises(BadParameter, match=r"eta must be in \[0, 1\]"):
            sample_ddim(network, x_t, eta=eta, generators=streams(3))
    for mask in (torch.ones(3, 1, 2, 2), torch.ones(3, 1, 3, 2, dtype=torch.bool), torch.ones(2, dtype=torch.bool)):
        with pytest.raises(BadParameter, match="take mask > 0.5"):
            keep_known(x_t, mask, streams(3))
    with pytest.raises(BadParameter, match="got 1 for 3 pictures"):
        keep_known(x_t, torch.ones(1, 1, 2, 2, dtype=torch.bool), streams(1))
    assert network.calls == 0 and get_sampler("ddim") is sample_ddim
    with pytest.raises(UnknownName, match="unknown sampler 'ddpm'"):
        get_sampler("ddpm")

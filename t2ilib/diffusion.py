"""Diffusion as pure functions: schedules, targets, weights, posterior, thresholding, guidance. `samplers` walks back.

Time t runs from 0 (data) to 1 (noise): x_t = alpha(t) x_0 + sigma(t) eps, with alpha^2 + sigma^2 = 1 and the log-SNR
log(alpha^2 / sigma^2), which falls with t and is all that a schedule is (Kingma et al. 2021, "Variational diffusion
models", eq. 2 to 4). A network predicts eps, x_0, or v = alpha eps - sigma x_0 (Salimans and Ho 2022, "Progressive
distillation", eq. 11). Functions that take no schedule or target use the cosine schedule and v.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import BadParameter, unknown_name

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (x_t (B, ...), t (B,)) -> the predicted target (B, ...)
TARGETS = ("v", "eps", "x0")
THRESHOLDS = ("none", "static", "dynamic")
WEIGHTINGS = ("none", "min_snr")


def check_name(kind: str, name: str, known: Collection[str]) -> None:
    """Raise UnknownName if `name` is not one of the `known` names of this kind."""
    if name not in known:
        raise unknown_name(kind, name, known)


def cosine_log_snr(t: Tensor, *, limit: float = 15.0) -> Tensor:
    """Return log(alpha^2 / sigma^2) of the cosine schedule (Nichol and Dhariwal 2021, eq. 17) at t in [0, 1].

    Values are clamped to [-limit, limit], so that both ends stay finite.
    """
    low, high = math.atan(math.exp(-0.5 * limit)), math.atan(math.exp(0.5 * limit))
    return -2 * torch.log(torch.tan(low + t * (high - low)))


def linear_log_snr(t: Tensor) -> Tensor:
    """Return the log-SNR of DDPM's 1000 betas from 1e-4 to 0.02 (Ho et al. 2020, section 4), made continuous.

    With n = 1 + 999 t it is that of the product of the first n factors 1 - beta_i, so t = i / 999 is the discrete step
    i of 0 to 999. For other n, -log(1 - beta) is summed as its series up to beta^4, over betas that are evenly spread:
    their number, mean and variance are known for any n, and what is cut is smaller than float32 can show. T steps of
    betas scaled by 1000 / T sample the same curve more coarsely. Log-SNR: 9.2 at t = 0, -10.1 at t = 1.
    """
    first, slope, n = 1e-4, (0.02 - 1e-4) / 999, 1 + 999 * t
    mean, var = first + slope * (n - 1) / 2, slope**2 * (n**2 - 1) / 12
    powers = (mean, mean**2 + var, mean**3 + 3 * mean * var, mean**4 + 6 * mean**2 * var + 1.8 * var**2)
    return -torch.log(torch.expm1(n * sum(power / k for k, power in enumerate(powers, start=1))))


SCHEDULES: dict[str, Callable[[Tensor], Tensor]] = {"cosine": cosine_log_snr, "linear": linear_log_snr}


@dataclass(frozen=True)
class Schedule:
    """How much noise there is at a time: one of SCHEDULES, with its log-SNR moved by `shift`.

    Raises:
        UnknownName: not a schedule. BadParameter: a shift beyond [-15, 15], where one end would lose its data.
    """

    name: str = "cosine"
    shift: float = 0.0

    def __post_init__(self):
        check_name("schedule", self.name, SCHEDULES)
        if not abs(self.shift) <= 15:
            raise BadParameter(f"the shift of a schedule must be in [-15, 15], got {self.shift}; take "
                               "resolution_shift(size, base)")

    def log_snr(self, t: Tensor) -> Tensor:
        """Return log(alpha^2 / sigma^2) at t in [0, 1], any shape."""
        return SCHEDULES[self.name](t) + self.shift


COSINE = Schedule()


def resolution_shift(size: int, base: int) -> float:
    """Return 2 log(base / size), the shift that gives pictures of `size` pixels the noise which suits those of `base`.

    Averaging over (size / base)^2 pixels removes noise but no shapes, so a larger picture needs more of it (Hoogeboom
    et al. 2023, "simple diffusion", section 3.1).
    """
    if size < 1 or base < 1:
        raise BadParameter(f"sizes are numbers of pixels, at least 1; got size={size}, base={base}")
    return 2 * math.log(base / size)


def alpha_sigma(t: Tensor, ndim: int = 4, *, schedule: Schedule = COSINE) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma at t (B,), each (B, 1, 1, ...) with `ndim` dimensions."""
    log_snr = schedule.log_snr(t).view(-1, *[1] * (ndim - 1))
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


def q_sample(x_0: Tensor, t: Tensor, eps: Tensor, *, schedule: Schedule = COSINE) -> Tensor:
    """Draw x_t from q(x_t | x_0): add the noise `eps` at time t (B,)."""
    alpha, sigma = alpha_sigma(t, x_0.ndim, schedule=schedule)
    return alpha * x_0 + sigma * eps


def training_target(x_0: Tensor, t: Tensor, eps: Tensor, *, target: str = "v", schedule: Schedule = COSINE) -> Tensor:
    """Return what the network is to predict from q_sample(x_0, t, eps): eps, x_0, or v = alpha eps - sigma x_0.

    Raises:
        UnknownName: not one of TARGETS.
    """
    check_name("target", target, TARGETS)
    if target != "v":
        return eps if target == "eps" else x_0
    alpha, sigma = alpha_sigma(t, x_0.ndim, schedule=schedule)
    return alpha * eps - sigma * x_0


def to_x0_eps(x_t: Tensor, t: Tensor, prediction: Tensor, *, target: str = "v",
              schedule: Schedule = COSINE) -> tuple[Tensor, Tensor]:
    """Return (x_0, eps) that belong to a prediction of `target`; alpha x_0 + sigma eps is x_t again.

    v needs no division. eps divides by alpha and x_0 by sigma, which the schedules keep above 0: finite at both ends,
    but at t = 1 an error of a predicted eps appears in x_0 multiplied by 1 / alpha, 1800 for the cosine schedule.

    Raises:
        UnknownName: not one of TARGETS. BadParameter: the prediction has not the shape of x_t.
    """
    check_name("target", target, TARGETS)
    if prediction.shape != x_t.shape:
        raise BadParameter(f"the prediction must have the shape of x_t, {tuple(x_t.shape)}; the network returned "
                           f"{tuple(prediction.shape)}. Give it as many channels out as in")
    alpha, sigma = alpha_sigma(t, x_t.ndim, schedule=schedule)
    if target == "v":
        return alpha * x_t - sigma * prediction, sigma * x_t + alpha * prediction
    if target == "eps":
        return (x_t - sigma * prediction) / alpha, prediction
    return prediction, (x_t - alpha * prediction) / sigma


def loss_weight(t: Tensor, *, weighting: str = "min_snr", target: str = "v", gamma: float = 5.0,
                schedule: Schedule = COSINE) -> Tensor:
    """Return the weight (B,) of each squared error of the prediction, at t (B,).

    "min_snr" trusts no noise level with more than gamma times the weight of pure noise (Hang et al. 2023,
    "Min-SNR weighting strategy", eq. 8): min(SNR, gamma) for x_0, divided by SNR for eps, by SNR + 1 for v. The three
    ask for the same error of x_0. "none" is 1.

    Raises:
        UnknownName: not one of WEIGHTINGS or TARGETS. BadParameter: gamma is not positive.
    """
    check_name("weighting", weighting, WEIGHTINGS)
    check_name("target", target, TARGETS)
    if not gamma > 0:
        raise BadParameter(f"gamma must be positive, got {gamma}; the paper takes 5, weighting='none' none")
    if weighting == "none":
        return torch.ones_like(t)
    snr = schedule.log_snr(t).exp()
    if target == "eps":
        return (gamma / snr).clamp(max=1)
    return snr.clamp(max=gamma) / (snr + 1 if target == "v" else 1)


def posterior(x_0: Tensor, x_t: Tensor, s: Tensor, t: Tensor, *, schedule: Schedule = COSINE) -> tuple[Tensor, Tensor]:
    """Return mean (B, ...) and variance (B, 1, ...) of q(x_s | x_t, x_0) for times s <= t, each (B,).

    For neighbouring steps it is DDPM's (Ho et al. 2020, eq. 6 and 7); for any others Kingma et al. 2021, appendix A.2.
    """
    alpha_s, sigma_s = alpha_sigma(s, x_t.ndim, schedule=schedule)
    alpha_t, sigma_t = alpha_sigma(t, x_t.ndim, schedule=schedule)
    share = _forgotten(s, t, x_t.ndim, schedule)
    mean = alpha_t / alpha_s * (sigma_s / sigma_t) ** 2 * x_t + alpha_s * share * x_0
    return mean, sigma_s**2 * share


def _forgotten(s: Tensor, t: Tensor, ndim: int, schedule: Schedule) -> Tensor:
    """Return 1 - SNR(t) / SNR(s) (B, 1, ...): the part of the noise at s <= t that is drawn anew on the way back."""
    return -torch.expm1(schedule.log_snr(t) - schedule.log_snr(s)).view(-1, *[1] * (ndim - 1))


def threshold_x0(x_0: Tensor, how: str = "dynamic", *, percentile: float = 0.995) -> Tensor:
    """Bring predicted pictures (B, ...) back into [-1, 1], as guidance drives them out of it.

    Args:
        how: "static" clips. "dynamic" (Saharia et al. 2022, "Imagen", section 2.3) clips each picture to [-s, s] and
            divides by s, the larger of 1 and the given quantile of its absolute values. "none" changes nothing, which
            latents, who know no bounds, need.

    Raises:
        UnknownName: not one of THRESHOLDS. BadParameter: percentile outside (0, 1].
    """
    check_name("threshold", how, THRESHOLDS)
    if not 0 < percentile <= 1:
        raise BadParameter(f"percentile is a share in (0, 1], such as 0.995, got {percentile}")
    if how != "dynamic":
        return x_0 if how == "none" else x_0.clamp(-1, 1)
    s = upper_quantile(x_0.abs().flatten(1), percentile).clamp(min=1).to(x_0.dtype).view(-1, *[1] * (x_0.ndim - 1))
    return x_0.clamp(-s, s) / s


def upper_quantile(values: Tensor, q: float) -> Tensor:
    """Return torch.quantile(values, q, dim=1) (B,) of values (B, N), sorting only what lies above it.

    The rank is found in double precision, so N may be larger than float32 counts, 2^24; torch.quantile of some
    versions refuses that.
    """
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    n = values.shape[1]
    rank = torch.tensor(q, dtype=values.dtype).item() * (n - 1)
    below = int(rank)
    top = values.topk(n - below, dim=1).values
    return torch.lerp(top[:, -1], top[:, max(-2, below - n)], rank - below)


def stratified_times(n: int, generator: torch.Generator) -> Tensor:
    """Return n times in [0, 1), one in each of n equal strata, shuffled: less variance than independent draws."""
    t = (torch.arange(n) + torch.rand(n, generator=generator)) / n
    return t[torch.randperm(n, generator=generator)]


def noise_for(generators: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """Return standard normal noise (B, *shape) on the CPU, that of each picture from its own stream."""
    check_generators(generators, len(generators))
    return torch.stack([torch.randn(tuple(shape), generator=g) for g in generators])


def check_generators(generators: Sequence[torch.Generator] | None, count: int) -> None:
    """Raise BadParameter unless there is a generator for each of `count` pictures, its own and on the CPU."""
    if generators is None or len(generators) != count:
        problem = f"got {'none' if generators is None else len(generators)} for {count} pictures"
    elif len(set(map(id, generators))) < count or any(g.device.type != "cpu" for g in generators):
        problem = "one appears twice or is on another device"
    else:
        return
    raise BadParameter(f"each picture needs a generator of its own, on the CPU, so that it depends on no other; "
                       f"{problem}. Take [runtime.generator(seed, 'picture', i) for i in range({count})]")


def with_guidance(denoiser: Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor], condition: dict[str, Tensor],
                  nothing: dict[str, Tensor], scale: float, *, interval: tuple[float, float] = (0.0, 1.0)) -> Denoiser:
    """Return a denoiser with classifier-free guidance (Ho and Salimans 2022, eq. 6): v_0 + scale (v_c - v_0).

    Args:
        denoiser: (x_t, t, condition) -> prediction. condition, nothing: tensors (B, ...) by name, of equal shapes.
            With a negative prompt, `nothing` is the condition of that text.
        scale: 1 means the plain conditional network and 0 the unconditional one, each in a single pass; any other
            scale evaluates both as one batch of 2B.
        interval: the times between which, both included, there is guidance; at others the plain conditional network
            runs, in a single pass (Kynkaanniemi et al. 2024, "Applying guidance in a limited interval").

    Raises:
        BadParameter: `condition` and `nothing` differ in names or shapes, or the interval is not within [0, 1].
    """
    low, high = interval
    if not 0 <= low <= high <= 1:
        raise BadParameter(f"the guidance interval is two times with 0 <= low <= high <= 1, got {interval}")
    shapes = [{name: tuple(x.shape) for name, x in given.items()} for given in (condition, nothing)]
    if shapes[0] != shapes[1]:
        raise BadParameter(f"condition and nothing need the same names and shapes, got {shapes[0]} and {shapes[1]}; "
                           "encode both lists of texts in one call, which pads them alike")
    everywhere = (low, high) == (0, 1)
    if scale == 1 or scale == 0 and everywhere:
        only = condition if scale == 1 else nothing
        return lambda x_t, t: denoiser(x_t, t, only)
    both = {k: torch.cat([condition[k], nothing[k]]) for k in condition}

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        inside = None if everywhere else (t >= low) & (t <= high)
        if inside is not None and not inside.any():
            return denoiser(x_t, t, condition)
        v_c, v_0 = denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        v = v_0 + scale * (v_c - v_0)
        return v if inside is None else torch.where(inside.view(-1, *[1] * (v.ndim - 1)), v, v_c)

    return guided

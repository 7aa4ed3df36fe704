"""Diffusion as pure functions: schedules, training targets, guidance, samplers. Time t runs from 0 (data) to 1 (noise).

x_t = alpha(t) x_0 + sigma(t) eps, with alpha^2 + sigma^2 = 1 (Kingma et al. 2021, "Variational diffusion models").
A network predicts v = alpha eps - sigma x_0 (Salimans and Ho 2022, "Progressive distillation", eq. 11).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .errors import BadParameter

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (x_t (B, ...), t (B,)) -> v (B, ...)


def cosine_log_snr(t: Tensor, *, limit: float = 15.0) -> Tensor:
    """Return log(alpha^2 / sigma^2) of the cosine schedule (Nichol and Dhariwal 2021, eq. 17) at t in [0, 1].

    Values are clamped to [-limit, limit], so that both ends stay finite.
    """
    low, high = math.atan(math.exp(-0.5 * limit)), math.atan(math.exp(0.5 * limit))
    return -2 * torch.log(torch.tan(low + t * (high - low)))


def alpha_sigma(t: Tensor, ndim: int = 4) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma of the cosine schedule, each (B, 1, 1, ...) with `ndim` dimensions."""
    log_snr = cosine_log_snr(t).view(-1, *[1] * (ndim - 1))
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


def q_sample(x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """Draw x_t from q(x_t | x_0): add the noise `eps` at time t (B,)."""
    alpha, sigma = alpha_sigma(t, x_0.ndim)
    return alpha * x_0 + sigma * eps


def v_target(x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """Return v = alpha eps - sigma x_0, what the network is to predict."""
    alpha, sigma = alpha_sigma(t, x_0.ndim)
    return alpha * eps - sigma * x_0


def from_v(x_t: Tensor, t: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return (x_0, eps) that belong to a predicted v."""
    alpha, sigma = alpha_sigma(t, x_t.ndim)
    return alpha * x_t - sigma * v, sigma * x_t + alpha * v


def min_snr_weight(t: Tensor, *, gamma: float = 5.0) -> Tensor:
    """Return the Min-SNR-gamma weight for v-prediction, min(SNR, gamma) / (SNR + 1) (Hang et al. 2023, eq. 8), (B,)."""
    snr = cosine_log_snr(t).exp()
    return snr.clamp(max=gamma) / (snr + 1)


def stratified_times(n: int, generator: torch.Generator) -> Tensor:
    """Return n times in [0, 1), one in each of n equal strata, shuffled: less variance than independent draws."""
    t = (torch.arange(n) + torch.rand(n, generator=generator)) / n
    return t[torch.randperm(n, generator=generator)]


def sample_ddim(denoiser: Denoiser, x_t: Tensor, *, steps: int = 25, start: float = 1.0,
                callback: Callable[[int, Tensor], None] | None = None) -> Tensor:
    """Sample with DDIM, eta = 0 (Song et al. 2021, eq. 12), from x_t at time `start` down to 0.

    Args:
        denoiser: (x_t, t) -> v. x_t: (B, ...) noise, or noised data when start < 1.
        callback: called with (step, predicted x_0) after each step.
    """
    times = _times(steps, start)
    x_0 = x_t
    for i in range(steps):
        now, then = times[i].expand(len(x_t)).to(x_t), times[i + 1].expand(len(x_t)).to(x_t)
        x_0, eps = from_v(x_t, now, denoiser(x_t, now))
        x_t = q_sample(x_0, then, eps)
        if callback:
            callback(i, x_0)
    return x_0


def sample_dpm_solver(denoiser: Denoiser, x_t: Tensor, *, steps: int = 20, start: float = 1.0,
                      callback: Callable[[int, Tensor], None] | None = None) -> Tensor:
    """Sample with DPM-Solver++(2M), data prediction (Lu et al. 2022, algorithm 2), from x_t at time `start` to 0.

    Second order with one network pass a step; the first and the last step are first order. Same arguments as
    `sample_ddim`; the same picture in about half of the steps.
    """
    times = _times(steps, start)
    lam = 0.5 * cosine_log_snr(times)
    previous, x_0 = None, x_t
    for i in range(steps):
        now, then = times[i].expand(len(x_t)).to(x_t), times[i + 1].expand(len(x_t)).to(x_t)
        x_0, _ = from_v(x_t, now, denoiser(x_t, now))
        h = lam[i + 1] - lam[i]
        data = x_0
        if previous is not None and i < steps - 1:
            r = (lam[i] - lam[i - 1]) / h
            data = (1 + 1 / (2 * r)) * x_0 - 1 / (2 * r) * previous
        alpha, sigma = alpha_sigma(then, x_t.ndim)
        _, sigma_now = alpha_sigma(now, x_t.ndim)
        x_t = sigma / sigma_now * x_t - alpha * torch.expm1(-h).item() * data
        previous = x_0
        if callback:
            callback(i, x_0)
    return x_0


def _times(steps: int, start: float) -> Tensor:
    if steps < 1 or not 0 < start <= 1:
        raise BadParameter(f"need steps >= 1 and 0 < start <= 1, got steps={steps}, start={start}")
    return torch.linspace(start, 0.0, steps + 1, dtype=torch.float64).float()


def with_guidance(denoiser: Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor], condition: dict[str, Tensor],
                  nothing: dict[str, Tensor], scale: float) -> Denoiser:
    """Return a denoiser with classifier-free guidance (Ho and Salimans 2022, eq. 6): v_0 + scale (v_c - v_0).

    Args:
        denoiser: (x_t, t, condition) -> v. condition, nothing: tensors (B, ...) by name, of equal shapes.
        scale: 1 means the plain conditional network and 0 the unconditional one, each in a single pass; any other
            scale evaluates both as one batch of 2B.
    """
    if scale in (0, 1):
        only = condition if scale == 1 else nothing
        return lambda x_t, t: denoiser(x_t, t, only)
    both = {k: torch.cat([condition[k], nothing[k]]) for k in condition}

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        v_c, v_0 = denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        return v_0 + scale * (v_c - v_0)

    return guided

"""Samplers: walk from noise, or from a noised picture, back to a picture. All take the same arguments.

`SAMPLERS` holds them by name. Each has a network pass per step, and the last step returns the x_0 that the network
then believes in, without noise. In common:

Args:
    denoiser: (x_t, t (B,)) -> the predicted target (B, ...); with_guidance makes one that heeds a text.
    x_t: (B, ...) noise, or data noised to time `start`.
    steps: equal steps in time. start: the time in (0, 1] at which x_t is.
    schedule, target: those that the network was trained with.
    threshold, percentile: what keeps the predicted x_0, guided as it is, in [-1, 1]: see `threshold_x0`. The eps of a
        step is then taken from the new x_0, so that both belong to x_t.
    generators: one CPU stream per picture, for the samplers that draw; a picture does not depend on its neighbours.
    constrain: (x_t, t (B,)) -> x_t, called after each step with the time it arrived at, the last time with the final
        picture and t = 0: see `keep_known`.
    callback: called with (step, predicted x_0) after each step.

Raises:
    BadParameter: steps, start, eta or percentile out of range; generators missing, or not one for each picture; a
        prediction of another shape. UnknownName: target or threshold.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .diffusion import (
    COSINE,
    TARGETS,
    THRESHOLDS,
    Denoiser,
    Schedule,
    alpha_sigma,
    check_generators,
    check_name,
    noise_for,
    posterior,
    q_sample,
    threshold_x0,
    to_x0_eps,
)
from .errors import BadParameter

Constraint = Callable[[Tensor, Tensor], Tensor]  # (x_t (B, ...), t (B,)) -> x_t
Callback = Callable[[int, Tensor], None]  # (step, predicted x_0)
Generators = Sequence[torch.Generator]


def sample_ancestral(denoiser: Denoiser, x_t: Tensor, *, steps: int = 250, start: float = 1.0,
                     schedule: Schedule = COSINE, target: str = "v", threshold: str = "none",
                     percentile: float = 0.995, generators: Generators | None = None,
                     constrain: Constraint | None = None, callback: Callback | None = None) -> Tensor:
    """Sample with DDPM's chain (Ho et al. 2020, algorithm 2) of any length, with the variance of the posterior."""
    check_generators(generators, len(x_t))

    def step(i: int, x_t: Tensor, x_0: Tensor, eps: Tensor, times: Tensor) -> Tensor:
        mean, variance = posterior(x_0, x_t, times[i + 1], times[i], schedule=schedule)
        return mean + variance.sqrt() * noise_for(generators, x_t.shape[1:]).to(x_t)

    return _walk(step, denoiser, x_t, steps, start, schedule, target, threshold, percentile, constrain, callback)


def sample_ddim(denoiser: Denoiser, x_t: Tensor, *, steps: int = 25, start: float = 1.0, schedule: Schedule = COSINE,
                target: str = "v", threshold: str = "none", percentile: float = 0.995,
                generators: Generators | None = None, eta: float = 0.0, constrain: Constraint | None = None,
                callback: Callback | None = None) -> Tensor:
    """Sample with DDIM (Song et al. 2021, eq. 12 and 16).

    Args:
        eta: 0 draws nothing and needs no generators, 1 is ancestral sampling, between them is between them.
    """
    if not 0 <= eta <= 1:
        raise BadParameter(f"eta must be in [0, 1], from deterministic to ancestral, got {eta}")
    if eta:
        check_generators(generators, len(x_t))

    def step(i: int, x_t: Tensor, x_0: Tensor, eps: Tensor, times: Tensor) -> Tensor:
        if not eta:
            return q_sample(x_0, times[i + 1], eps, schedule=schedule)
        alpha, sigma = alpha_sigma(times[i + 1], x_t.ndim, schedule=schedule)
        drawn = eta**2 * posterior(x_0, x_t, times[i + 1], times[i], schedule=schedule)[1]
        fresh = noise_for(generators, x_t.shape[1:]).to(x_t)
        return alpha * x_0 + (sigma**2 - drawn).clamp(min=0).sqrt() * eps + drawn.sqrt() * fresh

    return _walk(step, denoiser, x_t, steps, start, schedule, target, threshold, percentile, constrain, callback)


def sample_dpm_solver(denoiser: Denoiser, x_t: Tensor, *, steps: int = 20, start: float = 1.0,
                      schedule: Schedule = COSINE, target: str = "v", threshold: str = "none",
                      percentile: float = 0.995, generators: Generators | None = None,
                      constrain: Constraint | None = None, callback: Callback | None = None) -> Tensor:
    """Sample with DPM-Solver++(2M), data prediction (Lu et al. 2022, algorithm 2); draws nothing.

    Second order with one network pass a step; the first and the last step are first order. The same picture as DDIM
    with eta = 0 in about half of the steps. `generators` may be given, as to every sampler, and are not used.
    """
    lam, previous = 0.5 * schedule.log_snr(_times(steps, start)), None

    def step(i: int, x_t: Tensor, x_0: Tensor, eps: Tensor, times: Tensor) -> Tensor:
        nonlocal previous
        h, data = lam[i + 1] - lam[i], x_0
        if previous is not None:
            r = (lam[i] - lam[i - 1]) / h
            data = (1 + 1 / (2 * r)) * x_0 - 1 / (2 * r) * previous
        alpha, sigma = alpha_sigma(times[i + 1], x_t.ndim, schedule=schedule)
        _, sigma_now = alpha_sigma(times[i], x_t.ndim, schedule=schedule)
        previous = x_0
        return sigma / sigma_now * x_t - alpha * torch.expm1(-h).item() * data

    return _walk(step, denoiser, x_t, steps, start, schedule, target, threshold, percentile, constrain, callback)


SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ancestral": sample_ancestral, "ddim": sample_ddim, "dpm_solver": sample_dpm_solver}


def get_sampler(name: str) -> Callable[..., Tensor]:
    """Return the sampler called `name`; raises UnknownName for one that is not in SAMPLERS."""
    check_name("sampler", name, SAMPLERS)
    return SAMPLERS[name]


def keep_known(known: Tensor, mask: Tensor, generators: Generators, *, schedule: Schedule = COSINE) -> Constraint:
    """Return a `constrain` for inpainting: known pixels follow q(x_t | x_0), and are themselves at the end.

    The known part is noised anew at each step and the network draws the rest around it (Lugmayr et al. 2022,
    "RePaint", eq. 8, without its resampling).

    Args:
        known: (B, C, H, W), what it shows where the mask is False does not matter. mask: bool, (B, 1, H, W) or
            another shape with 1 where `known` has more; True is kept. generators: one for each picture, not those of
            the sampler.

    Raises:
        BadParameter: the mask is not bool or does not fit, or there is not one generator for each picture.
    """
    fits = mask.ndim == known.ndim and all(m in (1, k) for m, k in zip(mask.shape, known.shape, strict=True))
    if mask.dtype != torch.bool or not fits:
        raise BadParameter(f"the mask must be bool and fit the pictures {tuple(known.shape)}, True where they are "
                           f"kept; got {mask.dtype} {tuple(mask.shape)}; take mask > 0.5 of shape (B, 1, H, W)")
    check_generators(generators, len(known))

    def constrain(x_t: Tensor, t: Tensor) -> Tensor:
        eps = noise_for(generators, known.shape[1:]).to(x_t)
        noised = q_sample(known.to(x_t), t, eps, schedule=schedule)
        at_the_end = (t == 0).view(-1, *[1] * (known.ndim - 1))
        return torch.where(mask.to(x_t.device), torch.where(at_the_end, known.to(x_t), noised), x_t)

    return constrain


def _walk(step: Callable[[int, Tensor, Tensor, Tensor, Tensor], Tensor], denoiser: Denoiser, x_t: Tensor, steps: int,
          start: float, schedule: Schedule, target: str, threshold: str, percentile: float,
          constrain: Constraint | None, callback: Callback | None) -> Tensor:
    """Go down the times with `step` (i, x_t, x_0, eps, times (steps + 1, B)) -> the next x_t; return the last x_0."""
    check_name("target", target, TARGETS)
    check_name("threshold", threshold, THRESHOLDS)
    dtype = torch.promote_types(x_t.dtype, torch.float32)
    times = _times(steps, start).to(x_t.device, dtype)[:, None].expand(-1, len(x_t))
    for i in range(steps):
        x_0, eps = to_x0_eps(x_t, times[i], denoiser(x_t, times[i]), target=target, schedule=schedule)
        if threshold != "none":
            x_0 = threshold_x0(x_0, threshold, percentile=percentile)
            _, eps = to_x0_eps(x_t, times[i], x_0, target="x0", schedule=schedule)
        last = i == steps - 1
        x_t = x_0 if last else step(i, x_t, x_0, eps, times)
        if constrain:
            x_t = constrain(x_t, times[i + 1])
        if callback:
            callback(i, x_t if last else x_0)
    return x_t


def _times(steps: int, start: float) -> Tensor:
    if steps < 1 or not 0 < start <= 1:
        raise BadParameter(f"need steps >= 1 and 0 < start <= 1, got steps={steps}, start={start}")
    return torch.linspace(start, 0.0, steps + 1, dtype=torch.float64).float()

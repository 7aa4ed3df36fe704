"""Samplers: go from noise, or from a noised picture, back to a picture. All take the same arguments.

`SAMPLERS` holds them by name. Each makes one network pass per step, and the last step returns the x_0 that the network
then predicts, without noise. In common:

Args:
    denoiser: (x_t, t (B,)) -> the predicted target (B, ...); `with_guidance` makes one that follows a text.
    x_t: (B, ...) noise, or data noised to time `start`.
    steps: number of steps, equal in time. start: the time in (0, 1] at which x_t is.
    schedule, target: those that the network was trained with.
    threshold, percentile: what keeps the predicted x_0 in [-1, 1] although guidance drives it out: `threshold_x0`. The
        eps of a step is then taken from the new x_0, so that both belong to x_t.
    generators: one CPU stream per picture, for the samplers that draw; a picture does not depend on its neighbours.
    constrain: (x_t, t (B,)) -> x_t, called after each step with the time it arrived at, the last time with the final
        picture and t = 0: see `keep_known`.
    callback: called with (step, predicted x_0) after each step.

Raises:
    BadParameter: steps, start, eta or percentile out of range; generators missing, or not one for each picture; a
        prediction of another shape. UnknownName: target or threshold.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .formulas import TARGETS, THRESHOLDS, posterior, q_sample, threshold_x0, to_x0_eps
from .noise import check_generators, noise_for
from .schedule import COSINE, Schedule, alpha_sigma, per_picture
from .text_guidance import Denoiser
from ..errors import BadParameter, check_name

Constraint = Callable[[Tensor, Tensor], Tensor]  # (x_t (B, ...), t (B,)) -> x_t
Callback = Callable[[int, Tensor], None]  # (step, predicted x_0)
Generators = Sequence[torch.Generator]


@dataclass(frozen=True)
class Step:
    """One step of a sampler, from time t (B,) to the earlier time s (B,)."""

    index: int
    t: Tensor
    s: Tensor
    last: bool


class ReverseProcess:
    """What all samplers share: the times, the network's prediction at a time, and what happens after a step.

    The arguments are those that the module describes.
    """

    def __init__(self, denoiser: Denoiser, x_t: Tensor, *, steps: int, start: float = 1.0, schedule: Schedule = COSINE,
                 target: str = "v", threshold: str = "none", percentile: float = 0.995,
                 constrain: Constraint | None = None, callback: Callback | None = None):
        check_name("target", target, TARGETS)
        check_name("threshold", threshold, THRESHOLDS)
        if steps < 1 or not 0 < start <= 1:
            raise BadParameter(f"need steps >= 1 and 0 < start <= 1, got steps={steps}, start={start}")
        self.denoiser = denoiser
        self.schedule = schedule
        self.target = target
        self.threshold = threshold
        self.percentile = percentile
        self.constrain = constrain
        self.callback = callback
        self.times = torch.linspace(start, 0.0, steps + 1, dtype=torch.float64).float()
        dtype = torch.promote_types(x_t.dtype, torch.float32)
        self._batch_times = self.times.to(x_t.device, dtype)[:, None].expand(-1, len(x_t))  # (steps + 1, B)

    def steps(self) -> Iterator[Step]:
        """Yield the steps from noise to the picture."""
        count = len(self.times) - 1
        for index in range(count):
            t = self._batch_times[index]
            s = self._batch_times[index + 1]
            yield Step(index, t, s, last=index == count - 1)

    def predict(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the x_0, within its range, and the eps that the network sees in x_t."""
        prediction = self.denoiser(x_t, t)
        x_0, eps = to_x0_eps(x_t, t, prediction, target=self.target, schedule=self.schedule)
        if self.threshold != "none":
            x_0 = threshold_x0(x_0, self.threshold, percentile=self.percentile)
            _, eps = to_x0_eps(x_t, t, x_0, target="x0", schedule=self.schedule)
        return x_0, eps

    def after(self, step: Step, x_s: Tensor, x_0: Tensor) -> Tensor:
        """Return x_s as the constraint wants it, and tell the callback."""
        if self.constrain is not None:
            x_s = self.constrain(x_s, step.s)
        if self.callback is not None:
            self.callback(step.index, x_s if step.last else x_0)
        return x_s


def sample_ancestral(denoiser: Denoiser, x_t: Tensor, *, steps: int = 250, generators: Generators | None = None,
                     **settings) -> Tensor:
    """Sample with DDPM's chain (Ho et al. 2020, algorithm 2) of any length, with the variance of the posterior."""
    streams = check_generators(generators, len(x_t))
    process = ReverseProcess(denoiser, x_t, steps=steps, **settings)
    for step in process.steps():
        x_0, _ = process.predict(x_t, step.t)
        if step.last:
            x_s = x_0
        else:
            mean, variance = posterior(x_0, x_t, step.s, step.t, schedule=process.schedule)
            z = noise_for(streams, x_t.shape[1:]).to(x_t)
            x_s = mean + variance.sqrt() * z
        x_t = process.after(step, x_s, x_0)
    return x_t


def sample_ddim(denoiser: Denoiser, x_t: Tensor, *, steps: int = 25, eta: float = 0.0,
                generators: Generators | None = None, **settings) -> Tensor:
    """Sample with DDIM (Song et al. 2021, eq. 12 and 16).

    Args:
        eta: 0 draws nothing and needs no generators, 1 is ancestral sampling; values between them mix the two.
    """
    if not 0 <= eta <= 1:
        raise BadParameter(f"eta must be in [0, 1], from deterministic to ancestral, got {eta}")
    streams = check_generators(generators, len(x_t)) if eta else []
    process = ReverseProcess(denoiser, x_t, steps=steps, **settings)
    for step in process.steps():
        x_0, eps = process.predict(x_t, step.t)
        if step.last:
            x_s = x_0
        elif eta == 0:
            x_s = q_sample(x_0, step.s, eps, schedule=process.schedule)
        else:
            alpha, sigma = alpha_sigma(step.s, x_t.ndim, schedule=process.schedule)
            _, variance = posterior(x_0, x_t, step.s, step.t, schedule=process.schedule)
            variance = eta**2 * variance
            z = noise_for(streams, x_t.shape[1:]).to(x_t)
            x_s = alpha * x_0 + (sigma**2 - variance).clamp(min=0).sqrt() * eps + variance.sqrt() * z
        x_t = process.after(step, x_s, x_0)
    return x_t


def sample_dpm_solver(denoiser: Denoiser, x_t: Tensor, *, steps: int = 20, generators: Generators | None = None,
                      **settings) -> Tensor:
    """Sample with DPM-Solver++(2M), data prediction (Lu et al. 2022, algorithm 2); draws nothing.

    Second order with one network pass a step; the first and the last step are first order. The same picture as DDIM
    with eta = 0 in about half of the steps. `generators` may be given, as to every sampler, and are not used.
    """
    process = ReverseProcess(denoiser, x_t, steps=steps, **settings)
    lam = 0.5 * process.schedule.log_snr(process.times)  # log(alpha / sigma), (steps + 1,)
    previous_x_0 = None
    for step in process.steps():
        x_0, _ = process.predict(x_t, step.t)
        i = step.index
        if step.last:
            x_s = x_0
        else:
            h = lam[i + 1] - lam[i]
            data = x_0
            if previous_x_0 is not None:
                r = (lam[i] - lam[i - 1]) / h
                data = (1 + 1 / (2 * r)) * x_0 - 1 / (2 * r) * previous_x_0
            _, sigma_t = alpha_sigma(step.t, x_t.ndim, schedule=process.schedule)
            alpha_s, sigma_s = alpha_sigma(step.s, x_t.ndim, schedule=process.schedule)
            x_s = sigma_s / sigma_t * x_t - alpha_s * torch.expm1(-h).item() * data
        previous_x_0 = x_0
        x_t = process.after(step, x_s, x_0)
    return x_t


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
        known: (B, C, H, W); its values where the mask is False are not used. mask: bool, (B, 1, H, W) or another shape
            with 1 where `known` has more; True is kept. generators: one for each picture, not those of the sampler.

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
        at_the_end = per_picture(t == 0, known.ndim)
        kept = torch.where(at_the_end, known.to(x_t), noised)
        return torch.where(mask.to(x_t.device), kept, x_t)

    return constrain

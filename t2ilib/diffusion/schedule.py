"""Schedules: how much noise there is at a time, said by the logarithm of the signal-to-noise ratio."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import BadParameter, check_name


def cosine_log_snr(t: Tensor, *, limit: float = 15.0) -> Tensor:
    """Return log(alpha^2 / sigma^2) of the cosine schedule (Nichol and Dhariwal 2021, eq. 17) at t in [0, 1].

    Values are clamped to [-limit, limit], so that both ends stay finite.
    """
    low = math.atan(math.exp(-0.5 * limit))
    high = math.atan(math.exp(0.5 * limit))
    return -2 * torch.log(torch.tan(low + t * (high - low)))


def linear_log_snr(t: Tensor) -> Tensor:
    """Return the log-SNR of DDPM's 1000 betas from 1e-4 to 0.02 (Ho et al. 2020, section 4), made continuous.

    With n = 1 + 999 t it is that of the product of the first n factors 1 - beta_i, so t = i / 999 is the discrete step
    i of 0 to 999. For other n, -log(1 - beta) is summed as its series up to beta^4, over betas that are evenly spread:
    their number, mean and variance are known for any n, and what is cut is smaller than float32 can show. T steps of
    betas scaled by 1000 / T sample the same curve more coarsely. Log-SNR: 9.2 at t = 0, -10.1 at t = 1.
    """
    first = 1e-4
    slope = (0.02 - 1e-4) / 999
    n = 1 + 999 * t
    mean = first + slope * (n - 1) / 2
    var = slope**2 * (n**2 - 1) / 12
    # the means of beta, beta^2, beta^3 and beta^4 over the first n
    powers = (mean, mean**2 + var, mean**3 + 3 * mean * var, mean**4 + 6 * mean**2 * var + 1.8 * var**2)
    series = sum(power / k for k, power in enumerate(powers, start=1))
    return -torch.log(torch.expm1(n * series))


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
    log_snr = per_picture(schedule.log_snr(t), ndim)
    alpha = torch.sigmoid(log_snr).sqrt()
    sigma = torch.sigmoid(-log_snr).sqrt()
    return alpha, sigma


def per_picture(values: Tensor, ndim: int = 4) -> Tensor:
    """Return one value for each picture (B,) as (B, 1, 1, ...) with `ndim` dimensions, to multiply pictures with."""
    return values.view(-1, *[1] * (ndim - 1))

"""The formulas of diffusion: noising, targets and their loss, the posterior, thresholding.

Functions that take no schedule or target use the cosine schedule and v.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .schedule import COSINE, Schedule, alpha_sigma, per_picture
from ..errors import BadParameter, check_name

TARGETS = ("v", "eps", "x0")
THRESHOLDS = ("none", "static", "dynamic")
WEIGHTINGS = ("none", "min_snr", "x0")


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
    if target == "eps":
        return eps
    if target == "x0":
        return x_0
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
    ask for the same error of x_0. "x0" makes of any target's squared error that of x_0: sigma^2 for v. "none" is 1.

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
    if weighting == "x0":
        return {"v": 1 / (snr + 1), "eps": 1 / snr, "x0": torch.ones_like(t)}[target]
    if target == "eps":
        return (gamma / snr).clamp(max=1)
    if target == "v":
        return snr.clamp(max=gamma) / (snr + 1)
    return snr.clamp(max=gamma)


def v_of_residual(residual: Tensor, x_t: Tensor, t: Tensor, guess: Tensor, *, std: float,
                  schedule: Schedule = COSINE) -> Tensor:
    """Return the v of a network that predicts what is missing between a guess and the picture.

    x_0 is taken as `guess` + c_skip (x_t / alpha - guess) + c_out residual, with the factors of Karras et al. 2022
    ("EDM", table 1) for data of standard deviation `std` around the guess. Where there is little noise the answer is
    x_t itself and the residual hardly counts: what the network gets wrong there leaves no grain.

    Args:
        residual: (B, C, H, W), of about standard deviation 1. guess: (B, C, H, W), such as an enlarged picture.
        std: standard deviation of x_0 around the guess, above 0.
    """
    alpha, sigma = alpha_sigma(t, x_t.ndim, schedule=schedule)
    variance = (alpha * std) ** 2 + sigma**2  # of x_t around alpha guess
    # (alpha x_t - x_0) / sigma with sigma cancelled, so that it is exact where sigma is small
    kept = alpha * sigma * (1 - std**2) / variance * (x_t - alpha * guess)
    return kept - sigma * guess - std / variance.sqrt() * residual


def posterior(x_0: Tensor, x_t: Tensor, s: Tensor, t: Tensor, *, schedule: Schedule = COSINE) -> tuple[Tensor, Tensor]:
    """Return mean (B, ...) and variance (B, 1, ...) of q(x_s | x_t, x_0) for times s <= t, each (B,).

    For neighbouring steps it is DDPM's (Ho et al. 2020, eq. 6 and 7); for any others Kingma et al. 2021, appendix A.2.
    """
    alpha_s, sigma_s = alpha_sigma(s, x_t.ndim, schedule=schedule)
    alpha_t, sigma_t = alpha_sigma(t, x_t.ndim, schedule=schedule)
    # 1 - SNR(t) / SNR(s): the part of the noise at s that is drawn anew on the way back
    fresh = -torch.expm1(schedule.log_snr(t) - schedule.log_snr(s))  # (B,)
    fresh = per_picture(fresh, x_t.ndim)
    mean = alpha_t / alpha_s * (sigma_s / sigma_t) ** 2 * x_t + alpha_s * fresh * x_0
    variance = sigma_s**2 * fresh
    return mean, variance


def threshold_x0(x_0: Tensor, mode: str = "dynamic", *, percentile: float = 0.995) -> Tensor:
    """Bring predicted pictures (B, ...) back into [-1, 1], as guidance drives them out of it.

    Args:
        mode: "static" clips. "dynamic" (Saharia et al. 2022, "Imagen", section 2.3) clips each picture to [-s, s] and
            divides by s, the larger of 1 and the given quantile of its absolute values. "none" changes nothing: latents
            have no fixed range.

    Raises:
        UnknownName: not one of THRESHOLDS. BadParameter: percentile outside (0, 1].
    """
    check_name("threshold", mode, THRESHOLDS)
    if not 0 < percentile <= 1:
        raise BadParameter(f"percentile is a share in (0, 1], such as 0.995, got {percentile}")
    if mode == "none":
        return x_0
    if mode == "static":
        return x_0.clamp(-1, 1)
    s = upper_quantile(x_0.abs().flatten(1), percentile)  # (B,)
    s = per_picture(s.clamp(min=1).to(x_0.dtype), x_0.ndim)
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


def pseudo_huber(squared: Tensor, c: float) -> Tensor:
    """Return 2 c (sqrt(e^2 + c^2) - c) for squared errors e^2: e^2 where e is well below c, 2 c |e| well above.

    Song and Dhariwal 2023, "Improved techniques for training consistency models", eq. 8, for each value by itself.
    """
    return 2 * c * ((squared + c**2).sqrt() - c)


def diffusion_loss(predict: Callable[[Tensor, Tensor], Tensor], x_0: Tensor, t: Tensor, eps: Tensor, *,
                   target: str = "v", weighting: str = "none", huber: float = 0.0,
                   schedule: Schedule = COSINE) -> Tensor:
    """Return the training loss of a diffusion network: the mean squared error of its prediction (Ho et al. 2020).

    Args:
        predict: (x_t (B, ...), t (B,)) -> the predicted target (B, ...). x_0: data (B, ...). t: times (B,).
        eps: noise of the shape of x_0. target, weighting, schedule: see `training_target` and `loss_weight`.
        huber: c of `pseudo_huber`, so that edges, which are never quite right, do not outweigh plain grounds; 0: none.

    Raises:
        UnknownName: not one of TARGETS or WEIGHTINGS. BadParameter: huber is negative.
    """
    if huber < 0:
        raise BadParameter(f"huber must be at least 0, got {huber}; 0 is the squared error")
    x_t = q_sample(x_0, t, eps, schedule=schedule)
    error = predict(x_t, t).float() - training_target(x_0, t, eps, target=target, schedule=schedule)
    weight = loss_weight(t, weighting=weighting, target=target, schedule=schedule)
    squared = per_picture(weight, x_0.ndim) * error.square()
    if huber:
        squared = pseudo_huber(squared, huber)
    return squared.mean(dim=tuple(range(1, x_0.ndim))).mean()

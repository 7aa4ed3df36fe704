"""From logits to codes: temperature, top-k, top-p, classifier-free guidance, and draws from given random numbers."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import BadParameter
from ..options import check_fields, check_option_names, option, options_of

GUIDANCE_SCHEDULES = ("constant", "linear", "cosine")


def filter_logits(logits: Tensor, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Return logits from which to draw: divided by the temperature, those of codes that are left out -inf.

    Args:
        logits: (..., K). temperature: below 1 draws likely codes more often; 0 keeps the likeliest alone.
        top_k: keep so many of the likeliest codes; 0 is all.
        top_p: keep the fewest likeliest codes whose probabilities sum to at least this (Holtzman et al. 2020); 1 is
            all, and the likeliest is always kept.

    Raises:
        BadParameter: a number out of range.
    """
    if temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
        raise BadParameter(f"need temperature >= 0, top_k >= 0 and 0 < top_p <= 1, got {temperature}, {top_k} and "
                           f"{top_p}")
    logits = logits.float()
    if temperature == 0:
        top_k = 1
    else:
        logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        kth = logits.topk(top_k, dim=-1).values[..., -1:]  # (..., 1)
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p < 1:
        ordered, codes = logits.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(dim=-1)
        likelier = probabilities.cumsum(dim=-1) - probabilities  # the sum over all that are likelier
        ordered = ordered.masked_fill(likelier >= top_p, -torch.inf)
        logits = torch.empty_like(logits).scatter_(-1, codes, ordered)
    return logits


def draw_codes(logits: Tensor, uniform: Tensor) -> Tensor:
    """Return codes drawn from logits by given random numbers: the first whose cumulative probability exceeds its own.

    Equal numbers give equal codes, however the logits were computed, but for a rounding error at an edge.

    Shapes:
        logits: (..., K), uniform: (...) in [0, 1) -> (...), int64
    """
    cumulative = logits.float().softmax(dim=-1).cumsum(dim=-1)  # (..., K)
    total = cumulative[..., -1:].contiguous()
    target = uniform.to(cumulative)[..., None] * total  # (..., 1)
    code = torch.searchsorted(cumulative, target, right=True)
    last = torch.searchsorted(cumulative, total)  # the last one that has a probability, for a target rounded up to it
    return code.minimum(last).squeeze(-1)


def log_probability(logits: Tensor, codes: Tensor) -> Tensor:
    """Return the logarithms of the probabilities of codes: logits (..., K), codes (...) -> (...)."""
    return logits.float().log_softmax(dim=-1).gather(-1, codes[..., None]).squeeze(-1)


@dataclass(frozen=True)
class LogitSampling:
    """How to draw codes from logits.

    Attributes are options of the methods that draw codes.

    Raises:
        UnknownName, BadParameter: a value out of range.
    """

    guidance_scale: float = option(
        3.0, "drawing", "how literally the network takes the words; 1 is free, 0 ignores them", low=0, high=1000,
        slider=(0.0, 8.0))
    guidance_schedule: str = option(
        "constant", "drawing", "how guidance grows over the steps: `constant`, or from 1 up to the scale, `linear` or "
        "`cosine` (late)", choices=GUIDANCE_SCHEDULES)
    temperature: float = option(
        1.0, "drawing", "below 1 likely codes are drawn more often; 0 is the likeliest alone", low=0, high=100,
        slider=(0.2, 1.5))
    top_k: int = option(0, "drawing", "draw from so many of the likeliest codes; 0 is all", low=0, high=1_000_000)
    top_p: float = option(
        1.0, "drawing", "draw from the likeliest codes that have this probability together; 1 is all", low=0,
        low_open=True, high=1, slider=(0.5, 1.0))

    def __post_init__(self):
        check_fields(self)

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "LogitSampling":
        """Return it from settings by name; raises UnknownName for one that it does not have."""
        check_option_names(options_of(cls), settings, kind="setting of drawing")
        return cls(**settings)

    def scale_at(self, progress: float) -> float:
        """Return the guidance scale at progress 0 (the first code or pass) to 1 (the last).

        Chang et al. 2023, "Muse", let it grow linearly, so that what is drawn first stays varied.
        """
        if self.guidance_schedule == "constant":
            return self.guidance_scale
        share = progress
        if self.guidance_schedule == "cosine":
            share = (1 - math.cos(math.pi * progress)) / 2
        return 1 + (self.guidance_scale - 1) * share

    def filtered(self, logits: Tensor) -> Tensor:
        """Return logits as `filter_logits` does with these settings."""
        return filter_logits(logits, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)

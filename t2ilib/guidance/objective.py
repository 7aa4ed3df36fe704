"""What a run minimises: a guide term and optional regularisers, each a function of one step that returns (B,)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .config import GuidanceConfig
from .guides import Guides
from .ops import total_variation
from .prompts import Prompt, main_text
from .protocols import Prior
from .views import Views
from ..errors import BadParameter

PAINTED_HOLD = 20.0  # times as strongly as others is a painted start held


@dataclass
class Step:
    """One iteration as the terms of the objective see it; `progress` is the share of all steps that is done.

    Shapes:
        z (B, D, h, w), images (B, 3, H, W) in [0, 1]
    """

    index: int
    z: Tensor
    images: Tensor
    cutouts: Views
    progress: float = 0.0


Term = Callable[[Step], Tensor]


def guide_term(guides: Guides) -> Term:
    """Pull towards the prompts."""
    return lambda step: guides.losses(step.images, step.cutouts, progress=step.progress).sum(dim=1)


def tv_term(weight: float) -> Term:
    """Penalise differences of neighbouring pixels."""
    return lambda step: weight * total_variation(step.images)


def init_term(weight: float, mode: str, z_start: Tensor, hold: Tensor | float = 1.0) -> Term:
    """Pull z towards its start, hold w/2 mean (z - z_start)^2, or to zero, w/2 mean z^2 / (2 step + 1).

    Args:
        hold: of each picture (B,), or of all.
    """
    if mode == "to_init":
        return lambda step: hold * weight / 2 * (step.z - z_start).square().flatten(1).mean(1)
    return lambda step: weight / 2 / (2 * step.index + 1) * step.z.square().flatten(1).mean(1)


def hold_of_starts(config: GuidanceConfig, prior: Prior | None, prompts: Sequence[Sequence[Prompt]]) -> Tensor:
    """Return how strongly the start of each picture is held beside others (B,): more where the prior painted it.

    A guide that never saw a green horse pulls it towards brown. A story must be free to leave its first scene.
    """
    hold = torch.ones(len(prompts))
    if config.init == "prior" and hasattr(prior, "paints"):
        for i, group in enumerate(prompts):
            text = main_text(group)
            if main_text(group, 1.0) == text and prior.paints(text):
                hold[i] = PAINTED_HOLD
    return hold


def prior_term(weight: float, prior: Prior, prompts: Sequence[Sequence[Prompt]],
               generators: Sequence[torch.Generator]) -> Term:
    """Penalise what the prior finds unlikely for the texts that pull at that moment.

    Raises:
        BadParameter: the prior has no such penalty.
    """
    if not hasattr(prior, "score_distillation"):
        raise BadParameter(f"prior_weight is {weight}, but {type(prior).__name__} has no score_distillation(z, "
                           "prompts, generators); set prior_weight=0 or use init_weight to stay near the start")

    def term(step: Step) -> Tensor:
        # those that pull now: the scenes of a story follow one another
        texts = [main_text(group, step.progress) for group in prompts]
        return weight * prior.score_distillation(step.z, texts, list(generators))

    return term


def build_terms(config: GuidanceConfig, guides: Guides, z_start: Tensor, prior: Prior | None,
                prompts: Sequence[Sequence[Prompt]], generators: Sequence[torch.Generator]) -> dict[str, Term]:
    """Return the terms that the configuration switches on, by name.

    Args:
        z_start: where z started, at the size that it has now. generators: a stream for each picture, for the prior.
    """
    terms = {"guide": guide_term(guides)}
    if config.tv_weight:
        terms["tv"] = tv_term(config.tv_weight)
    if config.init_weight:
        hold = hold_of_starts(config, prior, prompts).to(z_start)
        terms["init"] = init_term(config.init_weight, config.init_weight_mode, z_start, hold)
    if config.prior_weight:
        terms["prior"] = prior_term(config.prior_weight, prior, prompts, generators)
    return terms

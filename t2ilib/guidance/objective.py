"""What a run minimises: a guide term and optional regularisers, each a function of one step that returns (B,)."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import runtime
from ..errors import BadParameter
from .config import GuidanceConfig
from .cutouts import CutoutParameters, apply_cutouts, whole_picture
from .ops import clamp_with_grad, straight_through, total_variation
from .prompts import Prompt, Targets, embed_prompts, prompt_loss


@dataclass
class Step:
    """One iteration as the terms of the objective see it.

    Shapes:
        z (B, D, h, w), images (B, 3, H, W) in [0, 1]
    """

    index: int
    z: Tensor
    images: Tensor
    cutouts: CutoutParameters


Term = Callable[[Step], Tensor]


class Guides:
    """One or several CLIPs with shares that sum to 1, and the prompts of every picture as each of them sees it."""

    def __init__(self, clips: Sequence, weights: Sequence[float], prompts: Sequence[Sequence[Prompt]],
                 dtype: torch.dtype = torch.float32):
        if len(clips) != len(weights):
            raise BadParameter(f"got {len(clips)} guides and {len(weights)} weights; give one weight per guide")
        for clip in clips:
            if getattr(clip, "measure_only", False):
                raise BadParameter(f"{getattr(clip, 'name', 'this CLIP')} only measures: a model that guides cannot "
                                   "judge; pass a model from load_clip")
        self.clips, self.dtype = list(clips), dtype
        self.shares = [w / sum(weights) for w in weights]
        self.targets = [embed_prompts(clip, prompts) for clip in clips]

    @property
    def cut_size(self) -> int:
        """Side of the largest input among the guides."""
        return max(_side(clip) for clip in self.clips)

    def embed(self, images: Tensor, cutouts: CutoutParameters) -> list[Tensor]:
        """Return for each guide the features of all cutouts, (B, n, E) in float32; equal sizes share one warp."""
        views = {size: apply_cutouts(images, cutouts, size) for size in {_side(clip) for clip in self.clips}}
        features = []
        for clip in self.clips:
            view = views[_side(clip)]
            with runtime.autocast(images.device, self.dtype):
                f = clip.encode_image(view.flatten(0, 1))
            f = f if f.dtype == torch.float64 else f.float()
            features.append(nn.functional.normalize(f, dim=-1).unflatten(0, view.shape[:2]))
        return features

    def losses(self, images: Tensor, cutouts: CutoutParameters, pictures: slice | Tensor = slice(None)) -> Tensor:
        """Return the prompt loss under each guide times its share, for pictures whose prompts are those of `pictures`.

        Shapes:
            images (B, 3, H, W) -> (B, G)
        """
        per_guide = [share * prompt_loss(f, targets.select(pictures)) for f, targets, share in
                     zip(self.embed(images, cutouts), self.targets, self.shares, strict=True)]
        return torch.stack(per_guide, dim=1)

    @torch.no_grad()
    def similarity(self, images: Tensor) -> Tensor:
        """Return the cosine of each whole picture to its prompts (weighted mean, by |w|, of sign(w) cos): (B, G)."""
        view = whole_picture(len(images), tuple(images.shape[-2:]))

        def mean_cosine(features: Tensor, t: Targets) -> Tensor:
            cosine = (features * t.embedding).sum(-1)  # (B, 1, E) * (B, P, E)
            return (cosine * t.weight).sum(1) / t.weight.abs().sum(1)

        return torch.stack([mean_cosine(f, t) for f, t in
                            zip(self.embed(images, view), self.targets, strict=True)], dim=1)


def _side(clip) -> int:
    """Return the side of a guide's cutouts; one whose input is not square scales them itself."""
    return clip.image_size if isinstance(clip.image_size, int) else max(clip.image_size)


def render(vqgan, z: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Quantise latents straight through and decode them.

    Shapes:
        z (B, D, h, w) -> images (B, 3, H, W) in [0, 1], codes (B, h, w)
    """
    z_q, codes = straight_through(z, vqgan.codebook)
    with runtime.autocast(z.device, dtype):
        decoded = vqgan.decode(z_q)
    return clamp_with_grad((decoded.to(z.dtype) + 1) / 2), codes


def guide_term(guides: Guides) -> Term:
    """Pull towards the prompts."""
    return lambda step: guides.losses(step.images, step.cutouts).sum(dim=1)


def tv_term(weight: float) -> Term:
    """Penalise differences of neighbouring pixels."""
    return lambda step: weight * total_variation(step.images)


def init_term(weight: float, mode: str, z_start: Tensor) -> Term:
    """Pull z towards its start, w/2 mean (z - z_start)^2, or to zero, w/2 mean z^2 / (2 step + 1)."""
    if mode == "to_init":
        return lambda step: weight / 2 * (step.z - z_start).square().flatten(1).mean(1)
    return lambda step: weight / 2 / (2 * step.index + 1) * step.z.square().flatten(1).mean(1)


def prior_term(weight: float, prior, prompts: Sequence[str], generators: Sequence[torch.Generator]) -> Term:
    """Penalise what the prior finds unlikely.

    Raises:
        BadParameter: the prior has no such penalty.
    """
    if not hasattr(prior, "tether"):
        raise BadParameter(f"prior_weight is {weight}, but {type(prior).__name__} has no tether(z, prompts, "
                           "generators); set prior_weight=0 or use init_weight to stay near the start")
    return lambda step: weight * prior.tether(step.z, list(prompts), list(generators))


def build_terms(config: GuidanceConfig, guides: Guides, z_start: Tensor, prior, prompts: Sequence[str],
                generators: Sequence[torch.Generator]) -> dict[str, Term]:
    """Return the terms that the configuration switches on, by name; add to the dict to add a term of your own."""
    terms = {"guide": guide_term(guides)}
    if config.tv_weight:
        terms["tv"] = tv_term(config.tv_weight)
    if config.init_weight:
        terms["init"] = init_term(config.init_weight, config.init_weight_mode, z_start)
    if config.prior_weight:
        terms["prior"] = prior_term(config.prior_weight, prior, prompts, generators)
    return terms


@contextlib.contextmanager
def frozen(*networks) -> Iterator[None]:
    """Switch weights' gradients and training behaviour off inside the block, and restore both after it."""
    modules = [n if isinstance(n, nn.Module) else getattr(n, "model", None) for n in networks]
    modules = [m for m in modules if isinstance(m, nn.Module)]
    weights = [(p, p.requires_grad) for m in modules for p in m.parameters()]
    training = [(m, m.training) for root in modules for m in root.modules()]
    try:
        for p, _ in weights:
            p.requires_grad_(False)
        for m in modules:
            m.eval()
        yield
    finally:
        for p, required in weights:
            p.requires_grad_(required)
        for m, mode in training:
            m.training = mode

"""What a run minimises: a guide term and optional regularisers, each a function of one step that returns (B,)."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .config import GuidanceConfig
from .cutouts import CutoutParameters, apply_cutouts, whole_picture
from .ops import clamp_with_grad, straight_through, total_variation
from .prompts import Prompt, main_text
from .targets import embed_prompts, prompt_loss
from .. import runtime
from ..encoders.clip import input_side
from ..errors import BadParameter
from ..media import Box, crop_box

Views = CutoutParameters | Mapping[Box | None, CutoutParameters]


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


class Guides:
    """One or several CLIPs with shares that sum to 1, and the prompts of every picture as each of them sees it.

    Args:
        clips: the guides. weights: their shares, before they are made to sum to 1.
        prompts: of each picture.
        dtype: of the CLIPs' arithmetic.
        look: views of an image prompt, (V, 3, S, S) for a CLIP whose input has side S; needed where there are any.
        long: see `embed_prompts`.
    """

    def __init__(self, clips: Sequence, weights: Sequence[float], prompts: Sequence[Sequence[Prompt]],
                 dtype: torch.dtype = torch.float32, *, look: Callable[[Prompt, int], Tensor] | None = None,
                 long: str = "truncate"):
        if len(clips) != len(weights):
            raise BadParameter(f"got {len(clips)} guides and {len(weights)} weights; give one weight per guide")
        for clip in clips:
            if getattr(clip, "measure_only", False):
                raise BadParameter(f"{getattr(clip, 'name', 'this CLIP')} only measures: a model that guides cannot "
                                   "judge; pass a model from load_clip")
        self.clips, self.dtype = list(clips), dtype
        self.shares = [w / sum(weights) for w in weights]
        self.regions = sorted({p.region for group in prompts for p in group}, key=lambda box: box or ())
        seen = [None if look is None else _looker(clip, look) for clip in clips]
        self.targets = {region: [embed_prompts(clip, _within(region, prompts), look=see, long=long)
                                 for clip, see in zip(clips, seen, strict=True)] for region in self.regions}

    @property
    def cut_size(self) -> int:
        """Side of the largest input among the guides."""
        return max(input_side(clip) for clip in self.clips)

    def embed(self, images: Tensor, cutouts: CutoutParameters) -> list[Tensor]:
        """Return for each guide the features of all cutouts, (B, n, E) in float32; equal sizes share one warp."""
        views = {size: apply_cutouts(images, cutouts, size) for size in {input_side(clip) for clip in self.clips}}
        features = []
        for clip in self.clips:
            view = views[input_side(clip)]
            with runtime.autocast(images.device, self.dtype):
                f = clip.encode_image(view.flatten(0, 1))
            f = f if f.dtype == torch.float64 else f.float()
            features.append(nn.functional.normalize(f, dim=-1).unflatten(0, view.shape[:2]))
        return features

    def losses(self, images: Tensor, cutouts: Views, pictures: slice | Tensor = slice(None), *,
               progress: float = 0.0) -> Tensor:
        """Return the prompt loss under each guide times its share, for pictures whose prompts are those of `pictures`.

        Args:
            cutouts: of the whole picture, or of each region that prompts are confined to.
            progress: moment of the run, for prompts that come and go.

        Shapes:
            images (B, 3, H, W) -> (B, G)
        """
        total = 0.0
        for region, targets in self.targets.items():
            views = cutouts[region] if isinstance(cutouts, Mapping) else cutouts
            features = self.embed(crop_box(images, region), views)
            total = total + torch.stack([share * prompt_loss(f, t.select(pictures).at(progress)) for f, t, share in
                                         zip(features, targets, self.shares, strict=True)], dim=1)
        return total

    @torch.no_grad()
    def similarity(self, images: Tensor) -> Tensor:
        """Return the cosine of each whole picture to its prompts (weighted mean, by |w|, of sign(w) cos): (B, G).

        Prompts for a region are compared with that region, those of a story as they pull at its end.
        """
        cosine = weight = 0.0
        for region, targets in self.targets.items():
            part = crop_box(images, region)
            views = whole_picture(len(part), tuple(part.shape[-2:]))
            last = [t.at(1.0) for t in targets]
            cosine = cosine + torch.stack([((f * t.embedding).sum(-1) * t.weight).sum(1) for f, t in
                                           zip(self.embed(part, views), last, strict=True)], dim=1)
            weight = weight + torch.stack([t.weight.abs().sum(1) for t in last], dim=1)
        return cosine / weight.clamp(min=1e-12)


def _within(region: Box | None, prompts: Sequence[Sequence[Prompt]]) -> list[list[Prompt]]:
    """Return the prompts of each picture for a region; where a picture has none, another's with weight 0."""
    some = next(p for group in prompts for p in group if p.region == region)
    return [[p for p in group if p.region == region] or [replace(some, weight=0.0)] for group in prompts]


def _looker(clip, look: Callable[[Prompt, int], Tensor]) -> Callable[[Prompt], Tensor]:
    def embed(prompt: Prompt) -> Tensor:
        with torch.no_grad():
            return clip.encode_image(look(prompt, input_side(clip)))

    return embed


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
    return lambda step: guides.losses(step.images, step.cutouts, progress=step.progress).sum(dim=1)


def tv_term(weight: float) -> Term:
    """Penalise differences of neighbouring pixels."""
    return lambda step: weight * total_variation(step.images)


def init_term(weight: float, mode: str, z_start: Tensor) -> Term:
    """Pull z towards its start, w/2 mean (z - z_start)^2, or to zero, w/2 mean z^2 / (2 step + 1)."""
    if mode == "to_init":
        return lambda step: weight / 2 * (step.z - z_start).square().flatten(1).mean(1)
    return lambda step: weight / 2 / (2 * step.index + 1) * step.z.square().flatten(1).mean(1)


def prior_term(weight: float, prior, prompts: Sequence[Sequence[Prompt]],
               generators: Sequence[torch.Generator]) -> Term:
    """Penalise what the prior finds unlikely for the texts that pull at that moment.

    Raises:
        BadParameter: the prior has no such penalty.
    """
    if not hasattr(prior, "tether"):
        raise BadParameter(f"prior_weight is {weight}, but {type(prior).__name__} has no tether(z, prompts, "
                           "generators); set prior_weight=0 or use init_weight to stay near the start")

    def term(step: Step) -> Tensor:
        texts = [main_text(group, step.progress) for group in prompts]
        return weight * prior.tether(step.z, texts, list(generators))

    return term


def build_terms(config: GuidanceConfig, guides: Guides, z_start: Tensor, prior, prompts: Sequence[Sequence[Prompt]],
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

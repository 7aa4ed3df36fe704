"""The guides: one or several CLIPs, and how far pictures are from the prompts under each of them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from .cutout_parameters import CutoutParameters
from .cutouts import apply_cutouts, whole_picture
from .prompts import Prompt
from .protocols import ImageTextModel
from .targets import Targets, embed_prompts, prompt_loss
from .views import per_region
from .. import runtime
from ..encoders.clip import input_side
from ..errors import BadParameter
from ..media import Box, crop_box


class Guides:
    """One or several CLIPs with shares that sum to 1, and the prompts of every picture as each of them embeds it.

    Args:
        clips: the guides. weights: their shares, before they are made to sum to 1.
        prompts: of each picture.
        dtype: of the CLIPs' arithmetic.
        image_views: (prompt, side) -> views (V, 3, side, side) of an image prompt; needed where there are any.
        long: see `embed_prompts`.

    Attributes:
        regions: those that prompts are confined to, None (the whole picture) first.

    Raises:
        BadParameter: not one weight for each guide, or a guide that only measures.
    """

    def __init__(self, clips: Sequence[ImageTextModel], weights: Sequence[float], prompts: Sequence[Sequence[Prompt]],
                 dtype: torch.dtype = torch.float32, *, image_views: Callable[[Prompt, int], Tensor] | None = None,
                 long: str = "truncate"):
        if len(clips) != len(weights):
            raise BadParameter(f"got {len(clips)} guides and {len(weights)} weights; give one weight per guide")
        for clip in clips:
            if getattr(clip, "measure_only", False):
                name = getattr(clip, "name", "this CLIP")
                raise BadParameter(f"{name} only measures: a model that guides cannot judge; pass a model from "
                                   "load_clip")
        self.clips = list(clips)
        self.dtype = dtype
        self.shares = [weight / sum(weights) for weight in weights]
        self.regions = sorted({p.region for group in prompts for p in group}, key=lambda box: box or ())
        self.targets: dict[Box | None, list[Targets]] = {}
        for region in self.regions:
            prompts_there = _prompts_of_region(region, prompts)
            self.targets[region] = []
            for clip in self.clips:
                embed_image = None if image_views is None else functools.partial(_embed_image, clip, image_views)
                self.targets[region].append(embed_prompts(clip, prompts_there, embed_image=embed_image, long=long))

    @property
    def cut_size(self) -> int:
        """Side of the largest input among the guides."""
        return max(input_side(clip) for clip in self.clips)

    def embed(self, images: Tensor, cutouts: CutoutParameters) -> list[Tensor]:
        """Return for each guide the features of all cutouts, (B, n, E) in float32; equal sizes share one warp."""
        sides = {input_side(clip) for clip in self.clips}
        views = {side: apply_cutouts(images, cutouts, side) for side in sides}  # each (B, n, 3, side, side)
        features = []
        for clip in self.clips:
            view = views[input_side(clip)]
            with runtime.autocast(images.device, self.dtype):
                f = clip.encode_image(view.flatten(0, 1))  # (B n, E)
            if f.dtype != torch.float64:
                f = f.float()
            features.append(nn.functional.normalize(f, dim=-1).unflatten(0, view.shape[:2]))  # (B, n, E)
        return features

    def losses(self, images: Tensor, cutouts: CutoutParameters | Mapping[Box | None, CutoutParameters],
               pictures: slice | Tensor = slice(None), *, progress: float = 0.0) -> Tensor:
        """Return the prompt loss under each guide times its share.

        Args:
            cutouts: of the whole picture, or of each region that prompts are confined to.
            pictures: those of the run, by index, to whose prompts the images are compared.
            progress: moment of the run, for prompts that come and go.

        Shapes:
            images (B, 3, H, W) -> (B, G)
        """
        cutouts = per_region(cutouts, self.regions)
        total = 0.0
        for region, targets in self.targets.items():
            features = self.embed(crop_box(images, region), cutouts[region])
            losses = []
            for f, target, share in zip(features, targets, self.shares, strict=True):
                losses.append(share * prompt_loss(f, target.select(pictures).at(progress)))
            total = total + torch.stack(losses, dim=1)  # (B, G)
        return total

    @torch.no_grad()
    def similarity(self, images: Tensor) -> Tensor:
        """Return the cosine of each whole picture to its prompts (weighted mean, by |w|, of sign(w) cos): (B, G).

        Prompts for a region are compared with that region, those of a story as they pull at its end.
        """
        cosine = 0.0
        weight = 0.0
        for region, targets in self.targets.items():
            part = crop_box(images, region)
            cutouts = whole_picture(len(part), tuple(part.shape[-2:]))
            cosines = []
            weights = []
            for f, target in zip(self.embed(part, cutouts), targets, strict=True):
                target = target.at(1.0)
                cosine_to_each = (f * target.embedding).sum(-1)  # (B, P)
                cosines.append((cosine_to_each * target.weight).sum(1))
                weights.append(target.weight.abs().sum(1))
            cosine = cosine + torch.stack(cosines, dim=1)  # (B, G)
            weight = weight + torch.stack(weights, dim=1)
        return cosine / weight.clamp(min=1e-12)


def _prompts_of_region(region: Box | None, prompts: Sequence[Sequence[Prompt]]) -> list[list[Prompt]]:
    """Return the prompts of each picture for a region; where a picture has none, another's with weight 0."""
    substitute = next(p for group in prompts for p in group if p.region == region)
    result = []
    for group in prompts:
        of_region = [p for p in group if p.region == region]
        result.append(of_region or [replace(substitute, weight=0.0)])
    return result


@torch.no_grad()
def _embed_image(clip: ImageTextModel, image_views: Callable[[Prompt, int], Tensor], prompt: Prompt) -> Tensor:
    """Return the features (V, E) of the views of an image prompt."""
    return clip.encode_image(image_views(prompt, input_side(clip)))

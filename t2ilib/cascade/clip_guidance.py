"""CLIP guidance: while the first network draws, a CLIP says in which direction the picture shows the text better."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .pictures import enlarge
from .stage import Stage
from .. import diffusion
from ..data.augment import random_affine
from ..encoders import Clip, TextCache
from ..encoders.clip import input_side
from ..errors import BadParameter
from ..kernels import cutouts
from ..media import to_unit

SOFT_EDGE = 0.1  # of the similarity, over which guidance fades out below its threshold


@dataclass(frozen=True)
class ClipGuidance:
    """A step up a CLIP's similarity, on what the network believes the picture to be.

    The step is taken on the predicted x_0, so nothing is differentiated but the CLIP, and the sampler goes on from
    there. Only early steps are guided: what a CLIP likes late is a texture that nobody else sees, and what it liked
    early the network has time to draw properly.

    Attributes:
        clip: `.encode_image`, `.encode_text`, `.image_size`; a model that does not judge.
        scale: root mean square of the change in a step, of pictures in [-1, 1]; 0 is none.
        interval: the times (low, high) between which there are such steps; 1 is noise, 0 the picture.
        views: of each picture, moved, turned and scaled a little, over which the gradient is averaged.
        similarity_threshold: a similarity, in units of this CLIP, from which on a picture is left alone; over the last
            0.1 below it the step shrinks to nothing. What real drawings have is a good choice: beyond it the CLIP adds
            smears of colour. None is never.

    Raises:
        BadParameter: a number out of range, or a model that only measures.

    References:
        Nichol et al. 2022, "GLIDE", arXiv:2112.10741, section 2.4; He et al. 2024, "Manifold preserving guided
        diffusion", arXiv:2311.16424 (the step on x_0).
    """

    clip: Clip
    scale: float = 0.3
    interval: tuple[float, float] = (0.4, 1.0)
    views: int = 2
    similarity_threshold: float | None = None
    _encode: TextCache[Tensor] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        if getattr(self.clip, "measure_only", False):
            raise BadParameter(f"{self.clip.name} measures only; what guides must not judge, so name another CLIP")
        low, high = self.interval
        if self.scale < 0 or self.views < 1 or not 0 <= low <= high <= 1:
            raise BadParameter("CLIP guidance needs a scale of at least 0, at least one view and an interval 0 <= low "
                               f"<= high <= 1; got {self.scale}, {self.views} and {self.interval}")
        object.__setattr__(self, "_encode", TextCache(lambda texts: self.clip.encode_text(texts).detach()))

    def steer(self, denoiser: diffusion.Denoiser, stage: Stage, texts: Sequence[Any],
              generators: Sequence[torch.Generator], *, threshold: str, percentile: float) -> diffusion.Denoiser:
        """Return the denoiser with this guidance; each picture's views depend on its own stream.

        Raises:
            BadParameter: a text that was given as a condition, which a CLIP cannot read, or a stage among latents.
        """
        if stage.space is not None:
            raise BadParameter("CLIP guidance works among pixels; a first stage that draws latents needs "
                               "clip_guidance=None")
        if not all(isinstance(text, str) for text in texts):
            raise BadParameter("CLIP guidance reads texts; conditions from encode or mix_conditions need clip_guidance="
                               "None")
        text_features = torch.stack(self._encode(texts))  # (B, D)
        schedule = stage.noising
        low, high = self.interval

        def steered(x_t: Tensor, t: Tensor) -> Tensor:
            prediction = denoiser(x_t, t)
            if self.scale == 0 or not low <= float(t.max()) <= high:
                return prediction
            x_0, _ = diffusion.to_x0_eps(x_t, t, prediction, target=stage.target, schedule=schedule)
            x_0 = diffusion.threshold_x0(x_0, threshold, percentile=percentile)
            x_0 = x_0 + self.scale * self._direction(x_0, text_features, generators)
            alpha, sigma = diffusion.alpha_sigma(t, x_t.ndim, schedule=schedule)
            eps = (x_t - alpha * x_0) / sigma
            return diffusion.training_target(x_0, t, eps, target=stage.target, schedule=schedule)

        return steered

    def _direction(self, x_0: Tensor, text_features: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return in which direction the similarity grows, as pictures (B, 3, H, W).

        It is the gradient, blurred a little, with a root mean square of 1 for each picture, or less for those that are
        similar enough.
        """
        matrices = [random_affine(self.views, generator, degrees=8, scale=(0.85, 1.1), stretch=0.1, shift=0.08)
                    for generator in generators]
        with torch.enable_grad():
            x = x_0.detach().float().requires_grad_()
            similarity = self._similarity(x, text_features, torch.stack(matrices))  # (B * views,)
            (gradient,) = torch.autograd.grad(similarity.sum(), x)
        gradient = F.avg_pool2d(gradient, 3, stride=1, padding=1, count_include_pad=False)
        root_mean_square = gradient.square().mean((1, 2, 3), keepdim=True).sqrt()
        direction = gradient / root_mean_square.clamp(min=1e-12)
        if self.similarity_threshold is None:
            return direction
        similarity = similarity.detach().unflatten(0, (-1, self.views)).mean(1)  # (B,)
        missing = self.similarity_threshold - similarity
        return direction * (missing / SOFT_EDGE).clamp(0, 1)[:, None, None, None]

    def _similarity(self, x: Tensor, text_features: Tensor, matrices: Tensor) -> Tensor:
        """Return the similarity of each view of each picture to its text: x (B, 3, H, W) -> (B * views,)."""
        side = input_side(self.clip)
        pictures = enlarge(to_unit(x.clamp(-1, 1)), side)
        # of the negative, because cutouts are black where they reach beyond the picture, and the ground is white
        views = 1 - cutouts(1 - pictures, matrices, side, antialias=False).flatten(0, 1)  # (B * views, 3, side, side)
        features = self.clip.encode_image(views).float()
        return (features * text_features.repeat_interleave(self.views, 0)).sum(1)

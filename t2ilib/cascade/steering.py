"""CLIP guidance: while the first network draws, a CLIP says in which direction the picture shows the text better."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .pictures import enlarge
from .walk import Stage
from .. import diffusion
from ..data.augment import random_affine
from ..encoders.clip import input_side
from ..errors import BadParameter
from ..kernels import cutouts


@dataclass(frozen=True)
class ClipGuidance:
    """A step up a CLIP's similarity, on what the network believes the picture to be.

    The step is taken on the predicted x_0, so nothing is differentiated but the CLIP, and the sampler goes on from
    there. Its early steps alone: what a CLIP likes late is a texture that nobody else sees, and what it liked early
    the network has time to draw properly.

    Attributes:
        clip: `.encode_image`, `.encode_text`, `.image_size`; a model that does not judge.
        scale: root mean square of the change in a step, of pictures in [-1, 1]; 0 is none.
        interval: the times (low, high) between which there are such steps; 1 is noise, 0 the picture.
        views: of each picture, moved, turned and scaled a little, over which the gradient is averaged.
        enough: a similarity, in units of this CLIP, from which on a picture is left alone; over the last 0.1 below it
            the step shrinks to nothing. What real drawings have is a good choice: more than that is smears of colour.
            None is never.

    References:
        Nichol et al. 2022, "GLIDE", arXiv:2112.10741, section 2.4; He et al. 2024, "Manifold preserving guided
        diffusion", arXiv:2311.16424 (the step on x_0).
    """

    clip: Any
    scale: float = 0.3
    interval: tuple[float, float] = (0.4, 1.0)
    views: int = 2
    enough: float | None = None
    _texts: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self):
        if getattr(self.clip, "measure_only", False):
            raise BadParameter(f"{self.clip.name} measures only; what guides must not judge, so name another CLIP")
        low, high = self.interval
        if self.scale < 0 or self.views < 1 or not 0 <= low <= high <= 1:
            raise BadParameter("CLIP guidance needs a scale of at least 0, at least one view and an interval 0 <= low "
                               f"<= high <= 1; got {self.scale}, {self.views} and {self.interval}")

    def steer(self, denoiser: diffusion.Denoiser, stage: Stage, texts: Sequence[Any],
              streams: Sequence[torch.Generator], *, threshold: str, percentile: float) -> diffusion.Denoiser:
        """Return the denoiser with this guidance; each picture's views depend on its own stream.

        Raises:
            BadParameter: a text that was given as a condition, which a CLIP cannot read, or a stage among latents.
        """
        if stage.space:
            raise BadParameter("CLIP guidance works among pixels; a first stage that draws latents needs "
                               "clip_guidance=None")
        if not all(isinstance(text, str) for text in texts):
            raise BadParameter("CLIP guidance reads texts; conditions from encode or mix_conditions need clip_guidance="
                               "None")
        wanted = self._encode(list(texts))

        def steered(x_t: Tensor, t: Tensor) -> Tensor:
            prediction = denoiser(x_t, t)
            if not self.scale or not self.interval[0] <= float(t.max()) <= self.interval[1]:
                return prediction
            kind = dict(target=stage.target, schedule=stage.noising)
            x_0, _ = diffusion.to_x0_eps(x_t, t, prediction, **kind)
            x_0 = diffusion.threshold_x0(x_0, threshold, percentile=percentile)
            x_0 = x_0 + self.scale * self._direction(x_0, wanted, streams)
            alpha, sigma = diffusion.alpha_sigma(t, x_t.ndim, schedule=stage.noising)
            return diffusion.training_target(x_0, t, (x_t - alpha * x_0) / sigma, **kind)

        return steered

    def _encode(self, texts: list[str]) -> Tensor:
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if new:
            self._texts.update(zip(new, self.clip.encode_text(new).detach(), strict=True))
        return torch.stack([self._texts[text] for text in texts])

    def _direction(self, x_0: Tensor, wanted: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        """Return the gradient of the similarity, blurred a little, with a root mean square of 1 for each picture, or
        less for those that are similar enough."""
        matrices = torch.stack([random_affine(self.views, stream, degrees=8, scale=(0.85, 1.1), stretch=0.1, shift=0.08)
                                for stream in streams])
        side = input_side(self.clip)
        with torch.enable_grad():
            x = x_0.detach().float().requires_grad_()
            hidden = 1 - enlarge(x.clamp(-1, 1) * 0.5 + 0.5, side)  # so that what comes in from outside is white
            seen = 1 - cutouts(hidden, matrices, side, antialias=False).flatten(0, 1)
            similarity = (self.clip.encode_image(seen).float() * wanted.repeat_interleave(self.views, 0)).sum(1)
            (gradient,) = torch.autograd.grad(similarity.sum(), x)
        gradient = F.avg_pool2d(gradient, 3, stride=1, padding=1, count_include_pad=False)
        gradient = gradient / gradient.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-12)
        if self.enough is None:
            return gradient
        missing = self.enough - similarity.detach().unflatten(0, (-1, self.views)).mean(1)  # (B,)
        return gradient * (missing / 0.1).clamp(0, 1)[:, None, None, None]

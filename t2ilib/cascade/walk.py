"""The settings of a cascade, and all that it knows of schedules, targets and samplers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from .latents import LatentSpace
from .. import diffusion
from ..diffusion.samplers import SAMPLERS, get_sampler, keep_known
from ..errors import BadParameter, check_name


@dataclass(frozen=True)
class Stage:
    """One network of a cascade, and what it was trained for.

    Attributes:
        network: `(x_t, t, tokens, mask, pooled, low=, low_t=) -> prediction`, with `without_text`.
        size: side of its pictures. schedule, shift, target: of `diffusion`.
        level: time to which the smaller picture is noised when sampling; the first stage ignores it.
        space: where the network works if not among pixels; of the first stage only.
    """

    network: nn.Module
    size: int
    schedule: str = "cosine"
    shift: float = 0.0
    target: str = "v"
    level: float = 0.1
    space: LatentSpace | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the shape (C, H, W) of what the network draws."""
        return self.space.shape(self.size) if self.space else (3, self.size, self.size)

    def encode(self, pictures: Tensor) -> Tensor:
        """Return what the network would have drawn: pictures (B, 3, size, size) in [-1, 1] themselves, or latents."""
        return self.space.encode(pictures) if self.space else pictures

    def decode(self, x: Tensor) -> Tensor:
        """Return pictures (B, 3, size, size) in [-1, 1] of what the network drew."""
        return self.space.decode(x) if self.space else x.clamp(-1, 1)

    @property
    def noising(self) -> diffusion.Schedule:
        """Return the schedule with its shift."""
        return diffusion.Schedule(self.schedule, self.shift)

    @classmethod
    def card_names(cls) -> set[str]:
        """Return the names of what a stage is beside its network, as a checkpoint says it."""
        return {f.name for f in fields(cls)} - {"network", "space"}

    def card(self) -> dict[str, Any]:
        """Return what a checkpoint must say of the network, as plain JSON types: `Stage(network, **card)`."""
        return {name: getattr(self, name) for name in sorted(self.card_names())}


@dataclass(frozen=True)
class Sampling:
    """How to draw.

    A number for `guidance_scale` or `steps` is the first stage's: those above it, whose smaller picture says already
    what there is, do without guidance (scale 1) and with half the steps. A list gives each stage its own value.

    Attributes:
        guidance_scale: classifier-free guidance; 1 is the plain conditional network.
        steps: of the sampler. sampler: a name in `SAMPLERS`.
        threshold: what keeps guided pixels in [-1, 1]; latents know no bounds. "none", "static" clips, "dynamic"
            (Saharia et al. 2022, section 2.3) clips at the given percentile and rescales. That spares the colours of
            photographs; drawings on white, whose ground is at the end of the range already, it turns grey.
        interval: times between which there is guidance.
        negative: text to be guided away from, in the place of "no text".
        clip_guidance: a `ClipGuidance` of the first stage, which then takes texts only.
    """

    guidance_scale: float | Sequence[float] = 3.0
    steps: int | Sequence[int] = 12
    sampler: str = "dpm_solver"
    threshold: str = "static"
    percentile: float = 0.995
    interval: tuple[float, float] = (0.0, 1.0)
    negative: str | None = None
    clip_guidance: Any = None

    def __post_init__(self):
        check_name("sampler", self.sampler, SAMPLERS)
        check_name("threshold", self.threshold, diffusion.THRESHOLDS)
        if min(_listed(self.guidance_scale)) < 0 or min(_listed(self.steps)) < 1 or not 0 < self.percentile <= 1:
            raise BadParameter(f"need guidance_scale >= 0, steps >= 1 and percentile in (0, 1], got "
                               f"{self.guidance_scale}, {self.steps} and {self.percentile}")

    @classmethod
    def of(cls, options: dict[str, Any]) -> "Sampling":
        """Return the settings of these names; raises UnknownName for a misspelt one."""
        known = {f.name for f in fields(cls)}
        for name in options:
            check_name("setting", name, known)
        return cls(**options)

    def of_stage(self, name: str, stage: int, stages: int) -> Any:
        """Return `guidance_scale` or `steps` at one of so many stages."""
        value = getattr(self, name)
        if isinstance(value, (int, float)):
            above = 1.0 if name == "guidance_scale" else (value + 1) // 2
            return above if stage else value
        if len(value) != stages:
            raise BadParameter(f"{name} must be one value or one for each of the {stages} stages, got {list(value)}")
        return value[stage]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def split(generator: torch.Generator, count: int) -> list[torch.Generator]:
    """Return independent streams drawn from a stream; the first ones do not depend on how many are asked for."""
    return [torch.Generator().manual_seed(int(torch.randint(2**63 - 1, (), generator=generator)))
            for _ in range(count)]


def walk(denoiser: diffusion.Denoiser, x_t: Tensor, stage: Stage, settings: Sampling, *, steps: int, start: float,
         streams: Sequence[torch.Generator], keep: tuple[Tensor, Tensor] | None,
         callback: Callable[[int, Tensor], None]) -> Tensor:
    """Sample from x_t (B, C, H, W) at time `start` down to 0, with one stream for each picture.

    Args:
        keep: pictures (B, C, H, W), and where (B, 1, H, W) bool they are to be kept.
    """
    constrain = None
    if keep is not None:
        constrain = keep_known(*keep, [split(g, 1)[0] for g in streams], schedule=stage.noising)
    threshold = "none" if stage.space else settings.threshold
    return get_sampler(settings.sampler)(
        denoiser, x_t, steps=steps, start=start, schedule=stage.noising, target=stage.target, generators=streams,
        threshold=threshold, percentile=settings.percentile, constrain=constrain, callback=callback)

"""How a cascade draws: guidance, steps, sampler, thresholding."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..diffusion import SAMPLERS, THRESHOLDS
from ..errors import BadParameter, check_name
from ..options import check_fields, option


@dataclass(frozen=True)
class Sampling:
    """How to draw.

    A number for `guidance_scale` or `steps` is the first stage's: those above it, whose smaller picture says already
    what there is, do without guidance (scale 1) and with half the steps. A list gives each stage its own value.

    Thresholding keeps guided pixels in [-1, 1]; latents have no fixed range and are never thresholded. "dynamic"
    (Saharia et al. 2022, section 2.3) clips at the given percentile and rescales. That spares the colours of
    photographs; drawings on white, whose ground is at the end of the range already, it turns grey.

    Attributes:
        clip_guidance: a `ClipGuidance` of the first stage, which then takes texts only.

    Raises:
        UnknownName: sampler or threshold. BadParameter: a number out of range.
    """

    guidance_scale: float | Sequence[float] = option(
        3.0, "drawing", "how literally the first network takes the words; 1 is free, 8 burns colours. A list: each "
        "stage's own", type="float | list[float]", low=0, high=1000, slider=(0.0, 8.0))
    steps: int | Sequence[int] = option(
        12, "drawing", "of the first network, which decides what there is; those that enlarge take half as many. A "
        "list: each stage's own", type="int | list[int]", low=1, high=10_000, slider=(1, 100))
    sampler: str = option("dpm_solver", "drawing", "`dpm_solver`, `ddim` or `ancestral`", choices=tuple(SAMPLERS))
    threshold: str = option(
        "static", "drawing", "what keeps guided pixels in range: `static`, `dynamic` or `none`", choices=THRESHOLDS)
    percentile: float = option(
        0.995, "drawing", "of the pixels, where dynamic thresholding cuts", low=0, low_open=True, high=1)
    interval: tuple[float, float] = option(
        (0.0, 1.0), "drawing", "times between which there is guidance; 1 is noise, 0 the picture", type="list[float]",
        low=0, high=1)
    negative: str | None = option(
        None, "drawing", "a text to be guided away from, in the place of no text: a thing as captions name it, such as "
        "`a red circle`; a bare `red` is nearly no text to the shipped networks, and changes little",
        type="str | None")
    coring: float = option(
        0.04, "drawing", "what is fainter than this, on a scale of 2, is taken from the details that the enlarging "
        "networks add: grain on plain grounds; 0 takes nothing", low=0, high=2)
    clip_guidance: Any = None

    def __post_init__(self):
        check_fields(self)

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "Sampling":
        """Return the settings of these names; raises UnknownName for a misspelt one."""
        known = [field.name for field in fields(cls)]
        for name in settings:
            check_name("setting", name, known)
        return cls(**settings)

    def scale_of(self, stage: int, stages: int) -> float:
        """Return the guidance scale of one of so many stages."""
        if isinstance(self.guidance_scale, float):
            return self.guidance_scale if stage == 0 else 1.0
        return _each(self.guidance_scale, "guidance_scale", stages)[stage]

    def steps_of(self, stage: int, stages: int) -> int:
        """Return the steps of one of so many stages."""
        if isinstance(self.steps, int):
            return self.steps if stage == 0 else (self.steps + 1) // 2
        return _each(self.steps, "steps", stages)[stage]


def _each(values: Sequence, name: str, stages: int) -> Sequence:
    if len(values) != stages:
        raise BadParameter(f"{name} must be one value or one for each of the {stages} stages, got {list(values)}")
    return values

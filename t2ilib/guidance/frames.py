"""The frames of a film: each is a short run that continues from the frame before."""

import dataclasses
from typing import Any

from torch import Tensor

from .config import GuidanceConfig
from ..errors import BadParameter

SEED_STRIDE = 2**32  # from one frame's seed to the next: more than there are pictures in a batch


def first_config(config: GuidanceConfig, steps: int, **changes: Any) -> GuidanceConfig:
    """Return the configuration of the pictures with which a film begins."""
    return dataclasses.replace(config, steps=steps, subspace_steps=min(config.subspace_steps, steps), **changes)


def continuing_config(config: GuidanceConfig, steps: int, learning_rate: float | None) -> GuidanceConfig:
    """Return the configuration of the frames that continue from another one."""
    rate = config.learning_rate if learning_rate is None else learning_rate
    return dataclasses.replace(config, init="latents", init_image=None, mask=None, redraw=0.0, progressive=(),
                               candidates=1, subspace_steps=0, steps=steps, learning_rate=rate)


def sized_config(config: GuidanceConfig, images: Tensor) -> GuidanceConfig:
    """Return the configuration with the size of pictures (B, 3, H, W) that are there already."""
    return dataclasses.replace(config, height=images.shape[-2], width=images.shape[-1])


def frame_config(config: GuidanceConfig, frame: int, **changes: Any) -> GuidanceConfig:
    """Return the configuration of one frame, with random numbers of its own."""
    return dataclasses.replace(config, seed=config.seed + frame * SEED_STRIDE, **changes)


def check_counts(**counts: tuple[int, int]) -> None:
    """Raise BadParameter unless each count, given as (value, minimum) by name, is a whole number from its minimum."""
    for name, (value, low) in counts.items():
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if not is_whole or value < low:
            raise BadParameter(f"{name} must be a whole number of at least {low}, got {value!r}")

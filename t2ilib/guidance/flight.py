"""A flight into a picture that is painted on while it grows: a camera that moves, and short runs in between."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import GuidanceConfig
from .frames import check_counts, continuing_config, first_config, frame_config, sized_config
from .loop import vqgan_clip
from .networks import frozen, load_networks
from .protocols import CodingNetwork, ImageTextModel, Prior
from ..errors import BadParameter
from ..media import to_signed


def zoom(config: GuidanceConfig, *, frames: int = 60, steps_per_frame: int = 4, zoom: float = 1.02,
         pan: tuple[float, float] = (0.0, 0.0), rotate: float = 0.0, first_steps: int | None = None,
         learning_rate: float | None = 0.15, vqgan: CodingNetwork | None = None,
         clips: ImageTextModel | Sequence[ImageTextModel] | None = None, prior: Prior | None = None,
         **start: Any) -> Iterator[Tensor]:
    """Return the frames of a flight into a picture that is painted on while it grows.

    Each frame is the one before, moved (see `move`), encoded again by the VQGAN and optimised for a few steps. Without
    any step, colours drift by what the VQGAN loses each time. The optimiser is a new one in each frame: what it had
    gathered belonged to places that have moved.

    Args:
        config: of the first frame, and of the others except for the arguments here.
        frames: all of them, the first included.
        steps_per_frame: optimiser steps of each frame. first_steps: of the first one, default `config.steps`.
        zoom, pan, rotate: from one frame to the next, see `move`.
        learning_rate: of all frames but the first; None takes that of `config`.
        vqgan, clips, prior: as for `vqgan_clip`, loaded once; the VQGAN also needs `.encode`.
        start: `latents` or `basis` for the first frame, see `vqgan_clip`. A finished picture is flown into with
            `init="latents"`, `first_steps=0` and `latents=result.z`.

    Raises:
        BadParameter: a number is out of range; at once, before the first frame.
    """
    first_steps = config.steps if first_steps is None else first_steps
    check_counts(frames=(frames, 1), steps_per_frame=(steps_per_frame, 0), first_steps=(first_steps, 0))
    camera = {"zoom": zoom, "pan": pan, "rotate": rotate}
    _camera_matrix(1.0, **camera)  # refuses bad numbers
    vqgan, clips, _ = load_networks(config, vqgan, clips)
    networks = {"vqgan": vqgan, "clips": clips, "prior": prior}
    first = first_config(config, first_steps)
    later = continuing_config(config, steps_per_frame, learning_rate)
    return _zoom_frames(first, later, frames, camera, networks, start)


def _zoom_frames(first: GuidanceConfig, later: GuidanceConfig, frames: int, camera: dict[str, Any],
                 networks: dict[str, Any], start: dict[str, Any]) -> Iterator[Tensor]:
    vqgan = networks["vqgan"]
    images = vqgan_clip(first, **networks, **start).images
    later = sized_config(later, images)
    yield images
    for i in range(1, frames):
        with torch.no_grad(), frozen(vqgan):
            z = vqgan.encode(to_signed(move(images, **camera)))
        images = vqgan_clip(frame_config(later, i), **networks, latents=z).images
        yield images


def move(images: Tensor, *, zoom: float = 1.0, pan: tuple[float, float] = (0.0, 0.0), rotate: float = 0.0) -> Tensor:
    """Return pictures through a moved camera: one bicubic resampling of floats, the edge drawn out beyond it.

    Args:
        zoom: above 1 the picture grows. pan: the camera moves right and down, in shares of width and height.
        rotate: the picture turns clockwise, in degrees.

    Shapes:
        images (B, 3, H, W) in [0, 1] -> the same

    Raises:
        BadParameter: zoom is not above 0, or a number is not finite.
    """
    aspect = images.shape[-2] / images.shape[-1]
    theta = _camera_matrix(aspect, zoom, pan, rotate).to(images)
    theta = theta.expand(len(images), 2, 3)
    grid = F.affine_grid(theta, images.shape, align_corners=False)  # (B, H, W, 2)
    # bicubic: bilinear sampling, frame after frame, would blur
    return F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False).clamp(0, 1)


def _camera_matrix(aspect: float, zoom: float, pan: tuple[float, float], rotate: float) -> Tensor:
    """Return the matrix (2, 3) from a place in the new picture to its place in the old one, for an aspect H / W."""
    if len(pan) != 2 or not all(map(math.isfinite, (*pan, zoom, rotate))) or zoom <= 0:
        raise BadParameter(f"need zoom above 0, pan=(x, y) and rotate, all finite, got {zoom}, {pan} and {rotate}")
    angle = math.radians(rotate)
    cos = math.cos(angle) / zoom
    sin = math.sin(angle) / zoom
    x, y = pan
    return torch.tensor([[cos, sin * aspect, 2 * x],
                         [-sin / aspect, cos, 2 * y]])

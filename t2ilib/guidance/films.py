"""Films by VQGAN+CLIP: between finished pictures, between prompts, and into a picture, as generators of frames.

Every frame is (B, 3, H, W) in [0, 1]; a film writer, a notebook or a test takes them one by one. Equal seeds give equal
frames, bit for bit on the CPU, and each film of a batch has its own stream.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import GuidanceConfig
from .loop import vqgan_clip
from .networks import frozen, load_networks
from .ops import slerp, z_bounds
from .painting import render
from .prompts import Prompt, parse_prompts
from .protocols import Prior
from ..errors import BadParameter, check_name
from ..layers.quantize import vector_quantize

EASES: dict[str, Callable[[float], float]] = {
    "linear": lambda t: t,
    "smooth": lambda t: (1 - math.cos(math.pi * t)) / 2,  # rests at both ends
}
SEED_STRIDE = 2**32  # from one frame's seed to the next: more than there are pictures in a batch
PULL = 0.2  # share of its distance to the straight way that a guided film gives up in each frame

PromptSpec = str | Prompt | Sequence[str | Prompt]


BLENDS = {"slerp": slerp, "linear": torch.lerp}


def interpolate_latents(vqgan, keys: Tensor, *, frames_between: int = 14, mode: str = "slerp", snap: bool = False,
                        extrapolate: float = 0.0, ease: str = "smooth") -> Iterator[Tensor]:
    """Return the frames that lead from each of several finished pictures to the next, and beyond them.

    The film passes exactly through the pictures of the keys. Without `snap` it moves more smoothly: with the
    shipped VQGAN, codes that flip make frames jump seven to twelve times as much (mean second difference), while
    single frames look alike and are equally sharp. Slerp keeps colours that a linear blend turns grey.

    Args:
        vqgan: `.decode`, `.codebook`.
        keys: (N, D, h, w), such as `Result.z`, or (N, B, D, h, w) for B films side by side.
        frames_between: frames between two keys, which are frames themselves.
        mode: "slerp" (of each position's vector) or "linear".
        snap: quantise every frame; else the decoder gets what lies between the codes.
        extrapolate: how far to go on, straight, before the first key and after the last, as a share of the way
            between two.
        ease: "smooth" rests at the keys, "linear" does not.

    Raises:
        BadParameter: fewer than two keys, another shape, or a number out of range; at once, before the first frame.
    """
    check_name("mode", mode, BLENDS)
    _check(ease, frames_between=(frames_between, 0))
    if not 0 <= extrapolate < math.inf:
        raise BadParameter(f"extrapolate must be a share of at least 0, got {extrapolate}; 0.5 is half a way more")
    if keys.ndim not in (4, 5) or len(keys) < 2 or keys.shape[-3] != vqgan.codebook.shape[1]:
        raise BadParameter(f"keys must have shape (N, {vqgan.codebook.shape[1]}, h, w), or (N, B, ...), with N of at "
                           f"least 2, got {tuple(keys.shape)}; Result.z of several pictures fits")
    keys = keys.detach().to(vqgan.codebook.device)
    places = _places(len(keys), frames_between + 1, extrapolate, EASES[ease])
    return _between(vqgan, keys if keys.ndim == 5 else keys[:, None], places, BLENDS[mode], snap)


def _between(vqgan, keys: Tensor, places: list[float], blend: Callable, snap: bool) -> Iterator[Tensor]:
    keys = _on_codes(keys, vqgan.codebook)
    low, high = (bound.to(keys.dtype) for bound in z_bounds(vqgan.codebook))
    for place in places:
        first = min(max(math.floor(place), 0), len(keys) - 2)
        way = torch.lerp if place < 0 or place > len(keys) - 1 else blend  # turning on would leave the known colours
        z = way(keys[first], keys[first + 1], place - first).clamp(low, high)
        with torch.no_grad(), frozen(vqgan):  # not around the yield: whoever takes the frame may want gradients
            images = render(vqgan, z)[0] if snap else ((vqgan.decode(z) + 1) / 2).clamp(0, 1)
        yield images


def _places(keys: int, steps: int, extrapolate: float, curve: Callable[[float], float]) -> list[float]:
    """Return where each frame lies, in units of keys."""
    beyond = round(extrapolate * steps)
    tail = [extrapolate * curve(i / beyond) for i in range(1, beyond + 1)]
    inner = [key + curve(i / steps) for key in range(keys - 1) for i in range(steps)]
    return [-x for x in reversed(tail)] + inner + [keys - 1 + x for x in (0.0, *tail)]


def _on_codes(keys: Tensor, codebook: Tensor) -> Tensor:
    return vector_quantize(keys.flatten(0, 1), codebook)[0].unflatten(0, keys.shape[:2])


def interpolate_prompts(config: GuidanceConfig, prompts: Sequence[PromptSpec], *, frames: int = 15,
                        steps_per_frame: int = 4, first_steps: int | None = None, learning_rate: float | None = None,
                        anchored: bool | None = None, ease: str = "smooth", vqgan=None, clips=None,
                        prior: Prior | None = None, **start: Any) -> Iterator[Tensor]:
    """Return the frames in which a picture of the first prompt becomes one of the second, and so on.

    Each frame continues from the one before for a few steps towards "A:1-t | B:t", with an optimiser and cutouts of
    its own. A small guide alone paints the second thing onto the first: it seldom gets from a heart to a car.
    `anchored` therefore makes the pictures of all prompts first, and moves each frame's latents along the way between
    two of them (see `interpolate_latents`) while the guides, and the prior, correct what lies between.

    Args:
        config: of the pictures of the prompts; of the frames too, except for what is given here. Its own prompt is
            not used; with `num_images` above 1 there are so many films side by side.
        prompts: two or more, each in the form that `parse_prompts` reads.
        frames: from one prompt's picture to the next one's: 1 + frames * (N - 1) in all.
        steps_per_frame: optimiser steps of each frame. first_steps: of the prompts' pictures, default `config.steps`.
        learning_rate: of the frames, default that of `config`.
        anchored: make all pictures first; default: where `config.init` is "prior" or "latents".
        ease: of the change of weights, "smooth" or "linear".
        vqgan, clips, prior: as for `vqgan_clip`, loaded once.
        start: `latents` or `basis` for the prompts' pictures, see `vqgan_clip`; `latents` are for all of them if the
            film is anchored (prompt after prompt), else for the first.

    Raises:
        BadParameter: fewer than two prompts, or a number out of range; at once, before the first frame.
    """
    groups = [parse_prompts(prompt) for prompt in prompts] if not isinstance(prompts, (str, Prompt)) else []
    if len(groups) < 2:
        raise BadParameter(f"a film between prompts needs a list of at least two, got {prompts!r}")
    first_steps = config.steps if first_steps is None else first_steps
    _check(ease, frames=(frames, 1), steps_per_frame=(steps_per_frame, 0), first_steps=(first_steps, 0))
    anchored = config.init != "random" if anchored is None else anchored
    vqgan, clips, _ = load_networks(config, vqgan, clips)
    given = {"vqgan": vqgan, "clips": clips, "prior": prior}
    base = dataclasses.replace(config, prompt=tuple(_mixed((group, 1.0)) for group in groups[:None if anchored else 1]),
                               steps=first_steps, subspace_steps=min(config.subspace_steps, first_steps))
    later = _of_frames(config, steps_per_frame, learning_rate)
    return _prompt_frames(base, later, groups, frames, EASES[ease], given, start)


def _prompt_frames(base: GuidanceConfig, later: GuidanceConfig, groups: Sequence[Sequence[Prompt]], frames: int,
                   curve: Callable[[float], float], given: dict[str, Any], start: dict[str, Any]) -> Iterator[Tensor]:
    result = vqgan_clip(base, **given, **start)
    later, films = _sized(later, result.images), base.num_images
    keys, pictures = result.z.unflatten(0, (-1, films)), result.images.unflatten(0, (-1, films))
    anchored = len(keys) > 1
    keys = _on_codes(keys, given["vqgan"].codebook)
    z, way = keys[0], keys[0]
    yield pictures[0]
    for leg in range(len(groups) - 1):
        for i in range(1, frames + 1):
            t = curve(i / frames)
            if anchored and i == frames:
                z = way = keys[leg + 1]
                yield pictures[leg + 1]
                continue
            if anchored:
                moved = slerp(keys[leg], keys[leg + 1], t)
                z, way = torch.lerp(z + moved - way, moved, max(PULL, 1 / (frames - i + 1))), moved
            mixed = _mixed((groups[leg], 1 - t), (groups[leg + 1], t))
            result = vqgan_clip(_at(later, leg * frames + i, prompt=(mixed,)), **given, latents=z)
            z = result.z
            yield result.images


def _mixed(*shares: tuple[Sequence[Prompt], float]) -> tuple[Prompt, ...]:
    """Return the prompts of several groups as one, their weights times the groups' shares."""
    prompts = [dataclasses.replace(p, weight=p.weight * share) for group, share in shares for p in group]
    return tuple(p for p in prompts if p.weight)


def zoom(config: GuidanceConfig, *, frames: int = 60, steps_per_frame: int = 4, zoom: float = 1.02,
         pan: tuple[float, float] = (0.0, 0.0), rotate: float = 0.0, first_steps: int | None = None,
         learning_rate: float | None = 0.15, vqgan=None, clips=None, prior: Prior | None = None,
         **start: Any) -> Iterator[Tensor]:
    """Return the frames of a flight into a picture that is painted on while it grows.

    Each frame is the one before, moved (see `move`), encoded again by the VQGAN and optimised for a few steps. Without
    any step, colours drift by what the VQGAN loses each time. The optimiser is a new one in each frame: what it had
    gathered belonged to places that have moved.

    Args:
        config: of the first frame, and of the others except for what is given here.
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
    _check("linear", frames=(frames, 1), steps_per_frame=(steps_per_frame, 0), first_steps=(first_steps, 0))
    camera = {"zoom": zoom, "pan": pan, "rotate": rotate}
    _camera(1.0, **camera)
    vqgan, clips, _ = load_networks(config, vqgan, clips)
    given = {"vqgan": vqgan, "clips": clips, "prior": prior}
    base = dataclasses.replace(config, steps=first_steps, subspace_steps=min(config.subspace_steps, first_steps))
    return _zoom_frames(base, _of_frames(config, steps_per_frame, learning_rate), frames, camera, given, start)


def _zoom_frames(base: GuidanceConfig, later: GuidanceConfig, frames: int, camera: dict[str, Any],
                 given: dict[str, Any], start: dict[str, Any]) -> Iterator[Tensor]:
    images, vqgan = vqgan_clip(base, **given, **start).images, given["vqgan"]
    later = _sized(later, images)
    yield images
    for i in range(1, frames):
        with torch.no_grad(), frozen(vqgan):
            z = vqgan.encode(2 * move(images, **camera) - 1)
        images = vqgan_clip(_at(later, i), **given, latents=z).images
        yield images


def move(images: Tensor, *, zoom: float = 1.0, pan: tuple[float, float] = (0.0, 0.0), rotate: float = 0.0) -> Tensor:
    """Return pictures as a moved camera sees them: one bicubic resampling of floats, the edge drawn out beyond it.

    Args:
        zoom: above 1 the picture grows. pan: the camera moves right and down, in shares of width and height.
        rotate: the picture turns clockwise, in degrees.

    Shapes:
        images (B, 3, H, W) in [0, 1] -> the same

    Raises:
        BadParameter: zoom is not above 0, or a number is not finite.
    """
    theta = _camera(images.shape[-2] / images.shape[-1], zoom, pan, rotate).to(images).expand(len(images), 2, 3)
    grid = F.affine_grid(theta, images.shape, align_corners=False)
    # bicubic: bilinear sampling, frame after frame, would blur
    return F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False).clamp(0, 1)


def _camera(aspect: float, zoom: float, pan: tuple[float, float], rotate: float) -> Tensor:
    """Return the matrix (2, 3) from where a pixel is seen to where it was, for an aspect H / W."""
    if len(pan) != 2 or not all(map(math.isfinite, (*pan, zoom, rotate))) or zoom <= 0:
        raise BadParameter(f"need zoom above 0, pan=(x, y) and rotate, all finite, got {zoom}, {pan} and {rotate}")
    cos, sin = math.cos(math.radians(rotate)) / zoom, math.sin(math.radians(rotate)) / zoom
    return torch.tensor([[cos, sin * aspect, 2 * pan[0]], [-sin / aspect, cos, 2 * pan[1]]])


def _of_frames(config: GuidanceConfig, steps: int, learning_rate: float | None) -> GuidanceConfig:
    """Return the configuration of the frames that continue from another one."""
    rate = config.learning_rate if learning_rate is None else learning_rate
    return dataclasses.replace(config, init="latents", init_image=None, mask=None, redraw=0.0, progressive=(),
                               candidates=1, subspace_steps=0, steps=steps, learning_rate=rate)


def _sized(config: GuidanceConfig, images: Tensor) -> GuidanceConfig:
    return dataclasses.replace(config, height=images.shape[-2], width=images.shape[-1])


def _at(config: GuidanceConfig, frame: int, **changes: Any) -> GuidanceConfig:
    """Return the configuration of one frame, which sees its picture through cutouts of its own."""
    return dataclasses.replace(config, seed=config.seed + frame * SEED_STRIDE, **changes)


def _check(ease: str, **numbers: tuple[int, int]) -> None:
    """Refuse an unknown ease, and whole numbers below their minimum."""
    check_name("ease", ease, EASES)
    for name, (value, low) in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise BadParameter(f"{name} must be a whole number of at least {low}, got {value!r}")

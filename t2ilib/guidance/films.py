"""Films by VQGAN+CLIP: between finished pictures and between prompts, as generators of frames; see also `flight`.

Every frame is (B, 3, H, W) in [0, 1]; a film writer, a notebook or a test takes them one by one. Equal seeds give equal
frames, bit for bit on the CPU, and each film of a batch has its own stream.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .config import GuidanceConfig
from .frames import check_counts, continuing_config, first_config, frame_config, sized_config
from .loop import vqgan_clip
from .networks import frozen, load_networks
from .ops import slerp, z_bounds
from .painting import render
from .prompts import Prompt, parse_prompts
from .protocols import ImageTextModel, PaintingNetwork, Prior
from ..errors import BadParameter, check_name
from ..layers.quantize import vector_quantize
from ..media import to_unit

EASES: dict[str, Callable[[float], float]] = {
    "linear": lambda t: t,
    "smooth": lambda t: (1 - math.cos(math.pi * t)) / 2,  # rests at both ends
}
Blend = Callable[[Tensor, Tensor, float], Tensor]
BLENDS: dict[str, Blend] = {"slerp": slerp, "linear": torch.lerp}
PULL = 0.2  # share of its distance to the way between two pictures that a film gives up in each frame

PromptSpec = str | Prompt | Sequence[str | Prompt]


def interpolate_latents(vqgan: PaintingNetwork, keys: Tensor, *, frames_between: int = 14, mode: str = "slerp",
                        snap: bool = False, extrapolate: float = 0.0, ease: str = "smooth") -> Iterator[Tensor]:
    """Return the frames that lead from each of several finished pictures to the next, and beyond them.

    The film passes exactly through the pictures of the keys. Without `snap` it moves more smoothly: with the
    shipped VQGAN, codes that flip make frames jump seven to twelve times as much (mean second difference), while
    single frames look alike and are equally sharp. Slerp keeps colours that a linear blend turns grey.

    Args:
        vqgan: what paints the frames.
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
    check_name("ease", ease, EASES)
    check_counts(frames_between=(frames_between, 0))
    if not 0 <= extrapolate < math.inf:
        raise BadParameter(f"extrapolate must be a share of at least 0, got {extrapolate}; 0.5 is half a way more")
    if keys.ndim not in (4, 5) or len(keys) < 2 or keys.shape[-3] != vqgan.codebook.shape[1]:
        raise BadParameter(f"keys must have shape (N, {vqgan.codebook.shape[1]}, h, w), or (N, B, ...), with N of at "
                           f"least 2, got {tuple(keys.shape)}; Result.z of several pictures fits")
    keys = keys.detach().to(vqgan.codebook.device)
    if keys.ndim == 4:
        keys = keys[:, None]  # (N, 1, D, h, w)
    places = _places(len(keys), frames_between + 1, extrapolate, EASES[ease])
    return _latent_frames(vqgan, keys, places, BLENDS[mode], snap)


def _latent_frames(vqgan: PaintingNetwork, keys: Tensor, places: list[float], blend: Blend, snap: bool
                   ) -> Iterator[Tensor]:
    keys = _on_codes(keys, vqgan.codebook)  # (N, B, D, h, w)
    low, high = z_bounds(vqgan.codebook)
    low = low.to(keys.dtype)
    high = high.to(keys.dtype)
    for place in places:
        first = min(max(math.floor(place), 0), len(keys) - 2)
        is_beyond = place < 0 or place > len(keys) - 1
        # beyond the keys in a straight line: turning further would leave the colours of the codes
        blend_here = torch.lerp if is_beyond else blend
        z = blend_here(keys[first], keys[first + 1], place - first).clamp(low, high)
        # the block ends before the yield: who takes the frame may want gradients
        with torch.no_grad(), frozen(vqgan):
            if snap:
                images, _ = render(vqgan, z)
            else:
                images = to_unit(vqgan.decode(z)).clamp(0, 1)
        yield images


def _places(keys: int, steps: int, extrapolate: float, curve: Callable[[float], float]) -> list[float]:
    """Return where each frame lies, in units of keys."""
    beyond = round(extrapolate * steps)
    tail = [extrapolate * curve(i / beyond) for i in range(1, beyond + 1)]
    before = [-x for x in reversed(tail)]
    inner = [key + curve(i / steps) for key in range(keys - 1) for i in range(steps)]
    after = [keys - 1 + x for x in (0.0, *tail)]
    return before + inner + after


def _on_codes(keys: Tensor, codebook: Tensor) -> Tensor:
    """Return latents moved to their nearest codes: (N, B, D, h, w) -> the same."""
    z_q, _ = vector_quantize(keys.flatten(0, 1), codebook)
    return z_q.unflatten(0, keys.shape[:2])


def interpolate_prompts(config: GuidanceConfig, prompts: Sequence[PromptSpec], *, frames: int = 15,
                        steps_per_frame: int = 4, first_steps: int | None = None, learning_rate: float | None = None,
                        anchored: bool | None = None, ease: str = "smooth", vqgan: PaintingNetwork | None = None,
                        clips: ImageTextModel | Sequence[ImageTextModel] | None = None, prior: Prior | None = None,
                        **start: Any) -> Iterator[Tensor]:
    """Return the frames in which a picture of the first prompt becomes one of the second, and so on.

    Each frame continues from the one before for a few steps towards "A:1-t | B:t", with an optimiser and cutouts of
    its own. A small guide alone paints the second thing onto the first: it seldom gets from a heart to a car.
    `anchored` therefore makes the pictures of all prompts first, and moves each frame's latents along the way between
    two of them (see `interpolate_latents`) while the guides and the prior correct what lies between.

    Args:
        config: of the pictures of the prompts; of the frames too, except for the arguments here. Its own prompt is
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
    is_one_prompt = isinstance(prompts, (str, Prompt))
    if is_one_prompt or len(prompts) < 2:
        raise BadParameter(f"a film between prompts needs a list of at least two, got {prompts!r}")
    groups = [parse_prompts(prompt) for prompt in prompts]
    first_steps = config.steps if first_steps is None else first_steps
    check_name("ease", ease, EASES)
    check_counts(frames=(frames, 1), steps_per_frame=(steps_per_frame, 0), first_steps=(first_steps, 0))
    anchored = config.init != "random" if anchored is None else anchored
    vqgan, clips, _ = load_networks(config, vqgan, clips)
    networks = {"vqgan": vqgan, "clips": clips, "prior": prior}
    groups_at_start = groups if anchored else groups[:1]
    first = first_config(config, first_steps, prompt=tuple(_mixed((group, 1.0)) for group in groups_at_start))
    later = continuing_config(config, steps_per_frame, learning_rate)
    return _prompt_frames(first, later, groups, frames, EASES[ease], networks, start)


def _prompt_frames(first: GuidanceConfig, later: GuidanceConfig, groups: Sequence[Sequence[Prompt]], frames: int,
                   curve: Callable[[float], float], networks: dict[str, Any], start: dict[str, Any]
                   ) -> Iterator[Tensor]:
    result = vqgan_clip(first, **networks, **start)
    later = sized_config(later, result.images)
    films = first.num_images
    pictures = result.images.unflatten(0, (-1, films))  # (N or 1, films, 3, H, W)
    keys = _on_codes(result.z.unflatten(0, (-1, films)), networks["vqgan"].codebook)
    anchored = len(keys) > 1
    z = keys[0]
    way = keys[0]  # where the way between two pictures is now
    yield pictures[0]
    for leg in range(len(groups) - 1):
        for i in range(1, frames + 1):
            if anchored and i == frames:
                z = keys[leg + 1]
                way = keys[leg + 1]
                yield pictures[leg + 1]
                continue
            share = curve(i / frames)
            if anchored:
                next_way = slerp(keys[leg], keys[leg + 1], share)
                pull = max(PULL, 1 / (frames - i + 1))  # the last frame arrives
                z = torch.lerp(z + next_way - way, next_way, pull)
                way = next_way
            prompt = _mixed((groups[leg], 1 - share), (groups[leg + 1], share))
            result = vqgan_clip(frame_config(later, leg * frames + i, prompt=(prompt,)), **networks, latents=z)
            z = result.z
            yield result.images


def _mixed(*groups_and_shares: tuple[Sequence[Prompt], float]) -> tuple[Prompt, ...]:
    """Return the prompts of several groups as one group, their weights times the groups' shares."""
    mixed = []
    for group, share in groups_and_shares:
        for prompt in group:
            if prompt.weight * share:
                mixed.append(dataclasses.replace(prompt, weight=prompt.weight * share))
    return tuple(mixed)

"""What the parts of one run share: networks, sizes, prompts as the guides see them, random streams, what is kept."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .config import GuidanceConfig
from .cutout_methods import draw_method
from .cutouts import CutoutParameters, apply_cutouts, whole_picture
from .latents import Prior
from .objective import Guides, Views, frozen, render
from .prompts import Prompt, main_text
from .schedule import stages
from .tiles import cut_windows, decode_tiled, draw_windows
from .. import runtime
from ..errors import BadParameter
from ..media import Box, box_pixels, fit_picture, load_mask, load_picture

IMAGE_VIEWS = 8  # of an image prompt: the whole picture, and cutouts


class RunSetup:
    """Networks and settings of a run, for all of its steps.

    Attributes:
        prompts: of every picture. texts: what a prior is asked for at the start. seeds: of every picture.
        size: final size (h, w) in codes. stages: see `schedule.stages`. window: part of the grid that is decoded at
            once, in codes, or None.
        memory_estimate: bytes of a step, once it was asked for (see `memory.check_memory`).
        kept: for each size in codes of a run with a mask, the picture that it keeps, (1, 3, H, W), and the mask
            (1, 1, H, W); empty without a mask.
    """

    def __init__(self, config: GuidanceConfig, vqgan, clips, prior: Prior | None):
        self.config, self.prior = config, prior
        self.memory_estimate: int | None = None
        self.vqgan, clips, weights = load_networks(config, vqgan, clips)
        self.device = self.vqgan.codebook.device
        self.dtype = runtime.pick_dtype(self.device, config.precision)
        self.prompts = [group for group in config.prompts() for _ in range(config.num_images)]
        self.texts = [main_text(group) for group in self.prompts]
        self.seeds = config.seeds()
        self.size = _latent_size(config, self.vqgan)
        self.stages = stages(config.steps, self.size, config.progressive)
        self.image_size, self.start_size = self.pixels(self.size), self.pixels(self.stages[0].size)
        self.window = self._window()
        self.networks = [self.vqgan, *clips]
        self.kept = self._load_kept()
        with frozen(*self.networks):
            self.guides = Guides(clips, weights, self.prompts, self.dtype, look=self._look,
                                 long=config.long_prompts)
        names = {region: "cutouts" + ("" if region is None else f" {region}") for region in self.guides.regions}
        self.streams = {region: self.generators(name) for region, name in names.items()}
        self.tile_streams = self.generators("tiles")

    def generators(self, name: str) -> list[torch.Generator]:
        """Return one random stream for each picture, independent of the rest of the batch."""
        return [runtime.generator(seed, "guidance", name) for seed in self.seeds]

    def pixels(self, size: Sequence[int]) -> tuple[int, int]:
        """Return (H, W) of a grid of (h, w) codes."""
        return size[0] * self.vqgan.factor, size[1] * self.vqgan.factor

    def _window(self) -> tuple[int, int] | None:
        if self.config.tile is None:
            return None
        if any(p.region for group in self.prompts for p in group):
            raise BadParameter("a prompt for a region needs the whole picture at each step; leave out tile or regions")
        return tuple(min(side, max(1, self.config.tile // self.vqgan.factor)) for side in self.size)

    def _load_kept(self) -> dict[tuple[int, int], tuple[Tensor, ...]]:
        if self.config.mask is None:
            return {}
        whole = (fit_picture(load_picture(self.config.init_image), self.image_size),
                 load_mask(self.config.mask, self.image_size))
        return {size: tuple(fit_picture(x.to(self.device), self.pixels(size))[None] for x in whole)
                for size in {self.size, *(stage.size for stage in self.stages)}}

    def draw(self, image_size: tuple[int, int]) -> Views:
        """Draw the cutouts of the next step for every region of pictures of this size."""
        return {region: self._draw(streams, self.config.num_cutouts, self._region_size(region, image_size))
                for region, streams in self.streams.items()}

    def draw_quiet(self, streams: Sequence[torch.Generator], num: int) -> Views:
        """Draw cutouts of pictures as they start, without noise, from streams of one's own."""
        return {region: self._draw(streams, num, self._region_size(region, self.start_size), noise=0.0)
                for region in self.streams}

    def whole(self, pictures: int) -> Views:
        """Return the view of whole pictures as they start, and of each region."""
        return {region: whole_picture(pictures, self._region_size(region, self.start_size)) for region in self.streams}

    def _draw(self, streams: Sequence[torch.Generator], num: int, image_size: tuple[int, int],
              **changes: Any) -> CutoutParameters:
        c = self.config
        given = {"cut_pow": c.cut_pow, "min_cut": c.min_cut, "max_cut": c.max_cut, "noise": c.noise,
                 "augmentations": c.augmentations, **changes}
        return draw_method(c.cutouts, streams, num, image_size, cut_size=self.guides.cut_size,
                           **{k: v for k, v in given.items() if v is not None})

    def _region_size(self, region: Box | None, image_size: tuple[int, int]) -> tuple[int, int]:
        if region is None:
            return image_size
        return tuple(end - first for first, end in box_pixels(region, image_size))

    def _look(self, prompt: Prompt, side: int) -> Tensor:
        """Return views (V, 3, side, side) of an image prompt: all of it, and cutouts as the run's own."""
        picture = load_picture(prompt.text)[None].to(self.device)
        c, stream = self.config, [runtime.generator(0, "guidance", "image prompt")]
        size = tuple(picture.shape[-2:])
        cutouts = draw_method(c.cutouts, stream, IMAGE_VIEWS - 1, size, cut_size=side, noise=0.0,
                              **({} if c.augmentations is None else {"augmentations": c.augmentations}))
        return torch.cat([apply_cutouts(picture, whole_picture(1, size), side),
                          apply_cutouts(picture, cutouts, side)], dim=1)[0]

    def draw_windows(self, size: tuple[int, int]) -> list[tuple[int, int]] | None:
        """Return where each picture's window lies in a grid of this size, or None where all of it is decoded."""
        part = self.shown(size)
        return None if part == size else draw_windows(self.tile_streams, size, part)

    def shown(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the part of a grid of this size that is decoded at once, (h, w) in codes: all of it, or a window."""
        return size if self.window is None else tuple(map(min, size, self.window))

    def paint(self, z: Tensor, corners: list[tuple[int, int]] | None = None) -> Tensor:
        """Return the pictures of latents, or of a window of each, with what the mask keeps: (B, 3, H, W) in [0, 1]."""
        size = tuple(z.shape[-2:])
        part = z if corners is None else cut_windows(z, corners, self.shown(size))
        images, _ = render(self.vqgan, part, self.dtype)
        return self._keep(images, size, corners)

    def _keep(self, images: Tensor, size: tuple[int, int], corners: list[tuple[int, int]] | None = None) -> Tensor:
        if not self.kept:
            return images
        base, mask = self.kept[size]
        if corners is not None:
            base, mask = (cut_windows(x, corners, self.shown(size), self.vqgan.factor) for x in (base, mask))
        return base + mask * (images - base)

    @torch.no_grad()
    def finish(self, z: Tensor) -> Tensor:
        """Return whole pictures, window by window where that was asked for."""
        size = tuple(z.shape[-2:])
        if self.shown(size) == size:
            return self.paint(z)
        images = decode_tiled(lambda part: render(self.vqgan, part, self.dtype)[0], z, self.shown(size))
        return self._keep(images, size)


def load_networks(config: GuidanceConfig, vqgan=None, clips=None) -> tuple[Any, list, Sequence[float]]:
    """Load what was not given; return the VQGAN, the guides and their weights."""
    if vqgan is None:
        from ..models.vqgan import load_vqgan

        vqgan = load_vqgan(config.model).to(runtime.pick_device(config.device))
    if clips is None:
        from ..encoders import load_clip

        clips = [load_clip(name, device=vqgan.codebook.device) for name in config.clip]
    clips = list(clips) if isinstance(clips, (list, tuple)) else [clips]
    weights = config.clip_weights
    if len(clips) != len(weights):
        if len(set(weights)) > 1:
            raise BadParameter(f"got {len(clips)} guides and clip_weights {weights}; give one weight per guide")
        weights = [weights[0]] * len(clips)
    return vqgan, clips, weights


def _latent_size(config: GuidanceConfig, vqgan) -> tuple[int, int]:
    """Return (h, w) in codes; say so where a side is not a multiple of the factor."""
    native = getattr(vqgan, "resolution", None) or getattr(vqgan, "config", {}).get("resolution")
    default = (native, native)
    if config.init_image is not None and config.width is None and config.height is None and native:
        height, width = load_picture(config.init_image).shape[-2:]  # the picture's aspect, the native area
        scale = native / (height * width) ** 0.5
        default = tuple(max(vqgan.factor, round(side * scale / vqgan.factor) * vqgan.factor)
                        for side in (height, width))
    codes = []
    for name, given, own in zip(("height", "width"), (config.height, config.width), default, strict=True):
        value = own if given is None else given
        if value is None:
            raise BadParameter(f"{name} is not given and the VQGAN has no size of its own; set width and height")
        if value < vqgan.factor:
            raise BadParameter(f"{name} {value} holds no whole code: this VQGAN needs at least {vqgan.factor} pixels")
        codes.append(value // vqgan.factor)
        if value % vqgan.factor:
            warnings.warn(f"{name} {value} is not a multiple of {vqgan.factor}: the picture has "
                          f"{codes[-1] * vqgan.factor}", stacklevel=4)
    return codes[0], codes[1]

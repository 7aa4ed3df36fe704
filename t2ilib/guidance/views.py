"""What the guides see of a picture: the cutouts of each step, for the whole picture and for each region of it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .config import GuidanceConfig
from .cutout_methods import draw_method
from .cutout_parameters import CutoutParameters
from .cutouts import apply_cutouts, whole_picture
from .noise import picture_streams
from .prompts import Prompt
from .. import runtime
from ..media import Box, box_pixels, load_picture

IMAGE_PROMPT_VIEWS = 8  # of an image prompt: the whole picture, and cutouts
Views = dict[Box | None, CutoutParameters]  # cutouts of each region; None is the whole picture


def per_region(cutouts: CutoutParameters | Mapping[Box | None, CutoutParameters],
               regions: Sequence[Box | None]) -> Views:
    """Return cutouts for each region, where one set may be meant for all of them."""
    if isinstance(cutouts, Mapping):
        return {region: cutouts[region] for region in regions}
    return dict.fromkeys(regions, cutouts)


class ViewDrawer:
    """Draw the cutouts of a run.

    Args:
        config: the method of cutting, its settings and the number of cutouts.
        regions: those that prompts are confined to; None is the whole picture.
        cut_size: side of the largest input among the guides.
        seeds: of every picture.

    Attributes:
        streams: for each region a random stream for each picture.
    """

    def __init__(self, config: GuidanceConfig, regions: Sequence[Box | None], cut_size: int, seeds: Sequence[int]):
        self.method = config.cutouts
        self.num_cutouts = config.num_cutouts
        self.cut_size = cut_size
        self.streams: dict[Box | None, list[torch.Generator]] = {}
        for region in regions:
            name = "cutouts" if region is None else f"cutouts {region}"
            self.streams[region] = picture_streams(seeds, name)
        settings = {"cut_pow": config.cut_pow, "min_cut": config.min_cut, "max_cut": config.max_cut,
                    "noise": config.noise, "augmentations": config.augmentations}
        self.settings = {name: value for name, value in settings.items() if value is not None}

    def draw(self, image_size: tuple[int, int]) -> Views:
        """Draw the cutouts of the next step, of pictures of this size (H, W)."""
        views = {}
        for region, streams in self.streams.items():
            size = region_size(region, image_size)
            views[region] = draw_method(self.method, streams, self.num_cutouts, size, cut_size=self.cut_size,
                                        **self.settings)
        return views

    def draw_for_selection(self, streams: Sequence[torch.Generator], num: int, image_size: tuple[int, int]) -> Views:
        """Draw `num` cutouts without noise from these streams: through them, pictures are compared."""
        settings = {**self.settings, "noise": 0.0}
        views = {}
        for region in self.streams:
            size = region_size(region, image_size)
            views[region] = draw_method(self.method, streams, num, size, cut_size=self.cut_size, **settings)
        return views

    def whole(self, pictures: int, image_size: tuple[int, int]) -> Views:
        """Return the view of whole pictures, and of each whole region."""
        return {region: whole_picture(pictures, region_size(region, image_size)) for region in self.streams}


def region_size(region: Box | None, image_size: tuple[int, int]) -> tuple[int, int]:
    """Return (H, W) in pixels of a region of a picture of this size."""
    if region is None:
        return image_size
    rows, columns = box_pixels(region, image_size)
    return rows[1] - rows[0], columns[1] - columns[0]


def image_prompt_views(config: GuidanceConfig, prompt: Prompt, side: int, device: torch.device) -> Tensor:
    """Return the views of an image prompt, (V, 3, side, side): all of it, and cutouts by the run's method."""
    picture = load_picture(prompt.text)[None].to(device)  # (1, 3, H, W)
    size = tuple(picture.shape[-2:])
    streams = [runtime.generator(0, "guidance", "image prompt")]
    settings = {} if config.augmentations is None else {"augmentations": config.augmentations}
    cutouts = draw_method(config.cutouts, streams, IMAGE_PROMPT_VIEWS - 1, size, cut_size=side, noise=0.0, **settings)
    whole_view = apply_cutouts(picture, whole_picture(1, size), side)  # (1, 1, 3, side, side)
    cutout_views = apply_cutouts(picture, cutouts, side)  # (1, V - 1, 3, side, side)
    return torch.cat([whole_view, cutout_views], dim=1)[0]

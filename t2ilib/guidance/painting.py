"""From latents to pictures: at every size of a run, whole or in windows, with what a mask keeps of an image."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from .config import GuidanceConfig
from .noise import picture_streams
from .ops import clamp_with_grad
from .protocols import PaintingNetwork
from .schedule import growth_stages
from .tiles import cut_windows, decode_tiled, draw_windows
from .. import runtime
from ..errors import BadParameter
from ..layers.quantize import vector_quantize
from ..media import fit_picture, load_mask, load_picture, to_unit

Size = tuple[int, int]  # (height, width)
Corners = list[tuple[int, int]]  # (top, left) of each picture's window, in codes


def render(vqgan: PaintingNetwork, z: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Quantise latents straight through and decode them.

    Shapes:
        z (B, D, h, w) -> images (B, 3, H, W) in [0, 1], codes (B, h, w)
    """
    z_q, codes = vector_quantize(z, vqgan.codebook)
    # Channels lie innermost in z_q. `view_as` gives a single picture strides from which torch cannot tell, so that its
    # convolutions take the other layout, which rounds differently. The pictures that are published were drawn this way.
    z_q = z_q.view_as(z_q)
    with runtime.autocast(z.device, dtype):
        decoded = vqgan.decode(z_q)
    return clamp_with_grad(to_unit(decoded.to(z.dtype))), codes


class Painter:
    """Paint the pictures of a run from latents.

    Args:
        config: sizes, tile and mask. vqgan: the network. seeds: of every picture. dtype: of the network's arithmetic.

    Attributes:
        size: final size (h, w) in codes. stages: the sizes on the way there, see `growth_stages`.
        image_size, start_size: (H, W) in pixels at the end and at the start.
        window: part of the grid that is decoded at once, (h, w) in codes, or None for all of it.
        window_streams: a random stream for each picture, from which the places of its windows are drawn.
        kept: for each size in codes of a run with a mask, the picture that it keeps (1, 3, H, W) and the mask
            (1, 1, H, W), which is 1 where the picture may change; empty without a mask.

    Raises:
        BadParameter: a side holds no whole code, or is not known.
    """

    def __init__(self, config: GuidanceConfig, vqgan: PaintingNetwork, seeds: Sequence[int],
                 dtype: torch.dtype = torch.float32):
        self.vqgan = vqgan
        self.dtype = dtype
        self.size = latent_size(config, vqgan)
        self.stages = growth_stages(config.steps, self.size, config.progressive)
        self.image_size = self.pixels(self.size)
        self.start_size = self.pixels(self.stages[0].size)
        self.window: Size | None = None
        if config.tile is not None:
            side = max(1, config.tile // vqgan.factor)
            self.window = (min(side, self.size[0]), min(side, self.size[1]))
        self.window_streams = picture_streams(seeds, "tiles")
        self.kept: dict[Size, tuple[Tensor, Tensor]] = {}
        if config.mask is not None:
            self._load_kept(config)

    def _load_kept(self, config: GuidanceConfig) -> None:
        picture = fit_picture(load_picture(config.init_image), self.image_size)
        mask = load_mask(config.mask, self.image_size)
        device = self.vqgan.codebook.device
        for size in [self.size, *(stage.size for stage in self.stages)]:
            pixels = self.pixels(size)
            picture_there = fit_picture(picture.to(device), pixels)[None]  # (1, 3, H, W)
            mask_there = fit_picture(mask.to(device), pixels)[None]  # (1, 1, H, W)
            self.kept[size] = (picture_there, mask_there)

    def pixels(self, size: Size) -> Size:
        """Return (H, W) of a grid of (h, w) codes."""
        return size[0] * self.vqgan.factor, size[1] * self.vqgan.factor

    def decoded_size(self, size: Size) -> Size:
        """Return the part of a grid of this size that is decoded at once, (h, w) in codes: all of it, or a window."""
        if self.window is None:
            return size
        return min(size[0], self.window[0]), min(size[1], self.window[1])

    def draw_windows(self, size: Size) -> Corners | None:
        """Return where each picture's window lies in a grid of this size, or None where all of it is decoded."""
        window = self.decoded_size(size)
        if window == size:
            return None
        return draw_windows(self.window_streams, size, window)

    def decode(self, z: Tensor) -> Tensor:
        """Return the pictures of latents: (B, D, h, w) -> (B, 3, H, W) in [0, 1]; `paint` adds what a mask keeps.

        A painter that quantises or decodes in another way overrides this.
        """
        images, _ = render(self.vqgan, z, self.dtype)
        return images

    def paint(self, z: Tensor, corners: Corners | None = None) -> Tensor:
        """Return the pictures of latents, or of a window of each, with what the mask keeps: (B, 3, H, W) in [0, 1]."""
        size = tuple(z.shape[-2:])
        if corners is not None:
            z = cut_windows(z, corners, self.decoded_size(size))
        return self._keep(self.decode(z), size, corners)

    @torch.no_grad()
    def finish(self, z: Tensor) -> Tensor:
        """Return whole pictures, decoded window by window where that was asked for: (B, 3, H, W) in [0, 1]."""
        size = tuple(z.shape[-2:])
        window = self.decoded_size(size)
        if window == size:
            return self.paint(z)
        return self._keep(decode_tiled(self.decode, z, window), size)

    def _keep(self, images: Tensor, size: Size, corners: Corners | None = None) -> Tensor:
        """Return the pictures with the masked picture's pixels where it is kept."""
        if not self.kept:
            return images
        picture, mask = self.kept[size]
        if corners is not None:
            window = self.decoded_size(size)
            picture = cut_windows(picture, corners, window, self.vqgan.factor)
            mask = cut_windows(mask, corners, window, self.vqgan.factor)
        return picture + mask * (images - picture)


def latent_size(config: GuidanceConfig, vqgan: PaintingNetwork) -> Size:
    """Return (h, w) in codes; warn where a side is not a multiple of the network's factor.

    A side that the configuration leaves open is the network's own, or has the aspect of the image that a run starts
    from.

    Raises:
        BadParameter: a side holds no whole code, or is not known.
    """
    resolution = getattr(vqgan, "resolution", None) or getattr(vqgan, "config", {}).get("resolution")
    default = (resolution, resolution)
    sides_are_open = config.width is None and config.height is None
    if config.init_image is not None and sides_are_open and resolution:
        default = _size_like(config.init_image, resolution, vqgan.factor)
    height = _codes("height", config.height, default[0], vqgan.factor)
    width = _codes("width", config.width, default[1], vqgan.factor)
    return height, width


def _size_like(path: str, resolution: int, factor: int) -> Size:
    """Return the size in pixels that has the aspect of a picture file and the area of the resolution."""
    height, width = load_picture(path).shape[-2:]
    scale = resolution / (height * width) ** 0.5
    rows = max(1, round(height * scale / factor))
    columns = max(1, round(width * scale / factor))
    return rows * factor, columns * factor


def _codes(name: str, side: int | None, default: int | None, factor: int) -> int:
    """Return how many whole codes lie along a side of so many pixels."""
    pixels = default if side is None else side
    if pixels is None:
        raise BadParameter(f"{name} is not given and the VQGAN has no size of its own; set width and height")
    if pixels < factor:
        raise BadParameter(f"{name} {pixels} holds no whole code: this VQGAN needs at least {factor} pixels")
    codes = pixels // factor
    if pixels % factor:
        warnings.warn(f"{name} {pixels} is not a multiple of {factor}: the picture has {codes * factor}", stacklevel=6)
    return codes

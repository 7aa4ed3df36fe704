"""Pictures and masks from files, brought to a size; and the parts of a picture that a box names."""

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import BadParameter, MissingInput

# explicit: PIL knows formats that start other programs (EPS runs Ghostscript) or stand for files elsewhere
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "ICO", "JPEG2000")
MOST_PIXELS = 100_000_000
Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in shares of a picture, from its upper left corner


def open_rgba(picture: "bytes | str | Path | Image.Image") -> Image.Image:
    """Return encoded bytes, a file or a PIL image as a PIL image of mode RGBA, upright as its EXIF data say.

    Raises:
        BadParameter: it has more than 100 million pixels. OSError, ValueError, SyntaxError: it is damaged, or of a
            format that is not in FORMATS.
    """
    if isinstance(picture, (bytes, bytearray, memoryview)):
        picture = io.BytesIO(picture)
    image = picture if isinstance(picture, Image.Image) else _open(picture)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I;16", "I", "F")):
        image = _to_8_bits(image)
    return image.convert("RGBA")


def _open(picture: Any) -> Image.Image:
    """Open a file whose size is known to be bearable before anything of it is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is our own
            image = Image.open(picture, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise BadParameter(f"the picture has more than {MOST_PIXELS:,} pixels ({error}); scale it down") from error
    if image.width * image.height > MOST_PIXELS:
        raise BadParameter(f"the picture has {image.width} x {image.height} pixels, at most {MOST_PIXELS:,} are read; "
                           "scale it down")
    return image


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale a grey picture of whole numbers of 16 bits, or of floats, to 0..255; PIL's own conversion would clip it."""
    values = np.asarray(image).astype(np.float64)
    if image.mode.startswith("I"):
        top = 65535.0
    else:
        top = 255.0 if values.max() > 1 else 1.0
    return Image.fromarray((values / top * 255).round().clip(0, 255).astype(np.uint8))


def load_picture(path: str | Path) -> Tensor:
    """Read a picture file, transparent parts on white: (3, H, W) in [0, 1].

    Raises:
        MissingInput: there is no such file. BadParameter: it cannot be read as a picture.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise MissingInput(f"no picture at {path}; correct the path")
    try:
        image = open_rgba(path)
    except (OSError, ValueError, SyntaxError) as error:  # what PIL raises for broken files, by format
        raise BadParameter(f"{path} cannot be read as a picture ({error}); give a PNG, JPEG or WebP file") from error
    pixels = torch.from_numpy(np.asarray(image).copy()).movedim(-1, 0).float() / 255  # (4, H, W)
    colour = pixels[:3]
    opacity = pixels[3:]
    return colour * opacity + (1 - opacity)


def stack_pictures(images: Sequence[Image.Image]) -> Tensor:
    """Return PIL pictures of one size as a batch: (B, 3, H, W) in [0, 1]."""
    arrays = [torch.from_numpy(np.array(image.convert("RGB"))) for image in images]
    return torch.stack(arrays).movedim(-1, 1) / 255


def fit_picture(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale a picture until it covers the size and cut off what is too much at both ends; nothing is squashed.

    Shapes:
        picture (C, H, W) -> (C, size[0], size[1])
    """
    height, width = picture.shape[-2:]
    scale = max(size[0] / height, size[1] / width)
    scaled = (max(size[0], round(height * scale)), max(size[1], round(width * scale)))
    if scaled != (height, width):
        picture = F.interpolate(picture[None], scaled, mode="bicubic", antialias=True)[0].clamp(0, 1)
    top = (scaled[0] - size[0]) // 2
    left = (scaled[1] - size[1]) // 2
    return picture[:, top:top + size[0], left:left + size[1]]


def load_mask(mask: str | Sequence[float], size: tuple[int, int]) -> Tensor:
    """Return where a picture may change: 1 there, 0 where it is kept, (1, H, W).

    Args:
        mask: path of a picture that is white where it may change, or a box x0, y0, x1, y1 in shares of the picture.
    """
    if isinstance(mask, str):
        grey = load_picture(mask).mean(dim=0, keepdim=True)
        return fit_picture(grey, size)
    check_box(mask, "mask")
    rows, columns = box_pixels(mask, size)
    result = torch.zeros(1, *size)
    result[:, slice(*rows), slice(*columns)] = 1
    return result


def check_box(box: Sequence[float], name: str) -> None:
    """Raise BadParameter unless `box` is x0, y0, x1, y1 in shares of a picture."""
    if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise BadParameter(f"{name} must be x0, y0, x1, y1 in shares of the picture, with 0 <= x0 < x1 <= 1 and "
                           f"0 <= y0 < y1 <= 1, got {tuple(box)}")


def box_pixels(box: Sequence[float], size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the rows and the columns, as (first, end), that a box in shares of a picture of this size touches."""
    x0, y0, x1, y1 = box
    height, width = size
    rows = (math.floor(y0 * height), math.ceil(y1 * height))
    columns = (math.floor(x0 * width), math.ceil(x1 * width))
    return rows, columns


def crop_box(images: Tensor, box: Sequence[float] | None) -> Tensor:
    """Return the part of pictures (B, C, H, W) inside a box in shares; None is all of them."""
    if box is None:
        return images
    rows, columns = box_pixels(box, tuple(images.shape[-2:]))
    return images[:, :, slice(*rows), slice(*columns)]

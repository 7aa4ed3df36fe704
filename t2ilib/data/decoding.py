"""Turn encoded pictures into one tensor, with several threads."""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .records import Record
from ..errors import BadParameter

SMALLEST, LARGEST = 8, 2048


def check_size(image_size: int) -> None:
    """Refuse an edge length that is no whole number in 8..2048."""
    if isinstance(image_size, bool) or not isinstance(image_size, int) or not SMALLEST <= image_size <= LARGEST:
        raise BadParameter(f"image_size must be a whole number of pixels in {SMALLEST}..{LARGEST}, got {image_size!r}.")


def decode(picture: "bytes | str | Path | object", image_size: int) -> np.ndarray:
    """Decode one picture to a square.

    Args:
        picture: Encoded bytes, a path, or a PIL image.
        image_size: Edge length. A picture of another size is resized to the short side and cropped in the middle;
            resampling weighs colours by their opacity.

    Returns:
        (image_size, image_size, 4) uint8.
    """
    from PIL import Image

    image = open_rgba(picture)
    if image.size != (image_size, image_size):
        short = min(image.size)
        # halving and the like is exact averaging; anything else takes the sharper filter
        exact = image.width == image.height and short % image_size == 0
        method = Image.Resampling.BOX if exact else Image.Resampling.LANCZOS
        left, top = (image.width - short) / 2, (image.height - short) / 2
        image = image.resize((image_size, image_size), method, box=(left, top, left + short, top + short))
    return np.asarray(image)


def open_rgba(picture: "bytes | str | Path | object"):
    """Return encoded bytes, a file or a PIL image as a PIL image of mode RGBA, upright as its EXIF data say."""
    from PIL import Image, ImageOps

    if isinstance(picture, (bytes, bytearray, memoryview)):
        picture = io.BytesIO(picture)
    image = picture if isinstance(picture, Image.Image) else Image.open(picture)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I;16", "I", "F")):
        image = _to_8_bits(image)
    return image.convert("RGBA")


def _to_8_bits(image):
    """Scale a 16-bit or floating-point grey picture to 0..255; PIL's own conversion would clip it."""
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    top = 65535.0 if values.max() > 255 else 255.0 if values.max() > 1 else 1.0
    return Image.fromarray((values / top * 255).round().clip(0, 255).astype(np.uint8))


def decode_all(records: Sequence[Record], image_size: int, *, threads: int | None = None) -> Tensor:
    """Decode the pictures of all records.

    Shapes:
        result: (N, 4, image_size, image_size) uint8.

    Raises:
        BadParameter: If a picture cannot be read; the message names file and row.
    """
    images = torch.empty(len(records), 4, image_size, image_size, dtype=torch.uint8)
    target = images.numpy()

    def one(index: int) -> None:
        record = records[index]
        try:
            target[index] = decode(record.picture, image_size).transpose(2, 0, 1)
        except (OSError, ValueError, SyntaxError) as error:  # what PIL raises for broken files, by format
            missing = isinstance(error, FileNotFoundError)
            reason = "there is no such file" if missing else str(error) or type(error).__name__
            raise BadParameter(
                f"{record.where}: the picture cannot be read: {reason}. Repair or remove that row."
            ) from error

    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for _ in pool.map(one, range(len(records))):
            pass
    return images

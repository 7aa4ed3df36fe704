"""Turn encoded pictures into one tensor, with several threads."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .records import Record
from ..errors import BadParameter
from ..media import open_rgba

SMALLEST, LARGEST = 8, 2048


def check_size(image_size: int) -> None:
    """Refuse an edge length that is no whole number in 8..2048."""
    if isinstance(image_size, bool) or not isinstance(image_size, int) or not SMALLEST <= image_size <= LARGEST:
        raise BadParameter(f"image_size must be a whole number of pixels in {SMALLEST}..{LARGEST}, got {image_size!r}.")


def decode(picture: "bytes | str | Path | object", image_size: int) -> np.ndarray:
    """Decode one picture to a square.

    Args:
        picture: Encoded bytes, a path, a PIL image, or a function that draws (S, S, 3) uint8 at a given edge length S.
        image_size: Edge length. A picture of another size is resized to the short side and cropped in the middle;
            resampling weighs colours by their opacity.

    Returns:
        (image_size, image_size, 4) uint8.
    """
    from PIL import Image

    if callable(picture):
        picture = Image.fromarray(picture(image_size))
    image = open_rgba(picture)
    if image.size != (image_size, image_size):
        short = min(image.size)
        # halving and the like is exact averaging; anything else takes the sharper filter
        exact = image.width == image.height and short % image_size == 0
        method = Image.Resampling.BOX if exact else Image.Resampling.LANCZOS
        left = (image.width - short) / 2
        top = (image.height - short) / 2
        middle = (left, top, left + short, top + short)
        image = image.resize((image_size, image_size), method, box=middle)
    return np.asarray(image)


def decode_all(records: Sequence[Record], image_size: int, *, threads: int | None = None) -> Tensor:
    """Decode the pictures of all records.

    Shapes:
        result: (N, 4, image_size, image_size) uint8.

    Raises:
        BadParameter: If a picture cannot be read; the message names file and row.
    """
    images = torch.empty(len(records), 4, image_size, image_size, dtype=torch.uint8)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        pictures = pool.map(lambda record: _decode_record(record, image_size), records)
        for pixels, picture in zip(images.numpy(), pictures, strict=True):
            pixels[:] = picture
    return images


def _decode_record(record: Record, image_size: int) -> np.ndarray:
    """Return a record's picture (4, S, S)."""
    try:
        return np.ascontiguousarray(decode(record.picture, image_size).transpose(2, 0, 1))
    except FileNotFoundError as error:
        raise BadParameter(_unreadable(record, "there is no such file")) from error
    except (OSError, ValueError, SyntaxError) as error:  # what PIL raises for broken files, by format
        raise BadParameter(_unreadable(record, str(error) or type(error).__name__)) from error


def _unreadable(record: Record, reason: str) -> str:
    return f"{record.where}: the picture cannot be read: {reason}. Repair or remove that row."

"""Pictures from one form into another: value ranges, tensors, PIL."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..errors import BadParameter

TOLERANCE = 0.25  # how far values may overshoot [0, 1] before they count as another range


def to_unit(x: Any) -> Any:
    """Bring pictures from a model's [-1, 1] to [0, 1]."""
    return (x + 1) / 2


def to_signed(x: Any) -> Any:
    """Bring pictures from [0, 1] to a model's [-1, 1]."""
    return 2 * x - 1


def to_pil(images: Any) -> Image.Image | list[Image.Image]:
    """Return a PIL picture, or a list of them, from whatever holds pictures.

    Args:
        images: (3, H, W) or (1, H, W) -> one picture; (B, 3, H, W), (B, 1, H, W) or a sequence -> a list. Floats are in
            [0, 1] (small overshoot is clipped), integers in 0..255. PIL pictures pass through.

    Raises:
        BadParameter: another shape, NaN, or values far outside [0, 1], such as a model's [-1, 1].
    """
    if isinstance(images, Image.Image):
        return images
    if isinstance(images, Sequence):
        return [to_pil(image) for image in images]
    array = images.detach().cpu().float().numpy() if hasattr(images, "detach") else images
    if array.ndim not in (3, 4) or array.shape[-3] not in (1, 3, 4):
        raise BadParameter(f"pictures must have shape (3, H, W) or (B, 3, H, W), got {tuple(array.shape)}")
    dtype = str(getattr(images, "dtype", "")).removeprefix("torch.")
    if dtype.startswith(("uint8", "int")):
        array = array / 255.0
    low = float(array.min())
    high = float(array.max())
    if not -TOLERANCE <= low <= high <= 1 + TOLERANCE:  # also false for NaN
        raise BadParameter(f"values of pictures must be in [0, 1], got [{low:.3g}, {high:.3g}]; "
                           "a model's [-1, 1] becomes that by (x + 1) / 2")
    if array.ndim == 4:
        return [_one(picture) for picture in array]
    return _one(array)


def _one(array: np.ndarray) -> Image.Image:
    """Return one picture (C, H, W) with values in [0, 1]."""
    pixels = np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
    pixels = pixels.transpose(1, 2, 0)  # (H, W, C)
    if pixels.shape[-1] == 1:
        return Image.fromarray(pixels[..., 0])
    return Image.fromarray(pixels)

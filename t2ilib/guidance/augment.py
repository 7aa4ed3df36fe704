"""What may happen to a cutout: named sets of augmentations, and those that change colours."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import BadParameter, unknown_name

FILLS = ("background", "random", "white", "grey", "black", "edge")
FIXED_FILLS = {"white": 1.0, "grey": 0.5, "black": 0.0}
LUMA = (0.299, 0.587, 0.114)
TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


@dataclass(frozen=True)
class Augmentations:
    """How far each cutout may differ from a plain crop. Probabilities are per cutout.

    Attributes:
        flip: probability of mirroring left and right.
        affine: probability of rotation by up to `degrees`, shear by up to `shear` degrees, translation by up to
            `translate` of the window's side, and a window `scale` times as large (above 1 the picture shrinks).
        perspective: probability that each corner of the window moves by up to `distortion` / 2 of half its side.
        jitter: probability of changing `brightness`, `contrast`, `saturation` by a factor of up to 1 +- value, and the
            hue by up to `hue` of a full turn.
        recolour: probability that a plain background, as found along the picture's border, gets a random colour.
        erase: probability of hiding a box of a share of the area within `erase_area`.
        fill: what lies outside the picture: the colour of its border ("background"), a random or a fixed colour, or
            its edge drawn out.
    """

    flip: float = 0.0
    affine: float = 0.0
    degrees: float = 0.0
    shear: float = 0.0
    translate: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    perspective: float = 0.0
    distortion: float = 0.2
    jitter: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    recolour: float = 0.0
    erase: float = 0.0
    erase_area: tuple[float, float] = (0.05, 0.2)
    fill: str = "background"

    def __post_init__(self):
        for name in ("flip", "affine", "perspective", "jitter", "recolour", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadParameter(f"augmentation {name} is a probability in [0, 1], got {getattr(self, name)}")
        for name in ("degrees", "shear", "translate", "brightness", "contrast", "saturation", "hue"):
            if getattr(self, name) < 0:
                raise BadParameter(f"augmentation {name} is a largest change and cannot be negative, "
                                   f"got {getattr(self, name)}")
        for name, top in (("scale", math.inf), ("erase_area", 1.0)):
            pair = tuple(getattr(self, name))
            if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= top:
                raise BadParameter(f"augmentation {name} must be (low, high) with 0 < low <= high <= {top}, got {pair}")
            object.__setattr__(self, name, pair)
        if not 0 <= self.distortion < 1:
            raise BadParameter(f"augmentation distortion must be in [0, 1), got {self.distortion}: "
                               "at 1 the corners of a window can cross")
        if self.fill not in FILLS:
            raise unknown_name("fill", self.fill, FILLS)


AUGMENTATIONS = {
    # a bare crop
    "none": Augmentations(),
    # the strengths known from the MSE-regularised notebook; for pictures that fill their frame
    "classic": Augmentations(flip=0.5, affine=0.8, degrees=30, translate=0.1, perspective=0.4, distortion=0.2,
                             jitter=0.7, saturation=0.01, hue=0.01, fill="edge"),
    # for objects on a plain background: the object moves, turns and shrinks, and the background changes colour
    "plain": Augmentations(affine=1.0, degrees=12, translate=0.08, scale=(0.85, 1.3), perspective=0.3, distortion=0.25,
                           jitter=0.7, brightness=0.1, contrast=0.1, saturation=0.1, hue=0.02, recolour=0.5,
                           erase=0.2),
}


def resolve_augmentations(value: str | Mapping | Augmentations) -> Augmentations:
    """Return the set called `value`, or one built from a mapping: `{"base": "plain", "flip": 0.5}`.

    Raises:
        UnknownName: the set or one of the keys is not known.
    """
    if isinstance(value, Augmentations):
        return value
    if isinstance(value, str):
        if value not in AUGMENTATIONS:
            raise unknown_name("augmentations", value, AUGMENTATIONS)
        return AUGMENTATIONS[value]
    if not isinstance(value, Mapping):
        raise BadParameter(f"augmentations must be a name or a mapping of changes, got {type(value).__name__}; "
                           f"names: {', '.join(AUGMENTATIONS)}")
    changes = dict(value)
    base = resolve_augmentations(changes.pop("base", "none"))
    known = [f.name for f in dataclasses.fields(Augmentations)]
    for name in changes:
        if name not in known:
            raise unknown_name("augmentation", name, known)
    return dataclasses.replace(base, **changes)


def colour_matrices(brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor) -> tuple[Tensor, Tensor]:
    """Compose brightness, contrast, saturation and hue into y = matrix x + gain * (mean luma of x).

    All four are linear in colour once the mean grey level is known, so one product does them all. Hue turns the
    chroma plane of YIQ, which keeps greys grey.

    Args:
        brightness, contrast, saturation: factors, 1 changes nothing. hue: fraction of a full turn.

    Shapes:
        four of (...) -> matrix (..., 3, 3), gain (...)
    """
    luma = torch.tensor(LUMA, dtype=hue.dtype).expand(3, 3)
    to_yiq = torch.tensor(TO_YIQ, dtype=hue.dtype)
    eye = torch.eye(3, dtype=hue.dtype)
    s = saturation[..., None, None]
    saturate = s * eye + (1 - s) * luma
    cos, sin, zero = (2 * math.pi * hue).cos(), (2 * math.pi * hue).sin(), torch.zeros_like(hue)
    one = torch.ones_like(hue)
    turn = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], dim=-1).unflatten(-1, (3, 3))
    rotate = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    matrix = rotate @ saturate * (contrast * brightness)[..., None, None]
    return matrix, (1 - contrast) * brightness


def change_colours(cutouts: Tensor, matrix: Tensor, gain: Tensor) -> Tensor:
    """Apply what `colour_matrices` composed; the mean luma is that of each cutout.

    Shapes:
        cutouts (B, n, 3, S, S), matrix (B, n, 3, 3), gain (B, n) -> (B, n, 3, S, S)
    """
    luma = torch.tensor(LUMA, dtype=cutouts.dtype, device=cutouts.device)
    grey = (cutouts.mean(dim=(-1, -2)) * luma).sum(-1)
    changed = (matrix @ cutouts.flatten(-2)).view_as(cutouts)
    return changed + (gain * grey)[..., None, None, None]


def border_colour(images: Tensor, tolerance: float = 0.1) -> tuple[Tensor, Tensor]:
    """Return the median colour along the border of each picture, and whether most of the border has that colour.

    Shapes:
        images (B, 3, H, W) -> colour (B, 3), plain (B,) bool; neither carries a gradient
    """
    images = images.detach()
    height, width = images.shape[-2:]
    k = max(1, min(height, width) // 32)
    sides = [images[:, :, :k], images[:, :, -k:], images[:, :, :, :k], images[:, :, :, -k:]]
    ring = torch.cat([s.flatten(2) for s in sides], dim=2)
    colour = ring.median(dim=2).values
    near = (ring - colour[:, :, None]).abs().amax(dim=1) < tolerance
    return colour, near.to(ring.dtype).mean(dim=1) > 0.5


def recolour_background(cutouts: Tensor, old: Tensor, new: Tensor, where: Tensor, tolerance: float = 0.15) -> Tensor:
    """Shift pixels near the colour `old` to `new`; pixels that differ by `tolerance` or more stay as they are.

    Only a shift is added, so the gradient with respect to `cutouts` is the identity.

    Shapes:
        cutouts (B, n, 3, S, S), old (B, 3), new (B, n, 3), where (B, n) in {0, 1} -> (B, n, 3, S, S)
    """
    old = old[:, None, :, None, None]
    distance = (cutouts.detach() - old).abs().amax(dim=2, keepdim=True)
    background = (1 - distance / tolerance).clamp(min=0) * where[..., None, None, None]
    return cutouts + background * (new[..., None, None] - old)

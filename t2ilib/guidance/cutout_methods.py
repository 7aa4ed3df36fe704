"""The ways of cutting that are known in the field, by name, with their published defaults.

All of them render through `apply_cutouts`: one warp per mip level, whatever happens to a cutout. Four things therefore
differ from the public tools:
- Windows are read by trilinear interpolation of averaged copies of the picture. The tools use Lanczos and then bicubic
  interpolation, or bilinear interpolation once for each augmentation.
- The aspect is kept: where a tool squashes a picture to a square, ours lies whole in a square window, with `fill`
  beside it.
- Corners of a perspective move both ways (see `resolve_augmentations`).
- The result is brought back to [0, 1] after the noise.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from .augment import AUGMENTATIONS, Augmentations, resolve_augmentations
from .cutout_parameters import CutoutParameters
from .cutouts import draw_cutouts
from ..errors import BadParameter, check_name, unknown_name


@dataclass(frozen=True)
class CutoutMethod:
    """One way of cutting, or a mixture of several.

    Attributes:
        cut_pow, min_cut, max_cut: of the windows, see `window_sizes`. whole: each shows the whole picture instead.
        pool: shrink the picture first, by average and maximum pooling, once for all cutouts.
        noise: the standard deviation of each cutout's noise is uniform in [0, noise].
        augmentations: see `resolve_augmentations`.
        parts: (share, method) of a mixture, which must agree in `pool` and `fill`; the fields above are then not used.

    Raises:
        UnknownName: an augmentation is not known.
        BadParameter: a share is not above 0.
    """

    cut_pow: float = 1.0
    min_cut: float | None = None
    max_cut: float = 1.0
    whole: bool = False
    pool: bool = False
    noise: float = 0.1
    augmentations: str | Mapping | Sequence[str] | Augmentations = "none"
    parts: tuple[tuple[float, "CutoutMethod"], ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "augmentations", resolve_augmentations(self.augmentations))
        shares = [share for share, _ in self.parts]
        if any(share <= 0 for share in shares):
            raise BadParameter(f"shares of a mixture must be above 0, got {shares}")

    def replace(self, **changes) -> "CutoutMethod":
        """Return the method with other values; in a mixture every part gets them.

        Raises:
            UnknownName: there is no such value.
        """
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            check_name("cutout option", name, known)
        if not self.parts or "parts" in changes:
            return dataclasses.replace(self, **changes)
        parts = tuple((share, part.replace(**changes)) for share, part in self.parts)
        return dataclasses.replace(self, parts=parts)


SATURATION_AND_HUE = {"saturation": 0.1, "hue": 0.1}
ZOOM = CutoutMethod(min_cut=1.0, augmentations=Augmentations(
    perspective=0.7, distortion=0.4, crop=1.0, crop_area=(0.25, 0.95), crop_ratio=(0.85, 1.2), jitter=0.8,
    **SATURATION_AND_HUE, fill="random_grey"))
WIDE = CutoutMethod(whole=True, augmentations=Augmentations(
    affine=1.0, scale=(1 / 0.95, 1 / 0.9), translate=0.025, perspective=0.7, distortion=0.2, jitter=0.8,
    **SATURATION_AND_HUE, fill="random_grey"))

CUTOUT_METHODS = {
    # this repository's default: crops of an object on a plain background
    "plain": CutoutMethod(augmentations="plain"),
    # the first notebook (Crowson 2021): square crops between CLIP's input and the short side, and nothing else
    "original": CutoutMethod(noise=0.0),
    # the same crops with the MSE-regularised notebook's augmentations and a softening
    "updated": CutoutMethod(augmentations=dataclasses.replace(AUGMENTATIONS["classic"], sharpness=0.4)),
    # the same crops with the augmentations that the public tool applies unless told otherwise, turned further
    "nrupdated": CutoutMethod(augmentations={"base": "Af Pe Ji Er", "degrees": 30, "distortion": 0.5}),
    # the public tool's `updatedpooling`: the whole picture, pooled, then augmented
    "pooled": CutoutMethod(whole=True, pool=True, augmentations={
        "base": "Af Pe Ji Er", "shear": 0, "brightness": 0, "contrast": 0}),
    # the public tool's default; it fills with black, ours with the colour of the picture's border
    "latest": CutoutMethod(whole=True, pool=True, augmentations="Af Pe Ji Er"),
    # pixray: mostly a part of the picture, sometimes all of it, on a random grey. There the picture is pooled first
    # (`pool=True` does that here) and zooms are filled by reflection
    "wide_zoom": CutoutMethod(parts=((0.6, ZOOM), (0.4, WIDE))),
}
ALIASES = {"updatedpooling": "pooled"}  # names that other tools use


def resolve_method(value: str | CutoutMethod) -> CutoutMethod:
    """Return the method called `value`, or `value` itself if it is one.

    Raises:
        UnknownName: there is no such method.
    """
    if isinstance(value, CutoutMethod):
        return value
    name = ALIASES.get(value, value)
    if name not in CUTOUT_METHODS:
        raise unknown_name("cutout method", str(value), CUTOUT_METHODS)
    return CUTOUT_METHODS[name]


def draw_method(name_or_method: str | CutoutMethod, generators: Sequence[torch.Generator], num: int,
                image_size: tuple[int, int], *, cut_size: int, **overrides) -> CutoutParameters:
    """Draw the cutouts of one step by a named method, the picture i from its own stream `generators[i]`.

    A mixture's parts lie one after another along n, in the numbers closest to their shares; a part too small for one
    cutout has none.

    Args:
        num, image_size, cut_size: see `draw_cutouts`.
        overrides: fields of `CutoutMethod` to be used instead of the method's own.

    Returns:
        Parameters for `apply_cutouts`, on the CPU, in float64.

    Raises:
        UnknownName: the method or an override is not known.
        BadParameter: a mixture's parts differ in `pool` or `fill`.
    """
    method = resolve_method(name_or_method).replace(**overrides)
    if method.parts:
        return _draw_mixture(method, generators, num, image_size, cut_size)
    options = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    del options["parts"]
    return draw_cutouts(generators, num, image_size, cut_size=cut_size, **options)


def _draw_mixture(method: CutoutMethod, generators: Sequence[torch.Generator], num: int, image_size: tuple[int, int],
                  cut_size: int) -> CutoutParameters:
    total = sum(share for share, _ in method.parts)
    drawn = []
    end = 0  # of the parts so far, as a share
    for share, part in method.parts:
        start = end
        end = start + share / total
        count = round(num * end) - round(num * start)
        if count:
            drawn.append(draw_method(part, generators, count, image_size, cut_size=cut_size))
    return CutoutParameters.cat(drawn)

"""What may happen to a cutout: augmentations, and named sets of them."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import BadParameter, check_name, unknown_name

FILLS = ("background", "random", "random_grey", "white", "grey", "black", "edge")
FIXED_FILLS = {"white": 1.0, "grey": 0.5, "black": 0.0}
# Augmentations whose random numbers stand in a second block, drawn only where one of them is on: so the streams of
# configurations without them are as they were before these existed.
SECOND_BLOCK = ("rotate", "crop", "sharpness", "gaussian", "elastic", "thin_plate")
PROBABILITIES = ("flip", "affine", "perspective", "jitter", "recolour", "erase", *SECOND_BLOCK)
LARGEST_CHANGES = ("degrees", "shear", "translate", "brightness", "contrast", "saturation", "hue", "rotate_degrees",
                   "gaussian_std", "elastic_strength", "thin_plate_strength")
# (low, high) pairs: their largest value; all but the last begin above 0
RANGES = {"scale": math.inf, "erase_area": 1.0, "crop_area": 1.0, "crop_ratio": math.inf, "sharpness_factor": math.inf}


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
        fill: what lies outside the picture: the colour of its border ("background"), a colour or grey drawn for each
            cutout, a fixed colour, or its edge drawn out.
        rotate: probability of a rotation by up to `rotate_degrees`, beside that of `affine`.
        crop: probability of a window inside the window, with a share of its area within `crop_area` and a ratio of
            width to height within `crop_ratio`.
        sharpness: probability of a blend with the cutout smoothed over 3 x 3 pixels, by a factor within
            `sharpness_factor`: 0 is smoothed, 1 unchanged, above it is sharpened.
        gaussian: probability of noise of standard deviation `gaussian_std`, beside the noise of every cutout.
        elastic: probability that each point of a 4 x 4 grid on the window moves by up to `elastic_strength` of half its
            side, and what lies between them smoothly with them.
        thin_plate: the same with four corners and the centre, `thin_plate_strength`, and one draw for all cutouts.
        erase_aspect: largest ratio of the sides of a hidden box. erase_together: one box for all cutouts of a picture.
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
    rotate: float = 0.0
    rotate_degrees: float = 0.0
    crop: float = 0.0
    crop_area: tuple[float, float] = (1.0, 1.0)
    crop_ratio: tuple[float, float] = (1.0, 1.0)
    sharpness: float = 0.0
    sharpness_factor: tuple[float, float] = (0.0, 0.3)
    gaussian: float = 0.0
    gaussian_std: float = 1.0
    elastic: float = 0.0
    elastic_strength: float = 0.018
    thin_plate: float = 0.0
    thin_plate_strength: float = 0.8
    erase_aspect: float = 2.0
    erase_together: bool = False

    def __post_init__(self):
        for name in PROBABILITIES:
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise BadParameter(f"augmentation {name} is a probability in [0, 1], got {value}")
        for name in LARGEST_CHANGES:
            value = getattr(self, name)
            if value < 0:
                raise BadParameter(f"augmentation {name} is a largest change and cannot be negative, got {value}")
        for name, top in RANGES.items():
            pair = tuple(getattr(self, name))
            _check_range(name, pair, top, zero_is_allowed=name == "sharpness_factor")
            object.__setattr__(self, name, pair)  # a list becomes a tuple, in a frozen dataclass
        if not 1 <= self.erase_aspect < math.inf:
            raise BadParameter(f"augmentation erase_aspect is a ratio of at least 1, got {self.erase_aspect}")
        if not 0 <= self.distortion < 1:
            raise BadParameter(f"augmentation distortion must be in [0, 1), got {self.distortion}: "
                               "at 1 the corners of a window can cross")
        check_name("fill", self.fill, FILLS)


def _check_range(name: str, pair: tuple[float, ...], top: float, *, zero_is_allowed: bool) -> None:
    fits = len(pair) == 2 and 0 <= pair[0] <= pair[1] <= top and (zero_is_allowed or pair[0] > 0)
    if not fits:
        low = "0 <=" if zero_is_allowed else "0 <"
        raise BadParameter(f"augmentation {name} must be (low, high) with {low} low <= high <= {top}, got {pair}")


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

# single augmentations at the strengths of the public VQGAN+CLIP tools, by name; below, the codes used there
PUBLISHED = {
    "flip": {"flip": 0.5},
    "affine": {"affine": 0.7, "degrees": 15, "translate": 0.1, "shear": 5},
    "rotation": {"rotate": 0.7, "rotate_degrees": 15},
    "perspective": {"perspective": 0.7, "distortion": 0.7},
    "elastic": {"elastic": 0.7, "elastic_strength": 0.018},
    "thin_plate": {"thin_plate": 0.7, "thin_plate_strength": 0.8},
    "crop": {"crop": 0.5, "crop_area": (0.25, 1.0), "crop_ratio": (1.0, 1.0)},
    "resized_crop": {"crop": 0.5, "crop_area": (0.1, 1.0), "crop_ratio": (3 / 4, 4 / 3)},
    "jitter": {"jitter": 0.7, "brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "hue": 0.1},
    "sharpness": {"sharpness": 0.5, "sharpness_factor": (0.0, 0.3)},
    "noise": {"gaussian": 0.5, "gaussian_std": 1.0},
    "erase": {"erase": 0.7, "erase_area": (0.1, 0.4), "erase_aspect": 1 / 0.3, "erase_together": True},
}
CODES = {"Ji": "jitter", "Sh": "sharpness", "Gn": "noise", "Pe": "perspective", "Ro": "rotation", "Af": "affine",
         "Et": "elastic", "Ts": "thin_plate", "Cr": "crop", "Er": "erase", "Re": "resized_crop"}


def resolve_augmentations(value: str | Mapping | Sequence[str] | Augmentations) -> Augmentations:
    """Return the set called `value`, one built from a mapping, or single augmentations at their published strengths.

    Examples: `"plain"`; `{"base": "plain", "flip": 0.5}`; `"Af Pe Ji Er"` or `("affine", "perspective", "jitter",
    "erase")`, whose first may be a set: `"plain, Sh"`. They happen in one fixed order, whatever the order of the names;
    of Cr and Re the later counts. Here corners move out of the window as well as into it, by up to half the published
    distance; a box is filled like what lies outside; and Cr, which does nothing in the public tool (its window is as
    large as the cutout), keeps half to all of the side.

    Raises:
        UnknownName: the set or one of the names or keys is not known. BadParameter: a value of another type.
    """
    if isinstance(value, Augmentations):
        return value
    if isinstance(value, str):
        names = re.split(r"[\s,]+", value.strip(" ,"))
        return _composed(names)
    if isinstance(value, Sequence) and all(isinstance(name, str) for name in value):
        return _composed(value)
    if not isinstance(value, Mapping):
        raise BadParameter(f"augmentations must be a name, a list of names or a mapping of changes, got "
                           f"{type(value).__name__}; names: {', '.join([*AUGMENTATIONS, *PUBLISHED])}")
    changes = dict(value)
    base = resolve_augmentations(changes.pop("base", "none"))
    known = [field.name for field in dataclasses.fields(Augmentations)]
    for name in changes:
        check_name("augmentation", name, known)
    return dataclasses.replace(base, **changes)


def _composed(names: Sequence[str]) -> Augmentations:
    """Compose what the names stand for; the first may be a whole set."""
    if not names or names[0] not in AUGMENTATIONS:
        names = ["none", *names]
    base = AUGMENTATIONS[names[0]]
    changes = {}
    for name in names[1:]:
        published_name = CODES.get(name, name)
        if published_name not in PUBLISHED:
            raise unknown_name("augmentations", name, [*AUGMENTATIONS, *PUBLISHED, *CODES])
        changes |= PUBLISHED[published_name]
    return dataclasses.replace(base, **changes) if changes else base

"""The colour that a text asks of a thing, how much of a picture has it, and pictures painted in it."""

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .colors import COLOR_WORDS, color_shares, from_oklab, oklab
from ..errors import check_name

# One anchor for each word: what a thing is painted with. The others of `colors` tell what counts as that word.
PAINTS = {
    "black": "2b2b2b", "white": "f5f5f5", "grey": "9e9e9e", "red": "dd2e44", "orange": "f4900c", "yellow": "ffd83a",
    "green": "4caf50", "turquoise": "1abc9c", "blue": "2f80e0", "light blue": "81d4fa", "purple": "8e44c8",
    "pink": "ff8dc7", "brown": "795548", "beige": "f5deb3",
}
OTHER_WORDS = {"gray": "grey", "golden": "yellow"}
_WORDS = "|".join(sorted([*COLOR_WORDS, *OTHER_WORDS], key=len, reverse=True))
# The colour of what the text is of: "a blue car", "a drawing of a blue car"; not "a house with a red roof".
_ADJECTIVE = re.compile(
    r"^(?:(?:an?|the)\s+)?(?:[\w-]+\s+of\s+(?:(?:an?|the)\s+)?)?"
    rf"(?P<adjective>(?:(?:bright|dark)\s+)?(?P<color>{_WORDS})\s+)(?!and\b|or\b)\w", re.IGNORECASE)
_ANOTHER = re.compile(rf"\band\b.*\b(?:{_WORDS})\b", re.IGNORECASE)  # of a second thing: "... and a blue square"
PLAIN_SHADE = 0.05  # chroma below which a pixel is grey to the eye
HUE_REACH = 0.7  # radians on both sides of the main hue that belong to it
ENOUGH = 0.5  # share of the foreground from which a thing counts as having a colour
NOTHING = 0.05  # share below which it has nothing of it
NEUTRAL = ("black", "white", "grey")  # outlines, grounds and shades: no share of them says much
SAMPLED_SIDE = 32  # pixels of a side that are looked at


def split_color(text: str) -> tuple[str | None, str]:
    """Return the colour that a text asks of its thing, as `COLOR_WORDS` spells it or None, and the text without it.

    "a blue car" asks for blue, and "a car" remains. "an orange", "a man with red hair" and "a red circle and a blue
    square" ask for no single colour.
    """
    text = text.strip()
    found = _ADJECTIVE.match(text)
    if found is None or _ANOTHER.search(text):
        return None, text
    word = found.group("color").lower()
    rest = text[:found.start("adjective")] + text[found.end("adjective"):]
    return OTHER_WORDS.get(word, word), rest


def color_share(pictures: Tensor, word: str) -> Tensor:
    """Return the share of each picture's foreground that has a colour: (N, 3, H, W) in [0, 1] -> (N,) in [0, 1].

    The foreground is what differs from the colour along the border. Light blue counts as blue too.

    Raises:
        BadParameter: a word that is none of `COLOR_WORDS`.
    """
    check_name("colour", word, COLOR_WORDS)
    counted = ("blue", "light blue") if word == "blue" else (word,)
    step = max(1, pictures.shape[-1] // SAMPLED_SIDE)
    shares = []
    for rgb in _arrays(pictures[..., ::step, ::step]):  # (h, w, 3)
        alpha = _foreground(rgb).astype(np.uint8) * 255
        rgba = np.concatenate([(rgb * 255).round().astype(np.uint8), alpha[..., None]], axis=-1)
        found = color_shares(rgba)
        shares.append(sum(found.get(name, 0.0) for name in counted))
    return torch.tensor(shares)


def color_match(pictures: Tensor, texts: Sequence[str]) -> Tensor:
    """Return how well pictures have the colours that their texts ask for: (N, 3, H, W) in [0, 1] -> (N,) in [0, 1].

    1 is reached where half of the foreground has it: wheels, leaves and eyes keep theirs. A text that asks for no
    colour has 0.
    """
    match = torch.zeros(len(pictures))
    words = [split_color(text)[0] for text in texts]
    for word in filter(None, dict.fromkeys(words)):
        rows = [i for i, other in enumerate(words) if other == word]
        match[rows] = (color_share(pictures[rows], word) / ENOUGH).clamp(max=1)
    return match


def missing_color(picture: Tensor, text: str) -> str | None:
    """Return the colour that a text asks for where a picture (3, H, W) in [0, 1] has nothing of it, otherwise None.

    Black, white and grey are never missed: a cat in dark grey is a black cat.
    """
    color, _ = split_color(text)
    if color is None or color in NEUTRAL or color_share(picture[None], color) >= NOTHING:
        return None
    return color


def recolored(pictures: Tensor, word: str) -> Tensor:
    """Return pictures whose main colour is another: (N, 3, H, W) in [0, 1] -> the same.

    What has about the hue that covers most gets the hue and the chroma of the word's paint, and its mean lightness;
    shades stay apart. Where hardly anything has a hue, all of the foreground is painted.

    Raises:
        BadParameter: a word that is none of `COLOR_WORDS`.
    """
    check_name("colour", word, COLOR_WORDS)
    paint = oklab(np.array(list(bytes.fromhex(PAINTS[word]))) / 255)  # (3,)
    painted = np.stack([_painted(rgb, paint) for rgb in _arrays(pictures)])  # (N, H, W, 3)
    return torch.from_numpy(painted).movedim(-1, 1).to(pictures)


def _arrays(pictures: Tensor) -> np.ndarray:
    """Return pictures (N, 3, H, W), about in [0, 1], as NumPy takes them: (N, H, W, 3)."""
    return pictures.float().cpu().clamp(0, 1).movedim(1, -1).numpy()


def _foreground(rgb: np.ndarray) -> np.ndarray:
    """Return where a picture (H, W, 3) in [0, 1] differs from the median of its border: (H, W) bool."""
    border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])  # (2 H + 2 W, 3)
    return np.abs(rgb - np.median(border, axis=0)).max(-1) > 0.12


def _painted(rgb: np.ndarray, paint: np.ndarray) -> np.ndarray:
    """Give the main colour of one picture (H, W, 3) in [0, 1] another, in OKLab (3,)."""
    lab = oklab(rgb)
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    weight = _main_color(lab, chroma, _foreground(rgb))[..., None]  # (H, W, 1)
    if weight.sum() < 1:
        return rgb
    mean = (lab * weight).sum((0, 1)) / weight.sum()  # (3,)
    mean_chroma = (chroma * weight[..., 0]).sum() / weight.sum()
    relative = np.ones_like(chroma)  # a grey thing is painted evenly
    if mean_chroma > PLAIN_SHADE:
        relative = np.clip(chroma / mean_chroma, 0.5, 1.3)
    new = np.empty_like(lab)
    new[..., 0] = np.clip(paint[0] + 0.8 * (lab[..., 0] - mean[0]), 0, 1)
    new[..., 1:] = paint[1:] * relative[..., None]
    return from_oklab(lab * (1 - weight) + new * weight)


def _main_color(lab: np.ndarray, chroma: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Return how far each pixel (H, W, 3) belongs to the main colour of the foreground: (H, W) in [0, 1]."""
    hue = np.arctan2(lab[..., 2], lab[..., 1])
    has_hue = foreground & (chroma > PLAIN_SHADE)
    if has_hue.sum() < 0.15 * foreground.sum():
        return foreground.astype(lab.dtype)
    angles = np.linspace(-np.pi, np.pi, 72, endpoint=False)
    reach = np.abs(_turned(hue[has_hue][:, None] - angles)) < HUE_REACH  # (pixels, 72)
    main = angles[(reach * chroma[has_hue][:, None]).sum(0).argmax()]
    near = np.clip(2 - np.abs(_turned(hue - main)) / HUE_REACH, 0, 1)  # 1 within reach, 0 from twice that
    return near * np.clip((chroma - PLAIN_SHADE / 2) / PLAIN_SHADE, 0, 1)


def _turned(angle: np.ndarray) -> np.ndarray:
    """Return angles in (-pi, pi]."""
    return (angle + np.pi) % (2 * np.pi) - np.pi

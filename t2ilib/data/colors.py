"""Colour words measured from pixels: the basic colour terms, by share of area."""

import numpy as np

from ..errors import BadParameter

# Anchors in sRGB; each term has several, because terms are not round in any colour space. A pixel takes the word of its
# nearest anchor in OKLab. "grey" reaches towards dark and light; "yellow" includes the amber of smiling faces.
_ANCHORS = {
    "black": "000000 212121 2b2b2b 292f33 31373d 263238",
    "white": "ffffff f5f5f5 eceff1 e8edf0",
    "grey": "9e9e9e 757575 616161 bdbdbd 99aab5 ccd6dd 78909c 546e7a 4a5157 d0d0d0",
    "red": "ff0000 dd2e44 f44336 d32f2f b71c1c be1931 f8312f 8b0000 e53935 f92f60 f5184c e0194f",
    "orange": "ff8c00 f4900c ff6d00 f57c00 ff822d e65100 ffa040 f79329",
    "yellow": "ffeb3b ffcc4d ffb02e fdd835 fcc21b ffd700 fff176 f9a825 fff3b0 c9b037 fbc02d f1c232",
    "green": "4caf50 77b255 00a651 2e7d32 1b5e20 8bc34a 9ccc65 3e721d c5e1a5 00d26a 86d72f 33691e 008463 558b2f "
    "44b678 1f9e6e",
    "turquoise": "00bcd4 40e0d0 26a69a 00897b 4dd0e1 80deea 1abc9c",
    "blue": "2196f3 0000ff 1565c0 0d47a1 226699 55acee 3b88c3 00a6ed 5dadec 1a237e 3f51b5 0074ba 273a60 29b6f6 5b97b1",
    "light blue": "bbddf5 88c9f9 90caf9 b3e5fc bbdefb 81d4fa aee3ff",
    "purple": "9c27b0 aa8dd8 744eaa 673ab7 8b00ff 6a1b9a ba68c8 4a148c 8d65c5 b39ddb",
    "pink": "e91e8c ff69b4 f48fb1 f8bbd0 ff8dc7 ec407a f5c2d3 ff6dc6 f06292 ff4fa0",
    "brown": "795548 8b4513 5d4037 662113 a0522d 9a4e1c 4e342e c1694f 6d4c41 8d6e63 3e2723 a56953 6f4e37",
    "beige": "f5deb3 ffdbac f7dece d7ccc8 e6d5b8 ffe8b6 f3d2a2 d2b48c ffe0b2 bcaaa4",
}
COLOR_WORDS = tuple(_ANCHORS)


TO_CONES = np.array([[0.4122214708, 0.5363325363, 0.0514459929],
                     [0.2119034982, 0.6806995451, 0.1073969566],
                     [0.0883024619, 0.2817188376, 0.6299787005]])
TO_LAB = np.array([[0.2104542553, 0.7936177850, -0.0040720468],
                   [1.9779984951, -2.4285922050, 0.4505937099],
                   [0.0259040371, 0.7827717662, -0.8086757660]])


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Convert sRGB in [0, 1] to OKLab (B. Ottosson, 2020), where equal distances look about equally different.

    Shapes:
        rgb: (..., 3) -> (..., 3): lightness in [0, 1], and the two axes green-red and blue-yellow.
    """
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    cones = np.cbrt(linear @ TO_CONES.T)
    return cones @ TO_LAB.T


def from_oklab(lab: np.ndarray) -> np.ndarray:
    """Convert OKLab (..., 3) back to sRGB in [0, 1]; what no screen can show is clipped."""
    cones = lab @ np.linalg.inv(TO_LAB).T
    linear = np.clip(cones ** 3 @ np.linalg.inv(TO_CONES).T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _anchor_table() -> tuple[np.ndarray, np.ndarray]:
    """Return all anchors (A, 3) in OKLab, and the word that each belongs to (A,)."""
    rgb = []
    words = []
    for word, codes in enumerate(_ANCHORS.values()):
        for code in codes.split():
            rgb.append(list(bytes.fromhex(code)))
            words.append(word)
    return oklab(np.array(rgb) / 255), np.array(words)


def color_shares(rgba: np.ndarray) -> dict[str, float]:
    """Return the share of the opaque area that each colour word covers, largest first.

    Shapes:
        rgba: (H, W, 4) uint8.

    Raises:
        BadParameter: If the array has another shape or type.
    """
    if rgba.ndim != 3 or rgba.shape[2] != 4 or rgba.dtype != np.uint8:
        raise BadParameter(f"color_shares takes (H, W, 4) uint8, got {rgba.shape} {rgba.dtype}.")
    opacity = rgba[..., 3].reshape(-1) / 255.0
    solid = opacity > 0.5  # soft edges carry the colour of neither side
    if not solid.any():
        return {}
    anchors, word_of = _anchor_table()
    pixels = oklab(rgba[..., :3].reshape(-1, 3)[solid] / 255.0)  # (N, 3)
    # Matching lightness matters less than hue: a shaded red is still red.
    scale = np.array([0.6, 1.0, 1.0])
    difference = (pixels * scale)[:, None] - (anchors * scale)[None]  # (N, A, 3)
    nearest = (difference ** 2).sum(-1).argmin(1)  # (N,)
    area = np.bincount(word_of[nearest], weights=opacity[solid], minlength=len(COLOR_WORDS))
    share = area / area.sum()
    shares = {}
    for word in np.argsort(-share, kind="stable"):
        if share[word] > 0:
            shares[COLOR_WORDS[word]] = float(share[word])
    return shares


def color_words(rgba: np.ndarray, *, least: float = 0.12, most: int = 3) -> list[str]:
    """Return up to `most` colour words that cover at least the share `least` of the drawing, largest first.

    The largest is always returned; a fully transparent picture has none.

    Shapes:
        rgba: (H, W, 4) uint8.
    """
    words: list[str] = []
    for word, share in color_shares(rgba).items():
        if not words or (share >= least and len(words) < most):
            words.append(word)
    return words

"""Colours that texts ask for, measured in pictures and painted into them."""

import numpy as np
import pytest
import torch

from t2ilib.data import load_captioned
from t2ilib.data.colors import COLOR_WORDS, from_oklab, oklab
from t2ilib.data.recoloring import PAINTS, color_match, color_share, missing_color, recolored, split_color
from t2ilib.errors import UnknownName
from t2ilib.media import to_unit


@pytest.mark.parametrize(("text", "color", "thing"), [
    ("a blue car", "blue", "a car"),
    ("Red Mango", "red", "Mango"),
    ("a light blue car", "light blue", "a car"),
    ("the dark gray cat", "grey", "the cat"),
    ("a golden fish in the sea", "yellow", "a fish in the sea"),
    ("drawing of a green pokemon with red eyes", "green", "drawing of a pokemon with red eyes"),
    ("an orange", None, "an orange"),
    ("a man with red hair", None, "a man with red hair"),
    ("a red and white flag", None, "a red and white flag"),
    ("a pair of blue shoes", "blue", "a pair of shoes"),
    ("a red circle and a blue square", None, "a red circle and a blue square"),
    ("a black hat and white gloves", None, "a black hat and white gloves"),
    ("a house with a red roof", None, "a house with a red roof"),
    ("a red-haired man", None, "a red-haired man"),
    ("blackbird", None, "blackbird"),
    ("", None, ""),
])
def test_a_colour_before_the_first_noun_is_asked_for(text, color, thing):
    assert split_color(text) == (color, thing)


def disc(rgb, size=64, width=20):
    """A plain disc on white: (3, size, size) in [0, 1]."""
    y, x = np.mgrid[:size, :size] - size / 2
    inside = torch.from_numpy(x**2 + y**2 < width**2)
    return torch.where(inside, torch.tensor(rgb).view(3, 1, 1) / 255, 1.0)


def test_the_share_is_that_of_the_foreground():
    red, blue = disc((221, 46, 68)), disc((47, 128, 224))
    half = torch.cat([red[:, :, :32], blue[:, :, 32:]], dim=2)
    pictures = torch.stack([red, half, blue, torch.ones(3, 64, 64)])
    torch.testing.assert_close(color_share(pictures, "red"), torch.tensor([1.0, 0.5, 0.0, 0.0]), atol=0.05, rtol=0)
    assert color_share(disc((129, 212, 250))[None], "blue").item() == 1  # light blue is a blue
    with pytest.raises(UnknownName, match="colour"):
        color_share(pictures, "bluish")


def test_a_text_without_a_colour_matches_nothing_and_half_is_enough():
    red, blue = disc((221, 46, 68)), disc((47, 128, 224))
    half = torch.cat([red[:, :, :30], blue[:, :, 30:]], dim=2)
    match = color_match(torch.stack([red, red, red, half]), ["a red car", "a car", "a blue car", "a blue car"])
    assert match.tolist() == [1, 0, 0, 1]


def test_a_missing_colour_is_one_that_was_asked_for():
    everything = load_captioned("emoji", split="all", image_size=64)
    names = everything.columns["name"]
    heart, cat = (to_unit(everything.batch([names.index(name)]))[0] for name in ("orange heart", "black cat"))
    assert missing_color(heart, "a red heart") == "red"
    assert missing_color(heart, "an orange heart") is None and missing_color(heart, "a heart") is None
    assert missing_color(cat, "a black cat") is None  # dark grey will do


@pytest.mark.parametrize("word", [word for word in COLOR_WORDS if word != "white"])
def test_drawings_get_each_colour(word):
    data = load_captioned("emoji", split="train", image_size=64)
    rows = [i for i, name in enumerate(data.columns["name"]) if name in ("automobile", "elephant", "red apple")]
    assert len(rows) >= 6
    drawings = to_unit(data.batch(rows))
    painted = recolored(drawings, word)
    assert color_share(painted, word).median() > 0.6
    assert painted.shape == drawings.shape and painted.min() >= 0 and painted.max() <= 1
    torch.testing.assert_close(painted[..., 0, 0], drawings[..., 0, 0], atol=0.01, rtol=0)  # the ground stays


def test_white_takes_the_colour_away():
    painted = recolored(disc((221, 46, 68))[None], "white")
    assert painted[0, :, 32, 32].min() > 0.9


def test_shades_of_the_painted_thing_stay_apart():
    light, dark = disc((255, 90, 90)), disc((120, 10, 20))
    both = torch.cat([light[:, :, :32], dark[:, :, 32:]], dim=2)
    painted = recolored(both[None], "blue")[0]
    assert painted[2, 32, 20] > painted[0, 32, 20] and painted[2, 32, 44] > painted[0, 32, 44]  # both are blue
    assert painted[:, 32, 20].mean() > painted[:, 32, 44].mean() + 0.15


def test_a_plain_ground_is_left_alone():
    white = torch.ones(1, 3, 16, 16)
    torch.testing.assert_close(recolored(white, "red"), white)


def test_oklab_and_back():
    rgb = np.random.default_rng(0).random((50, 3))
    np.testing.assert_allclose(from_oklab(oklab(rgb)), rgb, atol=1e-4)


def test_every_colour_word_has_a_paint_that_counts_as_it():
    assert tuple(PAINTS) == COLOR_WORDS
    for word, paint in PAINTS.items():
        if word != "white":  # on a white ground it is no foreground
            rgb = tuple(float(value) for value in bytes.fromhex(paint))
            assert color_share(disc(rgb)[None], word).item() > 0.95, word

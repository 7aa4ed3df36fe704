"""Shares by GenEval's categories: right for true pictures, low for shuffled captions, and nothing is overlooked."""

import math

import pytest
import torch

from t2ilib.data import load_captioned
from t2ilib.data.shape_captions import CATEGORIES
from t2ilib.data.shapes import Thing, draw_scene
from t2ilib.errors import BadParameter
from t2ilib.media import to_unit
from t2ilib.metrics import composition, is_shown, wilson_interval
from t2ilib.metrics.composition import OVERALL

RED_CIRCLE = Thing("circle", "red", 30, 64, 40)
BLUE_STAR = Thing("star", "blue", 95, 64, 40)


def picture_of(*things, side=64):
    return torch.from_numpy(draw_scene(things, side)).permute(2, 0, 1) / 255


@pytest.fixture(scope="module")
def data():
    return load_captioned("shapes", split="validation", image_size=32, limit=90)


def test_true_pictures_show_their_captions_in_every_phrasing(data):
    pictures = to_unit(data.batch(torch.arange(len(data))))
    for row, picture in enumerate(pictures[:30]):
        category = data.columns["group"][row]
        for caption in data.columns["captions"][row]:
            answers = is_shown(caption, picture)
            assert all(answers.values()), (caption, answers)
            assert list(answers)[-2:] == [category, "exact"]


@pytest.mark.parametrize("caption, answers", [
    ("a circle", {"one object": True, "exact": False}),
    ("a ring", {"one object": False, "exact": False}),
    ("a red circle", {"one object": True, "colour": True, "exact": False}),
    ("a blue circle", {"one object": True, "colour": False, "exact": False}),
    ("a star and a circle", {"two objects": True, "exact": True}),
    ("a star and a ring", {"two objects": False, "exact": False}),
    ("two circles", {"count": False, "exact": False}),
    ("a circle to the left of a star", {"two objects": True, "position": True, "exact": True}),
    ("a circle right of a star", {"two objects": True, "position": False, "exact": False}),
    ("a star above a circle", {"two objects": True, "position": False, "exact": False}),
    ("a red circle and a blue star", {"two objects": True, "binding": True, "exact": True}),
    ("a blue circle and a red star", {"two objects": True, "binding": False, "exact": False}),
])
def test_questions_about_one_picture(caption, answers):
    assert is_shown(caption, picture_of(RED_CIRCLE, BLUE_STAR)) == answers


def test_what_is_superfluous_is_not_exact():
    picture = picture_of(RED_CIRCLE)
    assert is_shown("a red circle", picture)["exact"]
    picture[:, 50:60, 50:63] = 0  # a black bar, which is no shape
    assert is_shown("a red circle", picture) == {"one object": True, "colour": True, "exact": False}
    assert is_shown("two circles", picture_of(RED_CIRCLE, Thing("circle", "blue", 95, 64, 40)))["exact"]
    assert is_shown("a circle", torch.ones(3, 64, 64)) == {"one object": False, "exact": False}


def test_shares_of_true_pictures_and_of_shuffled_captions(data):
    table = composition(data.captions, to_unit(data.batch(torch.arange(len(data)))))
    assert list(table) == [*CATEGORIES, OVERALL]
    assert sum(table[category]["n"] for category in CATEGORIES) == table[OVERALL]["n"] == 90
    for row in table.values():
        assert row["shown"] == row["high"] == row["exact"] == 1
        assert 0 < row["low"] < 1, "some pictures that all agree prove no 1.0"
    # eight shapes, so an eighth of the captions fits by chance where only the shape is said
    assert table["one object"]["shuffled"] < 0.5
    assert table["binding"]["shuffled"] < 0.2


def test_shares_and_intervals_of_a_mixture():
    captions = ["a red circle"] * 4 + ["a circle left of a star"] * 4
    pictures = [picture_of(RED_CIRCLE)] * 3 + [picture_of(BLUE_STAR)] + [picture_of(RED_CIRCLE, BLUE_STAR)] + \
        [torch.ones(3, 64, 64)] * 3
    table = composition(captions, pictures, groups=[str(i) for i in range(8)])
    assert table["colour"]["shown"] == 0.75
    assert table["position"]["shown"] == 0.25
    assert table[OVERALL]["shown"] == 0.5
    assert table["colour"]["low"] < 0.75 < table["colour"]["high"]
    assert 0 < table[OVERALL]["low"] < 0.5 < table[OVERALL]["high"] < 1


def test_shuffled_is_the_share_of_all_other_pictures_of_the_category():
    captions = ["a red circle", "a blue star", "a red circle"]
    pictures = [picture_of(RED_CIRCLE), picture_of(BLUE_STAR), torch.ones(3, 64, 64)]
    row = composition(captions, pictures)["colour"]
    # of six pairs one fits: the third caption and the first picture
    assert row["shuffled"] == pytest.approx(1 / 6)
    assert math.isnan(composition(captions[:1], pictures[:1])["colour"]["shuffled"])


def test_where_all_agree_the_interval_is_wilsons_for_the_number_of_captions():
    captions = ["a circle"] * 3 + ["a star"] * 3 + ["a ring"] * 4
    row = composition(captions, torch.ones(10, 3, 64, 64))["one object"]
    assert (row["shown"], row["low"]) == (0, 0)
    assert row["high"] == pytest.approx(wilson_interval(0.0, 3)[1])


def test_bad_input_is_refused():
    with pytest.raises(BadParameter, match="one caption"):
        composition(["a circle"], [])
    with pytest.raises(BadParameter, match="grammar of shapes"):
        composition(["a dog"], torch.ones(1, 3, 64, 64))

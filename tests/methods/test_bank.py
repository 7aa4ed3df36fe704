"""The drawings with near names, from which methods start drafts."""

import pytest
import torch
from torchvision.transforms.functional import to_tensor

from t2ilib.data import load_captioned
from t2ilib.data.phrases import plain_name
from t2ilib.data.recoloring import color_share
from t2ilib.media import to_unit
from t2ilib.methods import generate_with_record
from t2ilib.methods.bank import BANK, can_draw_near, colors_to_paint, drawings_to_redraw, near_drawings
from t2ilib.methods.networks import Networks


def test_a_name_finds_its_own_drawings():
    lookup = near_drawings(Networks("cpu"), chunk=2)
    everything = load_captioned("emoji", split="train", image_size=64)
    for name in ("pizza", "red heart"):
        drawings = lookup.pictures(name, 3)
        assert drawings.shape == (3, 3, 64, 64) and drawings.abs().max() < 1.5
        rows = [i for i, other in enumerate(everything.columns["name"]) if plain_name(other) == name]
        originals = everything.batch(rows)  # in [-1, 1]
        error = (drawings[:1] - originals).square().mean((1, 2, 3)).min()
        assert error < 0.03, f"{name}: {error:.3f}"


def test_a_thing_in_a_colour_that_no_drawing_has_is_painted():
    lookup = near_drawings(Networks("cpu"))
    cars = lookup.pictures("a car", 4)
    blue = lookup.pictures("a blue car", 4)
    assert color_share(to_unit(cars), "blue").mean() < 0.3 < 0.6 < color_share(to_unit(blue), "blue").min()
    assert color_share(to_unit(lookup.painter.decode(lookup.latents("a blue car", 4))), "blue").min() > 0.6
    assert torch.equal(lookup.pictures("a red apple", 4), lookup.pictures("red apple", 4))  # there are such drawings
    drafts = {text: lookup.drafts(text, 9, 0.5) for text in ("a blue car", "a car", "a red apple")}
    assert drafts == {"a blue car": 9, "a car": 4, "a red apple": 4} and lookup.drafts("a blue car", 9, 0) == 0


def test_colors_to_paint(tmp_path):
    texts = ["a blue car", "a red apple", "a car"]
    colors, things = colors_to_paint(Networks("cpu"), texts)
    assert colors == ["blue", None, None] and things == ["a car", "a red apple", "a car"]
    assert colors_to_paint(Networks("cpu", home=tmp_path), texts) == ([None] * 3, texts)  # no drawings to look up


FAST = {"minimagen": dict(steps=4), "vqgan_clip": dict(steps=4), "text_transformer": {}, "vqvae_pixelsnail": {}}


@pytest.mark.parametrize("method", ["generator", "gigagan"])
def test_what_draws_in_one_pass_paints_and_records_it(method):
    texts = ["a blue car", "a car"]
    painted, record = generate_with_record(texts, method=method, num_images=1, seed=0)
    plain, without = generate_with_record(texts, method=method, num_images=1, seed=0, paint=False)
    shares = [color_share(to_tensor(image)[None], "blue").item() for image in (*painted, *plain)]
    assert shares[0] > 0.4 > max(shares[1:])
    assert record["painted"] == ["blue", None] and without["painted"] == [None, None]
    assert painted[1].tobytes() == plain[1].tobytes()
    _, other = generate_with_record("a car", method=method, num_images=1, seed=0)
    assert other["checkpoints"] == record["checkpoints"]  # a leaderboard keeps pictures by their networks


@pytest.mark.slow
@pytest.mark.parametrize("method", FAST)
def test_a_blue_car_is_blue(method):
    texts = ["a blue car", "a car"]
    images, _ = generate_with_record(texts, method=method, num_images=1, candidates=4, seed=0, **FAST[method])
    blue, plain = (color_share(to_tensor(image)[None], "blue").item() for image in images)
    assert blue > 0.4 > plain


def test_a_folder_without_a_bank_draws_from_noise_alone(tmp_path):
    assert can_draw_near(Networks("cpu"))
    assert not can_draw_near(Networks("cpu", home=tmp_path))
    (tmp_path / BANK).mkdir()
    assert can_draw_near(Networks("cpu", home=tmp_path))  # painted by the VQGAN that ships


@pytest.mark.slow
@pytest.mark.parametrize("method", FAST)
def test_the_share_from_drawings_changes_the_picture_and_is_recorded(method):
    fast = dict(method=method, num_images=1, candidates=4, seed=0, **FAST[method])
    some, record = generate_with_record("pizza", **fast)
    none, without = generate_with_record("pizza", **fast, bank_share=0)
    all_of_them, _ = generate_with_record("pizza", **fast, bank_share=1, bank_noise=0.3)
    assert all_of_them[0].tobytes() != none[0].tobytes() != some[0].tobytes()
    assert "emoji-starts" in record["checkpoints"]
    if method != "vqgan_clip":  # whose prior always holds the bank
        assert "emoji-starts" not in without["checkpoints"]


@pytest.mark.parametrize("settings", [dict(candidates=1), dict(init_image="picture.png"), dict(bank_share=0.0),
                                      dict(bank_share=0.1), dict(home="empty")], ids=str)
def test_where_nothing_is_redrawn_the_record_says_so(settings, tmp_path):
    networks = Networks("cpu", home=tmp_path if settings.pop("home", None) else None)
    used = dict(candidates=4, bank_share=0.5, init_image=None, chunk=32) | settings
    assert drawings_to_redraw(networks, ["pizza"], used) is None and used["bank_share"] == 0


def test_each_text_gets_its_drawings():
    settings = dict(candidates=4, bank_share=0.5, init_image=None, chunk=32)
    found = drawings_to_redraw(Networks("cpu"), ["pizza", "a blue car", "pizza"], settings)
    assert [len(own) for own in found] == [2, 4, 2] and settings["bank_share"] == 0.5
    assert torch.equal(found[0], found[2])

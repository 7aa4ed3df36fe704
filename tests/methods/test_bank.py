"""The drawings with near names, from which methods start drafts."""

import pytest

from t2ilib.data import load_captioned
from t2ilib.data.phrases import plain_name
from t2ilib.methods import generate_with_record
from t2ilib.methods.bank import BANK, can_draw_near, near_drawings
from t2ilib.methods.networks import Networks


def test_a_name_finds_its_own_drawings():
    names = ["pizza", "red heart"]
    found = near_drawings(Networks("cpu"), names, 3, chunk=4)
    assert found.shape == (2, 3, 3, 64, 64) and found.abs().max() < 1.5
    everything = load_captioned("emoji", split="train", image_size=64)
    for name, drawings in zip(names, found, strict=True):
        rows = [i for i, other in enumerate(everything.columns["name"]) if plain_name(other) == name]
        originals = everything.batch(rows)  # in [-1, 1]
        error = (drawings[:1] - originals).square().mean((1, 2, 3)).min()
        assert error < 0.03, f"{name}: {error:.3f}"


def test_a_folder_without_a_bank_draws_from_noise_alone(tmp_path):
    assert can_draw_near(Networks("cpu"))
    assert not can_draw_near(Networks("cpu", home=tmp_path))
    (tmp_path / BANK).mkdir()
    assert can_draw_near(Networks("cpu", home=tmp_path))  # painted by the VQGAN that ships


@pytest.mark.slow
@pytest.mark.parametrize("method", ["minimagen", "vqgan_clip"])
def test_the_share_from_drawings_changes_the_picture_and_is_recorded(method):
    fast = dict(method=method, candidates=4, steps=2, seed=0)
    some, record = generate_with_record("pizza", **fast)
    none, _ = generate_with_record("pizza", **fast, bank_share=0)
    all_of_them, _ = generate_with_record("pizza", **fast, bank_share=1, bank_noise=0.3)
    assert len({pictures[0].tobytes() for pictures in (some, none, all_of_them)}) >= 2
    assert all_of_them[0].tobytes() != none[0].tobytes()
    assert "emoji-starts" in record["checkpoints"]

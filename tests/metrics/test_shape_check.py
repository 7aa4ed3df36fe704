"""The table of seen and unseen combinations: right for real, empty and shuffled pictures, and kept under one name."""

import csv
from collections import Counter

import pytest
import torch

from t2ilib.data.shape_captions import CATEGORIES
from t2ilib.errors import BadParameter
from t2ilib.media import to_unit
from t2ilib.metrics import composition, wilson_interval
from t2ilib.metrics.composition import OVERALL
from t2ilib.metrics.shape_check import (
    COMPOSITION,
    asked_shapes,
    composition_rows,
    different_captions,
    keep_composition,
    shown_shares,
)
from t2ilib.record import Run

COUNT = 3  # captions of each category


@pytest.fixture(scope="module")
def asked():
    """Two splits, three captions of each category."""
    return {split: asked_shapes(split, COUNT, image_size=32) for split in ("train", "validation")}


def pictures_of(data):
    return to_unit(data.batch(torch.arange(len(data))))


def test_perfect_pictures_score_one_and_empty_ones_nothing(asked):
    perfect = composition_rows(asked, {split: pictures_of(data) for split, data in asked.items()})
    empty = composition_rows(asked, {split: torch.ones(len(data), 3, 32, 32) for split, data in asked.items()})
    labels = [f"{split}: {category}" for split in asked for category in (*CATEGORIES, OVERALL)]
    assert list(perfect) == list(empty) == labels
    for label in labels:
        assert perfect[label]["n"] == (COUNT * len(CATEGORIES) if label.endswith(OVERALL) else COUNT)
        assert perfect[label]["shown"] == perfect[label]["exact"] == perfect[label]["real"] == 1
        assert empty[label]["shown"] == empty[label]["shuffled"] == empty[label]["low"] == 0
        assert 0 < empty[label]["high"] < 1
        assert empty[label]["real"] == 1


def test_pictures_of_other_captions_score_what_shuffled_says(asked):
    """A method that answers each caption with another one's picture has, over all of these, the share `shuffled`."""
    data = asked["validation"]
    real = pictures_of(data)
    groups = data.columns["group"]
    expected = composition_rows({"validation": data}, {"validation": real})
    shares = []
    for shift in range(1, COUNT):
        order = torch.arange(len(data))
        for category in CATEGORIES:
            rows = [row for row, group in enumerate(groups) if group == category]
            order[rows] = torch.tensor(rows).roll(shift)
        shares.append(shown_shares(data.captions, real[order]))
    for category in (*CATEGORIES, OVERALL):
        mean = sum(share[category] for share in shares) / len(shares)
        assert expected[f"validation: {category}"]["shuffled"] == pytest.approx(mean)
    assert expected[f"validation: {OVERALL}"]["shuffled"] < 0.5


def test_no_caption_is_asked_twice_and_each_is_of_its_scene():
    captions = different_captions("validation", 20)
    assert len(set(captions.values())) == len(captions) == 20 * len(CATEGORIES)
    asked = asked_shapes("validation", 20, image_size=16)
    assert asked.captions == list(captions.values())
    for number, name, caption, phrasings in zip(captions, asked.columns["id"], asked.captions,
                                                asked.columns["captions"], strict=True):
        assert name == f"validation/{number:06d}" and caption in phrasings
    assert Counter(asked.columns["group"]) == dict.fromkeys(CATEGORIES, 20)
    assert set(asked.columns["group"][:6]) == set(CATEGORIES), "the first six are one of each"
    numbers = [name for name, group in zip(asked.columns["name"], asked.columns["group"], strict=True)
               if group == "count"]
    assert len(set(numbers)) == 4, "of 24 numbers of a shape four are for validation"


def test_captions_that_say_the_same_count_once_for_the_interval(asked):
    data = asked_shapes("validation", 12, image_size=32)
    empty = composition_rows({"validation": data}, {"validation": torch.ones(len(data), 3, 32, 32)})
    row = empty["validation: count"]
    assert (row["n"], row["shown"]) == (12, 0)
    assert row["high"] == pytest.approx(wilson_interval(0, 4)[1])


def test_what_codes_leave_is_a_column(asked):
    data = {"train": asked["train"]}
    drawn = {"train": pictures_of(asked["train"])}
    rows = composition_rows(data, drawn, through=torch.ones_like)
    assert rows[f"train: {OVERALL}"]["through codes"] == 0
    assert rows[f"train: {OVERALL}"]["real"] == rows[f"train: {OVERALL}"]["shown"] == 1


def test_the_shares_are_those_of_composition(asked):
    data = asked["train"]
    mixed = pictures_of(data)
    mixed[::2] = 1
    table = composition(data.captions, mixed)
    assert shown_shares(data.captions, mixed) == {name: pytest.approx(row["shown"]) for name, row in table.items()}


def test_a_run_keeps_the_table_under_one_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("T2I_RUN_DIR", str(tmp_path))
    calls = []

    def draw(captions):
        calls.append(captions)
        return torch.ones(len(captions), 3, 32, 32)

    run = Run("draws_nothing", given={"profile": "smoke", "seed": 3})
    rows = keep_composition(run, draw, count=6, held_out=True, seed=3)
    assert [len(captions) for captions in calls] == [32, 4] * 3, "at most 32 captions in one call"
    with open(tmp_path / "tables" / f"{COMPOSITION}.csv", newline="") as file:
        kept = list(csv.DictReader(file))
    assert [row["row"] for row in kept] == list(rows)
    assert {row["row"].partition(": ")[0] for row in kept} == {"train", "validation", "held_out"}
    assert kept[0]["n"] == "6" and float(kept[0]["shown"]) == 0 and float(kept[0]["real"]) == 1
    assert run.data["metrics"] == {"train_shown": 0, "validation_shown": 0, "held_out_shown": 0}
    assert (tmp_path / "figures" / "composition_held_out.png").exists()
    assert "seed 3" in capsys.readouterr().out


def test_bad_input_is_refused(asked, tmp_path, monkeypatch):
    with pytest.raises(BadParameter, match="drawn pictures of the splits"):
        composition_rows(asked, {})
    monkeypatch.setenv("T2I_RUN_DIR", str(tmp_path))
    run = Run("bad", given={})
    with pytest.raises(BadParameter, match="0 or more"):
        keep_composition(run, torch.ones, count=-1)

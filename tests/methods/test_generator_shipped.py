"""The feed-forward generator that ships: small enough, and recognised by a judge that had no part in it."""

import pytest

from t2ilib.checkpoint import read_config
from t2ilib.data import load_captioned
from t2ilib.encoders import load_judge
from t2ilib.media import to_unit
from t2ilib.methods.generator import CHECKPOINT, load_painter
from t2ilib.metrics.judging import Judgement
from t2ilib.paths import checkpoints_dir
from t2ilib.runtime import generator


@pytest.fixture(scope="module")
def painter():
    return load_painter(precision="float32")


def test_its_card():
    folder = checkpoints_dir() / CHECKPOINT
    card = read_config(folder)
    assert card["parameters"] <= 5_000_000 and card["dtype"] == "int8" and card["splits"] == ["train"]
    assert (folder / "model.safetensors").stat().st_size < 6 * 2**20


def test_the_judge_recognises_what_it_knows(painter):
    judgement = Judgement(load_judge(), load_captioned("emoji", split="all", image_size=64))
    names = judgement.concepts("train", 24)
    painted = painter.sample(names, generators=[generator(0, "draw", name) for name in names])
    assert painter.size == (128, 128) and painted.pictures.shape == (24, 3, 128, 128)
    features = judgement.features(to_unit(painted.pictures))
    assert judgement.report(features, names)["top10"] >= 0.6
    swapped = names[12:] + names[:12]
    assert judgement.report(features, swapped)["top10"] < 0.2

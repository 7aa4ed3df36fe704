"""The networks of codes that ship: small enough, of what they say they are, and recognised by the judge."""

import pytest
import torch
from torchvision.transforms.functional import to_tensor

from t2ilib.checkpoint import read_config
from t2ilib.data import load_captioned
from t2ilib.encoders import load_judge
from t2ilib.methods import generate_with_record, vqvae_pixelsnail
from t2ilib.methods.text_transformer import CHECKPOINT, METHOD
from t2ilib.metrics.judging import Judgement
from t2ilib.paths import checkpoints_dir


def test_the_transformers_card():
    folder = checkpoints_dir() / CHECKPOINT
    card = read_config(folder)
    assert card["dtype"] == "int8" and card["splits"] == ["train"] and card["arm"] == "autoregressive"
    assert (folder / "model.safetensors").stat().st_size < 8 * 2**20


def test_pixelsnails_card():
    folder = checkpoints_dir() / vqvae_pixelsnail.CHECKPOINT
    card = read_config(folder)
    assert card["dtype"] == "int8" and card["splits"] == ["train"] and card["vqvae"] == "emoji-vqvae"
    assert (folder / "model.safetensors").stat().st_size < 6 * 2**20


@pytest.mark.parametrize("method, side, least", [("text_transformer", 128, 0.35), ("vqvae_pixelsnail", 64, 0.25)])
def test_the_judge_recognises_what_they_know(method, side, least):
    judgement = Judgement(load_judge(), load_captioned("emoji", split="all", image_size=64))
    names = judgement.concepts("train", 12)
    pictures, _ = generate_with_record(names, method=method, num_images=1, seed=0, candidates=2)
    assert {picture.size for picture in pictures} == {(side, side)}
    features = judgement.features(torch.stack([to_tensor(picture) for picture in pictures]))
    assert judgement.report(features, names)["top10"] >= least
    shuffled = names[6:] + names[:6]
    assert judgement.report(features, shuffled)["top10"] < 0.2


def test_the_transformers_estimate_is_that_of_how_it_draws():
    as_it_ships = METHOD.estimate(1, {}).seconds
    assert as_it_ships == METHOD.estimate(1, {"arm": "autoregressive"}).seconds
    assert as_it_ships > METHOD.estimate(1, {"arm": "masked", "steps": 4}).seconds

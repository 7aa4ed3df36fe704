"""The BLIP that ships: small enough, sure of what it has seen, and better than chance at what it has not."""

import torch

from t2ilib.checkpoint import read_config
from t2ilib.data import load_captioned
from t2ilib.data.phrases import plain_name, with_article
from t2ilib.encoders import load_blip, load_text_encoder
from t2ilib.encoders.blip import EMBEDDED
from t2ilib.media import to_unit
from t2ilib.paths import checkpoints_dir


def test_its_card():
    folder = checkpoints_dir() / EMBEDDED
    card = read_config(folder)
    assert card["dtype"] == "int8" and card["splits"] == ["train"] and card["pictures_seen"] > 0
    assert (folder / "model.safetensors").stat().st_size < 5 * 2**20


def test_it_tells_right_pairs_from_wrong_ones():
    blip = load_blip()
    least_ordered = {"train": 0.95, "validation": 0.65}
    for split, least in least_ordered.items():
        drawings = load_captioned("emoji", split=split, image_size=64).spread(64)
        pictures = to_unit(drawings.batch(torch.arange(64)))
        names = [with_article(plain_name(name)) for name in drawings.columns["name"]]
        right = blip.match(pictures, names)
        wrong = blip.match(pictures, names[32:] + names[:32])
        assert (right > wrong).float().mean() >= least, split


def test_its_texts_are_a_condition():
    words = load_text_encoder(EMBEDDED)
    features = words.encode(["a red heart", "a heart that is red", "a submarine"])
    assert features.tokens.shape[0] == 3 and words.dim == features.tokens.shape[-1]
    heart, same, other = torch.nn.functional.normalize(features.pooled, dim=1)
    assert heart @ same > heart @ other

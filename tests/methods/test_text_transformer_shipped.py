"""The text transformer with the checkpoint that ships: pictures that show what was asked."""

import pytest
import torch
from torchvision.transforms.functional import to_tensor

from t2ilib.checkpoint import read_config
from t2ilib.data import load_captioned
from t2ilib.encoders import load_judge
from t2ilib.methods import generate, generate_with_record
from t2ilib.methods.text_transformer import CHECKPOINT
from t2ilib.metrics.judging import Judgement
from t2ilib.models.vqgan import codebook_digest, load_vqgan
from t2ilib.paths import checkpoints_dir

ASKED = ["red heart", "grinning face", "Christmas tree", "teddy bear", "fire", "pizza"]


def test_its_card_names_the_codes_and_the_splits():
    card = read_config(checkpoints_dir() / CHECKPOINT)
    assert card["codebook_sha256"] == codebook_digest(load_vqgan(card["vqgan"]).codebook)
    assert card["splits"] == ["train"] and card["pictures_seen"] > 0 and card["parameters"] < 8e6


@pytest.mark.slow
def test_most_pictures_are_what_was_asked_for():
    judgement = Judgement(load_judge(), load_captioned("emoji", split="all", image_size=64))
    pictures, _ = generate_with_record(ASKED, method="text_transformer", num_images=1, seed=0)
    assert {p.size for p in pictures} == {(128, 128)}
    ranks = judgement.ranks(judgement.features(torch.stack([to_tensor(p) for p in pictures])), ASKED)
    assert (ranks <= 10).sum() >= 4, dict(zip(ASKED, ranks.tolist(), strict=True))
    heart = to_tensor(pictures[0])
    assert heart[:, -3:, :3].mean() > 0.9  # white paper
    assert heart[0].mean() > heart[1:].mean() + 0.1  # red


@pytest.mark.slow
def test_words_decide_and_seeds_vary_it():
    call = dict(method="text_transformer", num_images=2, candidates=1, steps=4)
    a, b = generate("a red heart", seed=1, **call)
    again, _ = generate("a red heart", seed=1, **call)
    other, _ = generate("a blue fish", seed=1, **call)
    assert again.tobytes() == a.tobytes() != b.tobytes() and other.tobytes() != a.tobytes()

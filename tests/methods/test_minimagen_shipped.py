"""MinImagen with the checkpoints that ship: pictures that show what was asked, in both variants."""

import pytest
import torch
from torchvision.transforms.functional import to_tensor

from t2ilib.data import load_captioned
from t2ilib.encoders import load_judge
from t2ilib.methods import generate, generate_with_record
from t2ilib.metrics.judging import Judgement

ASKED = ["red heart", "grinning face", "Christmas tree", "teddy bear", "fire", "pizza"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["pixels", "latents"])
def test_most_pictures_are_what_was_asked_for(variant):
    judgement = Judgement(load_judge(), load_captioned("emoji", split="all", image_size=64))
    pictures, record = generate_with_record(ASKED, method="minimagen", num_images=1, seed=0, candidates=6,
                                            variant=variant)
    assert {p.size for p in pictures} == {(128, 128)} and record["config"]["variant"] == variant
    ranks = judgement.ranks(judgement.features(torch.stack([to_tensor(p) for p in pictures])), ASKED)
    assert (ranks <= 10).sum() >= 4, dict(zip(ASKED, ranks.tolist(), strict=True))
    heart = to_tensor(pictures[0])
    assert heart[:, -3:, :3].mean() > 0.9  # white paper, not grey
    assert heart[0].mean() > heart[1:].mean() + 0.1  # a red heart is red


@pytest.mark.slow
def test_words_decide_and_seeds_vary_it():
    call = dict(method="minimagen", num_images=2, candidates=1, steps=8)
    a, b = generate("a red heart", seed=1, **call)
    again, _ = generate("a red heart", seed=1, **call)
    other, _ = generate("a blue fish", seed=1, **call)
    assert again.tobytes() == a.tobytes() != b.tobytes() and other.tobytes() != a.tobytes()

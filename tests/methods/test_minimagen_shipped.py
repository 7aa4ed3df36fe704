"""MinImagen with the checkpoints that ship: pictures that show what was asked, in both variants."""

import pytest
import torch
from torchvision.transforms.functional import to_tensor

from t2ilib.data import load_captioned
from t2ilib.diffusion.text_guidance import null_condition
from t2ilib.encoders import load_judge
from t2ilib.encoders.conditions import batch_conditions
from t2ilib.methods import generate, generate_with_record
from t2ilib.methods.minimagen import load_cascade
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


def test_a_bare_word_of_a_colour_is_nearly_no_text_and_its_thing_is_not():
    """Why `negative=red` changes little, as the option says, and `negative=a red circle` much."""
    cascade = load_cascade()
    stage = cascade.stages[0]
    texts = batch_conditions(cascade.encode(["red", "a red circle", "a heart"]))
    no_text = null_condition(stage.network, texts)
    t = torch.full((3,), 0.9)
    differences = []
    for _ in range(4):
        x_t = torch.randn(1, 3, stage.size, stage.size).expand(3, -1, -1, -1)
        with torch.no_grad():
            difference = stage.network(x_t, t, **texts) - stage.network(x_t, t, **no_text)
        differences.append(difference.pow(2).mean((1, 2, 3)).sqrt())  # (3,)
    word, circle, heart = torch.stack(differences).mean(0).tolist()
    assert word < 0.35 * heart and circle > 1.5 * word, (word, circle, heart)

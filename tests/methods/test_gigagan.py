"""GigaGAN-lite as a method, with a tiny generator in a folder of its own."""

import json

import pytest
import torch

from t2ilib.checkpoint import save_model
from t2ilib.encoders import load_text_encoder
from t2ilib.errors import BadParameter, MissingAsset
from t2ilib.methods import METHODS, generate_with_record
from t2ilib.methods.gigagan import CHECKPOINT, METHOD, load_painter
from t2ilib.models.gigagan import GigaGenerator
from t2ilib.runtime import generator as stream

TINY = dict(image_size=16, widths=[16, 16, 8], attention=[8], heads=2, latent_dim=6, style_dim=20, filters=2,
            text_depth=0)
FAST = dict(device="cpu", precision="float32")


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    network = GigaGenerator(**TINY)
    network.mean_pooled.copy_(torch.randn(384) * 0.05)
    save_model(tmp_path / CHECKPOINT, network, licence="MIT", text_encoder="minilm")
    return tmp_path


def run(folder, prompt="a red heart", *, num_images=1, seed=0, **options):
    return generate_with_record(prompt, method="gigagan", num_images=num_images, seed=seed,
                                **{**FAST, "checkpoint": str(folder), "candidates": 1, **options})


def test_pictures_and_record(folder):
    images, record = run(folder, num_images=2, seed=3, candidates=3)
    assert [image.size for image in images] == [(16, 16)] * 2
    assert json.loads(json.dumps(record)) == record
    assert record["seeds"] == [3, 4] and record["steps_done"] == 1 and record["text_encoder"] == "minilm"
    scores = record["guide_similarity"]
    assert record["candidate_chosen"] == [max(range(3), key=s.__getitem__) for s in scores]


def test_a_picture_depends_on_its_seed_and_text_alone(folder):
    (_, second), _ = run(folder, "a blue car", num_images=2, seed=5)
    (again, other), _ = run(folder, ["a blue car", "cat"], seed=6, chunk=1)
    assert again.tobytes() == second.tobytes()
    assert other.tobytes() != again.tobytes()


def test_truncation_ends_where_the_seed_says_nothing(folder):
    painter = load_painter(home=folder, precision="float32")

    def draw(seed, **settings):
        return painter.sample(["a red heart"], generators=[stream(seed, "x")], **settings)

    spreads = []
    for truncation in (1.0, 0.5, 0.0):
        spreads.append((draw(0, truncation=truncation) - draw(1, truncation=truncation)).abs().mean().item())
    assert spreads[0] > spreads[1] > spreads[2] == 0
    torch.testing.assert_close(draw(0, truncation=0.999999), draw(0), atol=1e-4, rtol=0)


def test_text_strength_zero_draws_the_mean_text_and_more_moves_further(folder):
    painter = load_painter(home=folder, precision="float32")
    z = torch.randn(2, 6)
    pooled = painter.text_encoder.encode(["a red heart", "a clock"])[2]
    none = painter.style_of(z, pooled, text_strength=0.0)
    torch.testing.assert_close(none, painter.network.style(z, painter.network.mean_pooled.expand(2, -1)))
    plain = painter.style_of(z, pooled)
    torch.testing.assert_close(painter.style_of(z, pooled, text_strength=2.0), none + 2 * (plain - none))


def test_noise_moves_what_is_looked_up_and_a_known_name_is_found_all_the_same(tmp_path):
    names = ["red heart", "clock", "rocket", "a pizza", "tree", "fish"]
    texts = load_text_encoder("minilm").encode(names)[2]
    network = GigaGenerator(**TINY, memory=6, memory_styles=2, draft_dim=12)
    network.mean_pooled.copy_(texts.mean(0))
    drawings = torch.linspace(-1, 1, 6)[:, None, None, None].expand(-1, 3, 16, 16)  # each thing a grey of its own
    network.drafts.begin_with(texts - texts.mean(0), drawings.repeat(2, 1, 1, 1) + 0.01 * torch.randn(12, 3, 16, 16),
                              torch.arange(6).repeat(2), torch.arange(12) // 6)
    save_model(tmp_path / CHECKPOINT, network, licence="MIT", text_encoder="minilm")
    painter = load_painter(home=tmp_path, precision="float32")

    def spread(text, noise, **settings):
        streams = [stream(seed, "x") for seed in range(8)]
        return painter.sample([text] * 8, generators=streams, noise=noise, **settings).mean((1, 2, 3)).std().item()

    assert spread("clock", 1.0) < 0.1
    assert spread("a thing without a name", 0.0) < 0.1 < spread("a thing without a name", 1.0)
    assert spread("a thing without a name", 1.0, truncation=0.0) < 0.1


@pytest.mark.parametrize("options", [{"truncation": -0.1}, {"truncation": 1.1}, {"text_strength": -1}, {"noise": -1}])
def test_numbers_out_of_range_are_refused(folder, options):
    with pytest.raises(BadParameter, match=next(iter(options))):
        run(folder, **options)


def test_without_a_checkpoint_it_says_how_to_get_one(tmp_path):
    with pytest.raises(MissingAsset, match="train gigagan"):
        run(tmp_path)
    assert METHODS["gigagan"] is METHOD

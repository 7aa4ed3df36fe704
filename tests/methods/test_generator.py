"""The feed-forward generator as a method, with a tiny network in a folder of its own: options, record, candidates."""

import json

import pytest
import torch
from PIL import ImageChops

from t2ilib.checkpoint import save_model, short_hash
from t2ilib.errors import BadParameter, CheckpointMismatch, MissingAsset, UnknownName
from t2ilib.methods import METHODS, generate_with_record, generator
from t2ilib.methods.code_checkpoints import card_of
from t2ilib.methods.generator import CHECKPOINT, METHOD, load_painter
from t2ilib.models.feed_forward import CodeGenerator
from t2ilib.models.sizes import GENERATOR
from t2ilib.models.vqgan import VQGAN, load_vqgan
from t2ilib.paths import checkpoints_dir
from t2ilib.runtime import generator as stream

FAST = dict(device="cpu", precision="float32", model="emoji-vqgan")


@pytest.fixture(scope="module")
def vqgan():
    return load_vqgan("emoji-vqgan")


def save(folder, vqgan, **card):
    torch.manual_seed(0)
    network = CodeGenerator(**GENERATOR["small"], memory=6, styles=["round", "flat"], text_noise=0.5)
    network.begin_with(texts=torch.nn.functional.normalize(torch.randn(6, 384), dim=1), codebook=vqgan.codebook,
                       codes=torch.randint(2048, (12, 256)), things=torch.arange(12) % 6, styles=torch.arange(12) // 6)
    save_model(folder / CHECKPOINT, network, **(card or card_of(vqgan, "emoji-vqgan-128")))


@pytest.fixture
def run(tmp_path, vqgan):
    save(tmp_path, vqgan)

    def run(prompt="a red heart", *, num_images=1, seed=0, **options):
        return generate_with_record(prompt, method="generator", num_images=num_images, seed=seed,
                                    **{**FAST, "checkpoint": str(tmp_path), **options})

    return run


def test_pictures_and_record(run, tmp_path, vqgan):
    images, record = run(num_images=2, seed=3, candidates=3, temperature=0.0, paint=False)
    assert [i.size for i in images] == [(64, 64)] * 2
    assert json.loads(json.dumps(record)) == record
    assert record["seeds"] == [3, 4] and record["steps_done"] == 1 and record["text_encoder"] == "minilm"
    asked = {**FAST, "candidates": 3, "temperature": 0.0, "paint": False, "checkpoint": str(tmp_path)}
    assert record["config"] == {**METHOD.defaults(), **asked, "clip": ["emoji-clip-b", "emoji-clip"]}
    assert record["checkpoints"]["emoji-vqgan"] == short_hash(checkpoints_dir() / "emoji-vqgan")
    scores = record["guide_similarity"]
    assert record["candidate_chosen"] == [max(range(3), key=s.__getitem__) for s in scores]
    codes = torch.tensor(record["codes"])
    assert codes.shape == (2, 16, 16)
    painted = vqgan.decode_codes(codes)[0].clamp(-1, 1)
    expected = ((painted + 1) * 127.5).round().byte().movedim(0, -1)
    shown = torch.frombuffer(bytearray(images[0].tobytes()), dtype=torch.uint8).view(64, 64, 3)
    assert (shown.int() - expected.int()).abs().max() <= 1


def apart(a, b):
    """The largest difference between two pictures, in grey levels."""
    return max(high for _, high in ImageChops.difference(a, b).getextrema())


def test_seeds_texts_and_neighbours(run):
    (a, b), _ = run("a blue car", num_images=2, seed=5)
    (same, _), _ = run("a blue car", num_images=2, seed=5)
    assert same.tobytes() == a.tobytes()
    (again, other), _ = run(["a blue car", "cat"], seed=6, chunk=1)
    assert apart(again, b) <= 1 < apart(again, other)  # grey levels: sums round differently in another batch


def test_style_noise_temperature_and_sharpness(run):
    styles = [run(style=name, noise=0.0)[0][0].tobytes() for name in ("round", "flat")]
    assert styles[0] != styles[1]
    assert run(style="flat", noise=0.0, seed=9)[0][0].tobytes() == styles[1]  # nothing is left to the seed
    assert run(style="flat", noise=20.0)[0][0].tobytes() != styles[1]
    mixed = {run(style="flat", noise=0.0, temperature=value)[0][0].tobytes() for value in (0.0, 0.5, 1.0)}
    assert len(mixed) == 3 and styles[1] in mixed
    recalled = {run(style="flat", noise=0.0, sharpness=value)[0][0].tobytes() for value in (0.0, 2.0, 50.0)}
    assert len(recalled) == 3 and styles[1] in recalled
    seen = {run(noise=0.0, seed=seed)[0][0].tobytes() for seed in range(8)}
    assert seen == set(styles)


@pytest.mark.parametrize("wrong, message", [
    ({"noize": 2.0}, "did you mean noise"), ({"best_of": 2}, "here it is called 'candidates'"),
    ({"clip": "emoji-judge", "candidates": 2}, "only measures"), ({"clip": []}, "must name a guide"),
    ({"style": "rond"}, "round"), ({"candidates": 0}, "at least 1"), ({"noise": -1.0}, "noise"),
    ({"sharpness": -1.0}, "sharpness"),
    ({"init_image": "x.png"}, "init_image")])
def test_bad_options_are_refused(run, wrong, message):
    with pytest.raises((BadParameter, UnknownName), match=message):
        run(**wrong)


def test_a_checkpoint_that_does_not_fit_says_so(run, tmp_path, vqgan):
    other = VQGAN(embed_dim=8, n_embed=2048, z_channels=8, resolution=64, ch=8, ch_mult=[1, 1, 1], num_res_blocks=1,
                  attn_resolutions=[], norm_groups=8)
    save_model(tmp_path / "other", other)
    with pytest.raises(CheckpointMismatch, match="emoji-vqgan-128"):
        run(model=str(tmp_path / "other"))
    save(tmp_path, vqgan, text_encoder="minilm")
    with pytest.raises(CheckpointMismatch, match="does not say on which codes"):
        run()


def test_without_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(generator, "checkpoints_dir", lambda: tmp_path)
    assert "train one with `python -m t2ilib train generator`" in METHODS["generator"].missing()
    with pytest.raises(MissingAsset, match="train generator.*checkpoint=FOLDER"):
        generate_with_record("x", method="generator", num_images=1, checkpoint=str(tmp_path))


def test_what_a_painter_refuses(run, tmp_path):
    painter = load_painter(home=tmp_path, model="emoji-vqgan")
    assert painter.size == (64, 64)
    one = [stream(0, "picture")]
    for wrong in (dict(texts="x"), dict(texts=["x"], generators=[]), dict(texts=["x"], candidates=2),
                  dict(texts=["x"], style="oval"), dict(texts=["x"], noise=-1.0)):
        with pytest.raises(BadParameter):
            painter.sample(**{"generators": one, **wrong})

"""The text transformer as a method, with a tiny network in a folder of its own: options, record, candidates, edits."""

import json

import pytest
import torch
from PIL import Image
from torch import nn

from t2ilib.checkpoint import save_model, short_hash
from t2ilib.errors import BadParameter, CheckpointMismatch, MissingAsset
from t2ilib.methods import METHODS, generate_with_record, text_transformer
from t2ilib.methods.text_transformer import CHECKPOINT, METHOD, card_of, load_painter
from t2ilib.models.text_transformer import TextTransformer
from t2ilib.models.vqgan import VQGAN, codebook_digest, load_vqgan
from t2ilib.paths import checkpoints_dir
from t2ilib.runtime import generator

DEFAULTS = METHOD.defaults()
FAST = dict(steps=2, device="cpu", precision="float32", model="emoji-vqgan", candidates=1)


@pytest.fixture(scope="module")
def vqgan():
    return load_vqgan("emoji-vqgan")


def save(folder, vqgan, causal=False, **card):
    torch.manual_seed(0)
    network = TextTransformer(dim=16, depth=1, heads=2, causal=causal)
    for layer in network.modules():  # those that start at zero would draw the same for every text
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.3)
    nn.init.normal_(network.code_embedding.weight, std=0.5)
    save_model(folder / CHECKPOINT, network, **(card or card_of(vqgan, "emoji-vqgan-128")))


@pytest.fixture
def run(tmp_path, vqgan):
    save(tmp_path, vqgan)

    def run(prompt="a red heart", *, num_images=1, seed=0, **options):
        return generate_with_record(prompt, method="text_transformer", num_images=num_images, seed=seed,
                                    **{**FAST, "checkpoint": str(tmp_path), **options})

    return run


def test_pictures_and_record(run, tmp_path):
    images, record = run(num_images=2, seed=3, candidates=3)
    assert [i.size for i in images] == [(64, 64)] * 2
    assert json.loads(json.dumps(record)) == record
    assert record["seeds"] == [3, 4] and record["prompts"] == ["a red heart"] * 2 and record["arm"] == "masked"
    assert record["config"] == {**DEFAULTS, **FAST, "candidates": 3, "checkpoint": str(tmp_path),
                                "clip": ["emoji-clip-b", "emoji-clip"], "bank_share": 0.0}  # there is no bank
    assert record["steps_done"] == 2 and record["text_encoder"] == "minilm"
    shipped = ("emoji-vqgan", "emoji-clip-b", "emoji-clip")
    assert {name: short_hash(checkpoints_dir() / name) for name in shipped}.items() <= record["checkpoints"].items()
    scores = record["guide_similarity"]
    assert [len(s) for s in scores] == [3, 3]
    assert record["candidate_chosen"] == [max(range(3), key=s.__getitem__) for s in scores]
    codes = torch.tensor(record["codes"])
    assert codes.shape == (2, 16, 16) and 0 <= codes.min() <= codes.max() < 2048


def test_the_codes_are_the_picture(run, vqgan):
    (image,), record = run()
    with torch.no_grad():
        painted = vqgan.decode_codes(torch.tensor(record["codes"]))[0]
    expected = ((painted.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(0, -1)
    assert (torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(64, 64, 3).int()
            - expected.int()).abs().max() <= 1


def test_seeds_texts_and_neighbours(run):
    (a, b), _ = run("a blue car", num_images=2, seed=5)
    (again, other), _ = run(["a blue car", "cat"], seed=6, chunk=1)
    assert again.tobytes() == b.tobytes() != a.tobytes() and other.tobytes() != again.tobytes()
    assert run("a blue car", seed=5, negative="cat")[0][0].tobytes() != a.tobytes()
    assert run("a blue car", seed=5, guidance_scale=1.0)[0][0].tobytes() != a.tobytes()


def test_a_callback_sees_every_pass_and_may_stop(run):
    seen = []

    def callback(preview):
        seen.append((preview.step, preview.steps, tuple(preview.images.shape), preview.is_picture))
        assert 0 <= preview.finish().min() <= preview.finish().max() <= 1
        return preview.step == 3

    images, record = run(num_images=2, steps=3, chunk=1, callback=callback)
    assert seen == [(i, 6, (2, 3, 64, 64), i == 5) for i in range(4)]
    assert record["steps_done"] == 4 and len(images) == 2


def test_one_code_after_another(run, tmp_path, vqgan):
    save(tmp_path, vqgan, causal=True)
    seen = []
    (image,), record = run(arm="autoregressive", guidance_scale=1.0,
                           callback=lambda p: seen.append(p.images[0, :, -1].min().item()))
    assert record["arm"] == "autoregressive" and record["steps_done"] == 16
    assert min(seen[:8]) > 0.9  # the lower rows are white until they are drawn
    (plain,), _ = run(arm="autoregressive", guidance_scale=1.0)
    assert plain.tobytes() == image.tobytes()


@pytest.fixture
def white(tmp_path):
    path = tmp_path / "white.png"
    Image.new("RGB", (20, 20), "white").save(path)
    return str(path)


def test_a_picture_is_redrawn_or_drawn_into(run, white, vqgan):
    (edited,), record = run(init_image=white, strength=0.25)
    codes = torch.tensor(record["codes"])[0]
    blank = vqgan.encode_codes(torch.ones(1, 3, 64, 64))[0]
    assert 0.74 < (codes == blank).float().mean() < 0.76 and edited.size == (64, 64)
    (drawn,), record = run(init_image=white, mask=[0.5, 0.25, 1, 1], candidates=2)
    assert drawn.crop((0, 0, 32, 64)).getextrema() == ((255, 255),) * 3
    assert drawn.crop((0, 0, 64, 16)).getextrema() == ((255, 255),) * 3
    assert min(low for low, _ in drawn.crop((32, 16, 64, 64)).getextrema()) < 250
    codes = torch.tensor(record["codes"])[0]
    assert torch.equal(codes[:4], blank[:4]) and torch.equal(codes[:, :8], blank[:, :8])


def test_a_causal_network_completes_the_lower_part(run, white, tmp_path, vqgan):
    save(tmp_path, vqgan, causal=True)
    (drawn,), _ = run(init_image=white, mask=[0, 0.5, 1, 1])
    assert drawn.crop((0, 0, 64, 32)).getextrema() == ((255, 255),) * 3
    assert min(low for low, _ in drawn.crop((0, 32, 64, 64)).getextrema()) < 250
    _, record = run(init_image=white, strength=0.5)
    blank = vqgan.encode_codes(torch.ones(1, 3, 64, 64))[0]
    assert torch.equal(torch.tensor(record["codes"])[0, :8], blank[:8])
    with pytest.raises(BadParameter, match="below whole rows"):
        run(init_image=white, mask=[0.5, 0.5, 1, 1])


@pytest.mark.parametrize("wrong, message", [
    ({"guidance_scal": 2.0}, "did you mean guidance_scale"), ({"passes": 2}, "here it is called 'steps'"),
    ({"steps": 0}, "steps must be a whole number"), ({"clip": "emoji-judge", "candidates": 2}, "only measures"),
    ({"clip": []}, "must name a guide"), ({"arm": "causal"}, "arm"), ({"candidates": 0}, "at least 1"),
    ({"mask": [0, 0, 1, 1]}, "init_image"), ({"model": "emoji-vqgam"}, "emoji-vqgan"), ({"top_p": 0.0}, "top_p"),
    ({"guidance_schedule": "cosin"}, "did you mean cosine")])
def test_bad_options_are_refused(run, wrong, message):
    with pytest.raises(BadParameter, match=message):
        run(**wrong)


def test_a_checkpoint_that_does_not_fit_says_so(run, tmp_path, vqgan):
    with pytest.raises(CheckpointMismatch, match="arm='masked'"):
        run(arm="autoregressive")
    other = VQGAN(embed_dim=8, n_embed=2048, z_channels=8, resolution=64, ch=8, ch_mult=[1, 1, 1], num_res_blocks=1,
                  attn_resolutions=[], norm_groups=8)
    save_model(tmp_path / "other", other)
    with pytest.raises(CheckpointMismatch, match="emoji-vqgan-128"):
        run(model=str(tmp_path / "other"))
    save(tmp_path, vqgan, text_encoder="minilm")
    with pytest.raises(CheckpointMismatch, match="does not say on which codes"):
        run()


def test_both_shipped_vqgans_have_one_codebook(vqgan):
    assert codebook_digest(vqgan.codebook) == codebook_digest(load_vqgan("emoji-vqgan-128").codebook)


def test_without_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(text_transformer, "checkpoints_dir", lambda: tmp_path)
    assert "train one with `python -m t2ilib train words`" in METHODS["text_transformer"].missing()
    with pytest.raises(MissingAsset, match="train words.*checkpoint=FOLDER"):
        generate_with_record("x", method="text_transformer", num_images=1, checkpoint=str(tmp_path))


def test_what_a_painter_refuses(run, tmp_path):
    painter = load_painter(home=tmp_path, model="emoji-vqgan")
    stream = [generator(0, "picture")]
    for wrong in (lambda: painter.sample("x", generators=stream), lambda: painter.sample(["x"], generators=[]),
                  lambda: painter.sample(["x"], generators=stream, candidates=2),
                  lambda: painter.sample(["x"], generators=stream, temperatur=1.0),
                  lambda: painter.edit(torch.zeros(1, 3, 32, 64), ["x"], strength=0.5, generators=stream),
                  lambda: painter.edit(torch.zeros(1, 3, 64, 64), ["x"], strength=0.0, generators=stream),
                  lambda: painter.inpaint(torch.zeros(1, 3, 64, 64), torch.zeros(1, 1, 16, 16), ["x"],
                                          generators=stream)):
        with pytest.raises(BadParameter):
            wrong()


def test_a_long_prompt_is_cut_with_a_warning(run):
    with pytest.warns(UserWarning, match="at most 256 tokens"):
        run("heart " * 400)

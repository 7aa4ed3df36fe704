"""MinImagen as a method, with tiny networks in a folder of their own: options, record, candidates, edits."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from t2ilib.cascade import Sampling, Stage, downsample
from t2ilib.checkpoint import save_model, short_hash
from t2ilib.data import load_captioned
from t2ilib.errors import BadParameter, CheckpointMismatch, MissingAsset, UnknownName
from t2ilib.files import content_hash
from t2ilib.methods import generate_with_record, minimagen, networks
from t2ilib.methods.minimagen import METHOD, STAGES, load_cascade
from t2ilib.models.imagen_unet import ImagenUNet
from t2ilib.paths import checkpoints_dir
from t2ilib.runtime import generator

DEFAULTS = METHOD.defaults()
FAST = dict(steps=2, device="cpu", precision="float32")


def run(prompt, **arguments):
    return generate_with_record(prompt, method="minimagen", **arguments)


def tiny(lowres_cond=False):
    network = ImagenUNet(dim=8, dim_mults=[1, 2], attn_heads=1, attn_dim_head=8, lowres_cond=lowres_cond)
    for layer in network.modules():  # those that start at zero would draw the same for every text
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and not layer.weight.any():
            nn.init.normal_(layer.weight, std=0.2)
    return network


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Checkpoints of two stages, 8 and 16 pixels, and the guides that ship."""
    for guide in DEFAULTS["clip"]:
        (tmp_path / guide).symlink_to(checkpoints_dir() / guide, target_is_directory=True)
    torch.manual_seed(0)
    for name, size in ((STAGES[0], 8), (STAGES[1], 16)):
        network = tiny(lowres_cond=size > 8)
        save_model(tmp_path / name, network, stage=Stage(network, size, level=0.2).card())
    for module in (minimagen, networks):
        monkeypatch.setattr(module, "checkpoints_dir", lambda: tmp_path)
    return tmp_path


def test_pictures_and_record(folder):
    images, record = run("a red heart", num_images=2, seed=3, candidates=4, **FAST)
    assert [i.size for i in images] == [(16, 16)] * 2 and all(isinstance(i, Image.Image) for i in images)
    assert json.loads(json.dumps(record)) == record
    assert record["seeds"] == [3, 4] and record["prompts"] == ["a red heart"] * 2
    assert record["config"] == {**DEFAULTS, **FAST, "candidates": 4, "interval": [0.0, 1.0],
                                "clip": ["emoji-clip-b", "emoji-clip"], "bank_share": 0.0}  # there is no bank
    assert record["steps_done"] == 2 + 1
    assert record["checkpoints"] == {n: short_hash(folder / n) for n in (*STAGES[:2], *DEFAULTS["clip"])}
    assert [s["size"] for s in record["stages"]] == [8, 16] and record["stages"][1]["level"] == 0.2
    assert record["text_encoder"] == "minilm" and (record["height"], record["width"]) == (16, 16)
    scores = record["guide_similarity"]
    assert [len(s) for s in scores] == [4, 4]
    assert record["candidate_chosen"] == [max(range(4), key=s.__getitem__) for s in scores]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_picture_whatever_is_drawn_beside_it(folder):
    (a, b), _ = run("a car", num_images=2, seed=5, **FAST)
    (again, *_), _ = run(["a car", "cat"], num_images=1, seed=6, **FAST)
    assert again.tobytes() == b.tobytes() != a.tobytes()
    prompts, record = run(["a car", "cat"], num_images=2, seed=5, **FAST)
    assert prompts[1].tobytes() == b.tobytes() and record["seeds"] == [5, 6, 5, 6]
    assert prompts[2].tobytes() != prompts[0].tobytes()  # the text matters


@pytest.mark.slow
def test_texts_with_other_numbers_of_drawings_do_not_touch_one_another(folder):
    (blue,), alone = run("a blue car", num_images=1, seed=5, **FAST)  # all of its candidates start from drawings
    (cat,), _ = run("cat", num_images=1, seed=5, **FAST)
    (first, second), record = run(["cat", "a blue car"], num_images=1, seed=5, **FAST)
    assert record["candidate_chosen"][1:] == alone["candidate_chosen"]
    for beside, by_itself in ((first, cat), (second, blue)):
        apart = np.abs(np.asarray(beside).astype(int) - np.asarray(by_itself)).max()
        assert apart <= 2  # of 255: a text that is read beside another is rounded otherwise, most on CPUs with AVX-512
    assert np.abs(np.asarray(first).astype(int) - np.asarray(second)).max() > 30


def test_one_candidate_that_is_not_steered_needs_no_guide(folder, monkeypatch):
    monkeypatch.setattr(networks.Networks, "clip", lambda *_: pytest.fail("no guide is needed"))
    _, record = run("a red heart", num_images=1, seed=0, candidates=1, clip_guidance_scale=0, **FAST)
    assert "guide_similarity" not in record and list(record["checkpoints"]) == list(STAGES[:2])


def test_all_guides_choose(folder):
    how = dict(num_images=1, seed=0, candidates=4, clip_guidance_scale=0, **FAST)
    each = [run("a red heart", clip=clip, **how)[1] for clip in (*DEFAULTS["clip"], DEFAULTS["clip"])]
    a, b, both = (torch.tensor(record["guide_similarity"]) for record in each)
    torch.testing.assert_close(both, (a + b) / 2)
    assert not torch.allclose(a, b) and list(each[0]["checkpoints"]) == [*STAGES[:2], DEFAULTS["clip"][0]]


def test_the_guide_may_steer(folder):
    how = dict(candidates=1, steps=4, device="cpu", precision="float32")
    (plain,), _ = run("a red heart", num_images=1, seed=0, clip_guidance_scale=0.0, **how)
    (steered,), record = run("a red heart", num_images=1, seed=0, **how)
    assert plain.tobytes() != steered.tobytes()
    assert record["config"]["clip_guidance_scale"] == 0.3
    assert list(record["checkpoints"]) == [*STAGES[:2], DEFAULTS["clip"][0]]  # with one draft nobody chooses
    (content,), _ = run("a red heart", num_images=1, seed=0, clip_guidance_threshold=-1.0, **how)
    difference = np.asarray(content, dtype=int) - np.asarray(plain, dtype=int)
    assert abs(difference).max() <= 1  # but for rounding: the guide's gradient is asked, and is not followed
    for wrong in (dict(clip_guidance_scale=-1.0), dict(clip_guidance_scale=0.3, variant="latents")):
        with pytest.raises(BadParameter, match="clip_guidance_scale must be"):
            run("a red heart", num_images=1, seed=0, **wrong)


def test_the_stages_that_are_here(folder):
    (folder / STAGES[1]).rename(folder / "elsewhere")
    images, record = run("a red heart", num_images=1, seed=0, candidates=1, clip_guidance_scale=0, **FAST)
    assert images[0].size == (8, 8) and list(record["checkpoints"]) == [STAGES[0]]
    (folder / "elsewhere").rename(folder / STAGES[2])
    assert run("a red heart", num_images=1, seed=0, candidates=1, **FAST)[0][0].size == (16, 16)


@pytest.mark.slow
def test_the_variant_that_draws_latents(folder):
    shipped = Path(__file__).resolve().parents[2] / "data" / "checkpoints"
    with pytest.raises(MissingAsset, match="emoji-prior"):
        run("a red heart", num_images=1, seed=0, variant="latents", **FAST)
    for name in minimagen.LATENT_STAGE:
        (folder / name).symlink_to(shipped / name, target_is_directory=True)
    first, record = run("a red heart", num_images=1, seed=0, variant="latents", **FAST)
    assert record["config"]["clip_guidance_scale"] == 0
    assert first[0].size == (64, 64) and list(record["checkpoints"]) == [*minimagen.LATENT_STAGE, *DEFAULTS["clip"]]
    network = tiny(lowres_cond=True)
    save_model(folder / STAGES[2], network, stage=Stage(network, 128).card())
    images, record = run("a red heart", num_images=1, seed=0, variant="latents", **FAST)
    assert images[0].size == (128, 128) and [s["size"] for s in record["stages"]] == [64, 128]
    assert STAGES[1] not in record["checkpoints"] and STAGES[2] in record["checkpoints"]  # no stage enlarges to its own


def test_a_callback_sees_every_step_and_may_stop(folder):
    seen = []

    def callback(preview):
        seen.append((preview.step, preview.steps, tuple(preview.images.shape), preview.finish().max().item() <= 1))
        return preview.step == 1

    images, record = run("a red heart", num_images=1, seed=0, callback=callback, **FAST)
    assert seen == [(i, 3, (1, 3, 16, 16), True) for i in range(2)]
    assert record["steps_done"] == 2 and images[0].size == (16, 16)


def test_a_picture_is_redrawn_or_drawn_into(folder, tmp_path):
    path = tmp_path / "white.png"
    Image.new("RGB", (20, 20), "white").save(path)
    (edited,), record = run("a red heart", num_images=1, seed=0, init_image=path, strength=0.5, **FAST)
    assert edited.size == (16, 16) and record["config"]["candidates"] == 1 and record["config"]["strength"] == 0.5
    (drawn,), _ = run("a red heart", num_images=1, seed=0, init_image=path, mask=[0.5, 0, 1, 1], **FAST)
    assert drawn.crop((0, 0, 8, 16)).getextrema() == ((255, 255),) * 3
    assert min(low for low, _ in drawn.crop((8, 0, 16, 16)).getextrema()) < 250


@pytest.mark.parametrize("wrong, message", [
    ({"guidance_scal": 2.0}, "did you mean guidance_scale"), ({"num_steps": 2}, "option of minimagen"),
    ({"sampler": "dpm"}, "dpm_solver"), ({"steps": 0}, "steps must be a whole number"),
    ({"clip": "emoji-judge"}, "only measures"), ({"clip": []}, "must name a guide"),
    ({"variant": "latent"}, "did you mean latents"), ({"candidates": 0}, "at least 1"),
    ({"mask": [0, 0, 1, 1]}, "init_image"),
    ({"init_image": "x.png", "candidates": 2}, "leave one out")])
def test_bad_options_are_refused(folder, wrong, message):
    with pytest.raises(BadParameter, match=message):
        run("a red heart", num_images=1, seed=0, **{**FAST, **wrong})


def test_absent_and_silent_checkpoints(folder, tmp_path):
    save_model(folder / STAGES[1], tiny(lowres_cond=True))
    with pytest.raises(CheckpointMismatch, match="card"):
        run("a red heart", num_images=1, seed=0, **FAST)
    (folder / STAGES[0]).rename(tmp_path / "gone")
    with pytest.raises(MissingAsset, match="run 08 --profile full"):
        run("a red heart", num_images=1, seed=0, **FAST)


def test_options_are_those_of_sampling():
    known = {f.name for f in dataclasses.fields(Sampling)} - {"clip_guidance"}
    assert known | {"clip_guidance_scale"} < set(DEFAULTS)
    with pytest.raises(UnknownName):
        run("x", num_images=1, seed=0, model="emoji-vqgan")


def test_a_cascade_of_ones_own(folder, tmp_path):
    mine = tmp_path / "mine"
    options = dict(num_images=1, seed=0, candidates=1, clip_guidance_scale=0, **FAST)
    torch.manual_seed(7)
    save_model(mine / STAGES[0], tiny(), stage=Stage(tiny(), 8).card(), data={"name": "my_pictures"})
    (picture,), record = run("a red heart", checkpoint=str(mine), **options)
    assert picture.size == (8, 8) and record["checkpoints"] == {}
    assert record["inputs"] == {"checkpoint": {"mine": content_hash(mine)}}
    assert run("a red heart", **options)[1]["checkpoints"].keys() == set(STAGES[:2])
    network = tiny(lowres_cond=True)
    save_model(mine / STAGES[1], network, stage=Stage(network, 16).card(), data={"name": "other_pictures"})
    with pytest.raises(CheckpointMismatch, match="draw one set, these were trained on .*my_pictures.*other_pictures"):
        run("a red heart", checkpoint=str(mine), **options)
    with pytest.raises(MissingAsset, match="no checkpoint emoji-minimagen-base in .*nothing"):
        run("a red heart", checkpoint=str(tmp_path / "nothing"), **options)


def test_stages_of_different_text_encoders_are_refused(folder):
    network = tiny(lowres_cond=True)
    save_model(folder / STAGES[1], network, stage=Stage(network, 16).card(), text_encoder="t5-small")
    with pytest.raises(CheckpointMismatch, match="t5-small"):
        run("a red heart", num_images=1, seed=0, **FAST)


@pytest.mark.slow
def test_the_shipped_enlargers_leave_plain_grounds_plain():
    data = load_captioned("emoji", split="validation", image_size=128).spread(6)
    true = data.batch(torch.arange(6))  # (6, 3, 128, 128) in [-1, 1]
    streams = [generator(0, "ground", i) for i in range(6)]
    made = load_cascade().sample(list(data.captions), generators=streams, low=downsample(true, 32))[-1]
    white = (true == 1).all(1, keepdim=True).float()
    far_from_edges = 1 - F.max_pool2d(1 - white, 17, stride=1, padding=8)  # (6, 1, 128, 128)
    ground = made[far_from_edges.bool().expand_as(made)]
    assert len(ground) > 10_000
    assert (ground - 1).square().mean().sqrt() < 0.001  # a grey level is 0.008

"""The registry of methods, and VQGAN+CLIP with the checkpoints that ship: offline, small, repeatable."""

import inspect

import numpy as np
import pytest
from PIL import Image

from t2ilib.checkpoint import short_hash
from t2ilib.errors import BadParameter, UnknownName
from t2ilib.guidance import GuidanceConfig
from t2ilib.methods import METHODS, generate, generate_with_record, vqgan_clip
from t2ilib.methods.vqgan_clip import PRIORS, WITH_PRIOR, WITHOUT_PRIOR
from t2ilib.paths import checkpoints_dir

FAST = dict(candidates=2, steps=2, num_cutouts=2, prior_steps=2)


def test_stable_signature():
    parameters = inspect.signature(generate).parameters
    assert list(parameters)[:4] == ["prompt", "method", "num_images", "seed"]
    assert parameters["method"].default in METHODS


@pytest.mark.slow
def test_pictures_and_record():
    images, record = generate_with_record("a red heart", num_images=2, seed=3, **FAST)
    assert len(images) == 2 and all(isinstance(i, Image.Image) and i.mode == "RGB" for i in images)
    assert record["seeds"] == [3, 4] and record["config"]["prompt"] == "a red heart"
    for name in ("emoji-vqgan-128", "emoji-clip", PRIORS["emoji-vqgan-128"]):
        assert record["checkpoints"][name] == short_hash(checkpoints_dir() / name)


@pytest.mark.slow
def test_same_seed_same_bytes_and_another_seed_another_picture():
    a, b = (generate("a blue car", num_images=1, seed=5, **FAST)[0].tobytes() for _ in range(2))
    assert a == b
    assert generate("a blue car", num_images=1, seed=6, **FAST)[0].tobytes() != a


def test_a_callback_sees_every_step_and_may_stop():
    seen = []

    def callback(preview):
        seen.append((preview.step, preview.steps, tuple(preview.images.shape)))
        return preview.step == 1

    images, record = generate_with_record("a red heart", num_images=1, callback=callback, **{**FAST, "steps": 50})
    assert seen == [(0, 50, (1, 3, 128, 128)), (1, 50, (1, 3, 128, 128))]
    assert record["steps_done"] == 2 and len(images) == 1


def test_without_prior():
    images, record = generate_with_record("fire", num_images=1, init="random", prior_weight=0.0, steps=1, num_cutouts=2,
                                          candidates=1, init_weight=0.0)
    assert images[0].size == (128, 128) and "emoji-prior" not in record["checkpoints"]


def test_a_picture_is_where_the_search_starts(tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    edit = {"init_image": str(tmp_path / "red.png"), "steps": 0, "num_cutouts": 2}
    (start,), record = generate_with_record("a blue car", num_images=1, **edit)
    assert record["config"]["init"] == "image" and np.asarray(start)[64, 64].tolist()[0] > 150
    (kept,), _ = generate_with_record("a blue car", num_images=1, mask=[0.5, 0, 1, 1], **edit | {"steps": 1})
    assert np.asarray(kept)[64, 10].tolist() == [255, 0, 0]
    with pytest.raises(BadParameter, match="contradict"):
        generate("a blue car", init="prior", num_images=1, **edit)


def test_the_sibling_paints_the_same_codes_smaller():
    (large,), (small,) = (generate("a red heart", num_images=1, **{**FAST, "steps": 0, "candidates": 1, "model": model})
                          for model in ("emoji-vqgan-128", "emoji-vqgan"))
    assert large.size == (128, 128) and small.size == (64, 64)
    difference = np.abs(np.asarray(large.resize((64, 64), Image.Resampling.BOX), float) - np.asarray(small, float))
    assert difference.mean() < 12  # of 255; two other pictures differ by some 60


def test_defaults_are_valid_options():
    for defaults in (WITH_PRIOR, WITHOUT_PRIOR):
        GuidanceConfig.from_options("x", **defaults)


@pytest.mark.parametrize("wrong, message", [
    ({"method": "vqgan-clip"}, "did you mean vqgan_clip"),
    ({"learning_rat": 0.1}, "learning_rate"),
    ({"lr": 0.1}, "learning_rate"),
    ({"clip": "emoji-judge"}, "only measures"),
    ({"model": "emoji-vqgam"}, "emoji-vqgan"),
])
def test_misspelt_names_are_answered(wrong, message):
    with pytest.raises(BadParameter, match=message):
        generate("a red heart", num_images=1, **wrong)


@pytest.mark.parametrize("prompt, count", [("", 1), ("   ", 1), (None, 1), ("x", 0)])
def test_bad_input(prompt, count):
    with pytest.raises(BadParameter):
        generate(prompt, num_images=count)


def test_a_model_without_prior_says_so(monkeypatch):
    monkeypatch.setattr(vqgan_clip, "PRIORS", {})
    with pytest.raises(BadParameter, match="no learned prior"):
        generate("x", num_images=1, **{**FAST, "init": "prior"})


def test_unknown_name_is_a_bad_parameter():
    assert issubclass(UnknownName, BadParameter)

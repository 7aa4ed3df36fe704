import dataclasses
import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from t2ilib.errors import BadParameter, MissingAsset, UnknownName
from t2ilib.guidance import GuidanceConfig, Prompt
from t2ilib.guidance.painting import latent_size
from t2ilib.options import options_of


@pytest.mark.parametrize(("options", "message"), [
    ({"steps": -1}, "steps must be a whole number of at least 0"),
    ({"steps": 2.5}, "steps must be a whole number"),
    ({"seed": True}, "seed must be a whole number"),
    ({"num_images": 0}, "num_images"),
    ({"learning_rate": 0}, "learning_rate must be a number above 0"),
    ({"noise": "much"}, "noise must be a number"),
    ({"tv_weight": float("nan")}, "tv_weight must be a number"),
    ({"ema": 1.0}, "ema must be below 1"),
    ({"min_cut": 0.9, "max_cut": 0.5}, "min_cut must be at most max_cut"),
    ({"subspace_steps": 20, "steps": 10}, "cannot exceed"),
    ({"clip": ["a", "b"], "clip_weights": [1]}, "names 2 guides and clip_weights has 1"),
    ({"clip_weights": 0}, "one of clip_weights must be above 0"),
    ({"clip": []}, "at least one guide"),
    ({"prompt": []}, "empty list"),
    ({"prompt": "  "}, "needs text"),
    ({"optimizer": "adamm"}, "did you mean adam"),
    ({"init": "priors"}, "did you mean prior"),
    ({"init_weight_mode": "to_zero"}, "to_zero_decay"),
    ({"precision": "bf16"}, "bfloat16"),
    ({"augmentations": "plane"}, "did you mean plain"),
])
def test_bad_options_are_refused_before_work_starts(options, message):
    with pytest.raises(BadParameter, match=message):
        GuidanceConfig(**{"prompt": "a red heart", **options})


def test_misspelt_options_are_answered():
    with pytest.raises(UnknownName, match="num_cutouts"):
        GuidanceConfig.from_options("x", num_cutoutz=3)
    with pytest.raises(UnknownName, match="here it is called 'steps'"):
        GuidanceConfig.from_options("x", max_iterations=3)
    assert GuidanceConfig.from_options("x", steps=3).steps == 3


def test_a_configuration_survives_json():
    config = GuidanceConfig(["a | b:0.5", Prompt("at 12:30: c|d", 2, 0.5)], clip=["x", "y"], clip_weights=[1, 2],
                            augmentations={"base": "plain", "flip": 0.25}, num_images=2, seed=7)
    again = GuidanceConfig(**json.loads(json.dumps(config.to_dict())))
    assert again.prompts() == config.prompts() and again.augmentations == config.augmentations
    assert again.to_dict() == config.to_dict()
    assert config.seeds() == [7, 8, 7, 8]
    assert dataclasses.replace(config, prompt="z").prompts() == [[Prompt("z")]]


def test_sizes_are_rounded_down_to_whole_codes(tmp_path):
    def size(vqgan, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return latent_size(GuidanceConfig("x", **options), SimpleNamespace(**vqgan))

    assert size({"factor": 16}, width=100, height=65) == (4, 6)
    assert size({"factor": 16, "resolution": 64}, width=100) == (4, 6)
    with pytest.raises(BadParameter, match="at least 16 pixels"):
        size({"factor": 16}, width=100, height=15)
    with pytest.raises(BadParameter, match="set width and height"):
        size({"factor": 16})
    with pytest.warns(UserWarning, match="width 100 is not a multiple of 16: the picture has 96"):
        latent_size(GuidanceConfig("x", width=100, height=64), SimpleNamespace(factor=16))
    Image.new("RGB", (400, 100)).save(tmp_path / "wide.png")  # the aspect of the picture, the VQGAN's own area
    wide = {"init": "image", "init_image": str(tmp_path / "wide.png")}
    assert size({"factor": 8, "resolution": 128}, **wide) == (8, 32)
    assert size({"factor": 8, "resolution": 128}, width=64, **wide) == (16, 8)


@pytest.mark.parametrize(("options", "message"), [
    ({"init": "image"}, "init_image=None contradict"),
    ({"init_image": "x.png"}, "contradict"),
    ({"mask": (0, 0, 1, 1)}, "which part of init_image"),
    ({"mask": (0, 0, 1), "init": "image", "init_image": "x.png"}, "x0, y0, x1, y1"),
    ({"regions": {"a": (0.5, 0, 0.2, 1)}}, "x0 < x1"),
    ({"image_prompts": "nowhere.png:0.5"}, "no file nowhere.png"),
    ({"cross_fade": 2}, "cross_fade must be a number of at least 0 and at most 1"),
    ({"progressive": 1.5}, "progressive must be a number or a list of numbers of at least 0.05"),
    ({"tile": 8}, "tile must be a whole number or none of at least 16"),
    ({"lr_schedule": "cosin"}, "did you mean cosine"),
    ({"optimizer": "sparseadam"}, "sparse gradients"),
    ({"cutouts": "origina"}, "did you mean original"),
    ({"prompt": {"text": "a", "wait": 1}}, "did you mean weight"),
    ({"subspace_steps": 2, "progressive": 0.5}, "need one size"),
])
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises((BadParameter, MissingAsset), match=message):
        GuidanceConfig(**{"prompt": "a red heart", **options})


def test_prompts_of_every_kind_survive_json_without_their_files(tmp_path):
    np.save(tmp_path / "v.npy", np.array([3.0, 4.0]))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    config = GuidanceConfig("a ^ b", cross_fade=0.5, image_prompts=f"{tmp_path}/a.png:0.5", noise_prompts=["7:0.1"],
                            vector_prompts=[f"{tmp_path}/v.npy:2", np.array([1.0, 0.0])],
                            regions={"a star:2": (0, 0, 0.5, 1)})
    kinds = [(p.kind, p.weight, p.vector, p.region, p.span) for p in config.prompts()[0]]
    assert kinds == [("text", 1, None, None, (0, 0.5)), ("text", 1, None, None, (0.5, 1)),
                     ("image", 0.5, None, None, (0, 1)), ("noise", 0.1, None, None, (0, 1)),
                     ("vector", 2, (3, 4), None, (0, 1)), ("vector", 1, (1, 0), None, (0, 1)),
                     ("text", 2, None, (0, 0, 0.5, 1), (0, 1))]
    (tmp_path / "v.npy").unlink()
    again = GuidanceConfig(**json.loads(json.dumps(config.to_dict())))
    assert again.prompts() == config.prompts() and again == config


def test_the_table_names_every_option_with_its_meaning():
    options = options_of(GuidanceConfig)
    assert [o.name for o in options] == [f.name for f in dataclasses.fields(GuidanceConfig)]
    assert all(o.group and len(o.meaning) > 5 for o in options)

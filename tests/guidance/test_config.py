import dataclasses
import json

import pytest

from t2ilib.errors import BadParameter, UnknownName
from t2ilib.guidance import GuidanceConfig, Prompt


@pytest.mark.parametrize(("options", "message"), [
    ({"steps": -1}, "steps must be a whole number of at least 0"),
    ({"steps": 2.5}, "steps must be a whole number"),
    ({"seed": True}, "seed must be a whole number"),
    ({"num_images": 0}, "num_images"),
    ({"learning_rate": 0}, "learning_rate must be above 0"),
    ({"noise": "much"}, "noise must be a number"),
    ({"tv_weight": float("nan")}, "tv_weight must be a number"),
    ({"ema": 1.0}, "ema must be in"),
    ({"min_cut": 0.9, "max_cut": 0.5}, "min_cut must be above 0 and at most max_cut"),
    ({"subspace_steps": 20, "steps": 10}, "cannot exceed"),
    ({"clip": ["a", "b"], "clip_weights": [1]}, "names 2 guides and clip_weights has 1"),
    ({"clip_weights": 0}, "one of them above"),
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


def test_sizes_are_rounded_down_to_whole_codes():
    assert GuidanceConfig("x", width=100, height=65).latent_size(16) == (4, 6)
    assert GuidanceConfig("x", width=100).latent_size(16, native=64) == (4, 6)
    with pytest.raises(BadParameter, match="at least 16 pixels"):
        GuidanceConfig("x", width=100, height=15).latent_size(16)
    with pytest.raises(BadParameter, match="set width and height"):
        GuidanceConfig("x").latent_size(16)

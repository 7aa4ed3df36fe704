"""The student that ships: within its size, and how much of its teacher it keeps on validation concepts."""

import pytest
import torch

from t2ilib import metrics
from t2ilib.checkpoint import read_config, read_tensors
from t2ilib.data import load_captioned
from t2ilib.data.phrases import plain_name
from t2ilib.encoders import embedded_clips, load_clip
from t2ilib.media import to_unit
from t2ilib.paths import checkpoints_dir

NAME = "emoji-clip-student"


@pytest.fixture(scope="module")
def found():
    """Unit vectors of validation drawings and of their names, by teacher and student; one artist's drawings."""
    drawings = load_captioned("emoji", split="validation", image_size=64).where(artist="noto")
    pictures = to_unit(drawings.batch(torch.arange(len(drawings))))
    names = [plain_name(name) for name in drawings.columns["name"]]
    vectors = {}
    for name in (read_config(checkpoints_dir() / NAME)["kwargs"]["teacher"], NAME):
        clip = load_clip(name)
        with torch.no_grad():
            vectors[name] = (clip.encode_image(pictures), clip.encode_text(names))
    return vectors


def top5(pictures, names):
    return metrics.top_k(metrics.retrieval_ranks(names, pictures, torch.arange(len(names))), 5)


def test_it_ships_as_a_guide_and_each_tower_within_two_mebibytes():
    assert NAME in embedded_clips()
    config = read_config(checkpoints_dir() / NAME)
    assert config["dtype"] == "int8" and config["kwargs"]["teacher"] == "emoji-clip"
    sizes = {"visual": 0, "text": 0, "piece_table": 0, "logit_scale": 0}
    for name, tensor in read_tensors(checkpoints_dir() / NAME / "model.safetensors").items():
        sizes[name.split(".")[0].split(":")[0]] += tensor.nbytes
    assert sizes["visual"] <= 2 * 2**20 and sizes["text"] + sizes["piece_table"] <= 2 * 2**20


def test_it_keeps_what_its_teacher_finds(found):
    (teacher_pictures, teacher_names), (pictures, names) = found.values()
    of_teacher = top5(teacher_pictures, teacher_names)
    assert top5(pictures, teacher_names) > 0.85 * of_teacher  # one artist of four; all four: see notebook 04
    assert top5(teacher_pictures, names) > 0.7 * of_teacher

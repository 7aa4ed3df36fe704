"""Notebook 04 on photographs in COCO's layout: a student learns from them, and what only emoji have is left out."""

import json

import pytest
import torch
from PIL import Image

from t2ilib.checkpoint import read_config
from t2ilib.runner.launch import run_script
from t2ilib.runner.plan import plan_run

PARTS = {"train": 48, "val": 16}


@pytest.fixture
def coco(tmp_path):
    """A folder as COCO 2017 unpacks, of small pictures with five captions each."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    stream = torch.Generator().manual_seed(0)
    for part, count in PARTS.items():
        folder = root / f"{part}2017"
        folder.mkdir()
        images, annotations = [], []
        for i in range(count):
            pixels = torch.randint(256, (48, 64, 3), generator=stream, dtype=torch.uint8)
            name = f"{i:012}.jpg"
            Image.fromarray(pixels.numpy()).save(folder / name)
            images.append({"id": i, "file_name": name, "height": 48, "width": 64})
            for j in range(5):
                annotations.append({"id": 5 * i + j, "image_id": i, "caption": f"Thing {i} of {part}, said {j} times."})
        notes = {"info": {}, "licenses": [], "images": images, "annotations": annotations}
        (root / "annotations" / f"captions_{part}2017.json").write_text(json.dumps(notes))
    return root


@pytest.mark.long
def test_a_student_learns_from_a_folder_of_coco(tmp_path, coco):
    place = tmp_path / "run"
    result = run_script(plan_run("04", {"data": f"coco:{coco}"}, "smoke"), run_dir=place)
    log = (place / "log.txt").read_text()
    assert result.status == "ok", log[-3000:]
    assert f"VQGAN+CLIP's networks and the judge know emoji, which 'coco:{coco}' has not" in log
    card = read_config(place / "checkpoints" / "emoji-clip-student")
    assert card["data"]["name"] == f"coco:{coco}" and card["training"]["rows"] == 80
    metrics = json.loads((place / "run.json").read_text())["metrics"]
    assert {"validation_top1", "image_kept", "text_kept"} <= metrics.keys()
    assert "pipeline_times_smaller" not in metrics and "teacher_top10" not in metrics


@pytest.mark.slow
def test_the_student_that_ships_does_not_stand_for_one_of_other_pictures(tmp_path):
    result = run_script(plan_run("04", {"data": "shapes", "train": False}, "smoke"), run_dir=tmp_path)
    assert result.status == "failed"
    assert "no network that ships was trained on data='shapes'" in (tmp_path / "log.txt").read_text()

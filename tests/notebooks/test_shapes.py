"""Notebook 07 on the shapes: it trains on them, keeps the common table, and asks no network that knows only emoji."""

import json

import pytest

from t2ilib.checkpoint import read_config
from t2ilib.data.shape_captions import CATEGORIES
from t2ilib.metrics.composition import OVERALL
from t2ilib.runner.composed import find_composed, missing_composed
from t2ilib.runner.launch import run_script
from t2ilib.runner.plan import plan_run


@pytest.mark.slow
def test_a_network_that_was_trained_on_shapes_gets_the_common_table(tmp_path):
    place = tmp_path / "runs" / "07_gigagan_lite" / "one"
    parameters = {"data": "shapes", "num_concepts": 2, "ladder_steps": 0}
    result = run_script(plan_run("07", parameters, "smoke"), run_dir=place)
    log = (place / "log.txt").read_text()
    assert result.status == "ok", log[-3000:]
    assert "the judge ranks names of emoji, which 'shapes' has not" in log
    metrics = json.loads((place / "run.json").read_text())["metrics"]
    assert {"train_shown", "validation_shown"} <= metrics.keys() and "validation_top10" not in metrics
    assert read_config(place / "checkpoints" / "emoji-gigagan")["data"]["name"] == "shapes"

    (found,) = find_composed(runs=tmp_path / "runs")
    assert list(found.rows) == ["train", "validation"], "held_out is for full"
    for rows in found.rows.values():
        assert list(rows) == [*CATEGORIES, OVERALL]
        assert all(row["real"] == 1 for row in rows.values()), "the parser reads pictures of this size"
        assert [row["n"] for row in rows.values()] == [2] * 6 + [12]
    assert "07_gigagan_lite" not in missing_composed([found])


@pytest.mark.slow
def test_what_ships_is_not_asked_for_shapes(tmp_path):
    result = run_script(plan_run("07", {"data": "shapes", "train": False}, "smoke"), run_dir=tmp_path)
    assert result.status == "failed"
    assert "no network that ships was trained on data='shapes'" in (tmp_path / "log.txt").read_text()

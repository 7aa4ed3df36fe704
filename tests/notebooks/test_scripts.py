"""A percent notebook is also a script: each one runs from top to bottom under plain Python, in profile smoke.

nbmake runs all of them as notebooks in every test run; as scripts most of them only among the long tests.
"""

import json

import pytest

from t2ilib.runner import notebooks
from t2ilib.runner.launch import run_script
from t2ilib.runner.plan import plan_run

ALWAYS = "02_wgan_gp"  # it has sliders, films and a live picture
NAMES = [path.stem for path in notebooks.list_notebooks()]
MARKED = [pytest.param(name, marks=pytest.mark.slow if name == ALWAYS else pytest.mark.long) for name in NAMES]


@pytest.mark.parametrize("name", MARKED)
def test_notebook_runs_as_a_script(name, tmp_path):
    result = run_script(plan_run(name, profile="smoke"), run_dir=tmp_path)
    assert result.status == "ok", (tmp_path / "log.txt").read_text()[-3000:]
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["metrics"], f"{name} records no metric"
    idle = [line for line in (tmp_path / "log.txt").read_text().splitlines() if "does nothing at any stop" in line]
    assert not idle, f"{name} has a slider that does not change its picture: {idle}"


@pytest.mark.slow
def test_the_leaderboard_runs_without_free_texts(tmp_path):
    parameters = {"num_free": 0, "methods": "text_transformer"}
    result = run_script(plan_run("10_leaderboard", parameters, profile="smoke"), run_dir=tmp_path)
    assert result.status == "ok", (tmp_path / "log.txt").read_text()[-3000:]

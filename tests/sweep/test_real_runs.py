"""Sweeps whose runs are what they are for a user: notebooks by papermill, methods, the command line."""

import csv
import json
import os
import signal
import subprocess
import sys

import pytest

from t2ilib.cli import main
from t2ilib.errors import MissingAsset
from t2ilib.paths import repo_root
from t2ilib.runner.report import load_runs
from t2ilib.sweep import Grid, Sweep, plan_jobs
from t2ilib.sweep.drawing import draw
from t2ilib.sweep.worker import perform

RECORD = """
import json, os, pathlib
run = pathlib.Path(os.environ["T2I_RUN_DIR"], "run.json")
data = json.loads(run.read_text())
data["metrics"]["validation_score"] = -(scale - 2) ** 2
data["metrics"]["threads"] = int(os.environ["OMP_NUM_THREADS"])
run.write_text(json.dumps(data))
if scale == 9:
    raise ValueError("too large")
"""


@pytest.fixture
def tiny_sweep(tiny, tmp_path, monkeypatch):
    """A function that writes a grid over `scale` of a tiny notebook, and returns the arguments of its command."""
    monkeypatch.setattr("t2ilib.runner.notebooks.notebooks_dir", lambda: tiny(RECORD))

    def write(scales, **rest):
        grid = {"notebook": "90", "profile": "smoke", "sweep": {"scale": scales}, "metric": "validation_score", **rest}
        path = tmp_path / "grid.yaml"
        path.write_text(json.dumps(grid))
        return ["sweep", str(path), "--out", str(tmp_path / "sweep"), "--cpus", "2"]

    return write


def test_a_dry_run_lists_the_runs(tiny_sweep, tmp_path, capsys):
    assert main([*tiny_sweep([1, 2], seeds=[0, 4]), "--dry-run"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 4 and listed[3].endswith("to run    scale=2, seed 4")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(("options", "changes", "message"), [
    (["--cpus", "0"], {}, "--cpus must be at least 1"), (["--retries", "-1"], {}, "--retries must be 0 or more"),
    (["--engine", "rey"], {}, "rey"), (["--address", "auto"], {}, "add --engine ray"),
    ([], {"cpus": 3}, "takes cpus: 3, and there are 2"), ([], {"metric": "held_out_top10"}, "held-out split"),
    ([], {"gpus": 1}, "--engine ray")])
def test_what_cannot_be_is_refused_before_anything_runs(tiny_sweep, tmp_path, capsys, options, changes, message):
    assert main([*tiny_sweep([1], **changes), *options]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "sweep").exists()


def test_ray_is_asked_for_with_the_line_that_installs_it(tiny_sweep, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*tiny_sweep([1]), "--engine", "ray"]) == 1
    assert 'pip install "ray' in capsys.readouterr().err


@pytest.mark.slow
def test_notebooks_run_resume_and_are_shown(tiny_sweep, tmp_path, capsys):
    command = tiny_sweep([1, 9])
    assert main(command) == 1
    shown = capsys.readouterr().out
    assert "scale=9, seed 0: failed: ValueError: too large (cell 5)" in shown
    assert "90_tiny: 1 of 2 runs" in shown and "1 ok (0 from before), 1 failed" in shown
    assert main(tiny_sweep([1, 2])) == 0
    shown = capsys.readouterr().out
    assert "2 ok (1 from before)" in shown and "* best by validation_score" in shown
    assert any(line.startswith("scale=2 ") and line.endswith("*") for line in shown.splitlines())
    with open(tmp_path / "sweep" / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["scale"] for row in rows] == ["1", "2"] and [row["threads"] for row in rows] == ["1", "1"]
    assert [float(row["validation_score"]) for row in rows] == [-1.0, 0.0]
    for row in rows:
        folder = tmp_path / "sweep" / row["folder"]
        plan = json.loads((folder / "plan.json").read_text())
        assert (folder / "notebook.html").is_file() and plan["values"]["scale"] == float(row["scale"])
    assert "notebook.html" in (tmp_path / "sweep" / "index.html").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_killed_sweep_takes_its_runs_along(tiny, tmp_path, wait_for, is_alive):
    folder = tiny("import os, pathlib, time\n"
                  "pathlib.Path(os.environ['T2I_RUN_DIR'], 'kernel').write_text(str(os.getpid()))\ntime.sleep(600)")
    code = ("import sys; from pathlib import Path; from t2ilib.sweep import *\n"
            "grid = Grid(notebook='90'); out = Path(sys.argv[2])\n"
            "Sweep(grid, plan_jobs(grid, out, notebooks=Path(sys.argv[1])), out).run(LocalEngine())")
    env = {**os.environ, "PYTHONPATH": str(repo_root())}
    sweep = subprocess.Popen([sys.executable, "-c", code, str(folder), str(tmp_path / "sweep")], env=env)
    try:
        wait_for(lambda: list(tmp_path.glob("sweep/runs/*/*/kernel")))
        kernel = int(next(tmp_path.glob("sweep/runs/*/*/kernel")).read_text())
    finally:
        sweep.send_signal(signal.SIGKILL)
        sweep.wait()
    wait_for(lambda: not is_alive(kernel), seconds=30)
    assert load_runs(tmp_path / "sweep" / "runs")[0]["status"] == "interrupted"
    grid = Grid(notebook="90")
    again = Sweep(grid, plan_jobs(grid, tmp_path / "sweep", notebooks=folder), tmp_path / "sweep")
    assert again.rows[0].status == "waiting"


@pytest.mark.slow
def test_a_method_draws_and_is_judged(tmp_path):
    grid = Grid(method="minimagen", prompts=("a red heart", "a blue star"), num_images=2,
                parameters={"candidates": 1, "steps": 2, "clip_guidance_scale": 0}, metric="judge_similarity")
    job, = plan_jobs(grid, tmp_path)
    perform(json.loads(json.dumps(job.order())))
    record = json.loads((job.run_dir / "run.json").read_text())
    assert record["status"] == "ok" and record["checkpoints"] and record["metrics"]["judge_similarity"]["n"] == 4
    assert len(list((job.run_dir / "pictures").glob("*.png"))) == 4 and record["thumbnail"] == "figures/pictures.png"
    assert record["command"] == ("python -m t2ilib generate --prompts prompts.txt --method minimagen --seed 0 "
                                 "--num-images 2 -o candidates=1 -o steps=2 -o clip_guidance_scale=0.0")
    assert Sweep(grid, [job], tmp_path).rows[0].kept
    record["checkpoints"]["emoji-minimagen-base"] = "of earlier weights"
    (job.run_dir / "run.json").write_text(json.dumps(record))
    assert not Sweep(grid, [job], tmp_path).rows[0].kept  # it was trained anew: the run is no longer the same


@pytest.mark.slow
def test_concepts_of_validation_are_ranked(tmp_path, monkeypatch):
    monkeypatch.setenv("T2I_RUN_DIR", str(tmp_path))
    values = {"concepts": 3, "num_images": 1, "seed": 0, "profile": None}
    options = {"candidates": 1, "steps": 2, "clip_guidance_scale": 0.0}
    assert draw({"method": "minimagen", "options": options, "values": values}) == ""
    metrics = json.loads((tmp_path / "run.json").read_text())["metrics"]
    assert metrics["validation_top10"]["n"] == 3 and 0 <= metrics["validation_top1"]["value"] <= 1
    assert len((tmp_path / "prompts.txt").read_text().splitlines()) == 3


def test_an_absent_judge_is_said(tmp_path, monkeypatch):
    def absent():
        raise MissingAsset("no judge; train it")

    monkeypatch.setattr("t2ilib.sweep.drawing.load_judge", absent)
    monkeypatch.setenv("T2I_RUN_DIR", str(tmp_path))
    values = {"prompts": ["a red heart"], "num_images": 1, "seed": 0, "profile": None}
    options = {"candidates": 1, "steps": 1, "clip_guidance_scale": 0.0}
    assert draw({"method": "minimagen", "options": options, "values": values}) == ""
    record = json.loads((tmp_path / "run.json").read_text())
    assert "not judged: no judge" in record["fallbacks"][0] and set(record["metrics"]) == {"seconds_per_picture"}
    values = {"concepts": 1, "num_images": 1, "seed": 0, "profile": None}
    assert draw({"method": "minimagen", "options": options, "values": values}) == "MissingAsset: no judge; train it"

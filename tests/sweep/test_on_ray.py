"""Sweeps on a Ray of two workers on this machine; they run where Ray is installed: pip install "t2ilib[sweep]"."""

import importlib.util
import json
import os
import signal
import threading
import time

import pytest

from t2ilib.errors import BadParameter, MissingAsset
from t2ilib.sweep import Grid, Sweep, plan_jobs
from t2ilib.sweep.on_ray import RayEngine, import_ray

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None,
                               reason='Ray is not installed: pip install "ray>=2.10"')
BODY = """
import json, os, pathlib, time
run = pathlib.Path(os.environ["T2I_RUN_DIR"], "run.json")
data = json.loads(run.read_text())
data["metrics"]["validation_score"] = scale
run.write_text(json.dumps(data))
if scale == 13:
    (run.parent / "waits").touch()
    time.sleep(600)
"""


def test_the_absent_package_is_named_with_its_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingAsset, match='pip install "ray'):
        import_ray()


@needs_ray
@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_killed_worker_costs_its_run_only(tiny, tmp_path):
    notebooks = tiny(BODY)
    grid = Grid(notebook="90", sweep={"scale": [13, 1, 2]}, metric="validation_score")
    folder = tmp_path / "sweep"
    sweep = Sweep(grid, plan_jobs(grid, folder, notebooks=notebooks), folder)
    victim = sweep.rows[0].job.run_dir

    def kill_when_it_waits():
        end = time.monotonic() + 180
        while not (victim / "waits").exists() and time.monotonic() < end:
            time.sleep(0.2)
        os.kill(json.loads((victim / "worker.json").read_text())["parent"], signal.SIGKILL)  # the worker of Ray

    threading.Thread(target=kill_when_it_waits, daemon=True).start()
    sweep.run(RayEngine(cpus=2))
    assert [row.status for row in sweep.rows] == ["lost", "ok", "ok"], [row.error for row in sweep.rows]
    assert "its worker was lost" in sweep.rows[0].error and [row.attempts for row in sweep.rows] == [1, 1, 1]
    shorter = Grid(notebook="90", sweep={"scale": [1, 2]}, metric="validation_score")
    kept = Sweep(shorter, plan_jobs(shorter, folder, notebooks=notebooks), folder)
    assert kept.succeeded and [row.kept for row in kept.rows] == [True, True]


@needs_ray
@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_an_interrupt_ends_the_runs(tiny, tmp_path):
    notebooks = tiny(BODY)
    grid = Grid(notebook="90", sweep={"scale": [13, 1, 2]})
    sweep = Sweep(grid, plan_jobs(grid, tmp_path, notebooks=notebooks), tmp_path)
    victim = sweep.rows[0].job.run_dir
    main_thread = threading.main_thread().ident

    def interrupt_when_it_waits():
        end = time.monotonic() + 180
        while not (victim / "waits").exists() and time.monotonic() < end:
            time.sleep(0.2)
        signal.pthread_kill(main_thread, signal.SIGINT)

    threading.Thread(target=interrupt_when_it_waits, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        sweep.run(RayEngine(cpus=1))
    assert [row.status for row in sweep.rows] == ["interrupted", "waiting", "waiting"]
    assert json.loads((victim / "run.json").read_text())["status"] == "interrupted"


@needs_ray
@pytest.mark.slow
def test_runs_that_no_machine_can_take_are_refused():
    with pytest.raises(BadParameter, match="takes cpus: 64 .*largest numbers are 2 and 0"), RayEngine(
            cpus_per_run=64, cpus=2):
        pytest.fail("Ray would wait for ever")

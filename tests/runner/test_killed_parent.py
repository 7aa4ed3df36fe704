"""A killed `run` takes its notebook along, and its run is shown as interrupted."""

import os
import signal
import subprocess
import sys

import pytest

from t2ilib.paths import repo_root
from t2ilib.runner.report import load_runs

RUN = """
import sys
from pathlib import Path
from t2ilib.runner.launch import run_notebook
from t2ilib.runner.plan import plan_run
run_notebook(plan_run("90_tiny", folder=Path(sys.argv[1])), progress=lambda *_: None)
"""
TRAIN = """
import sys
from pathlib import Path
from t2ilib.runner.launch import run_script
from t2ilib.runner.plan import plan_run
run_script(plan_run("90_tiny", folder=Path(sys.argv[1])), devices=int(sys.argv[2]))
"""
SLEEP = """
import os, pathlib, time
pathlib.Path(os.environ["T2I_RUN_DIR"], "kernel").write_text(str(os.getpid()))
time.sleep(600)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.slow
@pytest.mark.parametrize("code, devices", [(RUN, 1), (TRAIN, 1), (TRAIN, 2)], ids=["notebook", "script", "torchrun"])
def test_a_killed_parent_takes_its_notebook_along(tiny, tmp_path, wait_for, is_alive, code, devices):
    folder = tiny(SLEEP)
    reports = tmp_path / "reports"
    environment = {**os.environ, "T2I_REPORTS": str(reports), "PYTHONPATH": str(repo_root())}
    parent = subprocess.Popen([sys.executable, "-c", code, str(folder), str(devices)], env=environment)
    try:
        wait_for(lambda: list(reports.glob("runs/*/*/kernel")))
        kernel = int(next(reports.glob("runs/*/*/kernel")).read_text())
        assert load_runs(reports / "runs")[0]["status"] == "running" and is_alive(kernel)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_for(lambda: not is_alive(kernel), seconds=20)
    run = load_runs(reports / "runs")[0]
    assert run["status"] == "interrupted" and "killed" in run["error"]

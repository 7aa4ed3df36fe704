"""Kills at every operation on a file, in the middle of states and at random moments: the end is the same bit for bit.

Tiny networks, in one warm tree of processes; `tests/kill_driver.py` is its root.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from t2ilib.paths import repo_root

DRIVER = Path(__file__).with_name("kill_driver.py")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("work, files", [
    ("training", ["figures", "metrics.csv", "net", "net/config.json", "net/model.safetensors", "run.json", "state.pt",
                  "state.pt.previous"]),
    ("drawing", ["out.png"]),
])
def test_killed_anywhere_it_ends_as_if_it_had_not_been(tmp_path, work, files):
    done = subprocess.run([sys.executable, str(DRIVER), str(tmp_path), work], capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=repo_root(), timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["files"] == files  # nothing is left over
    assert summary["killed"] > summary["operations"] > 15

"""The command line killed at random moments, and two runs at once: the files at the end are those of one whole run."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from t2ilib.files import read_json
from t2ilib.paths import repo_root
from t2ilib.runner.report import load_runs

KILLS = 10
# the command line, with a state that is saved after every step instead of once a minute
GENERATE = """
import sys
from t2ilib.guidance.state import StateFile
StateFile.due = lambda self: self.path is not None
from t2ilib.cli import main
sys.exit(main())
"""


def environment(reports):
    return {**os.environ, "OMP_NUM_THREADS": "1", "T2I_REPORTS": str(reports), "PYTHONPATH": str(repo_root())}


def start(command, reports):
    return subprocess.Popen(command, env=environment(reports), cwd=repo_root(), stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def finish(process):
    output, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, output[-3000:]
    return output


def kill_again_and_again(command, reports, seconds, check):
    """Start a command KILLS times and kill it at a random moment of its time, then let it end."""
    chance = random.Random(0)
    killed = 0
    while killed < KILLS:
        process = start(command, reports)
        try:
            process.wait(chance.uniform(0.1, 0.95) * seconds)
            output = process.stdout.read()
            assert process.returncode == 0, output[-3000:]
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        process.stdout.close()
        killed += 1
        check()
    finish(start(command, reports))


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_generate(tmp_path):
    draw = [sys.executable, "-c", GENERATE, "generate", "a red heart", "-o", "steps=12", "-o", "num_cutouts=4", "--out"]
    began = time.monotonic()
    finish(start([*draw, str(tmp_path / "whole.png")], tmp_path))
    seconds = time.monotonic() - began
    out = tmp_path / "killed" / "out.png"
    picture = (tmp_path / "whole.png").read_bytes()

    def check():
        assert not out.exists() or out.read_bytes() == picture

    kill_again_and_again([*draw, str(out)], tmp_path, seconds, check)
    assert out.read_bytes() == picture and [path.name for path in out.parent.iterdir()] == ["out.png"]


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_train(tmp_path):
    train = [sys.executable, "-m", "t2ilib", "train", "08", "--profile", "smoke", "-p", "stages", "base,sr64", "-p",
             "steps", "3", "-p", "measure", "false", "-p", "work_dir"]
    began = time.monotonic()
    finish(start([*train, str(tmp_path / "whole")], tmp_path / "reports"))
    seconds = time.monotonic() - began
    folder = tmp_path / "killed"
    kill_again_and_again([*train, str(folder)], tmp_path / "reports", seconds, lambda: None)
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert sorted(path.name for path in folder.iterdir()) == files and len(files) >= 2
    for name in files:
        whole, killed = (torch.load(where / name, weights_only=True)["parts"] for where in (tmp_path / "whole", folder))
        assert repr(whole) == repr(killed)
        for part in ("net", "ema"):
            assert_equal(whole[part], killed[part])
    statuses = [run["status"] for run in load_runs(tmp_path / "reports" / "runs")]
    assert statuses.count("ok") >= 2 and set(statuses) <= {"ok", "interrupted"}, statuses


def assert_equal(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_equal(one[name], other[name])
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


@pytest.mark.long
def test_two_runs_at_once_share_a_folder_of_reports(tmp_path):
    command = [sys.executable, "-m", "t2ilib", "run", "11", "--profile", "smoke"]
    processes = [start(command, tmp_path) for _ in range(2)]
    for process in processes:
        finish(process)
    folders = list(Path(tmp_path, "runs").glob("*/*"))
    assert len(folders) == 2
    for folder in folders:
        assert read_json(folder / "run.json")["status"] == "ok" and (folder / "notebook.html").is_file()
    page = (tmp_path / "index.html").read_text()
    assert all(folder.name in page for folder in folders)

import math
import os
import subprocess
import sys

import pytest

from t2ilib import waiting
from t2ilib.paths import notebooks_dir, repo_root


@pytest.mark.parametrize("cores, others, quota, free", [
    (2, 0, math.inf, 2), (2, 1, math.inf, 1), (2, 0.1, math.inf, 1), (2, 7, math.inf, 1), (16, 3, math.inf, 13),
    (64, 0, 2.5, 2), (64, 63, 2.5, 1), (64, 0, 0.5, 1)])
def test_free_cores(cores, others, quota, free):
    assert waiting.free_cores(cores, others, quota) == free


@pytest.mark.parametrize("setting, threads", [("", 4), ("1", 1), ("3", 3), ("2,1", 2), (" 8 ", 8), ("0", 4), ("x", 4)])
def test_thread_count(setting, threads):
    assert waiting.thread_count(setting, 4) == threads


def test_what_the_system_says():
    assert waiting.read_running("0.52 0.58 0.59 3/467 1234\n") == 2 and waiting.read_running("0 0 0 0/467 1") == 0
    assert waiting.read_quota("200000 100000\n") == 2 and waiting.read_quota("max 100000") == math.inf
    assert waiting.others_running() >= 0 and waiting.cpu_quota() > 0 and waiting.usable_cores() >= 1


@pytest.mark.parametrize("others, given, chosen", [
    (0, {}, {"GOMP_SPINCOUNT": "5000"}), (1, {}, {"OMP_WAIT_POLICY": "passive"}),
    (1, {"OMP_NUM_THREADS": "1"}, {}), (2, {"OMP_NUM_THREADS": "2"}, {"GOMP_SPINCOUNT": "5000"}),
    (3, {"OMP_NUM_THREADS": "2"}, {"OMP_WAIT_POLICY": "passive"}),
    (1, {"OMP_WAIT_POLICY": "active"}, {}), (1, {"GOMP_SPINCOUNT": "9"}, {}), (1, {"KMP_BLOCKTIME": "0"}, {})])
def test_the_choice_leaves_what_the_user_has_set(others, given, chosen, monkeypatch):
    monkeypatch.setattr(waiting, "usable_cores", lambda: 4)
    monkeypatch.setattr(waiting, "others_running", lambda: others)
    monkeypatch.setattr(waiting, "cpu_quota", lambda: math.inf)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    environment = dict(given)
    waiting.choose_waiting(environment)
    assert environment == {**given, **chosen}


def test_it_is_chosen_before_torch_is_there():
    code = "import sys, t2ilib, os; print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])"
    environment = {**os.environ, "OMP_NUM_THREADS": "9999", "PYTHONPATH": str(repo_root())}
    for name in waiting.CHOSEN_BY_USER:
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "passive"]


@pytest.mark.parametrize("path", sorted(notebooks_dir().glob("[0-9]*.py")), ids=lambda path: path.stem)
def test_notebooks_choose_before_they_import_torch(path):
    text = path.read_text(encoding="utf-8")
    assert 0 < text.index('importlib.import_module("t2ilib")') < text.index("import torch")

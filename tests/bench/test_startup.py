"""The benchmark of first pictures: fresh processes, in turns, with what failed said."""

import sys

import pytest
import torch

from t2ilib.bench import startup
from t2ilib.errors import RunFailed
from t2ilib.paths import repo_root


def test_rows_of_imports_and_pictures(monkeypatch, tmp_path):
    calls = []

    def measured(arguments, folder):
        calls.append((arguments, folder))
        return (4.0, 2.0) if startup.HEAVY in arguments[1] or arguments[0] == "-m" else (2.0, 1.0)

    monkeypatch.setattr(startup, "process_seconds", measured)
    rows = list(startup.startup_rows(torch.device("cpu"), 0.0, before=tmp_path, least=2, methods=["minimagen"]))
    assert {row.kernel for row in rows} == {"startup"} and {row.metric for row in rows} == {"s", "CPU s"}
    pictures = {(row.provider, row.metric): row for row in rows if row.mode == "a picture"}
    assert pictures["ours", "s"].p50 == 2.0 and pictures["ours", "s"].ratio == 2.0
    assert pictures["before", "CPU s"].ratio == 1.0 and pictures["ours", "CPU s"].shape == "minimagen"
    imports = [row.provider for row in rows if row.mode == "import" and row.metric == "s"]
    assert imports == list(startup.IMPORTS)
    assert {folder for _, folder in calls} == {repo_root(), tmp_path}
    assert len(calls) == 2 * (len(startup.IMPORTS) + 3)


@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_a_process_is_timed_and_its_failure_said():
    wall, cpu = startup.process_seconds(("-c", "sum(range(10**6))"), repo_root())
    assert wall > 0 and cpu > 0
    with pytest.raises(RunFailed, match="status 3"):
        startup.process_seconds(("-c", "raise SystemExit(3)"), repo_root())
    with pytest.raises(RunFailed, match="ZeroDivisionError"):
        startup.process_seconds(("-c", "1 / 0"), repo_root())

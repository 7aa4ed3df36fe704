"""The training of a notebook, cut out of it: run as one process and as two, and interrupted and resumed."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from t2ilib.paths import notebooks_dir, repo_root
from t2ilib.training import EMA

WRITE = """
import json
if fabric.global_rank == 0:
    weights = {{name: {{k: v.flatten().tolist() for k, v in net.state_dict().items()}} for name, net in {networks}}}
    pathlib.Path({out!r}).write_text(json.dumps({{"world": fabric.world_size, "weights": weights}}))
"""


@dataclass
class NotebookTraining:
    """The cells of a notebook up to the end of its training, without those that contain one of the `looks`.

    Attributes:
        networks: an expression for pairs of names and networks, whose weights are what a run leaves.
        changes: (old, new) for both tests; each old text must be there.
    """

    folder: Path
    monkeypatch: Any
    notebook: str
    looks: tuple[str, ...]
    networks: str
    changes: tuple[tuple[str, str], ...] = ()

    def script(self, out: str, changes: tuple[tuple[str, str], ...] = (), **parameters: Any) -> Path:
        """Write the training with these parameters, in float32 on the CPU unless they say otherwise."""
        source = (notebooks_dir() / self.notebook).read_text(encoding="utf-8")
        cells = source[:source.index("# %%\nif fabric.global_rank")].split("# %%")
        source = "# %%".join(cell for cell in cells if not any(mark in cell for mark in self.looks))
        for name, value in {"profile": "smoke", "device": "cpu", "dtype": "float32", "threads": 1,
                            **parameters}.items():
            line = next(line for line in source.splitlines() if line.startswith(f"{name}: "))
            source = source.replace(line, f"{name} = {value!r}", 1)
        for old, new in (*self.changes, *changes):
            assert old in source, old
            source = source.replace(old, new)
        path = self.folder / f"{out}.py"
        path.write_text(source + WRITE.format(networks=self.networks, out=str(self.folder / out)), encoding="utf-8")
        return path

    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(repo_root()), "OMP_NUM_THREADS": "1", "T2I_CACHE": str(self.folder / "cache"),
                "T2I_REPORTS": str(self.folder / "reports")}

    def left(self, out: str) -> dict[str, Any]:
        return json.loads((self.folder / out).read_text())

    def by_one_and_by_two(self, **parameters: Any) -> list[dict[str, dict[str, list]]]:
        """Return the weights that one process leaves, and those that two leave."""
        for count in (1, 2):
            torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if count == 2 else []
            done = subprocess.run([sys.executable, *torchrun, str(self.script(f"by{count}", **parameters))],
                                  capture_output=True, text=True, cwd=repo_root(),
                                  env=os.environ | self.environment(), timeout=600)
            assert done.returncode == 0, done.stderr[-3000:]
        found = [self.left("by1"), self.left("by2")]
        assert [f["world"] for f in found] == [1, 2]
        return [f["weights"] for f in found]

    def check_resume(self, state: str, changes: tuple[tuple[str, str], ...], **parameters: Any) -> None:
        """Assert that a run interrupted in its third step, and resumed from `state`, leaves what a whole one does."""
        for name, value in self.environment().items():
            self.monkeypatch.setenv(name, value)
        update, done = EMA.update, []

        def interrupted(ema, model):
            update(ema, model)
            done.append(1)
            if len(done) == 3:
                raise KeyboardInterrupt

        def train(out, work):
            path = self.script(out, (*changes, ("Every(120)", "Every(0)")), work_dir=str(self.folder / work),
                               **parameters)
            exec(compile(path.read_text(), str(path), "exec"), {"__name__": "__main__", "__file__": str(path)})
            return self.left(out)["weights"]

        whole = train("whole", "a")
        with self.monkeypatch.context() as patch:
            patch.setattr(EMA, "update", interrupted)
            with pytest.raises(KeyboardInterrupt):
                train("broken", "b")
        assert torch.load(self.folder / "b" / state, weights_only=True)["step"] == 2
        assert train("resumed", "b") == whole


@pytest.fixture
def notebook_training(tmp_path, monkeypatch):
    """Return a function that cuts the training out of a notebook."""
    def cut(notebook: str, **how: Any) -> NotebookTraining:
        return NotebookTraining(tmp_path, monkeypatch, notebook, **how)
    return cut

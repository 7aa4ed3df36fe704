"""The cells of a notebook up to a tagged one: its training, as one process and as two, interrupted and resumed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import pytest
import torch

from t2ilib.errors import CheckpointMismatch
from t2ilib.paths import notebooks_dir, repo_root
from t2ilib.training import EMA

QUICKLY = {"profile": "smoke", "device": "cpu", "threads": 1}
SAVE_EVERY_STEP = "from t2ilib.training import Every\nEvery.__call__ = lambda self, *, force=False: True\n"
WRITE = """
import json
if fabric.global_rank == 0:
    weights = {{name: {{k: v.flatten().tolist() for k, v in net.state_dict().items()}} for name, net in {networks}}}
    pathlib.Path({out!r}).write_text(json.dumps({{"world": fabric.world_size, "weights": weights}}))
"""


def _code_until(notebook: str, tag: str, *, skip: str = "", first: str = "", **parameters: Any) -> str:
    """Return the code of a notebook before the cell tagged `tag`.

    Args:
        notebook: name of its script. skip: tag of cells that are left out. first: code that runs before all others.
        parameters: injected after the cell of parameters, as papermill does it.
    """
    cells = [first]
    for cell in jupytext.read(notebooks_dir() / notebook).cells:
        tags = cell.metadata.get("tags", [])
        if tag in tags:
            return "\n\n".join(cells)
        if cell.cell_type != "code" or skip in tags:
            continue
        cells.append(cell.source)
        if "parameters" in tags:
            cells += [f"{name} = {value!r}" for name, value in (QUICKLY | parameters).items()]
    raise AssertionError(f"{notebook} has no cell tagged {tag!r}")


@dataclass
class NotebookTraining:
    """A notebook up to the end of its training (tag `trained`), without the cells that only look or check (tag `look`).

    Attributes:
        networks: an expression for pairs of names and networks, whose weights are what a run leaves.
        first: code that runs before all others.
    """

    folder: Path
    monkeypatch: Any
    run_python: Any
    notebook: str
    networks: str
    first: str = ""

    def script(self, out: str, first: str = "", **parameters: Any) -> Path:
        """Write the training with these parameters, in float32 unless they say otherwise."""
        source = _code_until(self.notebook, "trained", skip="look", first=first + self.first,
                            **{"dtype": "float32", **parameters})
        path = self.folder / f"{out}.py"
        path.write_text(source + WRITE.format(networks=self.networks, out=str(self.folder / out)), encoding="utf-8")
        return path

    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(repo_root()), "OMP_NUM_THREADS": "1", "T2I_CACHE": str(self.folder / "cache"),
                "T2I_REPORTS": str(self.folder / "reports")}

    def left(self, out: str) -> dict[str, Any]:
        return json.loads((self.folder / out).read_text())

    def run_here(self, script: Path) -> None:
        """Run a script in this process: its imports are there already."""
        for name, value in self.environment().items():
            self.monkeypatch.setenv(name, value)
        exec(compile(script.read_text(), str(script), "exec"), {"__name__": "__main__", "__file__": str(script)})

    def by_one_and_by_two(self, **parameters: Any) -> list[dict[str, dict[str, list]]]:
        """Return the weights that one process leaves, and those that two leave."""
        self.run_here(self.script("by1", **parameters))
        self.run_python(self.script("by2", **parameters), processes=2, **self.environment())
        found = [self.left("by1"), self.left("by2")]
        assert [f["world"] for f in found] == [1, 2]
        return [f["weights"] for f in found]

    def check_resume(self, state: str, **parameters: Any) -> None:
        """Assert that a run interrupted in its third step, and resumed from `state`, leaves what a whole one does.

        With another seed it is not resumed.
        """
        update, done = EMA.update, []

        def interrupted(ema, model):
            update(ema, model)
            done.append(1)
            if len(done) == 3:
                raise KeyboardInterrupt

        def train(out, work, **others):
            self.run_here(self.script(out, first=SAVE_EVERY_STEP, work_dir=str(self.folder / work), **parameters,
                                      **others))
            return self.left(out)["weights"]

        whole = train("whole", "a")
        with self.monkeypatch.context() as patch:
            patch.setattr(EMA, "update", interrupted)
            with pytest.raises(KeyboardInterrupt):
                train("broken", "b")
        assert torch.load(self.folder / "b" / state, weights_only=True)["step"] == 2
        assert train("resumed", "b") == whole
        with pytest.raises(CheckpointMismatch, match="seed was 0 and is 1"):
            train("other", "b", seed=1)


@pytest.fixture(scope="session")
def code_until():
    """Return a function that returns a notebook's code before a tagged cell."""
    return _code_until


@pytest.fixture
def notebook_training(tmp_path, monkeypatch, run_python):
    """Return a function that cuts the training out of a notebook."""
    from t2ilib.training import Every

    monkeypatch.setattr(Every, "__call__", Every.__call__)  # whatever a script puts there ends with the test

    def cut(notebook: str, **options: Any) -> NotebookTraining:
        return NotebookTraining(tmp_path, monkeypatch, run_python, notebook, **options)
    return cut

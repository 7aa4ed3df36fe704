"""The training of notebook 08: two processes do what one does, and an interrupted run ends like one that was not."""

import json
import os
import subprocess
import sys

import pytest
import torch

from t2ilib.paths import notebooks_dir, repo_root
from t2ilib.training import EMA

SOURCE = (notebooks_dir() / "08_minimagen.py").read_text(encoding="utf-8")
LOOKS = ('keep("', "naive_step", "plans = {")  # cells before the training that only look, check or count
TRAINING = "# %%".join(cell for cell in SOURCE[: SOURCE.index("# %%\nif fabric.global_rank")].split("# %%")
                       if "def keep" in cell or not any(mark in cell for mark in LOOKS))
WRITE = """
import json
if fabric.global_rank == 0:
    weights = {name: {k: v.flatten().tolist() for k, v in net.state_dict().items()} for name, net in trained.items()}
    pathlib.Path(OUT).write_text(json.dumps({"world": fabric.world_size, "weights": weights}))
"""


def script(path, out, **parameters):
    """Write the notebook's training, in float32 and with these parameters, to run without the rest of the notebook."""
    source = TRAINING.replace('profile: str = "quick"', 'profile: str = "smoke"')
    for name, value in {"device": "cpu", "dtype": "float32", "threads": 1, **parameters}.items():
        line = next(line for line in source.splitlines() if line.startswith(f"{name}: "))
        source = source.replace(line, f"{name} = {value!r}", 1)
    path.write_text(source + WRITE.replace("OUT", repr(str(out))), encoding="utf-8")
    return path


def environment(tmp_path):
    return os.environ | {"PYTHONPATH": str(repo_root()), "OMP_NUM_THREADS": "1", "T2I_CACHE": str(tmp_path / "cache"),
                         "T2I_REPORTS": str(tmp_path / "reports")}


def assert_alike(one, two, **tolerance):
    assert one.keys() == two.keys()
    for stage, weights in one.items():
        for key, value in weights.items():
            torch.testing.assert_close(torch.tensor(two[stage][key]), torch.tensor(value), **tolerance)


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    found = []
    for count in (1, 2):
        job = script(tmp_path / f"job{count}.py", tmp_path / f"out{count}", stages="base,sr64", steps=3)
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if count == 2 else []
        done = subprocess.run([sys.executable, *torchrun, str(job)], capture_output=True, text=True, cwd=repo_root(),
                              env=environment(tmp_path), timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads((tmp_path / f"out{count}").read_text()))
    assert [f["world"] for f in found] == [1, 2]
    assert_alike(found[0]["weights"], found[1]["weights"], rtol=1e-3, atol=2e-5)


def test_an_interrupted_training_ends_like_an_uninterrupted_one(tmp_path, monkeypatch):
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    update, done = EMA.update, []

    def interrupted(self, model):
        update(self, model)
        done.append(1)
        if len(done) == 3:
            raise KeyboardInterrupt

    def train(out, work):
        job = script(tmp_path / f"{out}.py", tmp_path / out, stages="sr64", steps=4, work_dir=str(tmp_path / work))
        # every profile keeps its state here, after every step
        source = job.read_text().replace('.pt" if profile == "full" else None', '.pt"')
        source = source.replace("Every(120)", "Every(0)")
        exec(compile(source, str(job), "exec"), {"__name__": "__main__", "__file__": str(job)})
        return json.loads((tmp_path / out).read_text())["weights"]

    whole = train("whole", "a")
    with monkeypatch.context() as patch:
        patch.setattr(EMA, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train("broken", "b")
    assert torch.load(tmp_path / "b" / "sr64.pt", weights_only=True)["step"] == 2
    assert train("resumed", "b") == whole

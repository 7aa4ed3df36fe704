"""The training of notebook 02: two processes do what one does, and an interrupted run ends like one that was not."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch

from t2ilib.paths import notebooks_dir, repo_root
from t2ilib.training import EMA

SOURCE = (notebooks_dir() / "02_wgan_gp.py").read_text(encoding="utf-8")
LOOKS = ('keep("', "naive_penalty", "probe = new_job", "cfg.timed")  # cells that only look, check or count
TRAINING = "# %%".join(cell for cell in SOURCE[: SOURCE.index("# %%\nif fabric.global_rank")].split("# %%")
                       if any(mark in cell for mark in ("def keep", "def new_job"))
                       or not any(mark in cell for mark in LOOKS))
SMALL = """
SHIPPED = (dict(image_size=64, ch=4, max_ch=8, norm_groups=2), dict(image_size=64, ch=4, max_ch=8))
LIVE = (dict(image_size=32, ch=4, max_ch=8, norm_groups=2), dict(image_size=32, ch=4, max_ch=8))
"""
WRITE = """
if fabric.global_rank == 0:
    import json
    weights = {f"{name} {part}": {k: v.flatten().tolist() for k, v in network.state_dict().items()}
               for name, job in jobs.items() for part, network in (("critic", job.critic), ("ema", job.ema.model))}
    pathlib.Path(OUT).write_text(json.dumps({"world": fabric.world_size, "weights": weights}))
"""


def script(path, out, **parameters):
    """Write the notebook's training, with smaller networks and these parameters, to run without the rest of it."""
    source = TRAINING.replace('profile: str = "quick"', 'profile: str = "smoke"')
    for name, value in {"device": "cpu", "dtype": "float32", "threads": 1, **parameters}.items():
        source = re.sub(rf"(?m)^{name}: .*$", f"{name} = {value!r}", source, count=1)
    source = source.replace("\noptions = dict(", SMALL + "\noptions = dict(", 1)
    path.write_text(source + WRITE.replace("OUT", repr(str(out))), encoding="utf-8")
    return path


def environment(tmp_path):
    return os.environ | {"PYTHONPATH": str(repo_root()), "OMP_NUM_THREADS": "1",
                         "T2I_REPORTS": str(tmp_path / "reports")}


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    found = []
    for count in (1, 2):
        job = script(tmp_path / f"job{count}.py", tmp_path / f"out{count}", dtype="float64", steps=3, batch_size=6,
                     penalty_every=2)
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if count == 2 else []
        done = subprocess.run([sys.executable, *torchrun, str(job)], capture_output=True, text=True, cwd=repo_root(),
                              env=environment(tmp_path), timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads((tmp_path / f"out{count}").read_text()))
    assert [f["world"] for f in found] == [1, 2]
    one, two = (f["weights"] for f in found)
    assert one.keys() == two.keys() and len(one) == 6
    for name, weights in one.items():
        for key, value in weights.items():
            torch.testing.assert_close(torch.tensor(two[name][key], dtype=torch.float64),
                                       torch.tensor(value, dtype=torch.float64), rtol=1e-8, atol=1e-8)


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
        job = script(tmp_path / f"{out}.py", tmp_path / out, steps=4, live_steps=1, work_dir=str(tmp_path / work))
        # every profile keeps its state here, after every step, and only of the recipe
        source = job.read_text().replace("for number, kind in itertools.product(range(cfg.seeds), KINDS):",
                                         "for number, kind in ():")
        source = source.replace('"recipe.pt" if profile == "full" else None', '"recipe.pt"')
        source = source.replace("Every(120)", "Every(0)")
        exec(compile(source, str(job), "exec"), {"__name__": "__main__", "__file__": str(job)})
        return json.loads((tmp_path / out).read_text())["weights"]

    whole = train("whole", "a")
    with monkeypatch.context() as patch:
        patch.setattr(EMA, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train("broken", "b")
    assert torch.load(tmp_path / "b" / "recipe.pt", weights_only=True)["step"] == 2
    assert train("resumed", "b") == whole

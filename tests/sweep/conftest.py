"""A sweep over a tiny notebook, and a worker that pretends to run it in a few milliseconds."""

import sys
import textwrap

import pytest

from t2ilib.sweep import Grid, LocalEngine, Sweep, plan_jobs

# Does what `t2ilib.sweep.worker` does, without a notebook: how it ends depends on the parameter `scale`.
FAKE_WORKER = """
import json, os, pathlib, signal, sys, time
order = json.load(sys.stdin)
scale, seed = order["values"]["scale"], order["values"]["seed"]
folder, home = pathlib.Path(order["run_dir"]), pathlib.Path(sys.argv[1])
with open(home / "begun.txt", "a") as file:
    file.write(f"{scale:g} {seed}\\n")
tries = (home / "begun.txt").read_text().splitlines().count(f"{scale:g} {seed}")
if scale == 14 and tries < 3:  # does not come up, twice
    print("no room", file=sys.stderr)
    sys.exit(9)
folder.mkdir(parents=True)
(folder / "worker.json").write_text(json.dumps({"pid": os.getpid(), "done": 1, "total": 2}))
record = {"name": order["name"], "status": "running", "started": "2026-11-20T10:00:00+00:00", "seconds": 1.5,
          "metrics": {"validation_score": {"value": scale + seed / 10, "n": 4}, "held_out_score": 99.0},
          "overrides": order["overrides"]}
def keep(**changes):
    (folder / "run.json").write_text(json.dumps({**record, **changes}))
if scale == 13:  # killed on the way
    keep()
    os.kill(os.getpid(), signal.SIGKILL)
if scale == 15:  # its own fault
    keep(status="failed", error="ValueError: no")
elif scale == 16 and tries == 1:  # its kernel did not come up
    keep(status="failed", error="Address already in use", failed_at_start=True)
elif scale == 17:  # long
    signal.signal(signal.SIGINT, lambda *_: (keep(status="interrupted", error="KeyboardInterrupt"), sys.exit(130)))
    time.sleep(60)
else:
    began = time.time()
    time.sleep(0.4)
    with open(home / "times.txt", "a") as file:
        file.write(f"{began} {time.time()}\\n")
    keep(status="ok")
"""


@pytest.fixture
def fake(tiny, tmp_path):
    """A function that returns a sweep over `scale` with the pretended worker, its engine, and what was begun."""
    notebooks = tiny()
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(FAKE_WORKER))

    def make(scales=(1, 2), seeds=(0,), *, cpus=2, cpus_per_run=1, again=False, **rest):
        grid = Grid(notebook="90", sweep={"scale": list(scales)}, seeds=seeds, cpus=cpus_per_run, **rest)
        folder = tmp_path / "sweep"
        sweep = Sweep(grid, plan_jobs(grid, folder, notebooks=notebooks), folder, again=again)
        engine = LocalEngine(cpus=cpus, cpus_per_run=cpus_per_run, command=[sys.executable, str(script), str(tmp_path)])
        return sweep, engine

    return make


@pytest.fixture
def begun(tmp_path):
    """A function that returns which runs were begun, as "scale seed", in sorted order."""

    def read():
        path = tmp_path / "begun.txt"
        return sorted(path.read_text().splitlines()) if path.exists() else []

    return read

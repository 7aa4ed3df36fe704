"""A worker: performs one run of a sweep in this process's children, whichever engine has placed it.

`python -m t2ilib.sweep.worker` reads an order from its standard input. Nothing here imports torch.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .jobs import MethodPlan
from ..files import read_json, write_json
from ..runner.execute import end_with
from ..runner.launch import run_module, run_notebook
from ..runner.plan import Plan

DRAWING = "t2ilib.sweep.drawing"  # module that runs a method
PLAN_FILE = "plan.json"  # in the folder of a run: what its hash is of
WORKER_FILE = "worker.json"  # who works on it, and how far that is
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def perform(order: Mapping[str, Any]) -> None:
    """Run what an order of `Job.order` says; how it ended stands in the folder's `run.json`."""
    run_dir = Path(order["run_dir"])
    write_json(run_dir / PLAN_FILE, order["identity"])
    for name in THREADS:
        os.environ[name] = str(order["threads"])

    def progress(done: int, total: int) -> None:
        about = {"pid": os.getpid(), "parent": os.getppid(), "done": done, "total": total}
        write_json(run_dir / WORKER_FILE, about)

    progress(0, 0)
    if "notebook" in order:
        plan = Plan(Path(order["notebook"]), order["overrides"], order["values"])
        run_notebook(plan, run_dir=run_dir, timeout=order["timeout"], progress=progress)
        return
    asked = MethodPlan(order["name"], order["overrides"], order["values"], order["options"])
    job = {"method": asked.name, "options": asked.options, "values": asked.values}
    run_module(DRAWING, asked, job, run_dir=run_dir, progress=progress)


def read_progress(run_dir: Path) -> tuple[int, int] | None:
    """Return (parts done, parts in all) of the run in a folder; None before a worker has begun with it."""
    path = run_dir / WORKER_FILE
    if not path.is_file():
        return None
    known = read_json(path)
    return known["done"], known["total"]


def main() -> int:
    """Perform the order on standard input; this process ends with the one that began it."""
    threading.Thread(target=end_with, args=(os.getppid(), os.getppid()), daemon=True).start()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray blocks it in its workers and their children
    order = json.loads(sys.stdin.read())
    try:
        perform(order)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

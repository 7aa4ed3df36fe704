"""How long a first picture takes: a fresh Python that imports, reads weights and draws, beside what it could import."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .measure import QUANTILES, Row, row
from ..errors import RunFailed
from ..methods import METHODS
from ..paths import repo_root

IMPORTS = {
    "Python": "",
    "t2ilib.methods": "import t2ilib.methods",
    "torch": "import torch",
    "ours": "from t2ilib.methods import METHODS; [METHODS[name] for name in METHODS]",
    "open_clip and transformers": "import open_clip, transformers",
}
PICTURE = "import sys; from t2ilib.cli import main; raise SystemExit(main(sys.argv[1:]))"
HEAVY = "import open_clip, transformers; "  # what CLIPs and text encoders are usually read with
LEAST = 5  # runs of each


@dataclass(frozen=True)
class Run:
    """One command, run again and again.

    Attributes:
        provider, mode, shape: as in the rows. arguments: of a Python. folder: the checkout in which it runs.
    """

    provider: str
    mode: str
    shape: str
    arguments: tuple[str, ...]
    folder: Path


def startup_rows(device: torch.device, seconds: float, *, before: str | Path | None = None, least: int = LEAST,
                 methods: Sequence[str] | None = None) -> Iterator[Row]:
    """Seconds and CPU seconds of imports, and of one picture of each method with its defaults, in fresh processes.

    Args:
        device: where the rows say it was; a method picks its device by itself. seconds: for the slowest command of
            those that are compared, which has at least `least` runs.
        before: another checkout whose command draws the same pictures.
        least: runs of each command. methods: by which a picture is drawn; None is all.
    """
    here = repo_root()
    with tempfile.TemporaryDirectory() as scratch:
        out = str(Path(scratch) / "out.png")
        groups = [[Run(name, "import", "nothing drawn", ("-c", code), here) for name, code in IMPORTS.items()]]
        for method in methods or [name for name, method in METHODS.items() if not method.missing()]:
            draw = ("generate", "a red heart", "--method", method, "--out", out)
            runs = [Run("with open_clip and transformers", "a picture", method, ("-c", HEAVY + PICTURE, *draw), here),
                    Run("ours", "a picture", method, ("-c", PICTURE, *draw), here)]
            if before is not None:
                runs.append(Run("before", "a picture", method, ("-m", "t2ilib", *draw), Path(before)))
            groups.append(runs)
        for runs in groups:
            yield from _rows(runs, device, seconds, least)


def _rows(runs: Sequence[Run], device: torch.device, seconds: float, least: int) -> Iterator[Row]:
    """Measure commands in turns; what all of them are compared with comes first."""
    walls: dict[Run, list[float]] = {run: [] for run in runs}
    cpus: dict[Run, list[float]] = {run: [] for run in runs}
    turn = 0
    while turn < least or max(map(sum, walls.values())) < seconds:
        for run in runs:
            wall, cpu = process_seconds(run.arguments, run.folder)
            walls[run].append(wall)
            cpus[run].append(cpu)
        turn += 1
    for metric, times in {"s": walls, "CPU s": cpus}.items():
        base = statistics.median(times[runs[0]])
        for run in runs:
            values = torch.tensor(times[run], dtype=torch.float64)
            quantiles = values.quantile(torch.tensor(QUANTILES, dtype=torch.float64)).tolist()
            yield row("startup", run.provider, metric, quantiles, mode=run.mode, shape=run.shape, device=device,
                      dtype="as usual", ratio=base / max(quantiles[0], 1e-9))


def process_seconds(arguments: Sequence[str], folder: Path) -> tuple[float, float]:
    """Return the seconds and the CPU seconds of a Python with these arguments, from its start to its end.

    Raises:
        RunFailed: it ended with an error; the message has its last line.
    """
    import resource  # not on Windows

    threads = str(torch.get_num_threads())
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONPATH": str(folder)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunFailed(f"a process ended with status {done.returncode}: {last}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

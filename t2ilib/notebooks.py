"""The notebooks as things to call: find them, check their parameters, run them.

A notebook is its percent script `NN_name.py`; the `.ipynb` beside it is made from that. Nothing runs in this process:
each run gets one subprocess, so that a dead kernel, a leak or an event loop cannot reach the next one.
"""

import contextlib
import datetime
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from . import parameters as cells
from .errors import BadParameter, unknown_name
from .paths import notebooks_dir, repo_root, runs_dir


def list_notebooks(folder: Path | None = None) -> list[Path]:
    """Return the percent scripts of all notebooks, in the order of their numbers."""
    return sorted((folder or notebooks_dir()).glob("[0-9][0-9]_*.py"))


def find_notebook(name: str, folder: Path | None = None) -> Path:
    """Return the percent script of the notebook called `name`: "3", "03", "vqgan_clip", "03_vqgan_clip", or a path.

    Raises:
        UnknownName: there is no such notebook; the message gives the nearest.
    """
    known = {path.stem: path for path in list_notebooks(folder)}
    wanted = Path(name).stem if name.endswith((".py", ".ipynb")) else name
    for stem, path in known.items():
        number, rest = stem.split("_", 1)
        if wanted in (stem, rest) or (wanted.isdecimal() and int(wanted) == int(number)):
            return path
    raise unknown_name("notebook", name, known)


def title(path: Path) -> str:
    """Return the first heading of a notebook, or ""."""
    found = re.search(r"(?m)^# # (.+)$", path.read_text(encoding="utf-8"))
    return found[1].strip() if found else ""


def read_parameters(path: Path) -> dict[str, cells.Parameter]:
    """Return the parameters of a notebook by name, from its one cell tagged `parameters`.

    Raises:
        BadParameter: there is no such cell, more than one, or it holds more than typed literals.
    """
    import jupytext

    found = [c.source for c in jupytext.read(path).cells if "parameters" in c.metadata.get("tags", [])]
    if len(found) != 1:
        raise BadParameter(f"{path.name} must have one cell tagged 'parameters', it has {len(found)}")
    return cells.parse_cell(found[0], path.stem)


def repository_url(root: Path | None = None) -> str:
    """Return the public address of the repository: the one line of `pyproject.toml` that holds it."""
    with open((root or repo_root()) / "pyproject.toml", "rb") as f:
        return tomllib.load(f)["project"]["urls"]["Repository"].removesuffix("/").removesuffix(".git")


# --- run --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """A run that was checked and not yet started: the notebook, what the user gave, and all values that result."""

    path: Path
    given: dict[str, Any]
    values: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """How a run ended: status "ok", "failed" or "interrupted", and the folder with everything it left."""

    name: str
    status: str
    seconds: float
    dir: Path
    error: str = ""


def plan(name: str, parameters: dict[str, Any] | None = None, profile: str | None = None,
         folder: Path | None = None) -> Plan:
    """Check a run before it starts.

    Args:
        name: notebook name or number.
        parameters: overrides by name; text is read as the type that the notebook gives the parameter.
        profile: shorthand for the parameter `profile`; None leaves the notebook's own.

    Raises:
        UnknownName, BadParameter: notebook, parameter, profile or value cannot be.
    """
    from .profiles import PROFILES

    path = find_notebook(name, folder)
    given = {**({"profile": profile} if profile else {}), **(parameters or {})}
    if given.get("profile", "smoke") not in PROFILES:
        raise unknown_name("profile", str(given["profile"]), PROFILES)
    known = read_parameters(path)
    given = cells.check(known, given, path.stem)
    return Plan(path, given, {**{p.name: p.default for p in known.values()}, **given})


def run_notebook(work: Plan, *, run_dir: Path | None = None, timeout: int | None = None,
                 progress: Callable[[int, int], None] = lambda done, total: None) -> Result:
    """Execute a notebook in a subprocess of its own and leave a run folder.

    The folder holds `run.json`, `notebook.ipynb` (executed, without absolute paths), `notebook.html` and what the
    notebook recorded, also when it fails.

    Args:
        work: what `plan` returned.
        run_dir: folder to use; None makes a new one under `reports/runs/`.
        timeout: seconds that one cell may take; None is no limit.
        progress: called with (cells done, cells in all).
    """
    with _recorded(work, run_dir) as run, tempfile.TemporaryDirectory(prefix="t2i-run-") as scratch:
        job = Path(scratch, "job.json")
        job.write_text(json.dumps({"notebook": str(work.path), "given": work.given, "run_dir": str(run.dir),
                                   "timeout": timeout, "error": str(Path(scratch, "error.txt"))}), encoding="utf-8")
        env = _environment(run.dir, JUPYTER_RUNTIME_DIR=scratch, IPYTHONDIR=str(Path(scratch, "ipython")),
                           JUPYTER_PREFER_ENV_PATH="1")
        with open(run.dir / "log.txt", "w", encoding="utf-8") as log, _process(
                [sys.executable, "-m", "t2ilib.execute", str(job)], env=env, cwd=work.path.parent,
                stdout=subprocess.PIPE, stderr=log, text=True) as child:
            for line in child.stdout:
                done, _, total = line.strip().partition("/")
                if done.isdigit() and total.isdigit():
                    progress(int(done), int(total))
        _tidy_log(run.dir / "log.txt")
        if child.returncode:
            error = Path(scratch, "error.txt")
            run.error = error.read_text(encoding="utf-8") if error.exists() else (
                f"the process ended with code {child.returncode}; see log.txt")
    return run.result


def run_script(work: Plan, *, devices: int = 1, num_nodes: int = 1, node_rank: int = 0, rendezvous: str = "",
               run_dir: Path | None = None, echo: TextIO | None = None) -> Result:
    """Run a notebook as a plain script, under torchrun where there is more than one process.

    The script, with the overrides as a section below the parameters, lies in the run folder as `script.py`; what it
    prints goes to `log.txt` there as well as to `echo`.

    Args:
        work: what `plan` returned.
        devices: processes on this machine, one for each device.
        num_nodes: machines; the same command is started on each, with its own `node_rank`.
        node_rank: number of this machine; 0 keeps the record.
        rendezvous: "host:port" of machine 0; needed for more than one machine.
        run_dir: folder to use or to continue in; None makes a new one.
        echo: where to show the output as well, such as `sys.stdout`.

    Raises:
        BadParameter: impossible counts, or several machines without `rendezvous` and `run_dir`.
    """
    command = _script_command(devices, num_nodes, node_rank, rendezvous)
    if num_nodes > 1 and run_dir is None:
        raise BadParameter("several machines need the same --run-dir, on a disk that they share")
    with _recorded(work, run_dir, keeper=node_rank == 0) as run:
        suffix = f"_node{node_rank}" if node_rank else ""
        script = run.dir / f"script{suffix}.py"
        script.write_text(_script_source(work), encoding="utf-8")
        env = _environment(run.dir, PYTHONUNBUFFERED="1", MPLBACKEND=os.environ.get("MPLBACKEND", "Agg"))
        tail: list[str] = []
        with open(run.dir / f"log{suffix}.txt", "a", encoding="utf-8") as log, _process(
                [*command, str(script)], env=env, cwd=work.path.parent, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace") as child:
            for line in child.stdout:
                tail = [*tail[-39:], line]
                for stream in (log, echo):
                    if stream:
                        stream.write(line)
                        stream.flush()
        run.error = _last_error(tail, child.returncode) if child.returncode else ""
    return run.result


def _script_command(devices: int, num_nodes: int, node_rank: int, rendezvous: str) -> list[str]:
    if devices < 1 or num_nodes < 1 or not 0 <= node_rank < num_nodes:
        raise BadParameter("devices and num_nodes must be at least 1 and node_rank below num_nodes, got "
                           f"devices {devices}, num_nodes {num_nodes}, node_rank {node_rank}")
    if devices * num_nodes == 1:
        return [sys.executable]
    host, _, port = rendezvous.rpartition(":")
    if num_nodes > 1 and not (host and port.isdecimal()):
        raise BadParameter(f"several machines need --rendezvous HOST:PORT of machine 0, got {rendezvous!r}")
    meet = [f"--node-rank={node_rank}", f"--master-addr={host}", f"--master-port={port}"]
    return [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={devices}", f"--nnodes={num_nodes}",
            *(meet if num_nodes > 1 else ["--standalone"])]


def _tidy_log(path: Path) -> None:
    """Drop what every kernel says on a machine of its own, and the file if nothing else is in it."""
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
             if "Kernel is running over TCP without encryption" not in line]
    path.write_text("".join(lines), encoding="utf-8") if "".join(lines).strip() else path.unlink()


def _script_source(work: Plan) -> str:
    import jupytext
    from nbformat.v4 import new_code_cell

    notebook = jupytext.read(work.path)
    at = next(i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", []))
    lines = [f"{name} = {value!r}" for name, value in work.given.items()]
    injected = new_code_cell("\n".join(lines), metadata={"tags": ["injected-parameters"]})
    notebook.cells[at + 1:at + 1] = [injected] if lines else []
    return jupytext.writes(notebook, fmt="py:percent")


def _last_error(tail: list[str], code: int) -> str:
    """Return the last line that looks like `SomeError: text`; torchrun prints its own report below it."""
    named = [line.strip() for line in tail if re.match(r"(\[rank\d+\]: ?)?[\w.]*(Error|Exception|Interrupt)\b", line)]
    return next((line for line in named if "ChildFailedError" not in line), f"the script ended with code {code}")


class _Running:
    """A run on its way: its folder, and the error that ended it if one did."""

    def __init__(self, work: Plan, run_dir: Path | None):
        profile, seed = work.values.get("profile", "quick"), work.values.get("seed", 0)
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        name = f"{stamp}_{profile}_s{seed}_{secrets.token_hex(2)}"
        self.dir = (run_dir or runs_dir() / work.path.stem / name).resolve()
        self.dir.mkdir(parents=True, exist_ok=True)
        self.error = ""
        self.result: Result
        self.record = {"name": work.path.stem, "status": "running", "started": _now(), "profile": profile, "seed": seed,
                       "parameters": {"given": work.values, "resolved": {}}, "metrics": {}, "artefacts": [],
                       "figures": [], "fallbacks": []}


@contextlib.contextmanager
def _recorded(work: Plan, run_dir: Path | None, *, keeper: bool = True) -> Iterator[_Running]:
    """Write `run.json` before a run, so that one that dies at once leaves a trace too, and complete it after.

    What the notebook records in between stays; status, time and error are said here. `keeper` is False on machines
    that only help.
    """
    run, start = _Running(work, run_dir), time.monotonic()
    if keeper:
        _write_record(run.dir, run.record)
    try:
        yield run
    except KeyboardInterrupt:
        run.error = "KeyboardInterrupt: stopped by the user"
        raise
    finally:
        status = "ok" if not run.error else "interrupted" if "KeyboardInterrupt" in run.error else "failed"
        seconds = round(time.monotonic() - start, 2)
        run.result = Result(work.path.stem, status, seconds, run.dir, run.error)
        if keeper:
            record = json.loads((run.dir / "run.json").read_text(encoding="utf-8"))
            record.update(status=status, finished=_now(), seconds=seconds, overrides=work.given)
            _write_record(run.dir, {**record, **({"error": run.error} if run.error else {})})


def _write_record(run_dir: Path, record: dict[str, Any]) -> None:
    temporary = run_dir / "run.json.tmp"
    temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, run_dir / "run.json")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _environment(run_dir: Path, **extra: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(repo_root()), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "T2I_RUN_DIR": str(run_dir), "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", **extra}


@contextlib.contextmanager
def _process(command: list[str], **options: Any) -> Iterator[subprocess.Popen]:
    """Run a child that gets an interrupt when we do, then ten seconds to close its kernel or ranks in order."""
    child = subprocess.Popen(command, start_new_session=os.name == "posix", **options)
    try:
        yield child
        child.wait()
    except BaseException:
        child.send_signal(signal.SIGINT) if os.name == "posix" else child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(10)
        child.kill()
        raise
    finally:
        if child.stdout:
            child.stdout.close()

"""Run notebooks, each in a process of its own: a dead kernel, a leak or an event loop cannot reach the next one."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from .execute import STARTUP_FAILURES
from .percent import with_parameters
from .plan import Plan, Planned
from ..errors import BadParameter
from ..files import utc_now, without_folders, write_json, write_text
from ..locks import hold, release
from ..paths import new_run_dir, python_path

KERNEL_WARNING = "Kernel is running over TCP without encryption"  # what every kernel says on a machine of its own
ERROR_LINE = re.compile(r"(\[rank\d+\]: ?)?([\w.]*(Error|Exception|Interrupt)\b|t2ilib\.errors\.\w+:)")
NOTEBOOK = "t2ilib.runner.execute"  # module that runs a notebook
SCRIPT = "t2ilib.runner.script"  # module that runs a script
INTERRUPTS = ("KeyboardInterrupt", "SystemExit")  # errors by which somebody else ends a run
KEPT_LINES = 40  # of a script's output, in which its error is looked for


@dataclass(frozen=True)
class Result:
    """How a run ended: status "ok", "failed" or "interrupted", and the folder with everything it left.

    `failed_at_start` says that nothing of its own had run yet: it may be tried again.
    """

    name: str
    status: str
    seconds: float
    dir: Path
    error: str = ""
    failed_at_start: bool = False


def run_notebook(plan: Plan, *, run_dir: Path | None = None, timeout: int | None = None,
                 progress: Callable[[int, int], None] = lambda done, total: None) -> Result:
    """Execute a notebook in a subprocess of its own and leave a run folder.

    The folder holds `run.json`, `notebook.ipynb` (executed, without absolute paths), `notebook.html` and what the
    notebook recorded, also when it fails.

    Args:
        plan: the checked run. run_dir: folder to use; None makes a new one under `reports/runs/`.
        timeout: seconds that one cell may take; None is no limit.
        progress: called with (cells done, cells in all).
    """
    with tempfile.TemporaryDirectory(prefix="t2i-jupyter-") as scratch:
        env = {"JUPYTER_RUNTIME_DIR": scratch, "IPYTHONDIR": str(Path(scratch, "ipython")),
               "JUPYTER_PREFER_ENV_PATH": "1"}
        job = {"notebook": str(plan.path), "overrides": plan.overrides, "timeout": timeout}
        return run_module(NOTEBOOK, plan, job, run_dir=run_dir, progress=progress, cwd=plan.path.parent, env=env)


def run_module(module: str, plan: Planned, job: Mapping[str, Any], *, run_dir: Path | None = None,
               progress: Callable[[int, int], None] = lambda done, total: None, cwd: Path | None = None,
               env: Mapping[str, str] | None = None) -> Result:
    """Run a module in a subprocess of its own, with a job as its one argument, and leave a run folder.

    The module reads the job as `execute.serve` does, and prints its progress as lines "done/total".

    Args:
        module: its dotted name. plan: what the record says was asked.
        job: plain JSON types; `run_dir` and `error`, the file for the text of an error, are added.
        progress: called with (parts done, parts in all). cwd: where it runs. env: more environment variables.
    """
    done = 0
    with _recorded(plan, run_dir) as run, tempfile.TemporaryDirectory(prefix="t2i-run-") as scratch:
        error_file = Path(scratch, "error.txt")
        job_file = Path(scratch, "job.json")
        whole_job = {**job, "run_dir": str(run.dir), "error": str(error_file)}
        job_file.write_text(json.dumps(whole_job), encoding="utf-8")
        command = [sys.executable, "-m", module, str(job_file)]
        log_file = run.dir / "log.txt"
        with (open(log_file, "w", encoding="utf-8") as log,
              _process(command, env=_environment(run.dir, **(env or {})), cwd=cwd, stdout=subprocess.PIPE, stderr=log,
                       text=True) as child):
            for line in child.stdout:
                count, _, total = line.strip().partition("/")
                if count.isdigit() and total.isdigit():
                    done = int(count)
                    progress(done, int(total))
        _tidy_log(log_file)
        if child.returncode:
            run.error = f"the process ended with code {child.returncode}; see log.txt"
            if error_file.exists():
                run.error = error_file.read_text(encoding="utf-8")
            is_known = any(text in run.error for text in STARTUP_FAILURES)
            run.failed_at_start = done == 0 and (is_known or not error_file.exists())
    return run.result


def run_script(plan: Plan, *, devices: int = 1, num_nodes: int = 1, node_rank: int = 0, rendezvous: str = "",
               run_dir: Path | None = None, echo: TextIO | None = None, limit: float | None = None) -> Result:
    """Run a notebook as a plain script, under torchrun where there is more than one process.

    The script, with the overrides as a section below the parameters, lies in the run folder as `script.py`; what it
    prints goes to `log.txt` there as well as to `echo`.

    Args:
        plan: the checked run. devices: processes on this machine, one for each device.
        num_nodes: machines; the same command is started on each, with its own `node_rank`.
        node_rank: number of this machine; 0 keeps the record.
        rendezvous: "host:port" of machine 0; needed for more than one machine.
        run_dir: folder to use or to continue in; None makes a new one.
        echo: where to show the output as well, such as `sys.stdout`.
        limit: seconds after which it is interrupted, as by Ctrl-C; None lets it end by itself.

    Raises:
        BadParameter: impossible counts, or several machines without `rendezvous` and `run_dir`.
    """
    command = _script_command(devices, num_nodes, node_rank, rendezvous)
    if num_nodes > 1 and run_dir is None:
        raise BadParameter("several machines need the same --run-dir, on a disk that they share")
    with _recorded(plan, run_dir, keeper=node_rank == 0) as run:
        suffix = f"_node{node_rank}" if node_rank else ""
        script = run.dir / f"script{suffix}.py"
        write_text(script, _script_source(plan))
        env = _environment(run.dir, PYTHONUNBUFFERED="1", MPLBACKEND=os.environ.get("MPLBACKEND", "Agg"),
                           T2I_LAUNCHER=str(os.getpid()))
        tail: list[str] = []
        with (open(run.dir / f"log{suffix}.txt", "a", encoding="utf-8") as log,
              _process([*command, str(script)], env=env, cwd=plan.path.parent, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace") as child,
              _interrupted_after(limit, child)):
            for line in child.stdout:
                tail = [*tail[1 - KEPT_LINES:], line]
                for stream in (log, echo):
                    if stream is not None:
                        stream.write(line)
                        stream.flush()
        if child.returncode:
            run.error = _last_error(tail, child.returncode)
    return run.result


def _script_command(devices: int, num_nodes: int, node_rank: int, rendezvous: str) -> list[str]:
    if devices < 1 or num_nodes < 1 or not 0 <= node_rank < num_nodes:
        raise BadParameter("devices and num_nodes must be at least 1 and node_rank below num_nodes, got "
                           f"devices {devices}, num_nodes {num_nodes}, node_rank {node_rank}")
    if devices * num_nodes == 1:
        return [sys.executable, "-m", SCRIPT]
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={devices}", f"--nnodes={num_nodes}"]
    if num_nodes == 1:
        return [*torchrun, "--standalone", "-m", SCRIPT]
    host, _, port = rendezvous.rpartition(":")
    if not (host and port.isdecimal()):
        raise BadParameter(f"several machines need --rendezvous HOST:PORT of machine 0, got {rendezvous!r}")
    return [*torchrun, f"--node-rank={node_rank}", f"--master-addr={host}", f"--master-port={port}", "-m", SCRIPT]


def _script_source(plan: Plan) -> str:
    return with_parameters(plan.path.read_text(encoding="utf-8"), plan.overrides)


def _tidy_log(path: Path) -> None:
    """Drop what every kernel says, and the file if nothing else is in it."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    text = "".join(line for line in lines if KERNEL_WARNING not in line)
    if text.strip():
        path.write_text(text, encoding="utf-8")
    else:
        path.unlink()


def _last_error(tail: list[str], code: int) -> str:
    """Return the last line that looks like `SomeError: text`; torchrun prints its own report below it."""
    for line in tail:
        if ERROR_LINE.match(line) and "ChildFailedError" not in line:
            return line.strip()
    return f"the script ended with code {code}"


class _Running:
    """A run on its way: its folder, and the error that ended it if one did."""

    def __init__(self, plan: Planned, run_dir: Path | None):
        profile = plan.values.get("profile", "quick")
        seed = plan.values.get("seed", 0)
        self.dir = (run_dir or new_run_dir(plan.name, profile=profile, seed=seed)).resolve()
        self.dir.mkdir(parents=True, exist_ok=True)
        self.error = ""
        self.failed_at_start = False
        self.result: Result
        self.record = {"name": plan.name, "status": "running", "started": utc_now(), "profile": profile,
                       "seed": seed, "parameters": {"given": without_folders(plan.values), "resolved": {}},
                       "metrics": {}, "artefacts": [], "figures": [], "fallbacks": []}

    @property
    def status(self) -> str:
        """Return how it ended, by its error."""
        if not self.error:
            return "ok"
        is_interrupt = any(name in self.error for name in INTERRUPTS)
        return "interrupted" if is_interrupt else "failed"


@contextlib.contextmanager
def _recorded(plan: Planned, run_dir: Path | None, *, keeper: bool = True) -> Iterator[_Running]:
    """Write `run.json` before a run, so that one that dies at once leaves a trace too, and complete it after.

    What the notebook records in between stays; status, time and error are added here. `keeper` is False on machines
    that only help.
    """
    run = _Running(plan, run_dir)
    record_file = run.dir / "run.json"
    began = time.monotonic()
    if keeper:
        hold(record_file)  # as long as this process lives; the report sees where it was killed
        write_json(record_file, run.record)
    try:
        yield run
    except KeyboardInterrupt:
        run.error = "KeyboardInterrupt: stopped by the user"
        raise
    except BaseException as error:  # such as a full disk: what stopped it must not look like its end
        run.error = f"{type(error).__name__}: {error}"
        raise
    finally:
        seconds = round(time.monotonic() - began, 2)
        run.result = Result(plan.name, run.status, seconds, run.dir, run.error, run.failed_at_start)
        if keeper:
            record = json.loads(record_file.read_text(encoding="utf-8"))
            overrides = without_folders(plan.overrides)
            record.update(status=run.status, finished=utc_now(), seconds=seconds, overrides=overrides)
            if run.error:
                record["error"] = run.error
            if run.failed_at_start:
                record["failed_at_start"] = True
            is_written = False
            try:
                write_json(record_file, record)
                is_written = True
            finally:
                release(record_file, finished=is_written)


def _environment(run_dir: Path, **extra: str) -> dict[str, str]:
    return {**os.environ, "T2I_RUN_DIR": str(run_dir), "PYTHONPATH": python_path(), "PYTHONIOENCODING": "utf-8",
            **extra}


@contextlib.contextmanager
def _interrupted_after(seconds: float | None, child: subprocess.Popen) -> Iterator[None]:
    """Interrupt a child after some seconds, unless the block has ended before."""
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, child.send_signal, [signal.SIGINT])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let a child that begins here take interrupts: where a shell's background job ignores them, it would, too."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if not ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _give_way(session: int) -> None:
    """Make a session as nice as this process is: Linux may share the processor evenly among sessions first."""
    niceness = os.nice(0)
    if niceness > 0:
        with contextlib.suppress(OSError):  # a system without such groups
            Path(f"/proc/{session}/autogroup").write_text(str(niceness))


@contextlib.contextmanager
def _process(command: list[str], **options: Any) -> Iterator[subprocess.Popen]:
    """Run a child that gets an interrupt when we do, then ten seconds to close its kernel or ranks in order."""
    posix = os.name == "posix"
    with interruptible():
        child = subprocess.Popen(command, start_new_session=posix, **options)
    if posix:
        _give_way(child.pid)
    try:
        yield child
        child.wait()
    except BaseException:
        if posix:
            child.send_signal(signal.SIGINT)
        else:
            child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(10)
        child.kill()
        raise
    finally:
        if child.stdout:
            child.stdout.close()

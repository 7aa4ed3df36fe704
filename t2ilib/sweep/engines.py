"""Engines: where the runs of a sweep are placed. This file has the local one; `on_ray` has that of a cluster."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from typing import IO, Any, NamedTuple, Protocol

from .jobs import Job
from ..errors import BadParameter
from ..paths import python_path
from ..runner.launch import interruptible
from ..waiting import usable_cores

POLL = 0.2  # seconds between two looks at the workers
PATIENCE = 20.0  # seconds that interrupted workers have to close their notebooks in order
WORKER = (sys.executable, "-m", "t2ilib.sweep.worker")


class Ended(NamedTuple):
    """A job whose worker has ended; `problem` is what the engine knows of it, "" where it ended by itself."""

    job: Job
    problem: str


class Engine(Protocol):
    """What places runs; a context manager, so that a cluster is left in order."""

    def __enter__(self) -> "Engine": ...

    def __exit__(self, *error: object) -> None: ...

    def run(self, jobs: Sequence[Job]) -> Generator[Ended | None, None, None]:
        """Perform jobs, each in a worker of its own, and yield each that has ended; None every now and then between.

        How a job ended stands in its folder. Closing the iterator interrupts the workers that still run.
        """
        ...


class Worker(NamedTuple):
    """A process that performs an order; `errors` is the file of what it writes to its standard error."""

    process: subprocess.Popen
    errors: IO[str]

    def problem(self) -> str:
        """Return in words how it ended otherwise than by itself, or "", once it has ended."""
        code = self.process.returncode
        self.errors.seek(0)
        last = self.errors.read().strip().splitlines()[-1:]
        self.errors.close()
        if code == 0:
            return ""
        exit_status = f"signal {-code}" if code < 0 else f"code {code}"
        return f"its worker ended with {exit_status}" + (f": {last[0]}" if last else "")


def start_worker(order: Mapping[str, Any], command: Sequence[str] = WORKER) -> Worker:
    """Begin a process that reads an order from its standard input and performs it."""
    errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed with the worker
    env = {**os.environ, "PYTHONPATH": python_path()}
    with interruptible():
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, text=True,
                                   env=env, start_new_session=os.name == "posix")
    assert process.stdin is not None  # a pipe, as was asked
    with contextlib.suppress(BrokenPipeError):  # it ended at once, which `poll` will tell
        process.stdin.write(json.dumps(order))
        process.stdin.close()
    return Worker(process, errors)


def stop_workers(workers: Sequence[Worker]) -> None:
    """Interrupt workers, wait until they have closed what they run, and end those that do not."""
    for worker in workers:
        if os.name == "posix":
            worker.process.send_signal(signal.SIGINT)
        else:
            worker.process.terminate()
    end = time.monotonic() + PATIENCE
    for worker in workers:
        try:
            worker.process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        worker.errors.close()


def perform_in_process(order: Mapping[str, Any]) -> str:
    """Perform an order in a worker of its own, and return what is known of how that ended, "" for by itself.

    An interrupt of this process interrupts the worker; it ends with this process, however that ends.
    """
    worker = start_worker(order)
    try:
        while worker.process.poll() is None:
            time.sleep(POLL)
    except BaseException:
        stop_workers([worker])
        raise
    return worker.problem()


class LocalEngine:
    """Workers on this machine, as many at once as there are CPUs for.

    Args:
        cpus_per_run: that a run takes. cpus: that may be used; None is all that there are.
        command: of a worker, which reads an order from its standard input.

    Raises:
        BadParameter: a run takes more CPUs than there are, or GPUs, which only Ray places.
    """

    def __init__(self, *, cpus_per_run: int = 1, gpus_per_run: float = 0, cpus: int | None = None,
                 command: Sequence[str] = WORKER):
        self.cpus = usable_cores() if cpus is None else cpus
        if gpus_per_run:
            raise BadParameter(f"gpus: {gpus_per_run:g} asks for GPUs, which `--engine ray` places; without gpus the "
                               "runs share the GPUs of this machine")
        if cpus_per_run > self.cpus:
            raise BadParameter(f"a run takes cpus: {cpus_per_run}, and there are {self.cpus}; ask for fewer")
        self.slots = self.cpus // cpus_per_run
        self.command = list(command)

    def __enter__(self) -> "LocalEngine":
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is left to close: `run` ends its workers."""

    def run(self, jobs: Sequence[Job]) -> Generator[Ended | None, None, None]:
        """Perform jobs as `Engine.run` says."""
        waiting = deque(jobs)
        working: list[tuple[Worker, Job]] = []
        try:
            while waiting or working:
                while waiting and len(working) < self.slots:
                    job = waiting.popleft()
                    working.append((start_worker(job.order(), self.command), job))
                for worker, job in list(working):
                    if worker.process.poll() is not None:
                        working.remove((worker, job))
                        yield Ended(job, worker.problem())
                yield None
                time.sleep(POLL)
        finally:
            stop_workers([worker for worker, _ in working])

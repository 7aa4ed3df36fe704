"""The engine of a Ray cluster, or of a Ray on this machine. Ray is an extra: it is imported when it is asked for."""

import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from .engines import PATIENCE, Ended
from .jobs import Job
from ..errors import BadParameter, MissingAsset
from ..paths import repo_root

POLL = 0.5  # seconds between two looks at the tasks


def import_ray() -> Any:
    """Return the module ray; raises MissingAsset where it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise MissingAsset('the engine ray needs the package ray, an extra: pip install "ray>=2.10", or '
                           '`pip install -e ".[sweep]"` in this repository; `--engine local` needs nothing') from error
    return ray


class RayEngine:
    """Tasks on a Ray cluster, which places them by CPUs and GPUs; a worker that dies costs its task alone.

    Args:
        cpus_per_run, gpus_per_run: what Ray sets aside for a run.
        address: of a cluster that runs already, such as "auto" or "host:6379"; "" begins one on this machine.
        cpus: of the one that is begun here; None is all.

    Raises:
        MissingAsset: Ray is not installed. BadParameter: a run takes more than the cluster has.
    """

    def __init__(self, *, cpus_per_run: int = 1, gpus_per_run: float = 0, address: str = "", cpus: int | None = None):
        self.ray = import_ray()
        self.cpus_per_run = cpus_per_run
        self.gpus_per_run = gpus_per_run
        self.address = address
        self.cpus = cpus

    def __enter__(self) -> "RayEngine":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a run without GPUs sees what is there
        where = {"address": self.address} if self.address else {"num_cpus": self.cpus}
        try:
            self.ray.init(**where, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        except ConnectionError as error:
            raise BadParameter(f"no Ray cluster answers at {self.address!r} ({error}); begin one with `ray start "
                               "--head`, or leave out --address") from error
        self._check_room()
        return self

    def __exit__(self, *error: object) -> None:
        self.ray.shutdown()

    def _check_room(self) -> None:
        """Refuse runs that no machine of the cluster could take: Ray would wait for ever."""
        largest_cpus = 0.0
        largest_gpus = 0.0
        for node in self.ray.nodes():
            if node["Alive"]:
                cpus = node["Resources"].get("CPU", 0)
                gpus = node["Resources"].get("GPU", 0)
                if cpus >= self.cpus_per_run and gpus >= self.gpus_per_run:
                    return
                largest_cpus = max(largest_cpus, cpus)
                largest_gpus = max(largest_gpus, gpus)
        self.ray.shutdown()
        raise BadParameter(f"a run takes cpus: {self.cpus_per_run} and gpus: {self.gpus_per_run:g}, and no machine of "
                           f"the cluster has that; the largest numbers are {largest_cpus:g} and {largest_gpus:g}")

    def run(self, jobs: Sequence[Job]) -> Generator[Ended | None, None, None]:
        """Perform jobs as `Engine.run` says."""
        task = self.ray.remote(_carried_task()).options(num_cpus=self.cpus_per_run, num_gpus=self.gpus_per_run,
                                                    max_retries=0)
        root = str(repo_root())
        pending = {task.remote(root, job.order()): job for job in jobs}
        try:
            while pending:
                ready, _ = self.ray.wait(list(pending), timeout=POLL)
                for reference in ready:
                    yield Ended(pending.pop(reference), self._problem(reference))
                yield None
        finally:
            self._stop(list(pending))

    def _problem(self, reference: Any) -> str:
        """Return what Ray says of a task that did not end by itself, or ""."""
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            first = str(error).strip().splitlines()[:1] or [""]
            return f"its worker was lost ({type(error).__name__}): {first[0]}"

    def _stop(self, pending: list[Any]) -> None:
        """Interrupt tasks, and wait until they have closed what they run."""
        for reference in pending:
            self.ray.cancel(reference)
        end = time.monotonic() + PATIENCE
        while pending and time.monotonic() < end:
            _, pending = self.ray.wait(pending, num_returns=len(pending), timeout=POLL)


def _carried_task() -> Callable[[str, Mapping[str, Any]], str]:
    """Return the function that Ray carries to a worker: as code, since a worker finds this library only through it."""

    def perform_at(root: str, order: Mapping[str, Any]) -> str:
        import sys

        if root not in sys.path:
            sys.path.insert(0, root)
        from t2ilib.sweep.engines import perform_in_process

        return perform_in_process(order)

    return perform_at

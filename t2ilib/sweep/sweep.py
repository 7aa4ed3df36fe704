"""A sweep on its way: which runs have finished, which are tried again, and what is kept of them."""

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import results
from .engines import Engine
from .grid import Grid
from .jobs import Job
from .worker import read_progress
from ..errors import BadParameter
from ..files import read_json, remove_leftovers, utc_now, write_json, write_text
from ..locks import hold, release

RECORD = "run.json"
CSV = "results.csv"
PAGE = "index.html"
PAGE_SECONDS = 30.0  # between two pages written on the way: each has a picture of every run
WAITING = "waiting"
ENDS = ("ok", "failed", "interrupted")  # of a run that could say how it ended


@dataclass
class Row:
    """One run and what is known of it.

    Attributes:
        status: waiting, running, ok, failed, interrupted or lost. kept: it had finished before this sweep.
        attempts: how often it was begun. began: when, by `time.monotonic`. record: of the run, from its `run.json`.
    """

    job: Job
    status: str = WAITING
    error: str = ""
    kept: bool = False
    attempts: int = 0
    began: float | None = None
    progress: tuple[int, int] = (0, 0)
    record: dict[str, Any] = field(default_factory=dict)

    def look(self) -> None:
        """See whether a worker has begun with it, and how far that is."""
        progress = read_progress(self.job.run_dir)
        if progress is None:
            return
        self.progress = progress
        if self.status == WAITING:
            self.status = "running"
            self.began = time.monotonic()


Watch = Callable[["Sweep", Row | None], None]


class Sweep:
    """The runs of a grid, and the folder that keeps them.

    Args:
        grid: what was asked. jobs: of `plan_jobs`. folder: where everything lies.
        again: run also what has finished.

    Attributes:
        rows: one for each job, in the order of the grid. notes: what went otherwise than asked, in words.
    """

    def __init__(self, grid: Grid, jobs: Sequence[Job], folder: Path, *, again: bool = False):
        self.grid = grid
        self.folder = folder
        self.rows = [Row(job) for job in jobs]
        self.notes: list[str] = []
        self._page_written = 0.0
        if not again:
            for row in self.rows:
                record = finished_record(row.job.run_dir)
                if record is not None:
                    row.status = "ok"
                    row.kept = True
                    row.record = record

    def count(self, *statuses: str) -> int:
        """Return how many rows have one of these statuses."""
        return sum(row.status in statuses for row in self.rows)

    @property
    def name(self) -> str:
        """Return what runs, such as "08_minimagen"."""
        return self.rows[0].job.plan.name

    @property
    def succeeded(self) -> bool:
        """Return whether every run has finished."""
        return self.count("ok") == len(self.rows)

    def run(self, engine: Engine, *, retries: int = 2,
            watch: Watch = lambda sweep, row: None) -> None:
        """Perform what has not finished, and write the results after each run.

        Args:
            retries: how often a run is tried again that failed before anything of its own ran.
            watch: called with the row of each run that has ended, and with None now and then between.

        Raises:
            BadParameter: another sweep works in the folder. KeyboardInterrupt: after the runs were interrupted.
        """
        kept_file = self.folder / CSV
        hold(kept_file)
        try:
            self._perform(engine, retries, watch)
        finally:
            for row in self.rows:
                if row.status == "running":
                    self._end(row, "interrupted with the sweep")
            self.write()
            release(kept_file)

    def _perform(self, engine: Engine, retries: int, watch: Watch) -> None:
        self.write()
        todo = [row for row in self.rows if row.status == WAITING]
        if not todo:
            return
        with engine:
            for attempt in range(1, retries + 2):
                is_last = attempt == retries + 1
                todo = self._attempt(engine, todo, watch, is_last=is_last)
                if not todo:
                    return

    def _attempt(self, engine: Engine, rows: Sequence[Row], watch: Watch, *, is_last: bool) -> list[Row]:
        """Perform rows once; return those to try again, which failed before anything of their own ran."""
        by_key = {row.job.key: row for row in rows}
        for row in rows:
            row.attempts += 1
            shutil.rmtree(row.job.run_dir, ignore_errors=True)  # what an earlier run that failed has left
        again = []
        with closing(engine.run([row.job for row in rows])) as events:
            for event in events:
                if event is None:
                    for row in rows:
                        row.look()
                    watch(self, None)
                    continue
                row = by_key[event.job.key]
                may_be_tried_again = self._end(row, event.problem)
                if may_be_tried_again and not is_last:
                    again.append(row)
                    continue
                self._check_metric(row)
                self.write(page=False)
                watch(self, row)
        for row in again:
            self.notes.append(f"{row.job.label}: tried again, it failed before it had begun ({row.error})")
            row.status = WAITING
            row.error = ""
            row.began = None
        return again

    def _end(self, row: Row, problem: str) -> bool:
        """Take what a run left; return whether it failed before anything of its own ran."""
        row.look()
        path = row.job.run_dir / RECORD
        has_begun = row.status == "running"
        record = read_record(path)
        is_final = record.get("status") in ENDS and not is_held(path)
        if is_final:
            row.record = record
            row.status = record["status"]
            row.error = record.get("error", "")
            return bool(record.get("failed_at_start"))
        row.status = "lost"
        row.error = problem or "its worker ended without a word"
        base = {"name": row.job.plan.name, "started": utc_now(), "overrides": row.job.plan.overrides}
        row.record = {**base, **record, "status": "interrupted", "error": row.error}
        write_json(path, row.record)
        return not has_begun

    def _check_metric(self, row: Row) -> None:
        """Note once that a run has finished without the metric by which the best is chosen."""
        name = self.grid.metric
        if not name or row.status != "ok" or any(name in note for note in self.notes):
            return
        known = results.numbers(row.record.get("metrics", {}))
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            self.notes.append(f"{row.job.label} recorded no metric {name!r}; it recorded: {listed}")

    def write(self, *, page: bool = True) -> None:
        """Write the results as they are: the lines of all runs, and the page at once or when it is old."""
        write_text(self.folder / CSV, results.csv_text(self))
        is_old = time.monotonic() - self._page_written > PAGE_SECONDS
        if page or is_old:
            write_text(self.folder / PAGE, results.page(self))
            self._page_written = time.monotonic()


def read_record(path: Path) -> dict[str, Any]:
    """Return the record of a run, {} where there is none that can be read."""
    if not path.is_file():
        return {}
    remove_leftovers(path)
    try:
        return read_json(path)
    except BadParameter:
        return {}


def is_held(path: Path) -> bool:
    """Return whether the process that ran it did not come to release its record: it runs, or was killed."""
    return path.with_name(path.name + ".lock").exists()


def finished_record(run_dir: Path) -> dict[str, Any] | None:
    """Return the record of a run that has finished with the networks that are there now, None of any other."""
    record = read_record(run_dir / RECORD)
    if record.get("status") != "ok" or is_held(run_dir / RECORD):
        return None
    used = record.get("checkpoints", {})
    if used:
        from ..methods.networks import weights_version

        if any(weights_version(name) != version for name, version in used.items()):
            return None
    return record

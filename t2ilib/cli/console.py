"""What the terminal shows while notebooks run: one live line for each, and a table at the end."""

import shutil
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Live:
    """One line for each notebook: redrawn every second on a terminal, a line a minute in a log."""

    def __init__(self, label: str):
        self.label = label
        self.start = time.monotonic()
        self.done = 0
        self.total = 0
        self.terminal = sys.stdout.isatty()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> "Live":
        self._draw()
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop.set()
        self.thread.join()
        if self.terminal:
            print("\r\033[K", end="", flush=True)

    def cells(self, done: int, total: int) -> None:
        """Take the number of cells done."""
        self.done = done
        self.total = total

    def end(self, status: str, error: str) -> None:
        """Replace the live line by the outcome."""
        self.stop.set()
        self.thread.join()
        lead = "\r\033[K" if self.terminal else ""
        print(f"{lead}{self.label}  {status}  {_clock(self.start)}{'  ' + error if error else ''}", flush=True)

    def _tick(self) -> None:
        while not self.stop.wait(1 if self.terminal else 60):
            self._draw()

    def _draw(self) -> None:
        cells = f"  cell {min(self.done + 1, self.total)} of {self.total}" if self.total else ""
        line = f"{self.label}{cells}  {_clock(self.start)}"
        if self.terminal:
            print(f"\r\033[K{line[:shutil.get_terminal_size().columns - 1]}", end="", flush=True)
        else:
            print(line, flush=True)


def _clock(start: float) -> str:
    minutes, seconds = divmod(int(time.monotonic() - start), 60)
    return f"{minutes}:{seconds:02d}"


def print_summary(results: Sequence[Any]) -> None:
    """Print one line for each result of a run (name, status, seconds, folder) and the counts."""
    width = max([len(result.name) for result in results], default=0)
    print()
    for result in results:
        print(f"{result.name:<{width}}  {result.status:<11}  {result.seconds:8.1f} s  {relative(result.dir)}")
    statuses = [result.status for result in results]
    interrupted = statuses.count("interrupted")
    also = f", {interrupted} interrupted" if interrupted else ""
    print(f"{statuses.count('ok')} ok, {statuses.count('failed')} failed{also}")


def relative(path: Path) -> str:
    """Return `path` as one would type it here: relative to the working directory if it lies below."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


class LiveTable:
    """The runs of a sweep: redrawn every second on a terminal; in a log a line for each that has ended.

    Args:
        name: of what runs.
    """

    def __init__(self, name: str):
        self.name = name
        self.start = time.monotonic()
        self.terminal = sys.stdout.isatty()
        self.drawn = 0  # lines on the terminal
        self.last = 0.0  # when they were drawn

    def __enter__(self) -> "LiveTable":
        return self

    def __exit__(self, *_: Any) -> None:
        self._clear()

    def show(self, sweep: Any, ended: Any) -> None:
        """Take a sweep as it is, and the row of a run that has just ended, or None."""
        if ended is not None:
            self._clear()
            error = f"  {ended.error}" if ended.error else ""
            print(f"{ended.job.label}  {ended.status}  {_clock(ended.began or time.monotonic())}{error}", flush=True)
        if self.terminal and (ended is not None or time.monotonic() - self.last > 1):
            self._clear()
            self._draw(sweep)

    def _draw(self, sweep: Any) -> None:
        size = shutil.get_terminal_size()
        lines = [f"{self.name}: {sweep.count('ok')} of {len(sweep.rows)} done, {sweep.count('running')} running, "
                 f"{sweep.count('failed', 'lost')} failed, {sweep.count('waiting')} waiting  {_clock(self.start)}"]
        for row in sweep.rows:
            if row.status == "running":
                done, total = row.progress
                part = f"{done} of {total}" if total else "starts"
                lines.append(f"  {row.job.label}  {part}  {_clock(row.began)}")
        lines = lines[:max(1, size.lines - 2)]
        for line in lines:
            print(line[:size.columns - 1])
        sys.stdout.flush()
        self.drawn = len(lines)
        self.last = time.monotonic()

    def _clear(self) -> None:
        """Take the lines away that were drawn last."""
        if self.drawn:
            print(f"\033[{self.drawn}A\033[J", end="", flush=True)
            self.drawn = 0

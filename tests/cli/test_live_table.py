import io
import time
from types import SimpleNamespace

from t2ilib.cli.console import LiveTable


class Terminal(io.StringIO):
    def isatty(self):
        return True


def row(label, status, error="", progress=(0, 0)):
    return SimpleNamespace(job=SimpleNamespace(label=label), status=status, error=error, progress=progress,
                           began=time.monotonic())


def sweep(*rows):
    def count(*statuses):
        return sum(row.status in statuses for row in rows)

    return SimpleNamespace(rows=rows, count=count)


def test_a_terminal_shows_what_runs(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    done = row("steps=1, seed 0", "ok")
    rows = sweep(done, row("steps=2, seed 0", "running", progress=(3, 9)), row("steps=3, seed 0", "running"),
                 row("steps=4, seed 0", "lost"), row("steps=5, seed 0", "waiting"))
    with LiveTable("08_minimagen") as live:
        live.show(rows, done)
        live.show(rows, None)  # within a second of the last time: nothing is drawn again
    shown = screen.getvalue()
    assert shown.splitlines()[0] == "steps=1, seed 0  ok  0:00"
    assert "08_minimagen: 1 of 5 done, 2 running, 1 failed, 1 waiting  0:00" in shown
    assert "  steps=2, seed 0  3 of 9  0:00" in shown and "  steps=3, seed 0  starts" in shown
    assert "steps=5" not in shown and shown.count("08_minimagen") == 1 and shown.endswith("\033[3A\033[J")


def test_a_log_has_a_line_for_each_run_that_has_ended(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr("sys.stdout", log)
    failed = row("steps=1, seed 0", "failed", "ValueError: no")
    with LiveTable("08_minimagen") as live:
        live.show(sweep(failed), None)
        live.show(sweep(failed), failed)
    assert log.getvalue() == "steps=1, seed 0  failed  0:00  ValueError: no\n"

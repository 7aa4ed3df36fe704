"""What a sweep has found: a line for each run, a table with a row for each combination, and a page with both."""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .grid import HELD_OUT
from ..runner.report import render

if TYPE_CHECKING:
    from .sweep import Row, Sweep
    from ..show import Table

MOST_COLUMNS = 8  # of metrics in the table; the CSV has all
FACTS = ("status", "seconds", "peak_memory_mib", "device", "attempts", "error", "folder")


def numbers(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers among recorded metrics by name; those in a group as "group.name".

    Metrics of the held-out split are left out: nothing may be chosen by them.
    """
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if HELD_OUT in name.lower():
            continue
        if isinstance(value, dict) and set(value) == {"value", "n"}:
            value = value["value"]
        if isinstance(value, dict):
            found |= numbers(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            found[prefix + name] = value
    return found


def csv_text(sweep: Sweep) -> str:
    """Return a line for each run: its swept values, seed, metrics, and how it ended."""
    metrics: dict[str, None] = {}
    for row in sweep.rows:
        metrics.update(dict.fromkeys(numbers(row.record.get("metrics", {}))))
    swept = list(sweep.grid.sweep)
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["run", *swept, "seed", *metrics, *FACTS])
    for row in sweep.rows:
        found = numbers(row.record.get("metrics", {}))
        values = [row.job.swept[name] for name in swept]
        measured = [found.get(name, "") for name in metrics]
        writer.writerow([row.job.key, *values, row.job.seed, *measured, *_facts(sweep, row)])
    return buffer.getvalue()


def _facts(sweep: Sweep, row: Row) -> list[Any]:
    folder = row.job.run_dir.relative_to(sweep.folder).as_posix()
    record = row.record
    return [row.status, record.get("seconds", ""), record.get("peak_memory_mib", ""), record.get("device", ""),
            row.attempts or "", row.error, folder]


def table(sweep: Sweep) -> Table | None:
    """Return a row for each combination that has a finished run: means over its seeds, one deviation to both sides.

    The best by the grid's metric is marked among those that have finished with every seed; None before the first run.
    """
    from ..show import Table
    from ..show.tables import deviations, over_seeds

    finished: dict[str, list[dict[str, float]]] = {}
    for row in sweep.rows:
        if row.status == "ok":
            measured = numbers(row.record.get("metrics", {}))
            measured["seconds"] = row.record.get("seconds", 0.0)
            finished.setdefault(row.job.combination, []).append(measured)
    if not finished:
        return None
    metric = sweep.grid.metric
    columns = _columns(finished, metric)
    rows = {}
    incomplete = []
    for combination, runs in finished.items():
        in_every_run = set(columns).intersection(*runs)
        known = [name for name in columns if name in in_every_run]
        rows[combination] = {**over_seeds(runs, known), "seeds": len(runs)}
        if len(runs) < len(sweep.grid.seeds):
            incomplete.append(combination)
    is_measured = any(metric in row for row in rows.values())
    best = ("-" if sweep.grid.goal == "lowest" else "") + metric if is_measured else ""
    return Table(rows, columns=[*columns, "seeds"], intervals=deviations(columns), best=best, baselines=incomplete,
                 units={"seconds": "s"}, title=f"{sweep.name}: {sweep.count('ok')} of {len(sweep.rows)} runs",
                 note=_note(sweep, rows, best, incomplete))


def _columns(finished: Mapping[str, list[dict[str, float]]], metric: str) -> list[str]:
    """Return the metrics that the table shows, the one that chooses first, and the time."""
    names: dict[str, None] = {}
    for runs in finished.values():
        for run in runs:
            names.update(dict.fromkeys(run))
    names.pop("seconds", None)
    order = [name for name in (metric, *names) if name in names]
    return [*dict.fromkeys(order[:MOST_COLUMNS]), "seconds"]


def _note(sweep: Sweep, rows: Mapping[str, Mapping[str, Any]], best: str, incomplete: list[str]) -> str:
    """Return what the table's numbers are, and which rows are as near to the best as its seeds are to each other."""
    several = len(sweep.grid.seeds) > 1
    spread = "mean over seeds, one deviation between seeds to both sides"
    words = [spread if several else "one seed: no spread is known"]
    if incomplete:
        words.append(f"{len(incomplete)} combinations lack seeds and are not compared")
    near = near_the_best(sweep, rows, best, incomplete)
    if near:
        words.append(f"within one deviation of the best: {'; '.join(near)}")
    return ". ".join(words) + ". Metrics of the held-out split are left out."


def near_the_best(sweep: Sweep, rows: Mapping[str, Mapping[str, Any]], best: str, incomplete: list[str]) -> list[str]:
    """Return the rows whose interval of one deviation meets that of the best row; none with one seed."""
    metric = best.removeprefix("-")
    low = f"{metric} - deviation"
    high = f"{metric} + deviation"
    compared = {label: row for label, row in rows.items() if label not in incomplete and low in row}
    if not best or not compared:
        return []
    sign = -1 if best.startswith("-") else 1
    winner = max(compared, key=lambda label: sign * compared[label][metric])
    top = compared[winner]
    return [label for label, row in compared.items()
            if label != winner and row[low] <= top[high] and top[low] <= row[high]]


def page(sweep: Sweep) -> str:
    """Return the HTML page: the table, notes, and a card for each run that has begun."""
    found = table(sweep)
    above = f'<div class="above">{found._repr_html_()}</div>' if found is not None else ""
    for note in sweep.notes:
        above += f'<p class="note">{html.escape(note)}</p>'
    runs = []
    for row in sweep.rows:
        if row.record:
            defaults = {"name": row.job.plan.name, "started": "", "status": "running"}
            runs.append({**defaults, **row.record, "metrics": numbers(row.record.get("metrics", {})),
                         "dir": row.job.run_dir})
    about = f"{len(sweep.rows)} runs planned. Every card is one run."
    return render(runs, sweep.folder, title=f"Sweep of {sweep.name}", about=about, above=above, every=True)

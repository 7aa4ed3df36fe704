"""Tables of results: HTML in a notebook, plain text elsewhere, CSV on disk."""

import csv
import html
import io
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..errors import BadParameter

STYLE = """<style>
.t2i-table { border-collapse: collapse; font-size: 13px; margin: 4px 0; }
.t2i-table caption { text-align: left; font-weight: bold; padding: 2px 8px; }
.t2i-table th, .t2i-table td { padding: 3px 8px; text-align: right; border: none; }
.t2i-table th:first-child, .t2i-table td:first-child { text-align: left; }
.t2i-table thead th { border-bottom: 1px solid #8a8a8a; }
.t2i-table tr.best td { font-weight: bold; }
.t2i-table tr.baseline td { opacity: .65; }
.t2i-table small { opacity: .65; font-weight: normal; }
.t2i-table .interval { display: block; position: relative; height: 3px; width: 72px; margin-left: auto;
  background: rgba(128, 128, 128, .2); }
.t2i-table .interval i { position: absolute; top: 0; height: 3px; background: #2468b3; }
.t2i-note { font-size: 12px; opacity: .75; padding: 0 8px 6px; }
</style>"""


class Table:
    """Rows of named values.

    Args:
        rows: label -> column -> value; numbers, texts or None. Columns stand in the order in which they first appear.
        columns: which of them, in this order; default all but the bounds of intervals.
        units: column -> what stands below its name, such as "s".
        intervals: column -> (column of the lower bound, of the upper), drawn as a bar on the scale of the column.
        best: the column by which the best row, or those that tie, is set in bold; "-name" if less is better.
        baselines: labels of rows that are only compared with, such as real drawings; never the best.
        digits: decimals of numbers that are not whole; or one number for each column by name.
        title: line above. note: line below, with n, seeds and what the numbers are of.

    Raises:
        BadParameter: no rows, or a column that no row has.
    """

    def __init__(self, rows: Mapping[str, Mapping[str, Any]], *, columns: Sequence[str] | None = None,
                 units: Mapping[str, str] | None = None, intervals: Mapping[str, tuple[str, str]] | None = None,
                 best: str = "", baselines: Collection[str] = (), digits: int | Mapping[str, int] = 3,
                 title: str = "", note: str = ""):
        if not rows:
            raise BadParameter("a table needs at least one row, got none")
        self.rows = {label: dict(row) for label, row in rows.items()}
        self.units = dict(units or {})
        self.intervals = dict(intervals or {})
        self.best = best
        self.baselines = set(baselines)
        self.digits = digits
        self.title = title
        self.note = note
        self.columns = list(columns) if columns is not None else self._all_columns()
        known: set[str] = set()
        for row in self.rows.values():
            known.update(row)
        used = list(self.columns)
        if best:
            used.append(best.removeprefix("-"))
        for name in used:
            if name not in known:
                raise BadParameter(f"no row of the table has a value for {name!r}; there are "
                                   f"{', '.join(sorted(known))}")

    def _all_columns(self) -> list[str]:
        bounds: set[str] = set()
        for pair in self.intervals.values():
            bounds.update(pair)
        columns: list[str] = []
        for row in self.rows.values():
            columns += [name for name in row if name not in columns and name not in bounds]
        return columns

    def best_rows(self) -> list[str]:
        """Return the label of the best row, of all that tie, or none where nothing was said to be best."""
        if not self.best:
            return []
        name = self.best.removeprefix("-")
        sign = -1 if self.best.startswith("-") else 1
        scores = {}
        for label, row in self.rows.items():
            value = row.get(name)
            if label not in self.baselines and isinstance(value, (int, float)) and math.isfinite(value):
                scores[label] = sign * value
        highest = max(scores.values(), default=0.0)
        return [label for label, score in scores.items() if score == highest]

    def csv(self) -> str:
        """Return the table as CSV, bounds of intervals included, numbers as they are."""
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        names = list(self.columns)
        for column in self.columns:
            names += self.intervals.get(column, ())
        writer.writerow(["row", *names])
        for label, row in self.rows.items():
            values = [row.get(name, "") for name in names]
            writer.writerow([label, *values])
        return buffer.getvalue()

    def __str__(self) -> str:
        grid = [["", *map(self._head, self.columns)]]
        for label, row in self.rows.items():
            cells = [self._text(row, name) for name in self.columns]
            grid.append([label, *cells])
        widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
        best = self.best_rows()
        printed = [self.title] if self.title else []
        for number, (label, *cells) in enumerate(grid):
            aligned = [label.ljust(widths[0])]
            aligned += [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
            mark = " *" if number and label in best else ""
            printed.append(("  ".join(aligned) + mark).rstrip())
        if best:
            printed.append(f"* best by {self.best.removeprefix('-')}")
        if self.note:
            printed.append(self.note)
        return "\n".join(printed)

    def _repr_html_(self) -> str:
        head = "<th></th>"
        for name in self.columns:
            head += f"<th>{html.escape(name)}{self._unit_html(name)}</th>"
        body = "".join(self._row_html(label, row) for label, row in self.rows.items())
        caption = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        note = f"<div class='t2i-note'>{html.escape(self.note)}</div>" if self.note else ""
        return (f"{STYLE}<table class='t2i-table'>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
                f"{note}")

    def _row_html(self, label: str, row: Mapping[str, Any]) -> str:
        kind = ""
        if label in self.best_rows():
            kind = "best"
        elif label in self.baselines:
            kind = "baseline"
        cells = f"<td>{html.escape(label)}</td>"
        for name in self.columns:
            cells += f"<td>{self._cell_html(row, name)}</td>"
        return f"<tr class='{kind}'>{cells}</tr>"

    def _head(self, name: str) -> str:
        return f"{name} [{self.units[name]}]" if name in self.units else name

    def _unit_html(self, name: str) -> str:
        return f"<br><small>{html.escape(self.units[name])}</small>" if name in self.units else ""

    def _number(self, value: Any, name: str) -> str:
        if value is None or value == "":
            return ""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return str(value)
        if isinstance(value, int):
            return f"{value:,}"
        digits = self.digits.get(name, 3) if isinstance(self.digits, Mapping) else self.digits
        return f"{value:,.{digits}f}"

    def _bounds(self, row: Mapping[str, Any], name: str) -> tuple[float, float] | None:
        if name not in self.intervals:
            return None
        low, high = (row.get(bound) for bound in self.intervals[name])
        return None if low is None or high is None else (low, high)

    def _text(self, row: Mapping[str, Any], name: str) -> str:
        text = self._number(row.get(name), name)
        bounds = self._bounds(row, name)
        if bounds is None:
            return text
        return f"{text} [{self._number(bounds[0], name)}, {self._number(bounds[1], name)}]"

    def _cell_html(self, row: Mapping[str, Any], name: str) -> str:
        text = html.escape(self._number(row.get(name), name))
        bounds = self._bounds(row, name)
        if bounds is None:
            return text
        low, high = self._scale(name)
        span = (high - low) or 1
        left = 100 * (bounds[0] - low) / span
        width = max(1.0, 100 * (bounds[1] - bounds[0]) / span)
        words = f"{self._number(bounds[0], name)} to {self._number(bounds[1], name)}"
        bar = f"<span class='interval' title='{words}'><i style='left:{left:.1f}%;width:{width:.1f}%'></i></span>"
        return f"{text} <small>{words}</small>{bar}"

    def _scale(self, name: str) -> tuple[float, float]:
        """Return the ends of the scale on which a column's intervals are drawn."""
        ends = [0.0]
        for row in self.rows.values():
            ends += self._bounds(row, name) or ()
        return min(ends), max(ends)


def over_seeds(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, Any]:
    """Return one row of those that several seeds gave: the mean of each column, and one deviation to both sides.

    A single row is returned as it is: it says nothing about the spread.

    Example:
        Table({"ours": over_seeds(rows, ["KID"])}, intervals=deviations(["KID"]))
    """
    if len(rows) == 1:
        return {name: rows[0][name] for name in columns}
    result: dict[str, Any] = {}
    for name in columns:
        values = [float(row[name]) for row in rows]
        mean = sum(values) / len(values)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
        low, high = deviations([name])[name]
        result |= {name: mean, low: mean - deviation, high: mean + deviation}
    return result


def deviations(columns: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the `intervals` of a table whose rows `over_seeds` made."""
    return {name: (f"{name} - deviation", f"{name} + deviation") for name in columns}

"""The tables of the compositional check that runs left, found and put side by side: method x category.

A run that trained on the shapes keeps `tables/composition.csv` (`metrics.shape_check.keep_composition`).
"""

import csv
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .notebooks import list_notebooks, read_parameters
from .report import load_runs
from ..data.shape_captions import CATEGORIES
from ..data.shape_scenes import SPLITS
from ..errors import BadParameter, MissingInput
from ..files import read_json
from ..metrics.composition import OVERALL
from ..metrics.shape_check import COMPOSITION
from ..paths import runs_dir
from ..profiles import PROFILES
from ..show import Table

TABLE = Path("tables", f"{COMPOSITION}.csv")  # in the folder of a run
COLUMNS = (*CATEGORIES, OVERALL)
NEEDED = {"n", "shown", "low", "high", "shuffled", "real"}  # of each row
Rows = dict[str, dict[str, dict[str, float]]]  # split -> category -> column -> value
SHUFFLED = "shuffled captions"
REAL = "real pictures"


@dataclass(frozen=True)
class Composed:
    """A run that has the table.

    Attributes:
        label: what its rows are called: the notebook's name, and where two runs have the same, the run's folder too.
        record: what its run.json says. folder: of the run.
        rows: split -> category -> column -> value.
    """

    label: str
    record: Mapping[str, Any]
    folder: Path
    rows: Rows


def notebooks_on_shapes(folder: Path | None = None) -> list[str]:
    """Return the names of the notebooks that can train on the shapes: the comment of their parameter `data` says so."""
    names = []
    for path in list_notebooks(folder):
        parameter = read_parameters(path).get("data")
        if parameter is not None and re.search(r"\bshapes\b", parameter.help):
            names.append(path.stem)
    return names


def command_for(notebook: str) -> str:
    """Return the command that makes the table of a notebook; `--profile full` trains a network of the shipped size."""
    return f"python -m t2ilib run {notebook.partition('_')[0]} -p data shapes"


def find_composed(folders: Sequence[str | Path] = (), *, runs: Path | None = None) -> list[Composed]:
    """Return the runs that have the table, in the order of their notebooks.

    Args:
        folders: of the runs to compare. Where none is named: of each notebook the newest run of its largest profile;
            a table that cannot be read is left out there, with a warning.
        runs: where run folders are looked for; default `reports/runs`.

    Raises:
        MissingInput: a folder of `folders` has no such table. BadParameter: its table cannot be read.
    """
    if folders:
        records = [_record_of(Path(folder).expanduser()) for folder in folders]
        tables = [read_composition(record["dir"] / TABLE) for record in records]
    else:
        records, tables = _newest(runs or runs_dir())
    names = [record["name"] for record in records]
    found = []
    for record, rows in zip(records, tables, strict=True):
        label = record["name"]
        if names.count(label) > 1:
            label = f"{label}, {record['dir'].name}"
        found.append(Composed(label, record, record["dir"], rows))
    return sorted(found, key=lambda one: one.label)


def _record_of(folder: Path) -> dict[str, Any]:
    """Return the record of a run that is named by its folder."""
    for needed in (Path("run.json"), TABLE):
        if not (folder / needed).is_file():
            raise MissingInput(f"{folder} has no {needed.as_posix()}: give folders of runs that trained on the shapes, "
                               f"such as {command_for('08_minimagen')} leaves")
    return {"name": folder.parent.name, **read_json(folder / "run.json"), "dir": folder}


def _newest(runs: Path) -> tuple[list[dict[str, Any]], list[Rows]]:
    """Return of each notebook the newest run of its largest profile that has the table: records, and their tables."""
    sizes = list(PROFILES)  # from the smallest
    chosen: dict[str, dict[str, Any]] = {}
    tables: dict[str, Rows] = {}
    for record in load_runs(runs):  # newest first
        if not (record["dir"] / TABLE).is_file() or record.get("profile") not in sizes:
            continue
        name = record["name"]
        if name in chosen and sizes.index(record["profile"]) <= sizes.index(chosen[name]["profile"]):
            continue
        try:
            tables[name] = read_composition(record["dir"] / TABLE)
        except BadParameter as error:
            warnings.warn(f"left out: {error}", stacklevel=3)
            continue
        chosen[name] = record
    return list(chosen.values()), [tables[name] for name in chosen]


def read_composition(path: Path) -> Rows:
    """Return the rows of a table that a run kept: split -> category -> column -> value.

    Raises:
        BadParameter: it is not such a table.
    """
    rows: Rows = {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                split, _, category = line.pop("row").partition(": ")
                values = {name: float(value) for name, value in line.items() if value != ""}
                absent = NEEDED - values.keys()
                if absent:
                    raise ValueError(f"no {', '.join(sorted(absent))}")
                rows.setdefault(split, {})[category] = values
        if not rows or any(OVERALL not in of_split for of_split in rows.values()):
            raise ValueError(f"no row of {OVERALL}")
    except (KeyError, ValueError, TypeError, AttributeError, csv.Error) as error:
        raise BadParameter(f"{path} is no table of the compositional check ({type(error).__name__}: {error}); run the "
                           "notebook again") from None
    return rows


def missing_composed(found: Sequence[Composed], notebooks: Sequence[str] | None = None) -> dict[str, str]:
    """Return the commands that make the tables which are missing, by the notebook's name."""
    there = {one.record["name"] for one in found}
    names = notebooks_on_shapes() if notebooks is None else notebooks
    return {name: command_for(name) for name in names if name not in there}


def overview(found: Sequence[Composed]) -> Table:
    """Return seen beside unseen combinations: a row for each run, the mean of all categories of each split."""
    rows = {}
    splits = _splits_of(found)
    for one in found:
        row = {"profile": one.record.get("profile"), "seed": one.record.get("seed"), "minutes": _minutes(one.record)}
        for split in splits:
            if split in one.rows:
                row |= _cell(split, one.rows[split][OVERALL])
        if "train" in one.rows and "validation" in one.rows:
            row["train - validation"] = row["train"] - row["validation"]
        rows[one.label] = row
    return Table(rows, digits=2, intervals={split: _bounds(split) for split in splits},
                 note="share of pictures that show what their captions say, mean of all categories; 95 % intervals")


def by_category(found: Sequence[Composed], split: str) -> Table:
    """Return method x category for a split; pale rows: the same pictures with shuffled captions, and real pictures."""
    rows: dict[str, dict[str, Any]] = {}
    shuffled = {}
    real = {}
    numbers = set()
    for one in found:
        if split not in one.rows:
            continue
        of_split = one.rows[split]
        rows[one.label] = {}
        for category in COLUMNS:
            if category in of_split:
                rows[one.label] |= _cell(category, of_split[category])
        shuffled[f"{one.label}: {SHUFFLED}"] = {name: row["shuffled"] for name, row in of_split.items()}
        real[f"{one.label}: {REAL}"] = {name: row["real"] for name, row in of_split.items()}
        numbers.update(int(row["n"]) for name, row in of_split.items() if name != OVERALL)
    counts = " or ".join(map(str, sorted(numbers)))
    note = f"n = {counts} pictures of a category; 95 % intervals: where two overlap, n is too small to order the rows"
    columns = [name for name in COLUMNS if any(name in row for row in rows.values())]
    return Table({**rows, **shuffled, **real}, columns=columns, digits=2, title=split, note=note,
                 baselines=[*shuffled, *real], intervals={name: _bounds(name) for name in columns})


def _splits_of(found: Sequence[Composed]) -> list[str]:
    return [split for split in SPLITS if any(split in one.rows for one in found)]


def _minutes(record: Mapping[str, Any]) -> float | None:
    """Return how long a run took, training included; None if it does not say."""
    seconds = record.get("seconds")
    return seconds / 60 if isinstance(seconds, int | float) else None


def _bounds(name: str) -> tuple[str, str]:
    return f"{name} low", f"{name} high"


def _cell(name: str, row: Mapping[str, float]) -> dict[str, float]:
    """Return a share under a column's name, with the bounds of its interval."""
    low, high = _bounds(name)
    return {name: row["shown"], low: row["low"], high: row["high"]}

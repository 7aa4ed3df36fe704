"""The tables of `reports/RESULTS.md` that have a committed source: benchmarks, leaderboard, cards, the gallery.

On the page such a table stands between `<!-- table: NAME -->` and `<!-- end of table -->`. Everything else there is
written by hand.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .markdown import ABSENT, markdown, number
from .published import leaderboard_tables
from ..checkpoint import WEIGHTS, absent_weights, read_config
from ..errors import BadParameter, MissingAsset, T2IError
from ..files import read_lines, read_text
from ..media import png
from ..paths import checkpoints_dir, repo_root
from ..training.shipping import pictures_seen

PAGE = Path("reports") / "RESULTS.md"
BENCHMARKS = Path("reports") / "benchmarks"
GALLERY = Path("reports") / "gallery"
BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)
BEGIN = re.compile(r"<!-- table: ([\w-]+) -->")
END = "<!-- end of table -->"
FIELDS = ("kernel", "provider", "mode", "shape", "metric", "p50", "p20", "p80", "ratio",
          "device", "threads", "commit", "date")
UNSEEN = ("validation_", "held_out_", "left_out_")
PERCENTILES = "in brackets the 20th and 80th percentile"
INTERVALS = "in brackets a 95 % interval over the pictures"
GAIN = "gain over the first line of its size"


@dataclass(frozen=True)
class Column:
    """A column of a benchmark's table.

    Attributes:
        title: its head. metric: of the CSV. mode: of the CSV, or how it begins; "" takes any.
        digits: decimals. field: "p50" with its percentiles where they differ, or "ratio".
    """

    title: str
    metric: str
    mode: str = ""
    digits: int = 1
    field: str = "p50"


@dataclass(frozen=True)
class BenchmarkTable:
    """How a CSV file of a benchmark becomes a table: a line for each shape and provider, in the order of the file.

    Attributes:
        head: above the providers. columns: what is shown. spread: what stands in brackets.
    """

    benchmark: str
    head: str
    columns: tuple[Column, ...]
    spread: str = PERCENTILES


MEMORY = (Column("tensors, MiB", "MiB", "peak of tensors", digits=0),
          Column("process, MiB", "MiB", "peak of the process", digits=0))

BENCHMARK_TABLES = {
    "eyes": BenchmarkTable("eyes", "pictures", (
        Column("KID-lite2", "KID-lite2", digits=2), Column("precision", "precision", digits=2),
        Column("recall", "recall", digits=2), Column("PSNR, dB", "PSNR dB"),
        Column("strict top-10", "strict top-10", digits=2)), spread=INTERVALS),
    "vqgan_clip": BenchmarkTable("vqgan_clip", "loop", (
        Column("ms a step", "ms", "step", digits=0), Column(GAIN, "ms", "step", digits=2, field="ratio"), *MEMORY)),
    "vqgan_clip_quality": BenchmarkTable("vqgan_clip_quality", "settings", (
        Column("strict top-10", "share", "top-10 among all names", digits=3),
        Column("paired difference", "share", "top-10, paired difference", digits=3),
        Column("judged alike", "share", "pictures judged alike", digits=3),
        Column("s a search", "s", "search")), spread=INTERVALS),
    "vqgan_clip_score": BenchmarkTable("vqgan_clip_score", "loop", (
        Column("s a run", "s", "whole run"), Column("s to the classic loop's score", "s", "to the classic score"),
        Column("share that reaches it", "share", digits=2),
        Column("judge's cosine", "judge cosine", digits=2))),
    "vqgan": BenchmarkTable("vqgan", "decoder", (
        Column("ms", "ms", digits=0), Column(GAIN, "ms", digits=2, field="ratio"))),
    "minimagen": BenchmarkTable("minimagen", "loop", (
        Column("pictures/s in training", "pictures/s", "training", digits=0),
        Column(GAIN, "pictures/s", "training", digits=2, field="ratio"), *MEMORY,
        Column("s a draft", "s a picture", "sampling", digits=2),
        Column("passes a draft", "a picture", "network passes", digits=0))),
    "code_store": BenchmarkTable("code_store", "codes kept in", (
        Column("written, pictures/s", "pictures/s", "write", digits=0),
        Column("read at random, pictures/s", "pictures/s", "random read", digits=0),
        Column("bytes a picture", "bytes/picture", digits=0))),
    "pixelsnail": BenchmarkTable("pixelsnail", "sampling", (
        Column("s a picture", "s a picture", digits=2),
        Column(GAIN, "s a picture", field="ratio"))),
    "gan_step": BenchmarkTable("gan_step", "loop", (
        Column("steps/s", "steps/s"), Column(GAIN, "steps/s", digits=2, field="ratio"))),
    "gigagan": BenchmarkTable("gigagan", "networks", (
        Column("pictures/s in training", "pictures/s", "training"),
        Column(GAIN, "pictures/s", "training", field="ratio"),
        Column("tensors, MiB", "MiB", "peak of tensors", digits=0),
        Column("pictures/s drawn", "pictures/s", "drawing"))),
    "startup": BenchmarkTable("startup", "imports", (
        Column("s", "s", digits=2), Column("s of CPU", "CPU s", digits=2))),
    "kernels": BenchmarkTable("kernels", "implementation", (
        Column("forward, ms", "ms", "forward"), Column("backward, ms", "ms", "backward"),
        Column("both, ms", "ms", "full"))),
}


def page_tables() -> dict[str, str]:
    """Return name -> Markdown of every table that can be made from what is committed.

    Raises:
        MissingAsset, BadParameter: a source is not here, or has another form.
    """
    tables = {name: benchmark_table(spec) for name, spec in BENCHMARK_TABLES.items()}
    tables["checkpoints"] = checkpoint_table()
    tables["gallery"] = gallery_table()
    return tables | leaderboard_tables()


def fill(text: str, tables: Mapping[str, str]) -> tuple[str, list[str]]:
    """Return a page with its tables replaced, and the names of those that were not as they should be.

    Raises:
        BadParameter: the page asks for a table that cannot be made, or lacks one, or a table has no end.
    """
    asked = BEGIN.findall(text)
    closed = [match[2] for match in BLOCK.finditer(text) if not BEGIN.search(match[3])]
    for name in asked:
        if name not in tables:
            raise BadParameter(f"{PAGE.as_posix()} asks for the table {name!r}, and nothing makes it; there are "
                               f"{', '.join(sorted(tables))}")
        if name not in closed:
            raise BadParameter(f"{PAGE.as_posix()}: the table {name!r} has no end; put {END} on a line below it")
    absent = [name for name in tables if name not in asked]
    if absent:
        raise BadParameter(f"{PAGE.as_posix()} has no place for {', '.join(absent)}; write <!-- table: {absent[0]} --> "
                           f"and {END} where it shall stand")
    outdated = []

    def replaced(match: re.Match) -> str:
        body = f"{tables[match[2]]}\n"
        if body != match[3]:
            outdated.append(match[2])
        return f"{match[1]}{body}{match[4]}"

    return BLOCK.sub(replaced, text), outdated


def page_path() -> Path:
    """Return where the page lies."""
    return repo_root() / PAGE


def read_page() -> str:
    """Return the page as it is; raises MissingAsset in an installed package, which has none."""
    path = page_path()
    if not path.is_file():
        raise MissingAsset(f"{path} is not here: its tables are made in a clone of the repository")
    return read_text(path)


# --- benchmarks -------------------------------------------------------------------------------------------------------


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the lines of a benchmark's CSV; raises MissingAsset, or BadParameter where it has another form."""
    command = f"`python -m t2ilib bench {path.stem}` writes it"
    if not path.is_file():
        raise MissingAsset(f"{path} is not here; {command}")
    rows = list(csv.DictReader(read_lines(path)))
    if not rows or any(row.get(field) is None for row in rows for field in FIELDS):
        raise BadParameter(f"{path} is empty, or lacks one of the columns {', '.join(FIELDS)}; {command}")
    return rows


def benchmark_table(spec: BenchmarkTable) -> str:
    """Return a benchmark's table, and below it what was measured where and how; raises as `read_rows` does."""
    path = repo_root() / BENCHMARKS / f"{spec.benchmark}.csv"
    rows = read_rows(path)
    groups: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in rows:
        key = (row["kernel"], row["shape"], row["provider"])
        groups.setdefault(key, []).append(row)
    several_kernels = len({kernel for kernel, _, _ in groups}) > 1
    lines = []
    for (kernel, shape, provider), group in groups.items():
        cells = [benchmark_cell(group, column) for column in spec.columns]
        if all(cell == ABSENT for cell in cells):
            continue
        place = f"{kernel}, {shape}" if several_kernels else shape
        lines.append([provider, place, *cells])
    titles = [spec.head, "measured on", *(column.title for column in spec.columns)]
    return f"{markdown(titles, lines)}\n\n{source_line(path, rows, spec)}"


def benchmark_cell(rows: Sequence[Mapping[str, str]], column: Column) -> str:
    """Return what a column says of the rows of one provider at one shape.

    Raises:
        BadParameter: two rows would stand in the same cell, or a value is no number.
    """
    found = [row for row in rows if row["metric"] == column.metric and row["mode"].startswith(column.mode)]
    if not found:
        return ABSENT
    if len(found) > 1:
        raise BadParameter(f"the column {column.title!r} has {len(found)} values for {found[0]['provider']!r}, "
                           f"{found[0]['shape']!r}: name their mode")
    row = found[0]
    value = number(row[column.field], column.digits)
    if column.field != "p50" or row["p20"] == row["p80"]:
        return value
    low = number(row["p20"], column.digits)
    high = number(row["p80"], column.digits)
    return f"{value} ({low} to {high})"


def source_line(path: Path, rows: Sequence[Mapping[str, str]], spec: BenchmarkTable) -> str:
    """Return the sentence below a benchmark's table: its file, machine, commits, dates and command."""
    devices = sorted({row["device"] for row in rows})
    threads = sorted({row["threads"] for row in rows})
    commits = sorted({row["commit"] for row in rows})
    dates = sorted({row["date"] for row in rows})
    words = "thread" if threads == ["1"] else "threads"
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    machine = f"{', '.join(devices)}, {' or '.join(threads)} {words}"
    return (f"From [{path.name}](benchmarks/{path.name}): {machine}, {days}, commit {', '.join(commits)}; "
            f"{spec.spread}. `python -m t2ilib bench {spec.benchmark}` measures it anew.")


# --- checkpoints and pictures -----------------------------------------------------------------------------------------


def checkpoint_table() -> str:
    """Return the table of the shipped checkpoints, by their cards; raises as `read_config` does."""
    lines = []
    for path in sorted(checkpoints_dir().glob("*/config.json")):
        card = read_config(path.parent)
        weights = path.with_name(WEIGHTS)
        if not weights.is_file():
            raise MissingAsset(f"the size of weights stands in the table: {absent_weights(weights)}")
        seen = pictures_seen(card)
        lines.append([f"`{path.parent.name}`", f"`{card['class']}`", f"{card['parameters']:,}",
                      f"{weights.stat().st_size:,}", card["dtype"], str(card.get("seed", ABSENT)),
                      ABSENT if seen is None else f"{seen:,}", " + ".join(card.get("splits", [])) or ABSENT,
                      card_metrics(card)])
    titles = ["checkpoint", "class", "numbers in it", "bytes", "stored as", "seed", "pictures seen", "trained on",
              "what its card measures"]
    return (f"{markdown(titles, lines)}\n\nFrom the cards, `data/checkpoints/*/config.json`; {ABSENT} stands where a "
            "card does not say. Where it counts no pictures, they are steps times batch size. `python -m t2ilib "
            "models` lists the same cards.")


def card_metrics(card: Mapping) -> str:
    """Return three single numbers among a card's metrics in words, those on unseen pictures first."""
    named = (card.get("metrics") or {}).items()
    metrics = []
    for name, value in sorted(named, key=lambda item: not item[0].startswith(UNSEEN)):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            metrics.append(f"{name.replace('_', ' ')} {value:.3g}")
    return ", ".join(metrics[:3]) or ABSENT


def gallery_table() -> str:
    """Return the table of the pictures in `reports/gallery`: size, and what their files say of how they were made."""
    lines = []
    for path in sorted((repo_root() / GALLERY).glob("*.png")):
        with Image.open(path) as image:
            pixels = f"{image.width} x {image.height}"
        lines.append([f"[{path.name}](gallery/{path.name})", pixels, f"{path.stat().st_size:,}", made_by(path)])
    return markdown(["picture", "pixels", "bytes", "record in the file"], lines)


def made_by(path: Path) -> str:
    """Return method and seed from a picture's record, or that it has none."""
    try:
        call = png.read_record(path).get("call") or {}
    except T2IError:
        return "none"
    arguments = {name: call[name] for name in ("prompt", "method", "seed") if name in call}
    if isinstance(arguments.get("prompt"), list):
        arguments["prompt"] = f"each of {len(arguments['prompt'])}"
    return ", ".join(f"{name} {value}" for name, value in arguments.items()) or "none"

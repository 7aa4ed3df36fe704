"""The leaderboard of `reports/RESULTS.md`: the tables of one run of notebook 10, kept beside its executed copy."""

import csv
import shutil
from collections.abc import Mapping
from pathlib import Path

from .markdown import ABSENT, markdown, number
from ..errors import BadParameter, MissingAsset
from ..files import read_json, read_lines, write_json
from ..paths import repo_root

KEPT = Path("reports") / "notebooks" / "10_leaderboard"
UNSEEN = "held_out"
COMMAND = f"python -m t2ilib run 10 --profile full -p unseen {UNSEEN}"
LOOKED_UP = "the nearest name's drawing"  # a row of the tables, `leaderboard.baselines.NEAREST`
TABLES = ("table_train", f"table_{UNSEEN}", f"pairs_{UNSEEN}", f"pairs_{UNSEEN}_photo")
CARD = "run.json"
WORSE = {"better": "worse", "worse": "better"}  # the other way round
CARD_FIELDS = ("started", "commit", "device", "profile")  # of a run


def keep_leaderboard(run: Path) -> list[Path]:
    """Copy the tables of a run of notebook 10 to where the page reads them, and what the run says of itself.

    Raises:
        MissingAsset: the folder is no such run, or its unseen concepts were others than those that are published.
    """
    absent = [name for name in TABLES if not (run / "tables" / f"{name}.csv").is_file()]
    if absent or not (run / CARD).is_file():
        raise MissingAsset(f"{run} has no {', '.join(absent) or CARD}: name the folder of a run of `{COMMAND}`")
    folder = repo_root() / KEPT
    folder.mkdir(parents=True, exist_ok=True)
    kept = [Path(shutil.copyfile(run / "tables" / f"{name}.csv", folder / f"{name}.csv")) for name in TABLES]
    card = read_json(run / CARD)
    settings = card["parameters"]["resolved"]
    sizes = {name: settings[name] for name in ("num_concepts", "num_seeds")}
    write_json(folder / CARD, {name: card[name] for name in CARD_FIELDS} | sizes)
    return [*kept, folder / CARD]


def leaderboard_tables() -> dict[str, str]:
    """Return the Markdown of the leaderboard and of its comparisons with looking up; raises as `read_table` does."""
    return {"leaderboard": leaderboard_table(), "leaderboard_pairs": pairs_table()}


def leaderboard_table() -> str:
    """Return what every method reaches on concepts of training and on unseen ones."""
    train = read_table("table_train")
    lines = []
    for label, row in read_table(f"table_{UNSEEN}").items():
        train_row = train.get(label, {})
        lines.append([label, cell(train_row, "place", 0), recognised(train_row), cell(row, "place", 0), recognised(row),
                      cell(train_row, "photo10", 2), cell(row, "photo10", 2, ("photo_low", "photo_high")),
                      cell(row, "kid", 2, ("kid_low", "kid_high")),
                      cell(row, "precision", 2, ("precision_low", "precision_high")), cell(row, "recall", 2),
                      cell(row, "within", 2), cell(row, "nearest", 2), cell(row, "shuffled", 2),
                      row.get("lite0") or ABSENT])
    titles = ["", "place", "training: top-10 (top-1)", "place", "held-out: top-10 (top-1)", "second judge: training",
              "second judge: held-out", "KID-lite2", "precision", "recall", "within", "nearest", "shuffled", "Lite0"]
    return f"{markdown(titles, lines)}\n\n{source_line()}"


def pairs_table() -> str:
    """Return how each method compares with looking up the nearest name, on unseen concepts, by either judge."""
    by_first = beside_looking_up(f"pairs_{UNSEEN}", "top10")
    by_second = beside_looking_up(f"pairs_{UNSEEN}_photo", "photo10")
    lines = [[label, *by_first[label], *by_second.get(label, [ABSENT] * 3)] for label in by_first]
    head = f"top-10 minus that of {LOOKED_UP}"
    titles = ["", head, "p, corrected for all pairs", "", "the same by the second judge", "p", ""]
    return f"{markdown(titles, lines)}\n\n{source_line()}"


def beside_looking_up(table: str, column: str) -> dict[str, list[str]]:
    """Return method -> its difference to looking up with the interval, p and the verdict."""
    found = {}
    for pair, row in read_table(table).items():
        one, _, other = pair.partition(" - ")
        if one == LOOKED_UP:  # the better one stands first
            one, row = other, negated(row, column)
        elif other != LOOKED_UP:
            continue
        found[one] = [cell(row, column, 2, ("low", "high")), shown_p(row), row[""]]
    return found


def negated(row: Mapping[str, str], column: str) -> dict[str, str]:
    """Return a difference the other way round."""
    return {column: str(-float(row[column])), "low": str(-float(row["high"])), "high": str(-float(row["low"])),
            "p": row["p"], "": WORSE.get(row[""], row[""])}


def shown_p(row: Mapping[str, str]) -> str:
    """Return p with three decimals, and never as 0."""
    return number(row["p"], 3) if float(row["p"]) >= 0.001 else "< 0.001"


def recognised(row: Mapping[str, str]) -> str:
    """Return top-10, top-1 in brackets and the interval of a row."""
    if not row.get("top10"):
        return ABSENT
    shown = number(row["top10"], 2)
    if row.get("top1"):
        shown += f" ({number(row['top1'], 2)})"
    if row.get("low"):
        shown += f", {number(row['low'], 2)} to {number(row['high'], 2)}"
    return shown


def cell(row: Mapping[str, str], name: str, digits: int, bounds: tuple[str, str] | None = None) -> str:
    """Return a value of a row with so many decimals, and the interval between two others in brackets."""
    if not row.get(name):
        return ABSENT
    shown = number(row[name], digits)
    if bounds and row.get(bounds[0]):
        shown += f" ({number(row[bounds[0]], digits)} to {number(row[bounds[1]], digits)})"
    return shown


def read_table(name: str) -> dict[str, dict[str, str]]:
    """Return label -> row of a kept table; raises MissingAsset, or BadParameter where it has another form."""
    path = repo_root() / KEPT / f"{name}.csv"
    if not path.is_file():
        raise MissingAsset(f"{path} is not here; `{COMMAND}` and `python -m t2ilib results --leaderboard RUN` write it")
    rows = list(csv.DictReader(read_lines(path)))
    if not rows or "row" not in rows[0]:
        raise BadParameter(f"{path} is empty, or has no column 'row'; keep the tables of a run again")
    return {row["row"]: row for row in rows}


def source_line() -> str:
    """Return the sentence below the tables: how much was drawn, when, by which commit, and the command."""
    card = read_json(repo_root() / KEPT / CARD)
    return (f"From [notebook 10](notebooks/10_leaderboard.ipynb) ([tables](notebooks/10_leaderboard)): "
            f"{card['num_concepts']} concepts of each split, {card['num_seeds']} seeds; {card['started'][:10]}, commit "
            f"{card['commit']}; intervals of 95 % over concepts. `{COMMAND}` measures it anew.")

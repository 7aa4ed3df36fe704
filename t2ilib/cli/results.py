"""`python -m t2ilib results`: make the tables of `reports/RESULTS.md` from what is committed."""

import argparse
from pathlib import Path

from .console import relative

HELP = "Make the tables of reports/RESULTS.md from benchmarks, the leaderboard, cards of checkpoints and the gallery."
EXAMPLE = "example: python -m t2ilib results --check"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this command understands."""
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a table is out of date")
    parser.add_argument("--leaderboard", metavar="RUN", help="first keep the tables of this run of notebook 10")


def run(args: argparse.Namespace) -> int:
    """Write the page, or say which of its tables are out of date."""
    from ..errors import BadParameter
    from ..files import write_text
    from ..runner import measured, published

    if args.leaderboard and args.check:
        raise BadParameter("--check writes nothing, and --leaderboard keeps tables: give one of them")
    if args.leaderboard:
        for kept in published.keep_leaderboard(Path(args.leaderboard)):
            print(f"{relative(kept)}: kept")
    tables = measured.page_tables()
    text, outdated = measured.fill(measured.read_page(), tables)
    path = measured.page_path()
    if args.check and outdated:
        print(f"{relative(path)}: out of date: {', '.join(outdated)}; run `python -m t2ilib results`")
        return 1
    if outdated:
        write_text(path, text)
    print(f"{relative(path)}: {len(tables)} tables, {len(outdated)} of them changed")
    return 0

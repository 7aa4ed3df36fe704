"""`python -m t2ilib report`: write the page of all runs."""

import argparse
import webbrowser

from .console import relative

HELP = "Write the page of all runs, reports/index.html."
EXAMPLE = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this command understands."""
    parser.add_argument("--open", action="store_true", help="show it in the browser")


def run(args: argparse.Namespace) -> int:
    """Write the page, and open it if asked to."""
    from ..runner import report

    path = report.build_report()
    print(f"report: {relative(path)}")
    if args.open:
        webbrowser.open(path.resolve().as_uri())
    return 0

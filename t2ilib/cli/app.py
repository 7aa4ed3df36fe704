"""`python -m t2ilib app`: the playground as a page of its own."""

import argparse

from .parameters import add_notebook_parameters

HELP = "Show the playground as a page in the browser, without code; wants the package voila."
EXAMPLE = "example: python -m t2ilib app --port 8000 -p method generator"
NOTEBOOK = "00_playground"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this command understands."""
    parser.add_argument("--port", type=int, default=8866, help="where it listens, on this machine alone; 0 takes one "
                        "that is free (default: %(default)s)")
    parser.add_argument("--no-browser", action="store_true", help="print the address, and open no browser")
    add_notebook_parameters(parser, profile="quick")


def run(args: argparse.Namespace) -> int:
    """Serve the page until it is ended."""
    from ..runner import page
    from ..runner.plan import plan_run

    plan = plan_run(NOTEBOOK, dict(args.parameters), args.profile)
    page.serve_page(plan, port=args.port, open_browser=not args.no_browser)
    return 0

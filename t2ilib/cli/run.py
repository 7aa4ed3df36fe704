"""`python -m t2ilib run`: execute notebooks and write the report."""

import argparse

from .console import Live, print_summary, relative
from .parameters import add_notebook_parameters
from ..errors import BadParameter

HELP = "Execute notebooks, each in its own process, and write the report."
EXAMPLE = "example: python -m t2ilib run 03 00 --profile quick -p seed 1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this command understands."""
    parser.add_argument("names", nargs="*", metavar="NN", help="notebooks by number or name (default: all)")
    add_notebook_parameters(parser, profile="quick")
    parser.add_argument("--timeout", type=int, help="seconds that one cell may take (default: no limit)")


def run(args: argparse.Namespace) -> int:
    """Execute the notebooks one after another; a failure does not stop the next."""
    from ..runner import launch, notebooks, report
    from ..runner.plan import plan_run

    names = args.names or [path.stem for path in notebooks.list_notebooks()]
    if not names:
        raise BadParameter(f"there are no notebooks in {notebooks.notebooks_dir()}")
    plans = [plan_run(name, dict(args.parameters), args.profile) for name in names]
    results = []
    interrupted = False
    try:
        for number, planned in enumerate(plans, start=1):
            with Live(f"[{number}/{len(plans)}] {planned.path.stem}") as live:
                result = launch.run_notebook(planned, timeout=args.timeout, progress=live.cells)
                results.append(result)
                live.end(result.status, result.error)
    except KeyboardInterrupt:
        interrupted = True
    print_summary(results)
    print(f"report: {relative(report.build_report())}")
    if interrupted:
        return 130
    return int(any(result.status != "ok" for result in results))

"""`python -m t2ilib gpu`: measure and train all that needs a GPU, within the minutes that there are."""

import argparse
from pathlib import Path

from .bench import load_benchmarks
from .console import relative
from ..paths import reports_dir

HELP = "Measure and train all that needs a GPU, in the minutes that there are; a later call goes on."
EXAMPLE = "example: python -m t2ilib gpu --minutes 9"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this command understands."""
    parser.add_argument("names", nargs="*", metavar="PART", help="some parts (default: all that are missing)")
    parser.add_argument("--minutes", type=float, default=9.0, help="in all (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder for the results (default: reports/gpu)")
    parser.add_argument("--dry-run", action="store_true", help="go through all of it on the CPU, with little of each")


def run(args: argparse.Namespace) -> int:
    """Do what is missing, and name the page that says what was done."""
    load_benchmarks()
    from ..bench import on_a_gpu

    out = args.out or reports_dir() / "gpu"
    device = "cpu" if args.dry_run else "cuda"
    on_a_gpu.run_parts(out, minutes=args.minutes, device=device, parts=on_a_gpu.find_parts(args.names))
    print(relative(out / on_a_gpu.PAGE))
    return 0

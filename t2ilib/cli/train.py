"""`python -m t2ilib train`: run a notebook as a script, on one device or on many."""

import argparse
import sys
from pathlib import Path

from .console import print_summary, relative
from .parameters import add_notebook_parameters

HELP = "Run a notebook as a script, on one device or on many (torchrun)."
EXAMPLE = "example: python -m t2ilib train 13 --devices 8 --profile full -p seed 1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this command understands."""
    parser.add_argument("name", metavar="NN", help="notebook by number or name")
    add_notebook_parameters(parser, profile="full")
    parser.add_argument("--devices", type=int, default=1, help="processes on this machine (default: 1)")
    parser.add_argument("--num-nodes", type=int, default=1, help="machines; start this command on each (default: 1)")
    parser.add_argument("--node-rank", type=int, default=0, help="number of this machine (default: 0)")
    parser.add_argument("--rendezvous", default="", metavar="HOST:PORT", help="address of machine 0")
    parser.add_argument("--run-dir", type=Path, help="folder to write to, or to continue in (default: a new one)")


def run(args: argparse.Namespace) -> int:
    """Run the script and report."""
    from ..runner import launch, report
    from ..runner.plan import plan_run

    planned = plan_run(args.name, dict(args.parameters), args.profile)
    result = launch.run_script(planned, devices=args.devices, num_nodes=args.num_nodes, node_rank=args.node_rank,
                               rendezvous=args.rendezvous, run_dir=args.run_dir, echo=sys.stdout)
    print_summary([result])
    if result.error:
        print(result.error, file=sys.stderr)
    print(f"report: {relative(report.build_report())}")
    return int(result.status != "ok")

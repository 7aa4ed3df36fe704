"""`python -m t2ilib train`: train what a notebook trains, as a script; recipes by name, one after another."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from .console import print_summary, relative
from .parameters import add_notebook_parameters
from ..errors import BadParameter

HELP = "Run a notebook as a script, on one device or on many (torchrun), or train recipes by name for some minutes."
EXAMPLE = """examples:
  python -m t2ilib train 13 --devices 8 --profile full -p seed 1
  python -m t2ilib train --list                                      the recipes of what ships
  python -m t2ilib train base,guides --minutes 120 --nice            go on with each for a share of the time"""
LEAST_SHARE = 60.0  # seconds that a recipe is given at least


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this command understands."""
    parser.add_argument("name", metavar="NN", nargs="?", help="notebook by number or name, or recipes: base,guides")
    add_notebook_parameters(parser, profile="full")
    parser.add_argument("--list", action="store_true", help="show the recipes, what they have seen, and their states")
    parser.add_argument("--minutes", type=float, help="of recipes: how long to work on them, shared among them")
    parser.add_argument("--nice", action="store_true", help="of recipes: leave the machine to others")
    parser.add_argument("--devices", type=int, default=1, help="processes on this machine (default: 1)")
    parser.add_argument("--num-nodes", type=int, default=1, help="machines; start this command on each (default: 1)")
    parser.add_argument("--node-rank", type=int, default=0, help="number of this machine (default: 0)")
    parser.add_argument("--rendezvous", default="", metavar="HOST:PORT", help="address of machine 0")
    parser.add_argument("--run-dir", type=Path, help="folder to write to, or to continue in (default: a new one)")


def run(args: argparse.Namespace) -> int:
    """List recipes, work on recipes, or run a script and report."""
    from ..runner import recipes

    if args.list:
        print_recipes()
        return 0
    if args.name is None:
        raise BadParameter("name a notebook, such as 13, or recipes, such as base,guides; --list shows them")
    if recipes.is_queue(args.name):
        return work_on(recipes.find_recipes(args.name), args)
    if args.minutes is not None or args.nice:
        raise BadParameter(f"--minutes and --nice are for recipes, {args.name!r} is a notebook; its own parameter is "
                           "`-p minutes 60`")
    return run_one(args)


def run_one(args: argparse.Namespace) -> int:
    """Run one notebook as a script."""
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


def work_on(names: list[str], args: argparse.Namespace) -> int:
    """Go on with recipes one after another, each for a share of the time, with one thread."""
    from ..runner import launch, report
    from ..runner.plan import plan_run
    from ..runner.recipes import RECIPES

    if args.minutes is not None and not args.minutes > 0:
        raise BadParameter(f"--minutes must be above 0, got {args.minutes:g}")
    if args.nice and hasattr(os, "nice"):
        os.nice(19)
    plans = {}
    for name in names:
        parameters: dict[str, Any] = {"threads": 1, **RECIPES[name].parameters, **dict(args.parameters)}
        plans[name] = plan_run(RECIPES[name].notebook, parameters, args.profile)
    left = None if args.minutes is None else 60 * args.minutes
    results = []
    failed = False
    for number, name in enumerate(names):
        limit = None if left is None else max(LEAST_SHARE, left / (len(names) - number))
        print(f"{name}:" if limit is None else f"{name}: for {limit / 60:.1f} minutes", flush=True)
        result = launch.run_script(plans[name], echo=sys.stdout, limit=limit)
        results.append(result)
        failed |= result.status == "failed"
        if result.status == "interrupted":
            state = RECIPES[name].state_file(plans[name].values["work_dir"])
            print(_how_it_goes_on(name, state), flush=True)
        if left is not None:
            left -= result.seconds
    print_summary(results)
    print(f"report: {relative(report.build_report())}")
    return int(failed)


def _how_it_goes_on(name: str, state: Path) -> str:
    if state.is_file():
        return f"{name}: the time is up; the same command goes on from {relative(state)}"
    return f"{name}: the time was up before the first step; give it more minutes"


def print_recipes() -> None:
    """Print a line for each recipe: notebook, checkpoint, pictures seen, validation figures, state."""
    from ..runner.recipes import GROUPS, RECIPES, describe

    width = max(map(len, (*RECIPES, *GROUPS)))
    print(f"{'recipe':<{width}} {'notebook':<9} {'checkpoint':<22} {'pictures seen':>13}  state  validation")
    for name, recipe in RECIPES.items():
        known = describe(recipe)
        pictures = "?" if known["pictures"] is None else f"{known['pictures']:,}"
        state = "here" if known["state"] else "-"
        figures = ", ".join(f"{key} {value:.3g}" for key, value in known["validation"].items())
        line = f"{name:<{width}} {recipe.notebook:<9} {recipe.checkpoint:<22} {pictures:>13}  {state:<5}  {figures}"
        print(line.rstrip())
    for group, members in GROUPS.items():
        print(f"{group:<{width}} is {', '.join(members)}")

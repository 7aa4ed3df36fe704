"""`python -m t2ilib sweep`: run a notebook or a method with many settings and seeds."""

import argparse
from pathlib import Path
from typing import Any

from .console import LiveTable, relative
from ..errors import BadParameter

HELP = "Run a notebook or a method with many settings and seeds, and choose the best by a validation metric."
EXAMPLE = """example of a grid (python -c "import t2ilib.sweep; help(t2ilib.sweep)" explains it):
  method: minimagen                  # or  notebook: "08"  with  profile: full
  parameters: {candidates: 1}        # the same in every run
  sweep: {guidance_scale: [1, 3, 5], steps: [6, 12]}
  seeds: [0, 1, 2]
  concepts: 40                       # of `validation`, that the method draws; or  prompts: [a red heart, ...]
  metric: validation_top10
The same command goes on where it was interrupted: what has finished is not run again."""
ENGINES = ("local", "ray")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this command understands."""
    parser.add_argument("grid", type=Path, metavar="GRID", help="a YAML file that says what to run")
    parser.add_argument("--engine", choices=ENGINES, default="local", help="where the runs are placed (default: local)")
    parser.add_argument("--cpus", type=int, help="that may be used on this machine (default: all)")
    parser.add_argument("--address", default="", help="of a Ray cluster that runs already, such as auto or host:6379")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where everything is kept (default: reports/sweeps/ "
                        "and the name of the grid)")
    parser.add_argument("--retries", type=int, default=2, help="attempts more for a run that failed before it had "
                        "begun (default: %(default)s)")
    parser.add_argument("--timeout", type=int, help="seconds that one cell of a notebook may take (default: no limit)")
    parser.add_argument("--again", action="store_true", help="run also what has finished")
    parser.add_argument("--dry-run", action="store_true", help="check the grid and list its runs")


def run(args: argparse.Namespace) -> int:
    """Check the grid, perform its runs, and say where the results are."""
    from ..paths import reports_dir
    from ..sweep import Sweep, plan_jobs, read_grid

    _check(args)
    grid = read_grid(args.grid)
    folder = (args.out or reports_dir() / "sweeps" / args.grid.stem).resolve()
    sweep = Sweep(grid, plan_jobs(grid, folder, timeout=args.timeout), folder, again=args.again)
    if args.dry_run:
        for row in sweep.rows:
            print(f"{row.job.key}  {'finished' if row.kept else 'to run':<8}  {row.job.label}")
        return 0
    engine = _engine(args, grid)
    interrupted = False
    try:
        with LiveTable(sweep.name) as live:
            sweep.run(engine, retries=args.retries, watch=live.show)
    except KeyboardInterrupt:
        interrupted = True
    _print_results(sweep)
    if interrupted:
        print("interrupted; the same command goes on")
        return 130
    return 0 if sweep.succeeded else 1


def _check(args: argparse.Namespace) -> None:
    if args.cpus is not None and args.cpus < 1:
        raise BadParameter(f"--cpus must be at least 1, got {args.cpus}")
    if args.retries < 0:
        raise BadParameter(f"--retries must be 0 or more, got {args.retries}")
    if args.address and args.engine != "ray":
        raise BadParameter(f"--address {args.address} is of a Ray cluster; add --engine ray")
    if args.address and args.cpus is not None:
        raise BadParameter("--cpus is for this machine, and --address names a cluster; leave one out")


def _engine(args: argparse.Namespace, grid: Any) -> Any:
    if args.engine == "ray":
        from ..sweep.on_ray import RayEngine

        return RayEngine(cpus_per_run=grid.cpus, gpus_per_run=grid.gpus, address=args.address, cpus=args.cpus)
    from ..sweep import LocalEngine

    return LocalEngine(cpus_per_run=grid.cpus, gpus_per_run=grid.gpus, cpus=args.cpus)


def _print_results(sweep: Any) -> None:
    """Print the table, what went wrong, and where the files are."""
    from ..sweep.results import table
    from ..sweep.sweep import CSV, PAGE

    found = table(sweep)
    if found is not None:
        print(f"\n{found}")
    for note in sweep.notes:
        print(note)
    for row in sweep.rows:
        if row.status not in ("ok", "waiting"):
            print(f"{row.job.label}: {row.status}: {row.error}")
    kept = sum(row.kept for row in sweep.rows)
    print(f"{sweep.count('ok')} ok ({kept} from before), {sweep.count('failed')} failed, {sweep.count('lost')} lost, "
          f"{sweep.count('waiting', 'interrupted')} not run")
    print(f"results: {relative(sweep.folder / PAGE)}, {relative(sweep.folder / CSV)}")

"""`python -m t2ilib notebooks`: list them, show one's parameters, keep pairs, addresses and executed copies in step."""

import argparse
from pathlib import Path

from .console import relative

HELP = "List the notebooks or one's parameters; keep pairs in step."
EXAMPLE = "example: python -m t2ilib notebooks 03"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this command understands."""
    parser.add_argument("name", nargs="?", metavar="NN", help="show the parameters of this notebook")
    parser.add_argument("--sync", action="store_true", help="make every .ipynb from its .py, without outputs")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a pair or an address does not agree")
    parser.add_argument("--keep", metavar="RUN", type=Path, help="copy what this run folder executed, with small "
                        "pictures, to reports/notebooks")
    parser.add_argument("--set-address", metavar="URL", help="set the public address: pyproject.toml, badges, README")


def run(args: argparse.Namespace) -> int:
    """Do the one thing that was asked for; list the notebooks if nothing was."""
    from ..runner import notebooks, pairing

    if args.set_address or args.sync:
        changed = pairing.set_repository_url(args.set_address) if args.set_address else pairing.sync_pairs()
        print("\n".join(f"changed {relative(path)}" for path in changed) or "nothing to change")
        return 0
    if args.keep:
        from ..runner.copies import keep_copy

        path = keep_copy(args.keep)
        print(f"{relative(path)}, {path.stat().st_size / 2**20:.1f} MiB")
        return 0
    if args.check:
        problems = pairing.address_problems()
        for script in notebooks.list_notebooks():
            problems += pairing.pair_problems(script)
        print("\n".join(problems) or "all pairs and addresses agree")
        return int(bool(problems))
    if args.name:
        parameters = notebooks.read_parameters(notebooks.find_notebook(args.name))
        for p in parameters.values():
            print(f"{p.name:<20} {p.annotation:<16} {p.default!r:<24} {p.help}".rstrip())
        return 0
    for path in notebooks.list_notebooks():
        print(f"{path.stem:<24} {notebooks.title(path)}".rstrip())
    return 0

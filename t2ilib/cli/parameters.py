"""The arguments that name a profile and the parameters of a notebook, for every command that runs one."""

import argparse


def add_notebook_parameters(parser: argparse.ArgumentParser, *, profile: str) -> None:
    """Add --profile, with this default, and -p NAME VALUE."""
    parser.add_argument("--profile", default=profile, help="smoke, quick or full (default: %(default)s)")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), dest="parameters",
                        help="set a parameter of the notebook; checked against its own names and types")

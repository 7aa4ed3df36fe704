"""The command line: `python -m t2ilib run | generate | train | sweep | bench | app | gpu | bundle | models |
notebooks | report | results | release | info`.

Exit code 0 only on success; 1 when something failed; 2 for bad input, an absent input file among it, answered with one
line; 130 when interrupted.
Heavy packages are imported by the command that needs them, so that `--help` is instant.

A command is a file here with HELP, EXAMPLE, `add_arguments(parser)` and `run(args) -> exit code`, and a name in
COMMANDS.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from .. import __version__
from ..errors import BadParameter, T2IError, close_matches, unknown_name
from ..files import reason

COMMANDS = ("run", "generate", "train", "sweep", "bench", "app", "gpu", "bundle", "models", "notebooks", "report",
            "results", "release", "info")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a console that cannot show a character of a path shows its number
            stream.reconfigure(errors="backslashreplace")
    try:
        args = parse_arguments(argv)
        return args.run(args)
    except T2IError as error:
        print(f"t2ilib: {error}", file=sys.stderr)
        return 2 if isinstance(error, BadParameter) else 1
    except OSError as error:  # a file or folder that nothing else has answered for
        name = f"{error.filename}: " if error.filename else ""
        print(f"t2ilib: {name}{reason(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        left = f"; {interrupt}" if str(interrupt) else ""
        print(f"t2ilib: interrupted{left}", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    """A parser that raises BadParameter, which `main` answers in one line."""

    def error(self, message: str) -> NoReturn:
        raise BadParameter(message)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Return what a command line asks for; raises BadParameter where it cannot be."""
    parser = _Parser(prog="python -m t2ilib", description="A laboratory for text-to-image generation.",
                     allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    for name in COMMANDS:
        _add_command(subparsers, name, importlib.import_module(f".{name}", __name__))
    if not argv:
        parser.print_help()
        raise SystemExit(2)
    command = argv[0]
    if command.startswith("-") and command not in parser._option_string_actions:
        raise BadParameter(f"unknown argument {command!r} before the command; {_hint(command, parser, '--help')}")
    if not command.startswith("-") and command not in COMMANDS:
        raise unknown_name("command", command, COMMANDS)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        raise _unknown_argument(command, unknown[0], subparsers.choices[command])
    return args


def _add_command(subparsers: argparse._SubParsersAction, name: str, command: ModuleType) -> None:
    parser = subparsers.add_parser(name, help=command.HELP, description=command.HELP, epilog=command.EXAMPLE,
                                   allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_arguments(parser)
    parser.set_defaults(run=command.run)


def _unknown_argument(command: str, argument: str, parser: argparse.ArgumentParser) -> BadParameter:
    """Build the error for an argument that the command does not have, with the nearest options."""
    if command == "generate" and not argument.startswith("-"):
        return BadParameter(f"unknown argument {argument!r}; put the prompt in quotes: generate \"a red heart\"")
    return BadParameter(f"unknown argument {argument!r}; {_hint(argument, parser, f'{command} --help')}")


def _hint(argument: str, parser: argparse.ArgumentParser, page: str) -> str:
    """Return the nearest options of a parser in words, or which page lists them."""
    options = [option for option in parser._option_string_actions if option.startswith("--")]
    near = close_matches(argument.split("=")[0], options)
    return f"did you mean {' or '.join(near)}?" if near else f"see: python -m t2ilib {page}"

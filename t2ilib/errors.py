"""Errors whose message says what happened, what was got, what was expected, and what to do next."""

import difflib
from collections.abc import Collection, Iterable
from typing import Any


class T2IError(Exception):
    """Base of every error that this library raises on purpose."""


class BadParameter(T2IError, ValueError):
    """A value is out of range, of the wrong type, or contradicts another one."""


class UnknownName(BadParameter):
    """A name (model, method, notebook, parameter, ...) is not known."""


class MissingAsset(T2IError, FileNotFoundError):
    """A file, a set of weights or a package is absent; the message names the way to get it."""


class MissingInput(MissingAsset, BadParameter):
    """A file that the caller named as input is absent."""


class CheckpointMismatch(T2IError):
    """A checkpoint does not fit the network it is loaded into, or its bytes are not the expected ones."""


class KernelUnavailable(T2IError, RuntimeError):
    """A kernel backend was asked for by name where it cannot run."""


class RunFailed(T2IError, RuntimeError):
    """A notebook or training run stopped with an error; what it had written is kept."""


def close_matches(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return up to `count` of the `known` names nearest to `name`, best first; case is ignored."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    lower = name.lower()
    near = difflib.get_close_matches(lower, by_lower, n=count, cutoff=0.5)
    if lower:
        near += [candidate for candidate in by_lower if lower in candidate and candidate not in near]
    return [by_lower[candidate] for candidate in near[:count]]


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """Build the error for a misspelt name: the nearest names first, all of them if they are few.

    Example:
        raise unknown_name("method", "vqgan-clip", METHODS)
    """
    known = sorted(known)
    near = close_matches(name, known)
    hint = f"did you mean {' or '.join(near)}?" if near else "there is no similar name."
    few = len(known) <= 20
    listing = f" Known: {', '.join(known)}." if known and (few or not near) else ""
    return UnknownName(f"unknown {kind} {name!r}; {hint}{listing}")


def check_name(kind: str, name: Any, known: Collection[str]) -> None:
    """Raise UnknownName unless `name` is one of the `known` names of this kind.

    Example:
        check_name("method", "vqgan-clip", METHODS)
    """
    if not isinstance(name, str) or name not in known:
        raise unknown_name(kind, str(name), known)

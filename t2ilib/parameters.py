"""Typed notebook parameters: read a parameters cell without running it, and turn text into the types it names."""

import ast
import contextlib
import io
import json
import tokenize
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .errors import BadParameter, unknown_name

WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: its name, default, type as written, and the comment behind it."""

    name: str
    default: Any
    annotation: str
    help: str = ""

    def read(self, value: Any) -> Any:
        """Return `value` (text from the command line, or a Python value) as this parameter's type.

        Raises:
            BadParameter: it does not have that type.
        """
        try:
            return _convert(value, ast.parse(self.annotation, mode="eval").body)
        except (ValueError, SyntaxError):
            raise BadParameter(f"parameter {self.name} must be {self.annotation}, got {value!r}; "
                               f"its default is {self.default!r}") from None


def parse_cell(source: str, where: str) -> dict[str, Parameter]:
    """Return the parameters in the source of a parameters cell, by name.

    Args:
        source: lines such as `steps: int = 100  # how long`; types bool, int, float, str, list, dict, `X | None`,
            `Optional`, `Union`, `Literal` and lists of them.
        where: the notebook's name, for messages.

    Raises:
        BadParameter: the cell holds more than literals. A value derived in it would not follow an override, because
            overrides are injected below the cell.
    """
    tokens = tokenize.generate_tokens(io.StringIO(source + "\n").readline)
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    found = {}
    for line in ast.parse(source).body:
        try:
            target = line.target if isinstance(line, ast.AnnAssign) else line.targets[0]
            name, default = target.id, ast.literal_eval(line.value)
        except (ValueError, AttributeError, TypeError):
            raise BadParameter(f"the parameters cell of {where} must hold literals only, got {ast.unparse(line)!r}; "
                               "compute derived values in a later cell") from None
        annotation = ast.unparse(line.annotation) if isinstance(line, ast.AnnAssign) else type(default).__name__
        found[name] = Parameter(name, default, annotation, comments.get(line.end_lineno, ""))
    return found


def check(known: dict[str, Parameter], values: dict[str, Any], where: str) -> dict[str, Any]:
    """Return `values` as the types of the `known` parameters.

    Raises:
        UnknownName: a name that is not among them; the message gives the nearest.
        BadParameter: a value of another type.
    """
    for name in values:
        if name not in known:
            raise unknown_name(f"parameter of {where}", name, known)
    return {name: known[name].read(value) for name, value in values.items()}


def _convert(value: Any, kind: ast.expr) -> Any:
    """Convert by the annotation's syntax tree; ValueError where the value does not fit."""
    if isinstance(kind, ast.BinOp):  # X | Y
        return _union(value, [kind.left, kind.right])
    if not isinstance(kind, ast.Subscript):
        return _plain(value, ast.unparse(kind).split(".")[-1])
    base = ast.unparse(kind.value).split(".")[-1]
    inner = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
    if base == "Optional":
        return _union(value, [*inner, ast.Constant(None)])
    if base == "Union":
        return _union(value, inner)
    if base == "Literal":
        choices = {str(choice): choice for choice in map(ast.literal_eval, inner)}
        return choices[str(value)] if str(value) in choices else _refuse()
    if base in ("list", "tuple", "List", "Tuple"):
        return [_convert(item, inner[0]) for item in _list(value)]
    return _plain(value, base)


def _union(value: Any, kinds: list[ast.expr]) -> Any:
    # str takes any text, so it comes last: "none" and "3" for `int | str | None` mean None and 3
    for kind in sorted(kinds, key=lambda k: ast.unparse(k) == "str"):
        with contextlib.suppress(ValueError):
            return _convert(value, kind)
    return _refuse()


def _plain(value: Any, kind: str) -> Any:
    readers: dict[str, Callable[[Any], Any]] = {
        "None": _none, "NoneType": _guess, "Any": _guess, "bool": _bool, "int": _int, "float": _float,
        "str": lambda v: v if isinstance(v, str) else _refuse(), "list": _list, "tuple": _list, "dict": _dict}
    return readers[kind](value) if kind in readers else _refuse()


def _none(value: Any) -> None:
    return None if value is None or (isinstance(value, str) and value.lower() in ("none", "null")) else _refuse()


def _bool(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in WORDS:
        return WORDS[value.lower()]
    return value if isinstance(value, bool) else _refuse()


def _float(value: Any) -> float:
    # a bool is an int to Python, and not what anybody means by a number
    return float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else _refuse()


def _int(value: Any) -> int:
    number = _float(value)
    if not number.is_integer():
        return _refuse()
    try:
        return int(value)  # exact for large numbers, which a float is not
    except ValueError:
        return int(number)  # "1e3"


def _list(value: Any) -> list:
    if isinstance(value, str):
        value = _literal(value) if value.lstrip()[:1] in ("[", "(") else [v.strip() for v in value.split(",")]
    return list(value) if isinstance(value, (list, tuple)) else _refuse()


def _dict(value: Any) -> dict:
    value = _literal(value) if isinstance(value, str) else value
    return value if isinstance(value, dict) else _refuse()


def _guess(value: Any) -> Any:
    """For a parameter without a type whose default is None: a literal where the text is one, else the text."""
    with contextlib.suppress(ValueError):
        return _literal(value) if isinstance(value, str) else value
    return value


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return json.loads(text)  # `true`, `null`; its error is a ValueError


def _refuse() -> Any:
    raise ValueError

"""Values as the type that an annotation names: from text, as a command line has it, or from Python.

Annotations are bool, int, float, str, list, tuple, dict, Any, None, `X | Y`, `Optional`, `Union`, `Literal` and lists
of them, written as text.
"""

import ast
import contextlib
import json
import math
import os
from typing import Any

BOOLEAN_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False,
                 "0": False}
NONE_WORDS = ("none", "null")


def convert(value: Any, annotation: str, *, parse: bool) -> Any:
    """Return `value` as the type of an annotation.

    Args:
        annotation: such as "int | list[int]". parse: read text as the value that it writes; else text is text.

    Raises:
        ValueError: it does not have that type, or is a number that is not finite.
    """
    kind = ast.parse(annotation, mode="eval").body
    return _Converter(parse).convert(value, kind)


class _Converter:
    """One conversion, by the syntax tree of the annotation; each method raises ValueError where the value is other."""

    def __init__(self, parse: bool):
        self.parse = parse

    def convert(self, value: Any, kind: ast.expr) -> Any:
        if isinstance(kind, ast.BinOp):  # X | Y
            return self._union(value, _alternatives(kind))
        if not isinstance(kind, ast.Subscript):
            return self._plain(value, ast.unparse(kind).split(".")[-1])
        base = ast.unparse(kind.value).split(".")[-1]
        inner = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
        if base == "Optional":
            return self._union(value, [*inner, ast.Constant(None)])
        if base == "Union":
            return self._union(value, inner)
        if base == "Literal":
            return self._literal(value, inner)
        if base in ("list", "tuple", "List", "Tuple"):
            return [self.convert(item, inner[0]) for item in self._list(value)]
        return self._plain(value, base)

    def _union(self, value: Any, kinds: list[ast.expr]) -> Any:
        # str takes any text, so it comes last: "none" and "3" for `int | str | None` mean None and 3
        for kind in sorted(kinds, key=lambda kind: ast.unparse(kind) == "str"):
            among_text = isinstance(value, str) and any(ast.unparse(other) == "str" for other in kinds)
            if among_text and ast.unparse(kind).startswith(("list", "tuple")) and not _looks_like_list(value):
                continue  # one word is a word, not a list of one
            with contextlib.suppress(ValueError):
                return self.convert(value, kind)
        raise ValueError

    def _literal(self, value: Any, choices: list[ast.expr]) -> Any:
        for choice in map(ast.literal_eval, choices):
            if value == choice or (self.parse and value == str(choice)):
                return choice
        raise ValueError

    def _plain(self, value: Any, kind: str) -> Any:
        readers = {"None": self._none, "NoneType": self._guess, "Any": self._guess, "bool": self._bool,
                   "int": self._int, "float": self._float, "str": self._str, "list": self._list, "tuple": self._list,
                   "dict": self._dict}
        if kind not in readers:
            raise ValueError
        return readers[kind](value)

    def _none(self, value: Any) -> None:
        is_word = self.parse and isinstance(value, str) and value.lower() in NONE_WORDS
        if value is not None and not is_word:
            raise ValueError

    def _bool(self, value: Any) -> bool:
        if self.parse and isinstance(value, str) and value.lower() in BOOLEAN_WORDS:
            return BOOLEAN_WORDS[value.lower()]
        if not isinstance(value, bool):
            raise ValueError
        return value

    def _float(self, value: Any) -> float:
        # a bool is an int to Python, and not what anybody means by a number
        known = isinstance(value, (int, float)) or (self.parse and isinstance(value, str)) or hasattr(value, "item")
        if not known or isinstance(value, bool):
            raise ValueError
        try:
            number = float(value)
        except (TypeError, OverflowError) as error:
            raise ValueError from error
        if not math.isfinite(number):
            raise ValueError
        return number

    def _int(self, value: Any) -> int:
        number = self._float(value)
        if not number.is_integer():
            raise ValueError
        try:
            return int(value)  # exact for large numbers, which a float is not
        except ValueError:
            return int(number)  # "1e3"

    def _str(self, value: Any) -> str:
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if not isinstance(value, str):
            raise ValueError
        return value

    def _list(self, value: Any) -> list:
        if self.parse and isinstance(value, str):
            value = _literal_text(value) if _is_bracketed(value) else [item.strip() for item in value.split(",")]
        if not isinstance(value, (list, tuple)):
            raise ValueError
        return list(value)

    def _dict(self, value: Any) -> dict:
        if self.parse and isinstance(value, str):
            value = _literal_text(value)
        if not isinstance(value, dict):
            raise ValueError
        return value

    def _guess(self, value: Any) -> Any:
        """Where nothing is known of the type: a literal where the text is one, else the text."""
        if self.parse and isinstance(value, str):
            with contextlib.suppress(ValueError):
                return _literal_text(value)
        return value


def _alternatives(kind: ast.expr) -> list[ast.expr]:
    """Return the types of X | Y | Z."""
    if isinstance(kind, ast.BinOp):
        return [*_alternatives(kind.left), *_alternatives(kind.right)]
    return [kind]


def _is_bracketed(text: str) -> bool:
    return text.lstrip()[:1] in ("[", "(")


def _looks_like_list(text: str) -> bool:
    return _is_bracketed(text) or "," in text


def _literal_text(text: str) -> Any:
    """Return the value that a Python or JSON literal writes; ValueError if the text is none."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        try:
            return json.loads(text)  # `true`, `null`; its error is a ValueError
        except RecursionError as error:
            raise ValueError from error

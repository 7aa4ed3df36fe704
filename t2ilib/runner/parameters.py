"""Typed notebook parameters: a parameters cell, read without running it."""

import ast
import io
import re
import tokenize
from dataclasses import dataclass
from typing import Any

from ..errors import BadParameter, check_name
from ..options import convert

CHOICES = re.compile(r"[\w-]+(, [\w-]+)* or [\w-]+")  # as a comment lists them


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: its name, default, type as written, and the comment behind it."""

    name: str
    default: Any
    annotation: str
    help: str = ""

    @property
    def choices(self) -> tuple[str, ...]:
        """Return the names that the comment lists, as in "auto, cpu, cuda or mps"; none where it says otherwise."""
        listed = self.help.partition(";")[0].strip()
        names = tuple(re.split(", | or ", listed))
        is_list = CHOICES.fullmatch(listed) is not None and self.default in names
        return names if is_list else ()

    def read(self, value: Any) -> Any:
        """Return `value` (text from the command line, or a Python value) as this parameter's type.

        Raises:
            BadParameter: it does not have that type. UnknownName: it is not one of the choices.
        """
        try:
            value = convert(value, self.annotation, parse=True)
        except (ValueError, SyntaxError):
            raise BadParameter(f"parameter {self.name} must be {self.annotation}, got {value!r}; "
                               f"its default is {self.default!r}") from None
        if self.choices and isinstance(value, str):
            check_name(f"value of the parameter {self.name}:", value.partition(":")[0], self.choices)  # "cuda:1"
        return value


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
    comments = {}
    for token in tokenize.generate_tokens(io.StringIO(source + "\n").readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
    parameters = {}
    for line in ast.parse(source).body:
        annotated = isinstance(line, ast.AnnAssign)
        try:
            target = line.target if annotated else line.targets[0]
            name = target.id
            default = ast.literal_eval(line.value)
        except (ValueError, AttributeError, TypeError):
            raise BadParameter(f"the parameters cell of {where} must hold literals only, got {ast.unparse(line)!r}; "
                               "compute derived values in a later cell") from None
        annotation = ast.unparse(line.annotation) if annotated else type(default).__name__
        parameters[name] = Parameter(name, default, annotation, comments.get(line.end_lineno, ""))
    return parameters


def check(known: dict[str, Parameter], values: dict[str, Any], where: str) -> dict[str, Any]:
    """Return `values` as the types of the `known` parameters.

    Raises:
        UnknownName: a name that is not among them; the message gives the nearest.
        BadParameter: a value of another type.
    """
    for name in values:
        check_name(f"parameter of {where}", name, known)
    return {name: known[name].read(value) for name, value in values.items()}

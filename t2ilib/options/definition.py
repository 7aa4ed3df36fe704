"""Options: what a value means, of what type it is and in what range, said once and checked here for everybody."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .values import convert
from ..errors import BadParameter, UnknownName, check_name


@dataclass(frozen=True)
class Option:
    """One option of a method.

    Attributes:
        name, default: its name and the value it has where it is not given.
        meaning: one sentence for the page of options. group: heading under which it stands there.
        low, high: bounds of a number, or of each number in a list. low_open: `low` itself is refused.
        choices: names of which it is one.
        type: annotation such as "int | list[int]"; "" is that of the default.
        slider: the (low, high) between which people try values; None shows no slider.
    """

    name: str
    default: Any
    meaning: str
    group: str = "options"
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] | None = None
    type: str = ""
    low_open: bool = False
    slider: tuple[float, float] | None = None

    @property
    def annotation(self) -> str:
        """Return the type, from the default where it is not said."""
        if self.type:
            return self.type
        return "Any" if self.default is None else type(self.default).__name__

    def check(self, value: Any) -> Any:
        """Return a Python value as this option's type.

        Raises:
            UnknownName: it is not one of the choices. BadParameter: it has another type or is out of range.
        """
        return self._checked(value, parse=False)

    def read(self, text: str) -> Any:
        """Return the value that a text from the command line writes; raises as `check` does."""
        return self._checked(text, parse=True)

    def _checked(self, value: Any, *, parse: bool) -> Any:
        if self.choices is not None and value is not None:
            check_name(self.name, value, self.choices)
            return value
        try:
            value = convert(value, self.annotation, parse=parse)
        except ValueError:
            raise BadParameter(f"{self.name} must be {self._expected()}, got {value!r}{self._hint()}") from None
        is_empty = isinstance(value, (list, tuple)) and not value
        may_be_empty = isinstance(self.default, (list, tuple)) and not self.default
        if is_empty and self.low is not None and not may_be_empty:
            raise BadParameter(f"{self.name} must be {self._expected()}, got an empty list{self._hint()}")
        for number in _numbers(value):
            too_low = self.low is not None and (number < self.low or (self.low_open and number == self.low))
            too_high = self.high is not None and number > self.high
            if too_low or too_high:
                raise BadParameter(f"{self.name} must be {self._expected()}, got {value!r}{self._hint()}")
        return value

    def _expected(self) -> str:
        words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text",
                 "None": "none", "dict": "a mapping", "list[int]": "a list of whole numbers",
                 "list[float]": "a list of numbers", "list[str]": "a list of names"}
        kinds = [kind.strip() for kind in self.annotation.split("|")]
        text = " or ".join(words.get(kind, kind) for kind in kinds)
        bounds = []
        if self.low is not None:
            bounds.append(f"above {self.low:,g}" if self.low_open else f"of at least {self.low:,g}")
        if self.high is not None:
            bounds.append(f"at most {self.high:,g}")
        return " ".join([text, " and ".join(bounds)]).strip()

    def _hint(self) -> str:
        return "" if self.default is None else f"; its default is {self.default!r}"


def option(default: Any, group: str, meaning: str, **rest: Any) -> Any:
    """Return a dataclass field that is an option; `rest` are further attributes of `Option`."""
    return dataclasses.field(default=default, metadata={"group": group, "meaning": meaning, **rest})


def options_of(cls: type) -> tuple[Option, ...]:
    """Return the options that the fields of a dataclass are, in their order."""
    options = []
    for field in dataclasses.fields(cls):
        if "meaning" in field.metadata:
            default = None if field.default is dataclasses.MISSING else field.default
            options.append(Option(field.name, default, **field.metadata))
    return tuple(options)


def check_fields(instance: Any) -> None:
    """Check every field of a dataclass that is an option, and keep it as that option's type."""
    for field_option in options_of(type(instance)):
        value = field_option.check(getattr(instance, field_option.name))
        if isinstance(value, list):
            value = tuple(value)
        object.__setattr__(instance, field_option.name, value)  # also where the dataclass is frozen


def check_option_names(options: Iterable[Option], names: Iterable[str], *, kind: str = "option",
                       aliases: Mapping[str, str] | None = None) -> None:
    """Raise UnknownName for a name that is not an option; the message gives the nearest.

    Args:
        kind: what an option is called in the message. aliases: names that other tools use -> the name here.
    """
    known = [option.name for option in options]
    for name in names:
        if aliases and name in aliases and name not in known:
            raise UnknownName(f"unknown {kind} {name!r}; here it is called {aliases[name]!r}")
        check_name(kind, name, known)


def is_plain(value: Any) -> bool:
    """Return whether JSON can write the value down."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _numbers(value: Any) -> list[float]:
    """Return the numbers in a value: itself, or those of a list."""
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in _numbers(item)]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return [value]
    return []

"""A run of a notebook before it starts: its parameters checked, so that bad input is refused at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from . import parameters as cells
from .notebooks import find_notebook, read_parameters
from ..errors import check_name
from ..profiles import PROFILES


class Planned(Protocol):
    """What the record of a run says of what was asked, a notebook's `Plan` or another.

    Attributes:
        name: of what runs. overrides: values that the user gave, by name. values: those and all defaults.
    """

    @property
    def name(self) -> str: ...

    @property
    def overrides(self) -> dict[str, Any]: ...

    @property
    def values(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Plan:
    """A run that was checked and not yet started.

    Attributes:
        path: of the percent script. overrides: values that the user gave, by name. values: those and all defaults.
    """

    path: Path
    overrides: dict[str, Any]
    values: dict[str, Any]

    @property
    def name(self) -> str:
        """Return the notebook's name, such as "08_minimagen"."""
        return self.path.stem


def plan_run(name: str, parameters: dict[str, Any] | None = None, profile: str | None = None,
         folder: Path | None = None) -> Plan:
    """Check a run before it starts.

    Args:
        name: notebook name or number.
        parameters: overrides by name; text is read as the type that the notebook gives the parameter.
        profile: shorthand for the parameter `profile`; None leaves the notebook's own.

    Raises:
        UnknownName, BadParameter: notebook, parameter, profile or value cannot be.
    """
    path = find_notebook(name, folder)
    overrides = dict(parameters or {})
    if profile:
        overrides = {"profile": profile, **overrides}
    if "profile" in overrides:
        check_name("profile", overrides["profile"], PROFILES)
    known = read_parameters(path)
    overrides = cells.check(known, overrides, path.stem)
    defaults = {parameter.name: parameter.default for parameter in known.values()}
    return Plan(path, overrides, {**defaults, **overrides})

"""Profiles: the three sizes in which every notebook runs."""

from types import SimpleNamespace
from typing import Any

from .errors import BadParameter, check_name

PROFILES = {
    "smoke": "tests: every line once, under a minute on a CPU",
    "quick": "the default: laptop, Colab, teaching; minutes",
    "full": "the numbers we publish; trains the shipped checkpoints; hours on a CPU, or minutes on a GPU",
}


def resolve(profile: str, *, smoke: dict[str, Any], quick: dict[str, Any], full: dict[str, Any],
            overrides: dict[str, Any] | None = None) -> SimpleNamespace:
    """Return the settings of one profile, with the user's own values on top.

    Args:
        profile: "smoke", "quick" or "full".
        smoke, quick, full: settings by name. `quick` holds every name; the other two may leave out what is equal.
        overrides: values from the parameters cell; None means "the profile's own". A value that is given must
            have the type of the profile's.

    Raises:
        UnknownName: no such profile, or an override that no profile has.
        BadParameter: an override of another type.
    """
    tables = {"smoke": smoke, "quick": quick, "full": full}
    check_name("profile", profile, tables)
    for name in (*smoke, *full):
        check_name("setting (it is missing in `quick`)", name, quick)
    settings = {**quick, **tables[profile]}
    for name, value in (overrides or {}).items():
        check_name("setting", name, settings)
        if value is not None:
            settings[name] = _checked(name, value, settings[name])
    return SimpleNamespace(**settings)


def _checked(name: str, value: Any, default: Any) -> Any:
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, tuple) and isinstance(value, list):  # a notebook's parameters know no tuples
        return tuple(value)
    if default is not None and type(value) is not type(default):
        raise BadParameter(f"{name} must be {type(default).__name__}, got {value!r} ({type(value).__name__}); "
                           f"the profile's own value is {default!r}")
    return value

"""One prompt by every method that can draw here, as calls of `draw` in the order of their estimated time."""

import html
import math
from collections.abc import Callable, Mapping
from typing import Any

from .history import note
from ..errors import BadParameter, T2IError
from ..methods import Method


def compared_calls(call: Mapping[str, Any], methods: Mapping[str, Method], values: Mapping[str, Mapping[str, Any]],
                   edit_options: Callable[[Method], dict[str, Any]]
                   ) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return a call for each method that can draw, by estimated time, and why others cannot: name -> reason.

    Args:
        call: prompt, number and seed; its method stands for all. values: method -> option -> value that is not the
            default, by which the time is estimated. edit_options: returns the options with which a method draws into
            the picture that is edited, {} where none is; raises BadParameter where the method cannot.

    Raises:
        BadParameter: no method can draw.
    """
    calls = []
    left_out = {}
    for name, method in methods.items():
        reason = method.missing()
        options: dict[str, Any] = {}
        try:
            options = edit_options(method)
        except T2IError as error:
            reason = reason or str(error).partition(";")[0]
        if reason:
            left_out[name] = reason
        else:
            calls.append({**call, "method": name, **options})
    if not calls:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise BadParameter(f"no method can draw this here: {reasons}")
    calls.sort(key=lambda c: _seconds(methods[c["method"]], values.get(c["method"], {})))
    return calls, left_out


def left_out_html(left_out: Mapping[str, str]) -> str:
    """Return the methods that cannot draw, name -> reason, as a line that unfolds to the reasons; "" for none."""
    if not left_out:
        return ""
    reasons = ""
    for name, reason in left_out.items():
        reasons += f"<br><b>{html.escape(name)}</b>: {html.escape(reason)}"
    return note(f"<details><summary>left out: {html.escape(', '.join(left_out))}</summary>{reasons}</details>")


def _seconds(method: Method, values: Mapping[str, Any]) -> float:
    """Return about what one picture takes; methods that cannot tell come last."""
    cost = None if method.estimate is None else method.estimate(1, values)
    return math.inf if cost is None else cost.seconds

"""What a call would cost, estimated before it starts, and the refusal of numbers that cannot be meant."""

import os
from collections.abc import Mapping
from typing import Any

from .registry import Estimate, Method
from ..errors import BadParameter

LONGEST_DAYS = 30
MEMORY_FACTOR = 2  # of the machine's memory; an estimate may be wrong by some factor, and there is swap


def check_cost(method: Method, pictures: int, options: Mapping[str, Any]) -> Estimate | None:
    """Return about what a call costs, or None where the method makes no estimate.

    Args:
        pictures: in all. options: given ones, checked.

    Raises:
        BadParameter: it would take more than a month, or far more memory than there is; the message names the number
            that is furthest from what is usual.
    """
    if method.estimate is None:
        return None
    estimate = method.estimate(pictures, options)
    if estimate is None:
        return None
    days = estimate.seconds / 86_400
    memory = total_memory()
    problem = ""
    if days > LONGEST_DAYS:
        problem = f"about {_duration(estimate.seconds)}"
    elif memory is not None and estimate.gib > MEMORY_FACTOR * memory:
        problem = f"about {estimate.gib:,.0f} GiB of memory, and this machine has {memory:,.0f}"
    if problem:
        raise BadParameter(f"{method.name} would take {problem}: {_largest(method, pictures, options)}")
    return estimate


def describe(estimate: Estimate) -> str:
    """Return an estimate in words, such as "about 3 min, 1.4 GiB"."""
    return f"about {_duration(estimate.seconds)}, {estimate.gib:.1f} GiB"


def total_memory() -> float | None:
    """Return this machine's memory in GiB, or None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def _largest(method: Method, pictures: int, options: Mapping[str, Any]) -> str:
    """Return the number that is the largest multiple of what is usual, and what to do about it."""
    numbers: dict[str, tuple[float, float]] = {"num_images (of all prompts)": (pictures, 4)}
    for name, value in options.items():
        usual = method.option(name).default
        if name in ("width", "height"):
            usual = usual or 128
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, (int, float)) and isinstance(usual, (int, float)) and usual:
                numbers[name] = (number, usual)
    name, (number, usual) = max(numbers.items(), key=lambda item: item[1][0] / item[1][1])
    return f"{name}={number:,} is {number / usual:,.0f} times what is usual ({usual:,}); give less"


def _duration(seconds: float) -> str:
    for unit, length in (("years", 31_557_600), ("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} s"


def cpu_seconds(seconds: float) -> float:
    """Return about how long work that takes one CPU core so many seconds takes on the cores that torch uses."""
    import torch

    return seconds / max(1.0, 0.7 * min(torch.get_num_threads(), 8))

"""Curves, pictures and seconds of a training, kept in its state, so that one that was interrupted shows all of it."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor


class History:
    """Curves, pictures and seconds of one training: one more of the parts of `save_training` and `load_training`.

    Attributes:
        curves: name -> (steps, values), as `show.curves` takes them.
        pictures: title -> pictures (B, 3, H, W) on the CPU.
        seconds: spent in the steps that count; steps that an interruption made necessary twice are counted once.
    """

    def __init__(self):
        self.curves: dict[str, tuple[list[int], list[float]]] = {}
        self.pictures: dict[str, Tensor] = {}
        self.seconds = 0.0

    def add(self, step: int, **values: float) -> None:
        """Add a point to the curve of each name."""
        for name, value in values.items():
            steps, points = self.curves.setdefault(name, ([], []))
            steps.append(step)
            points.append(float(value))

    def timed(self, steps: Iterable[int]) -> Iterator[int]:
        """Iterate, and add what each step takes to `seconds`."""
        for step in steps:
            began = time.perf_counter()
            yield step
            self.seconds += time.perf_counter() - began

    def state_dict(self) -> dict[str, Any]:
        curves = {name: [list(steps), list(points)] for name, (steps, points) in self.curves.items()}
        return {"curves": curves, "pictures": dict(self.pictures), "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.curves = {name: (list(steps), list(points)) for name, (steps, points) in state["curves"].items()}
        self.pictures = dict(state["pictures"])
        self.seconds = state["seconds"]

"""The loop of a training: so many steps or so many minutes, saved on the way, and gone on with."""

import contextlib
import signal
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from .schedule import Every
from .shipping import SCRATCH
from .state import load_training, save_training
from ..errors import BadParameter
from ..runtime import progress

SAVE_SECONDS = 120.0


class TrainingLoop:
    """The steps of a training, counted over all interruptions: iterate over it.

    With a state file it begins where the file ends, saves everything every two minutes and at the end, and stops
    cleanly: at Ctrl-C or SIGTERM the step is finished and saved before KeyboardInterrupt is raised; a second one does
    not wait.

    With `minutes` the training ends by time instead, counted over all runs, and `position`, which goes from 0 to
    `steps` in either case, follows the share of the time used: schedules that are given it need not know. To train
    longer, go on with more minutes.

    Args:
        steps: how many; with `minutes`, the length of the schedules. minutes: of training, or None.
        state: file that keeps the training; None keeps none. settings, parts: of `save_training`.
        run: the `Run` whose record says what was done otherwise. start_from: see `take_weights`; one of the settings.
        desc: of the progress bar.
        fabric: of a training in several processes, which all follow the clock of the first.

    Attributes:
        first: step that it begins with. done: steps that are finished, in all. position: see above.
        is_last: whether this step ends the training.
        seconds: spent in steps that count.

    Raises:
        BadParameter: minutes are not above 0. CheckpointMismatch: the state is of another training.

    Example:
        loop = TrainingLoop(steps=8000, state=folder / "state.pt", settings=settings, parts=parts)
        for step in loop:
            rate = cosine_lr(loop.position, 8000, peak=1e-3)
            ...
    """

    def __init__(self, *, steps: int, minutes: float | None = None, state: Path | None = None,
                 settings: Mapping[str, Any] | None = None, parts: Mapping[str, Any] | None = None, run: Any = None,
                 start_from: str = SCRATCH, desc: str = "", fabric: Any = None):
        if minutes is not None and not minutes > 0:
            raise BadParameter(f"minutes must be above 0, got {minutes}; leave them out to train by steps")
        self.steps = steps
        self.minutes = minutes
        self.desc = desc
        self.seconds = 0.0
        self.position: float = 0
        self.is_last = False
        self._state = state
        self._settings = dict(settings or {})
        self._parts = dict(parts or {})
        self._several = fabric if fabric is not None and fabric.world_size > 1 else None
        self._asked_to_stop = False
        if start_from != SCRATCH:
            self._settings["start_from"] = start_from
        if minutes is not None:
            self._settings["timed"] = True
            self._parts["loop"] = self
        self.first = 0
        if state is not None and state.exists():
            self.first = load_training(state, settings=self._settings, run=run, **self._parts)
        self.done = self.first
        self._marked = self._position_at(self.first)

    def __iter__(self) -> Iterator[int]:
        total = self.steps - self.first if self.minutes is None else None
        with self._finishing_steps():
            yield from progress(self._counted(), total=total, desc=self.desc, every=60)

    def passes(self, marks: Collection[float]) -> bool:
        """Return whether this step reaches one of the positions, such as steps // 2; ask once in each step."""
        reached = self.steps if self.is_last else self._position_at(self.done + 1)
        passed = any(self._marked < mark <= reached for mark in marks)
        self._marked = reached
        return passed

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.seconds = state["seconds"]

    def _counted(self) -> Iterator[int]:
        save_due = Every(SAVE_SECONDS)
        took = 0.0
        ended = self._position_at(self.done) >= self.steps
        while not ended:
            self.position = self._position_at(self.done)
            self.is_last = self._ends_with(self.done, took)
            began = time.perf_counter()
            yield self.done
            took = self._agree(time.perf_counter() - began)
            self.seconds += took
            self.done += 1
            ended = self.is_last
            if self._state is not None and save_due(force=ended or self._asked_to_stop):
                save_training(self._state, step=self.done, settings=self._settings, **self._parts)
            if self._asked_to_stop and not ended:
                raise KeyboardInterrupt(f"stopped after step {self.done}, which is saved in {self._state}")

    def _position_at(self, step: int) -> float:
        return step if self.minutes is None else self.steps * self.seconds / (60 * self.minutes)

    def _ends_with(self, step: int, took: float) -> bool:
        """Return whether a step is the last: after one as long as the one before, the time is up."""
        if self.minutes is None:
            return step + 1 == self.steps
        return self.seconds + took >= 60 * self.minutes

    def _agree(self, seconds: float) -> float:
        """Return the seconds of the first process: all must do the same."""
        return seconds if self._several is None else self._several.broadcast(seconds)

    @contextlib.contextmanager
    def _finishing_steps(self) -> Iterator[None]:
        """Let the first Ctrl-C or SIGTERM wait for the end of the step."""
        can_wait = (self._state is not None and self._several is None
                    and threading.current_thread() is threading.main_thread())
        if not can_wait:
            yield
            return
        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def stop_after_step(number: int, frame: Any) -> None:
            self._asked_to_stop = True
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.default_int_handler)

        for number in previous:
            signal.signal(number, stop_after_step)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

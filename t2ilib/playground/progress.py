"""What the panel says while it draws: the seconds of what has no steps, and the steps of what has."""

import math
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from .history import note

SECONDS_BETWEEN = 0.25  # two previews


class Watched(Protocol):
    """What shows progress: the panel."""

    status: Any

    @property
    def stopping(self) -> bool: ...


class Clock:
    """Says every second what is being done and for how long, where no steps can be counted, until `stop`."""

    def __init__(self, panel: Watched, words: str):
        self.panel = panel
        self.words = words
        self.began = time.perf_counter()
        self._stopped = threading.Event()
        self._show()
        self._thread = threading.Thread(target=self._tick, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Say no more; what is written into the panel after this stays."""
        self._stopped.set()
        self._thread.join()

    def _tick(self) -> None:
        while not self._stopped.wait(1):
            self._show()

    def _show(self) -> None:
        if not self.panel.stopping:
            seconds = time.perf_counter() - self.began
            elapsed = f" ({seconds:.0f} s)" if seconds >= 1 else ""
            self.panel.status.value = note(self.words + elapsed)


class Steps:
    """The callback of a drawing: shows a preview now and then, and asks to end once the panel wants that.

    Args:
        panel: asked whether to end. show: `(preview, seconds left or None)`, called at most every quarter of a second.

    Attributes:
        has_picture: whether the last preview is worth keeping.
    """

    def __init__(self, panel: Watched, show: Callable[[Any, float | None], None]):
        self.panel = panel
        self.has_picture = True
        self._show = show
        self._first: float | None = None  # when the first step ended
        self._shown = -math.inf  # when a preview was shown last

    def __call__(self, preview: Any) -> bool:
        self.has_picture = getattr(preview, "is_picture", True)
        now = time.perf_counter()
        if self._first is None:
            self._first = now
        done = preview.step + 1
        if now - self._shown >= SECONDS_BETWEEN or done == preview.steps:
            self._shown = now
            left = None
            if preview.step:
                left = (now - self._first) / preview.step * (preview.steps - done)
            self._show(preview, left)
        return self.panel.stopping

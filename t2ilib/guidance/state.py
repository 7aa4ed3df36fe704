"""The file that lets an interrupted run go on: latents, optimiser, average, losses and random streams."""

import time
from pathlib import Path
from typing import Any

import torch

from .setup import RunSetup
from ..errors import CheckpointMismatch
from ..files import replacing

ANY = ("device", "cutout_passes", "checkpoint", "compile")  # may differ when a run goes on


class StateFile:
    """Where a run's state is kept; without a path nothing is.

    Args:
        path: file, or None. run: the run, whose configuration and networks must be those of the file.
        seconds: between two savings.
    """

    def __init__(self, path: str | Path | None, run: RunSetup, seconds: float):
        self.path, self._seconds, self._last = None if path is None else Path(path), seconds, time.monotonic()
        table = run.vqgan.codebook.detach().double()
        config = {k: v for k, v in run.config.to_dict().items() if k not in ANY}
        prior = getattr(run.prior, "settings", dict)()
        self._about = {"config": {**config, **{f"prior's {k}": v for k, v in prior.items()}},
                       "networks": [float(table.sum()), float(table.square().sum()), *run.size]}

    def due(self) -> bool:
        """Return whether it is time to save."""
        return self.path is not None and time.monotonic() - self._last >= self._seconds

    def save(self, content: dict[str, Any]) -> None:
        """Write the state under a temporary name, and rename it."""
        if self.path is None:
            return
        with replacing(self.path) as temporary:
            torch.save({"about": self._about, **content}, temporary)
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Return what was saved, or None where there is no file.

        Raises:
            CheckpointMismatch: the file is damaged, or of another run; the message names what differs.
        """
        if self.path is None or not self.path.is_file():
            return None
        hint = f"delete {self.path} to begin anew"
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file can fail in any way
            raise CheckpointMismatch(f"{self.path} cannot be read as the state of a run ({type(error).__name__}); "
                                     + hint) from error
        theirs, ours = saved["about"]["config"], self._about["config"]
        different = [f"{k} was {theirs.get(k)!r} and is {ours.get(k)!r}" for k in ours if theirs.get(k) != ours.get(k)]
        if saved["about"]["networks"] != self._about["networks"]:
            different.append("the VQGAN is another one")
        if different:
            raise CheckpointMismatch(f"{self.path} is the state of another run: {'; '.join(different)}; {hint}, or "
                                     "repeat the call that was interrupted")
        return saved

    def remove(self) -> None:
        """Delete the file: the run has ended."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

"""The file that lets an interrupted run go on: latents, optimiser, average, losses and random streams."""

import time
from pathlib import Path
from typing import Any

import torch

from .setup import RunSetup
from ..checkpoint import write_archive
from ..errors import CheckpointMismatch
from ..files import check_archive, replacing

MAY_DIFFER = ("device", "cutout_passes", "checkpoint", "compile")  # when a run goes on: how it is computed


class StateFile:
    """Where a run's state is kept; without a path nothing is.

    Args:
        path: file, or None. run: the run, whose configuration and networks must be those of the file.
        seconds: between two savings.
    """

    def __init__(self, path: str | Path | None, run: RunSetup, seconds: float):
        self.path = None if path is None else Path(path)
        self._seconds = seconds
        self._last_saving = time.monotonic()
        config = {k: v for k, v in run.config.to_dict().items() if k not in MAY_DIFFER}
        if hasattr(run.prior, "settings"):
            config |= {f"prior's {k}": v for k, v in run.prior.settings().items()}
        table = run.vqgan.codebook.detach().double()
        # enough of the VQGAN to tell it from another one
        networks = [float(table.sum()), float(table.square().sum()), *run.painter.size]
        self._identity = {"config": config, "networks": networks}

    def due(self) -> bool:
        """Return whether it is time to save."""
        return self.path is not None and time.monotonic() - self._last_saving >= self._seconds

    def save(self, content: dict[str, Any]) -> None:
        """Write the state under a temporary name, and rename it."""
        if self.path is None:
            return
        with replacing(self.path) as temporary:
            write_archive(temporary, {"about": self._identity, **content})
        self._last_saving = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Return what was saved, or None where there is no file.

        Raises:
            CheckpointMismatch: the file is damaged, or of another run; the message names what differs.
        """
        if self.path is None or not self.path.is_file():
            return None
        hint = f"delete {self.path} to begin anew"
        try:
            check_archive(self.path)
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            about = saved["about"]
        except Exception as error:  # a damaged file can fail in any way
            raise CheckpointMismatch(f"{self.path} cannot be read as the state of a run ({type(error).__name__}); "
                                     + hint) from error
        differences = self._differences(about)
        if differences:
            raise CheckpointMismatch(f"{self.path} is the state of another run: {'; '.join(differences)}; {hint}, or "
                                     "repeat the call that was interrupted")
        return saved

    def _differences(self, saved: dict[str, Any]) -> list[str]:
        """Return in words how the run of a file differs from this one."""
        differences = []
        for name, value in self._identity["config"].items():
            saved_value = saved["config"].get(name)
            if saved_value != value:
                differences.append(f"{name} was {saved_value!r} and is {value!r}")
        if saved["networks"] != self._identity["networks"]:
            differences.append("the VQGAN is another one")
        return differences

    def remove(self) -> None:
        """Delete the file: the run has ended."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

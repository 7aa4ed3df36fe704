"""Where the numbers of a training go: the run's own CSV file, TensorBoard, Weights & Biases."""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import MissingAsset, check_name
from ..files import write_text
from ..runtime import rank_zero

TRACKERS = ("csv", "tensorboard", "wandb", "wandb-offline")
Log = Callable[..., None]  # log(step, **values)


def make_tracker(name: str, run: Any, *, project: str = "t2ilib", folder: str | Path | None = None) -> Log:
    """Return `log(step, **values)` for "csv" (always in the run folder), "tensorboard", "wandb" or "wandb-offline".

    Whatever the tracker, metrics.csv of the run is written too: no account is needed to read a run.

    Args:
        name: which tracker. run: the `Run` that is logged. project: name of the project at Weights & Biases.
        folder: where the training's state lives. The run's id at Weights & Biases is kept there, so that a training
            that goes on there goes on in the same run (`wandb sync --append` for an offline one).

    Raises:
        UnknownName: no such tracker. MissingAsset: its package is not installed.
    """
    check_name("tracker", name, TRACKERS)
    if name == "csv" or not rank_zero():
        return run.log
    package = "tensorboard" if name == "tensorboard" else "wandb"
    try:
        send = _tensorboard(run) if name == "tensorboard" else _wandb(run, name, project, folder)
    except ImportError as error:
        raise MissingAsset(f"tracker {name!r} needs the package {package}: pip install {package}") from error

    def log(step: int, **values: float) -> None:
        run.log(step, **values)
        send(step, values)

    return log


def _tensorboard(run: Any) -> Callable[[int, dict[str, float]], None]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(run.dir / "tensorboard")

    def send(step: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            writer.add_scalar(key, value, step)
        writer.flush()  # else the last values are lost with the process

    return send


def _wandb(run: Any, name: str, project: str, folder: str | Path | None) -> Callable[[int, dict[str, float]], None]:
    import wandb

    mode = "offline" if name == "wandb-offline" else "online"
    writer = wandb.init(project=project, dir=run.dir, name=run.dir.name, config=run.data["parameters"], mode=mode,
                        id=_wandb_id(folder), resume="allow")

    def send(step: int, values: dict[str, float]) -> None:
        writer.log(values, step=step)

    return send


def _wandb_id(folder: str | Path | None) -> str:
    """Return the id that lies in the folder, or a new one, which is put there."""
    if folder is None:
        return secrets.token_hex(4)
    path = Path(folder) / "wandb_id.txt"
    if not path.is_file():
        write_text(path, secrets.token_hex(4) + "\n")
    return path.read_text(encoding="utf-8").strip()

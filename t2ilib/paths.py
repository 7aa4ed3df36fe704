"""Where things lie: the repository's own folders, and the ones a user may move by environment variable."""

import datetime
import os
import secrets
from pathlib import Path

from .errors import MissingAsset

WEIGHTS = "model.safetensors"  # of a checkpoint's folder
CONFIG = "config.json"


def repo_root() -> Path:
    """Return the folder that holds `t2ilib`, `notebooks` and `data`."""
    return Path(__file__).resolve().parent.parent


def python_path() -> str:
    """Return the PYTHONPATH with which a child process finds this library, and what was on it before."""
    return os.pathsep.join(filter(None, [str(repo_root()), os.environ.get("PYTHONPATH")]))


def notebooks_dir() -> Path:
    """Return the folder of the paired notebooks."""
    return repo_root() / "notebooks"


def embedded_data_dir() -> Path:
    """Return the data set and the checkpoints that ship: the folder `T2I_EMBEDDED`, else `data/` of the repository.

    Raises:
        MissingAsset: it is not here, because only the package was installed.
    """
    value = os.environ.get("T2I_EMBEDDED")
    folder = Path(value).expanduser() if value else repo_root() / "data"
    if not folder.is_dir():
        raise MissingAsset(f"the data and checkpoints that ship are not here: {folder} does not exist. A package alone "
                           "has none; clone the repository, and run there or set T2I_EMBEDDED to its folder data/")
    return folder


def checkpoints_dir() -> Path:
    """Return `data/checkpoints/`, one folder for each shipped model."""
    return embedded_data_dir() / "checkpoints"


def user_data_dir() -> Path | None:
    """Return the folder named by `T2I_DATA` (torchvision's layout: `MNIST/raw`, `celeba`, ...), or None."""
    value = os.environ.get("T2I_DATA")
    return Path(value).expanduser() if value else None


def cache_dir() -> Path:
    """Return the folder for downloads and derived files: `T2I_CACHE`, else `~/.cache/t2ilib`."""
    return Path(os.environ.get("T2I_CACHE", "~/.cache/t2ilib")).expanduser()


def reports_dir() -> Path:
    """Return the folder for reports: `T2I_REPORTS`, else `reports/` of the repository."""
    return Path(os.environ["T2I_REPORTS"]) if os.environ.get("T2I_REPORTS") else repo_root() / "reports"


def runs_dir() -> Path:
    """Return the folder that holds one folder for each run."""
    return reports_dir() / "runs"


def new_run_dir(name: str, *, profile: str, seed: int) -> Path:
    """Return a fresh folder name for a run of the notebook called `name`; nothing is created."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return runs_dir() / name / f"{stamp}_{profile}_s{seed}_{secrets.token_hex(2)}"

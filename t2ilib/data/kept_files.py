"""Folders of computed files: written once, whole or absent, found by a key, and checked when they are read."""

import contextlib
import glob
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import CheckpointMismatch
from ..files import sha256_of, write_json
from ..runtime import warn_fallback

INFO = "info.json"
LEFT_SECONDS = 3600.0  # after which an unfinished folder belongs to a process that was killed


def kept_folder(folder: Path, key: str, write: Callable[[Path], None]) -> Path:
    """Return a folder with the files that `write` makes; they are made if they are absent or not what they should be.

    What is damaged, or belongs to another key, is made again, with a warning. A call that is interrupted leaves
    nothing behind.

    Args:
        folder: where the files lie. key: a hash of all that decides them.
        write: called with an empty folder, fills it with files.
    """
    if folder.exists():
        try:
            _check(folder, key)
            return folder
        except CheckpointMismatch as error:
            warn_fallback(f"{error}; it is made again")
            if folder.is_dir():
                shutil.rmtree(folder)
            else:
                folder.unlink()
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}."))
    try:
        write(scratch)
        hashes = {path.name: sha256_of(path) for path in sorted(scratch.iterdir())}
        write_json(scratch / INFO, {"key": key, "sha256": hashes})
        _rename(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left of it: unfinished folders to which nothing was written for an hour."""
    for left in folder.parent.glob(f"{glob.escape(folder.name)}.????????"):
        with contextlib.suppress(OSError):
            last = max(path.stat().st_mtime for path in (left, *left.iterdir()))
            if time.time() - last > LEFT_SECONDS:
                shutil.rmtree(left)


def _rename(scratch: Path, folder: Path) -> None:
    """Give the files their place, unless another process was faster."""
    try:
        scratch.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _check(folder: Path, key: str) -> None:
    """Raise CheckpointMismatch unless the folder holds the files of this key as they were written."""
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        belongs = info["key"] == key
        damaged = [name for name, expected in info["sha256"].items() if sha256_of(folder / name) != expected]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointMismatch(f"{folder} is not whole ({error})") from error
    if damaged:
        raise CheckpointMismatch(f"{folder} cannot be used: {' and '.join(damaged)} changed on disk")
    if not belongs:
        raise CheckpointMismatch(f"{folder} cannot be used: it belongs to another key")

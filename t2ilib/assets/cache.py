"""Named weights and data on this disk: where they lie, whether they are whole, and what is recorded about them.

A hash that nobody has published is not invented: it is recorded in `asset.json` at the first download and checked
from then on.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .catalogue import Asset, AssetFile, get
from ..errors import BadParameter, CheckpointMismatch
from ..files import read_json, sha256_of, write_json
from ..locks import lock

RECORD = "asset.json"
WEIGHTS = (".ckpt", ".pt", ".pth", ".safetensors")  # where one of them is expected, a user's file may be any of them


def find(asset: str | Asset) -> Path | None:
    """Return the folder in which the asset lies, or None; nothing is downloaded or hashed.

    A file that the user put there may have another name than the published one: its suffix counts.
    """
    asset = get(asset) if isinstance(asset, str) else asset
    for folder in asset.folders():
        if all(is_present(folder, f) for f in asset.files if not f.optional):
            return folder
    return None


def is_present(folder: Path, file: AssetFile) -> bool:
    """Return whether a file that may be this one lies in the folder."""
    suffix = Path(file.name).suffix
    suffixes = WEIGHTS if suffix in WEIGHTS else (suffix,)
    return any(any(folder.glob(f"*{suffix}")) for suffix in suffixes)


def expected_hash(folder: Path, file: AssetFile) -> str | None:
    """Return the SHA-256 that was published of a file, or else recorded at an earlier download, or None."""
    return file.sha256 or read_notes(folder / RECORD).get(file.name, {}).get("sha256")


def verify(folder: Path, file: AssetFile) -> None:
    """Raise CheckpointMismatch if a file has another SHA-256 than expected."""
    path = folder / file.name
    expected = expected_hash(folder, file)
    if not path.is_file() or expected is None:
        return
    found = sha256_of(path)
    if found != expected:
        raise CheckpointMismatch(f"{path}: SHA-256 is {found[:12]}..., expected {expected[:12]}...; the file is "
                                 "damaged or was exchanged: delete it, and it is downloaded again")


def record_download(folder: Path, file: AssetFile, part: Path, url: str, sha256: str) -> None:
    """Write down where a file came from and its hash, at its first download."""
    known = read_notes(folder / RECORD)
    if file.name in known:
        return
    checked = "the published hash" if file.sha256 else "nothing: recorded at the first download"
    entry = {"sha256": sha256, "bytes": part.stat().st_size, "url": url, "downloaded": time.strftime("%Y-%m-%d"),
             "checked_against": checked}
    write_json(folder / RECORD, {**known, file.name: entry})


def read_notes(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, {} where there is none or it cannot be read."""
    try:
        return read_json(path)
    except BadParameter:
        return {}


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder; the system releases it when the process ends, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+b") as file:
        lock(file, wait=True)
        yield

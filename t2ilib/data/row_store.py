"""Arrays on disk with one row for each item, computed once, in parts, and gone on with after an interruption.

    header = RowsHeader(rows=43_584, arrays={"vectors": ((256,), "<f2")}, data_sha256=..., checkpoint_sha256=...)
    stored = kept_rows(cache_dir() / "teacher", header, lambda first, end: {"vectors": encode(first, end)})
    stored["vectors"][rows]                     # (len(rows), 256), only these rows are read

Each array is a `.npy` file that is mapped into memory. Beside them `rows.json` says what they hold and how many rows
are written, with a hash of each part; a part whose bytes changed is computed again.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadParameter, CheckpointMismatch
from ..files import read_json, write_json
from ..locks import hold, release
from ..runtime import progress, warn_fallback

INFO = "rows.json"
PART = 512  # rows that an interruption may cost

Fill = Callable[[int, int], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class RowsHeader:
    """What a store holds, and where it comes from.

    Attributes:
        rows: N. arrays: name -> (shape of a row, numpy's name of the type).
        data_sha256: of what was encoded. checkpoint_sha256: of the network that encoded it.

    Raises:
        BadParameter: no rows or no array.
    """

    rows: int
    arrays: dict[str, tuple[tuple[int, ...], str]]
    data_sha256: str
    checkpoint_sha256: str

    def __post_init__(self):
        arrays = {name: (tuple(shape), str(kind)) for name, (shape, kind) in self.arrays.items()}
        object.__setattr__(self, "arrays", arrays)
        if self.rows < 1 or not arrays:
            raise BadParameter(f"a store needs rows and arrays, got {self.rows} and {list(arrays)}")

    def plain(self) -> dict[str, Any]:
        """Return it as JSON gives it back."""
        arrays = {name: [list(shape), kind] for name, (shape, kind) in self.arrays.items()}
        return asdict(self) | {"arrays": arrays}


def kept_rows(folder: str | Path, header: RowsHeader, fill: Fill, *, part: int = PART,
              desc: str = "rows") -> dict[str, np.ndarray]:
    """Return the arrays of a store, mapped for reading; what is missing is computed first, part by part.

    Args:
        folder: of the store, made if it is missing. header: what a store that is there must have.
        fill: (first, end) -> name of each array -> rows first to end - 1 of it; the same whenever it is asked.
        part: rows that are computed and written together. desc: of the progress bar.

    Raises:
        CheckpointMismatch: the folder holds rows of another model or of other data.
        BadParameter: another process writes it, or `fill` returned other shapes.
    """
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / INFO
    hold(path)
    try:
        hashes = _parts_written(path, header, part)
        arrays = {name: _open(folder / f"{name}.npy", header, name) for name in header.arrays}
        missing = []
        for first in range(0, header.rows, part):
            if hashes.get(str(first)) != _digest(arrays, first, first + part):
                missing.append(first)
        if any(str(first) in hashes for first in missing):
            warn_fallback(f"rows in {folder} changed on disk; they are computed again")
        for first in progress(missing, desc=desc):
            end = min(first + part, header.rows)
            _write(arrays, fill(first, end), first, end)
            hashes[str(first)] = _digest(arrays, first, end)
            write_json(path, {"header": header.plain(), "part": part, "hashes": hashes})
    finally:
        release(path)
    return {name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in header.arrays}


def _parts_written(path: Path, header: RowsHeader, part: int) -> dict[str, str]:
    """Return first row -> hash of the parts that are written; a store of another header is refused."""
    if not path.is_file():
        return {}
    try:
        info = read_json(path)
        found = dict(info["header"])
        hashes = dict(info["hashes"])
        same_parts = info["part"] == part
    except (BadParameter, KeyError, TypeError, ValueError):
        warn_fallback(f"{path} is damaged; the rows beside it are computed again")
        return {}
    expected = header.plain()
    different = [field.name for field in fields(header) if found.get(field.name) != expected[field.name]]
    if different:
        raise CheckpointMismatch(f"{path.parent} holds rows of another model or of other data ({', '.join(different)} "
                                 "differ); name another folder, or delete this one")
    return hashes if same_parts else {}


def _open(path: Path, header: RowsHeader, name: str) -> np.ndarray:
    """Return an array mapped for writing, as it is or, where it has another size, anew."""
    shape, kind = header.arrays[name]
    shape = (header.rows, *shape)
    try:
        array = np.load(path, mmap_mode="r+")
        if array.shape == shape and array.dtype == np.dtype(kind):
            return array
    except (OSError, ValueError):
        pass  # missing or cut off
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(kind), shape=shape)


def _write(arrays: dict[str, np.ndarray], values: Mapping[str, np.ndarray], first: int, end: int) -> None:
    for name, array in arrays.items():
        if values[name].shape != (end - first, *array.shape[1:]):
            raise BadParameter(f"{name} of rows {first} to {end - 1} has shape {values[name].shape}, expected "
                               f"{(end - first, *array.shape[1:])}")
        array[first:end] = values[name]
        array.flush()


def _digest(arrays: dict[str, np.ndarray], first: int, end: int) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name][first:end]).data)
    return digest.hexdigest()

"""Codes of pictures on disk: one LMDB file, written as a stream.

An encoder turns each picture into grids of codes once; what is trained on them reads them by the picture's file name.
LMDB is a B+ tree in one file that is mapped into memory. A commit writes new pages first and then one page that points
to them, so that a process may be killed at any moment and the file holds what the last commit left.

    header = CodesHeader(shapes=[(16, 16)], codes=512, data_sha256=..., checkpoint_sha256=...)
    with CodeWriter("codes.lmdb", header) as store:
        for names, pictures in batches:
            store.add(names, vqvae.encode_codes(pictures))
        store.finish()

`data.code_reader` reads it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import BadParameter, CheckpointMismatch, RunFailed
from ..files import parse_json, replacing
from ..locks import hold, release

FORMAT = 1
HEADER = b"\0header"  # no file name holds a zero byte
LONGEST_KEY = 511  # bytes; LMDB's own limit
FIRST_MAP = 2**24  # bytes of the map at first; it doubles where that does not suffice
COMMIT_EVERY = 1024  # pictures

Codes = Tensor | np.ndarray


@dataclass(frozen=True)
class CodesHeader:
    """What a store holds, and where it comes from.

    Attributes:
        shapes: (height, width) of each grid of a picture, the coarsest first.
        codes: K of the codebook; every code is below it.
        data_sha256: of the pictures. checkpoint_sha256: of the network that encoded them.

    Raises:
        BadParameter: no grid, a side below 1, or less than one code.
    """

    shapes: tuple[tuple[int, int], ...]
    codes: int
    data_sha256: str
    checkpoint_sha256: str

    def __post_init__(self):
        shapes = tuple((int(height), int(width)) for height, width in self.shapes)
        object.__setattr__(self, "shapes", shapes)
        if not shapes or min(map(min, shapes)) < 1 or not 1 <= self.codes <= 2**31:
            raise BadParameter(f"a store needs grids such as [(16, 16)] and a number of codes, got {list(shapes)} and "
                               f"{self.codes}")

    @property
    def dtype(self) -> np.dtype:
        """Return the smallest type that holds every code."""
        for name in ("<u1", "<u2"):
            if self.codes - 1 <= np.iinfo(name).max:
                return np.dtype(name)
        return np.dtype("<i4")

    @property
    def picture_bytes(self) -> int:
        """Return the size of what is stored of a picture."""
        places = sum(height * width for height, width in self.shapes)
        return places * self.dtype.itemsize

    def check_equal(self, other: "CodesHeader", path: Path) -> None:
        """Raise CheckpointMismatch unless the store at `path` has this header too; `other` is the one it has."""
        different = []
        for field in fields(self):
            expected = getattr(self, field.name)
            found = getattr(other, field.name)
            if found != expected:
                different.append(f"{field.name} is {found!r} instead of {expected!r}")
        if different:
            raise CheckpointMismatch(f"{path} holds codes of another model or of other pictures: "
                                     f"{'; '.join(different)}; name another file, or delete this one and write it anew")


class CodeWriter:
    """Writes a store, or goes on with one whose writer was killed.

    Pictures wait until there are `commit_every` of them, and then appear in the file together. At the end of a `with`
    block, also by an error, those that wait are committed; only `finish` makes the store one that can be read.

    Args:
        path: of the file, made with its folders if it is missing. header: what a store that is there must have.
        commit_every: pictures that a kill may cost.

    Raises:
        CheckpointMismatch: there is a store of another model, or a damaged one.
        BadParameter: another process writes it.
        RunFailed: the file cannot be written, such as on a full disk; what was committed is kept.
    """

    def __init__(self, path: str | Path, header: CodesHeader, *, commit_every: int = COMMIT_EVERY):
        if commit_every < 1:
            raise BadParameter(f"commit_every must be at least 1, got {commit_every}")
        self.path = Path(path)
        self.header = header
        self.commit_every = commit_every
        self._waiting: dict[bytes, bytes] = {}
        self._env = None
        hold(self.path)
        try:
            if not self.path.exists():
                _create(self.path, header)
            self._env = open_store(self.path, readonly=False)
            found, self.is_finished = read_header(self._env, self.path)
            header.check_equal(found, self.path)
        except BaseException:
            self._close()
            raise

    def __len__(self) -> int:
        """Return how many pictures there are, those that wait among them."""
        return self._env.stat()["entries"] - 1 + len(self._waiting)

    def __contains__(self, name: str) -> bool:
        return self._stored(picture_key(name)) is not None

    def add(self, names: Sequence[str], *grids: Codes) -> None:
        """Add the codes of B pictures. A name that is there already must bring the codes that are there.

        Args:
            names: of files, each at most 511 bytes long. grids: (B, height, width) for each shape of the header.

        Raises:
            BadParameter: names or codes that do not fit, or a name that had other codes, or the store is finished.
        """
        rows = self._rows(names, grids)
        for name, row in zip(names, rows, strict=True):
            key = picture_key(name)
            value = row.tobytes()
            before = self._stored(key)
            if before == value:
                continue
            if before is not None:
                raise BadParameter(f"{self.path} has other codes of {name!r}; give each picture a name of its own, "
                                   "such as its path below the folder of all")
            if self.is_finished:
                raise BadParameter(f"{self.path} is finished, and has no {name!r}; write another file")
            self._waiting[key] = value
            if len(self._waiting) >= self.commit_every:
                self.commit()

    def commit(self) -> None:
        """Write the pictures that wait, all or none of them."""
        if self._waiting:
            self._put(self._waiting)
            self._waiting = {}

    def finish(self) -> None:
        """Commit, and say that there are no more pictures; from then on the store can be read, and takes no others."""
        self.commit()
        if not self.is_finished:
            self._put({HEADER: _header_bytes(self.header, finished=True)})
            self.is_finished = True

    def close(self) -> None:
        """Commit what waits and close the file."""
        try:
            if self._env is not None:
                self.commit()
        finally:
            self._close()

    def __enter__(self) -> "CodeWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None
        release(self.path)

    def _rows(self, names: Sequence[str], grids: Sequence[Codes]) -> np.ndarray:
        """Return what is stored of each picture: (B, all places)."""
        expected = [(len(names), *shape) for shape in self.header.shapes]
        if [tuple(grid.shape) for grid in grids] != expected:
            raise BadParameter(f"{len(names)} pictures need codes of shapes {expected}, got "
                               f"{[tuple(grid.shape) for grid in grids]}")
        parts = []
        for grid in grids:
            if isinstance(grid, Tensor):
                grid = grid.detach().cpu().numpy()
            is_whole = np.issubdtype(grid.dtype, np.integer)
            if not is_whole or ((grid < 0) | (grid >= self.header.codes)).any():
                raise BadParameter(f"codes must be whole numbers from 0 to {self.header.codes - 1}; got others, in "
                                   f"{grid.dtype}")
            parts.append(grid.reshape(len(names), -1).astype(self.header.dtype))  # (B, height * width)
        return np.concatenate(parts, axis=1)

    def _stored(self, key: bytes) -> bytes | None:
        """Return what there is of a picture already."""
        if key in self._waiting:
            return self._waiting[key]
        with self._env.begin() as transaction:
            return transaction.get(key)

    def _put(self, items: dict[bytes, bytes]) -> None:
        """Write items in one transaction; where the map is too small it grows, and the transaction begins anew."""
        import lmdb

        while True:
            try:
                with self._env.begin(write=True) as transaction:
                    for key, value in items.items():
                        transaction.put(key, value)
                return
            except lmdb.MapFullError:
                self._env.set_mapsize(2 * self._env.info()["map_size"])
            except (lmdb.Error, OSError) as error:
                raise RunFailed(f"{self.path} cannot be written ({error}); what was committed before is there, so "
                                "make room and run this again") from error


# --- the file ---------------------------------------------------------------------------------------------------------


def _create(path: Path, header: CodesHeader) -> None:
    """Write a store without pictures, which appears whole or not at all."""
    import lmdb

    with replacing(path) as temporary:
        env = lmdb.open(str(temporary), subdir=False, lock=False, map_size=FIRST_MAP)
        with env.begin(write=True) as transaction:
            transaction.put(HEADER, _header_bytes(header, finished=False))
        env.close()


def open_store(path: Path, *, readonly: bool) -> Any:
    """Open a file that is there; raises CheckpointMismatch if it is no LMDB file, or ends too early.

    A page that lies behind the end of the file would end the process when it is read, so the size comes first.
    """
    import lmdb

    damaged = f"{path} is no store of codes, or damaged"
    size = path.stat().st_size
    try:
        if size == 0:
            raise OSError("it is empty")  # LMDB would make a new one of it
        env = lmdb.open(str(path), subdir=False, lock=False, create=False, readonly=readonly, readahead=False,
                        map_size=max(FIRST_MAP, size))
    except (lmdb.Error, OSError) as error:
        raise CheckpointMismatch(f"{damaged} ({error}); name another file, or delete it and write it anew") from error
    needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    if size < needed:
        env.close()
        raise CheckpointMismatch(f"{damaged}: it ends after {size} of {needed} bytes; copy it again, or delete it and "
                                 "write it anew")
    return env


def _header_bytes(header: CodesHeader, *, finished: bool) -> bytes:
    return json.dumps({"format": FORMAT, "finished": finished, **asdict(header)}).encode()


def read_header(env: Any, path: Path) -> tuple[CodesHeader, bool]:
    """Return the header of a store, and whether it is finished; raises CheckpointMismatch if there is none."""
    import lmdb

    try:
        with env.begin() as transaction:
            data = transaction.get(HEADER)
        values = parse_json((data or b"").decode(), where="its header")
        if values.pop("format") != FORMAT:
            raise BadParameter("it has another format")
        is_finished = values.pop("finished")
        return CodesHeader(**values), is_finished
    except (lmdb.Error, BadParameter, KeyError, TypeError, ValueError) as error:
        raise CheckpointMismatch(f"{path} is no store of codes of this version ({error}); name another file, or write "
                                 "it anew") from error


def picture_key(name: str) -> bytes:
    """Return the key of a picture."""
    key = name.encode()
    if not 0 < len(key) <= LONGEST_KEY or b"\0" in key:
        raise BadParameter(f"a picture's name must have 1 to {LONGEST_KEY} bytes, none of them 0, got {name[:80]!r}; "
                           "give it a shorter one")
    return key

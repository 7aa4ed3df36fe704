"""Codes of pictures from one LMDB file: read without copies, by several workers at once, and after a fork.

    store = CodeReader("codes.lmdb", header)
    store["heart.png"]                       # a tuple of one array (16, 16), which lies in the file itself
    store.batch(["heart.png", "star.png"])   # (2, 16, 16) int64

`data.code_store` writes it, and says what a header is.
"""

import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .code_store import HEADER, CodesHeader, open_store, picture_key, read_header
from ..errors import BadParameter, CheckpointMismatch, MissingAsset


class CodeReader:
    """Reads a finished store; several processes and threads may do so at once, also with a reader made before a fork.

    Its arrays are read-only views of the file, which stays mapped as long as one of them lives.

    Args:
        path: of the file. header: what it must have; None takes any.

    Attributes:
        header: that it has.

    Raises:
        MissingAsset: there is no such file.
        CheckpointMismatch: codes of another model, a file cut short or damaged, or a store that is not finished.
    """

    def __init__(self, path: str | Path, header: CodesHeader | None = None):
        self.path = Path(path)
        if not self.path.is_file():
            raise MissingAsset(f"there are no codes at {self.path}; write them with CodeWriter")
        self._expected = header
        self._map = _Map.of(self.path)
        self.header, is_finished = read_header(self._map.env, self.path)
        if header is not None:
            header.check_equal(self.header, self.path)
        if not is_finished:
            raise CheckpointMismatch(f"{self.path} is not finished, it holds {len(self)} pictures; run its writer "
                                     "again, which goes on where it stopped")
        self._dtype = self.header.dtype
        self._bytes = self.header.picture_bytes

    def __reduce__(self):
        return CodeReader, (self.path, self._expected)  # another process opens the file itself

    def __len__(self) -> int:
        return self._map.env.stat()["entries"] - 1  # without the header

    def __contains__(self, name: str) -> bool:
        return self._map.get(picture_key(name)) is not None

    def names(self) -> Iterator[str]:
        """Yield the names of all pictures, in the order of their UTF-8 bytes."""
        with self._map.transaction.cursor() as cursor:
            for key in cursor.iternext(values=False):
                if bytes(key) != HEADER:
                    yield bytes(key).decode()

    def __getitem__(self, name: str) -> tuple[np.ndarray, ...]:
        """Return the grids of a picture, (height, width) each, without a copy.

        Raises:
            BadParameter: there is no such picture. CheckpointMismatch: the file is damaged.
        """
        data = self._map.get(picture_key(name))
        if data is None:
            raise BadParameter(f"{self.path} has no codes of {name!r}; `names` yields those that it has")
        if len(data) != self._bytes:
            raise CheckpointMismatch(f"{self.path} is damaged: {name!r} has {len(data)} bytes instead of "
                                     f"{self._bytes}; delete it and write it anew")
        flat = np.asarray(_Mapped(data, self._dtype, self._map))  # (all places,)
        grids = []
        first = 0
        for height, width in self.header.shapes:
            last = first + height * width
            grids.append(flat[first:last].reshape(height, width))
            first = last
        return tuple(grids)

    def batch(self, names: Sequence[str], *, level: int = 0) -> Tensor:
        """Return one grid of each of B pictures, copied: (B, height, width) int64. Raises as reading one does."""
        grids = [self[name][level] for name in names]
        return torch.from_numpy(np.stack(grids).astype(np.int64))

    def check(self) -> None:
        """Read everything.

        Raises:
            CheckpointMismatch: a picture has another size, or a code that the codebook does not have.
        """
        count = 0
        for name in self.names():
            count += 1
            for grid in self[name]:
                if grid.min() < 0 or grid.max() >= self.header.codes:
                    raise CheckpointMismatch(f"{self.path} is damaged: {name!r} has code {grid.max()} of "
                                             f"{self.header.codes}; delete it and write it anew")
        if count != len(self):
            raise CheckpointMismatch(f"{self.path} is damaged: {count} of {len(self)} pictures can be found; delete it "
                                     "and write it anew")


class _Map:
    """A finished store mapped into memory: one in a process, for all its readers and their arrays.

    LMDB's rule that a forked process opens its files itself is about locks and tables of readers. There are none here:
    nobody writes a finished store, so it is opened without them, and a fork inherits a plain map of memory.
    """

    _opened: "weakref.WeakValueDictionary[tuple[int, int], _Map]" = weakref.WeakValueDictionary()

    def __init__(self, path: Path):
        import lmdb

        self.path = path
        self.env = open_store(path, readonly=True)
        self.transaction = self.env.begin(buffers=True)
        self._error = lmdb.Error

    def get(self, key: bytes) -> memoryview | None:
        """Return the bytes of a key where they lie, None if there is none."""
        try:
            return self.transaction.get(key)
        except self._error as error:
            raise CheckpointMismatch(f"{self.path} is damaged ({error}); delete it and write it anew") from error

    @classmethod
    def of(cls, path: Path) -> "_Map":
        """Return that of a file, which LMDB opens only once in a process."""
        about = os.stat(path)
        key = (about.st_dev, about.st_ino)
        mapped = cls._opened.get(key)
        if mapped is None:
            mapped = cls(path)
            cls._opened[key] = mapped
        return mapped


class _Mapped:
    """Bytes of a map, as numpy reads them; an array of them keeps this object, and this one keeps the map."""

    def __init__(self, data: memoryview, dtype: np.dtype, owner: _Map):
        self.__array_interface__ = np.frombuffer(data, dtype).__array_interface__
        self.owner = owner

"""Codes on disk: LMDB beside PNG files of the pictures and beside one memory map, written, and read at random.

Where all codes fit one array of equal rows, the memory map is smaller and faster by far; LMDB knows names, grows as a
stream, and survives a killed writer.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .measure import Row, row, time_in_turns
from .memory import Work
from ..data import load_captioned
from ..data.code_reader import CodeReader
from ..data.code_store import CodesHeader, CodeWriter
from ..media import to_unit
from ..runtime import generator

BENCHMARK = "code_store"
SIDE = 64  # pixels of a picture
HEADER = CodesHeader(shapes=((16, 16),), codes=512, data_sha256="", checkpoint_sha256="")
PNG = "PNG files"
LMDB = "LMDB"
MEMORY_MAP = "memory map"
READS = 256  # pictures of one timed call, a batch at random
CALLS = {"write": 3, "random read": 20}  # timed of each provider; in turns the slowest decides how long that takes

Writer = Callable[[Path], None]


class Material:
    """Pictures, as they are and as codes, with their names.

    Attributes:
        pictures: (N, SIDE, SIDE, 3) uint8, drawings of the emoji set, from the first again where there are not enough.
        codes: (N, 16, 16) int64, at random; what they are does not change the time. names: of files.
    """

    def __init__(self, count: int):
        drawings = load_captioned("emoji", split="train", image_size=SIDE, limit=min(count, 2000))
        rows = torch.arange(count) % len(drawings)
        signed = drawings.batch(rows)  # (N, 3, SIDE, SIDE) in [-1, 1]
        bytes_ = (255 * to_unit(signed)).round().byte()
        self.pictures = bytes_.permute(0, 2, 3, 1).contiguous().numpy()  # (N, SIDE, SIDE, 3)
        self.codes = torch.randint(HEADER.codes, (count, *HEADER.shapes[0]), generator=generator(0, BENCHMARK))
        self.names = [f"{i:07}.png" for i in range(count)]

    def write_png(self, folder: Path) -> None:
        """Write a file of each picture."""
        folder.mkdir(parents=True)
        for name, picture in zip(self.names, self.pictures, strict=True):
            Image.fromarray(picture).save(folder / name)

    def write_lmdb(self, path: Path) -> None:
        """Write the store of codes, a batch at a time, as an encoder gives them."""
        with CodeWriter(path, HEADER) as store:
            for first in range(0, len(self.names), READS):
                last = first + READS
                store.add(self.names[first:last], self.codes[first:last])
            store.finish()

    def write_memory_map(self, path: Path) -> None:
        """Write one array of all codes: it has no names, and must know the number of pictures before."""
        stored = np.memmap(path, HEADER.dtype, mode="w+", shape=tuple(self.codes.shape))
        for first in range(0, len(self.names), READS):
            last = first + READS
            stored[first:last] = self.codes[first:last].numpy()
        stored.flush()


def readers(material: Material, places: dict[str, Path]) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return how each provider reads the pictures of some rows (n,)."""
    store = CodeReader(places[LMDB], HEADER)
    mapped = np.memmap(places[MEMORY_MAP], HEADER.dtype, mode="r", shape=tuple(material.codes.shape))

    def read_png(rows: Tensor) -> Tensor:
        pictures = []
        for i in rows.tolist():
            with Image.open(places[PNG] / material.names[i]) as picture:
                pictures.append(torch.from_numpy(np.array(picture)))
        return torch.stack(pictures)

    def read_lmdb(rows: Tensor) -> Tensor:
        return store.batch([material.names[i] for i in rows.tolist()])

    def read_memory_map(rows: Tensor) -> Tensor:
        return torch.from_numpy(mapped[rows.numpy()].astype(np.int64))

    return {PNG: read_png, LMDB: read_lmdb, MEMORY_MAP: read_memory_map}


def size_on_disk(path: Path) -> int:
    """Return the bytes of the blocks that a file or the files of a folder take."""
    files = path.iterdir() if path.is_dir() else [path]
    return sum(512 * file.stat().st_blocks for file in files)


def code_store_rows(device: torch.device, seconds: float, *, pictures: int = 4000) -> Iterator[Row]:
    """Pictures a second, written and read at random, and bytes a picture. Files stay in the system's cache.

    Every commit of LMDB and the finished memory map wait until the disk has them; PNG files do not.

    What an encoder would take to make codes of the pictures is not timed: reading PNG files leaves that to be done.

    Args:
        seconds: not used; the calls are counted, see `CALLS`. pictures: how many are written.
    """
    material = Material(pictures)
    about = dict(shape=f"{pictures} pictures", device=device)
    with tempfile.TemporaryDirectory() as folder:
        writers = {PNG: material.write_png, LMDB: material.write_lmdb, MEMORY_MAP: material.write_memory_map}
        written = _Places(Path(folder))
        works = {name: written.work(name, write) for name, write in writers.items()}
        yield from _rates("write", works, pictures, about)
        base = size_on_disk(written.latest[PNG]) / pictures
        for name, path in written.latest.items():
            size = size_on_disk(path) / pictures
            yield row(BENCHMARK, name, "bytes/picture", size, mode="size on disk", dtype=_dtype(name),
                      ratio=base / size, **about)
        stream = generator(0, BENCHMARK, "reads")
        works = {}
        for name, read in readers(material, written.latest).items():
            works[name] = lambda read=read: read(torch.randint(pictures, (READS,), generator=stream))
        yield from _rates("random read", works, READS, about)


class _Places:
    """Where each provider wrote last; every writing goes to a new place."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.count = 0
        self.latest: dict[str, Path] = {}

    def work(self, name: str, write: Writer) -> Work:
        def run() -> None:
            self.count += 1
            self.latest[name] = self.folder / str(self.count)
            write(self.latest[name])

        return run


def _rates(mode: str, works: dict[str, Work], pictures: int, about: dict) -> Iterator[Row]:
    """Yield pictures a second of each provider, of calls that read or write so many."""
    times = time_in_turns(works, torch.device("cpu"), 0.0, CALLS[mode])
    base = float(times[PNG][0])
    for name, ms in times.items():
        timed = row(BENCHMARK, name, "ms", ms.tolist(), mode=mode, dtype=_dtype(name), ratio=base / float(ms[0]),
                    **about)
        yield timed.per_second(pictures, "pictures")


def _dtype(provider: str) -> str:
    return "uint8" if provider == PNG else HEADER.dtype.name

"""The archive of a bundle: parts are compressed one by one, so that their sizes are known, and taken while they fit."""

import gzip
import io
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .parts import Part
from ..errors import BadParameter
from ..files import replacing

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
DATE = 946684800  # 2000-01-01, of every file: equal content gives an equal archive
END = bytes(2 * tarfile.BLOCKSIZE)  # of a tar archive


@dataclass(frozen=True)
class Packed:
    """A part as it stands in the archive: compressed, `data` may follow that of any other part."""

    part: Part
    data: bytes

    @property
    def mb(self) -> float:
        """Its size in MB, of a million bytes."""
        return len(self.data) / 1e6


@dataclass(frozen=True)
class Bundle:
    """What became of the parts, and the size of the archive in bytes."""

    taken: list[Packed]
    left_out: list[Packed]
    size: int


def read_size(text: str) -> int:
    """Return the bytes that a size such as "60MB" or "64MiB" means.

    Raises:
        BadParameter: it is no size.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    unit = UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise BadParameter(f"a size must be a number and MB, MiB, GB or GiB, got {text!r}; such as 60MB")
    return int(float(match[1]) * unit)


def pack(part: Part) -> Packed:
    """Return a part as a piece of a tar archive, compressed by itself."""
    file = io.BytesIO()
    archive = tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)  # not closed: its end is that of a whole
    for name, content in part.files.items():
        data = content if isinstance(content, bytes) else content.read_bytes()
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        entry.mtime = DATE
        entry.mode = 0o755 if name.endswith(".sh") else 0o644
        archive.addfile(entry, io.BytesIO(data))
    return Packed(part, gzip.compress(file.getvalue(), mtime=0))


def choose(packed: Sequence[Packed], limit: int) -> Bundle:
    """Return which parts fit: all that are required, and the others in their order while there is room.

    Raises:
        BadParameter: those that are required do not fit; the message names them, the largest first.
    """
    required = [piece for piece in packed if piece.part.required]
    size = len(gzip.compress(END, mtime=0)) + sum(len(piece.data) for piece in required)
    if size > limit:
        raise BadParameter(f"a bundle takes at least {size / 1e6:.1f} MB, more than the limit of {limit / 1e6:.1f} MB: "
                           f"{in_words(required)}; raise --limit, or name fewer --checkpoints")
    taken = list(required)
    left_out = []
    for piece in packed:
        if piece.part.required:
            continue
        if size + len(piece.data) <= limit:
            taken.append(piece)
            size += len(piece.data)
        else:
            left_out.append(piece)
    return Bundle(by_size(taken), by_size(left_out), size)


def by_size(packed: Sequence[Packed]) -> list[Packed]:
    """Return parts, the largest first."""
    return sorted(packed, key=lambda piece: -len(piece.data))


def in_words(packed: Sequence[Packed]) -> str:
    """Return parts and their sizes in one line, the largest first."""
    return ", ".join(f"{piece.part.name} {piece.mb:.1f} MB" for piece in by_size(packed))


def write(bundle: Bundle, path: Path) -> None:
    """Write the archive: pieces of a tar archive that were compressed one by one are one when they follow each other.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        for piece in bundle.taken:
            file.write(piece.data)
        file.write(gzip.compress(END, mtime=0))

"""The outer form of a file of compressed weights, and a reader that takes nothing for granted.

    magic (8 bytes) | size of the header, and when unpacked (two uint32) | header (JSON, zlib) | tensors | SHA-256

A reader checks the hash before it looks inside, and every size before it allocates: a file may come from anywhere, and
its hash may be right although its content is hostile.
"""

import hashlib
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import torch

from .huffman import MOST_SYMBOLS
from .shared_weights import MOST_LEVELS
from ..errors import BadParameter, CheckpointMismatch, MissingAsset
from ..files import parse_json, reason

MAGIC = b"T2IPACK1"
SIZES = struct.Struct("<II")
HASH_BYTES = 32
MOST_HEADER = 2**24  # bytes, unpacked
MOST_NUMBERS = 2**27  # in all tensors of a file
MOST_GAP = 255
RAW_TYPES = {"float16": torch.float16, "float32": torch.float32, "int64": torch.int64, "int32": torch.int32,
             "int16": torch.int16, "uint8": torch.uint8, "bool": torch.bool}
# kind of tensor -> its counts and the most that each can be; and how many coded parts it has
COUNTS = {"shared": {"levels": MOST_LEVELS, "count": MOST_NUMBERS, "gaps": MOST_GAP + 1},
          "codes": {"levels": MOST_SYMBOLS}, "raw": {}}
PARTS = {"shared": 2, "codes": 1, "raw": 0}


def seal(header: str, body: bytes) -> bytes:
    """Return the content of a file: header, tensors, and a hash of both."""
    plain = header.encode()
    packed = zlib.compress(plain, 9)
    content = MAGIC + SIZES.pack(len(packed), len(plain)) + packed + body
    return content + hashlib.sha256(content).digest()


class Section:
    """The part of a file that holds tensors, read from front to back; it never reads past its end."""

    def __init__(self, data: bytes):
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self.data) - self.at:
            raise CheckpointMismatch(f"a tensor takes {count} bytes where {len(self.data) - self.at} are left")
        part = self.data[self.at:self.at + count]
        self.at += count
        return part


def open_container(path: str | Path) -> tuple[dict[str, Any], Section]:
    """Return the header of a file, checked, and the section of its tensors."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise MissingAsset(f"no compressed weights at {path}; write them with `save_packed`") from error
    except OSError as error:
        raise CheckpointMismatch(f"{path} cannot be read ({reason(error)})") from error
    try:
        return _unpack_header(content)
    except CheckpointMismatch as error:
        raise CheckpointMismatch(f"{path} cannot be read: {error}; fetch or write it again") from error


def _unpack_header(content: bytes) -> tuple[dict[str, Any], Section]:
    begin = len(MAGIC) + SIZES.size
    if len(content) < begin + HASH_BYTES or not content.startswith(MAGIC):
        raise CheckpointMismatch("it is no file of compressed weights, or was cut off")
    body = content[:-HASH_BYTES]
    if hashlib.sha256(body).digest() != content[-HASH_BYTES:]:
        raise CheckpointMismatch("its SHA-256 is not what it says, the file is damaged or was cut off")
    packed_size, size = SIZES.unpack_from(content, len(MAGIC))
    if packed_size > len(body) - begin or size > MOST_HEADER:
        raise CheckpointMismatch(f"its header takes {packed_size} bytes and {size} unpacked, which is too much")
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(body[begin:begin + packed_size], size + 1)
        if len(text) != size or not unpacker.eof:
            raise CheckpointMismatch("its header has another length than it says")
        header = parse_json(text.decode(), where="its header")
    except (zlib.error, UnicodeDecodeError, BadParameter) as error:
        raise CheckpointMismatch(f"its header cannot be read ({error})") from error
    _check_header(header)
    return header, Section(body[begin + packed_size:])


def _check_header(header: dict[str, Any]) -> None:
    """Raise CheckpointMismatch unless every entry has the form, and all tensors together a size, that can be."""
    has_form = (isinstance(header.get("class"), str) and isinstance(header.get("kwargs"), dict)
                and isinstance(header.get("tensors"), list))
    if not has_form:
        raise CheckpointMismatch("its header lacks class, arguments or tensors")
    names = set()
    numbers = 0
    for entry in header["tensors"]:
        _check_entry(entry)
        names.add(entry["name"])
        numbers += math.prod(entry["shape"])
    if len(names) != len(header["tensors"]):
        raise CheckpointMismatch("two of its tensors have one name")
    if numbers > MOST_NUMBERS:
        raise CheckpointMismatch(f"its tensors have {numbers} numbers, more than {MOST_NUMBERS}")


def _check_entry(entry: Any) -> None:
    """Raise CheckpointMismatch unless a tensor's entry has the fields of its kind, each in its range."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or entry.get("kind") not in COUNTS:
        raise CheckpointMismatch("an entry of its header has no name or an unknown kind")
    shape = entry.get("shape")
    if not isinstance(shape, list) or len(shape) > 8 or not all(_is_count(side, MOST_NUMBERS) for side in shape):
        raise CheckpointMismatch(f"{entry['name']} has no shape")
    for field, most in COUNTS[entry["kind"]].items():
        if not _is_count(entry.get(field), most):
            raise CheckpointMismatch(f"{entry['name']}: {field} is {entry.get(field)!r}, expected 0 to {most}")
    sizes = entry.get("bytes", [])
    if not isinstance(sizes, list) or len(sizes) != PARTS[entry["kind"]] or not all(_is_count(n, 2**40) for n in sizes):
        raise CheckpointMismatch(f"{entry['name']}: the sizes of its codes are {sizes!r}")
    low = entry.get("low", 0)
    if entry["kind"] != "shared" and entry.get("dtype") not in RAW_TYPES:
        raise CheckpointMismatch(f"{entry['name']} has no known type")
    if not isinstance(low, int) or isinstance(low, bool) or abs(low) > 2**31:
        raise CheckpointMismatch(f"{entry['name']}: its lowest number is {low!r}")


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most

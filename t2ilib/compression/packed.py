"""A file of compressed weights, and a reader that takes nothing for granted.

`container` says how a file is made up. Its header names the class, its arguments and, for each tensor, shape and kind.
Three kinds of tensors:

- `shared`: the values (float16), a table of code lengths for their indices and one for the gaps between the weights
  that are left, then both coded (`huffman`). A gap above 255 takes fillers, which are zero (Han et al. 2016, figure 2).
- `codes`: whole numbers with few values, such as the codes of a VQGAN: a table and the codes.
- `raw`: everything else: biases, norms and small kernels in float16, other types as they are.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from . import huffman
from .container import MOST_GAP, RAW_TYPES, Section, open_container, seal
from .shared_weights import SharedTensor
from ..checkpoint import Model, load_strict
from ..errors import BadParameter, CheckpointMismatch
from ..files import replacing


class Sizes(NamedTuple):
    """Bytes of a file, by what they hold; together they are all of it."""

    header: int
    values: int
    tables: int
    gaps: int
    indices: int
    raw: int

    @property
    def total(self) -> int:
        """Return the size of the file."""
        return sum(self)


# --- writing ----------------------------------------------------------------------------------------------------------


def pack(state: Mapping[str, Tensor], shared: Mapping[str, SharedTensor], *, kind: str, kwargs: Mapping[str, Any],
         **card: Any) -> bytes:
    """Return the content of a file.

    Args:
        state: all tensors of a network. shared: those of them that are stored as shared weights.
        kind, kwargs: the class and its arguments. card: what else the file says (plain JSON types).

    Raises:
        BadParameter: a name or shape in `shared` that the state has not, numbers that half precision does not hold, or
            a card that is no JSON.
    """
    entries = []
    body = []
    for name, tensor in state.items():
        if name in shared:
            entry, data = _pack_shared(shared[name])
            fits = shared[name].indices.shape == tensor.shape
        else:
            entry, data = _pack_other(name, tensor.detach().cpu())
            fits = True
        if not fits:
            raise BadParameter(f"{name} has shape {tuple(tensor.shape)}, its shared weights another")
        entries.append({"name": name, "shape": list(tensor.shape), **entry})
        body.append(data)
    unknown = sorted(shared.keys() - state.keys())
    if unknown:
        raise BadParameter(f"shared weights of {', '.join(unknown[:4])}: the state has no such tensors")
    try:
        text = json.dumps({"class": kind, "kwargs": dict(kwargs), "card": card, "tensors": entries})
    except TypeError as error:
        raise BadParameter(f"{kind}: arguments and card must be plain JSON types: {error}") from error
    return seal(text, b"".join(body))


def save_packed(path: str | Path, network: nn.Module, shared: Mapping[str, SharedTensor], **card: Any) -> Path:
    """Write a network made by a `configurable` class, and return the path. Arguments as in `pack`."""
    content = pack(network.state_dict(), shared, kind=type(network).__name__, kwargs=network.config, **card)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def _pack_shared(tensor: SharedTensor) -> tuple[dict[str, Any], bytes]:
    indices, gaps = _with_fillers(tensor.indices.numpy().reshape(-1), len(tensor.centroids))
    largest = int(gaps.max(initial=0))
    coded_indices = huffman.encode(indices, len(tensor.centroids) + 1)
    coded_gaps = huffman.encode(gaps, largest + 1)
    coded = (coded_indices, coded_gaps)
    parts = [tensor.centroids.numpy().astype("<f2").tobytes()]
    parts += [huffman.pack_lengths(part.lengths) for part in coded]
    parts += [part.chunk_bits.astype("<u2").tobytes() for part in coded]
    parts += [part.payload for part in coded]
    entry = {"kind": "shared", "levels": len(tensor.centroids), "count": len(indices), "gaps": largest + 1,
             "bytes": [len(coded_indices.payload), len(coded_gaps.payload)]}
    return entry, b"".join(parts)


def _with_fillers(indices: np.ndarray, filler: int) -> tuple[np.ndarray, np.ndarray]:
    """Return indices of the weights that are left, and how many zeros stand before each.

    Where more than MOST_GAP zeros stand before one, fillers stand among them: weights that are zero themselves.
    """
    places = np.flatnonzero(indices >= 0)
    gaps = np.diff(places, prepend=-1) - 1
    fillers = gaps // (MOST_GAP + 1)  # each stands for MOST_GAP zeros and itself
    ends = (fillers + 1).cumsum() - 1  # where each weight stands in the result
    count = int(fillers.sum()) + len(places)
    all_indices = np.full(count, filler, dtype=np.int64)
    all_gaps = np.full(count, MOST_GAP, dtype=np.int64)
    all_indices[ends] = indices[places]
    all_gaps[ends] = gaps - fillers * (MOST_GAP + 1)
    return all_indices, all_gaps


def _pack_other(name: str, tensor: Tensor) -> tuple[dict[str, Any], bytes]:
    if tensor.dtype in (torch.int16, torch.int32, torch.int64) and tensor.numel() > huffman.CHUNK:
        low = int(tensor.min())
        levels = int(tensor.max()) - low + 1
        if levels <= huffman.MOST_SYMBOLS:
            return _pack_codes(tensor, low, levels)
    if tensor.is_floating_point():
        half = tensor.half()
        if not torch.equal(half.isfinite(), tensor.isfinite()):
            raise BadParameter(f"{name}: values are too large for float16")
        tensor = half
    if _type_name(tensor.dtype) not in RAW_TYPES:
        raise BadParameter(f"{name}: a file of compressed weights holds no {tensor.dtype}")
    return {"kind": "raw", "dtype": _type_name(tensor.dtype)}, tensor.contiguous().numpy().tobytes()


def _pack_codes(tensor: Tensor, low: int, levels: int) -> tuple[dict[str, Any], bytes]:
    symbols = tensor.numpy().reshape(-1).astype(np.int64) - low
    coded = huffman.encode(symbols, levels)
    data = huffman.pack_lengths(coded.lengths) + coded.chunk_bits.astype("<u2").tobytes() + coded.payload
    entry = {"kind": "codes", "dtype": _type_name(tensor.dtype), "low": low, "levels": levels,
             "bytes": [len(coded.payload)]}
    return entry, data


def _type_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# --- reading ----------------------------------------------------------------------------------------------------------


def read_packed(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a file (floats as float32) and its header.

    Raises:
        MissingAsset: there is no such file.
        CheckpointMismatch: it is damaged, cut off, or does not hold what it says.
    """
    header, section = open_container(path)
    state = {}
    try:
        for entry in header["tensors"]:
            state[entry["name"]] = _READERS[entry["kind"]](section, entry, tuple(entry["shape"]))
        if section.at != len(section.data):
            raise CheckpointMismatch(f"{len(section.data) - section.at} bytes belong to no tensor")
    except CheckpointMismatch as error:
        raise CheckpointMismatch(f"{path} cannot be read: {error}; fetch or write it again") from error
    return state, header


def load_packed(cls: type[Model], path: str | Path, *, device: torch.device | str = "cpu") -> Model:
    """Rebuild a network from a file, in eval mode, without gradients for its weights.

    Raises:
        MissingAsset, CheckpointMismatch: as `read_packed`, or it holds another class than `cls`.
    """
    state, header = read_packed(path)
    if header["class"] != cls.__name__:
        raise CheckpointMismatch(f"{path} holds a {header['class']}, not a {cls.__name__}; name another file")
    try:
        model = cls(**header["kwargs"])
    except (TypeError, BadParameter) as error:
        raise CheckpointMismatch(f"{path} was saved with arguments that {cls.__name__} does not take ({error})"
                                 ) from error
    load_strict(model, state, source=str(path))
    return model.to(device).eval().requires_grad_(False)


def packed_sizes(path: str | Path) -> Sizes:
    """Return what the bytes of a file hold. Raises as `read_packed` does."""
    header, section = open_container(path)
    values = 0
    tables = 0
    gaps = 0
    indices = 0
    for entry in header["tensors"]:
        if entry["kind"] == "shared":
            chunks = _chunks(entry["count"])
            values += 2 * entry["levels"]
            tables += -(-(entry["levels"] + 1) // 2) - (-entry["gaps"] // 2)
            indices += entry["bytes"][0] + 2 * chunks * (entry["bytes"][0] > 0)
            gaps += entry["bytes"][1] + 2 * chunks * (entry["bytes"][1] > 0)
        elif entry["kind"] == "codes":
            tables += -(-entry["levels"] // 2)
            indices += entry["bytes"][0] + 2 * _chunks(math.prod(entry["shape"])) * (entry["bytes"][0] > 0)
    total = Path(path).stat().st_size
    raw = len(section.data) - values - tables - gaps - indices
    return Sizes(total - len(section.data), values, tables, gaps, indices, raw)


def _read_shared(section: Section, entry: dict[str, Any], shape: tuple[int, ...]) -> Tensor:
    numbers = math.prod(shape)
    levels = entry["levels"]
    count = entry["count"]
    if count > numbers or levels < 1:
        raise CheckpointMismatch(f"{entry['name']} keeps {count} of {numbers} weights with {levels} values")
    values = np.frombuffer(section.take(2 * levels), dtype="<f2").astype(np.float32)
    if not np.isfinite(values).all():
        raise CheckpointMismatch(f"{entry['name']} has values that are no numbers")
    tables = []
    for alphabet in (levels + 1, entry["gaps"]):
        tables.append(huffman.unpack_lengths(section.take(-(-alphabet // 2)), alphabet))
    chunk_bits = []
    for size in entry["bytes"]:
        chunks = _chunks(count) if size else 0
        chunk_bits.append(np.frombuffer(section.take(2 * chunks), dtype="<u2"))
    decoded = []
    for lengths, bits, size in zip(tables, chunk_bits, entry["bytes"], strict=True):
        decoded.append(huffman.decode(huffman.Coded(lengths, bits, section.take(size)), count))
    indices, gaps = decoded
    places = (gaps + 1).cumsum() - 1
    if count and places[-1] >= numbers:
        raise CheckpointMismatch(f"{entry['name']} has weights beyond its end")
    flat = np.zeros(numbers, dtype=np.float32)
    flat[places] = np.append(values, np.float32(0))[indices]  # a filler is zero
    return torch.from_numpy(flat).view(shape)


def _read_codes(section: Section, entry: dict[str, Any], shape: tuple[int, ...]) -> Tensor:
    count = math.prod(shape)
    lengths = huffman.unpack_lengths(section.take(-(-entry["levels"] // 2)), entry["levels"])
    size = entry["bytes"][0]
    bits = np.frombuffer(section.take(2 * _chunks(count) if size else 0), dtype="<u2")
    symbols = huffman.decode(huffman.Coded(lengths, bits, section.take(size)), count)
    return torch.from_numpy(symbols + entry["low"]).to(RAW_TYPES[entry["dtype"]]).view(shape)


def _read_raw(section: Section, entry: dict[str, Any], shape: tuple[int, ...]) -> Tensor:
    dtype = RAW_TYPES[entry["dtype"]]
    data = section.take(math.prod(shape) * dtype.itemsize)
    if not data:
        return torch.zeros(shape, dtype=dtype)
    tensor = torch.frombuffer(bytearray(data), dtype=dtype).view(shape)
    return tensor.float() if dtype.is_floating_point else tensor


def _chunks(count: int) -> int:
    return -(-count // huffman.CHUNK)


_READERS = {"shared": _read_shared, "codes": _read_codes, "raw": _read_raw}

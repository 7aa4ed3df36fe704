"""Canonical Huffman codes: only the length of each symbol's code is stored, the codes follow from the lengths.

Symbols are coded in chunks of 1,024, each of which begins at a byte, so that all chunks are decoded side by side in
numpy. A chunk costs two bytes for its length and on average half a byte of padding.

Huffman 1952; canonical codes: Schwartz and Kallick 1964.
"""

import heapq
from typing import NamedTuple

import numpy as np

from ..errors import CheckpointMismatch

LONGEST = 15  # bits of a code, so that four bits hold a length
CHUNK = 1024  # symbols
MOST_SYMBOLS = 4096


class Coded(NamedTuple):
    """Coded symbols.

    Attributes:
        lengths: (alphabet,) uint8, bits of each symbol's code; 0 where it does not occur. A lone symbol takes no bits,
            and its length says 1.
        chunk_bits: (chunks,) uint16. payload: the codes.
    """

    lengths: np.ndarray
    chunk_bits: np.ndarray
    payload: bytes


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """Return the bits of each symbol's code (alphabet,) uint8 for how often it occurs; at most 15.

    Where the best code is longer, rare symbols are taken as less rare until it is not; that costs next to nothing.
    """
    counts = np.asarray(counts, dtype=np.int64)
    lengths = _best_lengths(counts)
    while lengths.max(initial=0) > LONGEST:
        counts = (counts + 1) // 2  # what occurs stays above zero
        lengths = _best_lengths(counts)
    return lengths


def _best_lengths(counts: np.ndarray) -> np.ndarray:
    """Return Huffman's code lengths: the two rarest nodes are joined until one is left."""
    lengths = np.zeros(len(counts), dtype=np.uint8)
    present = np.flatnonzero(counts)
    if len(present) == 1:
        lengths[present] = 1
    if len(present) < 2:
        return lengths
    heap = [(int(counts[symbol]), place, place) for place, symbol in enumerate(present)]
    heapq.heapify(heap)
    parents = np.zeros(2 * len(present) - 1, dtype=np.int64)
    for node in range(len(present), len(parents)):
        first_count, _, first = heapq.heappop(heap)
        second_count, _, second = heapq.heappop(heap)
        parents[[first, second]] = node
        heapq.heappush(heap, (first_count + second_count, node, node))
    depths = np.zeros(len(parents), dtype=np.int64)
    for node in range(len(parents) - 2, -1, -1):  # the root, the last one, has depth 0
        depths[node] = depths[parents[node]] + 1
    lengths[present] = np.minimum(depths[:len(present)], 255)
    return lengths


def canonical_codes(lengths: np.ndarray) -> np.ndarray:
    """Return the codes (alphabet,) uint32: numbered in the order of (length, symbol)."""
    codes = np.zeros(len(lengths), dtype=np.uint32)
    code = 0
    before = 0
    for symbol in np.lexsort((np.arange(len(lengths)), lengths)):
        length = int(lengths[symbol])
        if length == 0:
            continue
        code <<= length - before
        codes[symbol] = code
        code += 1
        before = length
    return codes


def check_lengths(lengths: np.ndarray) -> None:
    """Raise CheckpointMismatch unless the lengths make a code that is complete, or name one lone symbol."""
    present = lengths[lengths > 0].astype(np.int64)
    if len(present) == 1 and present[0] == 1:
        return
    used = 0
    if len(present) and present.max() <= LONGEST:
        used = int((1 << (LONGEST - present)).sum())  # of all 15 bits that a stream can go on with
    if used != 1 << LONGEST:
        raise CheckpointMismatch("a Huffman table is no complete code; restore the file")


def encode(symbols: np.ndarray, alphabet: int) -> Coded:
    """Code symbols (n,) in 0 .. alphabet - 1."""
    symbols = np.asarray(symbols, dtype=np.int64)
    lengths = code_lengths(np.bincount(symbols, minlength=alphabet))
    if (lengths > 0).sum() < 2:
        return Coded(lengths, np.zeros(0, dtype=np.uint16), b"")
    codes = canonical_codes(lengths)[symbols]
    bits = lengths[symbols].astype(np.int64)
    chunk_starts = np.arange(0, len(symbols), CHUNK)
    chunk_bits = np.add.reduceat(bits, chunk_starts)
    chunk_bytes = (chunk_bits + 7) // 8
    # where each chunk begins, and each symbol within its chunk
    begins = 8 * np.concatenate([[0], chunk_bytes.cumsum()[:-1]])
    before = bits.cumsum() - bits
    moves = begins - before[chunk_starts]  # by how many bits padding moves each chunk
    chunk_sizes = np.diff(chunk_starts, append=len(symbols))
    starts = before + np.repeat(moves, chunk_sizes)
    stream = np.zeros(8 * int(chunk_bytes.sum()), dtype=np.uint8)
    for place in range(int(lengths.max())):
        has_bit = bits > place
        shift = (bits[has_bit] - 1 - place).astype(np.uint32)
        stream[starts[has_bit] + place] = (codes[has_bit] >> shift) & 1
    return Coded(lengths, chunk_bits.astype(np.uint16), np.packbits(stream).tobytes())


def decode(coded: Coded, count: int) -> np.ndarray:
    """Return `count` symbols, (count,) int64.

    Raises:
        CheckpointMismatch: the parts do not belong together.
    """
    lengths = coded.lengths
    present = np.flatnonzero(lengths)
    if count == 0 or len(present) == 0:
        if count or len(coded.payload):
            raise CheckpointMismatch("a Huffman table without symbols cannot code any; restore the file")
        return np.zeros(0, dtype=np.int64)
    check_lengths(lengths)
    if len(present) == 1:
        return np.full(count, present[0], dtype=np.int64)
    symbol_of, length_of = _lookup(lengths)
    chunk_bits = coded.chunk_bits.astype(np.int64)
    chunk_bytes = (chunk_bits + 7) // 8
    chunks = -(-count // CHUNK)
    if len(chunk_bits) != chunks or int(chunk_bytes.sum()) != len(coded.payload):
        raise CheckpointMismatch("coded weights have another length than their table says; restore the file")
    data = np.frombuffer(coded.payload + bytes(4), dtype=np.uint8).astype(np.int64)
    position = 8 * np.concatenate([[0], chunk_bytes.cumsum()[:-1]])
    ends = position + chunk_bits
    last = 8 * len(coded.payload)
    symbols = np.zeros((chunks, CHUNK), dtype=np.int64)
    left = count - CHUNK * (chunks - 1)  # symbols of the last chunk
    for place in range(min(CHUNK, count)):
        active = chunks if place < left else chunks - 1
        at = np.minimum(position[:active], last)
        byte = at >> 3
        three_bytes = data[byte] << 16 | data[byte + 1] << 8 | data[byte + 2]
        window = three_bytes >> (9 - (at & 7)) & 0x7FFF  # the next 15 bits
        symbols[:active, place] = symbol_of[window]
        position[:active] += length_of[window]
    if not np.array_equal(position, ends):
        raise CheckpointMismatch("coded weights do not end where they should; restore the file")
    return symbols.reshape(-1)[:count]


def _lookup(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return symbol and length of its code for every 15 bits that a stream may go on with."""
    codes = canonical_codes(lengths).astype(np.int64)
    symbol_of = np.zeros(1 << LONGEST, dtype=np.int64)
    length_of = np.zeros(1 << LONGEST, dtype=np.int64)
    for symbol in np.flatnonzero(lengths):
        free = LONGEST - int(lengths[symbol])
        first = int(codes[symbol]) << free
        symbol_of[first:first + (1 << free)] = symbol
        length_of[first:first + (1 << free)] = lengths[symbol]
    return symbol_of, length_of


def pack_lengths(lengths: np.ndarray) -> bytes:
    """Return code lengths as four bits each."""
    padded = np.zeros(len(lengths) + len(lengths) % 2, dtype=np.uint8)
    padded[:len(lengths)] = lengths
    pairs = padded[0::2] << 4 | padded[1::2]
    return pairs.tobytes()


def unpack_lengths(data: bytes, alphabet: int) -> np.ndarray:
    """Return the code lengths (alphabet,) that `pack_lengths` wrote."""
    pairs = np.frombuffer(data, dtype=np.uint8)
    return np.stack([pairs >> 4, pairs & 15], axis=1).reshape(-1)[:alphabet]

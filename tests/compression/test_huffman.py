"""Canonical Huffman codes: as short as the entropy allows, complete, and exact in both directions."""

import numpy as np
import pytest

from t2ilib.compression import huffman
from t2ilib.errors import CheckpointMismatch

RNG = np.random.default_rng(0)


def skewed(count, alphabet, rate):
    return np.minimum(RNG.geometric(rate, count) - 1, alphabet - 1)


@pytest.mark.parametrize("symbols, alphabet", [
    (np.zeros(0, int), 4), (np.array([3]), 4), (np.full(5000, 2), 3), (np.array([0, 1]), 2),
    (skewed(10_000, 33, 0.3), 33), (RNG.integers(0, 2048, 30_000), 2048), (skewed(1024, 256, 0.02), 256),
    (skewed(1025, 256, 0.9), 256)])
def test_round_trip(symbols, alphabet):
    coded = huffman.encode(symbols, alphabet)
    lengths = huffman.unpack_lengths(huffman.pack_lengths(coded.lengths), alphabet)
    np.testing.assert_array_equal(lengths, coded.lengths)
    np.testing.assert_array_equal(huffman.decode(coded._replace(lengths=lengths), len(symbols)), symbols)


def test_known_code():
    lengths = huffman.code_lengths(np.array([45, 13, 12, 16, 9, 5]))  # Cormen et al., figure 16.3
    np.testing.assert_array_equal(lengths, [1, 3, 3, 3, 4, 4])
    np.testing.assert_array_equal(huffman.canonical_codes(lengths), [0b0, 0b100, 0b101, 0b110, 0b1110, 0b1111])


def test_mean_length_is_between_entropy_and_one_bit_more():
    counts = np.bincount(skewed(50_000, 64, 0.2), minlength=64)
    lengths = huffman.code_lengths(counts)
    p = counts[counts > 0] / counts.sum()
    entropy = -(p * np.log2(p)).sum()
    mean = (counts * lengths).sum() / counts.sum()
    assert entropy <= mean < entropy + 1
    huffman.check_lengths(lengths)


def test_long_codes_are_limited():
    fibonacci = [1, 1]
    while len(fibonacci) < 30:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    lengths = huffman.code_lengths(np.array(fibonacci))
    assert lengths.max() <= huffman.LONGEST
    huffman.check_lengths(lengths)


@pytest.mark.parametrize("lengths", [[1, 1, 1], [2, 2], [1, 2], [3], [0, 0, 15]])
def test_tables_that_are_no_code(lengths):
    with pytest.raises(CheckpointMismatch, match="no complete code"):
        huffman.check_lengths(np.array(lengths, dtype=np.uint8))


def test_parts_that_do_not_belong_together():
    coded = huffman.encode(skewed(3000, 16, 0.3), 16)
    for other in (coded._replace(payload=coded.payload[:-1]), coded._replace(chunk_bits=coded.chunk_bits[:-1]),
                  coded._replace(payload=bytes(len(coded.payload)))):
        with pytest.raises(CheckpointMismatch):
            huffman.decode(other, 3000)
    with pytest.raises(CheckpointMismatch):
        huffman.decode(coded, 5000)

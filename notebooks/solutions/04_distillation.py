"""A solution of the exercise of notebook 04: canonical codes."""

import numpy as np

from t2ilib.compression import huffman


def codes_from_lengths(lengths):
    codes = [0] * len(lengths)
    code = before = 0
    for length, symbol in sorted((n, i) for i, n in enumerate(lengths) if n):
        code <<= length - before
        codes[symbol] = code
        code += 1
        before = length
    return codes


for counts in ([5, 1, 1, 2, 9], [1, 1, 1, 1], [0, 7, 2, 2, 0, 1]):
    lengths = huffman.code_lengths(np.array(counts))
    expected = huffman.canonical_codes(lengths)
    assert codes_from_lengths(lengths.tolist()) == expected.tolist(), counts

"""Texts beyond what a model reads, as overlapping windows that it does read."""

import itertools
import math
import re
from collections.abc import Callable, Iterator

OVERLAP = 0.25  # share of a window that its neighbour reads too, so that what a cut tears apart is whole in one of them


def text_windows(text: str, limit: int, count: Callable[[str], int]) -> list[str]:
    """Cut a text between words into windows of at most `limit` tokens, about equally long, overlapping by a quarter.

    Windows are equally long so that their mean weighs every part of the text alike. A word longer than the overlap,
    such as an address or a line without blanks, may be cut inside. A text that fits is returned as it is.

    Args:
        limit: most tokens of a window, special ones included.
        count: text -> number of its tokens, special ones included.

    Returns:
        parts of the text in their order; together they hold every word
    """
    if count(text) <= limit:
        return [text]
    special = count("")
    room = max(1, limit - special)
    longest = special + max(1, int(room * OVERLAP))
    spans = [piece for word in re.finditer(r"\S+", text) for piece in _pieces(text, *word.span(), longest, count)]
    sizes = [max(1, count(text[a:b]) - special) for a, b in spans]
    total = sum(sizes)
    middles = [end - size / 2 for end, size in zip(itertools.accumulate(sizes), sizes, strict=True)]
    parts = max(2, math.ceil((total / room - 1) / (1 - OVERLAP)) + 1)
    while True:
        length = total / (1 + (1 - OVERLAP) * (parts - 1))
        windows = [text[a:b] for a, b in _equal_parts(spans, middles, parts, length)]
        # below one token a window holds one piece at most, and none can be made shorter
        if length < 1 or all(count(window) <= limit for window in windows):
            return windows
        parts += max(1, parts // 8)


def _equal_parts(spans: list[tuple[int, int]], middles: list[float], parts: int,
                 length: float) -> list[tuple[int, int]]:
    """Return where each of the parts starts and ends; a piece belongs to those that hold its middle."""
    found = []
    for part in range(parts):
        start = part * (1 - OVERLAP) * length
        inside = [span for span, middle in zip(spans, middles, strict=True) if start <= middle < start + length]
        if inside:
            found.append((inside[0][0], inside[-1][1]))
    return list(dict.fromkeys(found))


def _pieces(text: str, start: int, end: int, longest: int, count: Callable[[str], int]) -> Iterator[tuple[int, int]]:
    """Return a word's place in the text, or those of its halves, and theirs, until none has too many tokens."""
    if end - start == 1 or count(text[start:end]) <= longest:
        yield start, end
    else:
        middle = (start + end) // 2
        yield from _pieces(text, start, middle, longest, count)
        yield from _pieces(text, middle, end, longest, count)

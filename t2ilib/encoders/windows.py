"""Texts beyond what a model reads, as overlapping windows that it does read."""

import math
import re
from collections.abc import Callable
from typing import NamedTuple

OVERLAP = 0.25  # share of a window that its neighbour reads too, so that what a cut tears apart is whole in one of them


class Piece(NamedTuple):
    """A word, or a part of a long one: where it starts and ends, in characters, and its middle, in tokens."""

    start: int
    end: int
    middle: float


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
    longest_piece = max(1, int(room * OVERLAP))
    pieces, total = _pieces(text, longest_piece, lambda part: count(part) - special)
    step = 1 - OVERLAP  # from one window to the next, in lengths of a window
    parts = max(2, math.ceil((total / room - 1) / step) + 1)
    while True:
        length = total / (1 + step * (parts - 1))
        windows = _windows(text, pieces, parts, length)
        # below one token a window holds one piece at most, and none can be made shorter
        if length < 1 or all(count(window) <= limit for window in windows):
            return windows
        parts += max(1, parts // 8)


def _windows(text: str, pieces: list[Piece], parts: int, length: float) -> list[str]:
    """Return the distinct parts of the text; a piece belongs to those that hold its middle."""
    windows: dict[tuple[int, int], str] = {}
    for part in range(parts):
        start = part * (1 - OVERLAP) * length
        inside = [piece for piece in pieces if start <= piece.middle < start + length]
        if inside:
            first = inside[0].start
            last = inside[-1].end
            windows[first, last] = text[first:last]
    return list(windows.values())


def _pieces(text: str, longest: int, count: Callable[[str], int]) -> tuple[list[Piece], int]:
    """Return the words of a text, long ones in parts, and the number of all their tokens."""
    pieces = []
    total = 0
    for word in re.finditer(r"\S+", text):
        for start, end in _halved(text, word.start(), word.end(), longest, count):
            size = max(1, count(text[start:end]))
            pieces.append(Piece(start, end, total + size / 2))
            total += size
    return pieces, total


def _halved(text: str, start: int, end: int, longest: int, count: Callable[[str], int]) -> list[tuple[int, int]]:
    """Return a word's place in the text, or those of its halves, and theirs, until none has too many tokens."""
    if end - start == 1 or count(text[start:end]) <= longest:
        return [(start, end)]
    middle = (start + end) // 2
    first_half = _halved(text, start, middle, longest, count)
    second_half = _halved(text, middle, end, longest, count)
    return first_half + second_half

"""Word pieces without a package: a table cut out of MiniLM's, and the greedy search that cuts words with it.

MiniLM knows 30,522 pieces, most of which no caption here ever uses. A student's table holds those of its training
captions, all single characters (so that every word can be written), and the commonest others. A table travels inside
the checkpoint as bytes, so it is covered by the checkpoint's hash.

Wu et al. 2016, arXiv:1609.08144, section 4.1.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..errors import BadParameter, CheckpointMismatch

PADDING = "[PAD]"
UNKNOWN = "[UNK]"
SPECIAL = (PADDING, UNKNOWN)
INSIDE = "##"  # begins pieces that go on with a word
LONGEST_WORD = 100  # characters; longer ones are unknown, as in BERT


class CutPieces:
    """Cuts texts into pieces of a table: lower case, no accents, the longest piece that fits first.

    Args:
        pieces: the table; its first two are "[PAD]" and "[UNK]".

    Attributes:
        padding: the id that fills short rows up.

    Raises:
        BadParameter: a table without the two special pieces, or with one twice.
    """

    def __init__(self, pieces: Sequence[str]):
        self.table = list(pieces)
        self._id_of = {piece: i for i, piece in enumerate(self.table)}
        if tuple(self.table[:2]) != SPECIAL or len(self._id_of) != len(self.table):
            raise BadParameter(f"a table of pieces begins with {PADDING} and {UNKNOWN} and names each piece once, got "
                               f"{self.table[:2]} and {len(self.table) - len(self._id_of)} twice")
        self._longest = max(map(len, self.table))
        self.padding = 0
        self.unknown = 1

    def __len__(self) -> int:
        return len(self.table)

    def __call__(self, texts: list[str], max_length: int | None = None) -> list[list[int]]:
        """Return the ids of each text, at least one; with `max_length`, the end of longer texts is cut."""
        rows = []
        for text in texts:
            ids = [i for word in words_of(text) for i in self._cut(word)]
            rows.append((ids or [self.unknown])[:max_length])
        return rows

    def pieces(self, text: str) -> list[str]:
        """Return the pieces of a text as words."""
        return [self.table[i] for i in self([text])[0]]

    def _cut(self, word: str) -> list[int]:
        """Return the ids of a word: greedily the longest piece from the left; one unknown if a rest fits none."""
        if len(word) > LONGEST_WORD:
            return [self.unknown]
        ids = []
        start = 0
        while start < len(word):
            prefix = INSIDE if start else ""
            end = min(len(word), start + self._longest)
            while end > start and prefix + word[start:end] not in self._id_of:
                end -= 1
            if end == start:
                return [self.unknown]
            ids.append(self._id_of[prefix + word[start:end]])
            start = end
        return ids

    def to_bytes(self) -> Tensor:
        """Return the table as bytes (n,) uint8, one piece a line."""
        return torch.frombuffer(bytearray("\n".join(self.table).encode()), dtype=torch.uint8).clone()

    @classmethod
    def from_bytes(cls, data: Tensor) -> "CutPieces":
        """Return the table that `to_bytes` wrote.

        Raises:
            CheckpointMismatch: the bytes are no table.
        """
        try:
            return cls(bytes(data.cpu().numpy()).decode().split("\n"))
        except (UnicodeDecodeError, BadParameter) as error:
            raise CheckpointMismatch(f"the table of word pieces cannot be read ({error}); restore the checkpoint"
                                     ) from error


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case without accents; each sign of punctuation is a word."""
    decomposed = unicodedata.normalize("NFD", text.lower())
    words: list[str] = []
    current = ""
    for character in decomposed:
        category = unicodedata.category(character)
        if category == "Mn":  # an accent
            continue
        is_sign = category[0] in "PS"
        is_space = category[0] in "ZC"
        if (is_sign or is_space) and current:
            words.append(current)
            current = ""
        if is_sign:
            words.append(character)
        elif not is_space:
            current += character
    if current:
        words.append(current)
    return words


def cut_table(vocabulary: Sequence[str], texts: Iterable[str], size: int) -> CutPieces:
    """Return a table of at most `size` pieces: characters, then the pieces of `texts`, then the commonest others.

    Args:
        vocabulary: of a larger tokenizer, commoner pieces first, as BERT's is.

    Raises:
        BadParameter: not even the characters and the words of the texts fit.
    """
    special = set(vocabulary[:1]) | {piece for piece in vocabulary if piece.startswith("[") and piece.endswith("]")}
    plain = [piece for piece in vocabulary if piece not in special and piece.removeprefix(INSIDE).isascii()]
    characters = [piece for piece in plain if len(piece.removeprefix(INSIDE)) == 1]
    counts: Counter[int] = Counter()
    whole = CutPieces([*SPECIAL, *plain])
    for row in whole(list(texts)):
        counts.update(row)
    used = [whole.table[i] for i, _ in counts.most_common() if i >= len(SPECIAL)]
    needed = list(dict.fromkeys([*SPECIAL, *characters, *used]))
    if len(needed) > size:
        raise BadParameter(f"a table of {size} pieces is too small for the {len(needed)} that the texts need")
    others = [piece for piece in plain if piece.removeprefix(INSIDE).isalpha()]
    return CutPieces(list(dict.fromkeys([*needed, *others]))[:size])

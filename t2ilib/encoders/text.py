"""Frozen text encoders behind one interface: texts in, token features and one unit vector of each out."""

import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ..errors import BadParameter


class TextFeatures(NamedTuple):
    """What an encoder says of B texts: `tokens` (B, T, D), `mask` (B, T) bool, `pooled` (B, D) of unit norm."""

    tokens: Tensor
    mask: Tensor
    pooled: Tensor


class Tokenizer(Protocol):
    """Cuts texts into tokens, special ones included."""

    @property
    def padding(self) -> int:
        """Return the id that fills short rows up."""

    def __call__(self, texts: list[str], max_length: int | None = None) -> list[list[int]]:
        """Return the ids of each text; with `max_length`, the end of longer texts is cut."""

    def pieces(self, text: str) -> list[str]:
        """Return the tokens of a text as words."""


def mean_pool(tokens: Tensor, mask: Tensor) -> Tensor:
    """Average the tokens that the mask keeps: (B, T, D), (B, T) -> (B, D), not normalised."""
    weight = mask.unsqueeze(-1).to(tokens.dtype)  # (B, T, 1)
    return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1e-9)


class TextEncoder:
    """A frozen transformer that turns texts into token features and one unit vector each.

    Distinct texts are encoded once in a call, sorted by length so that little is spent on padding, always without
    gradients.

    Shapes:
        encode: list of B strings -> tokens (B, T, D), mask (B, T), pooled (B, D)
        pooled: list of B strings -> (B, D)

    Attributes:
        model: ids (B, T), mask (B, T) -> tokens (B, T, D).
        tokenizer, name, dim (D), max_length (tokens; longer texts are cut, with a warning), device.
        fingerprint: tells its weights from others under the same name.
        pool: tokens (B, T, D), mask (B, T) -> one vector of each text (B, D), which is then normalised.
    """

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, *, name: str, dim: int, max_length: int,
                 fingerprint: str = "", pool: Callable[[Tensor, Tensor], Tensor] = mean_pool):
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.dim = dim
        self.max_length = max_length
        self.fingerprint = fingerprint or name
        self.pool = pool

    @property
    def device(self) -> torch.device:
        """Where the network lies; features come back there."""
        return next(self.model.parameters()).device

    def to(self, device: torch.device | str) -> "TextEncoder":
        """Move the network."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def encode(self, texts: list[str], *, batch_size: int = 128) -> TextFeatures:
        """Return tokens (B, T, D), mask (B, T) and unit-norm pooled (B, D); T is the longest text of the call.

        Raises:
            BadParameter: not a list of strings.
        """
        if not check_texts(texts):
            return TextFeatures(tokens=torch.zeros(0, 0, self.dim, device=self.device),
                                mask=torch.zeros(0, 0, dtype=torch.bool, device=self.device),
                                pooled=torch.zeros(0, self.dim, device=self.device))
        tokens_of: dict[str, Tensor] = {}  # (T of this text, D)
        pooled_of: dict[str, Tensor] = {}
        for part, (tokens, mask, pooled) in self._batches(texts, batch_size):
            lengths = mask.sum(1).tolist()
            for i, text in enumerate(part):
                tokens_of[text] = tokens[i, :lengths[i]]
                pooled_of[text] = pooled[i]
        rows = [tokens_of[text] for text in texts]
        tokens = pad_sequence(rows, batch_first=True)  # (B, T, D)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(tokens.shape[1]) < lengths[:, None]  # (B, T)
        return TextFeatures(tokens, mask.to(tokens.device), torch.stack([pooled_of[text] for text in texts]))

    @torch.no_grad()
    def pooled(self, texts: list[str], *, batch_size: int = 128) -> Tensor:
        """Return only the unit-norm vectors (B, D): for many captions, whose token features would fill the memory.

        Inside bf16 autocast a CPU that multiplies it takes half the time; the vectors differ by about 0.01.
        """
        distinct = check_texts(texts)
        row_of = {text: row for row, text in enumerate(distinct)}
        table = torch.zeros(len(distinct), self.dim, device=self.device)
        for part, features in self._batches(texts, batch_size):
            rows = [row_of[text] for text in part]
            table[rows] = features.pooled.to(table.dtype)
        if not texts:
            return table
        return table[[row_of[text] for text in texts]]

    def _batches(self, texts: list[str], batch_size: int) -> Iterator[tuple[list[str], TextFeatures]]:
        """Yield parts of the distinct texts, longest first (so that memory peaks at once), with their features."""
        distinct = sorted(check_texts(texts), key=len, reverse=True)
        for start in range(0, len(distinct), batch_size):
            part = distinct[start:start + batch_size]
            ids, mask = tokenize(self.tokenizer, part, self.max_length, name=self.name)
            mask = mask.to(self.device)
            tokens = self.model(ids.to(self.device), mask)
            tokens = tokens * mask.unsqueeze(-1)  # what stands at padded places is noise: readers get zeros
            pooled = F.normalize(self.pool(tokens.float(), mask), dim=-1)
            yield part, TextFeatures(tokens, mask, pooled)


def check_texts(texts: list[str]) -> list[str]:
    """Return the distinct texts in their order, after checking that they are a list of strings."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise BadParameter(f"texts: got {type(texts).__name__}, expected a list of strings; put a single one in [...]")
    return list(dict.fromkeys(texts))


def tokenize(tokenizer: Callable[..., list[list[int]]], texts: list[str], max_length: int, *,
             name: str | None) -> tuple[Tensor, Tensor]:
    """Tokenise to the longest text of the call; texts beyond `max_length` tokens are cut, with one warning.

    Args:
        name: the reader in the warning; None does not warn, because the caller does.

    Returns:
        ids (B, T) int64, filled up at the end; mask (B, T) bool, True at real tokens
    """
    rows = tokenizer(texts)
    long = [text for text, row in zip(texts, rows, strict=True) if len(row) > max_length]
    if long:
        if name is not None:
            warnings.warn(f"{name} reads at most {max_length} tokens: the end of {len(long)} of {len(texts)} texts is "
                          f"ignored, first of {long[0][:60]!r}...", stacklevel=4)
        rows = tokenizer(texts, max_length)
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=tokenizer.padding)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(ids.shape[1]) < lengths[:, None]

"""What networks read of texts: each distinct text encoded once, and any number of them as one padded batch."""

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from .text import TextEncoder
from ..diffusion.text_guidance import Condition, TextConditional, null_condition
from ..errors import BadParameter

Encoded = TypeVar("Encoded")


class TextCache(Generic[Encoded]):
    """Encode each distinct text once, for as long as this object lives.

    Args:
        encode: list of distinct texts -> what is kept of each, in their order.
    """

    def __init__(self, encode: Callable[[list[str]], Iterable[Encoded]]):
        self._encode = encode
        self._known: dict[str, Encoded] = {}

    def __call__(self, texts: Sequence[str]) -> list[Encoded]:
        """Return what is kept of each text; those that are new are encoded in one call."""
        distinct = dict.fromkeys(texts)
        new = [text for text in distinct if text not in self._known]
        if new:
            encoded = self._encode(new)
            self._known.update(zip(new, encoded, strict=True))
        return [self._known[text] for text in texts]


class TextCondition(NamedTuple):
    """What a network reads of one text: `tokens` (T, E) and `pooled` (E,)."""

    tokens: Tensor
    pooled: Tensor


class TextConditioner:
    """Turn texts into conditions on a device; each distinct text is encoded once.

    Args:
        text_encoder: the frozen encoder that the network was trained with. device: where the network lies.
    """

    def __init__(self, text_encoder: TextEncoder, device: torch.device | str):
        self.text_encoder = text_encoder
        self.device = torch.device(device)
        self._cache = TextCache(self._encode)

    def __call__(self, texts: Sequence[str | TextCondition]) -> list[TextCondition]:
        """Return the condition of each text; what is a condition already is handed on."""
        strings = [text for text in texts if isinstance(text, str)]
        condition_of = dict(zip(strings, self._cache(strings), strict=True))
        conditions = []
        for text in texts:
            conditions.append(condition_of[text] if isinstance(text, str) else text)
        return conditions

    def with_and_without(self, texts: Sequence[str | TextCondition], network: TextConditional,
                         negative: str | None = None) -> tuple[Condition, Condition]:
        """Return what a network reads of texts, and what it reads without them, for classifier-free guidance.

        Args:
            network: knows what stands for no text. negative: a text to be guided away from, in the place of no text.
        """
        conditions = self(texts)
        if not negative:
            condition = batch_conditions(conditions)
            return condition, null_condition(network, condition)
        both = batch_conditions([*conditions, *self([negative])])  # in one batch, so that both are padded alike
        count = len(conditions)
        condition = {name: x[:count] for name, x in both.items()}
        unconditional = {name: x[count:].expand_as(condition[name]) for name, x in both.items()}
        return condition, unconditional

    @torch.no_grad()
    def _encode(self, texts: list[str]) -> list[TextCondition]:
        tokens, mask, pooled = self.text_encoder.encode(texts)
        tokens = tokens.to(self.device)  # (B, T, E)
        mask = mask.to(self.device)  # (B, T)
        pooled = pooled.to(self.device)  # (B, E)
        return [TextCondition(tokens[i, mask[i]], pooled[i]) for i in range(len(texts))]


def batch_conditions(conditions: Sequence[TextCondition]) -> dict[str, Tensor]:
    """Return conditions as one batch, padded with zeros to the longest.

    Shapes:
        tokens (B, T, E), mask (B, T) bool: True at real tokens, pooled (B, E)
    """
    tokens = pad_sequence([condition.tokens for condition in conditions], batch_first=True)
    lengths = torch.tensor([len(condition.tokens) for condition in conditions])
    mask = torch.arange(tokens.shape[1]) < lengths[:, None]  # (B, T)
    pooled = torch.stack([condition.pooled for condition in conditions])  # (B, E)
    return {"tokens": tokens, "mask": mask.to(tokens.device), "pooled": pooled}


def mix_conditions(a: TextCondition, b: TextCondition, share: float) -> TextCondition:
    """Return what lies between two texts, for pictures that go over from one to the other: 0 is a, 1 is b.

    Token by token, where one text is longer its tokens fade; the pooled feature moves along the sphere.

    Raises:
        BadParameter: share is not in [0, 1].
    """
    if not 0 <= share <= 1:
        raise BadParameter(f"share must be in [0, 1], from the first text to the second, got {share}")
    if share == 0:
        return a
    if share == 1:
        return b
    # the shorter text is padded with zeros, so that tokens which only the longer one has fade
    tokens = pad_sequence([(1 - share) * a.tokens, share * b.tokens], batch_first=True).sum(0)  # (T, E)
    direction = F.normalize(torch.lerp(a.pooled, b.pooled, share), dim=0)
    length = torch.lerp(a.pooled.norm(), b.pooled.norm(), share)
    return TextCondition(tokens, direction * length)

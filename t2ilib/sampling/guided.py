"""Networks that predict codes, asked with the text and without it in one batch."""

from typing import Any, Protocol

import torch
from torch import Tensor

from ..diffusion.text_guidance import Condition
from ..errors import BadParameter


class MaskedNetwork(Protocol):
    """Predicts all codes of a picture from those that are not `mask_token`."""

    places: int
    mask_token: int

    def __call__(self, codes: Tensor, **condition: Tensor) -> Tensor:
        """Return logits (B, N, K) for codes (B, N)."""


class CausalNetwork(Protocol):
    """Predicts each code of a picture from those before it."""

    places: int

    def __call__(self, codes: Tensor, **condition: Tensor) -> Tensor:
        """Return logits (B, n, K) for codes (B, n), those of code i from the codes before i."""

    def start(self, **condition: Tensor) -> Any:
        """Return the state of a decoding that has read its text and no code."""

    def next_logits(self, codes: Tensor, decoding: Any) -> Tensor:
        """Read further codes (B, n), none in the first call perhaps; return logits (B, K) of the code after them."""


class GuidedLogits:
    """Classifier-free guidance on logits (Ho and Salimans 2022): l_0 + scale (l_c - l_0).

    Args:
        condition, unconditional: tensors (B, ...) by name, of equal shapes. Without `unconditional` there is no
            guidance, and the network runs on half the batch.

    Raises:
        BadParameter: the two differ in names or shapes.
    """

    def __init__(self, condition: Condition, unconditional: Condition | None):
        self.condition = condition
        self.is_guided = unconditional is not None
        if unconditional is None:
            return
        shapes = {name: tuple(x.shape) for name, x in condition.items()}
        unconditional_shapes = {name: tuple(x.shape) for name, x in unconditional.items()}
        if shapes != unconditional_shapes:
            raise BadParameter(f"condition and unconditional need the same names and shapes, got {shapes} and "
                               f"{unconditional_shapes}; encode both lists of texts in one call, which pads them alike")
        self.condition = {name: torch.cat([condition[name], unconditional[name]]) for name in condition}

    def twice(self, codes: Tensor) -> Tensor:
        """Return codes as the network takes them beside `condition`: (B, n) -> (2B, n), or (B, n) without guidance."""
        return torch.cat([codes, codes]) if self.is_guided else codes

    def mix(self, logits: Tensor, scale: float) -> Tensor:
        """Return what both answers say together: (2B, ..., K) -> (B, ..., K), float32."""
        logits = logits.float()
        if not self.is_guided:
            return logits
        conditional, null = logits.chunk(2)
        return null + scale * (conditional - null)

"""Classifier-free guidance: follow a text further than the network would by itself."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from .schedule import per_picture
from ..errors import BadParameter

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (x_t (B, ...), t (B,)) -> the predicted target (B, ...)
Condition = dict[str, Tensor]  # what a network reads beside x_t and t, each (B, ...), by the name of its argument


class TextConditional(Protocol):
    """A network that was trained to do without text now and then."""

    def without_text(self, tokens: Tensor, mask: Tensor, pooled: Tensor, drop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens, mask and pooled feature, with what stands for no text where `drop` (B,) is True."""


def null_condition(network: TextConditional, condition: Condition) -> Condition:
    """Return what the network was trained to read where there is no text, in the shapes of `condition`.

    Args:
        network: knows what stands for no text.
        condition: tokens (B, T, E), mask (B, T) bool and pooled (B, E).
    """
    tokens = condition["tokens"]
    drop = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
    tokens, mask, pooled = network.without_text(tokens, condition["mask"], condition["pooled"], drop)
    return {"tokens": tokens, "mask": mask, "pooled": pooled}


def with_guidance(denoiser: Callable[[Tensor, Tensor, Condition], Tensor], condition: Condition,
                  unconditional: Condition, scale: float, *,
                  interval: tuple[float, float] = (0.0, 1.0)) -> Denoiser:
    """Return a denoiser with classifier-free guidance (Ho and Salimans 2022, eq. 6): v_0 + scale (v_c - v_0).

    Args:
        denoiser: (x_t, t, condition) -> prediction. condition, unconditional: tensors (B, ...) by name, of equal
            shapes. With a negative prompt, `unconditional` is the condition of that text.
        scale: 1 means the plain conditional network and 0 the unconditional one, each in a single pass; any other
            scale evaluates both as one batch of 2B.
        interval: the times between which, both included, there is guidance; at others the plain conditional network
            runs, in a single pass (Kynkaanniemi et al. 2024, "Applying guidance in a limited interval").

    Raises:
        BadParameter: the two conditions differ in names or shapes, or the interval is not within [0, 1].
    """
    low, high = interval
    if not 0 <= low <= high <= 1:
        raise BadParameter(f"the guidance interval is two times with 0 <= low <= high <= 1, got {interval}")
    shapes = {name: tuple(x.shape) for name, x in condition.items()}
    unconditional_shapes = {name: tuple(x.shape) for name, x in unconditional.items()}
    if shapes != unconditional_shapes:
        raise BadParameter(f"condition and unconditional need the same names and shapes, got {shapes} and "
                           f"{unconditional_shapes}; encode both lists of texts in one call, which pads them alike")

    always = (low, high) == (0, 1)
    if scale == 1:
        return lambda x_t, t: denoiser(x_t, t, condition)
    if scale == 0 and always:
        return lambda x_t, t: denoiser(x_t, t, unconditional)
    both = {name: torch.cat([condition[name], unconditional[name]]) for name in condition}

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        inside = (t >= low) & (t <= high)  # (B,)
        if not always and not inside.any():
            return denoiser(x_t, t, condition)
        prediction = denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), both)  # (2B, ...)
        conditional, null = prediction.chunk(2)
        guidance = null + scale * (conditional - null)
        if always:
            return guidance
        return torch.where(per_picture(inside, x_t.ndim), guidance, conditional)

    return guided

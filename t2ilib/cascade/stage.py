"""One network of a cascade, and what it was trained for."""

from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn

from .latents import LatentSpace
from ..diffusion import Schedule
from ..errors import CheckpointMismatch


@dataclass(frozen=True)
class Stage:
    """One network of a cascade, and what it was trained for.

    Attributes:
        network: `(x_t, t, tokens, mask, pooled, low=, low_t=) -> prediction`, with `without_text`.
        size: side of its pictures. schedule, shift, target: of `diffusion`.
        level: time to which the smaller picture is noised when sampling; the first stage ignores it.
        space: where the network works if not among pixels; of the first stage only.
    """

    network: nn.Module
    size: int
    schedule: str = "cosine"
    shift: float = 0.0
    target: str = "v"
    level: float = 0.1
    space: LatentSpace | None = None

    def __post_init__(self):
        predicts_residual = getattr(self.network, "residual_std", 0)
        if predicts_residual and self.network.schedule != self.noising:
            raise CheckpointMismatch(f"the network predicts around the smaller picture with the schedule "
                                     f"{self.network.schedule}, the stage has {self.noising}; give both the same")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the shape (C, H, W) of what the network draws."""
        if self.space is not None:
            return self.space.shape(self.size)
        return 3, self.size, self.size

    @property
    def noising(self) -> Schedule:
        """Return the schedule with its shift."""
        return Schedule(self.schedule, self.shift)

    def encode(self, pictures: Tensor) -> Tensor:
        """Return what the network would have drawn: pictures (B, 3, size, size) in [-1, 1] themselves, or latents."""
        return pictures if self.space is None else self.space.encode(pictures)

    def decode(self, x: Tensor) -> Tensor:
        """Return pictures (B, 3, size, size) in [-1, 1] of what the network drew."""
        return x.clamp(-1, 1) if self.space is None else self.space.decode(x)

    @classmethod
    def card_names(cls) -> set[str]:
        """Return the names of what a stage is beside its network, as a checkpoint says it."""
        return {field.name for field in fields(cls)} - {"network", "space"}

    def card(self) -> dict[str, Any]:
        """Return what a checkpoint must say of the network, as plain JSON types: `Stage(network, **card)`."""
        return {name: getattr(self, name) for name in sorted(self.card_names())}

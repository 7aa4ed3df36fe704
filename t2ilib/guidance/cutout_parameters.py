"""Everything random about the cutouts of one step, as an object that can be kept, shared, divided and joined."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import BadParameter


@dataclass(frozen=True)
class CutoutParameters:
    """Everything random about the cutouts of one step; independent of the size they are rendered at.

    Shapes:
        matrix (B, n, 3, 3): output to picture, both in [-1, 1] between outer edges
        colour (B, n, 3, 3), gain (B, n): see `colour_matrices`
        recolour (B, n): 1 where a plain background gets another colour, else 0; background (B, n, 3): that colour
        erase (B, n, 4): box x0, y0, x1, y1 in [0, 1], empty for none
        noise (B, n): standard deviation; noise_seed: B integers
        sharpness (B, n): see `sharpen`; None changes nothing
        bend (B, n, 2, K): see `bend_basis`; None bends nothing
        source (B, N, 3, 3), start: the matrices of all N cutouts of which these are a part, and where it begins

    Attributes:
        fill: what lies outside the picture, see `Augmentations`. pool: shrink the picture first, see `pooled`.
    """

    matrix: Tensor
    colour: Tensor
    gain: Tensor
    recolour: Tensor
    background: Tensor
    erase: Tensor
    noise: Tensor
    noise_seed: tuple[int, ...]
    fill: str = "background"
    sharpness: Tensor | None = None
    bend: Tensor | None = None
    pool: bool = False
    source: Tensor | None = None
    start: int = 0

    @classmethod
    def plain(cls, matrix: Tensor) -> "CutoutParameters":
        """Return the parameters of windows to which nothing else happens: matrix (B, n, 3, 3)."""
        zero = torch.zeros_like(matrix[..., 0, 0])  # (B, n)
        identity = torch.eye(3, dtype=matrix.dtype).expand_as(matrix)
        return cls(
            matrix=matrix,
            colour=identity,
            gain=zero,
            recolour=zero,
            background=zero[..., None].expand(*zero.shape, 3),
            erase=zero[..., None].expand(*zero.shape, 4),
            noise=zero,
            noise_seed=(0,) * len(matrix),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields that are tensors, by name."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "CutoutParameters":
        """Return a copy on a device, in a precision."""
        moved = {name: value.to(dtype).to(device) for name, value in self.tensors().items()}
        return dataclasses.replace(self, **moved)

    def expand(self, pictures: int) -> "CutoutParameters":
        """Return the parameters of one picture for several, so that all are cut alike."""
        wide = {name: value.expand(pictures, *value.shape[1:]) for name, value in self.tensors().items()}
        return dataclasses.replace(self, **wide, noise_seed=self.noise_seed[:1] * pictures)

    def cutouts(self, start: int, stop: int) -> "CutoutParameters":
        """Return the parameters of each picture's cutouts from `start` to `stop`, as views.

        Rendered part by part, they are the same bits, noise included, as rendered at once.

        Raises:
            BadParameter: there is no such part.
        """
        count = self.matrix.shape[1]
        if not 0 <= start < stop <= count:
            raise BadParameter(f"cutouts({start}, {stop}) of {count}: need 0 <= start < stop <= {count}")
        part = {name: value[:, start:stop] for name, value in self.tensors().items()}
        part["source"] = self.matrix if self.source is None else self.source
        part["start"] = self.start + start
        return dataclasses.replace(self, **part)

    @staticmethod
    def cat(parts: Sequence["CutoutParameters"]) -> "CutoutParameters":
        """Join the cutouts of the same pictures along n; the noise of all is drawn from the first one's seeds.

        All parts of one set, in their order, are that set again, bit for bit.

        Raises:
            BadParameter: there are none, or they are for other numbers of pictures, or differ in `fill` or `pool`.
        """
        kinds = {(len(part.matrix), part.fill, part.pool) for part in parts}
        if len(kinds) != 1:
            raise BadParameter("cutouts can be joined if they are for equally many pictures and agree in fill and "
                               f"pool; got {sorted(kinds)}")
        names = {name for part in parts for name in part.tensors()} - {"source"}
        joined = {name: _cat_field(name, parts) for name in names}
        return dataclasses.replace(parts[0], **joined, source=None, start=0)


def _cat_field(name: str, parts: Sequence[CutoutParameters]) -> Tensor:
    """Join one field along n; a part without it gets the value that changes nothing."""
    present = [getattr(part, name) for part in parts]
    like = next(value for value in present if value is not None)
    neutral = 1.0 if name == "sharpness" else 0.0
    values = []
    for part, value in zip(parts, present, strict=True):
        if value is None:
            shape = (*part.matrix.shape[:2], *like.shape[2:])
            value = like.new_full(shape, neutral)
        values.append(value)
    return torch.cat(values, dim=1)

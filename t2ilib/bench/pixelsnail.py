"""Drawing codes with PixelSNAIL: a column of work a code beside plain sampling, and growth with the number of codes."""

from collections.abc import Iterator, Sequence

import torch

from .measure import Contest, Row, precision
from .text_transformer import (
    BATCHES,
    COLUMNS_TIMED,
    UNCACHED,
    CausalMaterial,
    cached,
    per_picture,
    random_texts,
    uncached,
    with_random_weights,
)
from ..models.pixelsnail import PixelSNAIL
from ..models.sizes import PIXELSNAIL

SIDES = (8, 16, 32)  # of grids of 64, 256 and 1024 codes
SIZES = ("shipped", "port")


def make_material(side: int, batch: int, device: torch.device, *, size: str = "shipped") -> CausalMaterial:
    """Return a network of a size in `PIXELSNAIL` with random weights, for grids of side x side codes, and texts."""
    network = with_random_weights(PixelSNAIL(**PIXELSNAIL[size], height=side, width=side), device)
    return CausalMaterial(network, random_texts(network, batch, device), batch, device)


def pixelsnail_rows(device: torch.device, seconds: float, *, sides: Sequence[int] = SIDES,
                    batches: Sequence[int] = BATCHES, sizes: Sequence[str] = SIZES, columns: int = COLUMNS_TIMED,
                    least: int = 3) -> Iterator[Row]:
    """Seconds a picture, without guidance, at several numbers of codes.

    Plain sampling computes, for each code, all rows down to its own, as the public port does.

    Args:
        sides: of the grids. batches: pictures drawn at once. sizes: of networks, names in `PIXELSNAIL`.
        columns: codes of a picture that are timed in plain sampling; the time is scaled to all of them.
        least: timed calls of each provider.
    """
    dtype = precision(torch.float32, device)
    for size in sizes:
        for side in sides:
            for batch in batches:
                material = make_material(side, batch, device, size=size)
                shape = f"{size}, {material.places} codes, batch {batch}"
                contest = Contest("pixelsnail", shape, device, baseline=UNCACHED)
                plain, scale = uncached(material, columns)
                contest.add(UNCACHED, plain, dtype=dtype)
                contest.add("cached", cached(material), dtype=dtype)
                yield from per_picture(contest.time_rows("sampling", seconds, least), scale, batch, columns)

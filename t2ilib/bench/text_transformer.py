"""Drawing codes: with a cache and reading everything anew, growth with the number of codes, and masked passes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .measure import Contest, Row, noise, precision, short_name
from .memory import Work
from ..models.sizes import TEXT_TRANSFORMER
from ..models.text_transformer import TextTransformer
from ..runtime import autocast, generator, pick_dtype
from ..sampling import sample_autoregressive, sample_masked
from ..sampling.decoders import PASSES

TEXT_TOKENS = 8  # as captions of the emoji set have
SIDES = (8, 16, 32)  # of grids of 64, 256 and 1024 codes
BATCHES = (1, 8)
COLUMNS_TIMED = 8  # places at which reading everything anew is timed
UNCACHED = "uncached"


@dataclass(frozen=True)
class CausalMaterial:
    """A causal network and texts, on a device.

    Attributes:
        condition: tokens, mask and pooled by name, of `batch` texts. places: number of codes of a picture.
    """

    causal: Any
    condition: dict[str, Tensor]
    batch: int
    device: torch.device

    @property
    def places(self) -> int:
        return self.causal.places

    def streams(self) -> list[torch.Generator]:
        """Return a stream for each picture, from its beginning."""
        return [generator(0, "bench", "codes", i) for i in range(self.batch)]


@dataclass(frozen=True)
class Material(CausalMaterial):
    """With it another network of the same size, and one with squares of codes."""

    masked: TextTransformer
    squares: TextTransformer


def make_material(side: int, batch: int, device: torch.device, *, size: str = "large") -> Material:
    """Return networks of a size in `TEXT_TRANSFORMER` with random weights, for grids of side x side codes."""
    networks = []
    for changes in (dict(causal=True), dict(causal=False), dict(merge=2)):
        sizes = TEXT_TRANSFORMER[size] | changes
        network = TextTransformer(**sizes, height=side, width=side)
        networks.append(with_random_weights(network, device))
    causal, *others = networks
    return Material(causal, random_texts(causal, batch, device), batch, device, *others)


def with_random_weights(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device and give it weights none of which is zero; return it, in eval mode."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05, generator=generator(0, "bench", "weights"))
    return network.to(device).eval().requires_grad_(False)


def random_texts(network: nn.Module, batch: int, device: torch.device) -> dict[str, Tensor]:
    """Return what a network reads of so many texts, by name; nothing if it reads none."""
    if not hasattr(network, "null_token"):
        return {}
    width = network.null_token.shape[0]
    return {
        "tokens": noise(batch, TEXT_TOKENS, width, device=device, name="tokens"),
        "mask": torch.ones(batch, TEXT_TOKENS, dtype=torch.bool, device=device),
        "pooled": noise(batch, width, device=device, name="pooled"),
    }


def cached(material: CausalMaterial) -> Work:
    """Return a function that draws all codes, each for one column of work."""
    return lambda: sample_autoregressive(material.causal, material.condition, generators=material.streams())


def uncached(material: CausalMaterial, columns: int) -> tuple[Work, float]:
    """Return a function that draws some codes by reading all before them anew, and by how much to scale its time.

    Drawing a code costs more the more stand before it; the columns are spread evenly, in the middle of equal parts.
    """
    places = material.places
    columns = min(columns, places)
    ends = [int((i + 0.5) * places / columns) + 1 for i in range(columns)]
    codes = torch.zeros(material.batch, places, dtype=torch.long, device=material.device)

    @torch.no_grad()
    def work() -> None:
        for end in ends:
            material.causal(codes[:, :end], **material.condition)[:, -1].argmax(-1)

    return work, places / columns


def masked(network: TextTransformer, material: Material, dtype: torch.dtype) -> Work:
    """Return a function that draws all codes in a few passes of a network that is not causal."""
    def work() -> None:
        with autocast(material.device, dtype):
            sample_masked(network, material.condition, generators=material.streams(), passes=PASSES)

    return work


def text_transformer_rows(device: torch.device, seconds: float, *, sides: Sequence[int] = SIDES,
                          batches: Sequence[int] = BATCHES, size: str = "large", columns: int = COLUMNS_TIMED,
                          least: int | None = None) -> Iterator[Row]:
    """Seconds a picture, without guidance, at several numbers of codes.

    Args:
        sides: of the grids. batches: pictures drawn at once. size: of the network, a name in `TEXT_TRANSFORMER`.
        columns: codes of a picture that are timed where everything is read anew; the time is scaled to all of them.
        least: timed calls of each provider.
    """
    least = least or (5 if device.type == "cuda" else 3)
    fast = pick_dtype(device)
    for side in sides:
        for batch in batches:
            material = make_material(side, batch, device, size=size)
            contest = Contest("text_transformer", f"{material.places} codes, batch {batch}", device, baseline=UNCACHED)
            slow, scale = uncached(material, columns)
            contest.add(UNCACHED, slow, dtype=precision(torch.float32, device))
            contest.add("cached", cached(material), dtype=precision(torch.float32, device))
            for dtype in dict.fromkeys([torch.float32, fast]):
                ending = "" if dtype == torch.float32 else f", {short_name(dtype)}"
                for name, network in (("masked", material.masked), ("squares, masked", material.squares)):
                    label = f"{name}, {PASSES} passes{ending}"
                    contest.add(label, masked(network, material, dtype), dtype=precision(dtype, device))
            yield from per_picture(contest.time_rows("sampling", seconds, least), scale, batch, columns)


def per_picture(rows: Sequence[Row], scale: float, batch: int, columns: int) -> Iterator[Row]:
    """Yield rows of milliseconds a call as seconds a picture, those of the baseline scaled to all codes."""
    base = next(row.p50 for row in rows if row.provider == UNCACHED) * scale
    for row in rows:
        factor = 1.0
        mode = row.mode
        if row.provider == UNCACHED:
            factor = scale
            mode = f"{row.mode}, scaled from {columns} codes"
        p50, p20, p80 = (round(ms * factor / batch / 1e3, 5) for ms in (row.p50, row.p20, row.p80))
        ratio = round(base / (factor * row.p50), 3)
        yield replace(row, mode=mode, metric="s a picture", p50=p50, p20=p20, p80=p80, ratio=ratio)

"""Pictures larger than memory: windows of the code grid that are decoded one at a time, and sewn together."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def draw_windows(generators: Sequence[torch.Generator], size: tuple[int, int], window: tuple[int, int]) -> list:
    """Draw a window within a grid for each picture, from its own stream: a list of (top, left) in codes.

    Positions beyond the edge count as at the edge, so that the outer codes are seen as often as the others.
    """
    def place(g: torch.Generator, side: int, part: int) -> int:
        reach = part // 2 if side > part else 0
        at = int(torch.randint(-reach, side - part + reach + 1, (), generator=g))
        return min(max(at, 0), side - part)

    return [tuple(place(g, side, part) for side, part in zip(size, window, strict=True)) for g in generators]


def cut_windows(grid: Tensor, corners: Sequence[tuple[int, int]], window: tuple[int, int], scale: int = 1) -> Tensor:
    """Return each picture's window; `scale` converts codes to pixels.

    Shapes:
        grid (B, C, H, W), or (1, C, H, W) for all -> (B, C, window[0] * scale, window[1] * scale)
    """
    height, width = (side * scale for side in window)
    return torch.stack([grid[i if len(grid) > 1 else 0, :, y * scale:y * scale + height, x * scale:x * scale + width]
                        for i, (y, x) in enumerate(corners)])


@torch.no_grad()
def decode_tiled(decode: Callable[[Tensor], Tensor], z: Tensor, window: tuple[int, int], overlap: int = 4) -> Tensor:
    """Decode a grid window by window; neighbours share `overlap` codes, across which one fades into the next.

    Args:
        decode: (B, D, h, w) -> (B, C, f h, f w).

    Shapes:
        z (B, D, h, w) -> (B, C, f h, f w)
    """
    height, width = z.shape[-2:]
    total = weight = None
    for y in _starts(height, window[0], overlap):
        for x in _starts(width, window[1], overlap):
            part = decode(z[:, :, y:y + window[0], x:x + window[1]])
            factor = part.shape[-1] // min(window[1], width)
            if total is None:
                total = part.new_zeros(len(z), part.shape[1], height * factor, width * factor)
                weight = part.new_zeros(1, 1, height * factor, width * factor)
            rows, columns = (_ramp(side, overlap * factor, part) for side in part.shape[-2:])
            ramp = rows[:, None] * columns
            place = (slice(None), slice(None), slice(y * factor, y * factor + part.shape[-2]),
                     slice(x * factor, x * factor + part.shape[-1]))
            total[place] += part * ramp
            weight[place] += ramp
    return total / weight


def _starts(side: int, window: int, overlap: int) -> list[int]:
    """Return where windows begin so that they cover the side and overlap; the last one ends with it."""
    if side <= window:
        return [0]
    stride = max(1, window - overlap)
    return sorted({*range(0, side - window, stride), side - window})


def _ramp(length: int, overlap: int, like: Tensor) -> Tensor:
    """Return weights that rise from the edges over `overlap` pixels, never 0."""
    distance = torch.arange(length, device=like.device, dtype=like.dtype) + 0.5
    return (torch.minimum(distance, length - distance) / max(overlap, 1)).clamp(max=1)

"""Pictures larger than memory: windows of the code grid that are decoded one at a time, and sewn together."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def draw_windows(generators: Sequence[torch.Generator], size: tuple[int, int], window: tuple[int, int]
                 ) -> list[tuple[int, int]]:
    """Draw a window within a grid for each picture, from its own stream: a list of (top, left) in codes.

    Positions beyond the edge count as at the edge, so that the outer codes are seen as often as the others.
    """
    corners = []
    for g in generators:
        top = _draw_start(g, size[0], window[0])
        left = _draw_start(g, size[1], window[1])
        corners.append((top, left))
    return corners


def _draw_start(generator: torch.Generator, side: int, window: int) -> int:
    reach = window // 2 if side > window else 0
    start = int(torch.randint(-reach, side - window + reach + 1, (), generator=generator))
    return min(max(start, 0), side - window)


def cut_windows(grid: Tensor, corners: Sequence[tuple[int, int]], window: tuple[int, int], scale: int = 1) -> Tensor:
    """Return each picture's window; `scale` converts codes to pixels.

    Shapes:
        grid (B, C, H, W), or (1, C, H, W) for all -> (B, C, window[0] * scale, window[1] * scale)
    """
    height = window[0] * scale
    width = window[1] * scale
    parts = []
    for i, (top, left) in enumerate(corners):
        picture = grid[i] if len(grid) > 1 else grid[0]
        y = top * scale
        x = left * scale
        parts.append(picture[:, y:y + height, x:x + width])
    return torch.stack(parts)


@torch.no_grad()
def decode_tiled(decode: Callable[[Tensor], Tensor], z: Tensor, window: tuple[int, int], overlap: int = 4) -> Tensor:
    """Decode a grid window by window; neighbours share `overlap` codes, across which one fades into the next.

    Args:
        decode: (B, D, h, w) -> (B, C, f h, f w).

    Shapes:
        z (B, D, h, w) -> (B, C, f h, f w)
    """
    height, width = z.shape[-2:]
    total = None  # of all windows, each pixel times its weight
    weight = None
    for y in _starts(height, window[0], overlap):
        for x in _starts(width, window[1], overlap):
            part = decode(z[:, :, y:y + window[0], x:x + window[1]])
            factor = part.shape[-1] // min(window[1], width)  # pixels per code
            if total is None:
                total = part.new_zeros(len(z), part.shape[1], height * factor, width * factor)
                weight = part.new_zeros(1, 1, height * factor, width * factor)
            rows = _ramp(part.shape[-2], overlap * factor, part)
            columns = _ramp(part.shape[-1], overlap * factor, part)
            ramp = rows[:, None] * columns  # (rows, columns)
            bottom = y * factor + part.shape[-2]
            right = x * factor + part.shape[-1]
            total[:, :, y * factor:bottom, x * factor:right] += part * ramp
            weight[:, :, y * factor:bottom, x * factor:right] += ramp
    return total / weight


def _starts(side: int, window: int, overlap: int) -> list[int]:
    """Return where windows begin so that they cover the side and overlap; the last one ends with it."""
    if side <= window:
        return [0]
    stride = max(1, window - overlap)
    last = side - window
    return [*range(0, last, stride), last]


def _ramp(length: int, overlap: int, like: Tensor) -> Tensor:
    """Return weights (length,) that rise from the edges over `overlap` pixels, never 0."""
    distance = torch.arange(length, device=like.device, dtype=like.dtype) + 0.5
    return (torch.minimum(distance, length - distance) / max(overlap, 1)).clamp(max=1)

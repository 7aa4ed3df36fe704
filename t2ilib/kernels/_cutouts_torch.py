"""Cutouts by `grid_sample`, some at a time: on a CPU what they need stays in its cache, and nothing of their full size
is made but the result. The definition, and the public function, are in `cutouts.py`.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

PADDINGS = ("zeros", "border", "reflection")
# On a CPU as many cutouts are handled at once as have this many values, and a quarter of them at most. A GPU wants few
# launches.
_CHUNK = 2**19


def _parts(levels: list[Tensor], theta: Tensor, level: Tensor, size: int) -> Iterator[tuple]:
    """Yield some cutouts at a time: their slice; over how many threads a single picture is spread; where they look,
    (B or threads, rows, size, 2); and the levels of the pyramid that they see, with their shares.
    """
    images, n = levels[0], theta.shape[1]
    (batch, channels), on_cpu = images.shape[:2], images.device.type == "cpu"
    axis = (torch.arange(size, dtype=images.dtype, device=images.device) * 2 + 1) / size - 1
    step = max(1, min(math.ceil(n / 4), _CHUNK // (batch * channels * size * size))) if on_cpu else n
    for first in range(0, n, step):
        part = slice(first, min(n, first + step))
        # as complex numbers x + iy, which are added whole
        along, down, middle = torch.view_as_complex(theta[:, part].to(images).mT.contiguous()).unbind(-1)  # (B, some)
        grid = along[..., None, None] * axis + (down[..., None] * axis + middle[..., None])[..., None]
        threads = torch.get_num_threads() if on_cpu and batch == 1 else 1  # `grid_sample` takes one for each picture
        threads = threads if (part.stop - first) % threads == 0 else 1
        shares = []
        for depth in range(len(levels)):
            share = (1 - (level[:, part] - depth).abs()).clamp(min=0)
            if bool((share > 0).any()):
                share = share.reshape(batch * threads, -1, 1, 1, 1)
                shares.append((depth, None if bool((share == 1).all()) else share.to(images)))
        yield part, threads, torch.view_as_real(grid).view(batch * threads, -1, size, 2), shares


def forward(levels: list[Tensor], theta: Tensor, level: Tensor, size: int, padding: str, dtype: torch.dtype) -> Tensor:
    """Return all cutouts.

    Shapes:
        levels: (B, C, h, w) each; theta: (B, n, 2, 3); level: (B, n), on the CPU -> (B, n, C, size, size)
    """
    (batch, channels), n = levels[0].shape[:2], theta.shape[1]
    out = levels[0].new_empty((batch, n, channels, size, size), dtype=dtype)
    for part, threads, grid, shares in _parts(levels, theta, level, size):
        total = None
        for depth, share in shares:
            pictures = levels[depth].expand(batch * threads, -1, -1, -1)
            seen = F.grid_sample(pictures, grid, padding_mode=padding, align_corners=False)
            seen = seen.unflatten(2, (-1, size)).movedim(2, 1)  # (B or threads, some, C, size, size)
            seen = seen if share is None else seen.mul_(share)
            total = seen if total is None else total.add_(seen)
        out[:, part].view(total.shape).copy_(total)
    return out


def backward(grad: Tensor, shapes: list[torch.Size], theta: Tensor, level: Tensor, padding: str) -> list[Tensor]:
    """Return the gradient of each level of the pyramid, of these shapes."""
    size, batch = grad.shape[-1], len(grad)
    found = [theta.new_zeros(shape, device=grad.device) for shape in shapes]
    for part, threads, grid, shares in _parts(found, theta, level, size):
        upstream = grad[:, part].to(theta.dtype).reshape(batch * threads, -1, *grad.shape[2:])
        for depth, share in shares:
            to_level = (upstream if share is None else upstream * share).movedim(1, 2).flatten(2, 3)
            pictures = found[depth].expand(batch * threads, -1, -1, -1)  # for their shape: no values are asked for
            back, _ = torch.ops.aten.grid_sampler_2d_backward(to_level, pictures, grid, 0, PADDINGS.index(padding),
                                                              False, [True, False])
            found[depth] += back.sum(0, keepdim=True) if threads > 1 else back
    return found

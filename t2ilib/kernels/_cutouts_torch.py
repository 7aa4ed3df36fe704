"""Cutouts by `grid_sample`, some at a time: on a CPU what they need stays in its cache, and nothing of their full size
is made but the result. The definition, and the public function, are in `cutouts.py`.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

PADDINGS = ("zeros", "border", "reflection")
FAR = 1e6  # half sides of the picture; the horizon of a perspective is put there
_LEAST = 2**18  # On a CPU an eighth of the cutouts is handled at once, or as many as have this many values.


def _parts(levels: list[Tensor], theta: Tensor, positions: Tensor | None, level: Tensor, size: int) -> Iterator[tuple]:
    """Yield some cutouts at a time, of like levels: their index; over how many threads a single picture is spread;
    where they look, (B or threads, rows, size, 2); and the levels of the pyramid that they see, with their shares.
    """
    images, n = levels[0], theta.shape[1]
    (batch, channels), on_cpu = images.shape[:2], images.device.type == "cpu"
    axis = (torch.arange(size, dtype=images.dtype, device=images.device) * 2 + 1) / size - 1
    # nothing to divide by
    flat = positions is None and bool((theta[..., 2, :] == theta.new_tensor([0, 0, 1])).all())
    threads = torch.get_num_threads() if on_cpu and batch == 1 else 1  # `grid_sample` takes one for each picture
    step = max(_LEAST // (batch * channels * size * size), math.ceil(n / 8)) if on_cpu else n
    step = math.ceil(step / threads) * threads
    pictures, order = torch.arange(batch)[:, None], None
    if step < n and len(levels) > 1:
        level, order = level.sort(dim=1)
    for first in range(0, n, step):
        theirs = level[:, first:first + step]
        part = (slice(None), slice(first, first + step)) if order is None else (pictures, order[:, first:first + step])
        grid = _places(theta[part].to(images), axis, flat) if positions is None else positions[part]
        over = threads if theirs.shape[1] % threads == 0 else 1
        low, high = theirs.min().item(), theirs.max().item()
        shares = []
        for depth in range(math.floor(low), math.ceil(high) + 1):
            share = (1 - (theirs - depth).abs()).clamp(min=0).to(images).reshape(batch * over, -1, 1, 1, 1)
            shares.append((depth, None if low == high == depth else share))
        yield part, over, grid.reshape(batch * over, -1, size, 2), shares


def _places(theta: Tensor, axis: Tensor, flat: bool) -> Tensor:
    """Return where output pixels lie in the picture: (B, some, 3, 3) and (size,) -> (B, some, size, size, 2)."""
    def sums(along: Tensor, down: Tensor, middle: Tensor) -> Tensor:  # (B, some) each -> (B, some, size, size)
        return along[..., None, None] * axis + (down[..., None] * axis + middle[..., None])[..., None]

    # as complex numbers x + iy, which are added whole
    places = torch.view_as_real(sums(*torch.view_as_complex(theta[..., :2, :].mT.contiguous()).unbind(-1)))
    return places if flat else places.div_(sums(*theta[..., 2, :].unbind(-1))[..., None]).clamp_(-FAR, FAR)


def forward(levels: list[Tensor], theta: Tensor, positions: Tensor | None, level: Tensor, size: int, padding: str,
            dtype: torch.dtype) -> Tensor:
    """Return all cutouts.

    Shapes:
        levels: (B, C, h, w) each; theta: (B, n, 3, 3), or positions: (B, n, size, size, 2); level: (B, n), on the CPU
        -> (B, n, C, size, size)
    """
    (batch, channels), n = levels[0].shape[:2], theta.shape[1]
    out = None
    for part, threads, grid, shares in _parts(levels, theta, positions, level, size):
        total = None
        for depth, share in shares:
            pictures = levels[depth].expand(batch * threads, -1, -1, -1)
            seen = F.grid_sample(pictures, grid, padding_mode=padding, align_corners=False)
            seen = seen.unflatten(2, (-1, size)).movedim(2, 1)  # (B or threads, some, C, size, size)
            seen = seen if share is None else seen.mul_(share)
            total = seen if total is None else total.add_(seen)
        total = total.to(dtype).reshape(batch, -1, channels, size, size)
        if total.shape[1] == n:
            return total
        out = total.new_empty((batch, n, channels, size, size)) if out is None else out
        out[part] = total
    return out


def backward(grad: Tensor, shapes: list[torch.Size], theta: Tensor, positions: Tensor | None, level: Tensor,
             padding: str) -> list[Tensor]:
    """Return the gradient of each level of the pyramid, of these shapes."""
    size, batch = grad.shape[-1], len(grad)
    found = [theta.new_zeros(shape, device=grad.device) for shape in shapes]
    for part, threads, grid, shares in _parts(found, theta, positions, level, size):
        upstream = grad[part].to(theta.dtype).reshape(batch * threads, -1, *grad.shape[2:])
        for depth, share in shares:
            to_level = (upstream if share is None else upstream * share).movedim(1, 2).flatten(2, 3)
            pictures = found[depth].expand(batch * threads, -1, -1, -1)  # for their shape: no values are asked for
            back, _ = torch.ops.aten.grid_sampler_2d_backward(to_level, pictures, grid, 0, PADDINGS.index(padding),
                                                              False, [True, False])
            found[depth] += back.sum(0, keepdim=True) if threads > 1 else back
    return found

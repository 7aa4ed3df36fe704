"""Nearest codebook entry for each vector, without ever holding all (N, K) distances.

Used by: layers.quantize (VQ-VAE, VQGAN) and guidance.   Paper: van den Oord et al. 2017, eq. 1.
"""

import torch
from torch import Tensor

from ._dispatch import HAS_TRITON, choose, require_floating, tl, triton
from ..errors import BadParameter

# Rows of z and of the codebook in one product, 8 MiB of distances. They and the codebook's part stay in a CPU's cache
# from the product to the search, nothing of the codebook's size is allocated (its pages would cost more than its
# norms), and the codebook is read once for many rows of z. Smaller blocks gain nothing and wait more often for a busy
# second core. A GPU wants fewer, larger launches.
_CPU_BLOCK = (1024, 2048)
_GPU_ELEMENTS = 2**26
_PROGRAMS = 512  # about four for each processor of a large GPU


def nearest_code_reference(z: Tensor, codebook: Tensor) -> Tensor:
    """Return the index of the nearest row by |z|^2 - 2 z.e + |e|^2; |z|^2 is dropped, being equal for all rows.

    Both are measured from the codebook's mean, which changes no distance and keeps the sum from cancelling.

    Shapes:
        z: (N, D); codebook: (K, D) -> codes: (N,), int64
    """
    size = codebook.shape[0]
    centre = codebook.mean(dim=0, dtype=torch.float32)
    z = z.float() - centre
    rows, columns = _CPU_BLOCK if z.device.type == "cpu" else (max(1, _GPU_ELEMENTS // size), size)
    codes = torch.zeros(z.shape[0], dtype=torch.int64, device=z.device)
    best = torch.full_like(codes, -torch.inf, dtype=torch.float32)
    with torch.autocast(z.device.type, enabled=False):  # half precision would choose wrong codes
        for first in range(0, size, columns):
            table = codebook[first : first + columns].float() - centre  # (columns, D)
            half_norms = table.square().sum(dim=1).mul_(-0.5)
            for start in range(0, z.shape[0], rows):
                here = slice(start, start + rows)
                scores = torch.addmm(half_norms, z[here], table.t())  # (rows, columns): largest where nearest
                score, code = scores.max(dim=1)
                codes[here] = torch.where(score > best[here], code + first, codes[here])
                best[here] = torch.maximum(score, best[here])
    return codes


if HAS_TRITON:

    @triton.jit
    def _nearest_code_kernel(
        z,  # (N, D), any strides
        codebook,  # (K, D), any strides
        centre,  # (D,) float32, the codebook's mean
        scores,  # (splits, N) float32: z.e - |e|^2 / 2 of the best entry in each part of the codebook
        codes,  # (splits, N) int32: that entry
        n, k, d, z_row, z_dim, table_row, table_dim, part,
        ROWS: tl.constexpr, ENTRIES: tl.constexpr, DIMS: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        begin = tl.program_id(1) * part
        best = tl.full((ROWS,), float("-inf"), tl.float32)
        code = tl.full((ROWS,), 0, tl.int32)
        for first in range(begin, tl.minimum(begin + part, k), ENTRIES):
            entries = first + tl.arange(0, ENTRIES)
            score = tl.zeros((ROWS, ENTRIES), tl.float32)
            norm = tl.zeros((ENTRIES,), tl.float32)
            for start in range(0, d, DIMS):
                dims = start + tl.arange(0, DIMS)
                inside = dims < d
                middle = tl.load(centre + dims, mask=inside, other=0.0)
                x = tl.load(z + rows[:, None] * z_row + dims[None, :] * z_dim,
                            mask=(rows < n)[:, None] & inside[None, :], other=0.0).to(tl.float32) - middle[None, :]
                e = tl.load(codebook + entries[None, :].to(tl.int64) * table_row + dims[:, None] * table_dim,
                            mask=(entries < k)[None, :] & inside[:, None], other=0.0).to(tl.float32) - middle[:, None]
                score = tl.dot(x, e, score, input_precision=PRECISION)
                norm += tl.sum(e * e, axis=0)
            score -= 0.5 * norm[None, :]
            score = tl.where((entries < k)[None, :] & (score == score), score, float("-inf"))  # NaN is near nothing
            top = tl.max(score, axis=1)
            code = tl.where(top > best, first + tl.argmax(score, axis=1), code)  # of equal ones the first stays
            best = tl.maximum(top, best)
        at = tl.program_id(1).to(tl.int64) * n + rows
        tl.store(scores + at, best, mask=rows < n)
        tl.store(codes + at, code, mask=rows < n)


def _launch(z: Tensor, codebook: Tensor) -> Tensor:
    """Run the kernel on (N, D) and (K, D). Few rows would leave a GPU idle, so then the codebook is split as well."""
    (n, d), k = z.shape, codebook.shape[0]
    rows, entries = (64, 64) if n >= 64 else (16, 64)
    dims = max(16, min(64, triton.next_power_of_2(d)))
    blocks, parts = triton.cdiv(n, rows), triton.cdiv(k, entries)
    splits = max(1, min(parts, _PROGRAMS // max(1, blocks)))
    part = triton.cdiv(parts, splits) * entries
    splits = triton.cdiv(k, part)
    centre = codebook.mean(dim=0, dtype=torch.float32)
    scores = torch.empty((splits, n), dtype=torch.float32, device=z.device)
    codes = torch.empty((splits, n), dtype=torch.int32, device=z.device)
    if n:
        _nearest_code_kernel[(blocks, splits)](
            z, codebook, centre, scores, codes, n, k, d, *z.stride(), *codebook.stride(), part, ROWS=rows,
            ENTRIES=entries, DIMS=dims, PRECISION="tf32x3", num_warps=4)
    behind = torch.where(scores == scores.amax(dim=0), codes, k)  # the lowest index among equal splits
    return behind.amin(dim=0).long()


def nearest_code(z: Tensor, codebook: Tensor, *, backend: str = "auto") -> Tensor:
    """Return for each vector the index of the codebook row at the smallest Euclidean distance.

    All arithmetic is float32 whatever the dtype of the inputs. Of equally near rows the lowest index wins.
    The result carries no gradient (`argmin` has none): see `layers.quantize` for the straight-through estimator.

    Args:
        z: vectors, any leading dimensions, any strides.
        codebook: rows to choose from.
        backend: "auto", "torch" or "triton".

    Shapes:
        z: (..., D); codebook: (K, D) -> codes: (...), int64 in [0, K)

    Raises:
        BadParameter: shapes do not fit, the codebook is empty, or the dtype is not floating point.
        KernelUnavailable: backend "triton" where it cannot run.
    """
    require_floating("nearest_code", z=z, codebook=codebook)
    if codebook.ndim != 2 or codebook.shape[0] == 0 or codebook.shape[1] == 0:
        raise BadParameter(f"nearest_code: codebook must be (K, D) with K, D >= 1, got {tuple(codebook.shape)}")
    if z.ndim == 0 or z.shape[-1] != codebook.shape[1]:
        raise BadParameter(
            f"nearest_code: last dimension of z must be the codebook's D={codebook.shape[1]}, got z {tuple(z.shape)}; "
            "move the channels last, e.g. z.movedim(1, -1)"
        )
    chosen = choose(backend, z, codebook, name="nearest_code", kernel="unproven")
    flat = z.detach().reshape(-1, z.shape[-1])
    find = _launch if chosen == "triton" else nearest_code_reference
    return find(flat, codebook.detach()).reshape(z.shape[:-1])

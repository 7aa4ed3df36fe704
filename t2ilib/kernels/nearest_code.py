"""Nearest codebook entry for each vector, without ever holding all (N, K) distances.

Used by: layers.quantize (VQ-VAE, VQGAN) and guidance.   Paper: van den Oord et al. 2017, eq. 1.
"""

import torch
from torch import Tensor

from ._dispatch import HAS_TRITON, choose, require_floating, tl, triton
from ..errors import BadParameter

# Rows of z and of the codebook in one product on a CPU. The 8 MiB of distances and the part of the codebook stay in the
# cache until they are searched; nothing of the codebook's size is allocated, and it is read once for many rows of z.
# Smaller blocks were not faster, and waited more often when another process used the second core.
_CPU_BLOCK = (1024, 2048)
_GPU_ELEMENTS = 2**26  # distances in one product on a GPU, for which fewer and larger launches are better
_PROGRAMS = 512  # about four for each processor of a large GPU


def nearest_code_reference(z: Tensor, codebook: Tensor) -> Tensor:
    """Return the index of the nearest row by |z|^2 - 2 z.e + |e|^2; |z|^2 is dropped, being equal for all rows.

    Both are measured from the codebook's mean, which changes no distance and keeps the sum from cancelling.

    Shapes:
        z: (N, D); codebook: (K, D) -> codes: (N,), int64
    """
    n = z.shape[0]
    k = codebook.shape[0]
    if z.device.type == "cpu":
        rows, columns = _CPU_BLOCK
    else:
        rows = max(1, _GPU_ELEMENTS // k)
        columns = k
    centre = codebook.mean(dim=0, dtype=torch.float32)
    z = z.float() - centre
    codes = torch.zeros(n, dtype=torch.int64, device=z.device)
    best = torch.full_like(codes, -torch.inf, dtype=torch.float32)
    with torch.autocast(z.device.type, enabled=False):  # half precision would choose wrong codes
        for first in range(0, k, columns):
            table = codebook[first:first + columns].float() - centre  # (columns, D)
            half_norms = table.square().sum(dim=1).mul_(-0.5)
            for start in range(0, n, rows):
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
                z_at = z + rows[:, None] * z_row + dims[None, :] * z_dim
                z_mask = (rows < n)[:, None] & inside[None, :]
                x = tl.load(z_at, mask=z_mask, other=0.0).to(tl.float32) - middle[None, :]  # (ROWS, DIMS)
                e_at = codebook + entries[None, :].to(tl.int64) * table_row + dims[:, None] * table_dim
                e_mask = (entries < k)[None, :] & inside[:, None]
                e = tl.load(e_at, mask=e_mask, other=0.0).to(tl.float32) - middle[:, None]  # (DIMS, ENTRIES)
                score = tl.dot(x, e, score, input_precision=PRECISION)
                norm += tl.sum(e * e, axis=0)
            score -= 0.5 * norm[None, :]
            # a NaN, which does not equal itself, is never the nearest
            score = tl.where((entries < k)[None, :] & (score == score), score, float("-inf"))
            top = tl.max(score, axis=1)
            code = tl.where(top > best, first + tl.argmax(score, axis=1), code)  # of equal ones the first stays
            best = tl.maximum(top, best)
        at = tl.program_id(1).to(tl.int64) * n + rows
        tl.store(scores + at, best, mask=rows < n)
        tl.store(codes + at, code, mask=rows < n)


def _launch(z: Tensor, codebook: Tensor) -> Tensor:
    """Run the kernel on (N, D) and (K, D).

    A program searches a part of the codebook for a block of rows. Few rows alone would leave most of a GPU idle, so
    then the codebook is split into more parts.
    """
    n, d = z.shape
    k = codebook.shape[0]
    rows = 64 if n >= 64 else 16
    entries = 64
    dims = max(16, min(64, triton.next_power_of_2(d)))
    blocks = triton.cdiv(n, rows)
    parts = triton.cdiv(k, entries)
    splits = max(1, min(parts, _PROGRAMS // max(1, blocks)))
    part = triton.cdiv(parts, splits) * entries  # rows of the codebook that one program searches
    splits = triton.cdiv(k, part)
    centre = codebook.mean(dim=0, dtype=torch.float32)
    scores = torch.empty((splits, n), dtype=torch.float32, device=z.device)
    codes = torch.empty((splits, n), dtype=torch.int32, device=z.device)
    if n:
        _nearest_code_kernel[blocks, splits](
            z, codebook, centre, scores, codes, n, k, d, *z.stride(), *codebook.stride(), part, ROWS=rows,
            ENTRIES=entries, DIMS=dims, PRECISION="tf32x3", num_warps=4)
    is_best = scores == scores.amax(dim=0)  # (splits, n)
    candidates = torch.where(is_best, codes, k)
    return candidates.amin(dim=0).long()  # of equal ones in several splits the lowest index


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
    flat = z.detach().reshape(-1, z.shape[-1])  # (N, D)
    if chosen == "triton":
        codes = _launch(flat, codebook.detach())
    else:
        codes = nearest_code_reference(flat, codebook.detach())
    return codes.reshape(z.shape[:-1])

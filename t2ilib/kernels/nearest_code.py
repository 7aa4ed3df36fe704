"""Nearest codebook entry for each vector, without ever holding all (N, K) distances.

Used by: layers.quantize (VQ-VAE, VQGAN) and guidance.   Paper: van den Oord et al. 2017, eq. 1.
"""

import torch
from torch import Tensor

from ..errors import BadParameter
from ._dispatch import choose, require_floating

# Rows of z and of the codebook in one product, 8 MiB of distances. They and the codebook's part stay in a CPU's cache
# from the product to the search, nothing of the codebook's size is allocated (its pages would cost more than its
# norms), and the codebook is read once for many rows of z. Smaller blocks gain nothing and wait more often for a busy
# second core. A GPU wants fewer, larger launches.
_CPU_BLOCK = (1024, 2048)
_GPU_ELEMENTS = 2**26


def nearest_code_reference(z: Tensor, codebook: Tensor) -> Tensor:
    """Return the index of the nearest row by |z|^2 - 2 z.e + |e|^2; |z|^2 is dropped, being equal for all rows.

    Both are measured from the codebook's mean, which changes no distance and keeps the sum from cancelling.

    Shapes:
        z: (N, D); codebook: (K, D) -> codes: (N,), int64
    """
    codebook, size = codebook.detach(), codebook.shape[0]
    centre = codebook.mean(dim=0, dtype=torch.float32)
    z = z.detach().float() - centre
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
    choose(backend, z, codebook, name="nearest_code", has_triton_kernel=False)
    flat = z.reshape(-1, z.shape[-1])
    return nearest_code_reference(flat, codebook).reshape(z.shape[:-1])

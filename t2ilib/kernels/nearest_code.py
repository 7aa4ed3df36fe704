"""Nearest codebook entry for each vector, without ever holding all (N, K) distances.

Used by: layers.quantize (VQ-VAE, VQGAN) and guidance.   Paper: van den Oord et al. 2017, eq. 1.
"""

import torch
from torch import Tensor

from ..errors import BadParameter
from ._dispatch import choose, require_floating

# Distances held at once. 2**19 floats are 2 MiB: they stay in a CPU core's cache between the product and the search,
# which is why this beats one large matrix even where memory is plentiful. A GPU wants fewer, larger launches.
_CPU_ELEMENTS = 2**19
_GPU_ELEMENTS = 2**26


def nearest_code_reference(z: Tensor, codebook: Tensor) -> Tensor:
    """Return the index of the nearest row by |z|^2 - 2 z.e + |e|^2; |z|^2 is dropped, being equal for all rows.

    Both are measured from the codebook's mean, which changes no distance and keeps the sum from cancelling.

    Shapes:
        z: (N, D); codebook: (K, D) -> codes: (N,), int64
    """
    codebook = codebook.detach().float()
    centre = codebook.mean(dim=0)
    codebook = codebook - centre
    budget = _CPU_ELEMENTS if z.device.type == "cpu" else _GPU_ELEMENTS
    rows = max(1, budget // max(1, codebook.shape[0]))
    half_norms = codebook.square().sum(dim=1).mul(-0.5)  # (K,)
    codes = torch.empty(z.shape[0], dtype=torch.int64, device=z.device)
    table = codebook.t()  # (D, K)
    with torch.autocast(z.device.type, enabled=False):  # half precision would choose wrong codes
        for start in range(0, z.shape[0], rows):
            part = z[start : start + rows].detach().float() - centre
            scores = torch.addmm(half_norms, part, table)  # (rows, K): largest where the distance is smallest
            torch.argmax(scores, dim=1, out=codes[start : start + rows])
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

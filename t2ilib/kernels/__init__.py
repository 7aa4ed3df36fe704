"""Hot operations: one file each, with a reference in torch, optional Triton kernels, and one public function."""

from ._dispatch import HAS_TRITON, second_order_via, use_backend
from .cutouts import cutouts
from .group_norm_silu import group_norm_silu
from .nearest_code import nearest_code

__all__ = ["HAS_TRITON", "cutouts", "group_norm_silu", "nearest_code", "second_order_via", "use_backend"]

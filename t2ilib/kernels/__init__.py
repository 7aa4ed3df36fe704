"""Hot operations: a file for each public function, with a reference in torch and optional Triton kernels."""

from ._dispatch import HAS_TRITON, second_order_via, use_backend
from .cutouts import cutouts
from .group_norm_silu import group_norm_silu
from .nearest_code import nearest_code

__all__ = ["HAS_TRITON", "cutouts", "group_norm_silu", "nearest_code", "second_order_via", "use_backend"]

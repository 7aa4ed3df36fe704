"""What to do when memory runs out: what to try next, and what to suggest when nothing is left to try."""

from typing import Any

import torch

from ..errors import RunFailed
from .config import GuidanceConfig

SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "DefaultCPUAllocator")


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a GPU or on a CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(sign in str(error) for sign in SIGNS)


def relief(config: GuidanceConfig, error: BaseException) -> tuple[dict[str, Any], str]:
    """Return changes that lessen the memory of a run without changing its picture, and a sentence about them.

    Raises:
        RunFailed: all of them are in use; the message suggests what does change the picture.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if config.cutout_passes < min(8, config.num_cutouts):
        passes = min(2 * config.cutout_passes, config.num_cutouts)
        return {"cutout_passes": passes}, f"memory ran out: beginning again with the cutouts in {passes} passes"
    if not config.checkpoint:
        return {"checkpoint": True}, "memory ran out: beginning again with a checkpointed decoder"
    raise RunFailed(f"memory does not suffice even with cutout_passes={config.cutout_passes} and checkpoint=True "
                    f"({str(error).splitlines()[0]}); make fewer pictures at once (num_images), a smaller picture "
                    "(width, height), or decode it in parts (tile=256)") from error

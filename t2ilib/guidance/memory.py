"""What to do when memory runs out: what to try next, and what to suggest when nothing is left to try."""

from typing import Any

import torch

from .config import GuidanceConfig
from .setup import RunSetup
from .speed import memory_estimate
from .. import runtime
from ..errors import RunFailed

SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "DefaultCPUAllocator")


def check_memory(run: RunSetup) -> None:
    """Estimate a step's memory on a GPU into `run.memory_estimate`, in bytes, and warn if it exceeds what is free.

    Call it where the networks are in the state of the loop.
    """
    if run.device.type != "cuda":
        return
    c, pictures = run.config, len(run.seeds)
    size = run.image_size if run.window is None else tuple(side * run.vqgan.factor for side in run.window)
    need = memory_estimate(run.vqgan, run.guides.clips, image_size=size, pictures=pictures, dtype=run.dtype,
                           cutouts=-(-c.num_cutouts // c.cutout_passes), checkpoint=c.checkpoint)
    free = torch.cuda.mem_get_info(run.device)[0] + torch.cuda.memory_reserved(run.device)
    if need > free:
        runtime.warn_fallback(f"a step of {pictures} pictures of {size[1]} x {size[0]} with {c.num_cutouts} cutouts "
                              f"takes about {need / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free; consider "
                              f"cutout_passes={2 * c.cutout_passes}, checkpoint=True or a smaller size")
    run.memory_estimate = need


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a GPU or on a CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(sign in str(error) for sign in SIGNS)


def relief(config: GuidanceConfig, error: BaseException, estimate: int | None = None) -> tuple[dict[str, Any], str]:
    """Return changes that lessen the memory of a run without changing its picture, and a sentence about them.

    Args:
        config: that of the run which failed. error: how. estimate: of a step's memory in bytes, if there is one.

    Raises:
        RunFailed: all of them are in use; the message suggests what does change the picture.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    told = "memory ran out" + (f" (a step takes about {estimate / 2**30:.1f} GiB)" if estimate else "")
    if config.cutout_passes < min(8, config.num_cutouts):
        passes = min(2 * config.cutout_passes, config.num_cutouts)
        return {"cutout_passes": passes}, f"{told}: beginning again with the cutouts in {passes} passes"
    if not config.checkpoint:
        return {"checkpoint": True}, f"{told}: beginning again with a checkpointed decoder"
    raise RunFailed(f"{told}, even with cutout_passes={config.cutout_passes} and checkpoint=True "
                    f"({str(error).splitlines()[0]}); make fewer pictures at once (num_images), a smaller picture "
                    "(width, height), or decode it in parts (tile=256)") from error

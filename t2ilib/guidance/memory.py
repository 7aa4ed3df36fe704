"""Memory of a run: estimated before it, and what to do when it runs out."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import GuidanceConfig
from .networks import as_list
from .ops import clamp_with_grad
from .painting import render
from .protocols import ImageTextModel, PaintingNetwork
from .setup import RunSetup
from .speed import checkpointed, tensors_of
from .. import runtime
from ..encoders.clip import input_side
from ..errors import RunFailed
from ..memory import LiveBytes, no_memory

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "DefaultCPUAllocator")  # in messages
GIB = 2**30


def memory_estimate(vqgan: PaintingNetwork, clips: ImageTextModel | Sequence[ImageTextModel], *,
                    image_size: tuple[int, int], pictures: int = 1, cutouts: int = 16,
                    dtype: torch.dtype = torch.float32, checkpoint: bool = False) -> int:
    """Return about how many bytes one step takes at its peak: weights, saved activations, and what is alive meanwhile.

    Decoder and guides run forward and backward on tensors that have a size and no content, so nothing large is
    allocated and the state the networks are in (layout, precision of the weights) counts: call it inside `fast`, before
    anything is compiled. Not included: the workspace of single operations and what the allocator keeps, by which a
    process on a CPU grows 10 to 20 % further.

    Args:
        vqgan, clips: as in `vqgan_clip`.
        image_size: (H, W) in pixels.
        pictures, cutouts: of the run, cutouts for each picture.
        dtype: of autocast. checkpoint: as in `fast`.
    """
    clips = as_list(clips)
    device = vqgan.codebook.device
    channels = vqgan.codebook.shape[1]
    weights: dict[int, int] = {}  # bytes by address: networks may share memory
    for network in (vqgan, *clips):
        for t in tensors_of(network):
            if t.device == device:
                storage = t.untyped_storage()
                weights[storage.data_ptr()] = storage.nbytes()
    height = image_size[0] // vqgan.factor
    width = image_size[1] // vqgan.factor
    with contextlib.ExitStack() as stack:
        if checkpoint:
            stack.enter_context(checkpointed(vqgan))
        stack.enter_context(no_memory())
        live = stack.enter_context(LiveBytes())
        z = torch.zeros(pictures, channels, height, width, device=device).requires_grad_()
        images, _ = render(vqgan, z, dtype)
        loss = 0.0
        for clip in clips:
            views = _views_without_content(images, cutouts, input_side(clip))
            with runtime.autocast(device, dtype):
                loss = loss + clip.encode_image(views.flatten(0, 1)).float().square().sum()
        torch.autograd.grad(loss, z)
    return sum(weights.values()) + live.peak


def _views_without_content(images: Tensor, cutouts: int, size: int) -> Tensor:
    """Return tensors of the shapes that `apply_cutouts` makes, by operations that keep as much for the backward pass.

    `apply_cutouts` itself cannot run here: it reads values of its parameters to decide what to do, and these tensors
    have none.
    """
    batch = len(images)
    grid = images.new_zeros(batch, cutouts * size, size, 2)
    coverage = images.new_zeros(batch, cutouts, 1, size, size)
    x = F.grid_sample(images, grid, padding_mode="border", align_corners=False)  # (B, 3, n size, size)
    x = x.unflatten(2, (cutouts, size)).movedim(2, 1)  # (B, n, 3, size, size)
    x = coverage * x
    colour = images.new_zeros(batch, cutouts, 3, 3)
    x = (colour @ x.flatten(-2)).view_as(x)
    return clamp_with_grad(x + torch.zeros_like(x))  # the noise


def check_memory(run: RunSetup) -> int | None:
    """Return the bytes that a step takes on a GPU, and warn if that exceeds what is free; None on other devices.

    Call it where the networks are in the state of the loop.
    """
    if run.device.type != "cuda":
        return None
    config = run.config
    pictures = len(run.seeds)
    height, width = run.painter.pixels(run.painter.decoded_size(run.painter.size))
    cutouts_per_pass = -(-config.num_cutouts // config.cutout_passes)  # rounded up
    need = memory_estimate(run.vqgan, run.guides.clips, image_size=(height, width), pictures=pictures, dtype=run.dtype,
                           cutouts=cutouts_per_pass, checkpoint=config.checkpoint)
    free = torch.cuda.mem_get_info(run.device)[0] + torch.cuda.memory_reserved(run.device)
    if need > free:
        runtime.warn_fallback(f"a step of {pictures} pictures of {width} x {height} with {config.num_cutouts} cutouts "
                              f"takes about {need / GIB:.1f} GiB, and {free / GIB:.1f} GiB are free; consider "
                              f"cutout_passes={2 * config.cutout_passes}, checkpoint=True or a smaller size")
    return need


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a GPU or on a CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(words in str(error) for words in OUT_OF_MEMORY)


def relief(config: GuidanceConfig, error: BaseException, estimate: int | None = None) -> tuple[dict[str, Any], str]:
    """Return changes that lessen the memory of a run without changing its picture, and a sentence about them.

    Args:
        config: that of the run which failed. error: the error. estimate: of a step's memory in bytes, if there is one.

    Raises:
        RunFailed: all of them are in use; the message suggests what does change the picture.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    problem = "memory ran out"
    if estimate:
        problem += f" (a step takes about {estimate / GIB:.1f} GiB)"
    if config.cutout_passes < min(8, config.num_cutouts):
        passes = min(2 * config.cutout_passes, config.num_cutouts)
        return {"cutout_passes": passes}, f"{problem}: beginning again with the cutouts in {passes} passes"
    if not config.checkpoint:
        return {"checkpoint": True}, f"{problem}: beginning again with a checkpointed decoder"
    raise RunFailed(f"{problem}, even with cutout_passes={config.cutout_passes} and checkpoint=True "
                    f"({str(error).splitlines()[0]}); make fewer pictures at once (num_images), a smaller picture "
                    "(width, height), or decode it in parts (tile=256)") from error

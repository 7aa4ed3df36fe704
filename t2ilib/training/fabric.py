"""One process or many: Lightning Fabric, and the mean of gradients where a wrapped network cannot take it."""

import atexit
import contextlib
import gc
import importlib.metadata
import os
import sys
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

PRECISION = {torch.float32: "32-true", torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}


def make_fabric(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, *, alone: bool = False):
    """Return a launched Lightning Fabric for this process, or for all processes that torchrun started.

    Under `torchrun` (WORLD_SIZE > 1) it joins the group: NCCL on GPUs, gloo on CPUs. `fabric.setup` wraps networks
    and optimisers, `fabric.backward` replaces `loss.backward`; nothing else of the loop changes.

    Args:
        alone: train in this process by itself even under torchrun, such as when the others have ended.
    """
    with _version_of_torchmetrics():
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments import LightningEnvironment

    processes = 1 if alone else int(os.environ.get("WORLD_SIZE", "1"))
    nodes = 1 if alone else int(os.environ.get("GROUP_WORLD_SIZE", "1"))
    device = torch.device(device)
    accelerator = device.type if device.type in ("cuda", "mps") else "cpu"
    devices = processes // nodes or 1
    if device.type == "cuda" and device.index is not None and processes == 1:
        devices = [device.index]
    strategy = "ddp" if processes > 1 else "auto"
    plugins = [LightningEnvironment()] if alone else None  # else Fabric takes torchrun's
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, strategy=strategy,
                    precision=PRECISION[dtype], plugins=plugins)
    fabric.launch()
    if processes > 1:
        atexit.register(_leave_group)
    return fabric


@contextlib.contextmanager
def _version_of_torchmetrics() -> Iterator[None]:
    """Inside, importing torchmetrics gives its version and no more, unless it is there already.

    That is all that Fabric wants of it; the whole package takes seconds, with torchvision, scipy and transformers.
    """
    stand_in = types.ModuleType("torchmetrics")
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        stand_in.__version__ = importlib.metadata.version("torchmetrics")
    is_needed = "torchmetrics" not in sys.modules and hasattr(stand_in, "__version__")
    if is_needed:
        sys.modules["torchmetrics"] = stand_in
    try:
        yield
    finally:
        if is_needed:
            del sys.modules["torchmetrics"]


def _leave_group() -> None:
    """Leave the process group and end its threads, before the interpreter ends: one that still runs may abort it.

    Threads of gloo end with the last reference to their group, and DDP keeps one. Fabric leaves NCCL's groups only.
    """
    if torch.distributed.is_initialized():
        for module in [x for x in gc.get_objects() if type(x) is nn.parallel.DistributedDataParallel]:
            for name in ("logger", "reducer", "process_group"):
                vars(module).pop(name, None)
        torch.distributed.destroy_process_group()


def average_gradients(fabric: Any, *networks: nn.Module) -> None:
    """Give every process the mean of all processes' gradients; with one process, or no fabric, it does nothing.

    For losses that contain a gradient, whose second backward pass a wrapped network (`fabric.setup`) does not survive.
    With equal shares of one batch the result is the gradient of that batch.
    """
    if fabric is None or fabric.world_size == 1:
        return
    gradients = []
    for network in networks:
        gradients += [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    mean = fabric.all_reduce(flat, reduce_op="mean")
    parts = mean.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def gather_shares(fabric: Any, share: Tensor, dim: int = 0) -> Tensor:
    """Return what all processes hold of a common batch, in its order, without gradient; without a fabric the share.

    Args:
        share: every `world_size`-th item along `dim`, from the one whose number is the rank.
    """
    if fabric is None or fabric.world_size == 1:
        return share.detach()
    shares = fabric.all_gather(share.detach().movedim(dim, 0).contiguous())  # (world_size, b, ...)
    return shares.transpose(0, 1).flatten(0, 1).movedim(0, dim)

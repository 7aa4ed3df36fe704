"""What benchmarks count as memory: tensors, what torch allocates on a GPU, and what a whole process holds."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..memory import LiveBytes

Work = Callable[[], object]


def peak_mib(work: Work, device: torch.device) -> float:
    """Return MiB at the peak of one call, above what was there: on CUDA what torch allocates, elsewhere tensors.

    Make a call before: some libraries allocate a workspace in their first one and keep it.
    """
    if device.type != "cuda":
        with LiveBytes() as live:
            work()
        return live.peak / 2**20
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def held_mib(*modules: Any, device: torch.device) -> float:
    """Return MiB of the weights and buffers of modules that lie on a device; what they share is counted once."""
    sizes: dict[int, int] = {}
    for module in modules:
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.device.type == device.type:
                sizes[tensor.untyped_storage().data_ptr()] = tensor.nbytes
    return sum(sizes.values()) / 2**20


def resident_mib(work: Callable[..., object], *arguments: Any) -> float:
    """Return MiB of main memory that a new process holds at its peak if it calls `work(*arguments)` and ends.

    That is what a user sees: Python and all libraries, weights, and what operations take and give back. NaN where the
    system does not tell (it is Linux that does).

    Args:
        work: a function of a module, with arguments that can be pickled.
    """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_resident_after, torch.get_num_threads(), work, arguments).result()


def _resident_after(threads: int, work: Callable[..., object], arguments: Sequence[Any]) -> float:
    torch.set_num_threads(threads)
    work(*arguments)
    try:
        with open("/proc/self/status") as f:
            line = next(line for line in f if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return float("nan")
    return int(line.split()[1]) / 2**10  # kB; getrusage would count what the parent had before

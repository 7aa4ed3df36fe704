"""How many bytes live tensors take: measured on any device, and foretold without allocating anything."""

import contextlib
import weakref
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Count the bytes of tensors that operations inside the block make and that are still alive, and their peak.

    Memory that an operation takes and gives back within itself is not seen.

    Attributes:
        now, peak: bytes.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not any(r.alias_info for r in func._schema.returns):  # else a view, or a result written in place
            for t in tree_leaves(out):
                if isinstance(t, Tensor):
                    self._count(t.untyped_storage())
        self.peak = max(self.peak, self.now)
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        size = storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@contextlib.contextmanager
def no_memory() -> Iterator[None]:
    """Inside, tensors have a size and no content: networks of any size can be built and run, and take no memory."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def training_memory(build: Callable[[], nn.Module], loss: Callable[[nn.Module], Tensor], *, moments: int = 2,
                    ema: bool = True) -> dict[str, int]:
    """Return how large a network is and what a training step takes at its peak, without allocating it.

    Not included: the workspace of single operations and what the allocator keeps. On a GPU add about 1 GiB for the
    context and its libraries.

    Args:
        build: makes the network. loss: one forward pass, with the precision of training (autocast) inside; make its
            inputs inside too. moments: tensors that the optimiser keeps for each weight (Adam 2, SGD 0).
        ema: count an average of the weights too.

    Returns:
        parameters (how many there are); in bytes state (weights, moments, average), step (what is alive beside it at
        most: activations, gradients) and peak (both).
    """
    with no_memory():
        network = build()
        weights = sum(p.nbytes for p in network.parameters())
        count = sum(p.numel() for p in network.parameters())
        with LiveBytes() as live:
            loss(network).backward()
    state = weights * (1 + moments + ema)
    return {"parameters": count, "state": state, "step": live.peak, "peak": state + live.peak}

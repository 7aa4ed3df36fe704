"""Which items a training step sees."""

from typing import Any

import torch
from torch import Tensor

from ..errors import BadParameter, CheckpointMismatch


class Batches:
    """Endless shuffled batches of indices into `n` items; its position is part of a checkpoint.

    Each epoch is a new permutation; a batch may span two epochs, so that every batch is full. With several
    processes each takes its own slice of one common batch, so that N processes see what one process would.

    Args:
        n: number of items. batch_size: of all processes together.
        generator: own random stream. rank, world_size: this process, and how many there are.
    """

    def __init__(self, n: int, batch_size: int, generator: torch.Generator, *, rank: int = 0, world_size: int = 1):
        if n < 1 or batch_size < 1:
            raise BadParameter(f"need at least one item and a batch of at least one, got {n} and {batch_size}")
        if batch_size % world_size:
            raise BadParameter(f"batch_size {batch_size} must be a multiple of the number of processes, {world_size}")
        self.n = n
        self.batch_size = batch_size
        self.generator = generator
        self.rank = rank
        self.world_size = world_size
        self.left = torch.empty(0, dtype=torch.int64)
        self.epoch = 0

    def next(self) -> Tensor:
        """Return the indices (batch_size / world_size,) of the next batch of this process."""
        while len(self.left) < self.batch_size:
            self.left = torch.cat([self.left, torch.randperm(self.n, generator=self.generator)])
            self.epoch += 1
        batch = self.left[:self.batch_size]
        self.left = self.left[self.batch_size:]
        return batch[self.rank::self.world_size]

    def state_dict(self) -> dict[str, Any]:
        return {"n": self.n, "left": self.left.clone(), "epoch": self.epoch, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state.get("n", self.n) != self.n:
            raise CheckpointMismatch(f"the saved batches are of {state['n']} items, these are of {self.n}; "
                                     "resume with the same data set")
        self.left = state["left"]
        self.epoch = state["epoch"]
        self.generator.set_state(state["generator"])

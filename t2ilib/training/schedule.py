"""Learning rates, and what happens only now and then."""

import math
import time

import torch


def cosine_lr(step: int, steps: int, *, peak: float, warmup: int = 0, floor: float = 0.0) -> float:
    """Return the learning rate at `step` of `steps`: linear warm-up to `peak`, then a half cosine to `floor * peak`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give all parameter groups the learning rate `lr`, each times its own `lr_scale` if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


class Every:
    """Say "now" at most once in `seconds`, and at the end: for saving and drawing inside a loop of any speed."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.last = time.monotonic()

    def __call__(self, *, force: bool = False) -> bool:
        due = force or time.monotonic() - self.last >= self.seconds
        if due:
            self.last = time.monotonic()
        return due

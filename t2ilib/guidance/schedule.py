"""The search's optimisers by name, learning-rate schedules, and the stages of a run that grows."""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import BadParameter, unknown_name

LR_SCHEDULES = ("constant", "cosine", "linear", "drop")
REFUSED = {"sparseadam": "it takes sparse gradients", "muon": "it moves matrices, and z is none"}
OPTIMIZERS = {name.lower(): cls for name, cls in vars(torch.optim).items()
              if inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer}


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """Return the optimiser that torch.optim has under this name, in any case.

    Raises:
        UnknownName: there is none. BadParameter: it cannot move a latent.
    """
    if name.lower() in REFUSED:
        raise BadParameter(f"optimizer {name!r} cannot be used here: {REFUSED[name.lower()]}; adam is usual")
    if name.lower() not in OPTIMIZERS:
        raise unknown_name("optimizer", name, OPTIMIZERS.keys() - REFUSED)
    return OPTIMIZERS[name.lower()]


def lr_factor(schedule: str, step: int, steps: int) -> float:
    """Return the share of the learning rate at a step of a schedule by name, see LR_SCHEDULES."""
    done = step / max(1, steps)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "linear":
        return 1 - done
    if schedule == "drop" and done >= 0.75:
        return 0.1
    return 1.0


@dataclass(frozen=True)
class Stage:
    """Steps `first` to `end` (exclusive), made at (h, w) codes."""

    first: int
    end: int
    size: tuple[int, int]


def stages(steps: int, size: tuple[int, int], progressive: Sequence[float] = ()) -> list[Stage]:
    """Divide the steps evenly among the sizes, of which the last is the full one."""
    shares = [*progressive, 1.0]
    ends = [steps * (k + 1) // len(shares) for k in range(len(shares))]
    sizes = [tuple(max(1, round(side * share)) for side in size) for share in shares]
    return [Stage(first, end, s) for first, end, s in zip([0, *ends], ends, sizes, strict=False)]

"""The search's optimisers by name, learning-rate schedules, and the sizes of a run that grows."""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import BadParameter, check_name

LR_SCHEDULES = ("constant", "cosine", "linear", "drop")
REFUSED = {"sparseadam": "it takes sparse gradients", "muon": "it moves matrices, and z is none"}


def _torch_optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    base = torch.optim.Optimizer
    optimizers = {}
    for name, value in vars(torch.optim).items():
        if inspect.isclass(value) and issubclass(value, base) and value is not base:
            optimizers[name.lower()] = value
    return optimizers


OPTIMIZERS = _torch_optimizers()


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """Return the optimiser that torch.optim has under this name, in any case.

    Raises:
        UnknownName: there is none. BadParameter: it cannot move a latent.
    """
    lower = name.lower()
    if lower in REFUSED:
        raise BadParameter(f"optimizer {name!r} cannot be used here: {REFUSED[lower]}; adam is usual")
    check_name("optimizer", lower, OPTIMIZERS.keys() - REFUSED)
    return OPTIMIZERS[lower]


def without_compiler(optimizer: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """Return the same optimiser without the decorators of its methods, which import torch's compiler when first called.

    That import takes as long as torch's own, and a step here is never compiled.
    """
    methods = {}
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        methods[name] = inspect.unwrap(getattr(optimizer, name))
    methods["step"] = torch.no_grad()(inspect.unwrap(optimizer.step))
    return type(optimizer.__name__, (optimizer,), methods)


def lr_factor(schedule: str, step: int, steps: int) -> float:
    """Return the share of the learning rate at a step of a schedule by name, see LR_SCHEDULES."""
    progress = step / max(1, steps)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if schedule == "linear":
        return 1 - progress
    if schedule == "drop" and progress >= 0.75:
        return 0.1
    return 1.0


@dataclass(frozen=True)
class GrowthStage:
    """Steps `first` to `end` (exclusive), made at (h, w) codes."""

    first: int
    end: int
    size: tuple[int, int]


def growth_stages(steps: int, size: tuple[int, int], progressive: Sequence[float] = ()) -> list[GrowthStage]:
    """Divide the steps evenly among the sizes, of which the last is the full one.

    Args:
        progressive: the sizes before it, as shares of the sides.
    """
    shares = [*progressive, 1.0]
    stages = []
    first = 0
    for i, share in enumerate(shares):
        end = steps * (i + 1) // len(shares)
        height, width = (max(1, round(side * share)) for side in size)
        stages.append(GrowthStage(first, end, (height, width)))
        first = end
    return stages

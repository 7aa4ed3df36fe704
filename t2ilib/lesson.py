"""What every notebook begins with: its settings resolved, device and precision chosen, seeds set, its record opened."""

from collections.abc import Collection
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

from . import profiles, runtime
from .errors import check_name
from .record import Run

PRECISIONS = ("auto", *runtime.DTYPES)


class Lesson(NamedTuple):
    """What `start` returns: the run's record, its settings, the device, and the precision of autocast."""

    run: Run
    settings: SimpleNamespace
    device: torch.device
    dtype: torch.dtype


def start(name: str, *, profile: str, seed: int = 0, device: str = "auto", dtype: str = "auto", threads: int = 0,
          smoke: dict[str, Any], quick: dict[str, Any], full: dict[str, Any], dtypes: Collection[str] = PRECISIONS,
          **parameters: Any) -> Lesson:
    """Resolve a notebook's parameters and say in one line where it runs.

    Args:
        name: of the notebook, such as "08_minimagen". profile, seed, device, dtype, threads: of the parameters cell;
            0 threads leave torch's own choice.
        smoke, quick, full: settings of the profiles, see `profiles.resolve`.
        dtypes: what `dtype` may be. "float64" is for a notebook that then computes everything in it, without autocast.
        parameters: the other parameters of the cell. Those that are settings of the profiles take their place, where
            they are not None; all are recorded.

    Raises:
        UnknownName, BadParameter: a profile, device, precision, seed or setting that cannot be.

    Example:
        run, cfg, device_, dtype_ = start("08_minimagen", profile=profile, seed=seed, steps=steps, smoke=dict(steps=2),
                                          quick=dict(steps=100), full=dict(steps=8000))
    """
    overrides = {key: value for key, value in parameters.items() if key in quick}
    settings = profiles.resolve(profile, overrides=overrides, smoke=smoke, quick=quick, full=full)
    if threads:
        torch.set_num_threads(threads)
    chosen_device = runtime.pick_device(device)
    check_name("dtype", dtype, dtypes)
    chosen_dtype = torch.float64 if dtype == "float64" else runtime.pick_dtype(chosen_device, dtype)
    runtime.seed_everything(seed)
    given = {"profile": profile, "seed": seed, "device": device, "dtype": dtype, "threads": threads, **parameters}
    run = Run(name, given=given, resolved=settings, device=chosen_device)
    if runtime.rank_zero():
        print(runtime.describe(chosen_device, chosen_dtype, profile, seed))
    return Lesson(run, settings, chosen_device, chosen_dtype)

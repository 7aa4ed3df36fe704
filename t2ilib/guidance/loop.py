"""VQGAN+CLIP: move the latents of a picture until CLIP finds the prompt in it (Crowson et al. 2022, 2204.08583)."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .config import GuidanceConfig
from .latents import Basis, Prior
from .memory import check_memory, out_of_memory, relief
from .objective import Views, frozen
from .ops import straight_through
from .search import Search
from .setup import RunSetup
from .speed import fast
from .starts import make_starts
from .state import StateFile
from .. import runtime
from ..errors import RunFailed

Cutouts = Views | Callable[[int], Views] | None


@dataclass
class Preview:
    """What a callback gets after each step: the picture before that step, without a gradient.

    `finish()` returns what the run would end with now, which costs a decoding: (B, 3, H, W).

    Shapes:
        images (B, 3, H, W) in [0, 1], or of the tile that was shown, losses (B,)
    """

    step: int
    steps: int
    images: Tensor
    losses: Tensor
    finish: Callable[[], Tensor]


@dataclass
class Result:
    """Outcome of a run.

    Shapes:
        images (B, 3, H, W) in [0, 1], z (B, D, h, w), codes (B, h, w), z_start (B, D, h, w), losses (steps, B)

    Attributes:
        history: one dict per step with the batch mean of the loss and of each of its terms.
        record: configuration, size, seeds, chosen candidates, similarities, time and versions, as plain JSON types.
    """

    images: Tensor
    z: Tensor
    codes: Tensor
    z_start: Tensor
    losses: Tensor
    history: list[dict[str, float]]
    record: dict[str, Any]


def vqgan_clip(config: GuidanceConfig, *, vqgan=None, clips=None, prior: Prior | None = None,
               latents: Tensor | None = None, basis: Basis | None = None, cutouts: Cutouts = None,
               callback: Callable[[Preview], bool | None] | None = None, progress: bool = False,
               state: str | Path | None = None, save_every: float = 60.0) -> Result:
    """Make pictures for the prompts of a configuration.

    Where memory runs out, the run begins again with fewer cutouts per pass, then with a checkpointed decoder; it warns,
    and the record's `fallbacks` say so.

    Args:
        config: everything that decides the picture.
        vqgan: `.encode`, `.decode`, `.codebook`, `.factor`; None loads `config.model`.
        clips: one guide or a list (`.encode_image`, `.encode_text`, `.image_size`); None loads `config.clip`.
        prior: for `init="prior"`, see `Prior`.
        latents: for `init="latents"`, (D, h, w), (B, D, h, w) or, with candidates, (B, N, D, h, w).
        basis: for `subspace_steps`.
        cutouts: fixed cutouts instead of drawn ones: parameters, or a function of the step that returns them.
        callback: called after every step; a true return value ends the run early.
        progress: show a progress bar.
        state: file that keeps the state of the run, every `save_every` seconds and when it is interrupted. If it
            exists the run goes on from there, bit for bit on a CPU; a finished run removes it.

    Raises:
        BadParameter: the configuration and the arguments contradict each other.
        CheckpointMismatch: `state` belongs to another run.
        RunFailed: the loss stopped being a number, or memory does not suffice.
    """
    fallbacks: list[str] = []
    while True:
        run = None
        try:
            run = RunSetup(config, vqgan, clips, prior)
            with frozen(*run.networks):
                result = _attempt(run, latents, basis, cutouts, callback, progress,
                                  StateFile(state, run, save_every))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            changes, told = relief(config, error, run and run.memory_estimate)
        else:
            result.record["fallbacks"] = fallbacks
            return result
        runtime.warn_fallback(told)
        fallbacks.append(told)
        config = dataclasses.replace(config, **changes)


def _attempt(run: RunSetup, latents: Tensor | None, basis: Basis | None, cutouts: Cutouts, callback, progress: bool,
             state: StateFile) -> Result:
    began = time.perf_counter()
    saved = state.load()
    if saved is None:
        z_start, chosen = make_starts(run, latents)
    else:
        z_start, chosen = (t.to(run.device) for t in (saved["search"]["z_start"], saved["chosen"]))
    search, c = Search(run, z_start, basis), run.config
    if saved is not None:
        search.load_state_dict(saved["search"])
    with fast(run.vqgan, run.guides.clips, compile=c.compile, checkpoint=c.checkpoint, drop_encoder=True,
              drop_text=True, dtype=run.dtype):
        check_memory(run)
        _loop(search, cutouts, callback, progress,
              lambda: state.save({"search": search.state_dict(), "chosen": chosen}), state)
    losses, history = search.history()
    with torch.no_grad():
        z = search.z()
        images, (_, codes) = run.finish(z), straight_through(z, run.vqgan.codebook)
        similarity = run.guides.similarity(images)
    state.remove()
    record = {
        "config": run.config.to_dict(), "height": run.image_size[0], "width": run.image_size[1], "seeds": run.seeds,
        "prompts": run.texts, "steps_done": search.done, "candidate_chosen": chosen.tolist(),
        "guide_similarity": similarity.tolist(), "seconds": round(time.perf_counter() - began, 3),
        "device": runtime.device_name(run.device), "dtype": str(run.dtype).removeprefix("torch."),
        "memory_estimate_mib": run.memory_estimate and round(run.memory_estimate / 2**20),
        "versions": runtime.versions(),
    }
    return Result(images, z, codes, z_start, losses, history, record)


def _loop(search: Search, cutouts: Cutouts, callback, progress: bool, save: Callable[[], None],
          state: StateFile) -> None:
    """Make the steps that are left, saving now and then, and at an interruption."""
    steps = search.run.config.steps
    rest = range(search.done, steps)
    try:
        for index in runtime.progress(rest, desc="guidance") if progress else rest:
            images, losses = search.step(cutouts(index) if callable(cutouts) else cutouts)
            if state.due():
                if not search.latents().isfinite().all():
                    search.history()  # raises, and names the step
                    raise RunFailed(f"z is not a number at step {index}; try a smaller learning_rate")
                save()
            if callback and callback(Preview(index, steps, images, losses, lambda: search.run.finish(search.z()))):
                break
    except KeyboardInterrupt:
        save()
        raise

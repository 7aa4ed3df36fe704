"""VQGAN+CLIP: move the latents of a picture until CLIP finds the prompt in it (Crowson et al. 2022, 2204.08583)."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .config import GuidanceConfig
from .cutout_parameters import CutoutParameters
from .latents import Basis
from .memory import check_memory, out_of_memory, relief
from .networks import frozen
from .prompts import main_text
from .protocols import ImageTextModel, PaintingNetwork, Prior
from .search import Search
from .setup import RunSetup, prepare_run
from .speed import fast
from .starts import make_starts
from .state import StateFile
from .views import Views
from .. import runtime
from ..errors import RunFailed
from ..files import reason
from ..layers.quantize import vector_quantize

Cutouts = CutoutParameters | Views | Callable[[int], CutoutParameters | Views] | None


@dataclass
class Preview:
    """What a callback gets after each step: the picture before that step, without a gradient.

    `finish()` returns what the run would end with now, which costs a decoding: (B, 3, H, W).

    Shapes:
        images (B, 3, H, W) in [0, 1], or of the tile that was decoded, losses (B,)
    """

    step: int
    steps: int
    images: Tensor
    losses: Tensor
    finish: Callable[[], Tensor]


Callback = Callable[[Preview], bool | None]


@dataclass
class Result:
    """Outcome of a run.

    Shapes:
        images (B, 3, H, W) in [0, 1], z (B, D, h, w), codes (B, h, w), z_start (B, D, h, w), losses (steps, B)

    Attributes:
        history: one dict per step with the batch mean of the loss and of each of its terms.
        record: configuration, size, seeds, texts at the start ("prompts") and at the end ("final_texts"), chosen
            candidates, similarities, time and versions, as plain JSON types.
    """

    images: Tensor
    z: Tensor
    codes: Tensor
    z_start: Tensor
    losses: Tensor
    history: list[dict[str, float]]
    record: dict[str, Any]


def vqgan_clip(config: GuidanceConfig, *, vqgan: PaintingNetwork | None = None,
               clips: ImageTextModel | Sequence[ImageTextModel] | None = None, prior: Prior | None = None,
               latents: Tensor | None = None, basis: Basis | None = None, cutouts: Cutouts = None,
               callback: Callback | None = None, progress: bool = False, state: str | Path | None = None,
               save_every: float = 60.0) -> Result:
    """Make pictures for the prompts of a configuration.

    Where memory runs out, the run begins again with fewer cutouts per pass, then with a checkpointed decoder; it warns,
    and the record's `fallbacks` say so.

    Args:
        config: everything that decides the picture.
        vqgan: what paints, see `PaintingNetwork`; None loads `config.model`.
        clips: one guide or a list, see `ImageTextModel`; None loads `config.clip`.
        prior: for `init="prior"`, `redraw` and `prior_weight`, see `Prior`.
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
            run = prepare_run(config, vqgan, clips, prior)
            state_file = StateFile(state, run, save_every)
            with frozen(*run.networks):
                result = _attempt(run, state_file, latents=latents, basis=basis, cutouts=cutouts, callback=callback,
                                  progress=progress)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            # memory may run out before there is a run, while its networks are loaded
            estimate = None if run is None else run.memory_estimate
            changes, message = relief(config, error, estimate)
        else:
            result.record["fallbacks"] = fallbacks
            return result
        runtime.warn_fallback(message)
        fallbacks.append(message)
        config = dataclasses.replace(config, **changes)


def _attempt(run: RunSetup, state: StateFile, *, latents: Tensor | None, basis: Basis | None, cutouts: Cutouts,
             callback: Callback | None, progress: bool) -> Result:
    """Make all steps, or those that a saved state leaves to be made."""
    start_time = time.perf_counter()
    saved = state.load()
    if saved is None:
        z_start, chosen = make_starts(run, latents)
    else:
        z_start = saved["search"]["z_start"].to(run.device)
        chosen = saved["chosen"].to(run.device)
    search = Search(run, z_start, basis)
    if saved is not None:
        search.load_state_dict(saved["search"])
    config = run.config
    with fast(run.vqgan, run.guides.clips, compile=config.compile, checkpoint=config.checkpoint, drop_encoder=True,
              drop_text=True, dtype=run.dtype):
        run.memory_estimate = check_memory(run)
        _make_steps(search, chosen, state, cutouts=cutouts, callback=callback, progress=progress)
    result = _finish(search, chosen)
    result.record["seconds"] = round(time.perf_counter() - start_time, 3)
    state.remove()
    return result


def _make_steps(search: Search, chosen: Tensor, state: StateFile, *, cutouts: Cutouts, callback: Callback | None,
                progress: bool) -> None:
    """Make the steps that are left, saving now and then, and at an interruption."""
    def save() -> None:
        content = {"search": search.state_dict(), "chosen": chosen}
        try:
            state.save(content)
        except (OSError, RuntimeError) as error:  # the latter is what torch raises where a disk is full
            runtime.warn_fallback(f"the state of the run could not be saved to {state.path} ({reason(error)}); the run "
                                  "goes on without")

    def finish() -> Tensor:
        return search.run.painter.finish(search.z())

    steps = search.run.config.steps
    indices = range(search.steps_done, steps)
    try:
        for index in runtime.progress(indices, desc="guidance") if progress else indices:
            fixed = cutouts(index) if callable(cutouts) else cutouts
            images, losses = search.step(fixed)
            if state.due():
                if not search.latents().isfinite().all():
                    search.history()  # raises, and names the step, if a loss shows it
                    raise RunFailed(f"z is not a number at step {index}; try a smaller learning_rate")
                save()
            if callback and callback(Preview(index, steps, images, losses, finish)):
                break
    except KeyboardInterrupt:
        save()
        raise


@torch.no_grad()
def _finish(search: Search, chosen: Tensor) -> Result:
    """Decode the latents that the search ends with, and write down how they came about."""
    run = search.run
    losses, history = search.history()
    z = search.z()
    images = run.painter.finish(z)
    _, codes = vector_quantize(z, run.vqgan.codebook)
    height, width = run.painter.image_size
    # what each picture should show at its end; a prompt that only pushes away stands for itself
    final_texts = [main_text(group, 1.0) or group[0].text for group in run.prompts]
    record = {
        "config": run.config.to_dict(), "height": height, "width": width, "seeds": run.seeds, "prompts": run.texts,
        "final_texts": final_texts, "steps_done": search.steps_done, "candidate_chosen": chosen.tolist(),
        "guide_similarity": run.guides.similarity(images).tolist(),
        "device": runtime.device_name(run.device), "dtype": str(run.dtype).removeprefix("torch."),
        "memory_estimate_mib": run.memory_estimate and round(run.memory_estimate / 2**20),
        "versions": runtime.versions(),
    }
    return Result(images, z, codes, search.z_start, losses, history, record)

"""The state of a training on disk: everything that it needs to go on bit for bit."""

import json
import os
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoint import write_archive
from ..errors import CheckpointMismatch, MissingAsset
from ..files import check_archive, replacing
from ..locks import hold
from ..runtime import derived_seed, process_rank, rank_zero, warn_fallback


def save_training(path: str | Path, *, step: int, settings: Mapping[str, Any], **parts: Any) -> None:
    """Write everything that a run needs to go on bit for bit: step, parts, and the global random states.

    Args:
        path: file; written under a temporary name and renamed. Only rank 0 writes. What was there before stays beside
            it as `<name>.previous`, for `load_training` to fall back on. No other process may write it until this one
            ends.
        step: number of finished steps.
        settings: what decides the training (seed, data, network, rates, batch, length), as plain JSON types.
        parts: objects with `state_dict`, or `torch.Generator`s, by name.
    """
    if not rank_zero():
        return
    path = Path(path)
    hold(path)
    states = {}
    for name, part in parts.items():
        states[name] = part.get_state() if isinstance(part, torch.Generator) else part.state_dict()
    content = {"step": step, "settings": _plain(settings), "parts": states, "rng": _random_states()}
    with replacing(path) as temporary:
        write_archive(temporary, content)
        if path.is_file():
            _keep_as(path, _previous(path))


def load_training(path: str | Path, *, settings: Mapping[str, Any], run: Any = None, **parts: Any) -> int:
    """Restore what `save_training` wrote into the same parts, and return the number of finished steps.

    A damaged or truncated file gives way to the one saved before it, with a warning, and is replaced by it. A file of
    the form before, which keeps no settings, is taken with a warning; the next saving writes them.

    Args:
        path: file that `save_training` wrote.
        settings: of this training; they must be those of the file.
        run: the `Run` whose record says so too.
        parts: as they were saved.

    Raises:
        MissingAsset: no such file. CheckpointMismatch: other settings or parts than were saved, or no readable file.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingAsset(f"no training state at {path}; start from step 0, or name the folder of the run to resume")
    if rank_zero():
        hold(path)
    saved = _read_with_fallback(path, run)
    _check_settings(path, saved.get("settings"), _plain(settings))
    if saved["parts"].keys() != parts.keys():
        raise CheckpointMismatch(f"{path} holds {sorted(saved['parts'])}, expected {sorted(parts)}; "
                                 "resume with the notebook that wrote it")
    for name, part in parts.items():
        state = saved["parts"][name]
        if isinstance(part, torch.Generator):
            part.set_state(state)
        else:
            part.load_state_dict(state)
    _restore_random_states(saved["rng"])
    draw_apart(process_rank(), saved["step"])
    return saved["step"]


def draw_apart(rank: int, step: int = 0) -> None:
    """Let torch's global random numbers, such as dropout's, differ between the processes of a training.

    The first process keeps its own; what all share, such as batches, has streams of its own.

    Args:
        rank: of this process. step: from which it trains.
    """
    if rank:
        torch.manual_seed(derived_seed(torch.initial_seed(), rank, step))


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as they come back from JSON: tuples are lists, and what JSON does not know is text."""
    return json.loads(json.dumps(dict(settings), default=str))


def _check_settings(path: Path, saved: dict[str, Any] | None, settings: dict[str, Any]) -> None:
    """Raise CheckpointMismatch if a training would go on with other settings than it began with."""
    if saved is None:
        warn_fallback(f"{path.name} is of the form before and does not say with which settings it was trained; it goes "
                      "on with those of this run")
        return
    differences = []
    for name in sorted(saved.keys() | settings.keys()):
        if saved.get(name) != settings.get(name):
            differences.append(f"{name} was {saved.get(name)!r} and is {settings.get(name)!r}")
    if differences:
        raise CheckpointMismatch(f"{path} is the state of another training: {'; '.join(differences)}. Go on with the "
                                 "settings that it was begun with, name another work_dir, or delete it to begin anew")


def _previous(path: Path) -> Path:
    return path.with_name(path.name + ".previous")


def _keep_as(path: Path, name: Path) -> None:
    """Give the file a second name, so that at any moment both names are files."""
    spare = name.with_name(name.name + ".tmp")
    spare.unlink(missing_ok=True)
    try:
        os.link(path, spare)
    except OSError:  # a file system without links
        shutil.copyfile(path, spare)
    os.replace(spare, name)
    spare.unlink(missing_ok=True)  # a rename between two names of one file does nothing


def _read_with_fallback(path: Path, run: Any) -> dict[str, Any]:
    """Return the saved state, or where the file is damaged the one saved before it."""
    try:
        return _read_training(path)
    except CheckpointMismatch as error:
        if not _previous(path).is_file():
            raise
        reason = type(error.__cause__).__name__
    saved = _read_training(_previous(path))
    text = f"{path.name} is damaged ({reason}): going on from the state before it, step {saved['step']}"
    warn_fallback(text)
    if run is not None:
        run.fallback(text)
    if rank_zero():
        _keep_as(_previous(path), path)  # else the next save would keep the damaged one and drop this
    return saved


def _read_training(path: Path) -> dict[str, Any]:
    try:
        check_archive(path)
        saved = torch.load(path, map_location="cpu", weights_only=True)
        return {"settings": saved.get("settings"), **{key: saved[key] for key in ("step", "parts", "rng")}}
    except Exception as error:  # a damaged file can fail in any way
        raise CheckpointMismatch(f"{path} cannot be read as a training state ({type(error).__name__}); delete it and "
                                 "start from step 0") from error


def _random_states() -> dict[str, Any]:
    """Return the global random states as tensors and plain types, which load without pickled code."""
    version, internal, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    states = {
        "torch": torch.get_rng_state(),
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def _restore_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])

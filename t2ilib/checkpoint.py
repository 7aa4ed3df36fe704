"""Checkpoints: a folder with `model.safetensors` and a `config.json` that can rebuild the network.

Nothing is pickled. Files are written under a temporary name and renamed, so that a checkpoint is whole or absent.
"""

import functools
import inspect
import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from .errors import BadParameter, CheckpointMismatch, MissingAsset
from .files import replacing, sha256_of, write_json

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
SCALE = ":scale"  # of an 8-bit tensor, one number for each index of its first dimension; follows the tensor's name
RESERVED = ("format", "class", "kwargs", "parameters", "dtype", "sha256")  # what the config says of the file itself
Model = TypeVar("Model", bound=nn.Module)


def configurable(cls: type[Model]) -> type[Model]:
    """Class decorator: keep the keyword arguments of the constructor, defaults filled in, in `self.config`."""
    original = cls.__init__
    signature = inspect.signature(original)

    @functools.wraps(original)
    def init(self, **kwargs):
        bound = signature.bind(self, **kwargs)
        bound.apply_defaults()
        original(self, **kwargs)
        self.config = {k: list(v) if isinstance(v, tuple) else v for k, v in bound.arguments.items() if k != "self"}

    cls.__init__ = init
    return cls


def save_tensors(path: str | Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write tensors as safetensors, atomically; each is made contiguous and moved to the CPU."""
    from safetensors.torch import save_file

    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(stored, temporary)


def save_model(folder: str | Path, model: nn.Module, *, dtype: torch.dtype | None = None, **card: Any) -> Path:
    """Write a network made by a `configurable` class, and return its folder.

    Args:
        dtype: store floating tensors in this type; None keeps theirs. torch.float16 halves the file, torch.int8
            halves it again: matrices and kernels in 8 bits with a scale for each output channel, the rest in float16.
        card: what the model card says: data hash, seed, parameters, metrics, licence, ... (plain JSON types).
    """
    if not hasattr(model, "config"):
        raise BadParameter(f"{type(model).__name__} keeps no constructor arguments; decorate its class: @configurable")
    return save_state(folder, model.state_dict(), kind=type(model).__name__, kwargs=model.config, dtype=dtype, **card)


def save_state(folder: str | Path, state: dict[str, torch.Tensor], *, kind: str, kwargs: dict[str, Any],
               dtype: torch.dtype | None = None, **card: Any) -> Path:
    """Write tensors and the arguments that rebuild their owner; `kind` is the class name that a loader checks.

    Raises:
        BadParameter: a value of the card is no JSON type or takes a reserved name, or a tensor does not fit in `dtype`;
            nothing is written then.
    """
    folder = Path(folder)
    if taken := sorted(set(card) & set(RESERVED)):
        raise BadParameter(f"the card must not set {', '.join(taken)}: the file itself decides; take another name")
    try:
        json.dumps([kwargs, card])
    except TypeError as error:
        raise BadParameter(f"{kind}: constructor arguments and card must be plain JSON types: {error}") from error
    if clash := [k for k in state if k.endswith(SCALE)]:
        raise BadParameter(f"{kind}: a tensor's name must not end in {SCALE!r}: {clash[0]}")
    stored = {name: v for k, kept in state.items() for name, v in _stored(k, kept, dtype).items()}
    if lost := [k for k, v in stored.items() if k in state and v is not state[k] and v.is_floating_point()
                and not (v.isfinite() == state[k].isfinite()).all()]:
        raise BadParameter(f"{', '.join(lost[:4])}: values are too large for {dtype}; save without dtype")
    save_tensors(folder / WEIGHTS, stored)
    write_json(folder / CONFIG, {
        "format": 1, "class": kind, "kwargs": kwargs, "parameters": sum(v.numel() for v in state.values()),
        "dtype": str(dtype or "as trained").removeprefix("torch."), "sha256": sha256_of(folder / WEIGHTS), **card})
    return folder


def _stored(name: str, tensor: torch.Tensor, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """Return what a file of this type holds of a tensor: itself, or 8 bits and their scale."""
    if dtype is None or not tensor.is_floating_point():
        return {name: tensor}
    if dtype != torch.int8:
        return {name: tensor.to(dtype)}
    if tensor.ndim < 2 or tensor[0].numel() < 16 or not tensor.isfinite().all():  # a scale each would save little
        return {name: tensor.to(torch.float16)}
    rows = tensor.detach().float().flatten(1)
    scale = rows.abs().amax(1).clamp(min=1e-30) / 127
    return {name: (rows / scale[:, None]).round().to(torch.int8).view(tensor.shape), name + SCALE: scale}


def read_config(folder: str | Path) -> dict[str, Any]:
    """Return the `config.json` of a checkpoint folder."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise MissingAsset(f"no checkpoint at {folder}: {CONFIG} is missing; `python -m t2ilib models` lists what is "
                           "here")
    return json.loads(path.read_text(encoding="utf-8"))


def load_state(folder: str | Path, *, kind: str | None = None) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors (floats as float32) and the config of a checkpoint folder, its hash and class checked.

    Raises:
        MissingAsset: the folder or a file is absent.
        CheckpointMismatch: other bytes than were saved, or another class than `kind`.
    """
    from safetensors.torch import load_file

    config, path = read_config(folder), Path(folder) / WEIGHTS
    if not path.is_file():
        raise MissingAsset(f"{path} is missing beside its {CONFIG}; restore it with `git checkout`, or train it again")
    if config["sha256"] != (got := sha256_of(path)):
        raise CheckpointMismatch(f"{path}: SHA-256 is {got[:12]}..., expected {config['sha256'][:12]}...; "
                                 "the file is damaged or was exchanged, restore it")
    if kind is not None and config["class"] != kind:
        raise CheckpointMismatch(f"{folder} holds a {config['class']}, not a {kind}; name another checkpoint")
    stored = load_file(path)
    scales = {k: stored.pop(k) for k in list(stored) if k.endswith(SCALE)}
    state = {k: v.float() if v.is_floating_point() or k + SCALE in scales else v for k, v in stored.items()}
    for name, scale in scales.items():
        state[name.removesuffix(SCALE)].flatten(1).mul_(scale[:, None])
    return state, config


def load_strict(model: nn.Module, state: dict[str, torch.Tensor], *, source: str) -> None:
    """Load tensors into a network; every key and shape must fit, and the error names those that do not."""
    own = model.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}"
              for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    if missing or unexpected or shapes:
        parts = [("missing", missing), ("unexpected", unexpected), ("of another shape", sorted(shapes))]
        said = "; ".join(f"{len(v)} {what}: {', '.join(v[:4])}{', ...' if len(v) > 4 else ''}"
                         for what, v in parts if v)
        raise CheckpointMismatch(f"{source} does not fit {type(model).__name__}: {said}; "
                                 "use the config it was saved with")
    model.load_state_dict(state)


def load_model(cls: type[Model], folder: str | Path, *, device: torch.device | str = "cpu") -> Model:
    """Rebuild a network from its checkpoint folder, in eval mode, without gradients for its weights."""
    state, config = load_state(folder, kind=cls.__name__)
    try:
        model = cls(**config["kwargs"])
    except TypeError as error:
        raise CheckpointMismatch(f"{folder} was saved with arguments that {cls.__name__} does not take ({error}); "
                                 "it belongs to another version of this library") from error
    load_strict(model, state, source=str(folder))
    return model.to(device).eval().requires_grad_(False)


def short_hash(folder: str | Path) -> str:
    """Return the first 12 digits of a checkpoint's SHA-256, the form that records and pictures carry."""
    return read_config(folder)["sha256"][:12]

"""Checkpoints: a folder with `model.safetensors` and a `config.json` that can rebuild the network.

Nothing is pickled. A checkpoint is whole or absent, also when its writer is killed: the new config waits as
`config.json.next` until the new weights have their name. Both files are covered by hashes in the config.
"""

import contextlib
import functools
import hashlib
import inspect
import json
import os
import re
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from .errors import BadParameter, CheckpointMismatch, MissingAsset
from .files import read_json, reason, replacing, sha256_of, write_json
from .paths import CONFIG as CONFIG
from .paths import WEIGHTS as WEIGHTS

NEXT_CONFIG = "config.json.next"
FORMAT = 2  # 1 had no hash of the config
BRING = "`git checkout` or `python -m t2ilib release --fetch`"  # what ships
LFS_POINTER = b"version https://git-lfs"
SCALE = ":scale"  # of an 8-bit tensor, one number for each index of its first dimension; follows the tensor's name
# what the config says of the files themselves
RESERVED = ("format", "class", "kwargs", "parameters", "dtype", "sha256", "config_sha256")
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
    with replacing(path) as temporary:
        _write_tensors(temporary, tensors)


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def write_archive(path: str | Path, content: Any) -> None:
    """Write tensors and plain containers with `torch.save`.

    Raises:
        OSError: it cannot be written, where torch itself raises RuntimeError and names no reason.
    """
    with open(path, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


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
    taken = sorted(set(card) & set(RESERVED))
    if taken:
        raise BadParameter(f"the card must not set {', '.join(taken)}: the file itself decides; take another name")
    try:
        json.dumps([kwargs, card])
    except TypeError as error:
        raise BadParameter(f"{kind}: constructor arguments and card must be plain JSON types: {error}") from error
    stored: dict[str, torch.Tensor] = {}
    too_large = []
    for name, tensor in state.items():
        if name.endswith(SCALE):
            raise BadParameter(f"{kind}: a tensor's name must not end in {SCALE!r}: {name}")
        stored.update(_stored(name, tensor, dtype))
        if _overflows(tensor, stored[name]):
            too_large.append(name)
    if too_large:
        raise BadParameter(f"{', '.join(too_large[:4])}: values are too large for {dtype}; save without dtype")
    parameters = sum(tensor.numel() for tensor in state.values())
    stored_as = str(dtype or "as trained").removeprefix("torch.")
    with replacing(folder / WEIGHTS) as temporary:
        _write_tensors(temporary, stored)
        config = {"format": FORMAT, "class": kind, "kwargs": kwargs, "parameters": parameters, "dtype": stored_as,
                  "sha256": sha256_of(temporary), **card}
        write_json(folder / NEXT_CONFIG, {**config, "config_sha256": config_digest(config)})
    _take_next_config(folder)
    return folder


def config_digest(config: dict[str, Any]) -> str:
    """Return the SHA-256 of a config's content, its own hash left out."""
    content = {name: value for name, value in config.items() if name != "config_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _take_next_config(folder: Path) -> None:
    """Give the waiting config its name, unless somebody else was faster."""
    with contextlib.suppress(FileNotFoundError):
        os.replace(folder / NEXT_CONFIG, folder / CONFIG)


def _stored(name: str, tensor: torch.Tensor, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """Return what a file of this type holds of a tensor: itself, or 8 bits and their scale."""
    if dtype is None or not tensor.is_floating_point():
        return {name: tensor}
    if dtype != torch.int8:
        return {name: tensor.to(dtype)}
    if tensor.ndim < 2 or tensor[0].numel() < 16 or not tensor.isfinite().all():  # a scale each would save little
        return {name: tensor.to(torch.float16)}
    rows = tensor.detach().float().flatten(1)  # (output channels, the rest)
    scale = rows.abs().amax(1).clamp(min=1e-30) / 127
    eight_bits = (rows / scale[:, None]).round().to(torch.int8)
    return {name: eight_bits.view(tensor.shape), name + SCALE: scale}


def _overflows(tensor: torch.Tensor, stored: torch.Tensor) -> bool:
    """Return whether finite values became infinite in the smaller type."""
    if stored is tensor or not stored.is_floating_point():
        return False
    return bool((stored.isfinite() != tensor.isfinite()).any())


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file by name.

    Raises:
        CheckpointMismatch: it is damaged, or only the pointer that git-lfs leaves where a file was not fetched.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        with open(path, "rb") as file:
            is_pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
        if is_pointer:
            raise CheckpointMismatch(f"{path} is a pointer of git-lfs, not the file itself; fetch it: `git lfs pull`"
                                     ) from error
        raise CheckpointMismatch(f"{path} is damaged ({reason(error)}); restore it, or download it again") from error


def absent_checkpoint(name: str, home: str | Path, recipe: str, *, option: str = "") -> str:
    """Return what to do where a checkpoint is not in its folder.

    Args:
        recipe: the command that trains it. option: by which a caller names another folder, such as "checkpoint=FOLDER".
    """
    hint = f": {option}" if option else ""
    return (f"no checkpoint {name} in {home}; restore one that ships with {BRING}, train one with `{recipe}`, or name "
            f"a folder that holds one{hint}")


def absent_weights(path: str | Path) -> str:
    """Return what to do where the config of a checkpoint is here, and its file of weights is not."""
    return f"{path} is missing beside its {CONFIG}; restore it with {BRING}, or train it again"


def read_config(folder: str | Path) -> dict[str, Any]:
    """Return the `config.json` of a checkpoint folder.

    Raises:
        MissingAsset: there is none. CheckpointMismatch: it is damaged.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise MissingAsset(f"no checkpoint at {folder}: {CONFIG} is missing; `python -m t2ilib models` lists what is "
                           "here")
    try:
        config = read_json(path)
    except BadParameter as error:
        raise CheckpointMismatch(f"{error}; restore it with `git checkout`, or train it again") from error
    for name, kind in (("class", str), ("kwargs", dict), ("sha256", str)):
        if not isinstance(config.get(name), kind):
            raise CheckpointMismatch(f"{path} has no {name!r}; restore it with `git checkout`, or train it again")
    is_as_saved = config.get("format") == 1 or (
        config.get("format") == FORMAT and config.get("config_sha256") == config_digest(config))
    if not is_as_saved:
        raise CheckpointMismatch(f"{path} is not as it was saved; restore it with `git checkout`, or train it again")
    return config


def load_state(folder: str | Path, *, kind: str | None = None) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors (floats as float32) and the config of a checkpoint folder, its hash and class checked.

    Raises:
        MissingAsset: the folder or a file is absent.
        CheckpointMismatch: other bytes than were saved, or another class than `kind`.
    """
    config = read_config(folder)
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise MissingAsset(absent_weights(path))
    found = sha256_of(path)
    waiting = Path(folder) / NEXT_CONFIG
    if found != config["sha256"] and waiting.is_file() and read_json(waiting).get("sha256") == found:
        _take_next_config(Path(folder))  # who saved it was killed before it could
        config = read_config(folder)
    if found != config["sha256"]:
        raise CheckpointMismatch(f"{path}: SHA-256 is {found[:12]}..., expected {config['sha256'][:12]}...; "
                                 "the file is damaged or was exchanged, restore it")
    if kind is not None and config["class"] != kind:
        raise CheckpointMismatch(f"{folder} holds a {config['class']}, not a {kind}; name another checkpoint")
    stored = read_tensors(path)
    state = {}
    for name, tensor in stored.items():
        if name.endswith(SCALE):
            continue
        scale = stored.get(name + SCALE)
        if scale is not None:
            rows = tensor.float().flatten(1) * scale[:, None]
            tensor = rows.view(tensor.shape)
        state[name] = tensor.float() if tensor.is_floating_point() else tensor
    return state, config


def current_keys(model: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint under the names that the network's parameters have now.

    A class whose parameters were renamed after checkpoints had been written says so in a method
    `current_key(key) -> key`, which leaves other names as they are.
    """
    current_key = getattr(model, "current_key", None)
    if current_key is None:
        return state
    return {current_key(key): tensor for key, tensor in state.items()}


def load_strict(model: nn.Module, state: dict[str, torch.Tensor], *, source: str) -> None:
    """Load tensors into a network; every key and shape must fit, and the error names those that do not."""
    state = current_keys(model, state)
    expected = model.state_dict()
    shapes = []
    for name in sorted(expected.keys() & state.keys()):
        if expected[name].shape != state[name].shape:
            shapes.append(f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}")
    differences = {"missing": sorted(expected.keys() - state.keys()),
                   "unexpected": sorted(state.keys() - expected.keys()), "of another shape": shapes}
    problems = []
    for kind, names in differences.items():
        if names:
            dots = ", ..." if len(names) > 4 else ""
            problems.append(f"{len(names)} {kind}: {', '.join(names[:4])}{dots}")
    if problems:
        raise CheckpointMismatch(f"{source} does not fit {type(model).__name__}: {'; '.join(problems)}; "
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

"""Checkpoints in the layout of taming-transformers: a yaml of arguments and a Lightning pickle, opened safely.

A pickle can run any program. Here only tensors and plain containers are rebuilt; every other object in the file becomes
an inert stub. Understood: VQModel, EMAVQ and GumbelVQ, the first stage of a Net2NetTransformer, latent diffusion's
VQModelInterface; `.ckpt`, `.pt`, `.pth` and `.safetensors`.
"""

import pickle
import re
import types
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import read_tensors
from ..errors import BadParameter, CheckpointMismatch, MissingAsset, check_name
from ..files import check_archive, read_text
from ..state_dicts import check_numbers, find_state

_KINDS = {
    "VQModel": "vq",
    "VQNoDiscModel": "vq",
    "VQModelInterface": "vq",
    "VQSegmentationModel": "vq",
    "EMAVQ": "vq",
    "GumbelVQ": "gumbel",
}
_DDCONFIG = (
    "z_channels", "resolution", "in_channels", "out_ch", "ch", "ch_mult", "num_res_blocks", "attn_resolutions",
    "double_z", "dropout", "resamp_with_conv",
)  # fmt: skip
_WHOLE = ("embed_dim", "n_embed", "z_channels", "resolution", "in_channels", "out_ch", "ch", "num_res_blocks")
_LISTS = ("ch_mult", "attn_resolutions")
_PARTS = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.")
_EMA_STATE = ("quantize.embedding.cluster_size", "quantize.embedding.embed_avg")
_FIRST_STAGE = "first_stage_model."
_PUBLISHED_RESOLUTION = 256


class _Stub:
    """Replaces every object in a pickle that is no tensor and no plain container: accepts any call and does nothing."""

    def __new__(cls, *args, **kwargs):
        return object.__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, value):
        pass

    def extend(self, values):
        pass


def _restricted_pickle() -> types.SimpleNamespace:
    """Return a pickle module for `torch.load`, with an unpickler that cannot call anything harmful.

    Wrappers and stub are made anew for each file, so that a file cannot alter what the next one meets.
    """

    def rebuild_tensor(*args):
        return torch._utils._rebuild_tensor_v2(*args)

    def rebuild_parameter(data, *_):
        return data

    stub = type("Stub", (_Stub,), {})
    allowed = {
        ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
        ("collections", "OrderedDict"): OrderedDict,
    }

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:  # torch itself resolves names of storages before this
            return allowed.get((module, name), stub)

    def load(file, **kwargs):
        return Unpickler(file, **kwargs).load()

    return types.SimpleNamespace(__name__="restricted_pickle", Unpickler=Unpickler, load=load)


def read_checkpoint(path: str | Path, *, ema: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint file by name; nothing in the file is executed.

    Where the format allows it (files of torch >= 1.6) the tensors are mapped, not read: of the 4 GB of a transformer
    only the first stage that is then used comes into memory. Do not change the file while they are in use.

    Raises:
        MissingAsset: there is no such file.
        CheckpointMismatch: the file is damaged, is a TorchScript archive, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingAsset(f"no checkpoint file at {path}; download it, or correct the path")
    if path.suffix == ".safetensors":
        return find_state(read_tensors(path), ema=ema, source=str(path))
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("constants.pkl") for name in archive.namelist()):
                raise CheckpointMismatch(f"{path} is a TorchScript program, not a checkpoint; give the .ckpt file")
    with open(path, "rb") as file:
        mmap = file.read(4) == b"PK\x03\x04"  # older files can only be read as a whole
    try:
        check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=False, mmap=mmap,
                             pickle_module=_restricted_pickle())
    except Exception as error:  # a damaged or hostile pickle can fail in any way
        raise CheckpointMismatch(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}: {error}); download it again"
        ) from error
    return find_state(content, ema=ema, source=str(path))


def generator_state(tensors: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Keep what belongs to the VQGAN itself: without losses, transformer, prefix, and the averages of an EMA table.

    Raises:
        CheckpointMismatch: there is no VQGAN among the tensors.
    """
    has_first_stage = any(key.startswith(_FIRST_STAGE) for key in tensors)
    prefix = _FIRST_STAGE if has_first_stage else ""
    state = {}
    for key, tensor in tensors.items():
        name = key.removeprefix(prefix)
        belongs = key.startswith(prefix) and name.startswith(_PARTS) and name not in _EMA_STATE
        if belongs:
            state[name] = tensor.float() if tensor.is_floating_point() else tensor
    needed = ("encoder.conv_in.weight", "decoder.conv_out.weight", "quant_conv.weight")
    missing = [key for key in needed if key not in state]
    if missing:
        raise CheckpointMismatch(
            f"{source} holds no VQGAN: {', '.join(missing)} missing among {len(tensors)} tensors "
            f"({', '.join(sorted(tensors)[:3])}, ...); give a checkpoint of taming-transformers"
        )
    check_numbers(state, source=source)
    return state


def read_config(path: str | Path) -> dict[str, Any]:
    """Return the arguments of `VQGAN` from a yaml of taming-transformers.

    Raises:
        MissingAsset: there is no such file.
        BadParameter: the yaml describes no VQGAN, or uses an option that is not supported.
        UnknownName: the class that it names is not known.
    """
    import yaml

    path = Path(path)
    if not path.is_file():
        raise MissingAsset(f"no configuration at {path}; it comes with the checkpoint as a .yaml file")
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise BadParameter(f"{path} is not a plain yaml file ({error}); give the one of the checkpoint") from error
    node = _mapping(_mapping(content).get("model", content))
    node = _mapping(_mapping(node.get("params")).get("first_stage_config", node))  # of a transformer's yaml
    params = _mapping(node.get("params"))
    if not isinstance(params.get("ddconfig"), Mapping):
        raise BadParameter(f"{path} has no model.params.ddconfig; give the yaml that belongs to the VQGAN checkpoint")
    kind = str(node.get("target", "VQModel")).rpartition(".")[2]
    check_name("VQGAN class", kind, _KINDS)
    if params.get("remap") is not None:
        raise BadParameter(f"{path}: remapped codes are not supported; use a checkpoint without 'remap'")
    sizes = {"quantizer": _KINDS[kind]}
    for name in ("embed_dim", "n_embed"):
        if name not in params:
            raise BadParameter(f"{path} has no model.params.{name}; give the yaml that belongs to the VQGAN checkpoint")
        sizes[name] = params[name]
    arguments = {**_read_ddconfig(params["ddconfig"], path), **sizes}
    for name, value in arguments.items():
        _check_number(name, value, path)
    return arguments


def _check_number(name: str, value: Any, path: Path) -> None:
    """Raise BadParameter unless an argument has the kind that it has in every yaml of a VQGAN."""
    if name in _WHOLE and not _is_whole(value):
        raise BadParameter(f"{path}: {name} must be a whole number above 0, got {value!r}")
    if name in _LISTS and not (isinstance(value, list) and all(map(_is_whole, value))):
        raise BadParameter(f"{path}: {name} must be a list of whole numbers above 0, got {value!r}")


def _is_whole(value: Any) -> bool:
    return type(value) is int and value > 0


def _mapping(value: Any) -> Mapping:
    return value if isinstance(value, Mapping) else {}


def _read_ddconfig(options: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the arguments of encoder and decoder from the section of that name."""
    ddconfig = dict(options)
    attention = str(ddconfig.pop("attn_type", "vanilla")).lower()
    if attention not in ("vanilla", "none"):
        raise BadParameter(f"{path}: attn_type must be 'vanilla' or 'none'; other attentions are not supported")
    unsupported = sorted(ddconfig.keys() - set(_DDCONFIG))
    if unsupported:
        raise BadParameter(f"{path}: ddconfig has options that are not supported: {', '.join(unsupported)}")
    if attention == "none":
        ddconfig.update(mid_attention=False, attn_resolutions=[])
    return ddconfig


def infer_config(state: Mapping[str, Tensor], *, resolution: int = _PUBLISHED_RESOLUTION) -> dict[str, Any]:
    """Work out the arguments of `VQGAN` from the shapes of its tensors.

    The shapes do not show the resolution; it serves to name the levels that have attention.
    """
    gumbel = "quantize.embed.weight" in state
    table = state.get("quantize.embed.weight" if gumbel else "quantize.embedding.weight")
    if table is None:
        raise CheckpointMismatch("quantize.embedding.weight and quantize.embed.weight are both missing: no codebook")
    ch, in_channels = state["encoder.conv_in.weight"].shape[:2]
    levels = _count(state, r"encoder\.down\.(\d+)\.block")
    widths = [state[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels)]
    attention = [i for i in range(levels) if f"encoder.down.{i}.attn.0.norm.weight" in state]
    return {
        "embed_dim": table.shape[1],
        "n_embed": table.shape[0],
        "quantizer": "gumbel" if gumbel else "vq",
        "z_channels": state["quant_conv.weight"].shape[1],
        "resolution": resolution,
        "in_channels": in_channels,
        "out_ch": state["decoder.conv_out.weight"].shape[0],
        "ch": ch,
        "ch_mult": [width // ch for width in widths],
        "num_res_blocks": _count(state, r"encoder\.down\.0\.block\.(\d+)\."),
        "attn_resolutions": [resolution // 2**i for i in attention],
        "mid_attention": "encoder.mid.attn_1.norm.weight" in state,
        "resamp_with_conv": levels == 1 or "encoder.down.0.downsample.conv.weight" in state,
    }


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """Return how many different numbers stand at one place of the tensors' names."""
    numbers = set()
    for key in state:
        match = re.match(pattern, key)
        if match:
            numbers.add(match.group(1))
    return len(numbers)


def compare_configs(config: Mapping[str, Any], state: Mapping[str, Tensor], *, source: str) -> None:
    """Raise CheckpointMismatch, naming every argument in which the yaml and the tensors disagree."""
    resolution = config.get("resolution", _PUBLISHED_RESOLUTION)
    inferred = infer_config(state, resolution=resolution)
    sides = {resolution // 2**level for level in range(len(inferred["ch_mult"]))}
    differences = []
    for name, in_file in inferred.items():
        configured = config.get(name, in_file)
        if isinstance(configured, tuple):
            configured = list(configured)
        if name == "attn_resolutions":  # sides that no level has are without effect
            configured = sorted(sides & set(configured))
            in_file = sorted(in_file)
        if configured != in_file:
            differences.append(f"{name} is {configured} in the configuration and {in_file} in the file")
    if differences:
        raise CheckpointMismatch(f"{source} and its configuration disagree: {'; '.join(differences)}; give its own "
                                 "yaml")

"""The tensors of a TorchScript archive, read without running the program that it holds.

OpenAI published CLIP as TorchScript. `torch.jit.load` compiles such a program and runs its `__setstate__`, which may do
anything the process may do. Here the archive is read as what it also is: a zip file with a pickle of the module tree
(`data.pkl`) and the bytes of each tensor (`data/0`, `data/1`, ...). Modules become plain records of their attributes.
"""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointMismatch

_DTYPES = {"DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
           "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
           "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
           "BoolStorage": torch.bool}


class _Record:
    """What stands for a module, and for every other object: its attributes, and nothing that runs."""

    def __init__(self, *arguments: Any):
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, attributes: Any) -> None:
        self.attributes = attributes if isinstance(attributes, dict) else {}


class _Reader(pickle.Unpickler):
    """Rebuild tensors and containers; every other name in the pickle becomes a `_Record`."""

    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(archive.open(f"{root}/data.pkl"), encoding="utf-8")
        self.archive = archive
        self.root = root

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return _Record

    def persistent_load(self, pid: Any) -> Tensor:
        """Return the elements of a storage as a flat tensor; `pid` is ("storage", type, key, device, elements)."""
        _, dtype, key, _, _ = pid
        data = bytearray(self.archive.read(f"{self.root}/data/{key}"))
        return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)  # checks that the elements are there


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a TorchScript archive."""
    return _root_of(path) is not None


def _root_of(path: Path) -> str | None:
    """Return the folder in the zip file that holds a TorchScript program."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("/constants.pkl") and name.count("/") == 1:
                return name.removesuffix("/constants.pkl")
    return None


def read_torchscript_tensors(path: Path) -> dict[str, Tensor]:
    """Return parameters and buffers of an archive under the names that `state_dict` gives them.

    Raises:
        CheckpointMismatch: the archive is damaged, or its root is no module.
    """
    root = _root_of(path)
    try:
        with zipfile.ZipFile(path) as archive:
            module = _Reader(archive, str(root)).load()
        if not isinstance(module, _Record):
            raise ValueError(f"its root is a {type(module).__name__}, no module")
        return _tensors_below(module, "")
    except Exception as error:  # a damaged or hostile pickle can fail in any way
        raise CheckpointMismatch(f"{path} cannot be read as a TorchScript archive ({type(error).__name__}: {error}); "
                                 "download it again, or give the weights as safetensors") from error


def _tensors_below(module: _Record, prefix: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, value in module.attributes.items():
        if isinstance(value, Tensor):
            tensors[prefix + name] = value
        elif isinstance(value, _Record):
            tensors |= _tensors_below(value, f"{prefix}{name}.")
    return tensors

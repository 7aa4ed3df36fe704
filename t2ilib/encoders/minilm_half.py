"""all-MiniLM-L6-v2 in half precision: half the file, for a machine to which it is carried by hand.

The upper bytes of all numbers, with sign and exponent, lie before the lower ones: they repeat, so that a compressed
archive of the file is smaller (38.8 MB instead of 41.7).
"""

import shutil
from pathlib import Path

import torch
from torch import Tensor

from ..assets import BUNDLED
from ..assets.packaged import check_hash, packaged_file
from ..checkpoint import read_tensors, save_tensors

NAME = "all-MiniLM-L6-v2-half"
LOWER = "lower/"  # in front of a tensor's name: the lower byte of each of its numbers
UPPER = "upper/"
# The package's file also holds what encoding a sentence does not read.
UNUSED = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")
BESIDE = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json")


def write_half(folder: str | Path) -> Path:
    """Write the pip package's weights in half precision, and the files of its tokenizer; return the file of weights.

    Raises:
        MissingAsset: the package is not installed.
        CheckpointMismatch: other weights than expected, before or after.
    """
    source = packaged_file(BUNDLED[NAME].replaces)
    state = read_tensors(source)
    for name in UNUSED:
        state.pop(name, None)
    path = Path(folder) / Path(BUNDLED[NAME].file).name
    save_tensors(path, split_bytes(state))
    for name in BESIDE:
        shutil.copyfile(source.with_name(name), path.with_name(name))
    check_hash(NAME, path, BUNDLED[NAME].sha256, remedy="use the version of safetensors in constraints.txt")
    return path


def read_half(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of such a file, in float32; raises as `read_tensors` does."""
    return join_bytes(read_tensors(path))


def split_bytes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in half precision, each as its lower and its upper bytes."""
    stored = {}
    for name, tensor in state.items():
        numbers = tensor.to(torch.float16)[..., None].contiguous()  # (..., 1)
        both = numbers.view(torch.uint8)  # (..., 2), the lower byte first
        stored[LOWER + name] = both[..., 0]
        stored[UPPER + name] = both[..., 1]
    return stored


def join_bytes(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return in float32 the tensors of which `split_bytes` made two each."""
    state = {}
    for name, lower in stored.items():
        if not name.startswith(LOWER):
            continue
        plain_name = name.removeprefix(LOWER)
        both = torch.stack((lower, stored[UPPER + plain_name]), dim=-1)  # (..., 2)
        numbers = both.view(torch.float16)  # (..., 1)
        state[plain_name] = numbers[..., 0].float()
    return state

"""Weights that a bundle for a machine without internet carries, smaller than the pip package whose place they take."""

from dataclasses import dataclass
from pathlib import Path

from .packaged import WeightsFile, check_hash, find_packaged
from ..errors import MissingAsset, check_name
from ..paths import embedded_data_dir


@dataclass(frozen=True)
class BundledWeights(WeightsFile):
    """One file of weights below `data/`; `replaces` is the name in `PACKAGED` of those that it was made from."""

    replaces: str


_BUNDLED = (
    BundledWeights("all-MiniLM-L6-v2-half", "minilm-half/model.safetensors", 45,
                   "3a80c25a20468074f7a1cdcf0a3f0798f20eca534738b6a52d373c105a6783a9", "1 billion pairs of sentences",
                   "Apache-2.0", "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
                   replaces="all-MiniLM-L6-v2"),
)
BUNDLED: dict[str, BundledWeights] = {weights.name: weights for weights in _BUNDLED}


def find_bundled(name: str) -> Path | None:
    """Return where the weights lie, None if they are not here; nothing is hashed. UnknownName if there are no such."""
    check_name("bundled weights", name, BUNDLED)
    try:
        path = embedded_data_dir() / BUNDLED[name].file
    except MissingAsset:
        return None
    return path if path.is_file() else None


def bundled_in_place() -> dict[str, str]:
    """Return name -> name of the smaller form, for packaged weights that are absent while that form is here."""
    found = {}
    for name, weights in BUNDLED.items():
        if find_packaged(weights.replaces) is None and find_bundled(name) is not None:
            found[weights.replaces] = name
    return found


def bundled_file(name: str, *, check: bool = True) -> Path:
    """Return where the weights lie; their hash is checked once in a process for each version of the file.

    Raises:
        UnknownName: no such weights.
        MissingAsset: they are not here.
        CheckpointMismatch: the file is not the expected one.
    """
    path = find_bundled(name)
    remedy = "unpack a bundle of `python -m t2ilib bundle` again"
    if path is None:
        raise MissingAsset(f"{name} is not here, it comes with a bundle for machines without internet; install "
                           f"{BUNDLED[name].replaces} in its place, or {remedy}")
    if check:
        check_hash(name, path, BUNDLED[name].sha256, remedy=remedy)
    return path

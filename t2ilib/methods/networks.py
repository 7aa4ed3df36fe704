"""The networks that methods draw with: kept loaded, by the hash of their weights, so that a record names what drew.

A checkpoint that was trained anew, in this process or another, has another hash and is loaded anew.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from ..checkpoint import CONFIG, load_model, short_hash
from ..encoders import Clip, TextEncoder, load_clip, load_text_encoder
from ..encoders.perceptual import LITE0
from ..errors import CheckpointMismatch
from ..files import read_json
from ..models.vqgan import VQGAN, load_vqgan
from ..models.vqvae2 import VQVAE2, find_vqvae, load_vqvae
from ..paths import checkpoints_dir

Network = TypeVar("Network")
MOST_LOADED = 12
MOST_TRIES = 3


class NetworkCache:
    """Loaded networks by kind, name, device and version of the weights; those used longest ago are dropped.

    Args:
        size: how many are kept.
    """

    def __init__(self, size: int = MOST_LOADED):
        self.size = size
        self._loaded: OrderedDict[tuple[str, str, str, str], Any] = OrderedDict()

    def get(self, kind: str, name: str, device: str, load: Callable[[], Network]) -> tuple[Network, str]:
        """Return a network and the version of its weights; from memory if these very weights were loaded before.

        Args:
            kind: what it is, where one name could be loaded as several things. name: a shipped checkpoint, or anything
                else that `load` understands. load: reads it.

        Raises:
            CheckpointMismatch: its files change faster than they can be read.
        """
        for _ in range(MOST_TRIES):
            version = weights_version(name)
            key = (kind, name, device, version)
            if key in self._loaded:
                self._loaded.move_to_end(key)
                return self._loaded[key], version
            network = load()
            if weights_version(name) != version:
                continue  # it was exchanged while it was read
            self._loaded[key] = network
            while len(self._loaded) > self.size:
                self._loaded.popitem(last=False)
            return network, version
        raise CheckpointMismatch(f"{name} is being written while it is read; wait until its training has saved it")

    def clear(self) -> None:
        """Forget all of them."""
        self._loaded.clear()


CACHE = NetworkCache()


def weights_version(name: str) -> str:
    """Return what tells the weights behind a name from other ones.

    A shipped checkpoint has its hash; of other files and folders it is names, sizes and times; of a name that is
    neither, nothing.
    """
    path = Path(name).expanduser()
    if path.exists():
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        return ",".join(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)
    shipped = checkpoints_dir() / name
    return short_hash(shipped) if shipped.is_dir() else ""


def lite0_role(names: Iterable[str]) -> str:
    """Return what EfficientNet-Lite0 did for checkpoints: "trained" one of them, "guided" as one, both, or "".

    It is a smaller sister of the network that measures KID and precision, which may be mild with such pictures.
    """
    return " and ".join(sorted({role for name in names if (role := _lite0_role(name))}))


def _lite0_role(name: str) -> str:
    home = Path(name).expanduser()
    config = (home if home.is_dir() else checkpoints_dir() / name) / CONFIG
    card = read_json(config) if config.is_file() else {}
    if card.get("kwargs", {}).get("network") == LITE0:  # a guide that stands on it
        return "guided"
    return "trained" if card.get("trained_with") == LITE0 else ""


class Networks:
    """Hand out the networks of one run, from the cache, and keep the hash of each checkpoint among them.

    Args:
        device: where they are loaded. home: folder of the checkpoints that `checkpoint` loads, in which text encoders
            and decoders are looked for first; None is that of those that ship.

    Attributes:
        hashes: name of a shipped checkpoint -> the first digits of its SHA-256, in the order of asking. Weights from
            elsewhere are inputs of the run, whose hashes `generate_with_record` records.
    """

    def __init__(self, device: str, *, home: str | Path | None = None):
        self.device = device
        self.home = checkpoints_dir() if home is None else Path(home).expanduser()
        self.hashes: dict[str, str] = {}

    def clip(self, name: str) -> Clip:
        """Return a CLIP by name."""
        return self._get("clip", name, lambda: load_clip(name, device=self.device))

    def text_encoder(self, name: str) -> TextEncoder:
        """Return a text encoder: of a checkpoint of `home`, or by name."""
        place = self._beside(name)
        return self._get("text encoder", place, lambda: load_text_encoder(place, device=self.device))

    def vqgan(self, name: str) -> VQGAN:
        """Return a VQGAN: of a checkpoint of `home`, or by name or path."""
        place = self._beside(name)
        return self._get("vqgan", place, lambda: load_vqgan(place, device=self.device))

    def vqvae(self, name: str) -> VQVAE2:
        """Return a VQ-VAE: of a folder, of a checkpoint of `home`, or of one that ships."""
        folder = find_vqvae(name, self.home)
        place = name if folder == checkpoints_dir() / name else str(folder)
        return self._get("vqvae", place, lambda: load_vqvae(folder, device=self.device))

    def checkpoint(self, cls: type[nn.Module], name: str, *, device: str | None = None) -> Any:
        """Return the network of class `cls` in a checkpoint of `home`."""
        device = device or self.device
        folder = self.home / name
        place = name if self.home == checkpoints_dir() else str(folder)
        return self._get(cls.__name__, place, lambda: load_model(cls, folder, device=device))

    def _beside(self, name: str) -> str:
        """Return the folder of a network in a `home` of its own; its name where it is not there, or ships."""
        folder = self.home / name
        is_beside = self.home != checkpoints_dir() and (folder / CONFIG).is_file()
        return str(folder) if is_beside else name

    def _get(self, kind: str, name: str, load: Callable[[], Network]) -> Network:
        network, version = CACHE.get(kind, name, self.device, load)
        is_shipped = not Path(name).expanduser().exists() and (checkpoints_dir() / name).is_dir()
        if is_shipped:
            self.hashes[name] = version
        return network

"""What one method draws for all prompts and seeds: kept as PNG files, drawn on after an interruption, drawn anew when
its networks change.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..errors import BadParameter, CheckpointMismatch
from ..files import folder_name, hashes_of_inputs, read_json, utc_now, write_json
from ..media import load_picture
from ..media.png import save_png
from ..methods import METHODS, generate_with_record
from ..methods.networks import lite0_role, weights_version

CARD = "entry.json"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Entry:
    """A row of the leaderboard: a method with options.

    Attributes:
        label: what the row is called. method: a name in `METHODS`. options: of the method; others have its defaults.
        machine: further options, such as `device`, that do not decide what is drawn: pictures are kept without them.
    """

    label: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)

    def missing(self) -> str:
        """Return what is missing before it can draw, "" where nothing is."""
        has_own_networks = bool(self.options.get("checkpoint"))
        return "" if has_own_networks else METHODS.find(self.method).missing()


@dataclass(frozen=True)
class Drawn:
    """The pictures of an entry.

    Attributes:
        pictures: prompt -> (seeds, 3, H, W) in [0, 1]. card: the method, its options and the hashes of its networks.
    """

    pictures: dict[str, Tensor]
    card: dict[str, Any]

    def of(self, prompts: Sequence[str]) -> Tensor:
        """Return the pictures of prompts, first all of the first seed: (seeds * prompts, 3, H, W)."""
        stacked = torch.stack([self.pictures[prompt] for prompt in prompts], dim=1)  # (seeds, prompts, 3, H, W)
        return stacked.flatten(0, 1)

    @property
    def lite0(self) -> str:
        """What EfficientNet-Lite0 did for these pictures: "trained" one of the networks, "guided", both, or ""."""
        return lite0_role(self.card["checkpoints"])


def draw_entry(entry: Entry, prompts: Sequence[str], *, seeds: Sequence[int], home: str | Path, chunk: int = 16,
               progress: Progress | None = None) -> Drawn:
    """Return an entry's picture for every prompt and seed; those that are kept in `home` are not drawn again.

    Each lies in a PNG file of its own, with its record. They belong to the method, its options, the defaults of the
    others and the hashes of its networks: where one of these differs, they are drawn anew into another folder. Any
    other change of this library's code does not count; delete the folder then.

    Args:
        chunk: pictures between two looks at the disk; an interruption loses no more. progress: (done, all).

    Raises:
        BadParameter: no prompt, no seed or a prompt twice. What `generate_with_record` raises.
    """
    if not prompts or not seeds or len(set(prompts)) < len(prompts) or chunk < 1:
        raise BadParameter(f"need prompts, each once, seeds and chunk >= 1; got {len(prompts)} prompts, {len(seeds)} "
                           f"seeds, chunk={chunk}")
    folder = _kept(entry, Path(home))
    jobs = [(seed, prompt) for seed in seeds for prompt in prompts]
    done = 0
    for seed in seeds:
        absent = [prompt for prompt in prompts if folder is None or not _file(folder, prompt, seed).exists()]
        done += len(prompts) - len(absent)
        for first in range(0, len(absent), chunk):
            part = absent[first:first + chunk]
            images, record = generate_with_record(part, method=entry.method, num_images=1, seed=seed, **entry.options,
                                                   **entry.machine)
            folder = _folder_of(entry, record, Path(home), before=folder)
            for prompt, image in zip(part, images, strict=True):
                _keep(image, _file(folder, prompt, seed), entry, prompt, seed)
            done += len(part)
            if progress is not None:
                progress(done, len(jobs))
    pictures = {}
    for prompt in prompts:
        pictures[prompt] = torch.stack([load_picture(_file(folder, prompt, seed)) for seed in seeds])
    return Drawn(pictures, read_json(folder / CARD))


def _keep(image: Image.Image, path: Path, entry: Entry, prompt: str, seed: int) -> None:
    save_png(image, path, {"prompt": prompt, "method": entry.method, "num_images": 1, "seed": seed, **entry.options})


def _file(folder: Path, prompt: str, seed: int) -> Path:
    """Return where a picture lies: prompts may hold signs that a name of a file may not."""
    digest = hashlib.sha256(prompt.encode()).hexdigest()[:16]
    return folder / f"{digest}_s{seed}.png"


def _card(entry: Entry, checkpoints: Mapping[str, str]) -> dict[str, Any]:
    """Return what the pictures belong to, as plain JSON types."""
    card = {"method": entry.method, "options": dict(entry.options),
            "defaults": METHODS.find(entry.method).defaults(), "checkpoints": dict(checkpoints),
            "inputs": hashes_of_inputs({"method": entry.method, **entry.options})}
    return json.loads(json.dumps(card, default=str))


def _folder_of(entry: Entry, record: Mapping[str, Any], home: Path, *, before: Path | None) -> Path:
    """Return the folder that pictures of this record belong to; it is made.

    Raises:
        CheckpointMismatch: the networks changed since `before`, the folder of the pictures before these.
    """
    card = _card(entry, record["checkpoints"])
    digest = hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()[:12]
    folder = home / f"{folder_name(entry.method)}-{digest}"
    if before is not None and folder != before:
        raise CheckpointMismatch(f"a network of {entry.label} was exchanged while it was drawing; draw it again")
    if not (folder / CARD).exists():
        write_json(folder / CARD, card | {"label": entry.label, "record": _summary(record), "began": utc_now()})
    return folder


def _summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the record of a call says of all pictures."""
    names = ("height", "width", "steps_done", "device", "dtype", "versions")
    return {name: record[name] for name in names if name in record}


def _kept(entry: Entry, home: Path) -> Path | None:
    """Return the folder with pictures of this entry by the networks that are there now, None where there is none."""
    for path in sorted(home.glob(f"{folder_name(entry.method)}-*/{CARD}")):
        card = read_json(path)
        current = {name: weights_version(name) for name in card["checkpoints"]}
        now = _card(entry, current)
        if all(card.get(name) == now[name] for name in now):
            return path.parent
    return None

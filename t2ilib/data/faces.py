"""Faces without captions in mind: those of the emoji set, always there, and CelebA in torchvision's layout."""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch

from .captioned import CaptionedImages
from .decoding import check_size, decode_all
from .records import EMOJI_SPLITS, Record, emoji_records
from .. import paths
from ..errors import BadParameter, MissingAsset, check_name
from ..files import replacing

NAMES = ("emoji", "celeba")
_PEOPLE = {"cat-face", "monkey-face", "person", "person-fantasy", "person-gesture", "person-role"}
_CELEBA_PARTS = {"train": 0, "validation": 1, "held_out": 2}  # the third is CelebA's "test"
_CELEBA_FILES = ("list_eval_partition.txt", "list_attr_celeba.txt", "identity_CelebA.txt")
_CHUNK = 1024  # pictures decoded before they go to the file


def load_faces(name: str = "emoji", *, split: str = "train", image_size: int = 64,
               root: str | Path | None = None) -> CaptionedImages:
    """Load pictures of faces; `.batch(indices)` gives them in [-1, 1].

    Args:
        name: "emoji": the faces of the embedded set, and its people drawn from the chest up or nearly so, with
            transparency; "celeba": aligned photographs of celebrities (Liu et al. 2015), cropped in the middle to a
            square and shrunk. These are decoded once, into a memory map in the cache folder.
        split: "train", "validation", "held_out" or "all". CelebA calls the last two parts "valid" and "test".
        image_size: Edge length in pixels.
        root: Folder that holds `celeba/`; by default the one named by `T2I_DATA`, then the cache folder.

    Returns:
        Emoji with the columns of `load_captioned`; CelebA with `file`, `identity`, and `attributes`, a list of names
        such as "Smiling" for each picture, whose words are its caption.

    Raises:
        UnknownName: If `name` or `split` is not known.
        BadParameter: If the size or a file of CelebA is bad.
        MissingAsset: If CelebA is not there; the message tells how to get it.
    """
    check_name("set of faces", name, NAMES)
    check_name("split of the faces", split, EMOJI_SPLITS)
    check_size(image_size)
    if name == "celeba":
        return _celeba(_celeba_folder(root), split, image_size)
    return _emoji(split, image_size)


def _emoji(split: str, image_size: int) -> CaptionedImages:
    """Pick the faces before anything is decoded: they are a sixth of the set."""
    records = [record for record in emoji_records(split, image_size)
               if (subgroup := record.columns["subgroup"]).startswith("face-") or subgroup in _PEOPLE]
    columns = {name: [record.columns[name] for record in records] for name in records[0].columns}
    return CaptionedImages(decode_all(records, image_size), [record.text for record in records], columns,
                           name="emoji faces")


def _celeba_folder(root: str | Path | None) -> Path:
    roots = [Path(root).expanduser()] if root is not None else [paths.user_data_dir(), paths.cache_dir()]
    folders = [place / "celeba" for place in roots if place is not None]
    missing = {}
    for folder in folders:
        needed = [*(folder / name for name in _CELEBA_FILES), folder / "img_align_celeba"]
        missing[folder] = [path.name for path in needed if not path.exists()]
        if not missing[folder]:
            return folder
    said = "; ".join(f"{folder} lacks {', '.join(names)}" for folder, names in missing.items())
    raise MissingAsset(
        f"CelebA is not here: {said}. Put the text files and the unpacked img_align_celeba.zip of "
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html there (set T2I_DATA to the folder that holds celeba/), or "
        "let torchvision.datasets.CelebA(folder, download=True) do it; name='emoji' needs nothing."
    )


def _celeba(folder: Path, split: str, image_size: int) -> CaptionedImages:
    part = _table(folder / "list_eval_partition.txt")
    attributes, identity = _table(folder / "list_attr_celeba.txt", header=True), _table(folder / "identity_CelebA.txt")
    header = attributes.pop("")
    files = [file for file, (value,) in part.items() if split == "all" or int(value) == _CELEBA_PARTS[split]]
    for where, known in (("list_attr_celeba.txt", attributes), ("identity_CelebA.txt", identity)):
        if lost := [file for file in files if file not in known]:
            raise BadParameter(f"{folder / where} says nothing of {len(lost)} pictures of list_eval_partition.txt, "
                               f"such as {lost[0]}; the files belong to different copies of CelebA.")
    has = [[name for name, value in zip(header, attributes[file], strict=True) if value == "1"] for file in files]
    images = torch.from_numpy(_memory_map(folder / "img_align_celeba", files, split, image_size))
    captions = [", ".join(names).replace("_", " ").lower() or "a face" for names in has]
    columns = {"file": files, "identity": [int(identity[file][0]) for file in files], "attributes": has}
    return CaptionedImages(images, captions, columns, name="celeba")


def _table(path: Path, *, header: bool = False) -> dict[str, list[str]]:
    """Return file name -> further words of its line; with `header`, the second line of the file under ""."""
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows = {line[0]: line[1:] for line in lines[2 if header else 0:]}
    width = len(lines[1]) if header else 1
    if bad := [name for name, values in rows.items() if len(values) != width]:
        raise BadParameter(f"{path}: the line of {bad[0]} has {len(rows[bad[0]])} values, expected {width}.")
    return rows | ({"": lines[1]} if header else {})


def _memory_map(folder: Path, files: list[str], split: str, image_size: int) -> np.ndarray:
    """Return (N, 3, S, S) uint8 that lies on disk: the file of an earlier call if names and bytes are the same."""
    sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
    if lost := [file for file in files if file not in sizes]:
        raise MissingAsset(f"{folder} lacks {len(lost)} of {len(files)} pictures, such as {lost[0]}; unpack "
                           "img_align_celeba.zip again.")
    digest = hashlib.sha256("\n".join(f"{file} {sizes[file]}" for file in files).encode()).hexdigest()[:12]
    path = paths.cache_dir() / "faces" / f"celeba-{split}-{image_size}-{digest}.npy"
    if not path.is_file():
        with replacing(path) as temporary:
            _decode_into(temporary, folder, files, image_size)
    return np.load(path, mmap_mode="c")  # copy on write: torch wants memory that may be written to


def _decode_into(path: Path, folder: Path, files: list[str], image_size: int) -> None:
    target = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(files), 3, image_size, image_size))
    for start in range(0, len(files), _CHUNK):
        records = [Record(str(folder / file), folder / file, "") for file in files[start:start + _CHUNK]]
        target[start:start + len(records)] = decode_all(records, image_size)[:, :3].numpy()
    target.flush()

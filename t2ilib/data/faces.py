"""Faces without captions in mind: those of the emoji set, always there, and CelebA in torchvision's layout."""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch

from .captioned import CaptionedImages
from .decoding import check_size, decode_all
from .records import EMOJI_SPLITS, Record, columns_of, emoji_records
from .. import paths
from ..errors import BadParameter, MissingAsset, check_name
from ..files import read_lines, replacing

NAMES = ("emoji", "celeba")
_PEOPLE = {"cat-face", "monkey-face", "person", "person-fantasy", "person-gesture", "person-role"}
_CELEBA_PARTS = {"train": 0, "validation": 1, "held_out": 2}  # the third is CelebA's "test"
_CELEBA_FILES = ("list_eval_partition.txt", "list_attr_celeba.txt", "identity_CelebA.txt")
_CELEBA_PICTURES = "img_align_celeba"
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
    records = []
    for record in emoji_records(split, image_size):
        subgroup = record.columns["subgroup"]
        if subgroup.startswith("face-") or subgroup in _PEOPLE:
            records.append(record)
    images = decode_all(records, image_size)
    captions = [record.text for record in records]
    return CaptionedImages(images, captions, columns_of(records), name="emoji faces")


def _celeba_folder(root: str | Path | None) -> Path:
    """Return the first folder that holds all of CelebA."""
    roots = [Path(root).expanduser()] if root is not None else [paths.user_data_dir(), paths.cache_dir()]
    problems = []
    for place in roots:
        if place is None:
            continue
        folder = place / "celeba"
        missing = [name for name in (*_CELEBA_FILES, _CELEBA_PICTURES) if not (folder / name).exists()]
        if not missing:
            return folder
        problems.append(f"{folder} lacks {', '.join(missing)}")
    raise MissingAsset(
        f"CelebA is not here: {'; '.join(problems)}. Put the text files and the unpacked img_align_celeba.zip of "
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html there (set T2I_DATA to the folder that holds celeba/), or "
        "let torchvision.datasets.CelebA(folder, download=True) do it; name='emoji' needs nothing."
    )


def _celeba(folder: Path, split: str, image_size: int) -> CaptionedImages:
    part_of, _ = _read_table(folder / "list_eval_partition.txt")
    identity_of, _ = _read_table(folder / "identity_CelebA.txt")
    values_of, names = _read_table(folder / "list_attr_celeba.txt", header=True)
    files = list(part_of)
    if split != "all":
        files = [file for file in files if int(part_of[file][0]) == _CELEBA_PARTS[split]]
    _check_complete(folder / "list_attr_celeba.txt", values_of, files)
    _check_complete(folder / "identity_CelebA.txt", identity_of, files)
    attributes = []
    captions = []
    for file in files:
        present = [name for name, value in zip(names, values_of[file], strict=True) if value == "1"]
        attributes.append(present)
        captions.append(", ".join(present).replace("_", " ").lower() or "a face")
    identities = [int(identity_of[file][0]) for file in files]
    images = torch.from_numpy(_memory_map(folder / _CELEBA_PICTURES, files, split, image_size))
    columns = {"file": files, "identity": identities, "attributes": attributes}
    return CaptionedImages(images, captions, columns, name="celeba")


def _read_table(path: Path, *, header: bool = False) -> tuple[dict[str, list[str]], list[str]]:
    """Return file name -> further words of its line, and the names of these words if the second line has them."""
    lines = [line.split() for line in read_lines(path) if line.strip()]
    names = []
    if header:  # the first line is the number of pictures
        names = lines[1]
        lines = lines[2:]
    width = len(names) or 1
    rows = {}
    for file, *values in lines:
        if len(values) != width:
            raise BadParameter(f"{path}: the line of {file} has {len(values)} values, expected {width}.")
        rows[file] = values
    return rows, names


def _check_complete(path: Path, rows: dict[str, list[str]], files: list[str]) -> None:
    missing = [file for file in files if file not in rows]
    if missing:
        raise BadParameter(f"{path} says nothing of {len(missing)} pictures of list_eval_partition.txt, such as "
                           f"{missing[0]}; the files belong to different copies of CelebA.")


def _memory_map(folder: Path, files: list[str], split: str, image_size: int) -> np.ndarray:
    """Return (N, 3, S, S) uint8 that lies on disk: the file of an earlier call if names and bytes are the same."""
    sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
    missing = [file for file in files if file not in sizes]
    if missing:
        raise MissingAsset(f"{folder} lacks {len(missing)} of {len(files)} pictures, such as {missing[0]}; unpack "
                           "img_align_celeba.zip again.")
    listing = "\n".join(f"{file} {sizes[file]}" for file in files)
    digest = hashlib.sha256(listing.encode()).hexdigest()[:12]
    path = paths.cache_dir() / "faces" / f"celeba-{split}-{image_size}-{digest}.npy"
    if not path.is_file():
        with replacing(path) as temporary:
            _decode_into(temporary, folder, files, image_size)
    return np.load(path, mmap_mode="c")  # copy on write: torch wants memory that may be written to


def _decode_into(path: Path, folder: Path, files: list[str], image_size: int) -> None:
    """Write the pictures as one array; only a part of them stands in memory at a time."""
    target = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(files), 3, image_size, image_size))
    for start in range(0, len(files), _CHUNK):
        chunk = files[start:start + _CHUNK]
        records = [Record(str(folder / file), folder / file, "") for file in chunk]
        rgba = decode_all(records, image_size)  # (n, 4, S, S)
        target[start:start + len(records)] = rgba[:, :3].numpy()
    target.flush()

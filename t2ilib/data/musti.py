"""MUSTI: historical pictures, texts in four languages, and whether both speak of the same smell.

The set of MediaEval is a JSON file; its pictures are addresses, of which some no longer answer. They are taken from a
folder, or downloaded once into the cache, where each keeps its hash.

    found = load_musti("musti_train.json", pictures="pictures", image_size=64)
    found.data.captions[0], found.left_out

Hürriyetoğlu et al. 2022, "MUSTI - Multimodal Understanding of Smells in Texts and Images at MediaEval 2022".
"""

import hashlib
import json
import warnings
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import torch
from torch import Tensor

from .captioned import CaptionedImages
from .decoding import check_size, decode
from .records import PICTURE_ENDINGS, Record, columns_of
from ..assets import Asset, AssetFile, fetch, find
from ..assets.download import Progress
from ..assets.reach import server_of, unreachable
from ..errors import BadParameter, CheckpointMismatch, MissingAsset, check_name
from ..files import parse_json, read_text

FIELDS = ("id", "image", "language", "text", "title", "subtask1_label", "subtask2_labels")
NEEDED = ("id", "image")
CAPTIONS = ("title", "text")
SOURCE = "https://multimediaeval.github.io/editions/2022/tasks/musti/"
KIND = "musti"  # folder of the downloads, below T2I_DATA or the cache
SHOWN = 3  # pictures that the warning names
AT_ONCE = 8  # downloads


class Musti(NamedTuple):
    """What was loaded.

    Attributes:
        data: the pictures, with the set's own fields as columns (`image` is the address).
        left_out: (id, what is wrong) of each picture that is not among them.
    """

    data: CaptionedImages
    left_out: list[tuple[str, str]]


def load_musti(path: str | Path, *, pictures: str | Path | None = None, image_size: int = 64, caption: str = "title",
               languages: Collection[str] = (), limit: int | None = None,
               progress: Progress | None = None) -> Musti:
    """Load a file of MUSTI and its pictures; what cannot be had or read is left out, with one warning.

    Args:
        path: JSON file, a list of objects with the fields of `FIELDS`; or one object a line.
        pictures: folder that holds them, named as in the address or by id. None downloads what the cache does not
            hold; a download that broke off goes on where it stopped.
        image_size: edge length; pictures are shrunk to the short side and cropped in the middle.
        caption: "title" or "text", of which the other one takes the place where it is empty.
        languages: such as ("en", "fr"); empty is all. limit: at most so many rows, from the beginning.
        progress: wraps the chunks of 1 MiB of a download, such as `runtime.progress`.

    Raises:
        BadParameter: the file is no MUSTI, or a parameter is bad.
        MissingAsset: not one picture is left.
    """
    check_size(image_size)
    check_name("caption", caption, CAPTIONS)
    rows = musti_rows(path)
    if languages:
        rows = [row for row in rows if row.get("language") in languages]
    rows = rows[:limit]
    if pictures is None:
        found, left_out = _downloaded(rows, progress)
    else:
        found, left_out = _in_folder(rows, Path(pictures).expanduser())
    data, unreadable = _decoded(rows, found, image_size, caption, Path(path).name)
    left_out += unreadable
    _tell(left_out, len(rows), Path(path).name)
    if data is None:
        raise MissingAsset(f"{path}: none of the {len(rows)} pictures can be had; give a folder with them: "
                           "pictures=FOLDER")
    return Musti(data, left_out)


def musti_rows(path: str | Path) -> list[dict[str, Any]]:
    """Return the rows of a file of MUSTI.

    Raises:
        BadParameter: it cannot be read, is no list of objects, or a row lacks what it needs.
    """
    text = read_text(Path(path).expanduser())
    if text.lstrip().startswith("["):
        try:
            rows = json.loads(text)
        except ValueError as error:
            raise BadParameter(f"{path} is no valid JSON: {error}") from error
    else:
        rows = [parse_json(line, where=str(path)) for line in text.splitlines() if line.strip()]
    for number, row in enumerate(rows):
        problem = _problem_of(row)
        if problem:
            raise BadParameter(f"{path}, row {number}: {problem}; expected the fields {', '.join(FIELDS)}")
    if not rows:
        raise BadParameter(f"{path} holds no rows")
    return [{**row, "id": str(row["id"])} for row in rows]


def _problem_of(row: Any) -> str:
    """Return what is wrong with a row, "" if nothing is."""
    if not isinstance(row, dict):
        return f"it is {type(row).__name__}, not an object"
    missing = [name for name in NEEDED if row.get(name) in (None, "")]
    if missing:
        return f"{' and '.join(missing)} missing"
    if not isinstance(row["image"], str):
        return "image is no address"
    if not any(isinstance(row.get(name), str) and row[name].strip() for name in CAPTIONS):
        return "neither title nor text says anything"
    return ""


def _file_name(row: dict[str, Any]) -> str:
    """Return the name of a picture's file in its address, without the folders before it."""
    return PurePosixPath(unquote(urlsplit(row["image"]).path)).name


def _in_folder(rows: list[dict[str, Any]], folder: Path) -> tuple[dict[int, Path], list[tuple[str, str]]]:
    """Return row number -> file for the pictures in a folder, and what is missing."""
    if not folder.is_dir():
        raise MissingAsset(f"there is no folder {folder}; give the one with MUSTI's pictures")
    files = {path.name: path for path in sorted(folder.iterdir()) if path.suffix.lower() in PICTURE_ENDINGS}
    by_stem = {path.stem: path for path in files.values()}
    found = {}
    missing = []
    for number, row in enumerate(rows):
        name = _file_name(row)
        path = files.get(name) or by_stem.get(PurePosixPath(name).stem) or by_stem.get(row["id"])
        if path is None:
            missing.append((row["id"], f"no {name} in {folder}"))
        else:
            found[number] = path
    return found, missing


def picture_asset(url: str) -> Asset:
    """Return how a picture is kept: in a folder of its own, named by a hash of its address."""
    ending = PurePosixPath(unquote(urlsplit(url).path)).suffix.lower()
    name = f"picture{ending if ending in PICTURE_ENDINGS else '.jpg'}"
    folder = hashlib.sha256(url.encode()).hexdigest()[:16]
    return Asset(folder, KIND, "MUSTI", "as its museum says", SOURCE, (AssetFile(name, (url,)),))


def _downloaded(rows: list[dict[str, Any]],
                progress: Progress | None) -> tuple[dict[int, Path], list[tuple[str, str]]]:
    """Return row number -> file for the pictures in the cache or at their addresses, and what cannot be had."""
    assets = [picture_asset(row["image"]) for row in rows]
    absent = [row["image"] for row, asset in zip(rows, assets, strict=True) if find(asset) is None]
    silent = unreachable(absent)  # each server is asked once, and not for each of its pictures

    def one(number: int) -> Path | str:
        """Return a picture's file, or what is wrong."""
        server = server_of(rows[number]["image"])
        if server in silent and find(assets[number]) is None:
            return f"{server} cannot be reached: {silent[server]}"
        try:
            return fetch(assets[number], progress=progress) / assets[number].files[0].name
        except (MissingAsset, CheckpointMismatch) as error:
            return str(error)

    found = {}
    missing = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number, result in enumerate(pool.map(one, range(len(rows)))):
            if isinstance(result, Path):
                found[number] = result
            else:
                missing.append((rows[number]["id"], result))
    return found, missing


def _decoded(rows: list[dict[str, Any]], found: dict[int, Path], image_size: int, caption: str,
             name: str) -> tuple[CaptionedImages | None, list[tuple[str, str]]]:
    """Return the pictures that can be decoded, None if there are none, and what is wrong with the others."""
    records = []
    images = []
    unreadable = []
    for number, path in sorted(found.items()):
        row = rows[number]
        try:
            rgba = torch.from_numpy(decode(path, image_size).copy())  # (S, S, 4)
        except (OSError, ValueError, SyntaxError) as error:  # what PIL raises for broken files, by format
            unreadable.append((row["id"], f"{path}: {error or type(error).__name__}"))
            continue
        images.append(over_white(rgba))
        columns = {field: row.get(field) for field in FIELDS}
        records.append(Record(f"{name}, row {number}", path, _caption(row, caption), columns))
    if not records:
        return None, unreadable
    captions = [record.text for record in records]
    return CaptionedImages(torch.stack(images), captions, columns_of(records), name="musti"), unreadable


def over_white(rgba: Tensor) -> Tensor:
    """Return a scanned picture without transparency: (S, S, 4) uint8 -> (3, S, S) uint8."""
    alpha = rgba[..., 3:].float() / 255  # (S, S, 1)
    rgb = alpha * rgba[..., :3].float() + (1 - alpha) * 255
    return rgb.round().to(torch.uint8).permute(2, 0, 1)


def _caption(row: dict[str, Any], caption: str) -> str:
    first = row.get(caption) or ""
    other = row.get("text" if caption == "title" else "title") or ""
    return first.strip() or other.strip()


def _tell(left_out: list[tuple[str, str]], count: int, name: str) -> None:
    """Warn once of what was left out."""
    if not left_out:
        return
    shown = "; ".join(f"{number}: {problem}" for number, problem in left_out[:SHOWN])
    more = ", ..." if len(left_out) > SHOWN else ""
    warnings.warn(f"{name}: {len(left_out)} of {count} pictures are left out ({shown}{more}); `left_out` lists all",
                  stacklevel=3)

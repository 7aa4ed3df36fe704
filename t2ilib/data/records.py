"""Where captioned pictures come from: each source is read into a list of records, not yet decoded."""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import paths
from ..assets import hub_or_cache
from ..errors import BadParameter, MissingAsset, check_name, unknown_name
from ..files import parse_json, read_json, read_lines, read_text

EMOJI_SPLITS = ("train", "validation", "held_out", "all")
TEXT_NAMES = ("text", "caption", "captions", "prompt", "description", "sentence", "sentences")
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # the first that a folder has is read
PICTURE_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


@dataclass
class Record:
    """One picture that is not decoded yet.

    Attributes:
        where: File and row, for error messages.
        picture: Encoded bytes, a path, a PIL image, or a function that draws it at an edge length.
        text: The default caption.
        columns: All other columns.
    """

    where: str
    picture: object
    text: str
    columns: dict = field(default_factory=dict)


def emoji_records(split: str, image_size: int, *, limit: int | None = None, folder: Path | None = None) -> list[Record]:
    """Read the embedded emoji set at the smallest stored size that is not below `image_size`.

    Raises:
        UnknownName: If the split is not one of train, validation, held_out, all.
        MissingAsset: If no stored size is large enough; the message tells how to build it.
    """
    check_name("split of the emoji set", split, EMOJI_SPLITS)
    folder = folder or paths.embedded_data_dir() / "emoji"
    files_of: dict[int, list[Path]] = {}
    for path in sorted(folder.glob("emoji_*.parquet")):
        size = int(path.stem.removeprefix("emoji_").split("-")[0])
        files_of.setdefault(size, []).append(path)
    fitting = [size for size in files_of if size >= image_size]
    if not fitting:
        raise MissingAsset(
            f"the emoji set at {image_size} px is not in {folder}; stored sizes: {sorted(files_of) or 'none'}. Build "
            f"it with: python -m t2ilib.data.build_emoji --sources DIR --sizes {image_size} --out data/emoji "
            "(data/README.md tells what DIR holds)."
        )
    return parquet_records(files_of[min(fitting)], split, limit=limit)


def parquet_records(files: Iterable[Path], split: str, *, image_column: str | None = None,
                    text_column: str | None = None, limit: int | None = None) -> list[Record]:
    """Read parquet files whose pictures are bytes, or structs with `bytes` or `path` as `datasets` writes them.

    Raises:
        MissingAsset: If a file is missing.
        BadParameter: If a file, column or row is bad.
    """
    records: list[Record] = []
    for path in files:
        if not path.exists():
            raise MissingAsset(f"no such file: {path}")
        table = _read_parquet(path)
        names = table.column_names
        pictures = [field.name for field in table.schema if _holds_pictures(field.type)]
        texts = [name for name in TEXT_NAMES if name in names]
        picture_name = _pick_column(image_column, pictures, names, "pictures", path)
        text_name = _pick_column(text_column, texts, names, "captions", path)
        for number, row in enumerate(table.to_pylist()):
            where = f"{path}, row {number}"
            picture = _cell_picture(row.pop(picture_name), path.parent, where)
            records.append(_record(where, picture, row, text_name))
    return _of_split(records, split, str(path), limit)


def _read_parquet(path: Path) -> Any:
    """Return the pyarrow table in a file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise BadParameter(f"{path} is no readable parquet file: {error}") from error


def _holds_pictures(kind: Any) -> bool:
    """Return whether a column of this pyarrow type may hold pictures."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _cell_picture(cell: object, folder: Path | None, where: str) -> object:
    """Return what a cell holds: encoded bytes, or the path of a file.

    Args:
        folder: in which the file must lie; None is anywhere, as in the cache of the hub.
    """
    if isinstance(cell, dict):
        path = cell.get("path")
        cell = cell.get("bytes") or None
        if cell is None and path:
            cell = Path(path) if folder is None else _inside(folder, path, where)
    if cell is None:
        raise BadParameter(f"{where}: there is no picture in this row.")
    return cell


def _inside(folder: Path, name: str, where: str) -> Path:
    """Return the path of a file that a data set names, which lies in the set's own folder.

    Raises:
        BadParameter: it lies elsewhere (through `..`, an absolute path or a link), and T2I_OUTSIDE does not allow it.
    """
    path = folder / name
    is_allowed = os.environ.get("T2I_OUTSIDE") == "1"
    try:
        is_inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError) as error:  # too long, a zero byte, a circle of links
        raise BadParameter(f"{where}: {name!r} is no path ({error}).") from error
    if not is_inside and not is_allowed:
        raise BadParameter(f"{where}: {name!r} lies outside {folder}; set T2I_OUTSIDE=1 to read pictures from there.")
    return path


def folder_records(folder: Path, split: str, *, text_column: str | None = None,
                   limit: int | None = None) -> list[Record]:
    """Read a folder with `metadata.jsonl`, `.csv` or `.parquet`, or with a sub-folder for each split that has its own.

    Raises:
        MissingAsset: If the folder is empty or has no captions.
        BadParameter: If the metadata cannot be read, or a row lacks `file_name` or the caption.
    """
    path = _metadata_file(folder)
    if path is not None:
        records = [_row_record(path, where, row, text_column) for where, row in _metadata_rows(path)]
        return _of_split(records, split, str(path), limit)
    records = []
    for part in _parts(folder, split):
        records += folder_records(part, "all", text_column=text_column)
    if not records:
        pictures = sum(1 for file in folder.rglob("*") if file.suffix.lower() in PICTURE_ENDINGS)
        content = f"{pictures} pictures but no captions" if pictures else "no pictures"
        raise MissingAsset(f"{folder} holds {content}; expected {METADATA[0]} with one line for each picture, such as "
                           '{"file_name": "heart.png", "text": "a red heart"}, or metadata.csv with these columns')
    return records[:limit]


def _parts(folder: Path, split: str) -> list[Path]:
    """Return the sub-folders of a split, or of all, that have captions of their own."""
    parts = [folder / split] if split != "all" else sorted(folder.iterdir())
    return [part for part in parts if _metadata_file(part) is not None]


def _metadata_file(folder: Path) -> Path | None:
    """Return the file that says what the pictures of a folder show, or None."""
    for name in METADATA:
        if (folder / name).exists():
            return folder / name
    return None


def _metadata_rows(path: Path) -> Iterator[tuple[str, dict]]:
    """Yield where a row of metadata stands, for messages, and what it says."""
    if path.suffix == ".csv":
        yield from _csv_rows(path)
    elif path.suffix == ".parquet":
        for number, row in enumerate(_read_parquet(path).to_pylist()):
            yield f"{path}, row {number}", row
    else:
        yield from _json_lines(path)


def _row_record(path: Path, where: str, row: dict, text_column: str | None) -> Record:
    """Return the record of one row of metadata."""
    file_name = row.get("file_name")
    if not isinstance(file_name, str):
        raise BadParameter(f"{where}: there is no 'file_name'; columns here: {sorted(row)}.")
    if text_column is None:
        found = [name for name in TEXT_NAMES if name in row]
        if not found:
            others = sorted(row.keys() - {"file_name"})
            raise BadParameter(f"{where}: there is no caption; expected 'text', found {others or 'none'}.")
        text_column = found[0]
    columns = {name: value for name, value in row.items() if name != "file_name"}
    picture = _inside(path.parent, file_name, where)
    record = _record(f"{where} ({file_name})", picture, columns, text_column)
    record.columns["file_name"] = file_name
    return record


def _json_lines(path: Path) -> Iterator[tuple[str, dict]]:
    """Yield the place and the object of each line that is not empty."""
    for number, line in enumerate(read_lines(path), start=1):
        where = f"{path}, line {number}"
        if line.strip():
            yield where, parse_json(line, where=where)


def _csv_rows(path: Path) -> Iterator[tuple[str, dict]]:
    """Yield the place and the values of each row below the header; a value that is not there is None."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row:  # under this name stand values that have no column
                raise BadParameter(f"{where}: more values than the header has columns; put a text with a comma in "
                                   'quotes: "a heart, red"')
            yield where, {name: value or None for name, value in row.items()}
    except csv.Error as error:
        raise BadParameter(f"{path}, line {reader.line_num} is no valid CSV: {error}") from error


def hub_records(name: str, split: str, *, config: str | None = None, image_column: str | None = None,
                text_column: str | None = None, limit: int | None = None) -> list[Record]:
    """Read a set through `datasets`; its pictures are decoded later, from the bytes it stores.

    Raises:
        MissingAsset: If it cannot be fetched.
        BadParameter: If it has no such split, or no column of pictures or captions.
    """
    import datasets

    is_local = Path(name).expanduser().exists()
    with hub_or_cache(needed=not is_local) as absence:
        try:
            part = datasets.load_dataset(name, config, split=split)
        except ValueError as error:
            raise BadParameter(f"hub:{name} cannot give split {split!r}: {error}") from error
        except Exception as error:  # noqa: BLE001 - the hub raises many kinds for: no network, no such set, no access
            problem = absence or f"{error}; check the name and the network"
            raise MissingAsset(f"hub:{name} could not be loaded: {problem}") from error
    rows = len(part) if limit is None else min(limit, len(part))
    part = part.select(range(rows))
    pictures = [key for key, feature in part.features.items() if isinstance(feature, datasets.Image)]
    texts = [key for key in TEXT_NAMES if key in part.features]
    image_column = _pick_column(image_column, pictures, part.column_names, "pictures", f"hub:{name}")
    text_column = _pick_column(text_column, texts, part.column_names, "captions", f"hub:{name}")
    part = part.cast_column(image_column, datasets.Image(decode=False))
    records = []
    for number, row in enumerate(part):
        where = f"hub:{name}, {split}, row {number}"
        picture = _cell_picture(row.pop(image_column), None, where)
        records.append(_record(where, picture, row, text_column))
    return _of_split(records, "all", f"hub:{name}", limit)


def coco_records(root: Path, split: str, *, limit: int | None = None) -> list[Record]:
    """Read COCO captions; the first caption of a picture is its default, `captions` holds all.

    Raises:
        MissingAsset: If pictures or annotations are not where COCO puts them.
    """
    part = {"train": "train", "validation": "val"}.get(split)
    if part is None:
        raise unknown_name("split of COCO", split, ["train", "validation"])
    pictures, path = _coco_files(root, part)
    notes = read_json(path)
    captions: dict[int, list[str]] = {}
    try:
        for note in notes["annotations"]:
            captions.setdefault(note["image_id"], []).append(note["caption"].strip())
        images = sorted(notes["images"], key=lambda image: image["id"])
    except (KeyError, TypeError, AttributeError) as error:
        raise BadParameter(f"{path} is no file of COCO captions ({type(error).__name__}: {error})") from error
    records = []
    for image in images[:limit]:
        number = image["id"]
        name = image["file_name"]
        row = {"text": captions.get(number, []), "file_name": name, "id": str(number)}
        where = f"{path}, image {number} ({name})"
        records.append(_record(where, _inside(pictures, name, where), row, "text"))
    return _of_split(records, "all", str(path), limit)


def _coco_files(root: Path, part: str) -> tuple[Path, Path]:
    """Return the folder of pictures and the file of captions of a part, as the years' archives name them."""
    for year in ("2017", "2014"):
        pictures = root / f"{part}{year}"
        captions = root / "annotations" / f"captions_{part}{year}.json"
        if pictures.is_dir() and captions.is_file():
            return pictures, captions
    raise MissingAsset(f"no COCO captions below {root}; expected {part}2017/ and annotations/captions_{part}2017.json.")


def _record(where: str, picture: object, row: dict, text_column: str) -> Record:
    """Take the caption out of a row; a list of captions gives its first, and stays as the column `captions`."""
    text = row.pop(text_column, None)
    if isinstance(text, list):
        row["captions"] = text
        text = text[0] if text else None
    if not isinstance(text, str) or not text.strip():
        raise BadParameter(f"{where}: the caption in {text_column!r} is empty or no text: {text!r}.")
    if not isinstance(row.get("split"), str | None):
        raise BadParameter(f"{where}: 'split' must be the name of a part, got {row['split']!r}.")
    return Record(where, picture, text, row)


def _pick_column(name: str | None, candidates: list[str], columns: list[str], content: str, where: object) -> str:
    """Return the column asked for, else the first candidate.

    Args:
        content: "pictures" or "captions".
    """
    if name is not None and name not in columns:
        raise BadParameter(f"{where} has no column {name!r} for the {content}; its columns: {', '.join(columns)}.")
    if name is None and not candidates:
        hint = "text_column" if content == "captions" else "image_column"
        raise BadParameter(
            f"{where} has no column of {content}; its columns: {', '.join(columns)}. Name one with {hint}=..."
        )
    return name or candidates[0]


def _of_split(records: list[Record], split: str, where: str, limit: int | None) -> list[Record]:
    """Keep the rows of one split; where rows do not say, they are for training."""
    if split != "all" and records:
        splits = [record.columns.get("split") or "train" for record in records]
        if split not in splits:
            raise unknown_name(f"split of {where}", split, [*sorted(set(splits)), "all"])
        records = [record for record, its_split in zip(records, splits, strict=True) if its_split == split]
    if not records:
        raise MissingAsset(f"{where} holds no pictures.")
    return records[:limit]


def columns_of(records: Sequence[Record]) -> dict[str, list]:
    """Return the further columns of records, with None where a record lacks one."""
    names: dict[str, None] = {}  # keeps the order
    for record in records:
        names.update(dict.fromkeys(record.columns))
    columns = {}
    for name in names:
        columns[name] = [record.columns.get(name) for record in records]
    return columns

"""Where captioned pictures come from: each source is read into a list of records, not yet decoded."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .. import paths
from ..errors import BadParameter, MissingAsset, check_name, unknown_name

EMOJI_SPLITS = ("train", "validation", "held_out", "all")
TEXT_NAMES = ("text", "caption", "captions", "prompt", "description", "sentence", "sentences")
PICTURE_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


@dataclass
class Record:
    """One picture that is not decoded yet.

    Attributes:
        where: File and row, for error messages.
        picture: Encoded bytes, a path, or a PIL image.
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
    sizes: dict[int, list[Path]] = {}
    for path in sorted(folder.glob("emoji_*.parquet")):
        sizes.setdefault(int(path.stem.removeprefix("emoji_").split("-")[0]), []).append(path)
    fitting = [size for size in sizes if size >= image_size]
    if not fitting:
        raise MissingAsset(
            f"the emoji set at {image_size} px is not in {folder}; stored sizes: {sorted(sizes) or 'none'}. Build it "
            f"with: python -m t2ilib.data.build_emoji --sources DIR --sizes {image_size} --out data/emoji "
            "(data/README.md tells what DIR holds)."
        )
    return parquet_records(sizes[min(fitting)], split, limit=limit)


def parquet_records(files: Iterable[Path], split: str, *, image_column: str | None = None,
                    text_column: str | None = None, limit: int | None = None) -> list[Record]:
    """Read parquet files whose pictures are bytes, or structs with `bytes` or `path` as `datasets` writes them.

    Raises:
        MissingAsset: If a file is missing.
        BadParameter: If a file, column or row is bad.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    records: list[Record] = []
    for path in files:
        if not path.exists():
            raise MissingAsset(f"no such file: {path}")
        try:
            table = pq.read_table(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise BadParameter(f"{path} is no readable parquet file: {error}") from error
        types = dict(zip(table.column_names, table.schema.types, strict=True))
        pictures = [name for name, kind in types.items() if pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
                    or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)]
        image_column_ = _pick(image_column, pictures, table.column_names, "pictures", path)
        text_column_ = _pick(text_column, [n for n in TEXT_NAMES if n in types], table.column_names, "captions", path)
        for number, row in enumerate(table.to_pylist()):
            cell = row.pop(image_column_)
            where = f"{path}, row {number}"
            records.append(_record(where, _cell_picture(cell, path.parent, where), row, text_column_))
    return _of_split(records, split, str(path), limit)


def _cell_picture(cell: object, base: Path, where: str) -> object:
    if isinstance(cell, dict):
        cell = cell.get("bytes") or (base / cell["path"] if cell.get("path") else None)
    if cell is None:
        raise BadParameter(f"{where}: there is no picture in this row.")
    return cell


def folder_records(folder: Path, split: str, *, text_column: str | None = None,
                   limit: int | None = None) -> list[Record]:
    """Read a folder with `metadata.jsonl`, or with one sub-folder for each split that has its own.

    Raises:
        MissingAsset: If the folder is empty or has no captions.
        BadParameter: If a line is no JSON object, or lacks `file_name` or the caption.
    """
    inner = [split] if split != "all" else sorted(p.name for p in folder.iterdir() if (p / "metadata.jsonl").exists())
    divided = [folder / name for name in inner if (folder / name / "metadata.jsonl").exists()]
    if not (folder / "metadata.jsonl").exists() and divided:
        return [record for part in divided for record in folder_records(part, "all", text_column=text_column)][:limit]
    path = folder / "metadata.jsonl"
    if not path.exists():
        found = sum(1 for p in folder.rglob("*") if p.suffix.lower() in PICTURE_ENDINGS)
        have = f"{found} pictures but no captions" if found else "no pictures"
        raise MissingAsset(f"{folder} holds {have}; expected metadata.jsonl with one line for each picture, such as "
                           '{"file_name": "heart.png", "text": "a red heart"}')
    records = []
    for number, row in _json_lines(path):
        where = f"{path}, line {number}"
        if not isinstance(row.get("file_name"), str):
            raise BadParameter(f"{where}: there is no 'file_name'; columns here: {sorted(row)}.")
        name = row.pop("file_name")
        if text_column is None and not any(key in row for key in TEXT_NAMES):
            raise BadParameter(f"{where}: there is no caption; expected 'text', found {sorted(row) or 'none'}.")
        column = text_column or next(key for key in TEXT_NAMES if key in row)
        record = _record(f"{where} ({name})", folder / name, row, column)
        record.columns["file_name"] = name
        records.append(record)
    return _of_split(records, split, str(path), limit)


def _json_lines(path: Path) -> Iterator[tuple[int, dict]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadParameter(f"{path}, line {number}: no valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise BadParameter(f"{path}, line {number}: expected an object in braces, got {type(row).__name__}.")
        yield number, row


def hub_records(name: str, split: str, *, config: str | None = None, image_column: str | None = None,
                text_column: str | None = None, limit: int | None = None) -> list[Record]:
    """Read a set through `datasets`; its pictures are decoded later, from the bytes it stores.

    Raises:
        MissingAsset: If it cannot be fetched.
        BadParameter: If it has no such split, or no column of pictures or captions.
    """
    import datasets

    try:
        part = datasets.load_dataset(name, config, split=split)
    except ValueError as error:
        raise BadParameter(f"hub:{name} cannot give split {split!r}: {error}") from error
    except Exception as error:  # noqa: BLE001 - the hub raises many kinds for: no network, no such set, no access
        raise MissingAsset(f"hub:{name} could not be loaded: {error}. Check the name and the network.") from error
    part = part.select(range(min(limit or len(part), len(part))))
    pictures = [key for key, feature in part.features.items() if isinstance(feature, datasets.Image)]
    texts = [key for key in TEXT_NAMES if key in part.features]
    image_column = _pick(image_column, pictures, part.column_names, "pictures", f"hub:{name}")
    text_column = _pick(text_column, texts, part.column_names, "captions", f"hub:{name}")
    part = part.cast_column(image_column, datasets.Image(decode=False))
    records = []
    for number, row in enumerate(part):
        cell, where = row.pop(image_column), f"hub:{name}, {split}, row {number}"
        records.append(_record(where, _cell_picture(cell, Path(), where), row, text_column))
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
    notes = json.loads(path.read_text(encoding="utf-8"))
    captions: dict[int, list[str]] = {}
    for note in notes["annotations"]:
        captions.setdefault(note["image_id"], []).append(note["caption"].strip())
    records = []
    for image in sorted(notes["images"], key=lambda image: image["id"])[:limit]:
        number = image["id"]
        name = image["file_name"]
        row = {"text": captions.get(number, []), "file_name": name, "id": str(number)}
        records.append(_record(f"{path}, image {number} ({name})", pictures / name, row, "text"))
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
    return Record(where, picture, text, row)


def _pick(given: str | None, found: list[str], columns: list[str], what: str, where: object) -> str:
    """Return the column asked for, else the first that was found."""
    if given is not None and given not in columns:
        raise BadParameter(f"{where} has no column {given!r} for the {what}; its columns: {', '.join(columns)}.")
    if given is None and not found:
        hint = "text_column" if what == "captions" else "image_column"
        raise BadParameter(
            f"{where} has no column of {what}; its columns: {', '.join(columns)}. Name one with {hint}=..."
        )
    return given or found[0]


def _of_split(records: list[Record], split: str, where: str, limit: int | None) -> list[Record]:
    """Keep the rows of one split; where rows do not say, they are for training."""
    if split != "all":
        known = sorted({record.columns.get("split") or "train" for record in records})
        kept = [record for record in records if (record.columns.get("split") or "train") == split]
        if records and not kept:
            raise unknown_name(f"split of {where}", split, [*known, "all"])
        records = kept
    if not records:
        raise MissingAsset(f"{where} holds no pictures.")
    return records[:limit]

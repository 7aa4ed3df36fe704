"""What a run of `generate` leaves: pictures with captions and records, as files that can repeat it."""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..assets import PACKAGED
from ..checkpoint import short_hash
from ..encoders import load_judge
from ..errors import BadParameter, MissingAsset
from ..files import content_hash, paths_in
from ..media import contact_sheet, png, save_pictures, stack_pictures
from ..methods import METHODS
from ..paths import checkpoints_dir
from ..runtime import device_name, pick_device, versions, warn_fallback

NOT_IN_FILES = ("seconds", "judge_score")  # differ between runs that draw the same: those have files of equal bytes
ARGUMENTS = ("prompt", "seed", "num_images")  # of a call, which a user may give anew beside `--from`


@dataclass(frozen=True)
class Picture:
    """One picture of a run.

    Attributes:
        caption: below it on a sheet, "" is none. record: of its run. index: its place in the run, None for a sheet of
            all. name: appended to the file's name where it is one of several.
    """

    image: Image.Image
    caption: str
    record: dict[str, Any]
    index: int | None
    name: str


def save(pictures: Sequence[Picture], out: Path, *, title: str) -> list[str]:
    """Save one picture as it is; of several, a sheet and each of them beside it. Return the paths, the sheet first."""
    captions = [picture.caption for picture in pictures]
    captioned = any(captions)
    if len(pictures) == 1 and not captioned:
        return [str(save_one(pictures[0], out))]
    files = save_each(pictures, out)
    sheet = contact_sheet([picture.image for picture in pictures], captions if captioned else None, title=title)
    if all(picture.record is pictures[0].record for picture in pictures):
        sheet_file = save_one(Picture(sheet, "", pictures[0].record, None, ""), out)
    else:  # of several runs: no one record repeats it
        sheet_file = save_pictures(sheet, out)
    return [str(sheet_file), *files]


def save_each(pictures: Sequence[Picture], out: Path) -> list[str]:
    """Save every picture beside `out`, under its name and that of the picture; return the paths."""
    files = []
    for picture in pictures:
        path = out.with_name(f"{out.stem}_{picture.name}{out.suffix}")
        files.append(str(save_one(picture, path)))
    return files


def older_files(out: Path, files: Collection[str]) -> list[Path]:
    """Return files beside `out` that are named like pictures of a run, and are none of this run's `files`.

    A run with fewer pictures, or with one method, leaves those of an earlier run: they may be mistaken for its own.
    """
    methods = "|".join(map(re.escape, METHODS))
    name = re.compile(rf"{re.escape(out.stem)}_(({methods})_)?([0-9]+){re.escape(out.suffix)}")
    numbered = []
    for path in out.parent.iterdir():
        match = name.fullmatch(path.name)
        if match and str(path) not in files:
            numbered.append((match[1] or "", int(match[3]), path))
    return [path for _, _, path in sorted(numbered)]


def save_one(picture: Picture, path: Path) -> Path:
    """Save a picture; a PNG carries the record of its run and, of the codes, its own."""
    if path.suffix.lower() != ".png":
        return save_pictures(picture.image, path)
    record = {name: value for name, value in picture.record.items() if name not in (*NOT_IN_FILES, "codes")}
    if picture.index is not None and "codes" in picture.record:
        record["codes"] = picture.record["codes"][picture.index]
    return png.save_png(picture.image, path, {**record, "index": picture.index})


def repeat(path: Path) -> tuple[dict[str, Any], int | None]:
    """Return what repeats the run that made a PNG, and which of its pictures that is (None: the sheet of all).

    Files that the run was given are looked for where its record names them, and beside the PNG. It warns where a file,
    a checkpoint, a version, the device or the number of threads is not the one that was used.

    Raises:
        MissingAsset, BadParameter: there is no such file, or it does not say how it was made.
    """
    record = png.read_record(path)
    if not isinstance(record.get("call"), dict):
        raise BadParameter(f"{path} was made with options that no file can hold (tensors or objects); repeat the call "
                           "from Python")
    call = record["call"]
    differences = []
    for name, used in record.get("checkpoints", {}).items():
        folder = checkpoints_dir() / name
        present = short_hash(folder) if folder.is_dir() else "absent"
        if present != used:
            differences.append(f"{name} {used}, here it is {present}")
    for option, files in record.get("inputs", {}).items():
        call[option] = _found_beside(call.get(option), path.parent, files)
        present_files = {file.name: content_hash(file) for file in paths_in(call[option])}
        for name, used in files.items():
            argument = f"--method {call[option]}, with its folder" if option == "method" else f"-o {option}=PATH"
            present = present_files.get(name, f"absent (give it with {argument})")
            if present != used:
                differences.append(f"{name} {used}, here it is {present}")
    differences += _other_machine(record, call)
    for difference in differences:
        warn_fallback(f"{path} was made with {difference}: expect another picture")
    return call, record.get("index")


def tell_other_settings(path: Path, repeated: dict[str, Any], asked: Collection[str]) -> None:
    """Warn where a repeated run had other settings than the PNG: a default that has changed since, or is new.

    Args:
        repeated: record of the repeated run. asked: names of options that the user gave anew.
    """
    record = png.read_record(path)
    used, present = _settings_of(record), _settings_of(repeated)
    if not used:
        return
    for name in sorted({*used, *present} - {*asked, *ARGUMENTS, *record.get("inputs", {})}):
        before, here = (json.dumps(settings[name]) if name in settings else "absent" for settings in (used, present))
        if before != here:
            warn_fallback(f"{path} was made with {name} {before}, here it is {here}: it is another picture")


def _settings_of(record: dict[str, Any]) -> dict[str, Any]:
    """Return every setting of a run by its name as an option; {} where the record has none."""
    parts = [record.get(name) for name in ("config", "prior")]
    return {name: value for part in parts if isinstance(part, dict) for name, value in part.items()}


def _other_machine(record: dict[str, Any], call: dict[str, Any]) -> list[str]:
    """Return in words where the device, its threads or the versions are not those of a record."""
    differences = []
    used_device = record.get("device")
    present_device = _device_here(call)
    if used_device is not None and used_device.replace(" 1 threads", " 1 thread") != present_device:
        differences.append(f"the device {used_device}, here it is {present_device}")
    here = versions()
    for package, used in record.get("versions", {}).items():
        present = here.get(package, "in full" if package in PACKAGED else "absent")
        if present != used:
            differences.append(f"{package} {used}, here it is {present}")
    return differences


def _device_here(call: dict[str, Any]) -> str:
    """Return the name of the device that a call would run on, with its threads: their number decides the last digits.

    A device that is not here gives its name in the call.
    """
    asked = call.get("device", "auto")
    try:
        return device_name(pick_device(asked))
    except BadParameter:
        return str(asked)


def _found_beside(value: Any, folder: Path, names: Collection[str]) -> Any:
    """Return an option's value with the files of these names taken from the folder where they are not here."""
    if isinstance(value, list):
        return [_found_beside(item, folder, names) for item in value]
    if not isinstance(value, str) or paths_in(value):
        return value
    for name in names:
        beside = folder / name
        if value.startswith(name) and beside.exists():
            return value.replace(name, str(beside), 1)
    return value


def judge_scores(images: Sequence[Image.Image], texts: Sequence[str]) -> list[float] | None:
    """Return the cosine of each picture and its text, by the judge that guides nothing; None where it is not here."""
    try:
        judge = load_judge()
    except MissingAsset as error:  # a bundle may be without it, and the pictures are drawn already
        warn_fallback(f"the pictures are not judged: {error}")
        return None
    cosines = judge.similarity(stack_pictures(images), list(texts))
    return [round(cosine, 4) for cosine in cosines.tolist()]

"""Files that appear whole or not at all, and what records say of them."""

import contextlib
import datetime
import functools
import glob
import hashlib
import json
import os
import platform
import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import BadParameter

NEEDED = 2**20  # bytes that a place must have room for
MOST_LETTERS = 80  # of a folder's name
LEFT_SECONDS = 3600.0  # after which a temporary file that nobody wrote to belongs to no process of another machine


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; what was written there takes the place of `path` when the block ends.

    Missing folders are made. If the block raises, the temporary file is removed and `path` stays as it was. Temporary
    files that killed processes left are removed, too.

    Raises:
        OSError: it cannot be written; its `filename` is that of `path`.

    Example:
        with replacing("picture.png") as temporary:
            image.save(temporary, format="PNG")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    temporary = _temporary(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        is_about_path = error.filename is None or str(error.filename) == str(temporary)
        if is_about_path and error.errno is not None:  # without a number the message stands for itself
            error.filename = str(path)
            error.filename2 = None
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """Return the name under which this process writes a file; two processes may write the same one at once."""
    return path.with_name(f"{path.name}.{os.getpid()}-{_place()}.tmp")


@functools.cache
def _place() -> str:
    """Return what tells this machine or container, among whose processes a number is unique, from others."""
    space = Path("/proc/self/ns/pid")
    identity = [platform.node(), os.stat(space).st_ino if space.exists() else 0]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:6]


def remove_leftovers(path: str | Path) -> None:
    """Remove the temporary files that killed processes left beside `path`.

    Where it cannot be asked whether the process still runs, they are left when nothing was written for an hour.
    """
    path = Path(path)
    for left in path.parent.glob(f"{glob.escape(path.name)}.*-*.tmp"):
        number, _, place = left.name.removeprefix(f"{path.name}.").removesuffix(".tmp").partition("-")
        with contextlib.suppress(OSError):
            is_old = time.time() - left.stat().st_mtime > LEFT_SECONDS
            was_killed = place == _place() and number.isdecimal() and not process_runs(int(number))
            if is_old or was_killed:
                left.unlink()


def process_runs(number: int) -> bool:
    """Return whether a process of this number runs on this machine; on Windows, where asking would end it, always."""
    if os.name != "posix":
        return True
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def append_text(path: str | Path, text: str) -> None:
    """Append lines to a UTF-8 file, all of them or none; a last line that a killed process cut short is ended before.

    Raises:
        OSError: it cannot be written; what was there before is there still.
    """
    path = Path(path)
    with open(path, "a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            was_cut = file.read(1) != b"\n"
            text = "\n" + text if was_cut else text
        data = text.encode()
        try:
            written = 0
            while written < len(data):
                written += file.write(data[written:])
        except OSError as error:
            file.truncate(size)
            error.filename = str(path)
            raise


def check_writable(path: str | Path) -> None:
    """Check that a file can be written at `path`, before the work that it shall hold; missing folders are made.

    Raises:
        BadParameter: it is a folder, lies below a file, has too long a name, may not be written, or the disk is full.
    """
    path = Path(path)
    temporary = _temporary(path.absolute())  # "." has no name of its own
    try:
        is_folder = path.is_dir()
        if not is_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(bytes(NEEDED))
            temporary.unlink()
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)
        raise BadParameter(f"{path} cannot be written ({reason(error)}); choose another place") from error
    if is_folder:
        raise BadParameter(f"{path} is a folder; give the name of a file in it")


def reason(error: Exception) -> str:
    """Return what went wrong with a file, without its name: "No space left on device"."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def read_text(path: str | Path) -> str:
    """Return the text of a UTF-8 file, with or without a byte order mark.

    Raises:
        BadParameter: it cannot be read, or has another encoding.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadParameter(f"{path} is no UTF-8 text, see byte {error.start}; save it as UTF-8") from error
    except OSError as error:
        raise BadParameter(f"{path} cannot be read ({reason(error)}); correct the path or its permissions") from error


def read_lines(path: str | Path) -> list[str]:
    """Return the lines of a UTF-8 file. Only a newline ends one: other separators of Unicode may stand in a text."""
    return read_text(path).split("\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        BadParameter: it cannot be read, is no JSON, or holds something else than one object.
    """
    return parse_json(read_text(path), where=str(path))


def parse_json(text: str, *, where: str) -> dict[str, Any]:
    """Return the object that a text writes; raises as `read_json` does, naming `where` it stands."""
    try:
        value = json.loads(text)
        may_hold_half = "\\ud" in text or "\\uD" in text  # only an escape can write a lone surrogate
        if may_hold_half:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BadParameter(f"{where} holds half a character (a lone surrogate); write it whole") from error
    except (ValueError, RecursionError) as error:
        raise BadParameter(f"{where} is no valid JSON: {error or 'nested too deeply'}") from error
    if not isinstance(value, dict):
        raise BadParameter(f"{where} must hold one object in braces, got {type(value).__name__}")
    return value


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write plain JSON types, readable and atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def check_archive(path: str | Path) -> None:
    """Compare the checksums in a file that `torch.save` wrote, which torch itself does not. Other files pass.

    Raises:
        ValueError: other bytes than were saved.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the checksum of {damaged} is wrong")


def content_hash(path: str | Path) -> str:
    """Return the first 12 digits of the SHA-256 of a file, or of the names and contents of a folder's files."""
    path = Path(path)
    if path.is_file():
        return kept_sha256(path)[:12]
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            digest.update(f"{file.relative_to(path).as_posix()} {kept_sha256(file)}\n".encode())
    return digest.hexdigest()[:12]


def kept_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read once for each version of it: weights may have gigabytes."""
    about = path.stat()
    return _sha256_of_version(path.absolute(), about.st_size, about.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256_of_version(path: Path, size: int, changed: int) -> str:
    return sha256_of(path)


def paths_in(value: Any) -> list[Path]:
    """Return the files and folders that the texts in a value name.

    Also those that a weight follows ("face.png:2"), and those behind a kind ("diffusers:folder").
    """
    if isinstance(value, str):
        for text in (value, value.rpartition(":")[0], value.partition(":")[0], value.partition(":")[2]):
            path = _existing(text)
            if path is not None:
                return [path]
        return []
    if isinstance(value, Path):
        return [value] if value.exists() else []
    if isinstance(value, dict):
        return paths_in(list(value.values()))
    if isinstance(value, (list, tuple)):
        return [path for item in value for path in paths_in(item)]
    return []


def _existing(text: str) -> Path | None:
    """Return the path that a text names, if it looks like one and is there."""
    is_path = os.sep in text or "." in text
    if not is_path:
        return None
    try:
        path = Path(text).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError):  # too long for a name, or with a zero byte
        return None


def folder_name(name: str) -> str:
    """Return a name as one of a folder: it may hold a path, as that of a method "diffusers:PATH" does."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._")[-MOST_LETTERS:] or "unnamed"


def hashes_of_inputs(values: dict[str, Any], *, folders: bool = True) -> dict[str, dict[str, str]]:
    """Return name of a value -> name of a file or folder in it -> hash, for each that the values name.

    Args:
        folders: whether to read folders too, all of whose files make the hash.
    """
    inputs: dict[str, dict[str, str]] = {}
    for name, value in values.items():
        for path in paths_in(value):
            if folders or path.is_file():
                inputs.setdefault(name, {})[path.name] = content_hash(path)
    return inputs


def without_folders(value: Any) -> Any:
    """Return a value of plain JSON types in which the absolute path of a file that is here is its name alone."""
    if isinstance(value, str):
        for path in paths_in(value):
            if path.is_absolute():
                return value.replace(str(path), path.name).replace(f"~/{path.name}", path.name)
        return value
    if isinstance(value, dict):
        return {name: without_folders(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_folders(item) for item in value]
    return value


def utc_now() -> str:
    """Return the time now, in UTC, as records carry it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

"""A careful download of named weights and data into a cache.

A named asset is looked for in the user's folder (`T2I_DATA/<kind>/<name>`), then in the cache
(`T2I_CACHE/<kind>/<name>`), then at its mirrors. `T2I_OFFLINE=1` (or `HF_HUB_OFFLINE=1`) forbids the last step.
"""

import errno
import hashlib
import http.client
import os
import re
import shutil
import socket
import time
import urllib.error
import urllib.request
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath

from .cache import RECORD, expected_hash, find, is_present, locked, read_notes, record_download, verify
from .catalogue import Asset, AssetFile, get
from .reach import server_of, unreachable
from ..errors import MissingAsset
from ..files import sha256_of, write_json

CHUNK = 2**20
TRIES = 4  # failures in a row, without a single new byte, before the next mirror is asked
WAIT = 1.0  # seconds before the second try, doubled for each further one
TIMEOUT = 30.0
Progress = Callable[..., Iterable[bytes]]  # runtime.progress: (chunks of 1 MiB, total=, desc=) -> the same chunks


def fetch(asset: str | Asset, *, progress: Progress | None = None) -> Path:
    """Return the folder that holds the asset's files, their hashes checked; download what is not here.

    A download that broke off is resumed where it stopped, now or in a later run.

    Args:
        asset: a name of the catalogue, or an entry of one's own.
        progress: wraps the chunks of 1 MiB of a download, such as `runtime.progress`.

    Raises:
        UnknownName: no asset has this name.
        MissingAsset: not here, and no mirror could be read; the message tells how to get it by hand.
        CheckpointMismatch: a file's bytes are not those that were published, or recorded earlier.
    """
    asset = get(asset) if isinstance(asset, str) else asset
    folder = find(asset)
    if folder is None:
        if _offline():
            raise MissingAsset(_by_hand(asset, "downloads are switched off (T2I_OFFLINE or HF_HUB_OFFLINE)"))
        folder = asset.folders()[-1]
        with locked(folder):  # of several processes one downloads, the others find the files
            absent = [file for file in sorted(asset.files, key=lambda f: f.optional) if not is_present(folder, file)]
            silent = unreachable(url for file in absent for url in file.urls)
            for file in absent:
                _download(asset, file, folder, progress or (lambda chunks, **_: chunks), silent)
    for file in asset.files:
        verify(folder, file)
    return folder


def _offline() -> bool:
    values = (os.environ.get("T2I_OFFLINE", ""), os.environ.get("HF_HUB_OFFLINE", ""))
    return any(value.lower() in ("1", "true", "yes", "on") for value in values)


def _by_hand(asset: Asset, reason: str) -> str:
    folders = asset.folders()
    where = str(folders[0]) if len(folders) > 1 else f"{folders[0]} (or below the folder that T2I_DATA names)"
    files = sorted(asset.files, key=lambda file: file.optional)
    described = " and ".join(_description(file) for file in files)
    return (f"{asset.name} is not here: {reason}. By hand: put {described} in {where}, then run this again. "
            f"Source: {asset.source}")


def _description(file: AssetFile) -> str:
    """Return the words for one file in the instructions for fetching it by hand."""
    size = f", about {file.about_mb:.0f} MB" if file.about_mb else ""
    without = " (it also works without)" if file.optional else ""
    packed = " out of the zip archive" if file.member else ""
    source = f", from {' or '.join(file.urls)}" if file.urls else ", no address is known"
    return f"its {Path(file.name).suffix}{without} ({file.name}{packed}{size}{source})"


# waiting does not help; nor does it without a network (gaierror)
_HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)


class _Refused(Exception):
    """A mirror answered, but not with this file: it is no use to ask it again."""


def _download(asset: Asset, file: AssetFile, folder: Path, progress: Progress, silent: Mapping[str, str]) -> None:
    """Bring a file here from the first mirror that has it.

    Args:
        silent: server -> what is wrong, for those that gave no answer and are not asked.
    """
    problems = []
    for url in file.urls:
        if server_of(url) in silent:
            continue
        # one partial file for each mirror: bytes of two mirrors are never joined
        part = folder / f"{file.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part"
        try:
            _transfer_with_retries(url, part, progress, headers=file.headers.get(url, {}),
                                   desc=f"{asset.name}/{file.name} [MiB]")
            _accept(folder, file, part, url)
        except (_Refused, OSError, http.client.HTTPException) as error:
            problems.append(f"{url}: {error or type(error).__name__}")
            if not part.exists():
                _notes(part).unlink(missing_ok=True)
            continue
        for left in folder.glob(f"{file.name}.*.part*"):
            left.unlink()
        return
    servers = {server_of(url) for url in file.urls}
    problems += [f"{server} cannot be reached: {problem}" for server, problem in silent.items() if server in servers]
    reason = f"{file.name} could not be downloaded ({'; '.join(problems) or 'no address is known'})"
    if not file.optional:
        raise MissingAsset(_by_hand(asset, reason))
    warnings.warn(f"{asset.name}: {reason}; it works without", stacklevel=3)


def _accept(folder: Path, file: AssetFile, part: Path, url: str) -> None:
    """Give a finished download its name, if it is what was asked for; else delete it."""
    part = _extract(part, file.member) if file.member else part
    sha256 = sha256_of(part)
    expected = expected_hash(folder, file)
    size = part.stat().st_size
    problem = ""
    if expected and sha256 != expected:
        recorded = "" if file.sha256 else f", recorded in {folder / RECORD} at an earlier download"
        problem = f"SHA-256 is {sha256[:12]}..., expected {expected[:12]}...{recorded}"
    elif not size or (file.about_mb and size < 0.5e6 * file.about_mb):
        problem = f"got {size:,} bytes"
        if file.about_mb:
            problem += f", expected about {file.about_mb:.0f} MB"
    if problem:
        part.unlink()
        raise _Refused(problem)
    record_download(folder, file, part, url, sha256)  # before the rename: what has its name has its hash
    os.replace(part, folder / file.name)


def _extract(archive: Path, member: str) -> Path:
    """Take the member, in whatever folder it lies, out of a zip archive and delete the archive; CRCs are checked."""
    part = archive.with_name(f"{archive.name}.out")
    try:
        with zipfile.ZipFile(archive) as content:
            found = [n for n in content.namelist() if PurePosixPath(n).name == member]
            if len(found) != 1:
                held = ", ".join(content.namelist()[:4]) or "nothing"
                raise zipfile.BadZipFile(f"it must hold one {member}, and holds {held}")
            with content.open(found[0]) as source, open(part, "wb") as target:
                shutil.copyfileobj(source, target, CHUNK)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # the last: it is encrypted
        for path in (archive, part):
            path.unlink(missing_ok=True)
        raise _Refused(f"no usable zip archive: {error}") from error
    archive.unlink()
    return part


def _transfer_with_retries(url: str, part: Path, progress: Progress, *, headers: Mapping[str, str],
                           desc: str) -> None:
    """Try again while there is progress: more bytes than any try before has brought.

    Raises:
        OSError, http.client.HTTPException: TRIES in a row without progress, or what waiting does not mend.
        _Refused: the server does not have the file.
    """
    failures = 0
    most = _size(part)
    while True:
        try:
            return _transfer(url, part, progress, headers=headers, desc=desc)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the file has become shorter than what is here
                part.unlink(missing_ok=True)
            elif error.code < 500 and error.code not in (408, 429):
                raise _Refused(f"HTTP {error.code} {error.reason}") from error
            problem = error
        except (OSError, http.client.HTTPException) as error:
            if isinstance(getattr(error, "reason", None), socket.gaierror) or getattr(error, "errno", 0) in _HOPELESS:
                raise
            problem = error
        failures = 1 if _size(part) > most else failures + 1
        most = max(most, _size(part))
        if failures >= TRIES:
            raise problem
        time.sleep(WAIT * 2 ** (failures - 1))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _notes(part: Path) -> Path:
    """Return the file that says which version of a file the bytes of `part` are of, and its length."""
    return part.with_name(part.name + ".json")


def _transfer(url: str, part: Path, progress: Progress, *, headers: Mapping[str, str], desc: str) -> None:
    """Bring `part` to its full length, from where it stands if the server still has the same file."""
    notes = _notes(part)
    have = _size(part)  # bytes
    known = read_notes(notes)
    if have and known.get("total") == have:
        return
    headers = {"User-Agent": "t2ilib", "Accept-Encoding": "identity", **headers}
    resume = bool(have and known.get("total"))
    if resume:
        headers["Range"] = f"bytes={have}-"
        if known.get("version"):
            headers["If-Range"] = known["version"]
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
        if answer.headers.get_content_type() == "text/html":
            raise _Refused("it answers with a web page instead of the file")
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        if answer.status == 206 and (not span or (int(span[1]), int(span[2])) != (have, known["total"])):
            part.unlink()
            raise ConnectionError("the file has changed since the download began; starting again")
        have = have if answer.status == 206 else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        if not have:
            version = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
            write_json(notes, {"total": total, "version": None if (version or "").startswith("W/") else version})
        chunks = iter(lambda: answer.read(CHUNK), b"")
        with open(part, "ab" if have else "wb") as f:
            for chunk in progress(chunks, total=total and -(-(total - have) // CHUNK), desc=desc):
                f.write(chunk)
    if total is not None and (got := part.stat().st_size) != total:
        raise ConnectionError(f"the connection ended after {got:,} of {total:,} bytes")

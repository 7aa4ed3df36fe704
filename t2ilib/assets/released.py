"""Files of the repository that a slim clone lacks, out of the archive of a release.

A manifest (`data/release.json`, or the file beside an archive) says where the archive lies, and the SHA-256 of it and
of each of its files. Only files that it names are unpacked, and only where weights and executed notebooks lie.
"""

import re
import shutil
import tarfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .catalogue import Asset, AssetFile
from .download import Progress, fetch
from ..errors import BadParameter, CheckpointMismatch, MissingAsset
from ..files import read_json, reason, replacing, sha256_of
from ..paths import embedded_data_dir, repo_root

MANIFEST = "release.json"
FORMAT = 1
PLACES = ("data/checkpoints/", "reports/notebooks/")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Release:
    """What a manifest says.

    Attributes:
        archive: name of its file. sha256, size: of it. urls: mirrors, in the order of asking; may be empty.
        files: path in the repository, with slashes -> SHA-256.
    """

    archive: str
    sha256: str
    size: int
    urls: tuple[str, ...]
    files: dict[str, str]


def read_release(manifest: Path | None = None) -> Release:
    """Return what a manifest says; None takes `data/release.json`.

    Raises:
        MissingAsset: there is none. BadParameter: it has another form, or names a file outside of `PLACES`.
    """
    path = manifest or embedded_data_dir() / MANIFEST
    if not path.is_file():
        raise MissingAsset(f"there is no {path}, which says where the archive of a release lies; give the file that "
                           "came with an archive: --manifest FILE")
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise BadParameter(f"{path} has format {content.get('format')!r}, expected {FORMAT}")
    files = _entry(content, "files", dict, path)
    for name, sha256 in files.items():
        _check_file(name, sha256, path)
    archive = _entry(content, "archive", str, path)
    if not archive.endswith(".tar.gz") or PurePosixPath(archive).name != archive:
        raise BadParameter(f"{path}: the archive must be the name of a .tar.gz file, got {archive!r}")
    sha256 = _entry(content, "sha256", str, path)
    if not SHA256.fullmatch(sha256):
        raise BadParameter(f"{path}: the SHA-256 of {archive} must be 64 hexadecimal digits, got {sha256!r}")
    urls = tuple(_entry(content, "urls", list, path))
    for url in urls:
        if not isinstance(url, str) or not url.startswith(("https://", "http://")):
            raise BadParameter(f"{path}: an address of the archive begins with https://, got {url!r}")
    return Release(archive, sha256, _entry(content, "bytes", int, path), urls, files)


def _entry(content: dict[str, Any], name: str, kind: type, path: Path) -> Any:
    value = content.get(name)
    if not isinstance(value, kind):
        raise BadParameter(f"{path} has {value!r} as its {name!r}; take the file that came with the archive")
    return value


def _check_file(name: str, sha256: Any, path: Path) -> None:
    """Raise BadParameter unless a file of a manifest may be unpacked."""
    parts = name.split("/")
    is_inside = name.startswith(PLACES) and all(part not in ("", ".", "..") for part in parts)
    if not is_inside or "\\" in name or ":" in name:
        raise BadParameter(f"{path} names {name!r}; files of a release lie in {' and '.join(PLACES)}")
    if not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
        raise BadParameter(f"{path}: the SHA-256 of {name} must be 64 hexadecimal digits, got {sha256!r}")


def place_of(name: str) -> Path:
    """Return where a file of a release lies here; `data/` may be elsewhere (`T2I_EMBEDDED`)."""
    if name.startswith("data/"):
        return embedded_data_dir() / name.removeprefix("data/")
    return repo_root() / name


def lacking(release: Release) -> list[str]:
    """Return the files of a release that are not here; those that are here stay, whatever they hold."""
    return [name for name in release.files if not place_of(name).is_file()]


def as_asset(release: Release) -> Asset:
    """Return the archive as something that `fetch` downloads into the cache: each archive has a folder of its own."""
    file = AssetFile(release.archive, release.urls, release.size / 1e6, release.sha256)
    name = f"{release.archive.removesuffix('.tar.gz')}-{release.sha256[:12]}"
    return Asset(name, "release", "checkpoints and executed notebooks", "see data/README.md",
                 release.urls[0] if release.urls else "the release of this repository", (file,))


def fetch_lacking(release: Release, *, archive: Path | None = None, progress: Progress | None = None) -> list[str]:
    """Bring the files that are not here, their hashes checked, and return their names.

    Args:
        archive: on this disk; None downloads it, and leaves it in the cache.
        progress: as in `fetch`.

    Raises:
        MissingAsset: the archive is not to be had. CheckpointMismatch: it, or a file in it, is not the one that was
            released; files that were right before are here, the wrong one is not.
    """
    names = lacking(release)
    if not names:
        return []
    if archive is None:
        if not release.urls:
            raise MissingAsset(f"the manifest names no address for {release.archive}; download it by hand, and give "
                               "it: --fetch ARCHIVE")
        archive = fetch(as_asset(release), progress=progress) / release.archive
    if not archive.is_file():
        raise MissingAsset(f"there is no archive {archive}; expected {release.archive}, {release.size / 1e6:.1f} MB")
    found = sha256_of(archive)
    if found != release.sha256:
        raise CheckpointMismatch(f"{archive}: SHA-256 is {found[:12]}..., expected {release.sha256[:12]}...; the "
                                 "archive is damaged, or is that of another release: download it again")
    unpack(archive, {name: release.files[name] for name in names})
    return names


def unpack(archive: Path, files: dict[str, str]) -> None:
    """Unpack these files; each gets its name when its hash is right. Nothing else of the archive is written.

    Raises:
        CheckpointMismatch: the archive cannot be read, lacks one, or holds another.
    """
    left = dict(files)
    try:
        with tarfile.open(archive, "r:gz") as content:
            for member in content:
                if member.isfile() and member.name in left:
                    _unpack_one(content, member, left.pop(member.name))
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not the archive
            raise
        raise CheckpointMismatch(f"{archive} is damaged ({reason(error)}); download it again") from error
    if left:
        raise CheckpointMismatch(f"{archive} lacks {in_words(left)}, which its manifest names; take archive and "
                                 "manifest of the same release")


def _unpack_one(content: tarfile.TarFile, member: tarfile.TarInfo, expected: str) -> None:
    source = content.extractfile(member)
    assert source is not None  # of a regular file
    with replacing(place_of(member.name)) as temporary:
        with open(temporary, "wb") as target:
            shutil.copyfileobj(source, target)
        found = sha256_of(temporary)
        if found != expected:
            raise CheckpointMismatch(f"{member.name} in the archive: SHA-256 is {found[:12]}..., expected "
                                     f"{expected[:12]}...; take archive and manifest of the same release")


def in_words(names: Collection[str]) -> str:
    """Return the first of some names, and how many more there are."""
    shown = sorted(names)[:3]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")

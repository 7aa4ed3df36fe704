"""Wheels of pure Python, made from what is installed here: without a network, and in the versions that were tested."""

import base64
import hashlib
import importlib.metadata
import io
import zipfile
from pathlib import PurePosixPath

from ..errors import BadParameter, MissingAsset

LOCAL = ("INSTALLER", "REQUESTED", "RECORD", "direct_url.json")  # what an installer writes beside a wheel's content
COMPILED = (".so", ".pyd", ".dylib")
WORKS_WITHOUT_COMPILED = ("wcwidth",)  # its compiled file only makes it faster
DATE = (2000, 1, 1, 0, 0, 0)  # of every file: equal content gives an equal wheel


def build_wheel(name: str) -> tuple[str, bytes]:
    """Return the file name and the bytes of a wheel of an installed distribution.

    Raises:
        MissingAsset: it is not installed. BadParameter: it needs compiled files, or does not list its files.
    """
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingAsset(f"{name} is not installed here; run `pip install {name}`") from error
    contents = _contents(distribution, name)
    info = next(PurePosixPath(path).parts[0] for path in contents if path.endswith(".dist-info/METADATA"))
    contents[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: t2ilib\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    contents[f"{info}/RECORD"] = _record(contents, f"{info}/RECORD")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(contents):
            entry = zipfile.ZipInfo(path, DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, contents[path])
    return f"{info.removesuffix('.dist-info')}-py3-none-any.whl", file.getvalue()


def _contents(distribution: importlib.metadata.Distribution, name: str) -> dict[str, bytes]:
    """Return path -> bytes of all that a distribution put among the packages."""
    contents = {}
    for file in distribution.files or ():
        is_elsewhere = file.is_absolute() or ".." in file.parts  # a command in bin/, which a module does not need
        is_local = file.parent.suffix == ".dist-info" and file.name in LOCAL
        if is_elsewhere or is_local or file.suffix == ".pyc":
            continue
        if file.suffix in COMPILED:
            if name in WORKS_WITHOUT_COMPILED:
                continue
            raise BadParameter(f"{name} is no pure Python: it holds {file}; take it from a package of the machine")
        contents[file.as_posix()] = file.locate().read_bytes()
    if not any(path.endswith(".dist-info/METADATA") for path in contents):
        raise BadParameter(f"{name} does not list its files, as one that was installed in place; install it from its "
                           "wheel")
    return contents


def _record(contents: dict[str, bytes], record: str) -> bytes:
    """Return the list of a wheel's files with their hashes, as the format asks for."""
    lines = []
    for path in sorted(contents):
        digest = base64.urlsafe_b64encode(hashlib.sha256(contents[path]).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(contents[path])}")
    return "\n".join([*lines, f"{record},,", ""]).encode()

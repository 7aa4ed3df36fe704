"""`python unpack_wheels.py WHEELS PACKAGES`: unpack into a folder those wheels whose modules this Python lacks.

Wheels of pure Python are archives of what an installation holds; pip is not needed. It imports nothing of the library.
"""

import contextlib
import importlib.util
import sys
import tempfile
import zipfile
from pathlib import Path


def modules_of(archive: zipfile.ZipFile) -> set[str]:
    """Return the names under which Python imports what a wheel holds."""
    tops = {name.partition("/")[0] for name in archive.namelist()}
    return {top.removesuffix(".py") for top in tops if not top.endswith((".dist-info", ".data"))}


def is_importable(module: str) -> bool:
    """Return whether this Python finds a module, which is not run."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def unpack(wheel: Path, folder: Path) -> None:
    """Unpack a wheel; what another process has put there at the same time stays."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as scratch:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch)
        for path in sorted(Path(scratch).iterdir()):
            with contextlib.suppress(OSError):
                path.rename(folder / path.name)


def main(wheels: str, folder: str) -> None:
    """Unpack what is missing."""
    sys.path.append(folder)
    for wheel in sorted(Path(wheels).glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            modules = modules_of(archive)
        if not all(is_importable(module) for module in modules):
            unpack(wheel, Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:3])

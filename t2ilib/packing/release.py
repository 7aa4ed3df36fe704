"""The archive of a release: large checkpoints and executed notebooks, with their hashes."""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .archive import Bundle, choose, pack, write
from .parts import Part
from ..assets.released import FORMAT
from ..checkpoint import WEIGHTS, absent_weights
from ..errors import BadParameter, MissingAsset
from ..files import sha256_of, write_json
from ..paths import checkpoints_dir, repo_root

LARGE = 2**18  # bytes, from which on a file goes into the archive
SUMS = "SHA256SUMS"  # in the archive, for `sha256sum -c`


def release_parts(at_least: int = LARGE) -> list[Part]:
    """Return weights of shipped checkpoints and executed notebooks of at least so many bytes, a part each.

    Raises:
        MissingAsset: there is none, or a card is without its weights: a slim clone cannot make a release.
    """
    files: dict[str, Path] = {}
    for card in sorted(checkpoints_dir().glob("*/config.json")):
        weights = card.with_name(WEIGHTS)
        if not weights.is_file():
            raise MissingAsset(f"the archive would be without weights: {absent_weights(weights)}")
        files[f"data/checkpoints/{card.parent.name}/{weights.name}"] = weights
    for notebook in sorted((repo_root() / "reports" / "notebooks").glob("*.ipynb")):
        files[f"reports/notebooks/{notebook.name}"] = notebook
    parts = []
    for name, path in files.items():
        if path.stat().st_size >= at_least:
            parts.append(Part(name, {name: path}, required=True))
    if not parts:
        raise MissingAsset(f"no weights and no executed notebook has {at_least:,} bytes; there is nothing to release")
    return parts


def hashes(parts: Sequence[Part]) -> dict[str, str]:
    """Return path in the repository -> SHA-256 of all files of some parts."""
    found = {}
    for part in parts:
        for name, content in part.files.items():
            found[name] = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256_of(content)
    return found


def write_release(parts: Sequence[Part], path: Path, *, urls: Sequence[str] = ()) -> tuple[Bundle, Path]:
    """Write the archive, and beside it the manifest by which `assets.released` fetches; equal files, equal archive.

    Args:
        path: of the archive, *.tar.gz. urls: where it will lie; the manifest names them.

    Raises:
        BadParameter: the archive's name has another ending. OSError: it cannot be written.
    """
    if not path.name.endswith(".tar.gz"):
        raise BadParameter(f"the archive of a release is a .tar.gz, got {path.name!r}; such as t2ilib-files.tar.gz")
    files = hashes(parts)
    lines = "".join(f"{sha256}  {name}\n" for name, sha256 in files.items())
    sums = Part(SUMS, {SUMS: lines.encode()}, required=True)
    bundle = choose([pack(part) for part in (sums, *parts)], sys.maxsize)
    write(bundle, path)
    manifest = path.with_name(f"{path.name.removesuffix('.tar.gz')}.json")
    content: dict[str, Any] = {"format": FORMAT, "archive": path.name, "sha256": sha256_of(path),
                               "bytes": path.stat().st_size, "urls": list(urls), "files": files}
    write_json(manifest, content)
    return bundle, manifest

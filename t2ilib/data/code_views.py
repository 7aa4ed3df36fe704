"""Codes of drawings in several views, kept in one LMDB file: each plain on white, and moved or mirrored.

path = write_views("codes.lmdb", header, data, vqvae.encode_codes, views=4, seed=0)
store = CodeViews(path, header, data, views=4)
store.batch(rows, view)   # (B, 16, 16) int64
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from .augment import augment_exact, mirror_chances
from .captioned import CaptionedImages
from .code_reader import CodeReader
from .code_store import CodesHeader, CodeWriter
from ..errors import BadParameter, CheckpointMismatch
from ..runtime import generator

SHIFT = 4  # pixels, of 64
BATCH = 32  # drawings encoded at once
Encode = Callable[[Tensor], Tensor | Sequence[Tensor]]


def view_names(data: CaptionedImages, rows: Sequence[int], view: int) -> list[str]:
    """Return the keys of a view of drawings: their ids, or their rows where they have none, and the view's number."""
    ids = data.columns.get("id")
    return [f"{row if ids is None else ids[row]}/{view}" for row in rows]


def write_views(path: str | Path, header: CodesHeader, data: CaptionedImages, encode: Encode, *, views: int = 1,
                seed: int = 0) -> Path:
    """Encode drawings and write their codes; go on where an earlier call was interrupted. Return the path.

    View 0 is the plain drawing on white; the others are moved by whole pixels, and mirrored where left and right mean
    the same. Which way depends on the seed, the view and the drawing alone.

    Args:
        header: see `CodesHeader`. encode: pictures (B, 3, H, W) in [-1, 1] -> codes (B, h, w), one grid or several.

    Raises:
        BadParameter: less than one view. CheckpointMismatch: there is a store of another model or of other pictures.
    """
    if views < 1:
        raise BadParameter(f"views must be at least 1, got {views}")
    path = Path(path)
    if _is_whole(path, header, data, views):
        return path
    with CodeWriter(path, header) as store:
        for rows in torch.arange(len(data)).split(BATCH):
            for view in range(views):
                names = view_names(data, rows.tolist(), view)
                if all(name in store for name in names):
                    continue
                with torch.no_grad():
                    grids = encode(_seen(data, rows, view, seed))
                store.add(names, *((grids,) if isinstance(grids, Tensor) else grids))
        store.finish()
    return path


def _is_whole(path: Path, header: CodesHeader, data: CaptionedImages, views: int) -> bool:
    """Return whether there is a finished store that can be read, which has every view."""
    if not path.is_file():
        return False
    try:
        CodeViews(path, header, data, views=views)
    except (CheckpointMismatch, BadParameter):
        return False
    return True


def _seen(data: CaptionedImages, rows: Tensor, view: int, seed: int) -> Tensor:
    """Return a view of drawings: (B, 3, H, W) in [-1, 1]."""
    if view == 0:
        return data.batch(rows)
    stream = generator(seed, "view", view, int(rows[0]))
    mirror = mirror_chances(data.select(rows))
    return augment_exact(data.images[rows], stream, shift=SHIFT, mirror=mirror, recolour=0.0, white=1.0)


class CodeViews:
    """Codes of drawings by their rows and views, read from a store that `write_views` has finished.

    Args:
        path, header: of the store, see `CodeReader`. data: the drawings. views: of each.

    Raises:
        MissingAsset, CheckpointMismatch: as `CodeReader` does. BadParameter: the store lacks a view of a drawing.
    """

    def __init__(self, path: str | Path, header: CodesHeader, data: CaptionedImages, *, views: int = 1):
        self.reader = CodeReader(path, header)
        self.names = [view_names(data, range(len(data)), view) for view in range(views)]
        missing = [name for name in self.names[-1] if name not in self.reader]
        if missing:
            raise BadParameter(f"{path} has no codes of {missing[0]!r} and {len(missing) - 1} others; write them with "
                               f"write_views(..., views={views})")

    def batch(self, rows: Tensor, view: Tensor | int = 0, *, level: int = -1) -> Tensor:
        """Return codes (B, h, w) int64 of one grid.

        Args:
            rows: (B,) of drawings. view: one of all, or (B,), one of each. level: of the grids; the last is the finest.
        """
        view = torch.as_tensor(view).expand(len(rows))
        names = [self.names[v][row] for v, row in zip(view.tolist(), rows.tolist(), strict=True)]
        return self.reader.batch(names, level=level)

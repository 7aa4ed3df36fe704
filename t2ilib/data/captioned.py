"""Pictures with captions: one object whatever they came from, and one function that loads them.

data = load_captioned("emoji", split="train", image_size=64)
real = data.batch(torch.arange(8), background="white")     # (8, 3, 64, 64) in [-1, 1]
data.captions[0], data.columns["artist"][0]
"""

import hashlib
import warnings
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from .decoding import check_size, decode_all
from .records import (
    Record,
    coco_records,
    columns_of,
    emoji_records,
    folder_records,
    hub_records,
    parquet_records,
)
from .shape_scenes import shape_records
from ..errors import BadParameter, MissingAsset, UnknownName, unknown_name
from ..media import to_signed

KINDS = ("emoji", "shapes", "hub:owner/name", "coco:FOLDER", "a folder with metadata.jsonl or .csv", "a .parquet file")


class CaptionedImages:
    """Pictures in one uint8 tensor, a caption for each, and any further columns.

    Attributes:
        images: (N, 4, H, W) uint8 with transparency in the last channel (not premultiplied), or (N, 3, H, W).
        captions: N strings, the default caption of each picture.
        columns: Further columns by name, N values each; for the emoji set `id`, `name`, `codepoints`, `group`,
            `subgroup`, `keywords`, `artist`, `colors`, `family`, `split`, `skin_tone`.
        name: Where the pictures came from.
        device: Where `batch` returns its result.
    """

    def __init__(self, images: Tensor, captions: Sequence[str], columns: dict[str, list] | None = None, *,
                 name: str = "", device: torch.device | str | None = None):
        """Put pictures and captions together.

        Raises:
            BadParameter: If types, shapes or lengths do not fit.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (3, 4):
            raise BadParameter(f"images must be uint8 (N, 3 or 4, H, W), got {images.dtype} {tuple(images.shape)}.")
        columns = columns or {}
        for column, values in {"captions": captions, **columns}.items():
            if len(values) != len(images):
                raise BadParameter(f"{len(images)} images but {len(values)} values in {column!r}; "
                                   "they must be as many.")
        self.images = images
        self.captions = list(captions)
        self.columns = columns
        self.name = name
        self.device = torch.device(device) if device is not None else images.device

    def __len__(self) -> int:
        return len(self.captions)

    def __repr__(self) -> str:
        channels, height, width = self.images.shape[1:]
        kind = "RGBA" if channels == 4 else "RGB"
        columns = ", ".join(self.columns) or "none"
        return f"CaptionedImages({self.name!r}, {len(self)} pictures, {kind} {height}x{width}, columns: {columns})"

    @property
    def image_size(self) -> int:
        """Return the height (equal to the width for everything that `load_captioned` makes)."""
        return self.images.shape[-1]

    def row(self, index: int) -> dict:
        """Return caption and columns of one picture: {"text": ..., "artist": ..., ...}."""
        row = {"text": self.captions[index]}
        for name, values in self.columns.items():
            row[name] = values[index]
        return row

    def select(self, indices: Tensor | Sequence[int]) -> "CaptionedImages":
        """Return the pictures at `indices`, in that order."""
        indices = torch.as_tensor(indices, dtype=torch.long, device=self.images.device).reshape(-1)
        if len(indices):
            low = int(indices.min())
            high = int(indices.max())
            if low < -len(self) or high >= len(self):
                raise BadParameter(f"an index lies outside the {len(self)} pictures: {low}..{high}.")
        rows = indices.tolist()
        captions = [self.captions[row] for row in rows]
        columns = {}
        for name, values in self.columns.items():
            columns[name] = [values[row] for row in rows]
        return CaptionedImages(self.images[indices], captions, columns, name=self.name, device=self.device)

    def spread(self, count: int) -> "CaptionedImages":
        """Return `count` pictures taken evenly from all of the set; all of it for 0, or for more than there are."""
        if count == 0 or count >= len(self):
            return self
        return self.select(torch.linspace(0, len(self) - 1, count).long())

    def rows_of_split(self, split: str, count: int = 0) -> list[int]:
        """Return the positions of a split's pictures; `count` of them, evenly spread, or all for 0 or too many."""
        rows = [i for i, name in enumerate(self.columns["split"]) if name == split]
        count = min(count or len(rows), len(rows))
        return [rows[i * len(rows) // count] for i in range(count)]

    def where(self, **conditions) -> "CaptionedImages":
        """Return the pictures that meet every condition.

        Args:
            **conditions: Column (or `text`) = a value, a list, tuple or set of values of which one must fit, or a
                function of the value. In a column of lists, such as `colors`, a value fits if it is in the list.

        Raises:
            UnknownName: If there is no such column.

        Example:
            data.where(artist="noto", group=["Food & Drink", "Animals & Nature"], colors="red")
        """
        rows = list(range(len(self)))
        for name, condition in conditions.items():
            if name != "text" and name not in self.columns:
                raise unknown_name("column", name, ["text", *self.columns])
            values = self.captions if name == "text" else self.columns[name]
            rows = [row for row in rows if _fits(values[row], condition)]
        return self.select(rows)

    def to(self, device: torch.device | str) -> "CaptionedImages":
        """Return the same set with batches on `device`.

        The pictures move there too if they take at most half of its free memory. Where they do not fit they stay, each
        batch is copied, and a warning says so.
        """
        device = torch.device(device)
        needed = self.images.numel()
        if device.type == "cuda" and needed > torch.cuda.mem_get_info(device)[0] // 2:
            warnings.warn(f"{self.name or 'the pictures'} take {needed / 2**20:.0f} MiB, more than half of what is "
                          f"free on {device}; they stay in main memory and each batch is copied.", stacklevel=2)
            return CaptionedImages(self.images, self.captions, self.columns, name=self.name, device=device)
        return CaptionedImages(self.images.to(device), self.captions, self.columns, name=self.name, device=device)

    def batch(self, indices: Tensor | Sequence[int], *, background: str | Tensor = "white",
              generator: torch.Generator | None = None) -> Tensor:
        """Return pictures over a background, as the networks take them.

        Args:
            indices: B positions.
            background: "white", "random" (one uniform colour for each picture), or colours in [0, 1], (3,) or (B, 3).
                Pictures without transparency ignore it.
            generator: Source of the random colours.

        Shapes:
            result: (B, 3, H, W) float32 in [-1, 1], on `self.device`.

        Raises:
            BadParameter: If `background` is something else.
        """
        indices = torch.as_tensor(indices, dtype=torch.long, device=self.images.device).reshape(-1)
        picked = self.images.index_select(0, indices).to(self.device)
        if picked.shape[1] == 3:
            return picked.float().div_(127.5).sub_(1)
        return over_background(picked, background_colors(background, len(indices), self.device, generator))

    def fingerprint(self) -> str:
        """Return SHA-256 over id, caption and pixels of all pictures, in order.

        For the whole emoji set (`split="all"`) at a size that ships, this is the hash in `data/emoji/info.json`.
        """
        digest = hashlib.sha256()
        names = self.columns.get("id", [""] * len(self))
        pixels = self.images.permute(0, 2, 3, 1).cpu()
        for name, caption, picture in zip(names, self.captions, pixels, strict=True):
            digest.update(f"{name}\0{caption}\0".encode())
            digest.update(picture.contiguous().numpy().tobytes())
        return digest.hexdigest()


def _fits(value: object, condition: object) -> bool:
    """Return whether a value of a column meets a condition of `CaptionedImages.where`."""
    if callable(condition):
        return condition(value)
    options = condition if isinstance(condition, (list, tuple, set, frozenset)) else [condition]
    if isinstance(value, list):
        return any(option in value for option in options)
    return any(option == value for option in options)


def background_colors(background: str | Tensor, count: int, device: torch.device | str,
                      generator: torch.Generator | None = None) -> Tensor:
    """Turn "white", "random" or a tensor of colours into (count, 3) in [0, 1] on `device`."""
    if isinstance(background, str):
        if background == "white":
            return torch.ones(count, 3, device=device)
        if background == "random":
            drawn_on = generator.device if generator else "cpu"
            return torch.rand(count, 3, generator=generator, device=drawn_on).to(device)
        raise unknown_name("background", background, ["white", "random"])
    colors = torch.as_tensor(background, dtype=torch.float32).to(device)
    if colors.shape not in ((3,), (count, 3)):
        shape = tuple(colors.shape)
        raise BadParameter(f"background must be 'white', 'random', (3,) or ({count}, 3) colours, got shape {shape}.")
    if colors.numel():
        low = float(colors.min())
        high = float(colors.max())
        if not 0 <= low <= high <= 1:  # also false for NaN
            raise BadParameter(f"background colours lie in [0, 1], got {low:.3g}..{high:.3g}.")
    return colors.expand(count, 3)


def over_background(rgba: Tensor, colors: Tensor) -> Tensor:
    """Lay pictures with transparency over plain colours.

    Shapes:
        rgba: (B, 4, H, W) uint8, colour not premultiplied.
        colors: (B, 3) in [0, 1].
        result: (B, 3, H, W) float32 in [-1, 1]: alpha * colour + (1 - alpha) * background.
    """
    alpha = rgba[:, 3:].float().div_(255)  # (B, 1, H, W)
    background = to_signed(colors)[:, :, None, None]  # (B, 3, 1, 1)
    front = rgba[:, :3].float().div_(127.5).sub_(1)
    # in place: a batch of large pictures is held once
    return front.sub_(background).mul_(alpha).add_(background)


def load_captioned(name_or_path: str | Path, *, split: str = "train", image_size: int = 64, limit: int | None = None,
                   image_column: str | None = None, text_column: str | None = None, config: str | None = None,
                   threads: int | None = None) -> CaptionedImages:
    """Load pictures with captions and decode them once.

    Args:
        name_or_path: One of
            "emoji": the set that ships with the repository, RGBA;
            "shapes": coloured shapes on white, drawn by a program, whose pictures a program can read;
            "hub:owner/name": a set of the Hugging Face hub (or "hub:" and a local folder), through `datasets`;
            "coco:FOLDER": COCO captions (`annotations/captions_train2017.json`, `train2017/`);
            a folder with `metadata.jsonl` (or `.csv`, `.parquet`), whose rows have `file_name` and `text`; or a
            `.parquet` file that holds the pictures.
        split: "train", "validation", "held_out" or "all" for the emoji set and the shapes. Elsewhere the rows
            whose `split` says so; rows without a `split` count as "train". For the hub, whatever the set calls its
            parts.
        image_size: Edge length in pixels. The emoji set takes the stored size, or shrinks the next larger one; shapes
            are drawn at any size; other pictures are shrunk or enlarged to the short side and cropped in the middle.
        limit: At most so many rows, from the beginning.
        image_column: Name of the column with pictures (hub and parquet), found by itself if there is only one.
        text_column: Name of the column with captions; "text" or "caption" and their like are found by themselves.
        config: Configuration of a set of the hub.
        threads: How many pictures are decoded at once; as many as there are cores by default.

    Returns:
        The pictures, RGBA if any of them has transparent pixels, else RGB.

    Raises:
        UnknownName: If the name is neither a set nor a path.
        MissingAsset: If files or packages are missing, or a folder holds no pictures or no captions.
        BadParameter: If a size, row, column or picture is bad; the message names file and row.
    """
    name = str(name_or_path)
    check_size(image_size)
    if limit is not None and limit < 1:
        raise BadParameter(f"limit must be at least 1, got {limit}.")
    records = _records(name, split, image_size, limit, image_column, text_column, config)
    images = decode_all(records, image_size, threads=threads)
    if name != "emoji":
        opaque = bool((images[:, 3] == 255).all())
        if opaque:
            images = images[:, :3].contiguous()
    captions = [record.text for record in records]
    return CaptionedImages(images, captions, columns_of(records), name=name)


def load_with_validation(name_or_path: str | Path, *, image_size: int = 64, every: int = 10,
                         limit: int | None = None) -> tuple[CaptionedImages, CaptionedImages]:
    """Load what a set has to train on, and pictures of the same set to choose by.

    Those are its `validation` split; where it has none, all pictures of every tenth caption, which are then not trained
    on. No caption is in both.

    Args:
        every: one of so many captions goes to validation, where the set does not decide.
        limit: at most so many pictures of each split, from the beginning.

    Raises:
        BadParameter: the set has no `validation` split, and fewer than two captions. Others as `load_captioned`.
    """
    train = load_captioned(name_or_path, split="train", image_size=image_size, limit=limit)
    try:
        return train, load_captioned(name_or_path, split="validation", image_size=image_size, limit=limit)
    except (UnknownName, MissingAsset):
        pass
    except BadParameter:
        if not str(name_or_path).startswith("hub:"):  # whose sets call their parts what they like
            raise
    captions = list(dict.fromkeys(train.captions))
    if len(captions) < 2:
        raise BadParameter(f"{name_or_path} has {len(captions)} caption, and no split 'validation'; give it pictures "
                           "with other captions to choose by")
    chosen = set(captions[1::every])
    rows_of: dict[bool, list[int]] = {False: [], True: []}
    for row, caption in enumerate(train.captions):
        rows_of[caption in chosen].append(row)
    return train.select(rows_of[False]), train.select(rows_of[True])


def _records(name: str, split: str, image_size: int, limit: int | None, image_column: str | None,
             text_column: str | None, config: str | None) -> list[Record]:
    if name == "emoji":
        return emoji_records(split, image_size, limit=limit)
    if name == "shapes":
        return list(islice(shape_records(split), limit))
    if name.startswith("hub:"):
        return hub_records(name[4:], split, config=config, image_column=image_column, text_column=text_column,
                           limit=limit)
    if name.startswith("coco:"):
        return coco_records(Path(name[5:]).expanduser(), split, limit=limit)
    path = Path(name).expanduser()
    if path.is_dir():
        return folder_records(path, split, text_column=text_column, limit=limit)
    if path.suffix == ".parquet":
        return parquet_records([path], split, image_column=image_column, text_column=text_column, limit=limit)
    raise unknown_name("captioned set (and no such folder)", name, KINDS)

"""Build the emoji set: render the drawings of four artists, describe them, divide them, write parquet.

    python -m t2ilib.data.build_emoji --sources DIR --sizes 64 128 --out data/emoji

The same sources and tools give the same pixels and captions; `info.json` holds their hash.
"""

import argparse
import hashlib
import io
import json
import math
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

from .colors import color_words
from .emoji_families import SPLITS, families, split_of_families
from .emoji_sources import ARTISTS, NOTO_FONT, Concept, IconPackage, NotoFlags, read_concepts, read_icons
from .phrases import plain_name
from ..errors import BadParameter, MissingAsset
from ..files import replacing, write_text

DESCRIBED_AT = 64  # colours and identical drawings are judged at this size, so that every size has the same rows
SHARD_BYTES = 15 * 2**20
WEBP = {"format": "WEBP", "lossless": True, "exact": True, "quality": 75, "method": 6}
COLUMNS = ("image", "text", "id", "name", "codepoints", "group", "subgroup", "keywords", "artist", "colors", "family",
           "split", "skin_tone")
LISTS = ("keywords", "colors")
# Where several names share a drawing, these keep it; otherwise the first in Unicode's order does.
COMMON_NAMES = ("flag: Australia", "flag: British Indian Ocean Territory", "flag: France", "flag: Norway",
                "flag: Spain", "flag: United Kingdom", "flag: United States", "cat face")


@dataclass(frozen=True)
class Drawing:
    """One picture to be: a concept by an artist, as SVG text or as a bitmap."""

    concept: Concept
    artist: str
    svg: str | None = None
    bitmap: bytes | None = None

    @property
    def id(self) -> str:
        """Return a name that is unique in the set, `noto/2764`."""
        return f"{self.artist}/{self.concept.key}"


def collect(concepts: Iterable[Concept], packages: dict[str, IconPackage], flags: NotoFlags | None) -> list[Drawing]:
    """List every drawing there is, in Unicode's order and then by artist."""
    drawings = []
    for concept in concepts:
        for artist, package in packages.items():
            svg = package.svg(concept)
            bitmap = None
            if svg is None and artist == "noto" and flags:
                bitmap = flags.png(concept)
            if svg or bitmap:
                drawings.append(Drawing(concept, artist, svg, bitmap))
    return drawings


def render(drawing: Drawing, size: int) -> np.ndarray:
    """Draw one picture.

    Returns:
        (size, size, 4) uint8; colour is not premultiplied, and black where nothing is drawn.
    """
    if drawing.svg is not None:
        import resvg_py

        png = resvg_py.svg_to_bytes(svg_string=drawing.svg, width=size, height=size, skip_system_fonts=True)
        picture = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    else:
        bitmap = Image.open(io.BytesIO(drawing.bitmap)).convert("RGBA")
        side = max(bitmap.size)
        picture = Image.new("RGBA", (side, side))
        picture.paste(bitmap, ((side - bitmap.width) // 2, (side - bitmap.height) // 2))
        picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    pixels = np.array(picture)
    if pixels.shape != (size, size, 4):
        raise BadParameter(f"{drawing.id} was rendered as {pixels.shape}, expected ({size}, {size}, 4).")
    pixels[pixels[..., 3] == 0] = 0
    return pixels


def encode(pixels: np.ndarray) -> bytes:
    """Encode RGBA as lossless WebP that keeps colours under transparency."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **WEBP)
    return buffer.getvalue()


def without_twins(drawings: list[Drawing], pixels: list[np.ndarray]) -> list[int]:
    """Return the indices to keep: of drawings by one artist that are equal pixel for pixel, the common name's.

    Territories without a flag of their own are drawn with their country's, and some artists draw one picture for
    several concepts.
    """
    keep: dict[tuple[str, bytes], int] = {}
    for index, (drawing, picture) in enumerate(zip(drawings, pixels, strict=True)):
        twin = (drawing.artist, hashlib.sha256(picture.tobytes()).digest())
        known = keep.setdefault(twin, index)
        if known != index and drawing.concept.name in COMMON_NAMES:
            keep[twin] = index
    return sorted(keep.values())


def describe(drawings: list[Drawing], pixels: list[np.ndarray]) -> list[dict]:
    """Make one row of metadata for each drawing (all columns but the image)."""
    concepts = [drawing.concept for drawing in drawings]
    family_of = families((concept.codes, concept.name) for concept in concepts)
    groups = [concept.group for concept in concepts]
    split_of = split_of_families(zip(family_of, groups, strict=True))
    rows = []
    for drawing, family, picture in zip(drawings, family_of, pixels, strict=True):
        concept = drawing.concept
        rows.append({
            "text": plain_name(concept.name), "id": drawing.id, "name": concept.name, "codepoints": concept.key,
            "group": concept.group, "subgroup": concept.subgroup, "keywords": list(concept.keywords),
            "artist": drawing.artist, "colors": color_words(picture), "family": family,
            "split": split_of[family], "skin_tone": concept.skin_tone,
        })
    return rows


def content_hash(rows: Iterable[dict], pixels: Iterable[np.ndarray]) -> str:
    """Return SHA-256 over id, caption and RGBA bytes (rows of pixels from the top) of all pictures, in order."""
    digest = hashlib.sha256()
    for row, picture in zip(rows, pixels, strict=True):
        digest.update(f"{row['id']}\0{row['text']}\0".encode())
        digest.update(np.ascontiguousarray(picture).tobytes())
    return digest.hexdigest()


def write_parquet(path: Path, rows: list[dict], images: list[bytes]) -> None:
    """Write one file that both pyarrow and `datasets.load_dataset("parquet", ...)` read as pictures and text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    word = {"dtype": "string", "_type": "Value"}
    types = {"image": pa.struct([("bytes", pa.binary()), ("path", text)])}
    hub_features: dict[str, Any] = {"image": {"_type": "Image"}}  # how `datasets` knows pictures and lists
    columns: dict[str, list] = {"image": []}
    for name in COLUMNS[1:]:
        types[name] = pa.list_(text) if name in LISTS else text
        hub_features[name] = [word] if name in LISTS else word
        columns[name] = [row[name] for row in rows]
    for row, data in zip(rows, images, strict=True):
        file_name = f"{row['id'].replace('/', '-')}.webp"
        columns["image"].append({"bytes": data, "path": file_name})
    metadata = {"huggingface": json.dumps({"info": {"features": hub_features}})}
    schema = pa.schema(list(types.items()), metadata=metadata)
    table = pa.Table.from_pydict(columns, schema=schema)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", compression_level=15, row_group_size=1024)


def write_size(out: Path, size: int, drawings: list[Drawing], rows: list[dict], threads: int) -> dict:
    """Render and write all pictures at one size, in as many files as keep each below `SHARD_BYTES`.

    Returns:
        The record for `info.json`: files with their bytes and rows, and the content hash.
    """
    with ThreadPoolExecutor(threads) as pool:
        pixels = list(pool.map(lambda drawing: render(drawing, size), drawings))
        images = list(pool.map(encode, pixels))
    count = math.ceil(sum(map(len, images)) / SHARD_BYTES)
    edges = [round(i * len(rows) / count) for i in range(count + 1)]
    files = []
    for i in range(count):
        name = f"emoji_{size}.parquet" if count == 1 else f"emoji_{size}-{i:05d}-of-{count:05d}.parquet"
        part = slice(edges[i], edges[i + 1])
        write_parquet(out / name, rows[part], images[part])
        files.append({"name": name, "bytes": (out / name).stat().st_size, "rows": edges[i + 1] - edges[i]})
    names = [file["name"] for file in files]
    for old in out.glob(f"emoji_{size}*.parquet"):
        if old.name not in names:
            old.unlink()
    return {"files": files, "bytes": sum(file["bytes"] for file in files), "sha256": content_hash(rows, pixels)}


def build(sources: Path, out: Path, *, sizes: Iterable[int] = (64, 128), unicode_dir: Path, noto_font: Path | None,
          skin_tones: bool = False, limit: int | None = None, threads: int = 2) -> dict:
    """Build the set and return what `info.json` says.

    Args:
        sources: Folder with the four icon packages.
        out: Folder to write.
        sizes: Edge lengths in pixels.
        unicode_dir: Folder with Unicode's and CLDR's files.
        noto_font: The font for Noto's flags, or None to leave them out.
        skin_tones: Add the skin tone variants.
        limit: Only the first so many concepts, to try things out.
        threads: How many pictures are worked on at once.

    Raises:
        MissingAsset: If a source or a tool is missing.
        BadParameter: If a size is not positive.
    """
    sizes = sorted(set(sizes))
    if not sizes or sizes[0] < 8:
        raise BadParameter(f"sizes must be at least 8 pixels, got {sizes}.")
    concepts, unicode_record = read_concepts(unicode_dir, skin_tones=skin_tones)
    packages = {artist: read_icons(sources, artist) for artist in ARTISTS}
    flags = NotoFlags(noto_font) if noto_font else None
    drawings = collect(concepts[:limit], packages, flags)
    with ThreadPoolExecutor(threads) as pool:
        pixels = list(pool.map(lambda drawing: render(drawing, DESCRIBED_AT), drawings))
    keep = without_twins(drawings, pixels)
    drawings = [drawings[i] for i in keep]
    rows = describe(drawings, [pixels[i] for i in keep])
    out.mkdir(parents=True, exist_ok=True)
    info = {"format": 1, "counts": _counts(rows), "sizes": {}, "sources": {}}
    for package in packages.values():
        info["sources"][package.record["package"]] = package.record
    info["sources"] |= unicode_record
    if flags:
        info["sources"][NOTO_FONT] = flags.record
    info["tools"] = {name: version(name) for name in ("resvg-py", "pillow", "numpy", "pyarrow")}
    info["tools"]["libwebp"] = features.version("webp")
    records = _sizes_that_stay(out, info, sizes)
    for size in sizes:
        records[str(size)] = write_size(out, size, drawings, rows, threads)
    info["sizes"] = {size: records[size] for size in sorted(records, key=int)}
    _write_lists(out, rows)
    write_text(out / "info.json", json.dumps(info, indent=1, ensure_ascii=False) + "\n")
    return info


def _sizes_that_stay(out: Path, info: dict, sizes: list[int]) -> dict:
    """Return the record of other sizes in `out`; refuse to mix them with pictures from other sources."""
    path = out / "info.json"
    if not path.exists():
        return {}
    old = json.loads(path.read_text(encoding="utf-8"))
    stay = {size: record for size, record in old["sizes"].items() if int(size) not in sizes}
    same_source = old["counts"] == info["counts"] and old["sources"] == info["sources"]
    if stay and not same_source:
        raise BadParameter(
            f"{out} holds sizes {', '.join(stay)} from other sources or options; "
            "build these sizes as well, or take another folder with --out."
        )
    return stay


def _counts(rows: list[dict]) -> dict:
    split_of = {row["family"]: row["split"] for row in rows}
    counts = {"pictures": len(rows), "concepts": len({row["name"] for row in rows}), "families": len(split_of),
              "with_skin_tone": sum(bool(row["skin_tone"]) for row in rows)}
    for column in ("artist", "split", "group"):
        counts[column] = dict(Counter(row[column] for row in rows))
    counts["families_by_split"] = dict(Counter(split_of.values()))
    return counts


def _write_lists(out: Path, rows: list[dict]) -> None:
    (out / "splits").mkdir(exist_ok=True)
    for split in SPLITS:
        names = dict.fromkeys(row["family"] for row in rows if row["split"] == split)
        write_text(out / "splits" / f"{split}.txt", "".join(f"{name}\n" for name in names))


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m t2ilib.data.build_emoji", description=__doc__.splitlines()[0])
    parser.add_argument("--sources", type=Path, required=True, help="folder with the packages @iconify-json/*")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, for instance data/emoji")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128], help="edge lengths in pixels")
    parser.add_argument("--unicode", type=Path, default=Path("/usr/share/unicode"),
                        help="folder with emoji/emoji-test.txt and cldr/common/annotations")
    parser.add_argument("--noto-font", type=Path, default=Path("/usr/share/fonts/truetype/noto") / NOTO_FONT,
                        help="font that holds Noto's flags; 'none' leaves them out")
    parser.add_argument("--skin-tones", action="store_true", help="add the skin tone variants")
    parser.add_argument("--limit", type=int, help="only the first concepts")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(arguments)
    noto_font = None if str(args.noto_font) == "none" else args.noto_font
    try:
        info = build(args.sources, args.out, sizes=args.sizes, unicode_dir=args.unicode, limit=args.limit,
                     noto_font=noto_font, skin_tones=args.skin_tones, threads=args.threads)
    except (MissingAsset, BadParameter) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(json.dumps({"counts": info["counts"], "sizes": info["sizes"]}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

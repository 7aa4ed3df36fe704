"""Several pictures as one: a contact sheet with captions, drawn by PIL alone."""

import functools
import importlib.util
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .convert import to_pil
from ..errors import BadParameter
from ..files import replacing

TINY = 32  # side of pictures whose pixels may be shown as squares; larger ones are enlarged smoothly
LATIN = 0x24F  # the last letter that every font has
# fonts with Chinese, Japanese and Korean letters, where systems keep them
SYSTEM_FONTS = (
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc", "/usr/share/fonts/noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/google-noto-cjk/NotoSansCJK-Regular.ttc", "/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",
    "/usr/share/fonts/truetype/droid/DroidSansFallbackFull.ttf", "/System/Library/Fonts/PingFang.ttc",
    "/System/Library/Fonts/Hiragino Sans GB.ttc", "/System/Library/Fonts/AppleSDGothicNeo.ttc",
    "/Library/Fonts/Arial Unicode.ttf", "C:/Windows/Fonts/msyh.ttc", "C:/Windows/Fonts/meiryo.ttc",
    "C:/Windows/Fonts/malgun.ttf",
)
TITLE_COLOUR = "#1d1d1f"
CAPTION_COLOUR = "#3d3d3d"


def contact_sheet(images: Any, captions: Sequence[str] | None = None, *, columns: int | None = None, size: int = 256,
                  title: str | None = None) -> Image.Image:
    """Return one PIL picture with all pictures in rows, each with its caption below.

    Args:
        images: pictures (see `to_pil`); each is fitted into a square of `size` pixels.
        captions: one for each picture.
        columns: pictures in a row; default nearly square, at most 6.
        size: side of one picture in pixels.
        title: line above all.

    Raises:
        BadParameter: no pictures, or another number of captions.
    """
    pictures = picture_list(images)
    if captions is not None and len(captions) != len(pictures):
        raise BadParameter(f"got {len(captions)} captions for {len(pictures)} pictures")
    if columns is None:
        columns = min(6, math.ceil(math.sqrt(len(pictures))))
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    gap = max(8, size // 16)
    texts = [*(captions or ()), title or ""]
    caption_font = _font(max(11, size // 16), texts)
    title_font = _font(max(14, size // 11), texts)
    caption_height = int(caption_font.size * 1.7) if captions else 0
    top = int(title_font.size * 2) if title else gap

    width = gap + columns * (size + gap)
    height = top + rows * (size + caption_height + gap)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    if title:
        text = _shortened(title, title_font, width - 2 * gap)
        draw.text((gap, top // 2), text, TITLE_COLOUR, font=title_font, anchor="lm")
    for i, picture in enumerate(pictures):
        x = gap + (i % columns) * (size + gap)
        y = top + (i // columns) * (size + caption_height + gap)
        picture = fitted(picture, size)
        sheet.paste(picture, (x + (size - picture.width) // 2, y + (size - picture.height) // 2))
        if captions:
            text = _shortened(captions[i], caption_font, size)
            place = (x + size // 2, y + size + caption_height // 2)
            draw.text(place, text, CAPTION_COLOUR, font=caption_font, anchor="mm")
    return sheet


def save_pictures(images: Any, path: str | Path, **options: Any) -> Path:
    """Save one picture, or a contact sheet of several, and return the path; folders are made.

    The file appears whole or not at all.

    Args:
        options: of PIL's `save`, such as `quality`.
    """
    path = Path(path)
    pictures = to_pil(images)
    picture = contact_sheet(pictures) if isinstance(pictures, list) else pictures
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None:
        raise BadParameter(f"{path.name}: no picture can be saved under this ending; use .png, .jpg or .webp")
    with replacing(path) as temporary:
        picture.save(temporary, format=kind, **options)
    return path


def picture_list(images: Any) -> list[Image.Image]:
    """Return pictures (see `to_pil`) as a list that is not empty; BadParameter if it would be."""
    pictures = to_pil(images)
    if not isinstance(pictures, list):
        pictures = [pictures]
    if not pictures:
        raise BadParameter("there are no pictures to show; got an empty list")
    return pictures


def fitted(picture: Image.Image, size: int) -> Image.Image:
    """Scale to fit a square; pictures of at most TINY pixels keep sharp pixels where the factor is whole and large."""
    longest = max(picture.size)
    factor = size / longest
    sharp = longest <= TINY and factor >= 4 and factor.is_integer()
    shape = tuple(max(1, round(side * factor)) for side in picture.size)
    method = Image.Resampling.NEAREST if sharp else Image.Resampling.LANCZOS
    return picture.convert("RGB").resize(shape, method)


def png_bytes(picture: Image.Image, size: int) -> bytes:
    """Return a PNG of the picture, fitted into a square of `size` pixels."""
    buffer = io.BytesIO()
    fitted(picture, size).save(buffer, "PNG")
    return buffer.getvalue()


def _font(size: int, texts: Sequence[str]) -> ImageFont.FreeTypeFont:
    """Return the font that matplotlib brings along, or where it lacks letters of the texts one of the system's."""
    letters = {ord(letter) for text in texts for letter in text if ord(letter) > LATIN and letter.isprintable()}
    default = _default_font()
    if not letters:
        return ImageFont.truetype(default, size)
    for file in (default, *SYSTEM_FONTS):
        if Path(file).is_file() and letters <= _letters_of(file):
            return ImageFont.truetype(file, size)
    return ImageFont.truetype(default, size)


def _default_font() -> str:
    """Return the path of the font that matplotlib brings along, found without importing matplotlib."""
    spec = importlib.util.find_spec("matplotlib")
    folder = Path(next(iter(spec.submodule_search_locations)))
    return str(folder / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")


@functools.lru_cache
def _letters_of(file: str) -> frozenset[int]:
    """Return the characters that a font can draw."""
    from fontTools.ttLib import TTFont, TTLibError

    try:
        with TTFont(file, fontNumber=0, lazy=True) as font:
            return frozenset(font.getBestCmap())
    except (TTLibError, OSError):
        return frozenset()


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Return the text in one line, its end cut off where it is wider than `width` pixels."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    text = " ".join(printable.split())  # fonts cannot lay out line breaks
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"

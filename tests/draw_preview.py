"""Draw the picture that GitHub shows where somebody links to the repository: prompts of the gallery by two methods.

    python tests/draw_preview.py          writes reports/social-preview.png

The pictures are cut out of the sheets in reports/gallery, which notebooks 03 and 08 draw with the shipped networks: six
of twelve prompts, the same for both methods. The record in the file names prompts and the SHA-256 of the sheets. GitHub
takes it in the settings of the repository, "Social preview".
"""

import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from t2ilib.files import sha256_of  # noqa: E402
from t2ilib.media import png  # noqa: E402
from t2ilib.media.sheets import CAPTION_COLOUR, TITLE_COLOUR, fitted  # noqa: E402

GALLERY = HERE.parent / "reports" / "gallery"
OUT = HERE.parent / "reports" / "social-preview.png"
WIDTH = 1280
HEIGHT = 640
MOST_BYTES = 400 * 1024

# of the sheets: pictures of 160 pixels in rows of six, 18 pixels of caption below each
SHEET_SIZE = (1030, 386)
SHEET_TILE = 160
SHEET_GAP = 10
SHEET_CAPTION = 18
SHEET_PROMPTS = ("a red heart", "a grinning face", "a blue car", "a slice of pizza", "a yellow star", "a green apple",
                 "a clock", "a rocket", "a Christmas tree", "the flag of France", "a black cat", "a fish")

PROMPTS = ("a red heart", "a grinning face", "a Christmas tree", "the flag of France", "a black cat", "a fish")
METHODS = {"vqgan_clip": "VQGAN+CLIP", "minimagen": "MinImagen"}

TITLE = "t2ilib"
LINES = ("A laboratory for text-to-image generation: notebooks that teach,",
         "and the library under them. Offline, on a laptop, without a GPU.")

TILE = 180
GAP = 14
MARGIN = 40
LABEL = 66  # width of the column with the methods' names
TOP = 194
CAPTION = 42


def gallery_pictures() -> tuple[list[list[Image.Image]], dict[str, Any]]:
    """Return a row of pictures for each method, and the record of all; fails where a sheet has another layout."""
    rows = []
    hashes = {}
    for method in METHODS:
        path = GALLERY / f"{method}.png"
        hashes[path.name] = sha256_of(path)
        with Image.open(path) as sheet:
            if sheet.size != SHEET_SIZE:
                raise SystemExit(f"{path.name} is {sheet.size}, expected {SHEET_SIZE}: say here how it is laid out")
            rows.append([cut(sheet.convert("RGB"), prompt) for prompt in PROMPTS])
    return rows, {"methods": list(METHODS), "prompts": list(PROMPTS), "sheets": hashes}


def cut(sheet: Image.Image, prompt: str) -> Image.Image:
    """Return the picture of a prompt out of a sheet."""
    row, place = divmod(SHEET_PROMPTS.index(prompt), 6)
    left = SHEET_GAP + place * (SHEET_TILE + SHEET_GAP)
    top = SHEET_GAP + row * (SHEET_TILE + SHEET_CAPTION + SHEET_GAP)
    return sheet.crop((left, top, left + SHEET_TILE, top + SHEET_TILE))


def compose(rows: list[list[Image.Image]]) -> Image.Image:
    """Return the whole, 1280 x 640: title above, a row of pictures for each method, prompts below."""
    preview = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(preview)
    draw.text((MARGIN, 66), TITLE, TITLE_COLOUR, font=font(72, bold=True), anchor="lm")
    title_width = draw.textlength(TITLE, font=font(72, bold=True))
    for i, line in enumerate(LINES):
        place = (MARGIN + title_width + 40, 48 + 38 * i)
        draw.text(place, line, CAPTION_COLOUR, font=font(25), anchor="lm")
    command = 'python -m t2ilib generate "a black cat" --method minimagen'
    draw.rounded_rectangle((MARGIN, 122, WIDTH - MARGIN, 172), radius=10, fill="#f1f3f5")
    draw.text((MARGIN + 20, 147), f"$ {command}", TITLE_COLOUR, font=font(23, mono=True), anchor="lm")
    for i, (row, name) in enumerate(zip(rows, METHODS.values(), strict=True)):
        y = TOP + i * (TILE + GAP)
        preview.paste(upright(name), (MARGIN - 8, y))
        for j, picture in enumerate(row):
            preview.paste(fitted(picture, TILE), (column(j), y))
    for j, prompt in enumerate(PROMPTS):
        place = (column(j) + TILE // 2, TOP + 2 * TILE + GAP + CAPTION // 2)
        draw.text(place, prompt, CAPTION_COLOUR, font=font(18), anchor="mm")
    return preview


def column(j: int) -> int:
    """Return the left edge of a column of pictures."""
    width = (WIDTH - 2 * MARGIN - LABEL - len(PROMPTS) * TILE) // (len(PROMPTS) - 1)
    return MARGIN + LABEL + j * (TILE + width)


def upright(text: str) -> Image.Image:
    """Return a text that reads from below, as high as a picture."""
    label = Image.new("RGB", (TILE, 40), "white")
    ImageDraw.Draw(label).text((TILE // 2, 20), text, TITLE_COLOUR, font=font(20, bold=True), anchor="mm")
    return label.rotate(90, expand=True)


def font(size: int, *, bold: bool = False, mono: bool = False) -> ImageFont.FreeTypeFont:
    """Return one of the fonts that matplotlib brings along."""
    import matplotlib

    name = "DejaVuSansMono" if mono else "DejaVuSans"
    if bold:
        name += "-Bold"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), size)


def main() -> None:
    """Draw and save; fails where the file is larger than it may be."""
    rows, record = gallery_pictures()
    png.save_png(compose(rows), OUT, record)
    size = OUT.stat().st_size
    print(f"{OUT.relative_to(HERE.parent).as_posix()}: {size / 1024:.0f} KiB")
    if size > MOST_BYTES:
        raise SystemExit(f"that is more than {MOST_BYTES // 1024} KiB; make the pictures smaller (TILE)")


if __name__ == "__main__":
    main()

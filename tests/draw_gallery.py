"""Draw what the README and the repository's page show: prompts by every method, with the networks that ship.

    python tests/draw_gallery.py                    every method that can draw here
    python tests/draw_gallery.py minimagen          this one anew
    python tests/draw_gallery.py none               only the sheet of all methods and the preview, from what is there

Each method draws twelve prompts with its defaults and the first seed, nothing picked by hand, on a sheet of its own in
reports/gallery; the file holds the record that repeats it (`python -m t2ilib generate --from FILE`). From these sheets
come reports/gallery/methods.png, all methods on some prompts, and reports/social-preview.png, which GitHub takes in the
settings of the repository, "Social preview".
"""

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from t2ilib.cli.pictures import Picture, save_one  # noqa: E402
from t2ilib.files import sha256_of  # noqa: E402
from t2ilib.media import png  # noqa: E402
from t2ilib.media.sheets import CAPTION_COLOUR, TITLE_COLOUR, contact_sheet, fitted  # noqa: E402
from t2ilib.methods import METHODS, generate_with_record  # noqa: E402

GALLERY = HERE.parent / "reports" / "gallery"
PREVIEW = HERE.parent / "reports" / "social-preview.png"
NONE = "none"
PROMPTS = ("a red heart", "a grinning face", "a blue car", "a slice of pizza", "a yellow star", "a green apple",
           "a clock", "a rocket", "a Christmas tree", "the flag of France", "a black cat", "a fish")

# of a method's sheet: pictures of 160 pixels in rows of six, 18 pixels of caption below each
SHEET_SIZE = (1030, 386)
SHEET_TILE = 160
SHEET_GAP = 10
SHEET_CAPTION = 18
IN_A_ROW = 6

# all methods: both what comes out well and what does not
SOME_PROMPTS = ("a red heart", "a grinning face", "a blue car", "a Christmas tree", "the flag of France", "a black cat",
                "a slice of pizza", "a fish")

PREVIEW_PROMPTS = ("a red heart", "a grinning face", "a Christmas tree", "the flag of France", "a black cat", "a fish")
PREVIEW_METHODS = ("generator", "minimagen")
PREVIEW_SIZE = (1280, 640)
PREVIEW_BYTES = 400 * 1024
MARGIN = 40
TITLE = "t2ilib"
LINES = ("A laboratory for text-to-image generation: notebooks that teach,",
         "and the library under them. Offline, on a laptop, without a GPU.")
COMMAND = 'python -m t2ilib generate "a black cat" --method generator'


def sheet_file(method: str) -> Path:
    return GALLERY / f"{method}.png"


def sheet_hashes(methods: Sequence[str]) -> dict[str, str]:
    """Return name -> SHA-256 of the sheets of methods."""
    return {sheet_file(method).name: sha256_of(sheet_file(method)) for method in methods}


def draw_sheet(method: str) -> None:
    """Draw the prompts by a method and save its sheet with the record that repeats it."""
    images, record = generate_with_record(list(PROMPTS), method=method, num_images=1, seed=0)
    sheet = contact_sheet(images, PROMPTS, columns=IN_A_ROW, size=SHEET_TILE)
    save_one(Picture(sheet, "", record, None, ""), sheet_file(method))


def cut(method: str, prompts: Sequence[str]) -> list[Image.Image]:
    """Return the pictures of some prompts out of a method's sheet; fails where it has another layout."""
    with Image.open(sheet_file(method)) as opened:
        sheet = opened.convert("RGB")
    if sheet.size != SHEET_SIZE:
        raise SystemExit(f"{method}.png is {sheet.size}, expected {SHEET_SIZE}: run python tests/draw_gallery.py")
    pictures = []
    for prompt in prompts:
        row, place = divmod(PROMPTS.index(prompt), IN_A_ROW)
        left = SHEET_GAP + place * (SHEET_TILE + SHEET_GAP)
        top = SHEET_GAP + row * (SHEET_TILE + SHEET_CAPTION + SHEET_GAP)
        pictures.append(sheet.crop((left, top, left + SHEET_TILE, top + SHEET_TILE)))
    return pictures


def font(size: int, *, bold: bool = False, mono: bool = False) -> ImageFont.FreeTypeFont:
    """Return one of the fonts that matplotlib brings along."""
    import matplotlib

    name = "DejaVuSansMono" if mono else "DejaVuSans"
    if bold:
        name += "-Bold"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), size)


def upright(text: str, length: int, size: int) -> Image.Image:
    """Return a text that reads from below, in two lines where it is long, in the middle of a strip of some length."""
    lines = textwrap.fill(text, width=int(1.4 * length / size))
    label = Image.new("RGB", (length, 3 * size), "white")
    place = (length // 2, 3 * size // 2)
    ImageDraw.Draw(label).multiline_text(place, lines, TITLE_COLOUR, font=font(size, bold=True), anchor="mm",
                                         align="center")
    return label.rotate(90, expand=True)


def picture_table(rows: Sequence[Sequence[Image.Image]], names: Sequence[str], prompts: Sequence[str], *, tile: int,
                  gap: int) -> Image.Image:
    """Return a row of pictures for each method, its name at the left, the prompts below all.

    Args:
        tile: side of a picture, gap: between two, in pixels.
    """
    text = tile // 10
    left = 3 * text + gap
    foot = 3 * text
    width = left + len(prompts) * (tile + gap) - gap
    height = len(rows) * (tile + gap) - gap + foot
    table = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(table)
    for i, (row, name) in enumerate(zip(rows, names, strict=True)):
        y = i * (tile + gap)
        table.paste(upright(name, tile, text), (0, y))
        for j, picture in enumerate(row):
            table.paste(fitted(picture, tile), (left + j * (tile + gap), y))
    for j, prompt in enumerate(prompts):
        place = (left + j * (tile + gap) + tile // 2, height - foot // 2)
        draw.text(place, prompt, CAPTION_COLOUR, font=font(text), anchor="mm")
    return table


def preview(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Return the picture of the repository's page: title and a command above, a row of pictures for each method."""
    width, height = PREVIEW_SIZE
    page = Image.new("RGB", PREVIEW_SIZE, "white")
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, 66), TITLE, TITLE_COLOUR, font=font(72, bold=True), anchor="lm")
    title_width = draw.textlength(TITLE, font=font(72, bold=True))
    for i, line in enumerate(LINES):
        place = (MARGIN + title_width + 40, 48 + 38 * i)
        draw.text(place, line, CAPTION_COLOUR, font=font(25), anchor="lm")
    draw.rounded_rectangle((MARGIN, 122, width - MARGIN, 172), radius=10, fill="#f1f3f5")
    draw.text((MARGIN + 20, 147), f"$ {COMMAND}", TITLE_COLOUR, font=font(23, mono=True), anchor="lm")
    names = [METHODS[method].title for method in PREVIEW_METHODS]
    table = picture_table(rows, names, PREVIEW_PROMPTS, tile=176, gap=14)
    page.paste(table, ((width - table.width) // 2, height - table.height - 12))
    return page


def save_preview() -> None:
    """Draw and save the picture of the repository's page; fails where the file is larger than GitHub takes."""
    page = preview([cut(method, PREVIEW_PROMPTS) for method in PREVIEW_METHODS])
    record = {"methods": PREVIEW_METHODS, "prompts": PREVIEW_PROMPTS, "sheets": sheet_hashes(PREVIEW_METHODS)}
    png.save_png(page, PREVIEW, record)
    if PREVIEW.stat().st_size > PREVIEW_BYTES:
        raise SystemExit(f"{PREVIEW.name} is larger than {PREVIEW_BYTES // 1024} KiB; make its pictures smaller")


def save_methods() -> None:
    """Draw and save the sheet of all methods that have a sheet of their own."""
    drawn = [name for name in METHODS if sheet_file(name).is_file()]
    rows = [cut(name, SOME_PROMPTS) for name in drawn]
    table = picture_table(rows, [METHODS[name].title for name in drawn], SOME_PROMPTS, tile=120, gap=8)
    record = {"methods": drawn, "prompts": SOME_PROMPTS, "sheets": sheet_hashes(drawn)}
    png.save_png(table, GALLERY / "methods.png", record)


def main(asked: Sequence[str]) -> None:
    """Draw the methods that are asked for, or all that can draw here, then what is made of their sheets."""
    methods = asked or [name for name, method in METHODS.items() if not method.missing()]
    if list(asked) == [NONE]:
        methods = []
    for method in methods:
        draw_sheet(method)
        print(f"{method}: {sheet_file(method).stat().st_size / 1024:.0f} KiB", flush=True)
    save_methods()
    save_preview()


if __name__ == "__main__":
    main(sys.argv[1:])

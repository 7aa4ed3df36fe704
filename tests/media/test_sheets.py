import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

from t2ilib.media import contact_sheet, sheets


def square():
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    pen.lineTo((100, 700))
    pen.lineTo((900, 700))
    pen.lineTo((900, 0))
    pen.closePath()
    return pen.glyph()


@pytest.fixture
def font_of_squares(tmp_path):
    """A font in which every letter of 紅い心 is a square."""
    path = tmp_path / "squares.ttf"
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(letter): "square" for letter in "紅い心"})
    builder.setupGlyf({".notdef": square(), "square": square()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return str(path)


def test_letters_that_the_usual_font_lacks_are_drawn_with_one_of_the_system(font_of_squares, monkeypatch):
    monkeypatch.setattr(sheets, "SYSTEM_FONTS", ("/no/such/font.ttf", font_of_squares))
    pictures = [Image.new("RGB", (8, 8), "white")] * 2
    drawn = contact_sheet(pictures, title="紅い心", size=64)
    monkeypatch.setattr(sheets, "SYSTEM_FONTS", ())
    boxes = contact_sheet(pictures, title="紅い心", size=64)
    assert drawn.tobytes() != boxes.tobytes() and sum(drawn.convert("L").histogram()[:64]) > 200


def test_a_font_that_cannot_be_read_is_passed_over(tmp_path, monkeypatch):
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    monkeypatch.setattr(sheets, "SYSTEM_FONTS", (str(broken),))
    assert contact_sheet([Image.new("RGB", (8, 8))], title="心").width > 8


@pytest.mark.parametrize(("side", "grey"), [(16, False), (32, False), (64, True)])
def test_only_tiny_pictures_keep_sharp_pixels(side, grey):
    halves = Image.new("L", (side, side), 0)
    halves.paste(255, (side // 2, 0, side, side))
    values = set(sheets.fitted(halves, 256).convert("L").tobytes())
    assert (values != {0, 255}) == grey

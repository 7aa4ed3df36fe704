"""Drawing into a picture, without a browser: strokes become a mask, and both become options of the method."""

import datetime
import io
import sys

import pytest
from PIL import Image

from t2ilib.errors import BadParameter, MissingAsset
from t2ilib.media import load_mask
from t2ilib.methods import METHODS, Method, Option
from t2ilib.playground import Playground, mask_canvas
from t2ilib.playground.editing import flat_picture
from t2ilib.playground.mask_canvas import mask_picture
from t2ilib.record import Run

EDITS = (Option("init_image", None, "a picture", type="str | None"), Option("mask", None, "where", type="str | None"),
         Option("strength", 0.5, "how much", low=0, high=1))
STROKE = {"radius": 0.1, "erase": False, "points": [[0.2, 0.5], [0.8, 0.5]]}


def run(prompt, *, num_images, seed, **options):
    return [Image.new("RGB", (8, 8), "green")] * num_images, {"got": options}


TWO = {"edits": Method("edits", "Edits", run, EDITS, edits=True), "plain": Method("plain", "Plain", run)}


def draw(prompt, *, method, num_images, seed, **options):
    return TWO[method].run(prompt, num_images=num_images, seed=seed, **options)


@pytest.fixture
def panel(tmp_path, monkeypatch):
    monkeypatch.setenv("T2I_RUN_DIR", str(tmp_path))
    return Playground(draw, TWO, run=Run("00_playground", given={}), num_images=1, seed=5)


def press(panel):
    panel.start()
    panel.wait(20)
    assert panel.error is None
    return panel.history[-1].record["got"]


# --- strokes ----------------------------------------------------------------------------------------------------------

def test_a_stroke_is_white_where_it_went():
    mask = mask_picture([STROKE], (64, 64))
    assert mask.size == (256, 256) and mask.mode == "L"
    white = {place: mask.getpixel(place) for place in [(128, 128), (52, 128), (128, 110), (128, 90), (10, 128)]}
    assert white == {(128, 128): 255, (52, 128): 255, (128, 110): 255, (128, 90): 0, (10, 128): 0}
    assert abs(mask.getbbox()[0] - (0.2 - 0.1) * 256) <= 2 and abs(mask.getbbox()[2] - (0.8 + 0.1) * 256) <= 2


def test_an_eraser_takes_away_and_the_order_counts():
    eraser = {**STROKE, "erase": True}
    assert mask_picture([STROKE, eraser], (64, 64)) is None and mask_picture([], (64, 64)) is None
    assert mask_picture([eraser, STROKE], (64, 64)).getpixel((128, 128)) == 255


def test_a_click_is_a_dot_and_the_mask_has_the_aspect_of_the_picture():
    mask = mask_picture([{"radius": 0.1, "erase": False, "points": [[0.5, 0.5]]}], (300, 100))
    assert mask.size == (300, 100) and mask.getpixel((150, 50)) == 255 and mask.getpixel((150, 35)) == 0
    assert mask_picture([STROKE], (40, 20)).size == (280, 140)


@pytest.mark.parametrize("strokes", [
    [{}], ["x"], [{**STROKE, "points": [[1]]}], [{**STROKE, "points": [["x", 0]]}], [{**STROKE, "radius": None}],
    [{**STROKE, "points": [[float("nan"), 0.5]]}], [{**STROKE, "points": [[1e9, 0.5]]}]])
def test_what_are_no_strokes_is_refused(strokes):
    with pytest.raises(BadParameter, match="press clear"):
        mask_picture(strokes, (64, 64))


def test_endless_strokes_are_refused(monkeypatch):
    monkeypatch.setattr(mask_canvas, "MOST_POINTS", 3)
    with pytest.raises(BadParameter, match="larger brush"):
        mask_picture([STROKE, STROKE], (64, 64))


# --- options ----------------------------------------------------------------------------------------------------------

def test_picture_and_mask_become_the_options_of_the_method(panel, tmp_path):
    assert press(panel) == {}
    panel.gallery.cells[0].children[2].children[1].children[1].click()  # the pencil
    assert panel.editing.widget.selected_index == 0 and panel.editing.canvas.picture[:4] == b"\x89PNG"
    panel.editing.canvas.strokes = [STROKE]
    assert "the rest is kept" in panel.editing.words.value
    got = press(panel)
    assert set(got) == {"init_image", "mask"}
    assert Image.open(got["init_image"]).getpixel((0, 0)) == (0, 128, 0)
    mask = load_mask(got["mask"], (64, 64))  # (1, 64, 64)
    assert mask[0, 32, 32] == 1 and mask[0, 10, 32] == 0
    assert sorted(path.parent for path in (tmp_path / "edits").iterdir()) == [tmp_path / "edits"] * 2
    assert press(panel) == got and len(list((tmp_path / "edits").iterdir())) == 2  # the same strokes, the same files


def test_without_a_stroke_the_whole_picture_is_drawn_anew(panel):
    panel.editing.begin(Image.new("RGB", (8, 8)))
    assert panel.editing.strength.value == 0.5 and panel.editing.strength.layout.display is None
    assert set(press(panel)) == {"init_image"}
    panel.editing.strength.value = 0.8
    assert press(panel)["strength"] == 0.8
    panel.editing.canvas.strokes = [STROKE]
    assert panel.editing.strength.layout.display == "none" and "strength" not in press(panel)


def test_a_method_that_cannot_edit_says_so(panel):
    panel.editing.begin(Image.new("RGB", (8, 8)))
    panel.controls.method.value = "plain"
    assert "choose edits" in panel.editing.words.value
    panel.start()
    assert "plain cannot draw into a picture; choose edits" in panel.message.value and panel.history == []
    panel.editing.leave_button.click()
    assert press(panel) == {} and panel.editing.canvas.strokes == []


def test_use_again_restores_picture_and_strokes(panel):
    panel.editing.begin(Image.new("RGB", (8, 8), "blue"))
    panel.editing.canvas.strokes = [STROKE]
    press(panel)
    edited = panel.history[-1].call
    assert "edited" in panel.log.children[1].children[0].value
    panel.editing.leave()
    press(panel)
    panel.restore(edited)
    assert panel.editing.canvas.strokes == [STROKE] and panel.call() == edited and panel.controls.others.value == ""
    panel.restore(panel.history[-1].call)
    assert panel.editing.picture is None and "init_image" not in panel.call()


def test_a_file_that_was_typed_stays_typed(panel, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "mine.png")
    panel.controls.others.value = f"init_image={tmp_path / 'mine.png'}"
    call = panel.call()
    panel.restore(call)
    assert panel.editing.picture is None and panel.call() == call


def test_a_picture_of_ones_own(panel):
    data = io.BytesIO()
    Image.new("RGBA", (1024, 256), (255, 0, 0, 0)).save(data, "PNG")
    file = {"name": "x.png", "type": "image/png", "size": len(data.getvalue()), "content": memoryview(data.getvalue()),
            "last_modified": datetime.datetime.now()}
    panel.editing.upload.value = (file,)
    assert panel.editing.picture.size == (512, 128) and panel.editing.picture.getpixel((0, 0)) == (255, 255, 255)
    assert (panel.editing.canvas.width, panel.editing.canvas.height) == (512, 128)
    with pytest.raises(BadParameter, match="PNG, JPEG or WebP"):
        flat_picture(b"no picture")


def test_where_nothing_edits_there_is_no_fold():
    panel = Playground(draw, {"plain": TWO["plain"]})
    assert panel.editing.widget.layout.display == "none"


def test_without_anywidget_the_panel_works_and_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    mask_canvas._canvas_class.cache_clear()
    with pytest.raises(MissingAsset, match="pip install anywidget"):
        mask_canvas.new_canvas()
    panel = Playground(draw, TWO, num_images=1)
    panel.editing.begin(Image.new("RGB", (8, 8)))
    assert "pip install anywidget" in panel.editing.words.value
    got = press(panel)
    assert set(got) == {"init_image"} and Image.open(got["init_image"]).size == (8, 8)  # a temporary folder


def test_methods_that_edit_have_the_options_of_edits():
    for name, method in METHODS.items():
        names = {option.name for option in method.options}
        assert {"init_image", "mask"} <= names or not method.edits, name

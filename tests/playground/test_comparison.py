"""All methods side by side, without a browser."""

import io
import json
import threading
import warnings
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from t2ilib.errors import BadParameter
from t2ilib.methods import Estimate, Method, Option
from t2ilib.playground import Playground
from t2ilib.playground.comparison import compared_calls, left_out_html
from t2ilib.record import Run

COLOURS = {"slow": "red", "fast": "green", "broken": "blue"}


def paint(name):
    def run(prompt, *, num_images, seed, callback=None, **options):
        if prompt == "bad" and name == "broken":
            raise BadParameter("<this> cannot be drawn")
        if callback and callback(SimpleNamespace(step=0, steps=2, images=torch.zeros(num_images, 3, 8, 8))):
            return [Image.new("RGB", (8, 8))] * num_images, {"steps_done": 1}
        warnings.warn_explicit(f"{name} doubts", UserWarning, "t2ilib/x.py", 1)
        return [Image.new("RGB", (8, 8), COLOURS[name])] * num_images, {"method": name, "got": options}

    return run


def method(name, seconds, **abilities):
    estimate = None if seconds is None else lambda pictures, options: Estimate(seconds * options.get("steps", 1), 1.0)
    options = (Option("steps", 1, "how often", slider=(1, 9)), Option("init_image", None, "", type="str | None"),
               Option("mask", None, "", type="str | None"))
    return Method(name, name.title(), paint(name), options, estimate=estimate, **abilities)


METHODS = {"broken": method("broken", None), "slow": method("slow", 9.0, previews=True, edits=True),
           "fast": method("fast", 0.1),
           "absent": Method("absent", "Absent", paint("slow"), absent=lambda: "train <it> first")}


def draw(prompt, *, method, num_images, seed, **options):
    return METHODS[method].run(prompt, num_images=num_images, seed=seed, **options)


def measure(pictures, prompt, record):
    return [{"judge": 0.5}] * len(pictures)


@pytest.fixture
def panel(tmp_path, monkeypatch):
    monkeypatch.setenv("T2I_RUN_DIR", str(tmp_path))
    made = Playground(draw, METHODS, run=Run("00_playground", given={}), num_images=3, seed=5, measure=measure)
    made.controls.method.value = "all"
    return made


def press(panel):
    panel.start()
    panel.wait(20)
    return [cell.children[2].children[0].value for cell in panel.gallery.cells]


def colours(panel):
    found = []
    for cell in panel.gallery.cells:
        png = Image.open(io.BytesIO(bytes(cell.children[1].value))).convert("RGB")
        found.append(png.getpixel((0, 0)))
    return found


def test_each_method_that_can_draws_one_picture_the_fastest_first(panel):
    words = press(panel)
    assert panel.error is None and [drawn.call["method"] for drawn in panel.history] == ["fast", "slow", "broken"]
    assert all(drawn.call["num_images"] == 1 and drawn.call["seed"] == 5 for drawn in panel.history)
    titles = [cell.children[0].value for cell in panel.gallery.cells]
    assert ["Fast" in titles[0], "Slow" in titles[1], "Broken" in titles[2]] == [True] * 3
    assert colours(panel) == [(0, 128, 0), (255, 0, 0), (0, 0, 255)]
    assert all("seed 5 · " in text and "judge <b>0.50</b>" in text for text in words)
    assert "3 of 3 methods" in panel.status.value
    assert "left out: absent" in panel.message.value and "train &lt;it&gt; first" in panel.message.value
    assert "slow doubts" in panel.message.value
    row = panel.log.children[1].children[0].value
    assert row.count("<img") == 3 and "fast, slow, broken" in row and len(panel.log.children) == 2


def test_each_picture_is_saved_with_the_record_of_its_method(panel, tmp_path):
    press(panel)
    panel.gallery.cells[1].children[2].children[1].children[0].click()
    record = json.loads((tmp_path / "pictures" / "a-red-heart_s5.json").read_text())
    assert record["method"] == "slow" and record["asked"]["method"] == "slow"


def test_one_that_fails_stops_no_other(panel):
    panel.controls.prompt.value = "bad"
    words = press(panel)
    assert "t2i-error" in words[2] and "&lt;this&gt; cannot be drawn" in words[2]
    assert len(panel.history) == 2 and "2 of 3 methods" in panel.status.value
    assert isinstance(panel.error, BadParameter) and not panel.controls.draw_button.disabled


def test_stop_keeps_what_is_there_and_begins_no_other(panel, monkeypatch):
    reached = threading.Event()

    def stoppable(prompt, *, method, **arguments):
        if method == "slow":
            reached.set()
            panel.stop()
        return draw(prompt, method=method, **arguments)

    monkeypatch.setattr(panel, "_draw", stoppable)
    words = press(panel)
    assert reached.is_set() and [drawn.stopped for drawn in panel.history] == [False, True]
    assert "not begun" in words[2] and "2 of 3 methods" in panel.status.value
    assert colours(panel)[2] == (0, 0, 0)  # nothing of an earlier prompt is left there


def test_use_again_restores_the_comparison(panel):
    press(panel)
    panel.controls.method.value = "fast"
    panel.controls.prompt.value = "another"
    assert panel.controls.num_images.value == 3 and not panel.controls.num_images.disabled
    panel.log.children[1].children[1].click()
    assert panel.controls.compares and panel.controls.prompt.value == "a red heart"
    assert panel.controls.num_images.value == 3 and panel.controls.num_images.disabled


def test_a_picture_is_edited_by_those_that_can(panel):
    panel.editing.begin(Image.new("RGB", (8, 8), "white"))
    press(panel)
    assert [drawn.call["method"] for drawn in panel.history] == ["slow"]
    assert "init_image" in panel.history[0].record["got"]
    assert "fast</b>: fast cannot draw into a picture" in panel.message.value


def test_the_profiles_values_count_in_the_order():
    call = {"prompt": "x", "method": "all", "num_images": 1, "seed": 0}
    calls, left_out = compared_calls(call, METHODS, {"fast": {"steps": 1000}}, lambda method: {})
    assert [call["method"] for call in calls] == ["slow", "fast", "broken"] and list(left_out) == ["absent"]
    assert left_out_html({}) == ""


def test_nothing_that_can_draw_is_said_in_words():
    with pytest.raises(BadParameter, match="no method can draw this here: absent: train <it> first"):
        compared_calls({}, {"absent": METHODS["absent"]}, {}, lambda method: {})


def test_one_method_alone_has_nothing_beside_it():
    alone = Playground(draw, {"fast": METHODS["fast"]})
    assert [value for _, value in alone.controls.method.options] == ["fast"]


def test_the_notebook_may_begin_with_all():
    assert Playground(draw, METHODS, method="all").controls.compares

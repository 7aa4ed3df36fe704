"""The panel without a browser: what it asks for, shows, keeps and says when something goes wrong."""

import json
import re
import threading
import time
import warnings
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from t2ilib.errors import BadParameter, UnknownName
from t2ilib.methods import Method, Option
from t2ilib.playground import Playground, split_options
from t2ilib.record import Run

OPTIONS = (Option("steps", 3, "how often", low=0, high=1000, slider=(0, 9)),
           Option("rate", 0.5, "how much", low=0, high=1, slider=(0.0, 1.0)), Option("mode", "slow", "a word"))


def live(prompt, *, num_images, seed, callback=None, steps=3, **options):
    if prompt == "bad":
        raise BadParameter("<prompt> is bad; write a good one")
    if prompt == "worse":
        raise ZeroDivisionError("by zero")
    if prompt == "doubtful":
        warnings.warn_explicit("that is doubtful", UserWarning, "t2ilib/x.py", 1)
        warnings.warn_explicit("noise of another package", UserWarning, "elsewhere/x.py", 1)
    done = 0
    for done in range(1, steps + 1):
        images = torch.full((num_images, 3, 8, 8), done / steps)
        if callback and callback(SimpleNamespace(step=done - 1, steps=steps, images=images)):
            break
    return [Image.new("RGB", (8, 8), (seed + i, 0, 0)) for i in range(num_images)], {"steps_done": done, "got": options}


def plain(prompt, *, num_images, seed):
    return [Image.new("RGB", (8, 8))] * num_images, {}


METHODS = {"live": Method("live", "Live", live, OPTIONS, previews=True), "plain": Method("plain", "Plain", plain)}


def draw(prompt, *, method, num_images, seed, **options):
    return METHODS[method].run(prompt, num_images=num_images, seed=seed, **options)


@pytest.fixture
def panel(tmp_path, monkeypatch):
    monkeypatch.setenv("T2I_RUN_DIR", str(tmp_path))
    return Playground(draw, METHODS, run=Run("00_playground", given={}), num_images=2, seed=5,
                      measure=lambda pictures, prompt, record: [{"judge": 0.5, "sees": f"<{prompt}>"}] * len(pictures))


def press(panel):
    panel.start()
    panel.wait(20)
    return panel.history[-1] if panel.error is None else panel.message.value


def test_draws_shows_and_remembers(panel):
    drawn = press(panel)
    assert drawn.call == {"prompt": "a red heart", "method": "live", "num_images": 2, "seed": 5}
    assert len(panel.gallery.cells) == 2 and len(drawn.scores) == 2
    _, picture, below = panel.gallery.cells[1].children
    assert bytes(picture.value[:4]) == b"\x89PNG"
    words = below.children[0].value
    assert "seed 6" in words and "judge <b>0.50</b>" in words and "&lt;a red heart&gt;" in words
    assert "2 pictures in" in panel.status.value and panel.bar.value == panel.bar.max == 3
    row = panel.log.children[1].children[0].value
    assert row.count("<img") == 2 and "a red heart" in row and "judge 0.50" in row
    assert not panel.controls.draw_button.disabled and panel.controls.stop_button.disabled


def test_only_moved_sliders_and_typed_options_are_sent(panel):
    panel.controls.sliders["rate"].value = 0.8
    panel.controls.others.value = "steps=2, mode=fast"
    drawn = press(panel)
    assert drawn.record == {"steps_done": 2, "got": {"rate": 0.8, "mode": "fast"}}
    panel.controls.method.value = "plain"
    assert panel.controls.sliders == {} and panel.controls.options.children == ()
    panel.restore(drawn.call)
    assert panel.call() == drawn.call
    assert panel.controls.sliders["rate"].value == 0.8 and panel.controls.sliders["steps"].value == 2


def test_it_says_what_it_does_while_no_step_can_be_counted(panel, monkeypatch):
    drawing, measuring, go_on = threading.Event(), threading.Event(), threading.Event()

    def slow(prompt, *, callback, **call):
        drawing.set()
        assert go_on.wait(20)
        callback(SimpleNamespace(step=0, steps=1, images=torch.zeros(2, 3, 8, 8)))
        assert "t2i-busy" not in panel.bar._dom_classes and "step 1 of 1" in panel.status.value
        return [Image.new("RGB", (8, 8))] * 2, {}

    def measure(pictures, prompt, record):
        measuring.set()
        assert "Loading the judge" in panel.status.value and "t2i-busy" in panel.bar._dom_classes
        return [{}, {}]

    monkeypatch.setattr(panel, "_draw", slow)
    monkeypatch.setattr(panel, "_measure", measure)
    panel.start()
    assert drawing.wait(20) and "t2i-busy" in panel.bar._dom_classes and panel.bar.layout.display is None
    assert "Loading the networks" in panel.status.value
    deadline = time.monotonic() + 20
    while "sooner (1 s)" not in panel.status.value and time.monotonic() < deadline:
        time.sleep(0.05)
    assert re.search(r"sooner \(\d+ s\)", panel.status.value)
    go_on.set()
    panel.wait(20)
    assert panel.error is None and measuring.is_set() and "2 pictures in" in panel.status.value
    assert "t2i-busy" not in panel.bar._dom_classes


def test_no_name_of_a_slider_is_cut_short(panel):
    options = (Option("clip_guidance_scale", 0.5, "how much", low=0, high=1, slider=(0.0, 1.0)), *OPTIONS)
    panel.controls._methods = {**METHODS, "live": Method("live", "Live", live, options, previews=True)}
    panel.controls.method.value = "plain"
    assert panel.controls.others.style.description_width == f"{len('others')}ch"
    panel.controls.method.value = "live"
    widths = {field.style.description_width for field in (*panel.controls.sliders.values(), panel.controls.others)}
    assert widths == {f"{len('clip guidance scale')}ch"}


def test_a_method_without_callback_has_no_live_preview_and_no_stop(panel):
    panel.controls.method.value, panel.controls.others.value = "plain", ""
    assert press(panel).record == {} and panel.error is None


def test_stop_keeps_what_is_there(panel, monkeypatch):
    reached, go_on = threading.Event(), threading.Event()

    def slow(prompt, *, num_images, seed, callback, **options):
        for step in range(1000):
            reached.set()
            assert go_on.wait(20)
            if callback(SimpleNamespace(step=step, steps=1000, images=torch.zeros(num_images, 3, 8, 8))):
                break
        return [Image.new("RGB", (8, 8))] * num_images, {"steps_done": step + 1}

    monkeypatch.setattr(panel, "_draw", lambda prompt, *, method, **arguments: slow(prompt, **arguments))
    panel.start()
    assert reached.wait(20) and panel.controls.draw_button.disabled and not panel.controls.stop_button.disabled
    panel.start()  # a second press is ignored
    panel.stop()
    go_on.set()
    panel.wait(20)
    assert panel.history[-1].stopped and len(panel.history) == 1 and "stopped at step 1" in panel.status.value


def test_what_was_no_picture_when_it_was_stopped_is_not_kept(panel, monkeypatch):
    def draw(prompt, *, num_images, callback, **call):
        panel.stop()
        callback(SimpleNamespace(step=0, steps=9, images=torch.zeros(num_images, 3, 8, 8), is_picture=False))
        return [Image.new("RGB", (8, 8))] * num_images, {"steps_done": 1}

    monkeypatch.setattr(panel, "_draw", draw)
    panel.start()
    panel.wait(20)
    assert panel.history == [] and "stopped before there was a picture" in panel.status.value
    assert not panel.controls.draw_button.disabled and panel.error is None


@pytest.mark.parametrize(("prompt", "more", "said"), [
    ("bad", "", "&lt;prompt&gt; is bad; write a good one"), ("  ", "", "the prompt is empty"),
    ("x", "steps", "name=value"), ("worse", "", "ZeroDivisionError: by zero")])
def test_errors_are_said_in_words(panel, prompt, more, said):
    panel.controls.prompt.value, panel.controls.others.value = prompt, more
    message = press(panel)
    assert "t2i-error" in message and said in message and panel.history == []
    assert not panel.controls.draw_button.disabled and panel.bar.layout.display == "none"
    panel.controls.prompt.value, panel.controls.others.value = "a red heart", ""
    assert press(panel).pictures and panel.error is None and panel.message.value == ""


def test_warnings_of_the_library_are_shown(panel):
    panel.controls.prompt.value = "doubtful"
    assert press(panel).pictures
    assert "that is doubtful" in panel.message.value and "another package" not in panel.message.value


def test_save_writes_picture_and_record(panel, tmp_path):
    panel.controls.prompt.value = "A heart / two?"
    drawn = press(panel)
    button = panel.gallery.cells[1].children[2].children[1].children[0]
    button.click()
    path = tmp_path / "pictures" / "a-heart-two_s6.png"
    assert path.name in panel.message.value and Image.open(path).getpixel((0, 0)) == (6, 0, 0)
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["asked"] == drawn.call and record["picture"] == 1 and record["scores"]["judge"] == 0.5
    button.click()
    assert (tmp_path / "pictures" / "a-heart-two_s6_2.png").exists()
    run = json.loads((tmp_path / "run.json").read_text())
    assert len(run["artefacts"]) == 4 and run["metrics"]["drawings"] == 1


def test_enter_draws_and_the_dice_change_the_seed(panel):
    panel.controls.prompt._handle_custom_msg({"event": "submit"}, [])
    panel.wait(20)
    assert len(panel.history) == 1
    dice = panel.widget.children[2].children[3]
    for _ in range(5):
        dice.click()
    assert 0 <= panel.controls.seed.value < 100_000 and panel.controls.seed.value != 5


def test_unknown_method():
    with pytest.raises(UnknownName, match="did you mean live"):
        Playground(draw, METHODS, method="lives")


def test_where_sliders_rest_may_be_told():
    panel = Playground(draw, METHODS, values={"live": {"steps": 12}})
    slider = panel.controls.sliders["steps"]
    assert slider.value == 12 and slider.max == 12 and "steps" not in panel.call()
    slider.value = 3
    assert panel.call()["steps"] == 3


@pytest.mark.parametrize(("text", "found"), [
    ("", {}), (" , ", {}), ("a=1", {"a": "1"}),
    ("a=1.5,b = x y; c=true d=none", {"a": "1.5", "b": "x y", "c": "true", "d": "none"}),
    ("clip=ViT-B-32/openai, sizes=[1, 2], prior_weight=0", {"clip": "ViT-B-32/openai", "sizes": "[1, 2]",
                                                           "prior_weight": "0"})])
def test_split_options(text, found):
    assert split_options(text) == found


@pytest.mark.parametrize("text", ["steps", "=3", "a b=1", "a="])
def test_split_options_refuses(text):
    with pytest.raises(BadParameter, match="name=value"):
        split_options(text)


def test_a_live_method_draws_while_one_types(panel, monkeypatch):
    monkeypatch.setattr("t2ilib.playground.controls.SECONDS_OF_PAUSE", 0.05)
    drawn = []

    def quick(prompt, *, method, num_images, seed):
        drawn.append(prompt)
        return [Image.new("RGB", (8, 8))] * num_images, {}

    monkeypatch.setattr(panel, "_draw", quick)
    panel.controls._methods = {**METHODS, "plain": Method("plain", "Plain", plain, live=True)}
    for text in ("a", "a c", "a cat"):  # the live method is not chosen yet
        panel.controls.prompt.value = text
    panel.controls.method.value = "plain"
    for text in ("a", "a d", "a dog"):
        panel.controls.prompt.value = text
    deadline = time.monotonic() + 20
    while "while you type" not in panel.status.value and time.monotonic() < deadline:
        time.sleep(0.02)
    assert drawn == ["a dog"] and panel.history == [] and "while you type" in panel.status.value
    panel.controls.prompt.value = " "
    time.sleep(0.2)
    assert drawn == ["a dog"] and panel.error is None  # nothing is typed: nothing to say
    panel.controls.prompt.value = "a fox"
    kept = press(panel)  # the button does not wait for the pause
    time.sleep(0.2)
    assert kept.call["prompt"] == "a fox" and drawn == ["a dog", "a fox"] and len(panel.history) == 1

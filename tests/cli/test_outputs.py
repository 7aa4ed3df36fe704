"""What `generate` does where files cannot be written: before the work, while it lasts, and at its end."""

import os

import pytest
from PIL import Image

from t2ilib.cli import keeper, main, results
from t2ilib.errors import RunFailed
from t2ilib.media import contact_sheet
from t2ilib.methods import METHODS, Method, Option


class Preview:
    def __init__(self, step):
        self.step, self.steps = step, 3
        self.images = Image.new("RGB", (8, 8), (step, 0, 0))

    def finish(self):
        return [self.images]


def run(prompt, *, num_images, seed, callback=None, stop_at=-1):
    for step in range(3):
        if step == stop_at:
            raise KeyboardInterrupt
        callback(Preview(step))
    return [Image.new("RGB", (8, 8), "red")] * num_images, {"prompts": [prompt], "final_texts": [prompt] * num_images}


@pytest.fixture(autouse=True)
def plain():
    option = Option("stop_at", -1, "the step before which it is interrupted", "test")
    METHODS.add("plain", Method("plain", "Plain", run, previews=True, options=(option,)))
    METHODS.add("plain2", Method("plain2", "Plain 2", run, previews=True, options=(option,)))
    yield
    METHODS.remove("plain")
    METHODS.remove("plain2")


def generate(out, *argv, method="plain"):
    return main(["generate", "a red heart", "--method", method, "--out", str(out), *map(str, argv)])


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_place_that_cannot_hold_the_picture_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("t2ilib.cli.keeper.generate_with_record", lambda **call: pytest.fail("it began to draw"))
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("x")
    for out, words in ((tmp_path / "folder.png", "is a folder"), (tmp_path / "file" / "out.png", "cannot be written"),
                       (tmp_path / f"{'x' * 300}.png", "cannot be written"), (tmp_path / "out.bmp", "must end in")):
        assert generate(out) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    film = tmp_path / "out.webp"
    assert generate(film, "--film", film) == 2 and "the same file" in capsys.readouterr().err
    assert generate(tmp_path / "out.png", "--film", tmp_path / "file" / "f.gif") == 2
    assert generate(tmp_path / "out.png", "--save-every", -1) == 2
    assert files_in(tmp_path) == ["file", "folder.png"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path, capsys):
    tmp_path.chmod(0o500)
    try:
        assert generate(tmp_path / "out.png") == 2 and "Permission denied" in capsys.readouterr().err
    finally:
        tmp_path.chmod(0o700)


def test_a_picture_that_cannot_be_saved_goes_to_a_place_that_is_named(tmp_path, monkeypatch, capsys):
    original = results.save_one

    def full_disk(picture, path):
        if path.parent == tmp_path / "full":
            raise OSError(28, "No space left on device")
        return original(picture, path)

    monkeypatch.setattr(results, "save_one", full_disk)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert generate(tmp_path / "full" / "out.png") == 1
    error = capsys.readouterr().err
    fallback = error.rsplit(" ", 1)[1].strip()
    assert "No space left on device" in error and Image.open(fallback).getpixel((0, 0)) == (255, 0, 0)


def test_a_stopped_run_leaves_an_earlier_picture_alone(tmp_path, capsys):
    out = tmp_path / "out.png"
    assert generate(out) == 0 and files_in(tmp_path) == ["out.png"]
    before = out.read_bytes()
    capsys.readouterr()
    assert generate(out, "-o", "stop_at=2") == 130
    assert "the picture after step 2 of 3 is in" in capsys.readouterr().err
    assert out.read_bytes() == before and files_in(tmp_path) == ["out.partial.png", "out.png"]
    assert generate(out, "-o", "stop_at=0") == 130 and "nothing was drawn yet" in capsys.readouterr().err
    assert generate(out) == 0 and files_in(tmp_path) == ["out.png"]


def test_what_one_method_has_finished_outlives_the_stop_of_the_next(tmp_path, monkeypatch, capsys):
    def draw(name, *arguments):
        if name == "plain2":
            raise KeyboardInterrupt("nothing was drawn yet")
        return [] if name != "plain" else original(name, *arguments)

    from t2ilib.cli import generate as command
    original = command._draw
    monkeypatch.setattr(command, "_draw", draw)
    assert generate(tmp_path / "out.png", method="all") == 130
    assert files_in(tmp_path) == ["out_plain_1.png"] and "out_plain_1.png" in capsys.readouterr().err


@pytest.mark.parametrize("fails_in", ["add", "close"])
def test_a_film_that_fails_costs_the_film_only(tmp_path, monkeypatch, fails_in):
    def fail(*_):
        raise RunFailed("the disk is full")

    monkeypatch.setattr(keeper.FilmWriter, fails_in, fail)
    with pytest.warns(UserWarning, match="the film is lost.*the disk is full"):
        assert generate(tmp_path / "out.png", "--film", tmp_path / "f.gif") == 0
    assert files_in(tmp_path) == ["out.png"]


def test_a_preview_that_cannot_be_written_does_not_stop_the_run(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keeper.png, "save_png", fail)
    kept = keeper.Keeper(tmp_path / "out.png", call={}, every=1)
    with pytest.warns(UserWarning, match="No space left"):
        kept(Preview(0))
    assert not files_in(tmp_path)


@pytest.mark.parametrize("title", ["two\nlines", "a\ttab \x00 and \ud800 half a character", "\u2028", " "])
def test_any_text_can_stand_above_a_sheet(title):
    pictures = [Image.new("RGB", (8, 8))] * 2
    assert contact_sheet(pictures, [title, title], title=title).width > 16

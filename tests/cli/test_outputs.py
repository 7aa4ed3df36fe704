"""What `generate` does where files cannot be written: before the work, while it lasts, and at its end."""

import io
import json
import os

import pytest
from PIL import Image

from t2ilib.cli import keeper, main, pictures
from t2ilib.errors import RunFailed
from t2ilib.files import content_hash, paths_in, without_folders
from t2ilib.media import contact_sheet
from t2ilib.media.png import read_record, save_png
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
    original = pictures.save_one

    def full_disk(picture, path):
        if path.parent == tmp_path / "full":
            raise OSError(28, "No space left on device")
        return original(picture, path)

    monkeypatch.setattr(pictures, "save_one", full_disk)
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


def test_pictures_of_an_earlier_run_are_told_apart_and_stay(tmp_path, monkeypatch, capsys):
    assert generate(tmp_path / "out.png", "--num-images", 12) == 0 and "not of this run" not in capsys.readouterr().err
    for name in ("out_mine_1.png", "outer_1.png", "out_1.jpg", "out_1b.png"):
        (tmp_path / name).write_text("a file of the user's")
    before = files_in(tmp_path)
    assert generate(tmp_path / "out.png", "--num-images", 9) == 0
    assert capsys.readouterr().err == "beside it, not of this run: out_10.png, out_11.png, out_12.png\n"
    (tmp_path / "out_plain_1.png").write_text("of one method")
    monkeypatch.chdir(tmp_path)
    assert generate("out.png") == 0
    names = ", ".join(f"out_{number}.png" for number in range(1, 7))
    assert capsys.readouterr().err == f"beside it, not of this run: {names}, ...\n"
    assert files_in(tmp_path) == sorted([*before, "out_plain_1.png"])
    assert [path.name for path in pictures.older_files(tmp_path / "out.png", [])][-1] == "out_plain_1.png"


@pytest.mark.parametrize("fails_in", ["write", "finish"])
def test_a_film_that_fails_costs_the_film_only(tmp_path, monkeypatch, fails_in):
    def fail(*_):
        raise RunFailed("the disk is full")

    monkeypatch.setattr("t2ilib.media.film.Gif." + fails_in, fail)
    with pytest.warns(UserWarning, match="the film is lost.*the disk is full"):
        assert generate(tmp_path / "out.png", "--film", tmp_path / "f.gif") == 0
    assert files_in(tmp_path) == ["out.png"]


def test_a_preview_that_cannot_be_written_does_not_stop_the_run(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pictures.png, "save_png", fail)
    kept = keeper.Keeper(tmp_path / "out.png", call={}, every=1)
    with pytest.warns(UserWarning, match="No space left"):
        kept(Preview(0))
    assert not files_in(tmp_path)


@pytest.mark.parametrize("title", ["two\nlines", "a\ttab \x00 and \ud800 half a character", "\u2028", " "])
def test_any_text_can_stand_above_a_sheet(title):
    pictures = [Image.new("RGB", (8, 8))] * 2
    assert contact_sheet(pictures, [title, title], title=title).width > 16


def test_a_png_names_the_files_it_was_made_with_without_their_folders(tmp_path, monkeypatch, recwarn):
    face = tmp_path / "private" / "face.png"
    face.parent.mkdir()
    Image.new("RGB", (8, 8), "blue").save(face)
    METHODS.remove("plain")
    METHODS.add("plain", Method("plain", "Plain", lambda prompt, *, num_images, seed, **options: (
        [Image.open(options["init_image"]).copy()], {"prompts": [prompt], "final_texts": [prompt]}),
        options=(Option("init_image", None, "a picture", "start", type="str | None"),)))
    out = tmp_path / "pictures" / "out.png"
    assert generate(out, "-o", f"init_image={face}") == 0
    record = read_record(out)
    assert record["call"]["init_image"] == "face.png" and str(tmp_path) not in json.dumps(record)
    assert record["inputs"] == {"init_image": {"face.png": content_hash(face)}}

    with pytest.warns(UserWarning, match="face.png .* here it is absent"):
        assert pictures.repeat(out)[0]["init_image"] == "face.png"
    beside = out.parent / "face.png"
    beside.write_bytes(face.read_bytes())
    recwarn.clear()
    assert pictures.repeat(out)[0]["init_image"] == str(beside)
    assert not [warning for warning in recwarn if warning.category is UserWarning]
    again = tmp_path / "again.png"
    assert main(["generate", "--from", str(out), "--out", str(again)]) == 0
    assert again.read_bytes() == out.read_bytes()
    Image.new("RGB", (8, 8), "red").save(beside)
    with pytest.warns(UserWarning, match="face.png [0-9a-f]{12}, here it is [0-9a-f]{12}: expect another picture"):
        pictures.repeat(out)


def test_other_versions_are_told(tmp_path):
    call = {"prompt": "x", "method": "plain", "seed": 0, "num_images": 1}
    path = save_png(Image.new("RGB", (8, 8)), tmp_path / "old.png", {"call": call, "versions": {"torch": "1.0"}})
    with pytest.warns(UserWarning, match=r"made with torch 1\.0, here it is .*: expect another picture"):
        pictures.repeat(path)


def test_another_device_or_number_of_threads_is_told(tmp_path, monkeypatch, recwarn):
    call = {"prompt": "x", "method": "plain", "num_images": 1, "seed": 0, "device": "cpu"}
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    for device in ("CPU, 1 thread", "CPU, 1 threads"):
        pictures.repeat(save_png(Image.new("RGB", (8, 8)), tmp_path / "a.png", {"call": call, "device": device}))
    assert not recwarn.list
    for device in ("CPU, 2 threads", "NVIDIA H200"):
        path = save_png(Image.new("RGB", (8, 8)), tmp_path / "a.png", {"call": call, "device": device})
        with pytest.warns(UserWarning, match=f"the device {device}, here it is CPU, 1 thread: expect another picture"):
            pictures.repeat(path)
    call["device"] = "cuda:99"
    path = save_png(Image.new("RGB", (8, 8)), tmp_path / "a.png", {"call": call, "device": "NVIDIA H200"})
    with pytest.warns(UserWarning, match="here it is cuda:99"):
        pictures.repeat(path)


def test_texts_that_are_no_paths_stay_as_they_are(tmp_path):
    values = {"prompt": "/imagine a castle", "long": "x." * 5000, "zero": "a.\0b", "list": ["a:0.5", 3, None, "."]}
    assert without_folders(values) == values
    file = tmp_path / "a b.png"
    file.write_bytes(b"x")
    assert without_folders([f"{file}:0.5", {"x": str(file)}]) == ["a b.png:0.5", {"x": "a b.png"}]
    assert paths_in({"image": [f"{file}:2:-0.1"], "none": "b.png"}) == [file]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("watched", [True, False])
def test_a_bar_is_shown_where_somebody_watches(tmp_path, monkeypatch, watched):
    stream = Terminal() if watched else io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    assert generate(tmp_path / "out.png") == 0
    assert ("plain" in stream.getvalue() and "/3 " in stream.getvalue()) == watched
    before = stream.getvalue()
    assert generate(tmp_path / "out.png", "--json") == 0 and stream.getvalue() == before


def test_what_is_no_picture_yet_is_not_kept(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Preview, "is_picture", property(lambda preview: preview.step > 1), raising=False)
    assert generate(tmp_path / "out.png", "-o", "stop_at=2") == 130
    assert "after step 2 of 3 there was no picture yet" in capsys.readouterr().err and not files_in(tmp_path)


def test_the_picture_so_far_names_its_inputs_without_their_folders(tmp_path):
    face = tmp_path / "face.png"
    Image.new("RGB", (8, 8)).save(face)
    kept = keeper.Keeper(tmp_path / "out.png", call={"init_image": str(face)}, every=1)
    kept(Preview(0))
    assert read_record(tmp_path / "out.partial.png")["call"] == {"init_image": "face.png"}

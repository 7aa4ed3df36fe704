import json
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from PIL import Image, ImageSequence

from t2ilib.errors import BadParameter, RunFailed, UnknownName
from t2ilib.media import film_formats
from t2ilib.media.film import FilmWriter, StepRecorder, find_ffmpeg

FAKE = """#!{python}
import json, os, sys
args = sys.argv[1:]
if "{broken}" and "{broken}" in args:
    sys.exit("Unknown encoder '{broken}'")
limit, count = {limit}, 0
while part := sys.stdin.buffer.read(4096):
    count += len(part)
    if limit and count > limit:
        print("first line\\nNo space left on device", file=sys.stderr)
        sys.exit(28)
with open(args[-1], "w") as f:
    json.dump({{"args": args, "bytes": count, "session": os.getsid(0)}}, f)
"""


def frames(n, height=16, width=24):
    return [torch.full((3, height, width), i / n) for i in range(n)]


def read(path):
    """Return (size, milliseconds, colour at (2, 2)) of every frame."""
    with Image.open(path) as film:
        found = [(f.size, f.convert("RGB").getpixel((2, 2)), f.info["duration"]) for f in ImageSequence.Iterator(film)]
    return [(size, duration, colour) for size, colour, duration in found]


@pytest.fixture
def no_ffmpeg(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)


@pytest.fixture
def fake_ffmpeg(tmp_path, monkeypatch):
    def put(broken="", limit=0):
        folder = tmp_path / f"bin{broken}{limit}"
        folder.mkdir()
        program = folder / "ffmpeg"
        program.write_text(FAKE.format(python=sys.executable, broken=broken, limit=limit))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return program

    return put


@pytest.mark.parametrize(("suffix", "fps", "total"), [
    (".gif", 15, 670), (".gif", 50, 200), (".webp", 15, 667), (".webp", 29.97, 334), (".WEBP", 100, 100)])
def test_a_film_read_back_has_every_frame_and_the_right_length(tmp_path, suffix, fps, total):
    path = tmp_path / "new folder" / f"film{suffix}"
    with FilmWriter(path, fps=fps) as film:
        for frame in frames(10):
            film.add(frame)
    assert film.path == path and film.frames == 10 and list(path.parent.iterdir()) == [path]
    sizes, durations, pixels = zip(*read(path), strict=True)
    assert sizes == ((24, 16),) * 10
    assert sum(durations) == total and max(durations) - min(durations) <= (10 if suffix == ".gif" else 1)
    for i, (red, green, blue) in enumerate(pixels):
        assert max(abs(c - 25.5 * i) for c in (red, green, blue)) <= 3


def test_equal_frames_are_all_kept(tmp_path):
    for name in ("a.gif", "a.webp"):
        with FilmWriter(tmp_path / name, fps=10) as film:
            for _ in range(4):
                film.add(torch.full((3, 9, 7), 0.5))
        assert [d for _, d, _ in read(film.path)] == [100] * 4


def test_batches_stand_side_by_side_in_any_number_format(tmp_path):
    red, blue = torch.zeros(2, 3, 10, 12).unbind()
    red[0], blue[2] = 1.04, 1.0  # a decoder's small overshoot is clipped
    pair = torch.stack([red, blue])
    picture = Image.new("RGBA", (24, 10), (255, 0, 0, 255))
    picture.paste((0, 0, 255, 255), (12, 0, 24, 10))
    with FilmWriter(tmp_path / "a.gif") as film:
        for frame in (pair, pair.bfloat16(), (pair.clamp(0, 1) * 255).byte(), picture, pair.requires_grad_()):
            film.add(frame)
    with Image.open(film.path) as made:
        for frame in ImageSequence.Iterator(made):
            rgb = frame.convert("RGB")
            assert rgb.size == (24, 10) and rgb.getpixel((3, 5)) == (255, 0, 0) and rgb.getpixel((20, 5)) == (0, 0, 255)


def test_a_picture_may_be_changed_after_it_was_added(tmp_path):
    x, picture = torch.zeros(3, 8, 8), Image.new("RGB", (8, 8), "black")
    with FilmWriter(tmp_path / "a.webp") as film:
        for _ in range(3):
            film.add(x)
            film.add(picture)
            x.fill_(1)
            picture.paste("white", (0, 0, 8, 8))
    assert [p[0] < 9 for _, _, p in read(film.path)] == [True, True, False, False, False, False]


def test_size_scales_and_without_it_sizes_must_agree(tmp_path):
    with FilmWriter(tmp_path / "a.webp", size=(32, 20)) as film:
        film.add(torch.rand(3, 16, 16))
        film.add(torch.rand(2, 3, 8, 8))
    assert [size for size, _, _ in read(film.path)] == [(32, 20)] * 2
    with pytest.raises(BadParameter, match="8 x 16 pixels, the film 16 x 16"), FilmWriter(tmp_path / "b.gif") as film:
        film.add(torch.rand(3, 16, 16))
        film.add(torch.rand(3, 16, 8))
    assert len(read(film.path)) == 1


@pytest.mark.parametrize(("name", "options", "error", "message"), [
    ("a.avi", {}, UnknownName, "film suffix '.avi'"), ("a", {}, UnknownName, "suffix"),
    ("a.gif", {"fps": 60}, BadParameter, "at most 50"), ("a.webp", {"fps": 0}, BadParameter, "above 0"),
    ("a.webp", {"size": (0, 4)}, BadParameter, "width, height"), ("a.webp", {"quality": 101}, BadParameter, "100"),
    ("file/a.webp", {}, BadParameter, "no film can be written in")])
def test_bad_input_is_refused_before_any_work(tmp_path, name, options, error, message):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(error, match=message):
        FilmWriter(tmp_path / name, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("frame", "message"), [
    (torch.rand(4, 4), "shape"), (torch.rand(1, 4, 4), "shape"), (torch.rand(0, 3, 4, 4), "shape"),
    (torch.zeros(3, 4, 4, dtype=torch.long), "floats in")])
def test_what_is_no_picture_is_refused_at_once(tmp_path, frame, message):
    film = FilmWriter(tmp_path / "a.gif")
    with pytest.raises(BadParameter, match=message):
        film.add(frame)
    with pytest.warns(UserWarning, match="no frame was added"):
        film.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [torch.full((3, 8, 8), float("nan")), torch.full((3, 8, 8), -1.0)])
def test_the_worker_reports_a_bad_picture_and_keeps_the_film_before_it(tmp_path, bad):
    film = FilmWriter(tmp_path / "a.gif")
    for frame in (*frames(3, 8, 8), bad):
        film.add(frame)
    film._worker.join(timeout=10)
    for call in (lambda: film.add(torch.zeros(3, 8, 8)), film.close):
        with pytest.raises(BadParameter, match=r"in \[0, 1\]"):
            call()
    assert len(read(film.path)) == 3 and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_leaves_the_film_so_far(tmp_path, interruption):
    with pytest.raises(interruption), FilmWriter(tmp_path / "a.webp") as film:
        for i, frame in enumerate(frames(9)):
            if i == 5:
                raise interruption
            film.add(frame)
    assert len(read(film.path)) == 5 and list(tmp_path.iterdir()) == [film.path]
    with pytest.raises(BadParameter, match="is closed"):
        film.add(frame)
    film.close()


def test_the_old_film_stays_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "a.gif"
    path.write_bytes(b"old")
    film = FilmWriter(path)
    film.add(torch.zeros(3, 8, 8))
    assert path.read_bytes() == b"old"
    film.close()
    assert len(read(path)) == 1


def test_frames_are_encoded_by_one_other_thread_and_at_most_so_many_wait(tmp_path, monkeypatch):
    gate, threads, plain = threading.Event(), set(), film_formats.WebP.write

    def slow(self, pixels):
        threads.add(threading.current_thread())
        gate.wait(10)
        plain(self, pixels)

    monkeypatch.setattr(film_formats.WebP, "write", slow)
    monkeypatch.setattr("t2ilib.media.film.WAITING", 3)
    taken = []

    def run():
        with FilmWriter(tmp_path / "a.webp") as film:
            for frame in frames(10):
                film.add(frame)
                taken.append(frame)

    runner = threading.Thread(target=run)
    runner.start()
    while len(taken) < 4:
        time.sleep(0.01)
    time.sleep(0.15)
    assert len(taken) == 4  # one with the worker, three waiting
    gate.set()
    runner.join(10)
    assert len(read(tmp_path / "a.webp")) == 10 and len(threads) == 1 and runner not in threads


def test_without_ffmpeg_an_mp4_becomes_a_webp_and_says_so(tmp_path, no_ffmpeg):
    with pytest.warns(UserWarning, match="writing a.webp instead.*no ffmpeg on this machine.*imageio-ffmpeg") as caught:
        film = FilmWriter(tmp_path / "a.mp4")
    assert caught[0].filename == __file__
    film.add(torch.zeros(3, 8, 8))
    film.close()
    assert film.path == tmp_path / "a.webp" and len(read(film.path)) == 1
    with pytest.raises(BadParameter, match="no ffmpeg"):
        FilmWriter(tmp_path / "b.mp4", strict=True)


def test_an_mp4_gets_every_frame_with_even_sides(tmp_path, fake_ffmpeg):
    fake_ffmpeg()
    with FilmWriter(tmp_path / "a.mp4", fps=12.5, quality=60) as film:
        for frame in frames(20, 15, 21):
            film.add(frame)
    made = json.loads(film.path.read_text())
    args = " ".join(made["args"])
    assert made["bytes"] == 20 * 22 * 16 * 3
    for part in ("-video_size 22x16 -framerate 12.5 -i pipe:0", "-c:v libx264 -crf 36", "-pix_fmt yuv420p",
                 "-movflags +faststart"):
        assert part in args
    assert made["session"] != os.getsid(0)  # Ctrl-C does not reach it
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "bin0"]


def test_another_encoder_is_taken_where_libx264_fails(tmp_path, fake_ffmpeg):
    fake_ffmpeg(broken="libx264")
    with FilmWriter(tmp_path / "a.mp4", strict=True) as film:
        film.add(torch.zeros(3, 8, 8))
    assert "-c:v mpeg4 -q:v 4" in " ".join(json.loads(film.path.read_text())["args"])


def test_an_ffmpeg_that_does_not_work_is_found_out_before_the_run(tmp_path, fake_ffmpeg):
    program = fake_ffmpeg(limit=700)  # fails on the first frame of the trial
    with pytest.warns(UserWarning, match=r"does not encode with mpeg4: first line \| No space left"):
        assert FilmWriter(tmp_path / "a.mp4").path.suffix == ".webp"
    assert find_ffmpeg()[0] == str(program)


def test_ffmpeg_dying_within_the_run_is_reported_with_its_last_words(tmp_path, fake_ffmpeg):
    fake_ffmpeg(limit=50_000)
    film = FilmWriter(tmp_path / "a.mp4")
    with pytest.raises(RunFailed, match=r"status 28: first line \| No space left on device"), film:
        for _ in range(200):
            film.add(torch.zeros(3, 64, 64))
    film.close()
    assert not film.path.exists() and [p.name for p in tmp_path.iterdir()] == ["bin50000"]


@pytest.mark.skipif(find_ffmpeg()[0] is None, reason="no ffmpeg on this machine; the tests above use a stand-in")
def test_a_real_ffmpeg_accepts_the_command_and_keeps_colours(tmp_path):
    with FilmWriter(tmp_path / "a.mp4", strict=True) as film:
        for _ in range(12):
            film.add(torch.tensor([0.9, 0.2, 0.1])[:, None, None].expand(3, 33, 47))
    raw = subprocess.run([find_ffmpeg()[0], "-loglevel", "error", "-i", film.path, "-f", "rawvideo", "-pix_fmt",
                          "rgb24", "-"], capture_output=True, check=True).stdout
    assert len(raw) == 12 * 34 * 48 * 3
    assert max(abs(a - b) for a, b in zip(raw[:3], (230, 51, 26), strict=True)) < 8


def test_steps_are_recorded_and_laid_out():
    seen = StepRecorder(every=4)
    for step in range(10):
        images = torch.full((2, 3, 8, 8), step / 10)
        assert not seen(SimpleNamespace(step=step, steps=10, images=images, losses=None))
        images.fill_(1)  # kept is a copy
    assert seen.captions == ["step 0", "step 4", "step 8", "step 9"]
    assert [float(i.mean()) for i in seen.images] == pytest.approx([0, 0.4, 0.8, 0.9])
    seen.add(torch.zeros(2, 3, 8, 8), "result")
    wide = seen.sheet(size=64)
    assert wide.width == 5 * 64 + 6 * 8 and wide.height < 2 * wide.width / 3  # a row for each picture
    with pytest.raises(BadParameter, match="no step was recorded"):
        StepRecorder().sheet()
    with pytest.raises(BadParameter, match="every"):
        StepRecorder(0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_frames_arrive_whole(tmp_path):
    x = torch.zeros(3, 64, 64, device="cuda")
    with FilmWriter(tmp_path / "a.webp") as film:
        for i in range(30):
            film.add(x.fill_(i / 30))
    assert all(abs(p[0] - i * 8.5) <= 3 for i, (_, _, p) in enumerate(read(film.path)))

"""The formats of a film: raw frames into ffmpeg (.mp4), or frames strung together here (.webp, .gif)."""

import functools
import math
import shutil
import struct
import subprocess
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import GifImagePlugin, Image

from ..errors import RunFailed

ENCODERS = ("libx264", "mpeg4")  # asked of ffmpeg in this order: neither needs a GPU, and players know both
FASTEST = {".mp4": math.inf, ".gif": 50, ".webp": 1000}  # frames a second that the format's clock can count


def find_ffmpeg() -> tuple[str | None, str, str]:
    """Return (program, encoder, problem): an ffmpeg that just now encoded a frame, or in words why there is none."""
    program = shutil.which("ffmpeg")
    if program is None:
        try:
            import imageio_ffmpeg

            program = imageio_ffmpeg.get_ffmpeg_exe()
        except (ImportError, RuntimeError):
            return None, "", "there is no ffmpeg on this machine"
    codec, problem = _try_encoders(program)
    return program, codec, problem


@functools.lru_cache
def _try_encoders(program: str) -> tuple[str, str]:
    """Return the first encoder with which ffmpeg writes a film of one frame, or "" and its last words.

    Listing the encoders would not tell whether ours can be used with our options; trying takes a tenth of a second.
    """
    problem = ""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "try.mp4")
        for codec in ENCODERS:
            command = _command(program, codec, (16, 16), 1, 80, out)
            try:
                done = subprocess.run(command, input=bytes(768), capture_output=True, timeout=30)
            except (OSError, subprocess.TimeoutExpired) as error:
                problem = f"{program} does not run: {error}"
                continue
            if done.returncode == 0 and out.is_file():
                return codec, ""
            problem = f"{program} does not encode with {codec}: {_last_lines(done.stderr)}"
    return "", problem


def _command(program: str, codec: str, size: tuple[int, int], fps: float, quality: int, out: Path) -> list[str]:
    """Return the command line that reads raw frames and writes an .mp4 that every player and browser shows."""
    rate = (["-crf", str(max(1, round((100 - quality) * 0.9)))] if codec == "libx264"
            else ["-q:v", str(2 + round((100 - quality) / 10))])
    # BT.709, converted to and labelled: unlabelled films change their colours with the player
    colours = ["-vf", "scale=out_color_matrix=bt709:out_range=tv", "-pix_fmt", "yuv420p", "-colorspace", "bt709",
               "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
    return [program, "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size",
            f"{size[0]}x{size[1]}", "-framerate", str(fps), "-i", "pipe:0", "-an", *colours, "-c:v", codec, *rate,
            "-movflags", "+faststart", "-f", "mp4", str(out)]


def _last_lines(text: bytes) -> str:
    return " | ".join(text.decode(errors="replace").strip().splitlines()[-5:]) or "it said nothing"


class Mp4:
    """Raw frames into the standard input of ffmpeg."""

    def __init__(self, path: Path, size: tuple[int, int], fps: float, quality: int, program: str, codec: str):
        even = (size[0] + size[0] % 2, size[1] + size[1] % 2)
        self.pad = ((0, size[1] % 2), (0, size[0] % 2), (0, 0))
        self.words = tempfile.TemporaryFile()
        # a session of its own: Ctrl-C shall stop the run, not the program that writes what the run has made
        self.process = subprocess.Popen(_command(program, codec, even, fps, quality, path), stdin=subprocess.PIPE,
                                        stdout=subprocess.DEVNULL, stderr=self.words, start_new_session=True)

    def write(self, pixels: np.ndarray) -> None:
        try:
            self.process.stdin.write(np.pad(pixels, self.pad, mode="edge").tobytes())
        except OSError as error:
            raise self._died() from error

    def finish(self) -> None:
        try:
            self.process.stdin.close()
        except OSError:
            pass  # its exit status tells
        if self.process.wait():
            raise self._died()
        self.words.close()

    def _died(self) -> RunFailed:
        status = self.process.wait()
        self.words.seek(0)
        return RunFailed(f"ffmpeg stopped with status {status}: {_last_lines(self.words.read())}; is the disk full? "
                         "A .webp film needs no ffmpeg")


class _Clock:
    """Durations in whole units of 1/`units` s whose sums are as near as can be to n / fps."""

    def __init__(self, fps: float, units: int):
        self.fps = fps
        self.units = units
        self.count = 0

    def next(self) -> int:
        start = round(self.count * self.units / self.fps)
        self.count += 1
        end = round(self.count * self.units / self.fps)
        return end - start


class WebP:
    """Each frame compressed alone, lossy, and strung together (WebP container specification, "Animation")."""

    def __init__(self, path: Path, size: tuple[int, int], fps: float, quality: int):
        self.file = open(path, "wb")
        self.quality = quality
        self.clock = _Clock(fps, 1000)
        animated = 0x02
        self.canvas = _uint24(size[0] - 1) + _uint24(size[1] - 1)
        self.file.write(b"RIFF\0\0\0\0WEBP" + _chunk(b"VP8X", bytes([animated, 0, 0, 0]) + self.canvas)
                        + _chunk(b"ANIM", bytes(6)))  # no background, played for ever

    def write(self, pixels: np.ndarray) -> None:
        picture = BytesIO()
        Image.fromarray(pixels).save(picture, "WEBP", quality=self.quality, method=4)
        replace = 0x02
        place = bytes(6) + self.canvas + _uint24(self.clock.next()) + bytes([replace])
        self.file.write(_chunk(b"ANMF", place + picture.getvalue()[12:]))  # past the header of a file

    def finish(self) -> None:
        length = self.file.tell()
        self.file.seek(4)
        self.file.write(struct.pack("<I", length - 8))
        self.file.close()


def _uint24(value: int) -> bytes:
    return struct.pack("<I", value)[:3]


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


class Gif:
    """Frames of 256 colours of their own (GIF89a specification).

    Measured on films of this library, a palette for all frames has 1.5 times the error, dithering 1.4 times, and both
    flicker more.
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: float, quality: int):
        self.file = open(path, "wb")
        self.clock = _Clock(fps, 100)
        for_ever = b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
        self.file.write(b"GIF89a" + struct.pack("<HH", *size) + b"\x70\0\0" + for_ever)

    def write(self, pixels: np.ndarray) -> None:
        image = Image.fromarray(pixels).quantize(256)
        self.file.writelines(GifImagePlugin.getdata(image, duration=self.clock.next() * 10, include_color_table=True))

    def finish(self) -> None:
        self.file.write(b";")
        self.file.close()

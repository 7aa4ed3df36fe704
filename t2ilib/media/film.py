"""Films of pictures, written while a run goes on: .mp4 through ffmpeg, else animated .webp or .gif.

Everything that can be missing is looked for before the run, and one worker thread converts and encodes, so that a loop
on a GPU neither waits for a picture nor ends without a film.
"""

import os
import queue
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor

from .convert import to_pil
from .film_formats import FASTEST, Gif, Mp4, WebP, find_ffmpeg
from .sheets import contact_sheet
from .. import runtime
from ..errors import BadParameter, RunFailed, T2IError, unknown_name

WAITING = 16  # pictures between the run and the worker; a run that is faster waits for it
Held = tuple[Tensor | Image.Image, Any]  # a picture on the host, and the CUDA event after which it is there


class FilmWriter:
    """Write pictures as a film, as a context manager; the suffix of the path decides the format.

    The film has its name only once it is complete. Whatever ends the block early (an error, Ctrl-C), the frames added
    so far become a film. Without a `with` block, call `close()`.

    Args:
        path: ends in .mp4, .webp or .gif; missing folders are made.
        fps: frames a second. .webp and .gif count in 1/1000 and 1/100 s: what rounding takes from one frame it gives
            to the next, so that the film's length is right.
        size: (width, height) in pixels to which every picture is scaled; None takes the size of the first, which all
            others must have. Odd sides of an .mp4 grow by one pixel, as its colour format demands.
        quality: 0 to 100, of .webp and .mp4 (80 is a crf of 18).
        strict: refuse an .mp4 where no ffmpeg works, instead of warning and writing .webp beside it.

    Attributes:
        path: what is written, also if that is not what was asked. frames: how many are encoded so far.

    Raises:
        BadParameter: a bad suffix, number or folder, or with `strict` no ffmpeg; always before anything is drawn.
    """

    def __init__(self, path: str | Path, *, fps: float = 15, size: tuple[int, int] | None = None, quality: int = 80,
                 strict: bool = False):
        path = Path(path).expanduser().absolute()
        suffix = path.suffix.lower()
        if suffix not in FASTEST:
            raise unknown_name("film suffix", path.suffix, FASTEST)
        if size is not None and (len(size) != 2 or not all(isinstance(s, int) and s > 0 for s in size)):
            raise BadParameter(f"size must be None or (width, height) in pixels, got {size!r}")
        if not 0 <= quality <= 100:
            raise BadParameter(f"quality must be in [0, 100], got {quality}; 80 is hard to tell from the pictures")
        self._ffmpeg = None
        self._codec = ""
        if suffix == ".mp4":
            self._ffmpeg, self._codec, problem = find_ffmpeg()
            if problem:
                suffix = ".webp" if features.check("webp") else ".gif"
                advice = "install ffmpeg, or the package imageio-ffmpeg which brings one"
                if strict:
                    raise BadParameter(f"{path.name} cannot be written: {problem}; {advice}, or ask for {suffix}")
                path = path.with_suffix(suffix)
                runtime.warn_fallback(f"writing {path.name} instead of an .mp4: {problem}; {advice}")
        if not 0 < fps <= FASTEST[suffix]:
            raise BadParameter(f"fps must be above 0 and at most {FASTEST[suffix]} in a {suffix} film, got {fps}")
        self.path = path
        self.fps = fps
        self.size = size
        self.quality = quality
        self.frames = 0
        self._part = path.with_name(path.name + ".part")
        _check_folder(self._part)
        self._shape = None  # (H, W) of the first picture
        self._queue: queue.Queue[Held | None] = queue.Queue(WAITING)
        self._worker: threading.Thread | None = None
        self._error: BaseException | None = None
        self._closed = False

    def add(self, image: Tensor | Image.Image) -> None:
        """Take one frame; the caller may change the picture afterwards.

        Args:
            image: (3, H, W) or (B, 3, H, W), the pictures of a batch side by side, floats in [0, 1] or uint8, on any
                device; or a PIL picture. A CUDA tensor is copied without waiting for it.

        Raises:
            BadParameter: another shape than the first frame's, or the film is closed.
            RunFailed: an earlier frame could not be written; ffmpeg's last words are in the message.
        """
        self._raise()
        if self._closed:
            raise BadParameter(f"{self.path.name} is closed; add frames inside the `with` block, or before close()")
        held = (image.convert("RGB"), None) if isinstance(image, Image.Image) else _to_host(_side_by_side(image))
        shape = (image.height, image.width) if isinstance(image, Image.Image) else tuple(held[0].shape[1:])
        self._shape = self._shape or shape
        if self.size is None and shape != self._shape:
            raise BadParameter(f"this frame has {shape[1]} x {shape[0]} pixels, the film {self._shape[1]} x "
                               f"{self._shape[0]}; give size=(width, height) to scale all frames to one size")
        if self._worker is None:
            self._worker = threading.Thread(target=self._work, name="film", daemon=True)
            self._worker.start()
        self._put(held)

    def close(self) -> None:
        """Finish the film and give it its name; again, it does nothing. Raises what the worker met (RunFailed)."""
        if self._closed:
            return
        self._closed = True
        if self._worker is None:
            warnings.warn(f"{self.path.name} is not written: no frame was added", stacklevel=2)
            return
        while self._worker.is_alive():
            try:
                self._queue.put(None, timeout=0.1)
                break
            except queue.Full:
                continue
        self._worker.join()
        self._raise()

    def __enter__(self) -> "FilmWriter":
        return self

    def __exit__(self, kind, error: BaseException | None, trace) -> None:
        try:
            self.close()
        except T2IError as problem:
            if error is None:
                raise
            if problem is not error:
                error.add_note(str(problem))

    def _put(self, held: Held) -> None:
        while True:
            try:
                return self._queue.put(held, timeout=0.1)
            except queue.Full:
                self._raise()  # a dead worker empties no queue

    def _raise(self) -> None:
        if self._error is None:
            return
        if isinstance(self._error, T2IError):
            raise self._error
        raise RunFailed(f"{self.path.name} stopped after {self.frames} frames: {self._error}") from self._error

    def _work(self) -> None:
        stream = None
        try:
            for held in iter(self._queue.get, None):
                pixels = _pixels(held, self.size)
                stream = stream or self._open(pixels.shape[1], pixels.shape[0])
                stream.write(pixels)
                self.frames += 1
        except BaseException as error:  # whatever it is, the run's own thread reports it
            self._error = error
        try:
            if stream is not None:
                stream.finish()
                if self.frames:
                    os.replace(self._part, self.path)
        except BaseException as error:
            self._error = self._error or error
        finally:
            self._part.unlink(missing_ok=True)

    def _open(self, width: int, height: int) -> Gif | WebP | Mp4:
        if self.path.suffix.lower() == ".mp4":
            return Mp4(self._part, (width, height), self.fps, self.quality, self._ffmpeg, self._codec)
        kind = Gif if self.path.suffix.lower() == ".gif" else WebP
        return kind(self._part, (width, height), self.fps, self.quality)


class StepRecorder:
    """Keep what a run showed at some of its steps, as a callback of `vqgan_clip`, and lay it out on one sheet.

    Args:
        every: steps from one kept preview to the next; the last step is always kept.

    Attributes:
        captions: of what was kept, such as "step 40".
    """

    def __init__(self, every: int = 10):
        if every < 1:
            raise BadParameter(f"every must be at least 1, got {every}")
        self.every = every
        self.captions = []
        self._held = []

    def __call__(self, preview: Any) -> None:
        """Keep a preview (`step`, `steps`, `images`) if it is its turn."""
        if preview.step % self.every == 0 or preview.step == preview.steps - 1:
            self.add(preview.images, f"step {preview.step}")

    def add(self, images: Tensor, caption: str) -> None:
        """Keep pictures (B, 3, H, W) in [0, 1] under a caption, such as the result of the run."""
        self._held.append(_to_host(images))
        self.captions.append(caption)

    @property
    def images(self) -> list[Tensor]:
        """What was kept, each (B, 3, H, W) on the CPU."""
        return [_wait(held) for held in self._held]

    def sheet(self, *, columns: int | None = None, size: int = 160, title: str | None = None) -> Image.Image:
        """Return a contact sheet: the steps of one picture in rows of 8, of several pictures in one row each."""
        if not self._held:
            raise BadParameter("no step was recorded; pass this object as callback= to a run of at least one step")
        rows = torch.stack(self.images, dim=1)  # (B, kept, 3, H, W)
        columns = columns or (min(8, rows.shape[1]) if len(rows) == 1 else rows.shape[1])
        return contact_sheet(rows.flatten(0, 1), self.captions * len(rows), columns=columns, size=size, title=title)


def _check_folder(part: Path) -> None:
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        part.unlink()
    except OSError as error:
        raise BadParameter(f"no film can be written in {part.parent}: {error.strerror}; give a folder of your own"
                           ) from error


def _side_by_side(images: Tensor) -> Tensor:
    """Return (3, H, W) for (3, H, W), and (3, H, B W) for (B, 3, H, W)."""
    shape = tuple(images.shape)
    if len(shape) not in (3, 4) or shape[-3] != 3 or 0 in shape:
        raise BadParameter(f"a frame must have shape (3, H, W) or (B, 3, H, W), got {shape}")
    if not (images.is_floating_point() or images.dtype == torch.uint8):
        raise BadParameter(f"a frame must hold floats in [0, 1] or uint8, got {images.dtype}")
    return images if images.ndim == 3 else images.permute(1, 2, 0, 3).reshape(3, shape[2], -1)


def _to_host(images: Tensor) -> Held:
    """Copy to the CPU, from CUDA without waiting."""
    images = images.detach()
    if images.device.type != "cuda":
        return images.to("cpu", copy=True), None
    host = torch.empty(images.shape, dtype=images.dtype, pin_memory=True)
    host.copy_(images, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record(torch.cuda.current_stream(images.device))
    return host, arrived


def _wait(held: Held) -> Tensor | Image.Image:
    picture, arrived = held
    if arrived is not None:
        arrived.synchronize()
    return picture


def _pixels(held: Held, size: Sequence[int] | None) -> np.ndarray:
    """Return (H, W, 3) uint8; refuse NaN and values far outside [0, 1]."""
    picture = to_pil(_wait(held))
    if size is not None and picture.size != tuple(size):
        picture = picture.resize(tuple(size), Image.Resampling.LANCZOS)
    return np.asarray(picture)

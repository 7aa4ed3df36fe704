"""Keep what a run has so far: the picture on disk now and then, and a film of the steps."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from .pictures import Picture, save_one
from ..errors import BadParameter, T2IError
from ..files import reason, remove_leftovers
from ..locks import hold, release
from ..media import contact_sheet, to_pil
from ..media.film import FilmWriter
from ..methods import METHODS, generate_with_record
from ..runtime import warn_fallback
from ..training import Every

SECONDS_BETWEEN = 60.0  # two savings of the picture so far


def picture_so_far(out: Path) -> Path:
    """Return the file beside `out` that holds the picture so far; `out` itself holds finished ones only."""
    return out.with_name(f"{out.stem}.partial{out.suffix}")


class Keeper:
    """A callback that keeps the picture so far on disk, every `every` steps or once a minute, and writes a film.

    A film or a picture so far that cannot be written is given up with a warning: the run goes on.

    Args:
        out: file of the picture or sheet. call: arguments that repeat the run, for the picture's record. every: steps;
            0 is once a minute. film: writer, or None. quiet: no progress bar; there is none either where stderr is no
            terminal.
    """

    def __init__(self, out: Path, *, call: dict[str, Any], every: int = 0, film: FilmWriter | None = None,
                 quiet: bool = False):
        self.path = picture_so_far(out)
        self.quiet = quiet
        self.progress_bar: tqdm | None = None
        self.call = call
        self.every = every
        self.film = film
        self.preview = None
        self._minute = Every(SECONDS_BETWEEN)

    def __call__(self, preview: Any) -> None:
        self.preview = preview
        self._advance(preview)
        if self.film is not None:
            self._add_to_film(preview.images)
        due = (preview.step + 1) % self.every == 0 if self.every else self._minute()
        if due and preview.step + 1 < preview.steps:
            self.write()

    def write(self) -> Path | None:
        """Write what the run would end with now; return the file, or None where there is no picture or it fails."""
        if self.preview is None or not getattr(self.preview, "is_picture", True):
            return None
        images = to_pil(self.preview.finish())
        picture = images[0] if len(images) == 1 else contact_sheet(images)
        record = {"call": self.call, "steps_done": self.preview.step + 1}
        try:
            return save_one(Picture(picture, "", record, None, ""), self.path)
        except OSError as error:
            warn_fallback(f"the picture so far could not be written to {self.path.name} ({reason(error)})")
            return None

    def close(self) -> Path | None:
        """Take the progress bar away and finish the film; return its file, or None where there is none or it fails."""
        if self.progress_bar is not None:
            self.progress_bar.close()
        if self.film is None:
            return None
        try:
            self.film.close()
        except (T2IError, OSError) as error:
            warn_fallback(f"the film is lost: {error}")
            return None
        return self.film.path

    def interrupted(self, *, resumable: bool) -> str:
        """Return what is left of a run that was stopped, and how to go on."""
        path = self.write()
        if path is None and self.preview is None:
            return "nothing was drawn yet"
        if path is None:
            return f"after step {self.preview.step + 1} of {self.preview.steps} there was no picture yet"
        text = f"the picture after step {self.preview.step + 1} of {self.preview.steps} is in {path}"
        if resumable:
            text += "; the same command goes on from there"
        return text

    def _advance(self, preview: Any) -> None:
        if self.progress_bar is None:
            disable = True if self.quiet else None  # None: where nobody watches
            method = str(self.call.get("method", ""))
            self.progress_bar = tqdm(total=preview.steps, desc=method, unit="step", leave=False, disable=disable)
        self.progress_bar.update(preview.step + 1 - self.progress_bar.n)

    def _add_to_film(self, images: Any) -> None:
        try:
            self.film.add(images)
        except (T2IError, OSError) as error:
            warn_fallback(f"the film is lost, the picture goes on: {error}")
            self.film = None


def make(prompt: str | Sequence[str], *, method: str, num_images: int, seed: int, options: dict[str, Any], out: Path,
         every: int = 0, film: Path | None = None, quiet: bool = False,
         restart: bool = False) -> tuple[list[Image.Image], dict[str, Any]]:
    """Make pictures as `methods.generate_with_record` does, safe against interruption where the method allows it.

    While it runs, `picture_so_far(out)` shows its state and the file `<out>.<method>.state` lets the same call go on.

    Args:
        out: file that will hold the result. every: steps between two pictures so far; 0 is once a minute.
        film: file of a film of the steps. quiet: no progress bar. restart: forget an interrupted run.

    Raises:
        KeyboardInterrupt: with what is left of the run as its message. BadParameter: another process draws to `out`.
    """
    chosen = METHODS.find(method)
    call = {"prompt": prompt, "method": method, "num_images": num_images, "seed": seed, **options}
    if not chosen.previews and (film or every):
        raise BadParameter(f"method {method!r} has no steps to show; leave out --film and --save-every")
    hooks: dict[str, Any] = {}
    with contextlib.ExitStack() as held:
        if chosen.resumable:
            state = out.with_name(f"{out.name}.{method}.state")
            hold(state)
            held.callback(release, state)
            for path in (out, picture_so_far(out)):
                remove_leftovers(path)
            _begin(state, restart)
            hooks["state"] = state
        if not chosen.previews:
            return generate_with_record(**call, **hooks)
        return _draw(call, hooks, out, every=every, film=film, quiet=quiet)


def _draw(call: dict[str, Any], hooks: dict[str, Any], out: Path, *, every: int, film: Path | None,
          quiet: bool) -> tuple[list[Image.Image], dict[str, Any]]:
    """Draw with a method that shows its steps."""
    keeper = Keeper(out, call=call, every=every, film=FilmWriter(film) if film else None, quiet=quiet)
    try:
        images, record = generate_with_record(**call, callback=keeper, **hooks)
    except KeyboardInterrupt:
        keeper.close()
        was_kept = "state" in hooks and hooks["state"].is_file()
        raise KeyboardInterrupt(keeper.interrupted(resumable=was_kept)) from None
    except BaseException:
        keeper.close()
        raise
    film_file = keeper.close()
    if film_file is not None:
        record["film"] = str(film_file)
    return images, record


def _begin(state: Path, restart: bool) -> None:
    """Forget an interrupted run, or say that it goes on."""
    if restart:
        state.unlink(missing_ok=True)
    elif state.exists():
        warn_fallback(f"going on with the run that was interrupted ({state.name}); --restart begins anew")

"""Keep what a run has so far: the picture on disk now and then, and a film of the steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import BadParameter
from ..media import contact_sheet, save_pictures, to_pil
from ..media.film import FilmWriter
from ..methods import METHODS, generate_with_record
from ..runtime import warn_fallback
from ..training import Every

SECONDS_BETWEEN = 60.0  # two savings of the picture so far


class Keeper:
    """A callback that keeps the picture so far on disk, every `every` steps or once a minute, and writes a film.

    Args:
        out: file of the picture or sheet. every: steps; 0 is once a minute. film: writer, or None.
    """

    def __init__(self, out: Path, *, every: int = 0, film: FilmWriter | None = None):
        self.out = out
        self.every = every
        self.film = film
        self.preview = None
        self._minute = Every(SECONDS_BETWEEN)

    def __call__(self, preview: Any) -> None:
        self.preview = preview
        if self.film is not None:
            self.film.add(preview.images)
        due = (preview.step + 1) % self.every == 0 if self.every else self._minute()
        if due and preview.step + 1 < preview.steps:
            self.write()

    def write(self) -> Path | None:
        """Write what the run would end with now; return the file, or None before the first step."""
        if self.preview is None:
            return None
        images = to_pil(self.preview.finish())
        return save_pictures(images[0] if len(images) == 1 else contact_sheet(images), self.out)


def make(prompt: str | Sequence[str], *, method: str, num_images: int, seed: int, options: dict[str, Any], out: Path,
         every: int = 0, film: Path | None = None,
         restart: bool = False) -> tuple[list[Image.Image], dict[str, Any]]:
    """Make pictures as `methods.generate_with_record` does, safe against interruption where the method allows it.

    While it runs, `out` shows the picture so far and the file `<out>.<method>.state` lets the same call go on.

    Args:
        out: file that will hold the result. every: steps between two pictures so far; 0 is once a minute.
        film: file of a film of the steps. restart: forget an interrupted run.
    """
    chosen = METHODS.find(method)
    hooks: dict[str, Any] = {}
    if chosen.resumable:
        hooks["state"] = _state_file(out, method, restart)
    if not chosen.previews:
        if film or every:
            raise BadParameter(f"method {method!r} has no steps to show; leave out --film and --save-every")
        return generate_with_record(prompt, method=method, num_images=num_images, seed=seed, **hooks, **options)
    writer = FilmWriter(film) if film else None
    keeper = Keeper(out, every=every, film=writer)
    try:
        images, record = generate_with_record(prompt, method=method, num_images=num_images, seed=seed,
                                              callback=keeper, **hooks, **options)
    except KeyboardInterrupt:
        keeper.write()
        raise
    finally:
        if writer is not None:
            writer.close()
    if writer is not None:
        record["film"] = str(writer.path)
    return images, record


def _state_file(out: Path, method: str, restart: bool) -> Path:
    state = out.with_name(f"{out.name}.{method}.state")
    if restart:
        state.unlink(missing_ok=True)
    elif state.exists():
        warn_fallback(f"going on with the run that was interrupted ({state.name}); --restart begins anew")
    return state

"""`python -m t2ilib generate`: pictures by any method, safe while they are made, and repeatable from their file."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import methods, show
from ..checkpoint import short_hash
from ..encoders import load_judge
from ..errors import BadParameter, check_name
from ..guidance.augment import AUGMENTATIONS, CODES, Augmentations
from ..guidance.config import GuidanceConfig
from ..guidance.cutout_methods import CUTOUT_METHODS, CutoutMethod
from ..guidance.prompts import load_prompts as read_prompts
from ..guidance.prompts import main_text, parse_prompts
from ..media import png
from ..media.film import FilmWriter
from ..methods import minimagen
from ..methods.vqgan_clip import WITH_PRIOR, WITHOUT_PRIOR
from ..options import options_of
from ..paths import checkpoints_dir
from ..runtime import warn_fallback
from ..training import Every

__all__ = ["Keeper", "judge_scores", "make", "options_page", "read_prompts", "repeat", "save"]
SAFETY = 60.0  # seconds between two savings of the picture so far
VOLATILE = ("seconds",)  # differs between equal runs: kept out of the file, so that these have equal bytes


class Keeper:
    """A callback that keeps the picture so far on disk, every `every` steps or once a minute, and writes a film.

    Args:
        out: file of the picture or sheet. every: steps; 0 is once a minute. film: writer, or None.
    """

    def __init__(self, out: Path, *, every: int = 0, film: FilmWriter | None = None):
        self.out, self.every, self.film = out, every, film
        self.preview, self._minute = None, Every(SAFETY)

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
        images = show.to_pil(self.preview.finish())
        return show.save(images[0] if len(images) == 1 else show.contact_sheet(images), self.out)


def make(prompt: str | Sequence[str], *, method: str, num_images: int, seed: int, options: dict[str, Any], out: Path,
         every: int = 0, film: Path | None = None, restart: bool = False) -> tuple[list[Any], dict[str, Any]]:
    """Make pictures as `methods.generate_with_record` does, safe against interruption where the method allows it.

    While it runs, `out` shows the picture so far and the file `<out>.<method>.state` lets the same call go on.

    Args:
        out: file that will hold the result. every: steps between two pictures so far; 0 is once a minute.
        film: file of a film of the steps. restart: forget an interrupted run.
    """
    given = dict(options)
    if methods.takes(method, "state"):
        state = given["state"] = out.with_name(f"{out.name}.{method}.state")
        if restart:
            state.unlink(missing_ok=True)
        elif state.exists():
            warn_fallback(f"going on with the run that was interrupted ({state.name}); --restart begins anew")
    if not methods.takes(method, "callback"):
        if film or every:
            raise BadParameter(f"method {method!r} has no steps to show; leave out --film and --save-every")
        return methods.generate_with_record(prompt, method=method, num_images=num_images, seed=seed, **given)
    writer = FilmWriter(film) if film else None
    keeper = given["callback"] = Keeper(out, every=every, film=writer)
    try:
        made, record = methods.generate_with_record(prompt, method=method, num_images=num_images, seed=seed, **given)
    except KeyboardInterrupt:
        keeper.write()
        raise
    finally:
        if writer is not None:
            writer.close()
    return made, record if writer is None else {**record, "film": str(writer.path)}


def save(images: Sequence[Any], captions: Sequence[str] | None, records: Sequence[tuple[dict[str, Any], int | None]],
         out: Path, *, title: str, names: Sequence[str]) -> list[str]:
    """Save one picture as it is; of several, a sheet and each of them beside it. Return the paths, the sheet first.

    Args:
        captions: below the pictures of a sheet. records: of each picture, the record of its run and its place there.
        names: appended to the file's name for the single pictures.
    """
    if len(images) == 1 and captions is None:
        return [str(_save_one(images[0], out, *records[0]))]
    sheet = show.contact_sheet(images, captions, title=title)
    files = [str(_save_one(sheet, out, records[0][0], None) if captions is None else show.save(sheet, out))]
    for picture, (record, index), name in zip(images, records, names, strict=True):
        files.append(str(_save_one(picture, out.with_name(f"{out.stem}_{name}{out.suffix}"), record, index)))
    return files


def _save_one(picture: Any, path: Path, record: dict[str, Any], index: int | None) -> Path:
    """Save a picture; a PNG carries the record of its run and, of the codes, its own."""
    if path.suffix.lower() != ".png":
        return show.save(picture, path)
    carried = {k: v for k, v in record.items() if k not in (*VOLATILE, "codes")}
    if index is not None and "codes" in record:
        carried["codes"] = record["codes"][index]
    return png.save_png(picture, path, {**carried, "index": index})


def repeat(path: Path) -> tuple[dict[str, Any], int | None]:
    """Return what repeats the run that made a PNG, and which of its pictures that is (None: the sheet of all).

    It warns where a checkpoint is not the one that was used.

    Raises:
        MissingAsset, BadParameter: there is no such file, or it does not say how it was made.
    """
    record = png.read_record(path)
    if not isinstance(record.get("call"), dict):
        raise BadParameter(f"{path} was made with options that no file can hold (tensors or objects); repeat the call "
                           "from Python")
    for name, was in record.get("checkpoints", {}).items():
        here = checkpoints_dir() / name
        now = short_hash(here) if here.is_dir() else "absent"
        if now != was:
            warn_fallback(f"{path} was made with {name} {was}, here it is {now}: expect another picture")
    return record["call"], record.get("index")


def judge_scores(images: Sequence[Any], prompt: str | Sequence[str]) -> list[float]:
    """Return the cosine of each PIL picture and what its prompt asks for at the end, by the judge that guides nothing.

    Args:
        prompt: of all pictures, or a list of prompts with equally many pictures each, next to one another.
    """
    judge, prompts = load_judge(), [prompt] if isinstance(prompt, str) else list(prompt)
    texts = [_asked(p) for p in prompts for _ in range(len(images) // len(prompts))]
    pixels = torch.stack([torch.from_numpy(np.array(image.convert("RGB"))).movedim(-1, 0) for image in images]) / 255
    return [round(c, 4) for c in judge.similarity(pixels, texts).tolist()]


def _asked(prompt: str) -> str:
    """Return what a prompt asks for at the end; words that are no prompt of VQGAN+CLIP stand for themselves."""
    try:
        return main_text(parse_prompts(prompt), 1.0) or prompt
    except BadParameter:
        return prompt


def options_page(method: str = "vqgan_clip") -> str:
    """Return the reference of all options of a method, as Markdown, made from what the code itself reads."""
    check_name("method", method, methods.METHODS)
    if method == "minimagen":
        return "\n".join(["# Options of MinImagen", "", "| option | default | meaning |", "|---|---|---|",
                          *(f"| `{name}` | {'' if default is None else f'`{default}`'} | {meaning} |"
                            for name, (default, meaning) in minimagen.OPTIONS.items()), ""])
    lines = ["# Options of VQGAN+CLIP", "",
             "Fields of `t2ilib.guidance.GuidanceConfig`; as options, `-o name=value` of `python -m t2ilib generate`,",
             "or keywords of `t2ilib.methods.generate`. This page is made from the code by",
             "`python -m t2ilib generate --options`. With the shipped networks these defaults differ: "
             + ", ".join(f"`{k}={v!r}`" for k, v in WITH_PRIOR.items()) + ";",
             "with published ones: " + ", ".join(f"`{k}={v!r}`" for k, v in WITHOUT_PRIOR.items()) + "."]
    group = None
    for row in _rows():
        if row["group"] != group:
            group = row["group"]
            lines += ["", f"## {group.capitalize()}", "", "| option | default | meaning |", "|---|---|---|"]
        default = f"`{row['default']}`" if row["default"] else ""
        lines.append(f"| `{row['option']}` | {default} | {row['meaning'].replace('|', chr(92) + '|')} |")
    lines += ["", "## Named ways of cutting", ""]
    lines += ["| `cutouts` | windows | noise | augmentations |", "|---|---|---|---|"]
    lines += [f"| `{name}` | {_windows(method)} | {_noise(method)} | {_augmentations(method)} |"
              for name, method in CUTOUT_METHODS.items()]
    codes = ", ".join(f"`{code}` {name}" for code, name in CODES.items())
    lines += ["", f"Augmentations by name or code: {codes}; and the sets " + ", ".join(f"`{n}`" for n in AUGMENTATIONS)
              + ".", ""]
    return "\n".join(lines)


def _rows():
    return [{"group": o.group, "option": o.name, "default": "" if o.default is None else repr(o.default),
             "meaning": o.meaning} for o in options_of(GuidanceConfig)]


def _parts(method: CutoutMethod) -> list[tuple[str, CutoutMethod]]:
    return [(f"{share:.0%} ", part) for share, part in method.parts] or [("", method)]


def _windows(method: CutoutMethod) -> str:
    def one(m: CutoutMethod) -> str:
        if m.whole:
            return "the whole picture" + (", pooled" if m.pool else "")
        low = "CLIP's input" if m.min_cut is None else f"{m.min_cut:g}"
        return f"{low} to {m.max_cut:g} of the short side" if low != f"{m.max_cut:g}" else "the short side"

    return "; ".join(share + one(part) for share, part in _parts(method))


def _noise(method: CutoutMethod) -> str:
    return "; ".join(f"{part.noise:g}" for _, part in _parts(method))


def _augmentations(method: CutoutMethod) -> str:
    def one(m: CutoutMethod) -> str:
        plain = Augmentations()
        named = {f.name: getattr(m.augmentations, f.name) for f in dataclasses.fields(Augmentations)}
        changed = [f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in named.items()
                   if v != getattr(plain, k)]
        return ", ".join(changed) or "none"

    return "; ".join(share + one(part) for share, part in _parts(method))

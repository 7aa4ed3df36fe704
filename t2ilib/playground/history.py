"""What was drawn in a session, and how an entry is shown and saved."""

import base64
import html
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ..files import write_json
from ..media import save_pictures
from ..paths import repo_root

SHOWN_SIDE = 256  # pixels at least: browsers scale small pictures up badly
THUMBNAIL_SIDE = 96
MOST_THUMBNAILS = 6


@dataclass
class Drawn:
    """One entry of the history.

    Attributes:
        call: what was asked, as keyword arguments of `draw`. pictures, record: what came out. seconds: it took.
        scores: for each picture, name -> number or text. stopped: it was ended early.
    """

    call: dict[str, Any]
    pictures: list[Image.Image]
    record: dict[str, Any]
    seconds: float
    scores: list[dict[str, Any]] = field(default_factory=list)
    stopped: bool = False


@dataclass
class Finished:
    """What a drawing ends with: one `Drawn` for each method, the call that repeats all of it, and a remark in HTML."""

    drawings: list[Drawn]
    call: dict[str, Any]
    remark: str = ""


def save_drawn(drawn: Drawn, index: int, folder: Path) -> list[Path]:
    """Write one picture and its record into a folder, under a name that is free; return both files."""
    stem = re.sub(r"[^a-z0-9]+", "-", drawn.call["prompt"].lower()).strip("-")[:40] or "picture"
    stem = f"{stem}_s{drawn.call['seed'] + index}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}.png"
    number = 2
    while path.exists():
        path = folder / f"{stem}_{number}.png"
        number += 1
    save_pictures(drawn.pictures[index], path)
    scores = drawn.scores[index] if drawn.scores else {}
    record = {**drawn.record, "asked": drawn.call, "picture": index, "seconds": round(drawn.seconds, 2),
              "stopped": drawn.stopped, "scores": scores}
    write_json(path.with_suffix(".json"), json.loads(json.dumps(record, default=str)))
    return [path, path.with_suffix(".json")]


def short_path(path: Path) -> str:
    """Return a path from the repository's root, or as it is where it lies elsewhere."""
    if path.is_relative_to(repo_root()):
        return path.relative_to(repo_root()).as_posix()
    return str(path)


def note(text: str) -> str:
    """Return text as a line of the panel; it is HTML already."""
    return f"<div class='t2i-note'>{text}</div>"


def scores_html(scores: dict[str, Any], seed: int, seconds: float | None = None) -> str:
    """Return what stands below a picture: its seed, the seconds that it took, where given, and its scores."""
    took = "" if seconds is None else f" · {seconds:.1f} s"
    lines = [f"<small>seed {seed}{took}</small>"]
    for name, value in scores.items():
        shown = f"{value:.2f}" if isinstance(value, float) else html.escape(str(value))
        lines.append(f"{html.escape(name)} <b>{shown}</b>")
    return note("<br>".join(lines))


def history_html(drawings: Sequence[Drawn]) -> str:
    """Return one row of the history: thumbnails, prompt and facts of a drawing, or of several side by side."""
    first = drawings[0]
    thumbnails = ""
    for drawn in drawings:
        for picture in drawn.pictures[:MOST_THUMBNAILS]:
            data = base64.b64encode(png_at_least(picture, THUMBNAIL_SIDE)).decode()
            title = html.escape(drawn.call["method"], quote=True)
            thumbnails += f"<img src='data:image/png;base64,{data}' alt='{title}' title='{title}'>"
    seconds = sum(drawn.seconds for drawn in drawings)
    methods = ", ".join(drawn.call["method"] for drawn in drawings)
    facts = [methods, f"seed {first.call['seed']}", f"{seconds:.1f} s"]
    if "init_image" in first.call:
        facts.append("edited")
    if any(drawn.stopped for drawn in drawings):
        facts.append("stopped early")
    if len(drawings) == 1:
        facts += _mean_scores(first)
    text = f"{html.escape(first.call['prompt'])}<br><small>{html.escape(' · '.join(facts))}</small>"
    return f"<div class='t2i-row'>{thumbnails}{note(text)}</div>"


def _mean_scores(drawn: Drawn) -> list[str]:
    names = set()
    for row in drawn.scores:
        names |= {name for name, value in row.items() if isinstance(value, float)}
    means = []
    for name in sorted(names):
        mean = sum(row[name] for row in drawn.scores) / len(drawn.scores)
        means.append(f"{name} {mean:.2f}")
    return means


def png_at_least(picture: Image.Image, side: int) -> bytes:
    """Return a PNG whose longer side has at least `side` pixels."""
    factor = max(1.0, side / max(picture.size))
    size = tuple(round(length * factor) for length in picture.size)
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    return png_of(picture)


def png_of(picture: Image.Image) -> bytes:
    """Return a picture as PNG bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()

"""Executed copies: notebooks with their outputs, small enough to be committed and read on the web."""

import base64
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from .notebooks import find_notebook
from ..errors import BadParameter, MissingAsset
from ..files import read_json, write_text
from ..paths import reports_dir

LIMIT = 3 * 2**19  # bytes of a copy: 1.5 MiB
SMALL = 12 * 2**10  # bytes of a picture that is left as it is
SCALES = (1.0, 0.85, 0.7, 0.55, 0.4)  # tried one after another
QUALITY = 85  # of JPEG
COLOURS = 256  # of a palette


def keep_copy(run_dir: Path, *, limit: int = LIMIT) -> Path:
    """Write the executed notebook of a run to `reports/notebooks`, and return its path.

    Its pictures become JPEG or PNG with a palette, whichever is smaller, and smaller by steps until the copy is within
    the limit.

    Args:
        run_dir: folder that `python -m t2ilib run` left. limit: bytes.

    Raises:
        MissingAsset: the folder holds no executed notebook.
        BadParameter: the run did not end well, or the copy does not get small enough.
    """
    source = run_dir / "notebook.ipynb"
    if not source.is_file() or not (run_dir / "run.json").is_file():
        raise MissingAsset(f"{run_dir} holds no executed notebook; give a folder of reports/runs, such as "
                           "`python -m t2ilib run 01` leaves")
    record = read_json(run_dir / "run.json")
    if record.get("status") != "ok":
        raise BadParameter(f"the run in {run_dir} ended as {record.get('status')!r}; only what ran to its end is kept")
    name = find_notebook(record["name"]).stem
    for scale in SCALES:
        notebook = json.loads(source.read_text(encoding="utf-8"))
        for data in _pictures_of(notebook):
            _shrink(data, scale)
        text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        if len(text.encode()) <= limit:
            path = reports_dir() / "notebooks" / f"{name}.ipynb"
            write_text(path, text)
            return path
    raise BadParameter(f"{name} has {len(text.encode()) / 2**20:.1f} MiB even with small pictures, and "
                       f"{limit / 2**20:.1f} are allowed; show fewer pictures")


def _pictures_of(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the outputs that hold a PNG, each a dict of MIME type -> content."""
    found = []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                found.append(output["data"])
    return found


def _shrink(data: dict[str, Any], scale: float) -> None:
    """Replace the PNG of an output by what needs fewest bytes."""
    content = base64.b64decode("".join(data["image/png"]))
    if len(content) < SMALL:
        return
    drawn = Image.open(io.BytesIO(content)).convert("RGBA")
    picture = Image.new("RGB", drawn.size, "white")
    picture.paste(drawn, mask=drawn.getchannel("A"))
    if scale < 1:
        size = (round(picture.width * scale), round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    palette = picture.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    candidates = {"image/png": _encoded(palette, "PNG", optimize=True),
                  "image/jpeg": _encoded(picture, "JPEG", quality=QUALITY, optimize=True)}
    if scale == 1:
        candidates["as it is"] = content
    best = min(candidates, key=lambda kind: len(candidates[kind]))
    if best == "as it is":
        return
    del data["image/png"]
    data[best] = base64.b64encode(candidates[best]).decode()


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()

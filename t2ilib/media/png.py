"""PNG files that say how they were made: the whole record of a run inside the picture, read back to repeat it."""

import json
from pathlib import Path
from typing import Any

from ..errors import BadParameter, MissingInput
from ..files import replacing, without_folders

KEY = "t2ilib"


def save_png(image: Any, path: str | Path, record: dict[str, Any]) -> Path:
    """Write a PIL picture with a record of plain JSON types in a compressed text chunk; folders are made.

    The file appears whole or not at all. Files that the record names stand in it without their folders.
    """
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Software", KEY)
    info.add_itxt(KEY, json.dumps(without_folders(record)), zip=True)
    with replacing(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=info)
    return Path(path)


def read_record(path: str | Path) -> dict[str, Any]:
    """Return the record inside a PNG that `save_png` wrote.

    Raises:
        MissingInput: there is no such file. BadParameter: it is no picture, or carries no record.
    """
    from PIL import Image

    path = Path(path).expanduser()
    if not path.is_file():
        raise MissingInput(f"no picture at {path}; correct the path")
    try:
        with Image.open(path, formats=["PNG", "JPEG", "WEBP"]) as image:
            image.load()
            text = getattr(image, "text", {}).get(KEY)
        record = json.loads(text) if text else None
    except (OSError, ValueError, SyntaxError, RecursionError, Image.DecompressionBombError) as error:
        raise BadParameter(f"{path} cannot be read as a picture ({error})") from error
    if not isinstance(record, dict):
        raise BadParameter(f"{path} does not say how it was made: only PNG files written by this library do, as long "
                           "as no other program has saved them again")
    return record

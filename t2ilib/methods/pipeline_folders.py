"""Pipelines of `diffusers` on disk: where one lies, which of its files are loaded, and how large it is.

A folder is read as data: its parts are safetensors, and classes of diffusers or transformers; code in it is not run.
"""

import contextlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ..assets import hub_or_cache
from ..encoders.hugging_face import quiet_transformers
from ..errors import BadParameter, MissingAsset
from ..files import read_json, reason

INDEX = "model_index.json"
LIBRARIES = ("diffusers", "transformers")  # whose classes a folder may name
DENOISERS = ("unet", "transformer")
LATENT_PIXELS = 8  # side of what one latent stands for, where a folder does not say
DEFAULT_SIDE = 512


def import_diffusers() -> Any:
    """Return the module diffusers; raises MissingAsset where it is not installed."""
    try:
        import diffusers
    except ImportError as error:
        raise MissingAsset(missing_package()) from error
    return diffusers


def missing_package() -> str:
    """Return how to get the package."""
    return ('a method diffusers:PATH needs the package diffusers, an extra: pip install "diffusers>=0.30", or '
            '`pip install -e ".[diffusers]"` in this repository')


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def quiet_diffusers() -> Iterator[None]:
    """Silence what diffusers and transformers say while they load."""
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of names that older versions know, too
            yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


def find_folder(place: str, *, local_only: bool = False) -> Path:
    """Return the folder of a pipeline: the one that is named, or of the Hugging Face cache, where it may be fetched to.

    Raises:
        MissingAsset: it is not there. BadParameter: the folder holds no pipeline.
    """
    folder = Path(place).expanduser()
    if folder.exists():
        if not (folder / INDEX).is_file():
            raise BadParameter(f"{place} holds no {INDEX}: it is no pipeline of diffusers. One file of weights, as "
                               "other tools share them, becomes one by `DiffusionPipeline.from_single_file(...)"
                               ".save_pretrained(folder)`")
        return folder
    is_name = place.count("/") == 1 and not place.startswith((".", "/", "~")) and "\\" not in place
    problem = "there is no such folder"
    if is_name:
        diffusers = import_diffusers()
        with hub_or_cache(needed=not local_only) as absence, quiet_diffusers():
            try:
                return Path(diffusers.DiffusionPipeline.download(place, local_files_only=local_only,
                                                                 use_safetensors=True))
            except (OSError, ValueError) as error:
                found = absence or first_line(error)
                problem = f"no such folder, nor in the Hugging Face cache or on its hub ({found})"
    raise MissingAsset(f"no pipeline of diffusers at {place!r}: {problem}; give diffusers:FOLDER, where FOLDER holds "
                       f"{INDEX}, or diffusers:OWNER/NAME of the hub")


def check_index(folder: Path) -> dict[str, Any]:
    """Return the parts that a folder names: name -> [library, class], or [None, None] where there is none.

    Raises:
        BadParameter: it names a class of another library, which would be code from elsewhere.
    """
    index = read_json(folder / INDEX)
    name = index.get("_class_name")
    problem = "" if isinstance(name, str) and name.isidentifier() else f"its _class_name is {name!r}"
    parts = {}
    for part, value in index.items():
        if not isinstance(value, list):
            continue
        is_absent = value == [None, None]
        is_known = len(value) == 2 and isinstance(value[1], str) and (value[0] in LIBRARIES or _is_pipeline(value[0]))
        if not (is_absent or is_known) or not part.isidentifier():
            problem = problem or f"its part {part!r} is {value!r}"
        parts[part] = value
    if problem:
        raise BadParameter(f"{folder / INDEX}: {problem}; only classes of {' and '.join(LIBRARIES)} are loaded, since "
                           "others would be code from elsewhere")
    return parts


def _is_pipeline(library: Any) -> bool:
    """Return whether a library is one of diffusers' own pipelines, as Stable Diffusion's safety checker has it."""
    return isinstance(library, str) and library.isidentifier() and hasattr(import_diffusers().pipelines, library)


def weight_files(folder: Path, parts: Mapping[str, Any],
                 dtype: torch.dtype) -> tuple[dict[str, list[Path]], str | None]:
    """Return the files of weights that are loaded, by part, and the variant that they are ("fp16" or None).

    Raises:
        MissingAsset: a part has weights in another form than safetensors.
    """
    found: dict[str, list[Path]] = {}
    for part in parts:
        found[part] = sorted((folder / part).glob("*.safetensors"))
        others = [*(folder / part).glob("*.bin"), *(folder / part).glob("*.ckpt")]
        if others and not found[part]:
            raise MissingAsset(f"{folder / part} has {others[0].name} and no safetensors; a pickle is not opened. Save "
                               "the pipeline anew with safe_serialization=True, or take the safetensors of its page")
    half: dict[str, list[Path]] = {}
    whole: dict[str, list[Path]] = {}
    for part, files in found.items():
        for file in files:
            chosen = half if ".fp16." in file.name else whole
            chosen.setdefault(part, []).append(file)
    takes_half = bool(half) and (dtype == torch.float16 or not whole)
    return (half, "fp16") if takes_half else (whole, None)


def count_parameters(file: Path) -> int:
    """Return the number of values in a safetensors file, from its header alone.

    Raises:
        BadParameter: it is no such file.
    """
    try:
        with open(file, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > file.stat().st_size:
                raise ValueError("its header is longer than the file")
            header = json.loads(opened.read(length))
        return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadParameter(f"{file} is no safetensors file ({reason(error)}); copy or fetch it again") from error


def side_of_folder(folder: Path) -> int:
    """Return the side of the pictures of the pipeline in a folder, without loading it."""
    for name in DENOISERS:
        path = folder / name / "config.json"
        if path.is_file():
            side = read_json(path).get("sample_size")
            if isinstance(side, int):
                return side * LATENT_PIXELS
    return DEFAULT_SIDE

"""Methods: a prompt becomes pictures. The registry of their names, and the one function that runs any of them.

    generate("a red heart", method="vqgan_clip", num_images=4, seed=0)   # -> four PIL images

A method is a function `(prompt, *, num_images, seed, **options) -> (pictures, record)`, where the record holds plain
JSON types: what was asked, what was used, what came out. One whose signature names `callback` calls it after every step
with a preview (`.step`, `.steps`, `.images` in [0, 1], `.finish()`), and ends early, keeping what it has, if that
returns true. One that names `state` keeps its state in that file and goes on from there.
"""

import inspect
import json
from collections.abc import Callable, Sequence
from typing import Any

from PIL.Image import Image

from .minimagen import run as _minimagen
from .vqgan_clip import run as _vqgan_clip
from ..errors import BadParameter, check_name

METHODS: dict[str, Callable[..., tuple[list[Image], dict[str, Any]]]] = {
    "vqgan_clip": _vqgan_clip,
    "minimagen": _minimagen,
}

NOT_REPEATED = ("callback", "state")  # options that do not decide the picture


def generate_with_record(prompt: str | Sequence[str], *, method: str = "vqgan_clip", num_images: int = 4,
                         seed: int = 0, **options: Any) -> tuple[list[Image], dict[str, Any]]:
    """Make pictures for a prompt; return them with the record of the run. Arguments as in `generate`.

    The record's `call` holds what repeats the run: `generate_with_record(**call)`; None where an option is no plain
    JSON type.
    """
    check_name("method", method, METHODS)
    prompts = list(prompt) if isinstance(prompt, (list, tuple)) else [prompt]
    if not prompts or not all(isinstance(p, str) and p.strip() for p in prompts):
        raise BadParameter(f"the prompt must be a text that says what the picture should show, got {prompt!r}")
    if num_images < 1:
        raise BadParameter(f"num_images must be at least 1, got {num_images}")
    images, record = METHODS[method](prompt, num_images=num_images, seed=seed, **options)
    call = {"prompt": prompt, "method": method, "num_images": num_images, "seed": seed,
            **{k: v for k, v in options.items() if k not in NOT_REPEATED}}
    return images, {**record, "call": call if _is_plain(call) else None}


def takes(method: str, name: str) -> bool:
    """Return whether the signature of a method names an argument, such as `callback` or `state`."""
    return name in inspect.signature(METHODS[method]).parameters


def _is_plain(value: Any) -> bool:
    try:
        return json.loads(json.dumps(value)) is not None
    except (TypeError, ValueError):
        return False


def generate(prompt: str | Sequence[str], *, method: str = "vqgan_clip", num_images: int = 4, seed: int = 0,
             **options: Any) -> list[Image]:
    """Make pictures for a prompt.

    Args:
        prompt: what the pictures should show; a list makes `num_images` of each, those of one next to one another.
        method: a name in `METHODS`.
        num_images: how many; picture j has the seed `seed + j`.
        seed: same seed, same machine, same versions: same pictures.
        options: of the method, such as `steps` or `guidance_scale`; misspelt ones are answered with the nearest name.

    Raises:
        UnknownName: no such method or option. BadParameter: a value is out of range. MissingAsset: weights are absent.
    """
    return generate_with_record(prompt, method=method, num_images=num_images, seed=seed, **options)[0]

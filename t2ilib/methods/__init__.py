"""Methods: a prompt becomes pictures. The registry of their names, and the one function that runs any of them.

    generate("a red heart", method="vqgan_clip", num_images=4, seed=0)   # -> four PIL images

A method is a function `(prompt, *, num_images, seed, **options) -> (pictures, record)`, where the record holds plain
JSON types: what was asked, what was used, what came out. One whose signature names `callback` calls it after every step
with a preview (`.step`, `.steps`, `.images` in [0, 1]), and ends early, keeping what it has, if that returns true.
"""

from collections.abc import Callable
from typing import Any

from PIL.Image import Image

from ..errors import BadParameter, unknown_name
from .vqgan_clip import run as _vqgan_clip

METHODS: dict[str, Callable[..., tuple[list[Image], dict[str, Any]]]] = {
    "vqgan_clip": _vqgan_clip,
}


def generate_with_record(prompt: str, *, method: str = "vqgan_clip", num_images: int = 4, seed: int = 0,
                         **options: Any) -> tuple[list[Image], dict[str, Any]]:
    """Make pictures for a prompt; return them with the record of the run. Arguments as in `generate`."""
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    if not isinstance(prompt, str) or not prompt.strip():
        raise BadParameter(f"the prompt must be a text that says what the picture should show, got {prompt!r}")
    if num_images < 1:
        raise BadParameter(f"num_images must be at least 1, got {num_images}")
    return METHODS[method](prompt, num_images=num_images, seed=seed, **options)


def generate(prompt: str, *, method: str = "vqgan_clip", num_images: int = 4, seed: int = 0,
             **options: Any) -> list[Image]:
    """Make pictures for a prompt.

    Args:
        prompt: what the pictures should show.
        method: a name in `METHODS`.
        num_images: how many; picture j has the seed `seed + j`.
        seed: same seed, same machine, same versions: same pictures.
        options: of the method, such as `steps` or `guidance_scale`; misspelt ones are answered with the nearest name.

    Raises:
        UnknownName: no such method or option. BadParameter: a value is out of range. MissingAsset: weights are absent.
    """
    return generate_with_record(prompt, method=method, num_images=num_images, seed=seed, **options)[0]

"""Methods: a prompt becomes pictures. The registry of their names, and the one function that runs any of them.

    generate("a red heart", method="vqgan_clip", num_images=4, seed=0)   # -> four PIL images

`METHODS` holds each as a `Method`, which says what options it has and what it can do; its module is imported when it is
first used. A method is one file with a METHOD, and a line in `registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .limits import check_cost
from .registry import METHODS, Estimate, Method, read_number, read_prompts
from ..errors import BadParameter
from ..files import hashes_of_inputs
from ..options import Option, is_plain

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["METHODS", "Estimate", "Method", "Option", "generate", "generate_with_record", "read_prompts"]
MOST_PICTURES = 10_000
LARGEST_SEED = 2**62


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
    images, _ = generate_with_record(prompt, method=method, num_images=num_images, seed=seed, **options)
    return images


def generate_with_record(prompt: str | Sequence[str], *, method: str = "vqgan_clip", num_images: int = 4,
                         seed: int = 0, callback: Callable[[Any], bool | None] | None = None,
                         state: str | Path | None = None,
                         **options: Any) -> tuple[list[Image], dict[str, Any]]:
    """Make pictures for a prompt; return them with the record of the run. Other arguments as in `generate`.

    The record's `call` holds what repeats the run: `generate_with_record(**call)`; None where an option is no plain
    JSON type.

    Args:
        callback: called after every step of a method with previews. state: file that keeps the state of a resumable
            method, which goes on from there.
    """
    chosen = METHODS.find(method)
    prompts = read_prompts(prompt)
    num_images = read_number("num_images", num_images, low=1, high=MOST_PICTURES)
    seed = read_number("seed", seed, low=0, high=LARGEST_SEED)
    values = chosen.check(options)
    hooks: dict[str, Any] = {}
    if callback is not None:
        _need(chosen.previews, f"method {method!r} has no steps to show; leave out callback")
        hooks["callback"] = callback
    if state is not None:
        _need(chosen.resumable, f"method {method!r} cannot go on from a state; leave out state")
        hooks["state"] = state
    check_cost(chosen, num_images * len(prompts), values)
    inputs = hashes_of_inputs({"method": method, **values})  # a family's method is told by a folder
    images, record = chosen.run(prompt, num_images=num_images, seed=seed, **hooks, **values)
    call = {"prompt": prompt, "method": method, "num_images": num_images, "seed": seed, **values}
    return images, {**record, "inputs": inputs, "call": call if is_plain(call) else None}


def _need(ability: bool, message: str) -> None:
    if not ability:
        raise BadParameter(message)

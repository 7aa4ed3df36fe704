"""Stable Diffusion and any other text-to-image pipeline of `diffusers` as a method: `diffusers:PATH`.

PATH is a folder in the layout that `save_pretrained` writes (`model_index.json`, a folder for each part), or a name of
the Hugging Face hub such as `owner/name`. The package is an extra: it is imported when such a method draws.
"""

import functools
import inspect
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .drawing import MACHINE_OPTIONS, drawing_record, pictures_to_edit, texts_and_seeds
from .limits import cpu_seconds
from .networks import CACHE, Networks
from .pipeline_folders import (
    DEFAULT_SIDE,
    DENOISERS,
    LATENT_PIXELS,
    check_index,
    count_parameters,
    find_folder,
    first_line,
    import_diffusers,
    quiet_diffusers,
    side_of_folder,
    weight_files,
)
from .registry import Estimate, Method
from .. import runtime
from ..errors import BadParameter, MissingAsset
from ..media import picture_list, to_unit
from ..options import Option

FLOPS_CPU = 3e10  # a second, of one core
FLOPS_GPU = 3e13
ACTIVATIONS = 512  # numbers for each pixel while the decoder runs
SHOW_PROGRESS = {"disable": None, "leave": False}  # None: only on a terminal
OWN = "; empty is the pipeline's own"
OPTIONS = (
    Option("guidance_scale", None, f"how literally the words are taken{OWN}", "drawing", type="float | None", low=0,
           high=1000),
    Option("steps", None, f"of the sampler{OWN}", "drawing", type="int | None", low=1, high=10_000),
    Option("negative", None, "a text to be guided away from", "drawing", type="str | None"),
    Option("width", None, f"of the picture, in pixels{OWN}", "size", type="int | None", low=8, high=8192),
    Option("height", None, "as `width`", "size", type="int | None", low=8, high=8192),
    Option("init_image", None, "a picture file to draw anew for the prompt", "edits", type="str | None"),
    Option("strength", 0.8, "how much of `init_image` is lost", "edits", low=0, low_open=True, high=1),
    *(option for option in MACHINE_OPTIONS if option.name != "chunk"),
    Option("chunk", 1, "pictures in a batch", "machine", low=1, high=4096),
)
ALIASES = {"negative_prompt": "negative", "num_inference_steps": "steps", "num_steps": "steps",
           "cfg_scale": "guidance_scale", "cfg": "guidance_scale", "image": "init_image",
           "denoising_strength": "strength", "size": "width", "dtype": "precision", "torch_dtype": "precision",
           "batch_size": "chunk"}
ARGUMENTS = {"steps": "num_inference_steps", "guidance_scale": "guidance_scale", "negative": "negative_prompt",
             "width": "width", "height": "height", "strength": "strength"}  # option -> argument of a pipeline


def method_of(place: str, name: str) -> Method:
    """Return the method that draws with the pipeline at a place; nothing is loaded, and it need not be there yet.

    Args:
        place: a folder or a name of the hub. name: that of the method, `diffusers:PLACE`.
    """
    title = f"{Path(place).name} (diffusers)"
    return Method(name, title, functools.partial(run, place), options=OPTIONS, aliases=ALIASES,
                  estimate=functools.partial(estimate, place), absent=functools.partial(absent, place))


def run(place: str, prompt: str | Sequence[str], *, num_images: int, seed: int,
        **options: Any) -> tuple[list[Image.Image], dict[str, Any]]:
    """Draw with the pipeline at a place; other arguments as `Method.run` describes them.

    Every picture has its generator, on the CPU, so that a seed means the same noise on every device.
    """
    settings = {option.name: option.default for option in OPTIONS} | options
    for name in ("width", "height"):
        if settings[name] is not None and settings[name] % LATENT_PIXELS:
            raise BadParameter(f"{name} must be a multiple of {LATENT_PIXELS}, the pixels of a latent; got "
                               f"{settings[name]}")
    texts, seeds = texts_and_seeds(prompt, num_images, seed)
    device = runtime.pick_device(settings["device"])
    dtype = runtime.pick_dtype(device, settings["precision"])
    pipeline = load_pipeline(place, device, dtype)
    if settings["init_image"]:
        pipeline = edit_pipeline(pipeline, place)
    settings = with_own_defaults(pipeline, settings, options, place)
    began = time.perf_counter()
    drawn = []
    for first in range(0, len(texts), settings["chunk"]):
        last = first + settings["chunk"]
        drawn.append(_draw(pipeline, texts[first:last], seeds[first:last], settings, place))
    pictures = torch.cat(drawn)  # (B, 3, H, W) in [0, 1]
    steps_done = getattr(pipeline, "num_timesteps", None) or settings["steps"]
    record = drawing_record(settings, texts, seeds, pictures, steps_done=steps_done, began=began, device=device,
                            dtype=dtype, networks=Networks(str(device)), choice=None)
    record["pipeline"] = type(pipeline).__name__
    return picture_list(pictures), record


def _draw(pipeline: Any, texts: list[str], seeds: list[int], settings: Mapping[str, Any], place: str) -> Tensor:
    """Return a picture of each text, with random numbers of its own: (B, 3, H, W) in [0, 1]."""
    known = arguments_of(pipeline)
    arguments: dict[str, Any] = {"prompt": texts, "output_type": "pt"}
    arguments["generator"] = [runtime.generator(seed, "diffusers") for seed in seeds]
    for option, argument in ARGUMENTS.items():
        value = settings[option]
        if value is not None and argument in known:
            arguments[argument] = [value] * len(texts) if option == "negative" else value
    if settings["init_image"]:
        size = (settings["height"] or own_side(pipeline), settings["width"] or own_side(pipeline))
        arguments["image"] = to_unit(pictures_to_edit(settings["init_image"], size, len(texts)))
    try:
        with torch.inference_mode():
            output = pipeline(**arguments)
    except (ValueError, TypeError) as error:  # of a size or a text that it does not take
        raise BadParameter(f"{type(pipeline).__name__} of {place} does not take that: {error}") from error
    images = getattr(output, "images", None)
    if not isinstance(images, Tensor):
        raise BadParameter(f"{type(pipeline).__name__} of {place} made {type(output).__name__} and no pictures; give a "
                           "text-to-image pipeline")
    blanked = sum(map(bool, getattr(output, "nsfw_content_detected", None) or ()))
    if blanked:
        runtime.warn_fallback(f"the safety checker of {place} has replaced {blanked} of {len(texts)} pictures by black")
    return images.float().cpu()


def arguments_of(pipeline: Any) -> Mapping[str, inspect.Parameter]:
    """Return what a pipeline takes when it draws."""
    return inspect.signature(pipeline.__call__).parameters


def with_own_defaults(pipeline: Any, settings: Mapping[str, Any], given: Mapping[str, Any],
                      place: str) -> dict[str, Any]:
    """Return settings in which what was not given has the pipeline's own default.

    Raises:
        BadParameter: something was given that this pipeline does not take.
    """
    known = arguments_of(pipeline)
    complete = dict(settings)
    for option, argument in ARGUMENTS.items():
        is_size_of_edit = option in ("width", "height") and settings["init_image"]
        is_of_edit = option == "strength" and not settings["init_image"]
        if given.get(option) is not None and argument not in known and not is_size_of_edit and not is_of_edit:
            raise BadParameter(f"{option} is nothing that {type(pipeline).__name__} of {place} takes; leave it out")
        if settings[option] is None and option != "negative" and argument in known:
            default = known[argument].default
            complete[option] = None if default is inspect.Parameter.empty else default
    return complete


def own_side(pipeline: Any) -> int:
    """Return the side of the pictures that a pipeline was trained on, in pixels."""
    for name in DENOISERS:
        part = getattr(pipeline, name, None)
        side = getattr(getattr(part, "config", None), "sample_size", None)
        if isinstance(side, int):
            return side * getattr(pipeline, "vae_scale_factor", LATENT_PIXELS)
    return DEFAULT_SIDE


def absent(place: str) -> str:
    """Return what is missing before the pipeline at a place can draw, "" where nothing is."""
    try:
        import_diffusers()
        find_folder(place, local_only=True)
    except (MissingAsset, BadParameter) as error:
        return str(error)
    return ""


def load_pipeline(place: str, device: torch.device, dtype: torch.dtype) -> Any:
    """Return the pipeline at a place, from memory if these very weights were loaded before.

    Raises:
        MissingAsset: package, folder or weights are absent. BadParameter: the folder holds something else.
    """
    import_diffusers()
    folder = find_folder(place)
    parts = check_index(folder)
    _, variant = weight_files(folder, parts, dtype)
    where = f"{device} {dtype}"
    pipeline, _ = CACHE.get("diffusers", str(folder), where,
                            lambda: _load(folder, parts, device, dtype, variant))
    return pipeline


def _load(folder: Path, parts: Mapping[str, Any], device: torch.device, dtype: torch.dtype, variant: str | None) -> Any:
    diffusers = import_diffusers()
    left_out = {part: None for part, value in parts.items() if value == [None, None]}
    with quiet_diffusers():
        try:
            pipeline = diffusers.DiffusionPipeline.from_pretrained(
                str(folder), torch_dtype=dtype, variant=variant, use_safetensors=True, local_files_only=True,
                **left_out)
        except (OSError, ValueError, AttributeError, ImportError, RuntimeError) as error:
            raise BadParameter(f"{folder} cannot be loaded by diffusers {diffusers.__version__}: "
                               f"{first_line(error)}") from error
    if "prompt" not in arguments_of(pipeline):
        raise BadParameter(f"{folder} is a {type(pipeline).__name__}, which takes no prompt; give a text-to-image "
                           "pipeline")
    pipeline.set_progress_bar_config(**SHOW_PROGRESS)
    for part in pipeline.components.values():
        is_network = isinstance(part, torch.nn.Module)
        if is_network and getattr(part, "dtype", dtype) != dtype:  # diffusers without accelerate leaves some as saved
            part.to(dtype)
    return pipeline.to(device)


def edit_pipeline(pipeline: Any, place: str) -> Any:
    """Return the form of a pipeline that begins with a picture; it shares the networks.

    Raises:
        BadParameter: diffusers has none.
    """
    try:
        edits = import_diffusers().AutoPipelineForImage2Image.from_pipe(pipeline)
    except ValueError as error:
        raise BadParameter(f"init_image: {type(pipeline).__name__} of {place} has no form that begins with a picture; "
                           "leave it out") from error
    edits.set_progress_bar_config(**SHOW_PROGRESS)
    return edits


def estimate(place: str, pictures: int, options: Mapping[str, Any]) -> Estimate | None:
    """Return about what a call costs, from the sizes of the files; None where they are not here yet.

    A pass is two operations for each weight of the denoiser and each square of 2 x 2 latents: right for transformers,
    and within a factor of three for the U-Nets of Stable Diffusion.
    """
    try:
        folder = find_folder(place, local_only=True)
        parts = check_index(folder)
    except MissingAsset:
        return None
    device = runtime.pick_device(options.get("device", "auto"))
    dtype = runtime.pick_dtype(device, options.get("precision", "auto"))
    files, _ = weight_files(folder, parts, dtype)
    counts = {}
    for part, found in files.items():
        counts[part] = sum(count_parameters(file) for file in found)
    side = side_of_folder(folder)
    pixels = (options.get("width") or side) * (options.get("height") or side)
    squares = pixels / (2 * LATENT_PIXELS) ** 2
    passes = (options.get("steps") or 50) * (1 if (options.get("guidance_scale") or 7.5) <= 1 else 2)
    denoiser = sum(counts.get(name, 0) for name in DENOISERS)
    operations = 2.0 * denoiser * squares * passes * pictures
    seconds = operations / FLOPS_GPU if device.type == "cuda" else cpu_seconds(operations / FLOPS_CPU)
    size = torch.finfo(dtype).bits // 8
    numbers = sum(counts.values()) + pixels * ACTIVATIONS * min(pictures, options.get("chunk") or 1)
    return Estimate(seconds, 0.8 + numbers * size / 2**30)

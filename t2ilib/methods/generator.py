"""The feed-forward generator as a method: a network predicts all codes of a picture at once, without any steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from .code_checkpoints import VQGAN_NAME, absence, check_codebook, checkpoint_folder, trained_text_encoder
from .drawing import MACHINE_OPTIONS, guide_options
from .limits import cpu_seconds
from .networks import Networks
from .one_pass import PAINT, run_one_pass
from .registry import Estimate, Method
from ..checkpoint import read_config
from ..models.feed_forward import CodeGenerator
from ..options import Option
from ..paths import checkpoints_dir
from ..sampling import ANY_STYLE, LOOKUP_SHARPNESS, OnePassPainter

CHECKPOINT = "emoji-generator"
RECIPE = "python -m t2ilib train generator"
CANDIDATES = 1
OPTIONS = (
    Option("style", ANY_STYLE, "one of the checkpoint's styles, such as `noto`, `twemoji`, `fluent` or `fluent-flat`; "
           "`any` is drawn by the seed", "drawing"),
    Option("noise", 1.0, "how far the seed moves the words: 1 as in training, which hardly moves a name that it knows; "
           "10 moves to other things", "drawing", low=0, high=100, slider=(0.0, 12.0)),
    Option("temperature", 0.5, "of the probabilities by which codes are mixed at each place; 0 takes the likeliest "
           "alone, which has harder edges and blotches", "drawing", low=0, high=100, slider=(0.0, 2.0)),
    Option("sharpness", LOOKUP_SHARPNESS, "how sharply the words look up the memory, as a factor of what training "
           "found: 1 mixes the drawings of several near names, 10 takes the nearest alone", "drawing", low=0,
           high=100, slider=(0.0, 10.0)),
    PAINT,
    *guide_options(CANDIDATES),
    Option("model", VQGAN_NAME, "the VQGAN that paints, with the codebook that the network was trained on",
           "networks"),
    Option("checkpoint", "", f"a folder with a network of your own called {CHECKPOINT}, such as the `checkpoints` in "
           "the folder of a run of notebook 05; empty is the one that ships", "networks"),
    *MACHINE_OPTIONS,
)
ALIASES = {"best_of": "candidates", "clip_model": "clip", "vqgan": "model", "artist": "style",
           "noise_scale": "noise", "truncation": "noise"}


def run(prompt: str | Sequence[str], *, num_images: int, seed: int,
        **options: Any) -> tuple[list[Image.Image], dict[str, Any]]:
    """Draw pictures with the feed-forward generator; arguments as `Method.run` describes them."""
    defaults = {option.name: option.default for option in OPTIONS}
    return run_one_pass("generator", _build, _sample, ("style", "noise", "temperature", "sharpness"), defaults,
                        prompt, num_images=num_images, seed=seed, options=options)


def _build(networks: Networks, settings: dict[str, Any]) -> OnePassPainter:
    return build_painter(networks, model=settings["model"], precision=settings["precision"], chunk=settings["chunk"])


def _sample(painter: OnePassPainter, texts: list[str], arguments: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    painted = painter.sample(texts, **arguments)
    return painted.pictures, {"codes": painted.codes.tolist()}


def load_painter(*, home: Path | None = None, device: str = "cpu", model: str = VQGAN_NAME, precision: str = "auto",
                 chunk: int = 32) -> OnePassPainter:
    """Return the network of the checkpoint in a folder, with the VQGAN that paints.

    Args:
        home: the folder; None is that of the checkpoints that ship. model: the VQGAN.

    Raises:
        MissingAsset: there is no checkpoint. CheckpointMismatch: it was trained on the codes of another VQGAN.
    """
    return build_painter(Networks(device, home=home), model=model, precision=precision, chunk=chunk)


def build_painter(networks: Networks, *, model: str, precision: str, chunk: int) -> OnePassPainter:
    """Return a painter of networks that a run hands out; raises as `load_painter` does."""
    folder = checkpoint_folder(networks.home, CHECKPOINT, RECIPE)
    card = read_config(folder)
    network = networks.checkpoint(CodeGenerator, CHECKPOINT)
    vqgan = networks.vqgan(model)
    check_codebook(card, vqgan, folder, model)
    text_encoder = trained_text_encoder(networks, folder, RECIPE)
    return OnePassPainter(network, vqgan, text_encoder, precision=precision, chunk=chunk)


def absent() -> str:
    """Return what is missing before the method can draw with its defaults, "" where nothing is."""
    return absence(checkpoints_dir(), RECIPE, CHECKPOINT)


def estimate(pictures: int, options: Mapping[str, Any]) -> Estimate:
    """Return about what a call costs, from times of networks of the shipped size on one CPU core."""
    drafts = pictures * options.get("candidates", CANDIDATES)
    return Estimate(cpu_seconds(0.06 * drafts), 0.8 + 0.005 * drafts)


METHOD = Method("generator", "Feed-forward generator", run, options=OPTIONS, live=True, estimate=estimate,
                aliases=ALIASES, absent=absent)

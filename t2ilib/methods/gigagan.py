"""GigaGAN-lite as a method: one pass of a generator for each draft, of which guides keep the best."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from .code_checkpoints import absence, checkpoint_folder, trained_text_encoder
from .drawing import MACHINE_OPTIONS, guide_options
from .limits import cpu_seconds
from .networks import Networks
from .one_pass import PAINT, run_one_pass
from .registry import Estimate, Method
from ..models.gigagan import GigaGenerator
from ..options import Option
from ..paths import checkpoints_dir
from ..sampling import LOOKUP_NOISE, GanPainter

CHECKPOINT = "emoji-gigagan"
RECIPE = "python -m t2ilib train gigagan"
CANDIDATES = 8
OPTIONS = (
    Option("truncation", 1.0, "1 draws as in training; towards 0 all pictures of a text get its mean style and begin "
           "from drawings of the one nearest name, of which the seed still chooses the artist", "drawing", low=0,
           high=1, slider=(0.0, 1.0)),
    Option("text_strength", 1.0, "1 draws as in training; above, styles move away from that of the mean text",
           "drawing", low=0, high=100, slider=(0.0, 3.0)),
    Option("noise", LOOKUP_NOISE, "how far the seed moves the words for which the memory is asked: at 0 all drafts "
           "begin from drawings of one name; a name that it holds is found up to about 2", "drawing", low=0,
           high=100, slider=(0.0, 3.0)),
    PAINT,
    *guide_options(CANDIDATES),
    Option("checkpoint", "", f"a folder with a network of your own called {CHECKPOINT}, such as the `checkpoints` in "
           "the folder of a run of notebook 07; empty is the one that ships", "networks"),
    *MACHINE_OPTIONS,
)
ALIASES = {"best_of": "candidates", "clip_model": "clip", "truncation_psi": "truncation", "psi": "truncation",
           "guidance_scale": "text_strength", "cfg_scale": "text_strength", "noise_scale": "noise"}


def run(prompt: str | Sequence[str], *, num_images: int, seed: int,
        **options: Any) -> tuple[list[Image.Image], dict[str, Any]]:
    """Draw pictures with GigaGAN-lite; arguments as `Method.run` describes them."""
    defaults = {option.name: option.default for option in OPTIONS}
    return run_one_pass("gigagan", _build, _sample, ("truncation", "text_strength", "noise"), defaults,
                        prompt, num_images=num_images, seed=seed, options=options)


def _build(networks: Networks, settings: dict[str, Any]) -> GanPainter:
    return build_painter(networks, precision=settings["precision"], chunk=settings["chunk"])


def _sample(painter: GanPainter, texts: list[str], arguments: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    return painter.sample(texts, **arguments), {}


def load_painter(*, home: Path | None = None, device: str = "cpu", precision: str = "auto",
                 chunk: int = 32) -> GanPainter:
    """Return the generator of the checkpoint in a folder; None is that of the checkpoints that ship.

    Raises:
        MissingAsset: there is no checkpoint.
    """
    return build_painter(Networks(device, home=home), precision=precision, chunk=chunk)


def build_painter(networks: Networks, *, precision: str, chunk: int) -> GanPainter:
    """Return a painter of networks that a run hands out; raises as `load_painter` does."""
    folder = checkpoint_folder(networks.home, CHECKPOINT, RECIPE)
    network = networks.checkpoint(GigaGenerator, CHECKPOINT)
    text_encoder = trained_text_encoder(networks, folder, RECIPE)
    return GanPainter(network, text_encoder, precision=precision, chunk=chunk)


def absent() -> str:
    """Return what is missing before the method can draw with its defaults, "" where nothing is."""
    return absence(checkpoints_dir(), RECIPE, CHECKPOINT)


def estimate(pictures: int, options: Mapping[str, Any]) -> Estimate:
    """Return about what a call costs, from times of a network of the shipped size on one CPU core."""
    drafts = pictures * options.get("candidates", CANDIDATES)
    return Estimate(cpu_seconds(0.05 * drafts), 0.8 + 0.005 * drafts)


METHOD = Method("gigagan", "GigaGAN-lite", run, options=OPTIONS, estimate=estimate, aliases=ALIASES, absent=absent)

"""The text transformer as a method: a network from words to the codes of a VQGAN, and guides that choose its drafts."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .code_checkpoints import VQGAN_NAME, absence, check_codebook, checkpoint_folder, trained_text_encoder
from .code_checkpoints import card_of as card_of
from .code_drawing import DRAWING_ALIASES, drawing_options, run_painter
from .drawing import MACHINE_OPTIONS
from .limits import cpu_seconds
from .networks import Networks
from .registry import Estimate, Method
from ..checkpoint import read_config
from ..errors import CheckpointMismatch
from ..models.text_transformer import TextTransformer
from ..options import Option
from ..paths import checkpoints_dir
from ..sampling import CodePainter, CodesPreview
from ..sampling.decoders import PASSES

CHECKPOINT = "emoji-text-transformer"
RECIPE = "python -m t2ilib train words"
ARMS = ("auto", "masked", "autoregressive")
CANDIDATES = 8
OPTIONS = (
    Option("arm", "auto", "how the network draws: `masked`, many codes in each pass, or `autoregressive`, one after "
           "another; `auto` is what it was trained for", "drawing", choices=ARMS),
    Option("steps", PASSES, "passes of masked decoding; one code after another takes as many as there are codes",
           "drawing", low=1, high=10_000, slider=(1, 32)),
    *drawing_options(CANDIDATES),
    Option("model", VQGAN_NAME, "the VQGAN that paints, with the codebook that the network was trained on",
           "networks"),
    Option("checkpoint", "", f"a folder with a network of your own called {CHECKPOINT}, such as the `checkpoints` in "
           "the folder of a run of notebook 09; empty is the one that ships", "networks"),
    *MACHINE_OPTIONS,
)
ALIASES = DRAWING_ALIASES | {"passes": "steps", "num_steps": "steps", "timesteps": "steps", "vqgan": "model"}


def run(prompt: str | Sequence[str], *, num_images: int, seed: int,
        callback: Callable[[CodesPreview], bool | None] | None = None,
        **options: Any) -> tuple[list[Image.Image], dict[str, Any]]:
    """Draw pictures with the text transformer; arguments as `Method.run` describes them."""
    defaults = {option.name: option.default for option in OPTIONS}
    images, record, painter = run_painter("text_transformer", _build, defaults, prompt, num_images=num_images,
                                          seed=seed, callback=callback, options=options)
    record["arm"] = _arm_of(painter.network)
    return images, record


def _build(networks: Networks, settings: dict[str, Any]) -> CodePainter:
    return build_painter(networks, model=settings["model"], arm=settings["arm"], precision=settings["precision"],
                         chunk=settings["chunk"])


def load_painter(*, home: Path | None = None, device: str = "cpu", model: str = VQGAN_NAME, arm: str = "auto",
                 precision: str = "auto", chunk: int = 32) -> CodePainter:
    """Return the network of the checkpoint in a folder, with the VQGAN that paints.

    Args:
        home: the folder; None is that of the checkpoints that ship. model: the VQGAN. arm: one of `ARMS`.

    Raises:
        MissingAsset: there is no checkpoint. CheckpointMismatch: it was trained for another arm, or on the codes of
            another VQGAN.
    """
    return build_painter(Networks(device, home=home), model=model, arm=arm, precision=precision, chunk=chunk)


def build_painter(networks: Networks, *, model: str, arm: str, precision: str, chunk: int) -> CodePainter:
    """Return a painter of networks that a run hands out; raises as `load_painter` does."""
    folder = checkpoint_folder(networks.home, CHECKPOINT, RECIPE)
    card = read_config(folder)
    network = networks.checkpoint(TextTransformer, CHECKPOINT)
    trained_for = _arm_of(network)
    if arm not in ("auto", trained_for):
        raise CheckpointMismatch(f"{folder} holds a network for arm={trained_for!r}, and arm={arm!r} was asked for; "
                                 "leave arm out, or name a folder with another network: checkpoint=FOLDER")
    vqgan = networks.vqgan(model)
    check_codebook(card, vqgan, folder, model)
    text_encoder = trained_text_encoder(networks, folder, RECIPE)
    return CodePainter(network, vqgan, text_encoder, precision=precision, chunk=chunk)


def _arm_of(network: TextTransformer) -> str:
    return "autoregressive" if network.causal else "masked"


def absent() -> str:
    """Return what is missing before the method can draw with its defaults, "" where nothing is."""
    return absence(checkpoints_dir(), RECIPE, CHECKPOINT)


def estimate(pictures: int, options: Mapping[str, Any]) -> Estimate:
    """Return about what a call costs, from times of networks of the shipped size on one CPU core."""
    candidates = options.get("candidates", CANDIDATES)
    if options.get("arm") == "masked":
        draft = 0.08 * options.get("steps", PASSES)
    else:
        draft = 0.7  # one code after another, as the network that ships draws
    return Estimate(cpu_seconds(pictures * candidates * (draft + 0.05)), 1.0 + 0.01 * pictures * candidates)


METHOD = Method("text_transformer", "Text transformer", run, options=OPTIONS, previews=True, edits=True,
                estimate=estimate, aliases=ALIASES, absent=absent)

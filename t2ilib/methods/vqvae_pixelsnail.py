"""VQ-VAE and PixelSNAIL as a method: codes drawn one after another from a text, painted at 64 pixels, chosen by guides.

A VQ-VAE with two grids has two networks: the coarse codes are drawn first, and the fine ones from them.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .code_checkpoints import TEXT_ENCODER, absence, checkpoint_folder, trained_text_encoder, weights_of
from .code_drawing import DRAWING_ALIASES, drawing_options, run_painter
from .drawing import MACHINE_OPTIONS
from .limits import cpu_seconds
from .networks import Networks
from .registry import Estimate, Method
from ..checkpoint import read_config
from ..encoders import TextEncoder
from ..encoders.minilm import SHA256 as MINILM
from ..errors import CheckpointMismatch
from ..files import read_json
from ..models.code_network import CodeNetwork
from ..models.pixelsnail import PixelSNAIL
from ..models.pixelsnail_levels import CoarseToFine
from ..models.vqvae2 import NAME as VQVAE_NAME
from ..models.vqvae2 import VQVAE2
from ..options import Option
from ..paths import checkpoints_dir
from ..sampling import CodePainter, CodesPreview

CHECKPOINT = "emoji-pixelsnail"
COARSE = "emoji-pixelsnail-coarse"
FINE = "emoji-pixelsnail-fine"
RECIPE = "python -m t2ilib train vqvae,pixelsnail"
CANDIDATES = 16
OPTIONS = (
    *drawing_options(CANDIDATES),
    Option("model", VQVAE_NAME, "the VQ-VAE that paints, on whose codes the network was trained: a folder, or a name "
           "that is looked for in `checkpoint` first", "networks"),
    Option("checkpoint", "", f"a folder with a network of your own called {CHECKPOINT}, or for two grids {COARSE} "
           f"and {FINE}, such as the `checkpoints` in the folder of a run of notebook 06; empty is the one that ships",
           "networks"),
    *MACHINE_OPTIONS,
)
ALIASES = DRAWING_ALIASES | {"vqvae": "model", "temp": "temperature"}


def run(prompt: str | Sequence[str], *, num_images: int, seed: int,
        callback: Callable[[CodesPreview], bool | None] | None = None,
        **options: Any) -> tuple[list[Image.Image], dict[str, Any]]:
    """Draw pictures with a PixelSNAIL; arguments as `Method.run` describes them."""
    defaults = {option.name: option.default for option in OPTIONS}
    images, record, _ = run_painter("vqvae_pixelsnail", _build, defaults, prompt, num_images=num_images, seed=seed,
                                    callback=callback, options=options)
    return images, record


def _build(networks: Networks, settings: dict[str, Any]) -> CodePainter:
    return build_painter(networks, model=settings["model"], precision=settings["precision"], chunk=settings["chunk"])


def load_painter(*, home: Path | None = None, device: str = "cpu", model: str = VQVAE_NAME, precision: str = "auto",
                 chunk: int = 32) -> CodePainter:
    """Return the network of the checkpoint in a folder, with the VQ-VAE that paints.

    Args:
        home: the folder; None is that of the checkpoints that ship. model: the VQ-VAE.

    Raises:
        MissingAsset: there is no checkpoint. CheckpointMismatch: it was trained on the codes of another VQ-VAE.
    """
    return build_painter(Networks(device, home=home), model=model, precision=precision, chunk=chunk)


def build_painter(networks: Networks, *, model: str, precision: str, chunk: int) -> CodePainter:
    """Return a painter of networks that a run hands out; raises as `load_painter` does."""
    vqvae = networks.vqvae(model)
    network: CodeNetwork
    if vqvae.levels == 1:
        network = _network(networks, CHECKPOINT, vqvae, model)
        folder = networks.home / CHECKPOINT
    else:
        network = CoarseToFine(_network(networks, COARSE, vqvae, model), _network(networks, FINE, vqvae, model))
        folder = networks.home / FINE
    text_encoder = trained_text_encoder(networks, folder, RECIPE)
    return CodePainter(network, vqvae, text_encoder, precision=precision, chunk=chunk)


def card_of(vqvae: VQVAE2, name: str, text_encoder: TextEncoder | str = TEXT_ENCODER) -> dict[str, str]:
    """Return what the card of a checkpoint must say, for `save_model(folder, network, **card_of(...), ...)`.

    Args:
        vqvae: on whose codes the network was trained, and name: what it is called.
        text_encoder: what it reads. Of any but MiniLM, which has one version, the card also says which weights: a BLIP
            that was trained anew has other features under the same name.
    """
    card = {"vqvae": name, "vqvae_sha256": vqvae.digest()}
    if isinstance(text_encoder, str):
        return card | {"text_encoder": text_encoder}
    card["text_encoder"] = text_encoder.name
    if text_encoder.name not in MINILM:
        card["text_weights"] = weights_of(text_encoder)
    return card


def keep_text_encoder(text_encoder: TextEncoder, home: Path) -> str:
    """Copy an embedded BLIP that was loaded from a folder to `home`, and return what a card there should call it.

    So the checkpoints of a training stay together, and its card names no path. Other encoders stay where they are: the
    hub's are found by name, and folders in its layout are large; the card names those by their whole path.
    """
    folder = Path(text_encoder.name).expanduser()
    if not (folder / "config.json").is_file():
        return text_encoder.name
    folder = folder.resolve()
    if "class" not in read_json(folder / "config.json"):
        return str(folder)
    kept = home.resolve() / folder.name
    if kept != folder:
        shutil.copytree(folder, kept, dirs_exist_ok=True)
    return kept.name


def _network(networks: Networks, name: str, vqvae: VQVAE2, model: str) -> PixelSNAIL:
    """Return a network of the home's checkpoints that was trained on the codes of this VQ-VAE."""
    folder = checkpoint_folder(networks.home, name, RECIPE)
    card = read_config(folder)
    trained_on = card.get("vqvae_sha256")
    if not isinstance(trained_on, str):
        raise CheckpointMismatch(f"{folder} does not say on which codes it was trained; save it with save_model(..., "
                                 "**card_of(vqvae, name))")
    if vqvae.digest() != trained_on:
        raise CheckpointMismatch(f"{folder} was trained on the codes of {card.get('vqvae', 'another VQ-VAE')}, and "
                                 f"{model} has other weights; take the VQ-VAE of its training: model=FOLDER")
    return networks.checkpoint(PixelSNAIL, name)


def absent() -> str:
    """Return what is missing before the method can draw with its defaults, "" where nothing is."""
    return absence(checkpoints_dir(), RECIPE, VQVAE_NAME, CHECKPOINT)


def estimate(pictures: int, options: Mapping[str, Any]) -> Estimate:
    """Return about what a call costs, from times of networks of the shipped size on one CPU core."""
    drafts = pictures * options.get("candidates", CANDIDATES)
    chunks = -(-drafts // options.get("chunk", 32))
    return Estimate(cpu_seconds(3.0 * chunks + 0.2 * drafts), 1.0 + 0.01 * drafts)


METHOD = Method("vqvae_pixelsnail", "VQ-VAE and PixelSNAIL", run, options=OPTIONS, previews=True, edits=True,
                estimate=estimate, aliases=ALIASES, absent=absent)

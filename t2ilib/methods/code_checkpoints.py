"""What the checkpoint of a network that predicts codes says of itself, and whether it fits the VQGAN that paints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .networks import Networks
from ..checkpoint import absent_checkpoint, read_config
from ..encoders import TextEncoder
from ..encoders.blip import EMBEDDED as BLIP
from ..encoders.blip import RECIPE as BLIP_RECIPE
from ..errors import CheckpointMismatch, MissingAsset
from ..models.vqgan import VQGAN, codebook_digest
from ..paths import checkpoints_dir

TEXT_ENCODER = "minilm"  # where a checkpoint names no other
OPTION = "checkpoint=FOLDER"  # by which each of these methods is told another folder
VQGAN_NAME = "emoji-vqgan-128"


def card_of(vqgan: VQGAN, name: str, text_encoder: str = TEXT_ENCODER) -> dict[str, str]:
    """Return what the card of a checkpoint must say, for `save_model(folder, network, **card_of(...), ...)`.

    Args:
        vqgan: whose codes the network was trained on, and name: what it is called.
    """
    return {"vqgan": name, "codebook_sha256": codebook_digest(vqgan.codebook), "text_encoder": text_encoder}


def check_codebook(card: Mapping[str, Any], vqgan: VQGAN, folder: Path, model: str) -> None:
    """Raise CheckpointMismatch unless the VQGAN has the codebook that the network was trained on.

    Args:
        card: of the checkpoint in `folder`. model: what the VQGAN is called.
    """
    trained_on = card.get("codebook_sha256")
    if not isinstance(trained_on, str):
        raise CheckpointMismatch(f"{folder} does not say on which codes it was trained; save it with save_model(..., "
                                 "**card_of(vqgan, name))")
    if codebook_digest(vqgan.codebook) != trained_on:
        raise CheckpointMismatch(f"{folder} was trained on the codes of {card.get('vqgan', 'another VQGAN')}, and "
                                 f"{model} has others; take model={card.get('vqgan', VQGAN_NAME)!r}")


def absence(home: Path, recipe: str, *names: str) -> str:
    """Return what to do where one of a method's checkpoints is not in a folder, or what the last one reads texts by.

    Args:
        recipe: the command that trains them.

    Returns:
        "" where nothing is missing.
    """
    for name in names:
        if not (home / name).is_dir():
            return absent_checkpoint(name, home, recipe, option=OPTION)
    return _absent_blip(home / names[-1])


def checkpoint_folder(home: Path, name: str, recipe: str) -> Path:
    """Return the folder of a checkpoint in `home`.

    Args:
        recipe: the command that trains it.

    Raises:
        MissingAsset: it is not there.
    """
    folder = home / name
    if not folder.is_dir():
        raise MissingAsset(absent_checkpoint(name, home, recipe, option=OPTION))
    return folder


def trained_text_encoder(networks: Networks, folder: Path, recipe: str) -> TextEncoder:
    """Return the text encoder that the checkpoint in a folder was trained with: one beside it, or one by name.

    Args:
        recipe: the command that trains the checkpoint.

    Raises:
        MissingAsset: it is not here. CheckpointMismatch: the one that is here has other weights.
    """
    absent = _absent_blip(folder)
    if absent:
        raise MissingAsset(absent)
    card = read_config(folder)
    name = card.get("text_encoder", TEXT_ENCODER)
    text_encoder = networks.text_encoder(name)
    weights = weights_of(text_encoder)
    if card.get("text_weights", weights) != weights:
        raise CheckpointMismatch(f"{folder} was trained with another {name} than {text_encoder.name}; put the one of "
                                 f"its training into {folder.parent}, or train the network anew: `{recipe}`")
    return text_encoder


def _absent_blip(folder: Path) -> str:
    """Return what to do where the checkpoint in a folder reads texts by a BLIP that is not here, "" elsewhere."""
    name = read_config(folder).get("text_encoder", TEXT_ENCODER)
    homes = (folder.parent, checkpoints_dir())
    if name != BLIP or any((home / BLIP).is_dir() for home in homes):
        return ""
    return f"{folder} reads texts by a BLIP beside it: {absent_checkpoint(BLIP, folder.parent, BLIP_RECIPE)}"


def weights_of(text_encoder: TextEncoder) -> str:
    """Return what tells the weights of a text encoder from others, wherever they lie."""
    return text_encoder.fingerprint.rpartition("@")[2]

"""What the checkpoint of a network that predicts codes says of itself, and whether it fits the VQGAN that paints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointMismatch
from ..models.vqgan import VQGAN, codebook_digest

TEXT_ENCODER = "minilm"  # where a checkpoint names no other
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


def absent_message(checkpoint: str, recipe: str, home: Path) -> str:
    """Return what to do where a checkpoint is not in its folder."""
    return (f"no checkpoint {checkpoint} in {home}; train one with `{recipe}`, or name a folder that holds one: "
            "checkpoint=FOLDER")

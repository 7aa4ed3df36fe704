"""Training drawings whose names lie near a prompt: where drafts start, and which colours have to be painted."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from .networks import Networks
from ..guidance.near_drawings import NearDrawings
from ..models.start_bank import StartBank
from ..options import Option
from ..paths import checkpoints_dir

BANK = "emoji-starts"  # the training drawings, as codes of the shipped VQGANs
PAINTER = "emoji-vqgan"  # makes small pictures of those codes
TEXT_ENCODER = "minilm"  # which read the names in the bank


SHARE = Option("bank_share", 0.5, "part of the candidates that are redrawn from training drawings with near names; the "
               "others are drawn from nothing. Where drawings are painted in the colour of a prompt, all are redrawn",
               "prior", low=0, high=1, slider=(0.0, 1.0))
SHARE_OF_CANDIDATES = replace(SHARE, group="guides", meaning=f"{SHARE.meaning}. It is 0 for a single candidate, over "
                              "`init_image`, and where the checkpoints hold no `emoji-starts`")


def bank_options(share: Option, noise: float) -> tuple[Option, Option]:
    """Return the options that say how many drafts start from drawings, and how noised those are, by default `noise`."""
    return (
        share,
        Option("bank_noise", noise, "time to which those are noised before they are redrawn: at 0.5 half of the "
               "variance is left and it is nearly the drawing, at 0.7 a fifth and its shape, at 0.85 a twentieth and "
               "its layout, at 1 nothing", share.group, low=0, low_open=True, high=1, slider=(0.3, 1.0)),
    )


def has_bank(networks: Networks) -> bool:
    """Return whether the checkpoints of a run hold the drawings: a slim copy, or one's own folder, may lack them."""
    return (networks.home / BANK).is_dir()


def can_draw_near(networks: Networks) -> bool:
    """Return whether what `near_drawings` needs is here: a slim copy, or a folder of one's own, may lack it."""
    has_painter = any((home / PAINTER).is_dir() for home in (networks.home, checkpoints_dir()))
    return has_bank(networks) and has_painter


def load_bank(networks: Networks) -> StartBank:
    """Return the bank that ships, or that of the run's own folder of checkpoints; raises MissingAsset."""
    return networks.checkpoint(StartBank, BANK, device="cpu")


def near_drawings(networks: Networks, *, chunk: int = 32) -> NearDrawings:
    """Return what looks drawings up in the bank, and paints them: 64 pixels.

    Args:
        chunk: pictures painted at once.
    """
    return NearDrawings(load_bank(networks), networks.text_encoder(TEXT_ENCODER), networks.vqgan(PAINTER), chunk=chunk)


def colors_to_paint(networks: Networks, texts: Sequence[str]) -> tuple[list[str | None], list[str]]:
    """Return for each text the colour that no training drawing of its thing has, or None; and the texts to draw.

    For "a blue car" blue and "a car". Where a folder has no bank, nothing is to be painted.
    """
    if not has_bank(networks):
        return [None] * len(texts), list(texts)
    # loaded for any text: the networks of a record do not depend on the prompt
    near = NearDrawings(load_bank(networks), networks.text_encoder(TEXT_ENCODER), painter=None)
    found = {text: near.color_and_thing(text) for text in texts}
    return [found[text][0] for text in texts], [found[text][1] for text in texts]


def drawings_to_redraw(networks: Networks, texts: Sequence[str], settings: dict[str, Any]) -> list[Tensor] | None:
    """Return for each text the drawings from which candidates start (R, 3, H, W) in [-1, 1].

    None where no candidate does: by `bank_share`, for a single candidate, over a picture, or because there is no bank.
    Then `bank_share` becomes 0 in the settings, which the record of the run keeps.

    Args:
        settings: `candidates`, `bank_share`, `init_image` and `chunk` of a run.
    """
    drafts: dict[str, int] = {}
    is_chosen = settings["candidates"] > 1 and not settings["init_image"]
    if is_chosen and settings["bank_share"] and can_draw_near(networks):
        near = near_drawings(networks, chunk=settings["chunk"])
        drafts = {text: near.drafts(text, settings["candidates"], settings["bank_share"]) for text in texts}
    if not any(drafts.values()):
        settings["bank_share"] = 0.0
        return None
    found = {text: near.pictures(text, count) for text, count in drafts.items()}  # once for all pictures of a text
    return [found[text] for text in texts]

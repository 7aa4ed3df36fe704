"""Training drawings whose names lie near a prompt, from which methods start a part of their drafts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .networks import Networks
from ..models.start_bank import StartBank
from ..options import Option
from ..paths import checkpoints_dir

BANK = "emoji-starts"  # the training drawings, as codes of the shipped VQGANs
PAINTER = "emoji-vqgan"  # makes small pictures of those codes
TEXT_ENCODER = "minilm"  # which read the names in the bank


def bank_options(group: str, noise: float) -> tuple[Option, Option]:
    """Return the options that say how many drafts start from drawings, and how noised those are, by default `noise`."""
    return (
        Option("bank_share", 0.5, "part of the candidates that are redrawn from training drawings with near names; 0 "
               "draws all of them from noise", group, low=0, high=1, slider=(0.0, 1.0)),
        Option("bank_noise", noise, "time to which those are noised before they are redrawn: at 0.5 half of the "
               "variance is left and it is nearly the drawing, at 0.7 a fifth and its shape, at 0.85 a twentieth and "
               "its layout, at 1 nothing", group, low=0, low_open=True, high=1, slider=(0.3, 1.0)),
    )


def can_draw_near(networks: Networks) -> bool:
    """Return whether what `near_drawings` needs is here: a slim copy, or a folder of one's own, may lack it."""
    has_painter = any((home / PAINTER).is_dir() for home in (networks.home, checkpoints_dir()))
    return (networks.home / BANK).is_dir() and has_painter


def load_bank(networks: Networks) -> StartBank:
    """Return the bank that ships, or that of the run's own folder of checkpoints; raises MissingAsset."""
    return networks.checkpoint(StartBank, BANK, device="cpu")


@torch.no_grad()
def near_drawings(networks: Networks, texts: Sequence[str], count: int, *, chunk: int = 32) -> Tensor:
    """Return the `count` drawings with the nearest names for each text: (B, count, 3, 64, 64), about in [-1, 1].

    Args:
        chunk: pictures painted at once.
    """
    painter = networks.vqgan(PAINTER)
    place_of = {text: i for i, text in enumerate(dict.fromkeys(texts))}  # a text of several pictures is painted once
    pooled = networks.text_encoder(TEXT_ENCODER).encode(list(place_of)).pooled.cpu()  # (distinct texts, E)
    z = load_bank(networks).latents_near(pooled, count).flatten(0, 1)
    pictures = torch.cat([painter.decode(part.to(painter.codebook.device)) for part in z.split(chunk)])
    of_distinct = pictures.unflatten(0, (len(place_of), count))
    return of_distinct[[place_of[text] for text in texts]]

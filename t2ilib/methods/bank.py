"""Training drawings whose names lie near a prompt, from which methods start a part of their drafts."""

from .networks import Networks
from ..guidance.near_drawings import NearDrawings
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
               "draws all of them from noise. Where drawings are painted in the colour of a prompt, all are redrawn",
               group, low=0, high=1, slider=(0.0, 1.0)),
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


def near_drawings(networks: Networks, *, chunk: int = 32) -> NearDrawings:
    """Return what looks drawings up in the bank, and paints them: 64 pixels.

    Args:
        chunk: pictures painted at once.
    """
    return NearDrawings(load_bank(networks), networks.text_encoder(TEXT_ENCODER), networks.vqgan(PAINTER), chunk=chunk)

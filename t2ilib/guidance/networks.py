"""The networks of a run: loaded where they were not handed over, and frozen while it lasts."""

import contextlib
from collections.abc import Iterator, Sequence

from torch import nn

from .config import GuidanceConfig
from .protocols import ImageTextModel, PaintingNetwork
from .. import runtime
from ..errors import BadParameter


def load_networks(config: GuidanceConfig, vqgan: PaintingNetwork | None = None,
                  clips: ImageTextModel | Sequence[ImageTextModel] | None = None
                  ) -> tuple[PaintingNetwork, list[ImageTextModel], list[float]]:
    """Return the VQGAN, the guides and their weights; what is None is loaded by the configuration's names.

    Raises:
        BadParameter: there are not as many weights as guides.
    """
    if vqgan is None:
        from ..models.vqgan import load_vqgan

        vqgan = load_vqgan(config.model).to(runtime.pick_device(config.device))
    if clips is None:
        from ..encoders import load_clip

        clips = [load_clip(name, device=vqgan.codebook.device) for name in config.clip]
    clips = as_list(clips)
    weights = list(config.clip_weights)
    if len(clips) != len(weights):  # clips were handed over, and the configuration names others
        if len(set(weights)) > 1:
            raise BadParameter(f"got {len(clips)} guides and clip_weights {config.clip_weights}; give one weight per "
                               "guide")
        weights = [weights[0]] * len(clips)
    return vqgan, clips, weights


def as_list(clips: ImageTextModel | Sequence[ImageTextModel]) -> list[ImageTextModel]:
    """Return one guide or several as a list."""
    return list(clips) if isinstance(clips, (list, tuple)) else [clips]


@contextlib.contextmanager
def frozen(*networks: object) -> Iterator[None]:
    """Switch weights' gradients and training behaviour off inside the block, and restore both after it."""
    roots = []  # a guide that is no module itself may hold one as `model`
    for network in networks:
        root = network if isinstance(network, nn.Module) else getattr(network, "model", None)
        if isinstance(root, nn.Module):
            roots.append(root)
    requires_grad = {p: p.requires_grad for root in roots for p in root.parameters()}
    training = {module: module.training for root in roots for module in root.modules()}
    try:
        for p in requires_grad:
            p.requires_grad_(False)
        for root in roots:
            root.eval()
        yield
    finally:
        for p, required in requires_grad.items():
            p.requires_grad_(required)
        for module, mode in training.items():
            module.training = mode

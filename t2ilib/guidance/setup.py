"""What the steps of one run share: its settings, what paints, what draws views, and the guides with their prompts."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .config import GuidanceConfig
from .networks import frozen, load_networks
from .objective import Guides
from .painting import Painter
from .prompts import Prompt, main_text
from .protocols import ImageTextModel, PaintingNetwork, Prior
from .views import ViewDrawer, image_prompt_views
from .. import runtime


@dataclass
class RunSetup:
    """The parts of a run; `dataclasses.replace(setup, painter=...)` makes a run with another part.

    Attributes:
        seeds, prompts: of every picture. texts: what a prior is asked for at the start.
        dtype: of the networks' arithmetic.
        memory_estimate: bytes of a step, once they were estimated (see `memory.check_memory`).
    """

    config: GuidanceConfig
    seeds: list[int]
    prompts: list[list[Prompt]]
    texts: list[str]
    vqgan: PaintingNetwork
    prior: Prior | None
    dtype: torch.dtype
    painter: Painter
    guides: Guides
    views: ViewDrawer
    memory_estimate: int | None = None

    @property
    def device(self) -> torch.device:
        """Where the networks lie."""
        return self.vqgan.codebook.device

    @property
    def networks(self) -> list:
        """Return the networks that are frozen while the run lasts."""
        return [self.vqgan, *self.guides.clips]


def prepare_run(config: GuidanceConfig, vqgan: PaintingNetwork | None = None,
                clips: ImageTextModel | Sequence[ImageTextModel] | None = None, prior: Prior | None = None) -> RunSetup:
    """Load the networks that are None, embed the prompts, and return all parts of a run."""
    vqgan, clips, weights = load_networks(config, vqgan, clips)
    device = vqgan.codebook.device
    dtype = runtime.pick_dtype(device, config.precision)
    seeds = config.seeds()
    prompts = [group for group in config.prompts() for _ in range(config.num_images)]
    texts = [main_text(group) for group in prompts]
    painter = Painter(config, vqgan, seeds, dtype)
    image_views = functools.partial(image_prompt_views, config, device=device)
    with frozen(vqgan, *clips):
        guides = Guides(clips, weights, prompts, dtype, image_views=image_views, long=config.long_prompts)
    views = ViewDrawer(config, guides.regions, guides.cut_size, seeds)
    return RunSetup(config, seeds, prompts, texts, vqgan, prior, dtype, painter, guides, views)

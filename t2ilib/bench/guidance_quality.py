"""VQGAN+CLIP on the embedded networks: does speed cost quality? The same starts, with and without the levers."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from .measure import Clock, Row, row
from ..data import load_captioned
from ..encoders import load_clip, load_judge
from ..guidance import GuidanceConfig, vqgan_clip
from ..metrics.alignment import bootstrap_interval
from ..metrics.judging import Judgement
from ..models.vqgan import load_vqgan

PRECISION = {"plain": "float32", "levers": "auto"}


def vqgan_clip_quality_rows(device: torch.device, seconds: float, *, prompts: int | Sequence[str] = 20, seeds: int = 3,
                            batch: int = 10) -> Iterator[Row]:
    """Strict judge top-10 of our defaults with the speed levers, and of the same search from the same starts without.

    The paired difference has a 95 % bootstrap interval over concepts (p20 and p80 of its row are its ends).

    Args:
        seconds: not used; a run takes what it takes.
        prompts: how many training concepts, spread evenly, or which. seeds: of each. batch: pictures in one pass.
    """
    from ..methods.vqgan_clip import WITH_PRIOR, load_prior

    model = GuidanceConfig.model
    networks = dict(vqgan=load_vqgan(model, device=device), clips=load_clip(device=device),
                    prior=load_prior(model, device=str(device)))
    judgement = Judgement(load_judge(device=device), load_captioned("emoji", split="all", image_size=64))
    names = judgement.concepts("train", prompts) if isinstance(prompts, int) else list(prompts)
    search = {**WITH_PRIOR, "init": "latents", "candidates": 1}
    hits: dict[str, list[Tensor]] = {provider: [] for provider in PRECISION}
    spent = dict.fromkeys(PRECISION, 0.0)
    for seed in range(seeds):
        for first in range(0, len(names), batch):
            part = names[first:first + batch]
            start = vqgan_clip(GuidanceConfig(part, **{**WITH_PRIOR, "steps": 0, "seed": seed}), **networks).z_start
            for provider, name in PRECISION.items():
                config = GuidanceConfig(part, **{**search, "precision": name, "seed": seed})
                clock = Clock(device)
                images = vqgan_clip(config, **networks, latents=start).images
                spent[provider] += clock()
                ranks = judgement.ranks(judgement.features(images), part)
                hits[provider].append((ranks <= 10).float())
    found = {provider: torch.cat(parts) for provider, parts in hits.items()}
    yield from quality_rows(found, spent, names * seeds, device)


def quality_rows(hits: Mapping[str, Tensor], spent: Mapping[str, float], concepts: Sequence[str], device: torch.device
                 ) -> Iterator[Row]:
    """Return the rows of "plain" and "levers": shares, their paired difference, and seconds a picture.

    Args:
        hits: (N,) of 0 and 1 for the same N pictures. spent: seconds for all of them. concepts: of each picture.
    """
    shape = f"{len(set(concepts))} concepts, {len(concepts)} pictures"
    about = dict(shape=shape, device=device)
    groups = list(concepts)
    for provider, found in hits.items():
        dtype = PRECISION[provider]
        share = bootstrap_interval(found, groups=groups)
        yield row("vqgan_clip_quality", provider, "share", share, mode="top-10 among all names", dtype=dtype, **about)
        yield row("vqgan_clip_quality", provider, "s", spent[provider] / len(groups), mode="search", dtype=dtype,
                  ratio=spent["plain"] / spent[provider], **about)
    difference = hits["levers"] - hits["plain"]
    interval = bootstrap_interval(difference, groups=groups)
    alike = (difference == 0).float().mean().item()
    about["dtype"] = PRECISION["levers"]
    yield row("vqgan_clip_quality", "levers", "share", interval, mode="top-10, paired difference to plain", **about)
    yield row("vqgan_clip_quality", "levers", "share", alike, mode="pictures judged alike", **about)

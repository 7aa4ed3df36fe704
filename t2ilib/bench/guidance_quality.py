"""VQGAN+CLIP on the embedded networks: does speed cost quality? The same starts, with and without the levers."""

import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .measure import Row, _row, _wait
from ..data import load_captioned
from ..encoders import load_clip, load_judge
from ..guidance import GuidanceConfig, vqgan_clip
from ..metrics.alignment import bootstrap_interval
from ..metrics.judging import Judgement
from ..models.vqgan import load_vqgan

PLAIN = {"precision": "float32"}
LEVERS = {"precision": "auto"}


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
    vqgan, clip = load_vqgan(model, device=device), load_clip(device=device)
    prior, judgement = load_prior(model, device=str(device)), Judgement(load_judge(device=device), load_captioned(
        "emoji", split="all", image_size=64))
    names = judgement.concepts("train", prompts) if isinstance(prompts, int) else list(prompts)
    search = {**WITH_PRIOR, "init": "latents", "candidates": 1}
    hits: dict[str, list[Tensor]] = {"plain": [], "levers": []}
    spent = dict.fromkeys(hits, 0.0)
    for seed in range(seeds):
        for first in range(0, len(names), batch):
            part = names[first:first + batch]
            start = vqgan_clip(GuidanceConfig(part, **{**WITH_PRIOR, "steps": 0, "seed": seed}), vqgan=vqgan,
                               clips=clip, prior=prior).z_start
            for provider, state in (("plain", PLAIN), ("levers", LEVERS)):
                _wait(device)
                began = time.perf_counter()
                images = vqgan_clip(GuidanceConfig(part, **{**search, **state, "seed": seed}), vqgan=vqgan, clips=clip,
                                    prior=prior, latents=start).images
                _wait(device)
                spent[provider] += time.perf_counter() - began
                hits[provider].append((judgement.ranks(judgement.features(images), part) <= 10).float())
    yield from _table({k: torch.cat(v) for k, v in hits.items()}, spent, names * seeds, device)


def _table(hits: dict[str, Tensor], spent: dict[str, float], groups: Sequence[str], device: torch.device
           ) -> Iterator[Row]:
    shape = f"{len(set(groups))} concepts, {len(groups)} pictures"

    def row(provider: str, mode: str, metric: str, values: Sequence[float], ratio: float = 1.0) -> Row:
        return _row("vqgan_clip_quality", provider, mode, shape, "as named", metric, values, ratio, device)

    for provider, found in hits.items():
        yield row(provider, "top-10 among all names", "share", bootstrap_interval(found, groups=list(groups)))
        pace = spent[provider] / len(groups)
        yield row(provider, "search", "s", [pace] * 3, spent["plain"] / spent[provider])
    difference = hits["levers"] - hits["plain"]
    yield row("levers", "top-10, paired difference to plain", "share",
              bootstrap_interval(difference, groups=list(groups)))
    yield row("levers", "pictures judged alike", "share", [(difference == 0).float().mean().item()] * 3)

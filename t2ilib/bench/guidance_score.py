"""VQGAN+CLIP on the embedded networks: how soon our run scores what the classic loop's final picture scores.

The score is the cosine of picture and prompt under the judge, which guides neither of the two.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .classic import ClassicLoop
from .measure import Row, _row, _wait
from ..data import load_captioned
from ..data.captions import plain_name
from ..encoders import load_clip, load_judge
from ..guidance import GuidanceConfig, Preview, vqgan_clip
from ..models.vqgan import load_vqgan

Score = Callable[[Tensor, str], float]


@dataclass
class Trial:
    """One prompt: seconds and final score of both, and what our run took to pass the classic loop's final score.

    Attributes:
        passed: seconds from the call of our run, start included; infinite if it never got there.
        passed_step: optimiser steps made by then: 0 is the start itself, -1 never.
    """

    prompt: str
    classic_seconds: float
    classic_score: float
    seconds: float
    score: float
    passed: float
    passed_step: int


class _Clock:
    """Seconds since it was made, less those spent in `outside` (the judge is no part of a run)."""

    def __init__(self, device: torch.device):
        self.device, self.spent = device, 0.0
        _wait(device)
        self.start = time.perf_counter()

    def __call__(self) -> float:
        _wait(self.device)
        return time.perf_counter() - self.start - self.spent

    def outside(self, work: Callable[[], float]) -> float:
        """Return work() while the clock stands still."""
        _wait(self.device)
        start = time.perf_counter()
        value = work()
        _wait(self.device)
        self.spent += time.perf_counter() - start
        return value


def validation_prompts(count: int) -> list[str]:
    """Return readable names of `count` concepts, spread evenly over the validation split."""
    names = load_captioned("emoji", split="validation", image_size=64).columns["name"]
    names = sorted({plain_name(name) for name in names})
    return [names[int((i + 0.5) * len(names) / count)] for i in range(count)]


def trial(prompt: str, vqgan, clip, prior, score: Score, *, steps: int, cutouts: int, options: dict,
          seed: int = 0) -> Trial:
    """Run the classic loop to its end, then ours, and find when ours passes the other's final score.

    Args:
        steps, cutouts: of the classic loop. options: of `GuidanceConfig`, for ours.
    """
    device = vqgan.codebook.device
    clock = _Clock(device)
    side = vqgan.config["resolution"] // vqgan.factor
    loop = ClassicLoop(vqgan.decode, vqgan.codebook, clip.encode_image, clip.encode_text([prompt]), size=(side, side),
                       num_cutouts=cutouts, cut_size=clip.image_size, seed=seed)
    for _ in range(steps):
        loop.step()
    with torch.no_grad():
        picture = loop.picture()
    classic_seconds, goal = clock(), score(picture, prompt)
    clock, passed = _Clock(device), []

    def watch(preview: Preview) -> None:
        now = clock()
        if not passed and clock.outside(lambda: score(preview.images, prompt)) >= goal:
            passed.append((now, preview.step))

    config = GuidanceConfig(prompt, **{**options, "seed": seed})
    result = vqgan_clip(config, vqgan=vqgan, clips=clip, prior=prior, callback=watch)
    seconds, final = clock(), score(result.images, prompt)
    if not passed and final >= goal:  # only the average of the latents, which is the final picture, gets there
        passed.append((seconds, config.steps))
    return Trial(prompt, classic_seconds, goal, seconds, final, *(passed[0] if passed else (math.inf, -1)))


def vqgan_clip_score_rows(device: torch.device, seconds: float, *, prompts: int | Sequence[str] | None = None,
                          steps: int = 300, cutouts: int = 32, seed: int = 0) -> Iterator[Row]:
    """Time until our defaults reach the judge's score of the classic loop's final picture, prompt by prompt.

    Args:
        seconds: not used; a run takes what it takes.
        prompts: how many of the validation split, or which; None is 4, and 20 on CUDA.
        steps, cutouts: of the classic loop.
    """
    from ..methods.vqgan_clip import WITH_PRIOR, load_prior

    name = GuidanceConfig.model
    vqgan, clip = load_vqgan(name, device=device), load_clip(device=device)
    prior, judge = load_prior(name, device=str(device)), load_judge(device=device)
    count = prompts or (20 if device.type == "cuda" else 4)
    names = validation_prompts(count) if isinstance(count, int) else list(count)
    texts = dict(zip(names, judge.encode_text(names), strict=True))

    def score(images: Tensor, prompt: str) -> float:
        with torch.no_grad():
            return float((judge.encode_image(images.clamp(0, 1)) @ texts[prompt]).mean())

    def run(prompt: str, classic_steps: int = steps, **changes) -> Trial:
        return trial(prompt, vqgan, clip, prior, score, steps=classic_steps, cutouts=cutouts, seed=seed,
                     options={**WITH_PRIOR, **changes})

    run(names[0], 2, steps=2)  # warm up
    trials = [run(prompt) for prompt in names]
    yield from (row for t in trials for row in _rows_of(t, device))
    yield from _summary(trials, f"{steps} steps, {cutouts} cutouts, {len(names)} prompts", device)


def _rows_of(t: Trial, device: torch.device) -> Iterator[Row]:
    def row(provider: str, mode: str, metric: str, value: float, ratio: float) -> Row:
        return _row("vqgan_clip_score", provider, mode, t.prompt, "float32", metric, [value] * 3, ratio, device)

    yield row("classic", "whole run", "s", t.classic_seconds, 1.0)
    yield row("ours", "whole run", "s", t.seconds, t.classic_seconds / t.seconds)
    yield row("ours", f"to the classic score, step {t.passed_step}" if t.passed_step >= 0 else
              "never reached the classic score", "s", t.passed, t.classic_seconds / t.passed)
    yield row("classic", "final picture", "judge cosine", t.classic_score, 1.0)
    yield row("ours", "final picture", "judge cosine", t.score, t.score / t.classic_score)


def _summary(trials: Sequence[Trial], shape: str, device: torch.device) -> Iterator[Row]:
    """Median, 20th and 80th percentile over the prompts; the ratio is that of the medians."""
    quantiles = torch.tensor([0.5, 0.2, 0.8], dtype=torch.float64)

    def row(provider: str, mode: str, metric: str, values: list[float], base: float | None = None) -> Row:
        # "lower": a value that occurred, so that a prompt never passed counts as infinite and spoils no other
        q = torch.quantile(torch.tensor(values, dtype=torch.float64), quantiles, interpolation="lower").tolist()
        ratio = 1.0 if base is None else base / q[0]
        return _row("vqgan_clip_score", provider, mode, shape, "float32", metric, q, ratio, device)

    classic = row("classic", "whole run", "s", [t.classic_seconds for t in trials])
    yield classic
    yield row("ours", "whole run", "s", [t.seconds for t in trials], classic.p50)
    yield row("ours", "to the classic score", "s", [t.passed for t in trials], classic.p50)
    share = sum(t.passed_step >= 0 for t in trials) / len(trials)
    yield _row("vqgan_clip_score", "ours", "prompts that reach the classic score", shape, "float32", "share",
               [share] * 3, 1.0, device)

"""VQGAN+CLIP on the embedded networks: how soon our run scores what the classic loop's final picture scores.

The score is the cosine of picture and prompt under the judge, which guides neither of the two.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .classic import ClassicLoop
from .measure import QUANTILES, Clock, Row, row
from ..data import load_captioned
from ..data.phrases import plain_name
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
    side = vqgan.config["resolution"] // vqgan.factor
    clock = Clock(device)
    loop = ClassicLoop(vqgan.decode, vqgan.codebook, clip.encode_image, clip.encode_text([prompt]), size=(side, side),
                       num_cutouts=cutouts, cut_size=clip.image_size, seed=seed)
    for _ in range(steps):
        loop.step()
    with torch.no_grad():
        picture = loop.picture()
    classic_seconds = clock()
    goal = score(picture, prompt)

    clock = Clock(device)
    passed: list[tuple[float, int]] = []  # the first moment, and the steps made by then

    def watch(preview: Preview) -> None:
        now = clock()
        if not passed and clock.pause(lambda: score(preview.images, prompt)) >= goal:
            passed.append((now, preview.step))

    config = GuidanceConfig(prompt, **{**options, "seed": seed})
    result = vqgan_clip(config, vqgan=vqgan, clips=clip, prior=prior, callback=watch)
    seconds = clock()
    final = score(result.images, prompt)
    if not passed and final >= goal:  # only the average of the latents, which is the final picture, gets there
        passed.append((seconds, config.steps))
    passed_after, passed_step = passed[0] if passed else (math.inf, -1)
    return Trial(prompt, classic_seconds, goal, seconds, final, passed_after, passed_step)


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
    vqgan = load_vqgan(name, device=device)
    clip = load_clip(device=device)
    prior = load_prior(name, device=str(device))
    judge = load_judge(device=device)
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
    for each in trials:
        yield from trial_rows(each, device)
    yield from summary_rows(trials, f"{steps} steps, {cutouts} cutouts, {len(names)} prompts", device)


def trial_rows(trial: Trial, device: torch.device) -> list[Row]:
    """Return the rows of one prompt."""
    def of(provider: str, mode: str, metric: str, value: float, ratio: float) -> Row:
        return row("vqgan_clip_score", provider, metric, value, mode=mode, shape=trial.prompt, device=device,
                   ratio=ratio)

    to_score = "never reached the classic score"
    if trial.passed_step >= 0:
        to_score = f"to the classic score, step {trial.passed_step}"
    return [of("classic", "whole run", "s", trial.classic_seconds, 1.0),
            of("ours", "whole run", "s", trial.seconds, trial.classic_seconds / trial.seconds),
            of("ours", to_score, "s", trial.passed, trial.classic_seconds / trial.passed),
            of("classic", "final picture", "judge cosine", trial.classic_score, 1.0),
            of("ours", "final picture", "judge cosine", trial.score, trial.score / trial.classic_score)]


def summary_rows(trials: Sequence[Trial], shape: str, device: torch.device) -> list[Row]:
    """Return median, 20th and 80th percentile over the prompts; the ratio is that of the medians."""
    reached = [trial.passed_step >= 0 for trial in trials]
    seconds = {("classic", "whole run"): [trial.classic_seconds for trial in trials],
               ("ours", "whole run"): [trial.seconds for trial in trials],
               ("ours", "to the classic score"): [trial.passed for trial in trials]}
    rows = []
    base = None
    for (provider, mode), values in seconds.items():
        quantiles = _quantiles(values)
        base = base or quantiles[0]
        rows.append(row("vqgan_clip_score", provider, "s", quantiles, mode=mode, shape=shape, device=device,
                        ratio=base / quantiles[0]))
    rows.append(row("vqgan_clip_score", "ours", "share", sum(reached) / len(reached), shape=shape, device=device,
                    mode="prompts that reach the classic score"))
    return rows


def _quantiles(values: Sequence[float]) -> list[float]:
    """Return the median, the 20th and the 80th percentile.

    Each is a value that occurred, so that a prompt that never got there counts as infinite and spoils no other.
    """
    quantiles = torch.tensor(QUANTILES, dtype=torch.float64)
    return torch.tensor(values, dtype=torch.float64).quantile(quantiles, interpolation="lower").tolist()

"""Draw pictures with a cascade: from words, from a smaller picture, over a picture, or into a part of one."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from .pictures import downsample, enlarge, low_resolution_condition, predict_with_margin
from .walk import Sampling, Stage, split, walk
from .. import runtime
from ..diffusion import noise_for, q_sample, with_guidance
from ..errors import BadParameter

MARGIN = 8  # pixels around what a super-resolution network sees of pictures of 64 pixels or more


class TextCondition(NamedTuple):
    """What the networks read of one text: `tokens` (T, E) and `pooled` (E,)."""

    tokens: Tensor
    pooled: Tensor


Text = str | TextCondition
Score = Callable[[Tensor, list[Text]], Tensor]  # (pictures (M, 3, H, W) in [0, 1], their M texts) -> (M,)


@dataclass(frozen=True)
class CascadePreview:
    """What a callback gets after each step: what the networks believe in now, at the final size.

    Shapes:
        images (B, 3, H, W) in [0, 1]; of several candidates the first
    """

    step: int
    steps: int
    stage: int
    images: Tensor

    def finish(self) -> Tensor:
        """Return what the run would end with now."""
        return self.images


def mix_conditions(a: TextCondition, b: TextCondition, share: float) -> TextCondition:
    """Return what lies between two texts, for pictures that go over from one to the other: 0 is a, 1 is b.

    Token by token, where one text is longer its tokens fade; the pooled feature moves along the sphere.
    """
    if not 0 <= share <= 1:
        raise BadParameter(f"share must be in [0, 1], from the first text to the second, got {share}")
    if share in (0, 1):
        return b if share else a
    tokens = pad_sequence([(1 - share) * a.tokens, share * b.tokens], batch_first=True).sum(0)
    mixed = torch.lerp(a.pooled, b.pooled, share)
    length = torch.lerp(a.pooled.norm(), b.pooled.norm(), share)
    return TextCondition(tokens, F.normalize(mixed, dim=0) * length)


@dataclass(frozen=True)
class _Given:
    """What a stage has beside words: the smaller picture, one to begin with at time `strength`, a part to keep."""

    low: Tensor | None = None
    begin: Tensor | None = None
    strength: float = 1.0
    keep: tuple[tuple[Tensor, Tensor], ...] = ()


class _Stopped(Exception):
    """The callback asked to end."""


class _Watch:
    """Counts the steps of a run over all stages and parts of a batch, and shows the callback where it is."""

    def __init__(self, callback: Callable[[CascadePreview], bool | None] | None, steps: int, size: int):
        self.callback, self.steps, self.size, self.done, self.stopped = callback, steps, size, 0, False

    def step(self, index: int, stage: Stage, canvas: Tensor, rows: slice, every: int, step: int, x_0: Tensor) -> None:
        """Show each `every`-th picture, those of x_0 in its rows; of the others nothing is decoded unless it ends."""
        if self.callback is not None:
            shown = list(range(-rows.start % every, len(x_0), every))
            canvas[[rows.start + i for i in shown]] = stage.decode(x_0[shown]).to(canvas)
            images = enlarge(canvas[::every], self.size) * 0.5 + 0.5
            self.stopped = bool(self.callback(CascadePreview(self.done, self.steps, index, images)))
        self.done += 1
        if self.stopped:
            canvas[rows] = stage.decode(x_0).to(canvas)
            raise _Stopped


class Cascade:
    """A first network and super-resolution networks that draw one after another.

    Args:
        stages: from small to large; all networks on one device, put in eval mode.
        text_encoder: the frozen one they were trained with.
        chunk: pictures sampled in one batch. precision: of the networks, see `runtime.pick_dtype`.

    In all its methods, `generators` holds a stream for each picture, on which alone it depends, not on its neighbours;
    `settings` are those of `Sampling`; `callback` gets a `CascadePreview` after each step, and ends the run, which
    keeps what it has, by returning true. The result is a list of pictures (B, 3, size, size) in [-1, 1] on the device,
    one entry for each stage that ran. Texts may be given as conditions from `encode` or `mix_conditions`.
    """

    def __init__(self, stages: Sequence[Stage], text_encoder: Any, *, chunk: int = 32, precision: str = "auto"):
        sizes = [stage.size for stage in stages]
        if not stages or sizes != sorted(set(sizes)) or chunk < 1 or any(stage.space for stage in stages[1:]):
            raise BadParameter("need chunk >= 1, and stages from small to large, only the first of which may work with "
                               f"latents; got chunk={chunk}, sizes {sizes}")
        for stage in stages:
            stage.network.eval()
        self.stages, self.text_encoder, self.chunk = list(stages), text_encoder, chunk
        self.device = next(stages[0].network.parameters()).device
        self.dtype = runtime.pick_dtype(self.device, precision)
        self._texts: dict[str, TextCondition] = {}

    @torch.no_grad()
    def encode(self, texts: Sequence[Text]) -> list[TextCondition]:
        """Return what the networks read of each text; each distinct one is encoded once in the cascade's life."""
        new = [t for t in dict.fromkeys(texts) if isinstance(t, str) and t not in self._texts] if texts else []
        if new:
            tokens, mask, pooled = (f.to(self.device) for f in self.text_encoder.encode(new))
            self._texts.update({t: TextCondition(tokens[i, mask[i]], pooled[i]) for i, t in enumerate(new)})
        return [self._texts[t] if isinstance(t, str) else t for t in texts]

    def sample(self, texts: Sequence[Text], *, generators: Sequence[torch.Generator], low: Tensor | None = None,
               candidates: int = 1, score: Score | None = None,
               callback: Callable[[CascadePreview], bool | None] | None = None, **settings: Any) -> list[Tensor]:
        """Draw a picture for each text.

        Args:
            low: pictures (B, 3, h, w) in [-1, 1] to enlarge, in the place of drawn ones; only the stages larger than
                they are run.
            candidates: small pictures drawn for each text, of which `score` chooses the one that is enlarged.

        Raises:
            BadParameter: a setting out of range, candidates without a score, or numbers that do not agree.
        """
        if candidates < 1 or (candidates > 1 and (score is None or low is not None)):
            raise BadParameter(f"candidates must be at least 1, and more than one need a score=... that chooses and no "
                               f"low=...; got {candidates}")
        if low is None:
            return self._run(texts, generators, settings, callback, candidates=candidates, score=score)
        first = next((k for k, stage in enumerate(self.stages) if stage.size > max(low.shape[-2:]) and k), None)
        if first is None or len(low) != len(texts):
            raise BadParameter(f"low must be {len(texts)} pictures smaller than {self.stages[-1].size} pixels, for a "
                               f"cascade of {len(self.stages)} stages; got {tuple(low.shape)}")
        return self._run(texts, generators, settings, callback, _Given(low=low.to(self.device)), first=first)

    def edit(self, pictures: Tensor, texts: Sequence[Text], *, strength: float,
             generators: Sequence[torch.Generator], callback: Callable[[CascadePreview], bool | None] | None = None,
             **settings: Any) -> list[Tensor]:
        """Draw pictures (B, 3, H, W) in [-1, 1] anew for their texts (Meng et al. 2022, "SDEdit").

        Args:
            strength: time in (0, 1] to which the first stage noises its small copy; at 1 nothing of it is left.
        """
        if not 0 < strength <= 1 or len(pictures) != len(texts):
            raise BadParameter(f"need strength in (0, 1] and a text for each picture, got {strength}, {len(pictures)} "
                               f"pictures and {len(texts)} texts")
        small = downsample(pictures.to(self.device), self.stages[0].size)
        return self._run(texts, generators, settings, callback, _Given(begin=small, strength=strength))

    def inpaint(self, pictures: Tensor, mask: Tensor, texts: Sequence[Text], *,
                generators: Sequence[torch.Generator],
                callback: Callable[[CascadePreview], bool | None] | None = None, **settings: Any) -> list[Tensor]:
        """Draw the part of pictures where the mask is 1, so that it fits the rest, which is kept in every stage.

        Args:
            pictures: (B, 3, H, W) in [-1, 1] of the last stage's size. mask: (B or 1, 1, H, W), 1 where to draw.
        """
        size = self.stages[-1].size
        if (pictures.shape[-2:], mask.shape[-2:]) != ((size, size), (size, size)) or len(pictures) != len(texts):
            raise BadParameter(f"need {len(texts)} pictures and a mask of {size} x {size} pixels, got "
                               f"{tuple(pictures.shape)} and {tuple(mask.shape)}")
        kept = []
        for stage in self.stages:  # a pixel is kept where nothing below it is to be drawn
            drawn = F.adaptive_max_pool2d(mask.float().to(self.device), stage.shape[-2:]) > 0.5
            small = stage.encode(downsample(pictures.to(self.device), stage.size))
            kept.append((small, ~drawn.expand(len(texts), -1, -1, -1)))
        return self._run(texts, generators, settings, callback, _Given(keep=tuple(kept)))

    @torch.no_grad()
    def _run(self, texts: Sequence[Text], generators: Sequence[torch.Generator], settings: dict[str, Any],
             callback: Callable[[CascadePreview], bool | None] | None, given: _Given = _Given(), *, first: int = 0,
             candidates: int = 1, score: Score | None = None) -> list[Tensor]:
        if isinstance(texts, str) or not texts or len(texts) != len(generators):
            raise BadParameter(f"need a list of texts and a generator for each, got {texts!r} and {len(generators)}")
        self.encode(texts)  # all of them at once
        how, last = Sampling.of(settings), len(self.stages) - 1
        # a stream for each stage and candidate, so that a picture's larger stages do not depend on the candidates
        streams = [split(g, last + candidates) for g in generators]
        steps = {k: how.of_stage("steps", k, last + 1) for k in range(first, last + 1)}
        steps[first] = max(1, round(steps[first] * given.strength))
        many = {k: 1 if k else candidates for k in steps}
        total = sum(n * -(-len(texts) * many[k] // self.chunk) for k, n in steps.items())
        watch, out = _Watch(callback, total, self.stages[last].size), []
        for k in steps:
            own = [s for each in streams for s in (each[k - 1:k] if k else each[last:])]
            wanted = [t for t in texts for _ in range(many[k])]
            x = self._draw(k, wanted, own, how, watch, given, steps=steps[k], every=many[k])
            if many[k] > 1:
                scores = score(x * 0.5 + 0.5, wanted).view(-1, candidates)
                first_rows = candidates * torch.arange(len(texts), device=x.device)
                x = x[first_rows + scores.argmax(1).to(x.device)]
            out.append(x)
            given = replace(given, low=x, begin=None, strength=1.0)
        return out

    def _draw(self, k: int, texts: list[Text], streams: list[torch.Generator], how: Sampling, watch: _Watch,
              given: _Given, *, steps: int, every: int) -> Tensor:
        """Sample one stage, a chunk at a time; return (B, 3, size, size) in [-1, 1], what there is if it is stopped."""
        stage, count, conditions = self.stages[k], len(texts), self.encode(texts)
        canvas = torch.zeros(count, 3, stage.size, stage.size, device=self.device)
        if given.low is not None:
            canvas = enlarge(given.low, stage.size).clone()
        for rows in (slice(i, i + self.chunk) for i in range(0, 0 if watch.stopped else count, self.chunk)):
            own, more = streams[rows], {}
            times = torch.ones(len(own), device=self.device)
            if given.low is not None:
                eps, level = noise_for(own, stage.shape).to(self.device), stage.level * times
                low = low_resolution_condition(given.low[rows], stage.size, level, eps, schedule=stage.schedule)
                more = {"low": low, "low_t": level}
            x_t = noise_for(own, stage.shape).to(self.device)
            if given.begin is not None:
                x_t = q_sample(stage.encode(given.begin[rows]), given.strength * times, x_t, schedule=stage.noising)
            keep = tuple(part[rows] for part in given.keep[k]) if given.keep else None
            denoiser = self._denoiser(k, conditions[rows], more, how)
            if how.clip_guidance and k == 0:
                denoiser = how.clip_guidance.steer(denoiser, stage, texts[rows], own, threshold=how.threshold,
                                                   percentile=how.percentile)
            try:
                with runtime.autocast(self.device, self.dtype):  # around all steps: weights are cast once
                    x = walk(denoiser, x_t, stage, how, steps=steps, start=given.strength, streams=own, keep=keep,
                             callback=functools.partial(watch.step, k, stage, canvas, rows, every))
                canvas[rows] = stage.decode(x)
            except _Stopped:
                break
        return canvas

    def _denoiser(self, k: int, conditions: list[TextCondition], more: dict[str, Tensor], how: Sampling):
        stage, count = self.stages[k], len(conditions)
        read = conditions + (self.encode([how.negative]) if how.negative else [])
        tokens = pad_sequence([c.tokens for c in read], batch_first=True)
        mask = torch.arange(tokens.shape[1]) < torch.tensor([len(c.tokens) for c in read])[:, None]
        text = dict(tokens=tokens, mask=mask.to(self.device), pooled=torch.stack([c.pooled for c in read]))
        condition = {name: x[:count] for name, x in text.items()}
        if how.negative:
            nothing = {name: x[count:].expand_as(condition[name]) for name, x in text.items()}
        else:
            drop = torch.ones(count, dtype=torch.bool, device=self.device)
            nothing = dict(zip(condition, stage.network.without_text(*condition.values(), drop), strict=True))

        margin = max(MARGIN, getattr(stage.network, "factor", 1) // 2) if more and stage.size >= 8 * MARGIN else 0

        def network(x_t: Tensor, t: Tensor, given: dict[str, Tensor]) -> Tensor:
            if margin:
                return predict_with_margin(stage.network, x_t, t, margin, **given).float()
            return stage.network(x_t, t, **given).float()

        scale = how.of_stage("guidance_scale", k, len(self.stages))
        return with_guidance(network, condition | more, nothing | more, scale, interval=how.interval)

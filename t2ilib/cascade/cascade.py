"""Draw pictures with a cascade: from words, from a smaller picture, over a picture, or into a part of one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .pictures import core_details, downsample, enlarge, low_resolution_condition, predict_with_margin
from .sampling import Sampling
from .stage import Stage
from .. import runtime
from ..diffusion import (
    Denoiser,
    get_sampler,
    keep_known,
    noise_for,
    q_sample,
    split_generator,
    with_guidance,
)
from ..encoders import TextCondition, TextConditioner, TextEncoder
from ..encoders.choosing import best_candidates
from ..errors import BadParameter
from ..media import to_unit

MARGIN = 8  # pixels around what a super-resolution network sees of pictures of 64 pixels or more

Text = str | TextCondition
Score = Callable[[Tensor, list[Text]], Tensor]  # (pictures (M, 3, H, W) in [0, 1], their M texts) -> (M,)
Callback = Callable[["CascadePreview"], bool | None]


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

    @property
    def is_picture(self) -> bool:
        """Return whether it is worth keeping: what the first network believes in on its way is grey mush."""
        return self.stage > 0 or self.step == self.steps - 1

    def finish(self) -> Tensor:
        """Return what the run would end with now."""
        return self.images


@dataclass(frozen=True)
class _Inputs:
    """What a stage gets beside words.

    Attributes:
        lowres: the smaller pictures (B, 3, h, w). init: pictures (B, 3, H, W) to begin with, noised to time `strength`.
        known: for each stage, what it keeps (B, C, h, w), and where (B, 1, h, w) bool.
    """

    lowres: Tensor | None = None
    init: Tensor | None = None
    strength: float = 1.0
    known: Sequence[tuple[Tensor, Tensor]] | None = None


@dataclass(frozen=True)
class _Part:
    """Pictures of a stage that are drawn alike, from these inputs: so many of each text."""

    drafts: list[int]
    inputs: _Inputs

    def steps(self, of_noise: int) -> int:
        """Return in how many steps it is drawn, where from noise it would be `of_noise`."""
        return max(1, round(of_noise * self.inputs.strength))

    def first_drafts(self) -> dict[int, int]:
        """Return text -> place of its first draft among all drafts, of those texts that have one."""
        places = {}
        place = 0
        for text, count in enumerate(self.drafts):
            if count:
                places[text] = place
            place += count
        return places


class _Stopped(Exception):
    """The callback asked to end."""


class _Progress:
    """Count the steps of a run over all stages and chunks, and tell the callback.

    Args:
        callback: or None. steps: of the whole run. images: what is shown before the first step (B, 3, H, W) in [0, 1].
    """

    def __init__(self, callback: Callback | None, steps: int, images: Tensor):
        self.callback = callback
        self.steps = steps
        self.images = images
        self.done = 0
        self.stopped = False

    def tell(self, stage: int, texts: list[int], pictures: Tensor) -> None:
        """Show the pictures of some texts (n, 3, h, w) in [-1, 1] to the callback, which may ask to stop."""
        self.images[texts] = to_unit(enlarge(pictures, self.images.shape[-1]))
        self.stopped = bool(self.callback(CascadePreview(self.done, self.steps, stage, self.images.clone())))


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

    Raises:
        BadParameter: stages that do not go from small to large, or a chunk below 1.
    """

    def __init__(self, stages: Sequence[Stage], text_encoder: TextEncoder, *, chunk: int = 32,
                 precision: str = "auto"):
        sizes = [stage.size for stage in stages]
        growing = sizes == sorted(set(sizes))
        latents_above = any(stage.space is not None for stage in stages[1:])
        if not stages or not growing or chunk < 1 or latents_above:
            raise BadParameter("need chunk >= 1, and stages from small to large, only the first of which may work with "
                               f"latents; got chunk={chunk}, sizes {sizes}")
        for stage in stages:
            stage.network.eval()
        self.stages = list(stages)
        self.text_encoder = text_encoder
        self.chunk = chunk
        self.device = next(stages[0].network.parameters()).device
        self.dtype = runtime.pick_dtype(self.device, precision)
        self._conditioner = TextConditioner(text_encoder, self.device)

    def encode(self, texts: Sequence[Text]) -> list[TextCondition]:
        """Return what the networks read of each text; each distinct one is encoded once in the cascade's life."""
        return self._conditioner(texts)

    # --- what it can draw ---------------------------------------------------------------------------------------------

    def sample(self, texts: Sequence[Text], *, generators: Sequence[torch.Generator], low: Tensor | None = None,
               candidates: int = 1, score: Score | None = None, redrawn: Sequence[Tensor] | None = None,
               strength: float = 0.6, callback: Callback | None = None, **settings: Any) -> list[Tensor]:
        """Draw a picture for each text.

        Args:
            low: pictures (B, 3, h, w) in [-1, 1] to enlarge, in the place of drawn ones; only the stages larger than
                they are run.
            candidates: small pictures drawn for each text, of which `score` chooses the one that is enlarged.
            redrawn: for each text pictures (R, 3, H, W) in [-1, 1] with R at most `candidates`: its last R candidates
                start from them, noised to the time `strength` in (0, 1], as in `edit`.

        Raises:
            BadParameter: a setting out of range, candidates without a score, or numbers that do not agree.
        """
        if candidates < 1 or (candidates > 1 and (score is None or low is not None)):
            raise BadParameter(f"candidates must be at least 1, and more than one need a score=... that chooses and no "
                               f"low=...; got {candidates}")
        if low is None:
            part = None if redrawn is None else self._to_redraw(redrawn, strength, len(texts), candidates)
            return self._run(texts, generators, settings, callback, _Inputs(), candidates=candidates, score=score,
                             redrawn=part)
        if redrawn is not None:
            raise BadParameter("low=... is enlarged and redrawn=... is where drafts start: give one of them")
        larger = [k for k, stage in enumerate(self.stages) if k and stage.size > max(low.shape[-2:])]
        if not larger or len(low) != len(texts):
            raise BadParameter(f"low must be {len(texts)} pictures smaller than {self.stages[-1].size} pixels, for a "
                               f"cascade of {len(self.stages)} stages; got {tuple(low.shape)}")
        inputs = _Inputs(lowres=low.to(self.device))
        return self._run(texts, generators, settings, callback, inputs, first=larger[0])

    def edit(self, pictures: Tensor, texts: Sequence[Text], *, strength: float,
             generators: Sequence[torch.Generator], callback: Callback | None = None,
             **settings: Any) -> list[Tensor]:
        """Draw pictures (B, 3, H, W) in [-1, 1] anew for their texts (Meng et al. 2022, "SDEdit").

        Args:
            strength: time in (0, 1] to which the first stage noises its small copy; at 1 nothing of it is left.
        """
        part = self._to_redraw(pictures[:, None], strength, len(texts), 1)
        return self._run(texts, generators, settings, callback, part.inputs)

    def inpaint(self, pictures: Tensor, mask: Tensor, texts: Sequence[Text], *,
                generators: Sequence[torch.Generator], callback: Callback | None = None,
                **settings: Any) -> list[Tensor]:
        """Draw the part of pictures where the mask is 1, so that it fits the rest, which is kept in every stage.

        Args:
            pictures: (B, 3, H, W) in [-1, 1] of the last stage's size. mask: (B or 1, 1, H, W), 1 where to draw.
        """
        size = self.stages[-1].size
        sizes = (pictures.shape[-2:], mask.shape[-2:])
        if sizes != ((size, size), (size, size)) or len(pictures) != len(texts):
            raise BadParameter(f"need {len(texts)} pictures and a mask of {size} x {size} pixels, got "
                               f"{tuple(pictures.shape)} and {tuple(mask.shape)}")
        pictures = pictures.to(self.device)
        mask = mask.float().to(self.device)
        known = []
        for stage in self.stages:
            # a pixel of a small stage is kept where nothing of what it stands for is to be drawn
            drawn = F.adaptive_max_pool2d(mask, stage.shape[-2:]) > 0.5
            small = stage.encode(downsample(pictures, stage.size))
            known.append((small, ~drawn.expand(len(texts), -1, -1, -1)))
        return self._run(texts, generators, settings, callback, _Inputs(known=known))

    # --- how it draws -------------------------------------------------------------------------------------------------

    def _to_redraw(self, pictures: Sequence[Tensor], strength: float, texts: int, most: int) -> _Part:
        """Return as a part of the first stage what starts from the pictures (R, 3, H, W) of each text."""
        drafts = [len(own) for own in pictures]
        fits = len(drafts) == texts and all(own.ndim == 4 and len(own) <= most for own in pictures)
        if not 0 < strength <= 1 or not fits or not any(drafts):
            number = "one picture" if most == 1 else f"from 1 to {most} pictures"
            raise BadParameter(f"need strength in (0, 1] and for each text {number}, or none for some, got {strength}, "
                               f"{texts} texts and pictures {[tuple(own.shape) for own in pictures]}")
        small = downsample(torch.cat([own for own in pictures if len(own)]).to(self.device), self.stages[0].size)
        return _Part(drafts, _Inputs(init=small, strength=strength))

    @torch.no_grad()
    def _run(self, texts: Sequence[Text], generators: Sequence[torch.Generator], settings: dict[str, Any],
             callback: Callback | None, inputs: _Inputs, *, first: int = 0, candidates: int = 1,
             score: Score | None = None, redrawn: _Part | None = None) -> list[Tensor]:
        """Run the stages from `first` on, each on what the one before has drawn."""
        if isinstance(texts, str) or not texts or len(texts) != len(generators):
            raise BadParameter(f"need a list of texts and a generator for each, got {texts!r} and {len(generators)}")
        texts = list(texts)
        self.encode(texts)  # all of them in one call
        sampling = Sampling.of(settings)
        streams = _stage_streams(generators, len(self.stages), candidates)
        steps = {k: sampling.steps_of(k, len(self.stages)) for k in range(first, len(self.stages))}
        parts = _parts_of_drafts(inputs, redrawn, len(texts), candidates)
        passes = sum(part.steps(steps[first]) * self._chunks(sum(part.drafts)) for part in parts)
        passes += sum(steps[k] * self._chunks(len(texts)) for k in steps if k > first)
        size = self.stages[-1].size
        grey = torch.full((len(texts), 3, size, size), 0.5, device=self.device)
        progress = _Progress(callback, passes, grey)

        results: list[Tensor] = []
        for k in steps:
            if k > first:
                parts = [_Part([1] * len(texts), replace(inputs, lowres=results[-1], init=None, strength=1.0))]
            pictures = self._draw_parts(k, texts, streams[k], sampling, progress, parts)  # (B, N, 3, size, size)
            candidates_of_text = pictures.shape[1]
            pictures = pictures.flatten(0, 1)
            if candidates_of_text > 1:
                repeated = [text for text in texts for _ in range(candidates_of_text)]
                pictures = best_candidates(pictures, score(to_unit(pictures), repeated), candidates_of_text)
            results.append(pictures)
        return results

    def _chunks(self, pictures: int) -> int:
        """Return in how many batches so many pictures are sampled."""
        return math.ceil(pictures / self.chunk)

    def _draw_parts(self, k: int, texts: list[Text], streams: list[list[torch.Generator]], sampling: Sampling,
                    progress: _Progress, parts: list[_Part]) -> Tensor:
        """Return all pictures of a stage, those of a text next to one another: (B, N, 3, size, size)."""
        drawn: list[list[Tensor]] = [[] for _ in texts]
        before = [0] * len(texts)
        for part in parts:
            repeated = [text for text, n in zip(texts, part.drafts, strict=True) for _ in range(n)]
            generators = []
            for of_text, start, count in zip(streams, before, part.drafts, strict=True):
                generators += of_text[start:start + count]
            pictures = self._draw_stage(k, repeated, generators, sampling, progress, part)
            for of_text, own_pictures in zip(drawn, pictures.split(part.drafts), strict=True):
                of_text.append(own_pictures)
            before = [first + n for first, n in zip(before, part.drafts, strict=True)]
        return torch.stack([torch.cat(of_text) for of_text in drawn])

    def _draw_stage(self, k: int, texts: list[Text], generators: list[torch.Generator], sampling: Sampling,
                    progress: _Progress, part: _Part) -> Tensor:
        """Sample a part of a stage, a chunk at a time.

        Returns:
            (B, 3, size, size) in [-1, 1]; after a stop what there is, the smaller pictures or grey where nothing is.
        """
        stage = self.stages[k]
        inputs = part.inputs
        steps = part.steps(sampling.steps_of(k, len(self.stages)))
        firsts = part.first_drafts()
        if inputs.lowres is None:
            pictures = torch.zeros(len(texts), 3, stage.size, stage.size, device=self.device)
        else:
            pictures = enlarge(inputs.lowres, stage.size).clone()
        if progress.stopped:
            return pictures
        for start in range(0, len(texts), self.chunk):
            rows = slice(start, start + self.chunk)

            def after_step(step: int, x_0: Tensor, rows: slice = rows) -> None:
                if progress.callback is not None:
                    # only the first draft of each text is shown: nothing is decoded of the others
                    places = [place for place in firsts.values() if 0 <= place - rows.start < len(x_0)]
                    shown = [place - rows.start for place in places]
                    pictures[places] = self._finished(k, x_0[shown], inputs, places, sampling)
                    progress.tell(k, list(firsts), pictures[list(firsts.values())])
                progress.done += 1
                if progress.stopped:
                    pictures[rows] = self._finished(k, x_0, inputs, rows, sampling)
                    raise _Stopped

            try:
                x = self._sample_chunk(k, texts[rows], generators[rows], sampling, inputs, rows, steps, after_step)
            except _Stopped:
                break
            pictures[rows] = self._finished(k, x, inputs, rows, sampling)
        return pictures

    def _finished(self, k: int, x: Tensor, inputs: _Inputs, rows: slice | list[int], sampling: Sampling) -> Tensor:
        """Return the pictures of what stage k has drawn of these rows, without the grain that enlarging leaves."""
        pictures = self.stages[k].decode(x).float()
        if inputs.lowres is None:
            return pictures
        cored = core_details(pictures, inputs.lowres[rows].float(), sampling.coring)
        if inputs.known is None:
            return cored
        _, kept = inputs.known[k]
        return torch.where(kept[rows], pictures, cored)

    def _sample_chunk(self, k: int, texts: list[Text], generators: list[torch.Generator], sampling: Sampling,
                      inputs: _Inputs, rows: slice, steps: int, callback: Callable[[int, Tensor], None]) -> Tensor:
        """Return what the network of stage k draws for some of its pictures, (B, C, H, W)."""
        stage = self.stages[k]
        count = len(texts)
        smaller = {}
        if inputs.lowres is not None:
            level = torch.full((count,), stage.level, device=self.device)
            eps = noise_for(generators, stage.shape).to(self.device)
            low = low_resolution_condition(inputs.lowres[rows], stage.size, level, eps, schedule=stage.schedule)
            smaller = {"low": low, "low_t": level}
        x_t = noise_for(generators, stage.shape).to(self.device)
        if inputs.init is not None:
            t = torch.full((count,), inputs.strength, device=self.device)
            x_t = q_sample(stage.encode(inputs.init[rows]), t, x_t, schedule=stage.noising)

        denoiser = self._guided_denoiser(k, self.encode(texts), smaller, sampling)
        if sampling.clip_guidance is not None and k == 0:
            denoiser = sampling.clip_guidance.steer(denoiser, stage, texts, generators, threshold=sampling.threshold,
                                                    percentile=sampling.percentile)
        constrain = None
        if inputs.known is not None:
            known, mask = inputs.known[k]
            own_streams = [split_generator(generator, 1)[0] for generator in generators]
            constrain = keep_known(known[rows], mask[rows], own_streams, schedule=stage.noising)
        threshold = "none" if stage.space is not None else sampling.threshold
        sample = get_sampler(sampling.sampler)
        with runtime.autocast(self.device, self.dtype):  # around all steps: weights are cast once
            return sample(denoiser, x_t, steps=steps, start=inputs.strength, schedule=stage.noising,
                          target=stage.target, generators=generators, threshold=threshold,
                          percentile=sampling.percentile, constrain=constrain, callback=callback)

    def _guided_denoiser(self, k: int, conditions: list[TextCondition], smaller: dict[str, Tensor],
                         sampling: Sampling) -> Denoiser:
        """Return the network of stage k with its texts and classifier-free guidance.

        Args:
            smaller: what a super-resolution network gets of the smaller picture, by argument name; else empty.
        """
        stage = self.stages[k]
        condition, unconditional = self._conditioner.with_and_without(conditions, stage.network, sampling.negative)
        margin = 0
        if smaller and stage.size >= 8 * MARGIN:
            margin = max(MARGIN, getattr(stage.network, "factor", 1) // 2)

        def predict(x_t: Tensor, t: Tensor, condition: dict[str, Tensor]) -> Tensor:
            if margin:
                return predict_with_margin(stage.network, x_t, t, margin, **condition).float()
            return stage.network(x_t, t, **condition).float()

        scale = sampling.scale_of(k, len(self.stages))
        return with_guidance(predict, condition | smaller, unconditional | smaller, scale, interval=sampling.interval)


def _parts_of_drafts(inputs: _Inputs, redrawn: _Part | None, texts: int, candidates: int) -> list[_Part]:
    """Return the parts of the first stage: candidates from `inputs`, and as many as `redrawn` holds from those."""
    if redrawn is None:
        return [_Part([candidates] * texts, inputs)]
    from_inputs = [candidates - count for count in redrawn.drafts]
    return [_Part(from_inputs, inputs), redrawn] if any(from_inputs) else [redrawn]


def _stage_streams(generators: Sequence[torch.Generator], stages: int,
                   candidates: int) -> list[list[list[torch.Generator]]]:
    """Return for each stage the streams of each text: one for each candidate in the first stage, then one.

    The larger stages take theirs first, so that they do not depend on the number of candidates.
    """
    larger = stages - 1
    streams: list[list[list[torch.Generator]]] = [[] for _ in range(stages)]
    for generator in generators:
        parts = split_generator(generator, larger + candidates)
        streams[0].append(parts[larger:])
        for k in range(1, stages):
            streams[k].append([parts[k - 1]])
    return streams

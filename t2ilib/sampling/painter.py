"""From words to pictures: a network draws codes, an autoencoder paints them, guides choose among candidates."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .decoders import PASSES, CodesSoFar, sample_autoregressive, sample_masked
from .evidence import NOISE, CodeEvidence
from .logits import LogitSampling
from .. import runtime
from ..diffusion import split_generator
from ..diffusion.text_guidance import Condition
from ..encoders import TextCondition, TextConditioner, TextEncoder, batch_conditions
from ..encoders.choosing import best_candidates
from ..errors import BadParameter
from ..media import to_unit
from ..models.code_network import CodeAutoencoder, CodeNetwork

Text = str | TextCondition
Score = Callable[[Tensor, list[Text]], Tensor]  # (pictures (M, 3, H, W) in [0, 1], their M texts) -> (M,)


@dataclass(frozen=True)
class CodesPreview:
    """What a callback gets after each pass, or after each row of codes that are drawn one after another.

    `paint()` returns its pictures; who only counts steps does not pay for it.
    """

    step: int
    steps: int
    paint: Callable[[], Tensor]

    @cached_property
    def images(self) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1]; of several candidates the first. What is not drawn yet is white."""
        return self.paint()

    @property
    def is_picture(self) -> bool:
        """Return whether it is worth keeping: what is half drawn is not."""
        return self.step == self.steps - 1

    def finish(self) -> Tensor:
        """Return what the run would end with now."""
        return self.images


@dataclass(frozen=True)
class Painted:
    """What was drawn for B texts.

    Shapes:
        codes: (B, h, w), or (B, N) of several grids one behind the other; pictures: (B, 3, H, W) in [-1, 1]
    """

    codes: Tensor
    pictures: Tensor


@dataclass(frozen=True)
class _Known:
    """What is kept: codes (B, N), where (B, N) bool, and pixels of pictures (B, 3, H, W) where drawn (B, 1, H, W) is 0.

    Pixels are None where the kept codes are to be painted like the others.
    """

    codes: Tensor
    keep: Tensor
    pictures: Tensor | None = None
    drawn: Tensor | None = None


def check_drafts(texts: Sequence[Text], generators: Sequence[torch.Generator], candidates: int,
                 score: Score | None) -> None:
    """Raise BadParameter unless there is a stream for each text, and a score where several candidates are drawn."""
    if isinstance(texts, str) or not texts or len(texts) != len(generators):
        raise BadParameter(f"need a list of texts and a generator for each, got {texts!r} and {len(generators)}")
    if candidates < 1 or (candidates > 1 and score is None):
        raise BadParameter(f"candidates must be at least 1, and more than one need a score=... that chooses; got "
                           f"{candidates}")


class PainterOfCodes:
    """What painters have whose network predicts codes: the networks on one device, and the size of their pictures.

    Args:
        network: has `codes` and `grid`. vqgan: with the codebook that it was trained on.
        text_encoder, chunk, precision: as in `CodePainter`.

    Raises:
        BadParameter: a chunk below 1, or a codebook of another size.
    """

    def __init__(self, network: Any, vqgan: Any, text_encoder: TextEncoder, *, chunk: int, precision: str):
        if chunk < 1:
            raise BadParameter(f"chunk must be at least 1, got {chunk}")
        if len(vqgan.codebook) != network.codes:
            raise BadParameter(f"the network draws from {network.codes} codes, and this {type(vqgan).__name__} has "
                               f"{len(vqgan.codebook)}; take the one whose codes it was trained on")
        self.network = network.eval()
        self.vqgan = vqgan.eval()
        self.text_encoder = text_encoder
        self.chunk = chunk
        self.device = vqgan.codebook.device
        self.dtype = runtime.pick_dtype(self.device, precision)

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width of the pictures."""
        height, width = self.network.grid
        return height * self.vqgan.factor, width * self.vqgan.factor


class CodePainter(PainterOfCodes):
    """A network that predicts codes from words, with the autoencoder that paints them.

    In all its methods, `generators` holds a stream for each picture, on which alone it depends, not on its neighbours;
    `settings` are those of `LogitSampling`; `callback` gets a `CodesPreview` after each step, and ends the run, which
    keeps what it has, by returning true. Texts may be given as conditions from `encode`.

    Args:
        network: causal or not. vqgan: a VQGAN or VQ-VAE with the codebook that the network was trained on. Both on one
            device.
        text_encoder: the frozen one that the network was trained with.
        chunk: pictures drawn in one batch. precision: see `runtime.pick_dtype`; "auto" on a CPU draws one code after
            another in float32, where less would cost more than it saves.

    Raises:
        BadParameter: a chunk below 1, or a codebook of another size.
    """

    def __init__(self, network: CodeNetwork, vqgan: CodeAutoencoder, text_encoder: TextEncoder, *, chunk: int = 32,
                 precision: str = "auto"):
        if precision == "auto" and network.causal and vqgan.codebook.device.type == "cpu":
            precision = "float32"
        super().__init__(network, vqgan, text_encoder, chunk=chunk, precision=precision)
        self._conditioner = TextConditioner(text_encoder, self.device)
        self._blank: Tensor | None = None

    def encode(self, texts: Sequence[Text]) -> list[TextCondition]:
        """Return what the network reads of each text; each distinct one is encoded once in the painter's life."""
        return self._conditioner(texts)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Return pictures (B, 3, H, W) in [-1, 1] of codes (B, N), a chunk at a time."""
        pictures = []
        for part in codes.split(self.chunk):
            pictures.append(self.vqgan.decode_codes(*self._grids_of(part)).float().clamp(-1, 1))
        return torch.cat(pictures)

    def _grids_of(self, codes: Tensor) -> list[Tensor]:
        """Return codes (B, N) as grids (B, h, w)."""
        shapes = self.network.grids
        parts = codes.split([height * width for height, width in shapes], dim=1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]

    # --- what it can draw ---------------------------------------------------------------------------------------------

    def sample(self, texts: Sequence[Text], *, generators: Sequence[torch.Generator],
               redrawn: Sequence[Tensor] | None = None, noise: float = NOISE, **drawing: Any) -> Painted:
        """Draw a picture for each text.

        Args:
            redrawn: for each text pictures (R, 3, H, W) in [-1, 1] of any size, with R at most `candidates`: its last R
                candidates are redrawn from them, seen through `noise`, see `CodeEvidence`.
            drawing: `steps`, `candidates`, `score`, `negative`, `callback` as in `_run`, and settings.

        Raises:
            BadParameter: a setting out of range, or numbers that do not agree.
        """
        evidence = None
        if redrawn is not None:
            evidence = self._evidence(redrawn, noise, len(texts), drawing.get("candidates", 1))
        return self._run(texts, generators, None, evidence=evidence, **drawing)

    def edit(self, pictures: Tensor, texts: Sequence[Text], *, strength: float,
             generators: Sequence[torch.Generator], **drawing: Any) -> Painted:
        """Draw a share of the codes of pictures (B, 3, H, W) in [-1, 1] anew.

        Args:
            strength: the share in (0, 1]. A causal network keeps the upper codes of each grid, another one codes here
                and there.
        """
        self._check_pictures(pictures, texts)
        if not 0 < strength <= 1:
            raise BadParameter(f"strength must be in (0, 1], got {strength}")
        codes = self._encode_pictures(pictures)
        if self.network.causal:
            uppers = []
            for height, width in self.network.grids:
                places = torch.arange(height * width)
                uppers.append(places < round((1 - strength) * len(places)))
            keep = torch.cat(uppers).expand(codes.shape)  # (B, N)
        else:
            noise = torch.stack([torch.rand(codes.shape[1], generator=g) for g in generators])
            order = noise.argsort(dim=1).argsort(dim=1)
            keep = order < round((1 - strength) * self.network.places)
        keep = keep.to(self.device)
        return self._run(texts, generators, _Known(codes, keep), **drawing)

    def inpaint(self, pictures: Tensor, mask: Tensor, texts: Sequence[Text], *,
                generators: Sequence[torch.Generator], **drawing: Any) -> Painted:
        """Draw the part of pictures where the mask is 1, so that it fits the rest, whose pixels are kept.

        Args:
            pictures: (B, 3, H, W) in [-1, 1]. mask: (1, 1, H, W), 1 where to draw. A causal network needs a mask that
                leaves whole rows of codes at the top, since it sees nothing else.
        """
        self._check_pictures(pictures, texts)
        if tuple(mask.shape) != (1, 1, *self.size):
            raise BadParameter(f"need a mask of {self.size[0]} x {self.size[1]} pixels, got {tuple(mask.shape)}")
        mask = mask.to(self.device).float()
        # a code is drawn where any of its pixels is to be drawn
        cells = [F.adaptive_max_pool2d(mask, shape).flatten() > 0 for shape in self.network.grids]  # (h w,) each
        codes = self._encode_pictures(pictures)
        keep = ~torch.cat(cells).expand(codes.shape)  # (B, N)
        known = _Known(codes, keep, pictures.to(self.device), mask.expand(len(pictures), -1, -1, -1))
        return self._run(texts, generators, known, **drawing)

    # --- how it draws -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _run(self, texts: Sequence[Text], generators: Sequence[torch.Generator], known: _Known | None, *,
             evidence: CodeEvidence | None = None, steps: int = PASSES, candidates: int = 1, score: Score | None = None,
             negative: str | None = None, callback: Callable[[CodesPreview], bool | None] | None = None,
             **settings: Any) -> Painted:
        """Draw candidates of all texts, a chunk at a time, and return the best of each.

        Args:
            evidence: of all candidates.
            steps: passes of masked decoding; a causal network has as many as there are codes.
            candidates: pictures drawn of each text, of which `score` chooses one.
            negative: a text to be guided away from, in the place of no text.
        """
        check_drafts(texts, generators, candidates, score)
        sampling = LogitSampling.of(settings)
        streams = [stream for generator in generators for stream in split_generator(generator, candidates)]
        conditions = self.encode(texts)
        rows = torch.arange(len(texts)).repeat_interleave(candidates)  # the text of each draft
        drafts = _Drafts(self, len(rows), candidates, steps, known, callback)
        for part in torch.arange(len(rows)).split(self.chunk):
            if drafts.stopped:
                break
            condition, unconditional = self._conditions([conditions[i] for i in rows[part]], sampling, negative)
            of_part = None if known is None else _Known(known.codes[rows[part]], known.keep[rows[part]])
            with runtime.autocast(self.device, self.dtype):
                codes = self._decode(condition, unconditional, [streams[i] for i in part], sampling, steps, of_part,
                                     None if evidence is None else evidence.of(part),
                                     lambda so_far, part=part: drafts.tell(part, so_far))
            drafts.finish(part, codes)
        codes = drafts.codes
        pictures = drafts.paint(codes)
        if candidates > 1:
            scores = score(to_unit(pictures), [texts[i] for i in rows])
            codes = best_candidates(codes, scores, candidates)
            pictures = best_candidates(pictures, scores, candidates)
        if len(self.network.grids) == 1:
            codes = codes.unflatten(1, self.network.grid)
        return Painted(codes, pictures)

    def _decode(self, condition: Condition, unconditional: Condition | None, generators: list[torch.Generator],
                sampling: LogitSampling, steps: int, known: _Known | None, evidence: CodeEvidence | None,
                callback: Callable[[CodesSoFar], bool | None]) -> Tensor:
        """Return the codes of some drafts, (B, N)."""
        if self.network.causal:
            upper = None if known is None else self._upper_codes(known)
            codes = None if known is None else known.codes
            return sample_autoregressive(self.network, condition, unconditional, generators=generators,
                                         sampling=sampling, known=codes, keep=upper, evidence=evidence,
                                         callback=callback)
        codes = None if known is None else known.codes
        keep = None if known is None else known.keep
        return sample_masked(self.network, condition, unconditional, generators=generators, passes=steps,
                             sampling=sampling, known=codes, keep=keep, evidence=evidence, callback=callback)

    def _evidence(self, redrawn: Sequence[Tensor], noise: float, texts: int, candidates: int) -> CodeEvidence:
        """Return what is known of all drafts: the drawings of each text, at its last candidates."""
        counts = [len(pictures) for pictures in redrawn]
        fits = len(counts) == texts and all(own.ndim == 4 and len(own) <= candidates for own in redrawn)
        if not fits or not any(counts):
            raise BadParameter(f"redrawn must hold for each of {texts} texts at most {candidates} pictures, as many as "
                               f"there are candidates, or none for some; got {[tuple(own.shape) for own in redrawn]}")
        observed = torch.zeros(texts, candidates, dtype=torch.bool)
        for i, count in enumerate(counts):
            observed[i, candidates - count:] = True
        observed = observed.flatten().to(self.device)  # (M,)
        resized = [F.interpolate(own.to(self.device), self.size, mode="bicubic", antialias=True)
                   for own in redrawn if len(own)]
        pictures = torch.cat(resized).clamp(-1, 1)
        codes = torch.zeros(len(observed), self.network.places, dtype=torch.long, device=self.device)
        codes[observed] = torch.cat([self._encode_pictures(part) for part in pictures.split(self.chunk)])
        vectors = self.vqgan.embed_codes(*self._grids_of(codes))  # (M, D, h, w) of each grid
        if isinstance(vectors, Tensor):
            vectors = (vectors,)
        return CodeEvidence(self.vqgan.codebooks, vectors, observed, noise)

    def _conditions(self, conditions: list[TextCondition], sampling: LogitSampling,
                    negative: str | None) -> tuple[Condition, Condition | None]:
        """Return what the network reads with the texts and without them; None where there is no guidance."""
        if sampling.guidance_scale == 1:
            return batch_conditions(conditions), None
        return self._conditioner.with_and_without(conditions, self.network, negative)

    @torch.no_grad()
    def _encode_pictures(self, pictures: Tensor) -> Tensor:
        """Return the codes (B, N) of pictures."""
        grids = self.vqgan.encode_codes(pictures.to(self.device))
        if isinstance(grids, Tensor):
            grids = (grids,)
        return torch.cat([grid.flatten(1) for grid in grids], dim=1)

    def _upper_codes(self, known: _Known) -> Tensor:
        """Return where codes are kept, (N,), if they are the first ones of every grid of every picture.

        Raises:
            BadParameter: others are kept, which a causal network would not see.
        """
        keep = known.keep
        is_upper = bool((keep == keep[0]).all())
        for part in self._grids_of(keep):
            flat = part[0].flatten()
            first = torch.arange(len(flat), device=flat.device) < flat.sum()
            is_upper = is_upper and torch.equal(flat, first)
        if not is_upper:
            raise BadParameter("a network that draws one code after another completes only what lies below whole rows; "
                               "give a mask such as [0, 0.5, 1, 1], or take a masked network")
        return keep[0]

    def blank_codes(self) -> Tensor:
        """Return the codes (N,) of a white picture, which stand for what is not drawn yet."""
        if self._blank is None:
            self._blank = self._encode_pictures(torch.ones(1, 3, *self.size))[0]
        return self._blank

    def _check_pictures(self, pictures: Tensor, texts: Sequence[Text]) -> None:
        if tuple(pictures.shape) != (len(texts), 3, *self.size):
            raise BadParameter(f"need {len(texts)} pictures of {self.size[0]} x {self.size[1]} pixels, got "
                               f"{tuple(pictures.shape)}")


class _Drafts:
    """All drafts of a run: their codes so far, and what the callback sees of them."""

    def __init__(self, painter: CodePainter, count: int, candidates: int, passes: int, known: _Known | None,
                 callback: Callable[[CodesPreview], bool | None] | None):
        self.painter = painter
        self.candidates = candidates
        self.known = known
        self.callback = callback
        self.causal = painter.network.causal
        self.row_ends = _row_ends(painter.network.grids)
        steps = len(self.row_ends) if self.causal else passes
        self.steps = steps * math.ceil(count / painter.chunk)
        self.codes = painter.blank_codes().expand(count, -1).clone()  # (count, N)
        self.chunks_done = 0
        self.steps_of_chunk = steps
        self.stopped = False

    def tell(self, part: Tensor, so_far: CodesSoFar) -> bool:
        """Show what there is to the callback; return whether to stop."""
        step = so_far.step
        if self.callback is None or (self.causal and step not in self.row_ends):
            return False
        if self.causal:
            step = self.row_ends[step]
        self._keep(part, so_far)
        first_drafts = self.codes[::self.candidates].clone()
        step += self.chunks_done * self.steps_of_chunk
        preview = CodesPreview(step, self.steps, lambda: to_unit(self.paint(first_drafts)))
        self.stopped = bool(self.callback(preview))
        return self.stopped

    def _keep(self, part: Tensor, so_far: CodesSoFar) -> None:
        codes = so_far.codes
        if self.causal:
            codes = torch.where(so_far.decided, codes, self.painter.blank_codes())
        self.codes[part] = codes

    def finish(self, part: Tensor, codes: Tensor) -> None:
        """Keep the codes of a chunk that is drawn."""
        if not self.stopped:
            self.codes[part] = codes
        self.chunks_done += 1

    def paint(self, codes: Tensor) -> Tensor:
        """Return the pictures of codes (B, N), as many of each text, with the pixels that are kept."""
        pictures = self.painter.decode(codes)
        if self.known is None or self.known.pictures is None:
            return pictures
        repeats = len(codes) // len(self.known.pictures)
        original = self.known.pictures.repeat_interleave(repeats, 0)
        return torch.lerp(original, pictures, self.known.drawn.repeat_interleave(repeats, 0))


def _row_ends(grids: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Return the place of the last code of each row of all grids, and the row's number."""
    ends: dict[int, int] = {}
    place = -1
    for height, width in grids:
        for _ in range(height):
            place += width
            ends[place] = len(ends)
    return ends

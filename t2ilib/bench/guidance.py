"""VQGAN+CLIP: our guidance step against the classic loop, and what each lever gives."""

import contextlib
import copy
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .classic import ClassicLoop, classic_clip, classic_decoder, one_hot_quantise
from .measure import Row, _row, _wait, measure, tf32
from ..encoders.clip import Clip
from ..encoders.foreign import build, model_config
from ..guidance import CutoutParameters, GuidanceConfig, Guides, Painter, apply_cutouts, clamp_with_grad, fast
from ..guidance.search import Search
from ..guidance.setup import prepare_run
from ..guidance.starts import make_starts
from ..media import to_unit
from ..memory import LiveBytes
from ..models.vqgan import VQGAN
from ..runtime import autocast, generator, pick_dtype

PROMPT = "a red heart"
NOISE = 0.1  # largest standard deviation on a cutout, as the classic loop has it
CPU_SHAPES = ((128, 8), (256, 16))  # picture side, cutouts; what two cores do in a few minutes
CUDA_SHAPES = tuple((side, n) for side in (256, 400, 512) for n in (32, 64))
CPU_ABLATION, CUDA_ABLATION = (128, 8), (512, 32)  # where every lever is switched off in turn
Step = Callable[[], object]


def random_networks(device: torch.device, **changes) -> tuple[VQGAN, Clip]:
    """Return the published f16 VQGAN with 16384 codes and ViT-B/32, frozen, with random weights.

    Args:
        changes: of the VQGAN's arguments.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vqgan = VQGAN(**{"n_embed": 16384, **changes})
        nn.init.normal_(vqgan.quantize.embedding.weight)
        model = build(model_config("ViT-B-32"), quick_gelu=True, precision="fp32")

    def tokens(texts: list[str]) -> Tensor:
        return torch.randint(1, 40000, (len(texts), 77), generator=generator(0, "bench", *texts))

    clip = Clip(model, tokens, name="ViT-B-32, random weights", dim=512, image_size=224,
                mean=[0.481, 0.458, 0.408], std=[0.269, 0.261, 0.276])
    return vqgan.to(device).eval().requires_grad_(False), clip.to(device).eval().requires_grad_(False)


def classic_loop(vqgan: VQGAN, clip: Clip, side: int, cutouts: int) -> ClassicLoop:
    """Return the classic loop on these networks (the guide already as `classic_clip` makes it)."""
    return ClassicLoop(classic_decoder(vqgan), vqgan.codebook, clip.encode_image, clip.encode_text([PROMPT]),
                       size=(side // vqgan.factor,) * 2, num_cutouts=cutouts, cut_size=clip.image_size)


def guidance_step(vqgan, clip, side: int, cutouts: int, *, dtype: torch.dtype, augmentations: str = "none",
                  one_hot: bool = False, one_by_one: bool = False) -> Step:
    """Return a function that makes one step of our loop, the very step of `vqgan_clip`.

    Args:
        augmentations: "none" is what the classic loop does: crops and noise. one_hot, one_by_one: quantise and cut as
            the classic loop does, everything else as ours.
    """
    config = GuidanceConfig(PROMPT, width=side, height=side, num_cutouts=cutouts, augmentations=augmentations,
                            noise=NOISE, precision=str(dtype).removeprefix("torch."))
    run = prepare_run(config, vqgan, clip)
    if one_hot:
        run = dataclasses.replace(run, painter=_OneHotPainter(config, vqgan, run.seeds, dtype))
    if one_by_one:
        guides = _OneByOneGuides(run.guides.clips, run.guides.shares, run.prompts, dtype)
        run = dataclasses.replace(run, guides=guides)
    z_start, _ = make_starts(run, None)
    return Search(run, z_start).step


class _OneHotPainter(Painter):
    """Quantises as the classic loop does."""

    def decode(self, z: Tensor) -> Tensor:
        with autocast(z.device, self.dtype):
            decoded = self.vqgan.decode(one_hot_quantise(z, self.vqgan.codebook))
        return clamp_with_grad(to_unit(decoded.float()))


class _OneByOneGuides(Guides):
    """Cuts one cutout after the other, as the classic loop does."""

    def embed(self, images: Tensor, cutouts: CutoutParameters) -> list[Tensor]:
        (clip,) = self.clips
        views = torch.cat([apply_cutouts(images, p, clip.image_size) for p in _single(cutouts)], dim=1)
        with autocast(images.device, self.dtype):
            features = clip.encode_image(views.flatten(0, 1))
        return [F.normalize(features.float(), dim=-1)[None]]


def _single(parameters: CutoutParameters) -> list[CutoutParameters]:
    """Return the parameters of each cutout alone."""
    fields = {f.name: v for f in dataclasses.fields(parameters) if isinstance(v := getattr(parameters, f.name), Tensor)}
    return [dataclasses.replace(parameters, **{k: v[:, i:i + 1] for k, v in fields.items()})
            for i in range(parameters.matrix.shape[1])]


def _own_networks(vqgan: VQGAN, clip: Clip) -> tuple[VQGAN, Clip]:
    """Copy what a step runs, so that it can be put into a state of its own; the rest is shared."""
    shared = [vqgan.encoder, vqgan.quantize, clip.model.transformer, clip.model.token_embedding]
    return copy.deepcopy((vqgan, clip), {id(m): m for m in shared})


def _bytes(*networks, device: torch.device) -> int:
    tensors = [t for n in networks for t in [*n.parameters(), *n.buffers()] if t.device.type == device.type]
    return sum({t.untyped_storage().data_ptr(): t.nbytes for t in tensors}.values())


def peak_mib(step: Step, weights: int, device: torch.device) -> float:
    """Return MiB at the peak of one step: weights, and on CUDA what torch allocates, elsewhere what tensors hold."""
    if device.type == "cuda":
        step()  # what libraries allocate once belongs to nobody
        _wait(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        _wait(device)
        return (weights + torch.cuda.max_memory_allocated(device) - before) / 2**20
    with LiveBytes() as live:
        step()
    return (weights + live.peak) / 2**20


class _Contest:
    """The providers of one picture size, each with its own networks, state and memory."""

    def __init__(self, vqgan: VQGAN, clip: Clip, side: int, cutouts: int, stack: contextlib.ExitStack):
        self.base, self.side, self.cutouts, self.stack = (vqgan, clip), side, cutouts, stack
        self.device = vqgan.codebook.device
        self.dtype = pick_dtype(self.device)
        self.least = 5 if self.device.type == "cuda" else 3  # a step takes seconds on a CPU
        self.full = _bytes(vqgan, clip, device=self.device)
        self.steps: dict[str, Step] = {}
        self.weights: dict[str, int] = {}
        self.warm_up: dict[str, float] = {}
        self.entering: list[tuple] = []

    def classic(self) -> None:
        vqgan, clip = self.base[0], classic_clip(self.base[1])
        self.steps["classic"] = classic_loop(vqgan, clip, self.side, self.cutouts).step
        self.weights["classic"] = _bytes(vqgan, clip, device=self.device)

    def ours(self, name: str, *, dtype: torch.dtype | None = None, state: dict | None = None, **options) -> None:
        """Add our step under `name`; `state` goes to `fast`, None leaves the networks as they were loaded."""
        networks, dtype = _own_networks(*self.base), dtype or self.dtype
        self.steps[name] = guidance_step(*networks, self.side, self.cutouts, dtype=dtype, **options)
        self.entering.append((name, networks, dtype, state))

    def _enter(self, name: str, networks: tuple[VQGAN, Clip], dtype: torch.dtype, state: dict | None) -> None:
        if state is not None:
            self.stack.enter_context(fast(*networks, dtype=dtype, **state))
        # networks as loaded keep all they have, though another provider may have parked what they share
        self.weights[name] = self.full if state is None else _bytes(*networks, device=self.device)
        if dtype != torch.float32 and self.device.type == "cpu":  # here the exact weights wait in the same memory
            self.weights[name] += 2 * sum(p.nbytes for n in networks for p in n.parameters() if p.dtype == dtype)
        if state and state.get("compile"):
            self.warm_up[name] = _seconds(self.steps[name], self.device)

    def rows(self, seconds: float) -> Iterator[Row]:
        for each in self.entering:  # after all prompts are embedded: text towers are shared, and parked by the first
            self._enter(*each)
        shape, dtype = f"{self.side} px, {self.cutouts} cutouts", _precision(self.device, self.dtype)
        peaks = {name: peak_mib(step, self.weights[name], self.device) for name, step in self.steps.items()}
        timed = measure("vqgan_clip", self.steps, baseline="classic", mode="step", shape=shape, dtype=dtype,
                        device=self.device, seconds=seconds, least=self.least)
        yield from (row for row in timed if row.metric == "ms")
        where = "peak allocated" if self.device.type == "cuda" else "peak of tensors"
        for name, peak in peaks.items():
            yield _row("vqgan_clip", name, where, shape, dtype, "MiB", [peak] * 3, peaks["classic"] / peak, self.device)
        for name, value in self.warm_up.items():
            yield _row("vqgan_clip", name, "compilation", shape, dtype, "s", [value] * 3, 1.0, self.device)


def _seconds(step: Step, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - start


def _precision(device: torch.device, dtype: torch.dtype) -> str:
    """Say which precision the providers have, and where float32 products may be rounded to TF32."""
    ours = f"ours {str(dtype).removeprefix('torch.')} unless named"
    if device.type != "cuda":
        return f"classic float32; {ours}"
    return f"classic float32 with CLIP in float16; {ours}{tf32(device)}"


def vqgan_clip_rows(device: torch.device, seconds: float, *, shapes: Sequence[tuple[int, int]] | None = None,
                    ablation: tuple[int, int] | None = None, networks: tuple[VQGAN, Clip] | None = None
                    ) -> Iterator[Row]:
    """Time and memory of one step against the classic loop's, full-size networks, and with single levers off.

    Args:
        shapes: (side in pixels, cutouts) to measure. ablation: the shape at which levers are switched off.
        networks: other ones than `random_networks`.
    """
    small = device.type != "cuda"  # a CPU takes minutes to compile what it would need hours to win back
    shapes = shapes or (CPU_SHAPES if small else CUDA_SHAPES)
    ablation = ablation or (CPU_ABLATION if small else CUDA_ABLATION)
    vqgan, clip = networks or random_networks(device)
    drop = {"drop_encoder": True, "drop_text": True}
    for side, cutouts in shapes:
        with contextlib.ExitStack() as stack:
            contest = _Contest(vqgan, clip, side, cutouts, stack)
            contest.classic()
            contest.ours("ours", state=drop)
            if not small:
                contest.ours("ours, compiled", state={**drop, "compile": True})
            if (side, cutouts) == tuple(ablation):
                _switch_off(contest, drop)
            yield from contest.rows(seconds)


def _switch_off(contest: _Contest, drop: dict) -> None:
    """Add our step with one lever off at a time, and with the augmentations it has by default."""
    contest.ours("ours, networks as loaded")
    contest.ours("ours, channels first", state={**drop, "channels_last": False})
    contest.ours("ours, cutouts one by one", state=drop, one_by_one=True)
    contest.ours("ours, one-hot codes", state=drop, one_hot=True)
    if contest.dtype != torch.float32:
        contest.ours("ours, float32", state=drop, dtype=torch.float32)
    contest.ours("ours, checkpointed", state={**drop, "checkpoint": True})
    contest.ours("ours, augmented", state=drop, augmentations="plain")

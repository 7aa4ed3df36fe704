"""VQGAN+CLIP: our guidance step against the classic loop, and what each lever gives."""

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .classic import ClassicLoop, classic_clip, classic_decoder, one_hot_quantise
from .measure import Contest, Row, precision, short_name
from .memory import Work, held_mib
from ..encoders.clip import Clip
from ..encoders.open_clip_checkpoints import build, model_config
from ..guidance import CutoutParameters, GuidanceConfig, Guides, Painter, apply_cutouts, clamp_with_grad, fast
from ..guidance.search import Search
from ..guidance.setup import prepare_run
from ..guidance.starts import make_starts
from ..media import to_unit
from ..models.sizes import VQGAN as VQGAN_SIZES
from ..models.vqgan import VQGAN
from ..runtime import autocast, generator, pick_dtype

PROMPT = "a red heart"
NOISE = 0.1  # largest standard deviation on a cutout, as the classic loop has it
CPU_SHAPES = ((128, 8), (256, 16))  # picture side, cutouts; what two cores do in a few minutes
CUDA_SHAPES = tuple((side, n) for side in (256, 400, 512) for n in (32, 64))
CPU_ABLATION = (128, 8)  # where every lever is switched off in turn
CUDA_ABLATION = (512, 32)
EXACT = torch.float32
DROP = {"drop_encoder": True, "drop_text": True}
Networks = tuple[VQGAN, Clip]


@dataclass(frozen=True)
class Variant:
    """One way to make the same step.

    Attributes:
        classic: the classic loop, else ours.
        dtype: of autocast.
        state: the networks' state, as arguments of `fast`; None leaves them as they were loaded.
        step: further arguments of `guidance_step`.
        resident: the memory of a whole process is measured too.
    """

    name: str
    classic: bool = False
    dtype: torch.dtype = EXACT
    state: dict[str, Any] | None = None
    step: dict[str, Any] = field(default_factory=dict)
    resident: bool = False


def variants(device: torch.device, *, levers: bool) -> list[Variant]:
    """Return what is measured: the classic loop and ours, at equal precision and at lower, and single levers off."""
    lowest = pick_dtype(device)
    classic = Variant("classic", classic=True, resident=True)
    ours = Variant("ours", dtype=lowest, state=DROP, resident=True)
    found = [classic, ours]
    if lowest != EXACT:
        found.append(replace(classic, name=f"classic, {short_name(lowest)}", dtype=lowest))
        found.append(replace(ours, name="ours, float32", dtype=EXACT))
    lever = replace(ours, resident=False)
    if device.type == "cuda":  # a CPU takes minutes to compile what it would need hours to win back
        found.append(replace(lever, name="ours, compiled", state={**DROP, "compile": True}))
    if levers:
        found += [replace(lever, name="ours, networks as loaded", state=None),
                  replace(lever, name="ours, channels first", state={**DROP, "channels_last": False}),
                  replace(lever, name="ours, cutouts one by one", step={"one_by_one": True}),
                  replace(lever, name="ours, one-hot codes", step={"one_hot": True}),
                  replace(lever, name="ours, checkpointed", state={**DROP, "checkpoint": True}),
                  replace(lever, name="ours, augmented", step={"augmentations": "plain"})]
    return found


def random_networks(device: torch.device, **changes) -> Networks:
    """Return the published f16 VQGAN with 16384 codes and ViT-B/32, frozen, with random weights.

    Args:
        changes: of the VQGAN's arguments.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vqgan = VQGAN(**{**VQGAN_SIZES["f16"], **changes})
        nn.init.normal_(vqgan.quantize.embedding.weight)
        model = build(model_config("ViT-B-32"), quick_gelu=True, precision="fp32")

    def tokens(texts: list[str]) -> Tensor:
        return torch.randint(1, 40000, (len(texts), 77), generator=generator(0, "bench", *texts))

    clip = Clip(model, tokens, name="ViT-B-32, random weights", dim=512, image_size=224,
                mean=[0.481, 0.458, 0.408], std=[0.269, 0.261, 0.276])
    return vqgan.to(device).eval().requires_grad_(False), clip.to(device).eval().requires_grad_(False)


def classic_loop(vqgan: VQGAN, clip: Clip, side: int, cutouts: int, *, dtype: torch.dtype = EXACT) -> ClassicLoop:
    """Return the classic loop on these networks (the guide already as `classic_clip` makes it).

    Args:
        dtype: of autocast around both networks; the public tools have none.
    """
    size = side // vqgan.factor
    decode = _under_autocast(classic_decoder(vqgan), dtype)
    encode = _under_autocast(clip.encode_image, dtype)
    return ClassicLoop(decode, vqgan.codebook, encode, clip.encode_text([PROMPT]), size=(size, size),
                       num_cutouts=cutouts, cut_size=clip.image_size)


def _under_autocast(function: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    if dtype == EXACT:
        return function

    def run(x: Tensor) -> Tensor:
        with autocast(x.device, dtype):
            return function(x).float()

    return run


def guidance_step(vqgan, clip, side: int, cutouts: int, *, dtype: torch.dtype, augmentations: str = "none",
                  one_hot: bool = False, one_by_one: bool = False) -> Work:
    """Return a function that makes one step of our loop, the very step of `vqgan_clip`.

    Args:
        augmentations: "none" is what the classic loop does: crops and noise. one_hot, one_by_one: quantise and cut as
            the classic loop does, everything else as ours.
    """
    config = GuidanceConfig(PROMPT, width=side, height=side, num_cutouts=cutouts, augmentations=augmentations,
                            noise=NOISE, precision=short_name(dtype))
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
        views = [apply_cutouts(images, single, clip.image_size) for single in _each_alone(cutouts)]
        views = torch.cat(views, dim=1)  # (1, n, 3, S, S)
        with autocast(images.device, self.dtype):
            features = clip.encode_image(views.flatten(0, 1))
        return [F.normalize(features.float(), dim=-1)[None]]


def _each_alone(cutouts: CutoutParameters) -> list[CutoutParameters]:
    """Return the parameters of each cutout alone."""
    values = {field.name: getattr(cutouts, field.name) for field in dataclasses.fields(cutouts)}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    singles = []
    for i in range(cutouts.matrix.shape[1]):
        changes = {name: value[:, i:i + 1] for name, value in tensors.items()}
        singles.append(replace(cutouts, **changes))
    return singles


def copy_networks(vqgan: VQGAN, clip: Clip) -> Networks:
    """Copy what a step runs, so that it can be put into a state of its own; the rest is shared."""
    shared = [vqgan.encoder, vqgan.quantize, clip.model.transformer, clip.model.token_embedding]
    return copy.deepcopy((vqgan, clip), {id(module): module for module in shared})


def make_step(variant: Variant, networks: Networks, side: int, cutouts: int) -> Work:
    """Return a function that makes one step of a variant, on networks of its own; a classic guide is copied here."""
    vqgan, clip = networks
    if variant.classic:
        return classic_loop(vqgan, classic_clip(clip), side, cutouts, dtype=variant.dtype).step
    return guidance_step(vqgan, clip, side, cutouts, dtype=variant.dtype, **variant.step)


def two_steps(variant: Variant, side: int, cutouts: int) -> None:
    """Build one variant on the CPU and make two steps: what a process of its own does, whose memory is measured."""
    networks = random_networks(torch.device("cpu"))
    step = make_step(variant, networks, side, cutouts)
    if variant.classic:
        networks[0].decoder = nn.Identity()  # taming's took its place
        networks = networks[:1]
    state = contextlib.nullcontext()
    if variant.state is not None:
        state = fast(*networks, dtype=variant.dtype, **variant.state)
    with state:
        step()
        step()


def step_rows(found: Sequence[Variant], base: Networks, side: int, cutouts: int, seconds: float, *,
              resident: bool) -> Iterator[Row]:
    """Time and memory of all variants at one shape; each of ours has networks of its own, in a state of its own."""
    device = base[0].codebook.device
    contest = Contest("vqgan_clip", f"{side} px, {cutouts} cutouts", device)
    full = held_mib(*base, device=device)
    networks = {variant.name: base if variant.classic else copy_networks(*base) for variant in found}
    # all prompts are embedded before the first variant may move the text towers, which all share
    steps = {variant.name: make_step(variant, networks[variant.name], side, cutouts) for variant in found}
    with contextlib.ExitStack() as stack:
        for variant in found:
            held = full
            if variant.state is not None:
                stack.enter_context(fast(*networks[variant.name], dtype=variant.dtype, **variant.state))
                held = _held_mib(networks[variant.name], variant.dtype)
            compiled = variant.state is not None and "compile" in variant.state
            contest.add(variant.name, steps[variant.name], dtype=_precision(variant, device), held=held,
                        compiled=compiled)
        yield from contest.time_rows("step", seconds, least=5 if device.type == "cuda" else 3)
        yield from contest.memory_rows()
        yield from contest.compilation_rows()
    if resident:
        processes = {v.name: (two_steps, (v, side, cutouts)) for v in found if v.resident}
        yield from contest.resident_rows(processes)


def _held_mib(networks: Networks, dtype: torch.dtype) -> float:
    """Return MiB of the networks in their fast state; on a CPU the exact weights stay in the same memory."""
    device = networks[0].codebook.device
    found = held_mib(*networks, device=device)
    if dtype != EXACT and device.type == "cpu":
        cast = [p.nbytes for network in networks for p in network.parameters() if p.dtype == dtype]
        found += 2 * sum(cast) / 2**20
    return found


def _precision(variant: Variant, device: torch.device) -> str:
    name = precision(variant.dtype, device)
    if variant.classic and variant.dtype == EXACT and device.type == "cuda":
        return f"CLIP float16, {name}"
    return name


def vqgan_clip_rows(device: torch.device, seconds: float, *, shapes: Sequence[tuple[int, int]] | None = None,
                    ablation: tuple[int, int] | None = None, networks: Networks | None = None) -> Iterator[Row]:
    """Time and memory of one step against the classic loop's, full-size networks, and with single levers off.

    Args:
        shapes: (side in pixels, cutouts) to measure. ablation: the shape at which levers are switched off.
        networks: other ones than `random_networks`, with which alone the memory of whole processes is measured too,
            on a CPU.
    """
    on_gpu = device.type == "cuda"
    shapes = shapes or (CUDA_SHAPES if on_gpu else CPU_SHAPES)
    ablation = ablation or (CUDA_ABLATION if on_gpu else CPU_ABLATION)
    resident = networks is None and not on_gpu
    base = networks or random_networks(device)
    for side, cutouts in shapes:
        found = variants(device, levers=(side, cutouts) == tuple(ablation))
        yield from step_rows(found, base, side, cutouts, seconds, resident=resident)

"""MinImagen: our training step and our sampler against the public package's, and what each lever gives."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .classic_imagen import STEPS, ClassicImagen
from .imagen_training import training_rows
from .imagen_variants import BATCHES, CPU_SHAPES, CUDA_SHAPES, Material, Shape, Variant, variants
from .measure import Contest, Row, precision, short_name
from .memory import Work
from ..cascade import Cascade, Stage, TextCondition, downsample
from ..data import load_captioned
from ..data.captions import captions_for
from ..encoders import load_text_encoder
from ..runtime import generator

SAMPLED = 4  # pictures drawn at once
GUIDANCE_SCALE = 5.0


def classic_sampler(material: Material, variant: Variant, count: int) -> tuple[nn.Module, Work]:
    """Return the network, and a function that takes the first `count` of the package's 1000 steps."""
    imagen = ClassicImagen(material.copy_of_network(variant).eval(), material.text_encoder, dtype=variant.dtype,
                           low_size=material.shape.low_size)
    x_t = material.noise(SAMPLED, "start").to(material.device)
    text = imagen.encode(material.captions[:SAMPLED])
    smaller = imagen.smaller(material.noise(SAMPLED, "pictures").clamp(-1, 1).to(material.device))

    def sample() -> Tensor:
        return imagen.sample(x_t, text, smaller, guidance_scale=GUIDANCE_SCALE, count=count)

    return imagen.network, sample


def our_sampler(material: Material, variant: Variant, steps: int) -> tuple[nn.Module, Work]:
    """Return the network, and a function that draws as the library does, with as much guidance as the package."""
    network = material.copy_of_network(variant)
    shape = material.shape
    stages = [Stage(network, shape.size)]
    low = None
    if shape.low_size is not None:
        low = downsample(material.noise(SAMPLED, "pictures").clamp(-1, 1), shape.low_size)
        stages.insert(0, Stage(network, shape.low_size))  # never run, since the smaller pictures are there
    cascade = Cascade(stages, material.text_encoder, precision=short_name(variant.dtype))
    tokens, mask, pooled = material.features.batch(range(SAMPLED), material.device)
    conditions = [TextCondition(tokens[i, mask[i]], pooled[i]) for i in range(SAMPLED)]

    def draw() -> Tensor:
        streams = [generator(0, "bench", "draw", i) for i in range(SAMPLED)]
        return cascade.sample(conditions, generators=streams, low=low, steps=[steps] * len(stages),
                              guidance_scale=[GUIDANCE_SCALE] * len(stages))[-1]

    return network, draw


def sampling_rows(material: Material, found: Sequence[Variant], seconds: float, least: int, classic_steps: int,
                  steps: int) -> Iterator[Row]:
    """Seconds a picture, the classic walk's taken from its first steps; and how often the network is asked."""
    contest = Contest("minimagen", material.shape.name, material.device)
    modes: dict[str, str] = {}
    scales: dict[str, float] = {}
    passes: dict[str, tuple[float, float]] = {}
    for variant in found:
        if variant.classic:
            network, work = classic_sampler(material, variant, classic_steps)
            modes[variant.name] = f"{STEPS} steps, scaled from {classic_steps}"
            scales[variant.name] = STEPS / classic_steps
        else:
            network, work = our_sampler(material, variant, steps)
            modes[variant.name] = f"{steps} steps"
            scales[variant.name] = 1.0
        contest.add(variant.name, work, dtype=precision(variant.dtype, material.device), compiled=variant.compiled)
        if not variant.compiled:
            passes[variant.name] = _passes(work, network, scales[variant.name])
    rows = contest.time_rows("", seconds, least)
    base = next(row.p50 * scales[row.provider] for row in rows if row.provider == contest.baseline)
    for row in rows:
        scale = scales[row.provider]
        values = [scale * value / SAMPLED / 1e3 for value in (row.p50, row.p20, row.p80)]
        yield contest.row(row.provider, "s a picture", values, mode=f"sampling, {modes[row.provider]}",
                          ratio=base / (scale * row.p50))
    yield from contest.compilation_rows("compilation for sampling")
    calls_of_classic, pictures_of_classic = passes[contest.baseline]
    for name, (calls, pictures) in passes.items():
        mode = f"network passes, {modes[name]}"
        yield contest.row(name, "calls", calls, mode=mode, ratio=calls_of_classic / calls)
        yield contest.row(name, "a picture", pictures, mode=mode, ratio=pictures_of_classic / pictures)


def _passes(work: Work, network: nn.Module, scale: float) -> tuple[float, float]:
    """Return how often `work` calls the network, and how often for each of the pictures that it draws, scaled."""
    sizes: list[int] = []
    hook = network.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    try:
        work()
    finally:
        hook.remove()
    return scale * len(sizes), scale * sum(sizes) / SAMPLED


def example_captions(count: int) -> list[str]:
    """Return captions of the emoji set's training split, one of each of the first `count` pictures."""
    data = load_captioned("emoji", limit=count)
    return captions_for(data, range(len(data)), generator(0, "bench", "captions"))


def minimagen_rows(device: torch.device, seconds: float, *, shapes: Sequence[Shape] | None = None,
                   ablation: Shape | None = None, text_encoder: Any = None, captions: Sequence[str] | None = None,
                   classic_steps: int = 10, steps: int = 20, least: int | None = None) -> Iterator[Row]:
    """Training (pictures/s, memory) and sampling (seconds a picture, network passes) against the public package's.

    Args:
        shapes: networks to measure. ablation: the one at which levers are switched off, by default the first.
        text_encoder: by default MiniLM, and only then the memory of whole processes is measured too, on a CPU.
        captions: by default of the emoji set.
        classic_steps: of 1000, which are timed. steps: of our sampler. least: timed calls of each provider.
    """
    on_gpu = device.type == "cuda"
    shapes = shapes or (CUDA_SHAPES if on_gpu else CPU_SHAPES)
    resident = text_encoder is None and not on_gpu
    text_encoder = text_encoder or load_text_encoder("minilm", device=device)
    captions = captions or example_captions(BATCHES * max(shape.batch for shape in shapes))
    least = least or (5 if on_gpu else 3)  # a step takes seconds on a CPU
    for shape in shapes:
        if on_gpu:
            torch.compiler.reset()  # it counts the variants of a network's code, and runs the ninth uncompiled
        material = Material(shape, device, text_encoder, captions)
        found = variants(device, levers=shape == (ablation or shapes[0]))
        yield from training_rows(material, found, seconds, least, resident=resident)
        drawing = [variant for variant in found if variant.draws]
        yield from sampling_rows(material, drawing, seconds, least, classic_steps, steps)

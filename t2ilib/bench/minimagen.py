"""MinImagen: our training step and our sampler against the public package's, and what each lever gives."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .classic_imagen import STEPS, TOKENS, ClassicImagen, encode_each
from .guidance import _bytes, _seconds, peak_mib
from .measure import Row, _row, measure, tf32
from ..cascade import downsample, low_resolution_condition
from ..data import load_captioned
from ..data.captions import captions_for
from ..data.text_features import encode_texts
from ..diffusion import COSINE, Schedule, loss_weight, q_sample, stratified_times, training_target, with_guidance
from ..diffusion.samplers import sample_dpm_solver
from ..encoders import load_text_encoder
from ..layers import attention, unet_blocks
from ..models.imagen_unet import ImagenUNet
from ..runtime import autocast, generator, pick_dtype
from ..training import EMA

BATCHES = 4  # of different captions, which all providers read in the same order
SAMPLED = 4  # pictures drawn at once
Text = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Shape:
    """A network and what it is trained on: pictures of `size` pixels, enlarged from `low_size` if that is given."""

    name: str
    size: int
    batch: int
    network: dict[str, Any]
    low_size: int | None = None


LAPTOP = Shape("laptop, 32 px, batch 32", 32, 32, dict(
    dim=48, dim_mults=[1, 2, 4], memory_efficient=True, attn_heads=4, attn_dim_head=32, cond_dim=192,
    layer_attns=[False, True, True], layer_cross_attns=[False, True, True], init_kernels=[3],
    final_resnet_block=False))
BASE = Shape("base, 64 px, batch 32", 64, 32, dict(
    dim=128, dim_mults=[1, 2, 4], num_resnet_blocks=2, layer_attns=[False, True, True],
    layer_cross_attns=[False, True, True]))
SUPER = Shape("super-resolution, 64 to 256 px, batch 8", 256, 8, dict(
    dim=64, dim_mults=[1, 2, 4, 4], num_resnet_blocks=[1, 2, 4, 4], layer_attns=[False, False, False, True],
    layer_cross_attns=[False, False, False, True], memory_efficient=True, lowres_cond=True), low_size=64)
CPU_SHAPES, CUDA_SHAPES = (LAPTOP,), (BASE, SUPER)


def explicit_attention(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None = None) -> Tensor:
    """`attend` with all scores in memory and a softmax in float32, as the public package has it."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if keep is not None:
        scores = scores.masked_fill(~keep, -torch.inf)
    return scores.softmax(dim=-1, dtype=torch.float32).to(v.dtype) @ v


class OurImagen:
    """One network of the cascade, trained and sampled as this library does it.

    Mixed precision, texts as they come from `EncodedTexts.batch`, times in strata, min-SNR weights, Adam in one kernel,
    an average of the weights.

    Args:
        network: trained in place. dtype: of autocast. drop: share of captions replaced by "no text".
        low_size: side of the smaller picture that is enlarged.
    """

    def __init__(self, network: ImagenUNet, dtype: torch.dtype, *, learning_rate: float = 1e-4, drop: float = 0.1,
                 low_size: int | None = None, seed: int = 0):
        self.network, self.dtype, self.drop, self.low_size = network, dtype, drop, low_size
        self.device = next(network.parameters()).device
        self.optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate,
                                          fused=self.device.type in ("cpu", "cuda"))
        self.ema = EMA(network)
        self.times = generator(seed, "bench", "imagen times")
        self.stream = generator(seed, "bench", "imagen", device=self.device)

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.stream, device=self.device)

    def smaller(self, x_0: Tensor) -> dict[str, Tensor]:
        """Return the picture to enlarge, made from x_0 and noised, each to a time of its own; or nothing."""
        if self.low_size is None:
            return {}
        level = torch.rand(len(x_0), generator=self.stream, device=self.device)
        low = downsample(x_0, self.low_size)
        return {"low": low_resolution_condition(low, x_0.shape[-1], level, self._noise(x_0)), "low_t": level}

    def loss(self, x_0: Tensor, text: Text, t: Tensor, eps: Tensor, drop: Tensor, smaller: dict[str, Tensor], *,
             forward: Callable[..., Tensor] | None = None, dtype: torch.dtype | None = None, target: str = "v",
             schedule: Schedule = COSINE, weighting: str = "min_snr") -> Tensor:
        """Return the weighted mean squared error of the prediction.

        Args:
            forward: the network compiled. dtype: another than that of the loop.

        Shapes:
            x_0, eps: (B, 3, H, W), t: (B,) in [0, 1], drop: (B,) bool -> ()
        """
        x_t = q_sample(x_0, t, eps, schedule=schedule)
        with autocast(self.device, dtype or self.dtype):
            text = self.network.without_text(*text, drop)
            prediction = (self.network if forward is None else forward)(x_t, t, *text, **smaller)
        error = prediction.float() - training_target(x_0, t, eps, target=target, schedule=schedule)
        weight = loss_weight(t, weighting=weighting, target=target, schedule=schedule)
        return (weight * error.square().flatten(1).mean(1)).mean()

    def step(self, x_0: Tensor, text: Text, *, forward: Callable[..., Tensor] | None = None,
             dtype: torch.dtype | None = None, checkpointing: bool = False) -> Tensor:
        """Make one training step and return the loss before it."""
        self.network.checkpointing = checkpointing
        t = stratified_times(len(x_0), self.times).to(self.device)
        drop = torch.rand(len(x_0), generator=self.stream, device=self.device) < self.drop
        loss = self.loss(x_0, text, t, self._noise(x_0), drop, self.smaller(x_0), forward=forward, dtype=dtype)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.network)
        return loss.detach()

    @torch.no_grad()
    def sample(self, x_t: Tensor, text: Text, smaller: dict[str, Tensor], *, steps: int = 20,
               guidance_scale: float = 5.0, forward: Callable[..., Tensor] | None = None) -> Tensor:
        """Draw pictures (B, 3, H, W) from noise of that shape, with guidance in one batch of 2 B."""
        names, everyone = ("tokens", "mask", "pooled"), torch.ones(len(x_t), dtype=torch.bool, device=self.device)
        condition = dict(zip(names, text, strict=True), **smaller)
        nothing = dict(zip(names, self.network.without_text(*text, everyone), strict=True), **smaller)
        network = self.network if forward is None else forward
        with autocast(self.device, self.dtype):  # around the whole walk: weights are cast once
            denoiser = with_guidance(lambda x, t, given: network(x, t, **given).float(), condition, nothing,
                                     guidance_scale)
            return sample_dpm_solver(denoiser, x_t, steps=steps, threshold="dynamic")


def example_captions(count: int) -> list[str]:
    """Return captions of the emoji set's training split, one of each of the first `count` pictures."""
    data = load_captioned("emoji", limit=count)
    return captions_for(data, range(len(data)), generator(0, "bench", "captions"))


class _Contest:
    """The providers of one shape. All of ours share one network, one optimiser and one average."""

    def __init__(self, shape: Shape, device: torch.device, text_encoder: Any, captions: Sequence[str]):
        self.shape, self.device, self.dtype, self.encoder = shape, device, pick_dtype(device), text_encoder
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = ImagenUNet(**shape.network).to(device)
        n = shape.batch
        self.texts = [captions[i % len(captions)] for i in range(BATCHES * n)]
        self.batches = [self.texts[i * n:(i + 1) * n] for i in range(BATCHES)]
        self.features = encode_texts(text_encoder, self.texts).to(device)
        self.x_0 = self._noise(n, "pictures").clamp(-1, 1)
        self.classic = ClassicImagen(copy.deepcopy(self.network), text_encoder, low_size=shape.low_size)
        self.ours = self._loop(channels_last=device.type == "cuda")
        self.steps: dict[str, Callable[[], object]] = {}
        self.weights: dict[str, int] = {}
        self.warm_up: dict[str, float] = {}
        self.label = f"classic float32; ours {_short(self.dtype)} unless named{tf32(device)}"

    def _noise(self, n: int, name: str) -> Tensor:
        return torch.randn((n, 3, self.shape.size, self.shape.size), generator=generator(0, "bench", name)).to(
            self.device)

    def _loop(self, *, channels_last: bool) -> OurImagen:
        network = copy.deepcopy(self.network)
        network.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        return OurImagen(network, self.dtype, low_size=self.shape.low_size)

    def _add(self, name: str, train: Callable[[int], object], *, loop: OurImagen | None, encoder: bool = False,
             compiled: bool = False, context: Callable[[], Any] = contextlib.nullcontext) -> None:
        """Add a provider that makes the i-th training step; `encoder`: it needs the text encoder in memory."""
        done = iter(range(10**9))

        def step() -> None:
            with context():
                train(next(done))

        network = _bytes((loop or self.classic).network, device=self.device)
        state = network * (4 if loop else 3)  # weights, two moments, and our average
        self.weights[name] = state + (_bytes(self.encoder.model, device=self.device) if encoder else 0)
        self.steps[name] = step
        if compiled:
            self.warm_up[name] = sum(_seconds(step, self.device) for _ in range(BATCHES))

    def _cached(self, i: int) -> Text:
        n = self.shape.batch
        return self.features.batch(range(i % BATCHES * n, (i % BATCHES + 1) * n))

    def add_classic(self) -> None:
        def train(i: int) -> object:
            return self.classic.step(self.x_0, self.batches[i % BATCHES])

        self._add("classic", train, loop=None, encoder=True, context=_explicit)
        self._add("classic, fused attention", train, loop=None, encoder=True, context=_fused)

    def add_ours(self, name: str, *, read: Callable[[int], Text] | None = None, loop: OurImagen | None = None,
                 encoder: bool = False, compiled: bool = False,
                 context: Callable[[], Any] = contextlib.nullcontext, **options) -> None:
        loop, read = loop or self.ours, read or self._cached
        if compiled:
            options["forward"] = torch.compile(loop.network)
        self._add(name, lambda i: loop.step(self.x_0, read(i), **options), loop=loop, encoder=encoder,
                  compiled=compiled, context=context)

    def switch_off(self) -> None:
        """Add our step with one lever off at a time, and with checkpointing, which trades time for memory."""
        def encoded(i: int) -> Text:
            return encode_each(self.encoder, self.batches[i % BATCHES], self.device)

        def padded(i: int) -> Text:
            tokens, mask, pooled = self._cached(i)
            more = TOKENS - mask.shape[1]
            return F.pad(tokens, (0, 0, 0, more)), F.pad(mask, (0, more)), pooled

        last = self.device.type == "cuda"
        other = torch.bfloat16 if self.dtype == torch.float32 else torch.float32
        self.add_ours(f"ours, {_short(other)}", dtype=other)
        self.add_ours("ours, texts encoded in the loop", read=encoded, encoder=True)
        self.add_ours(f"ours, {TOKENS} tokens", read=padded)
        self.add_ours("ours, explicit attention", context=_explicit)
        self.add_ours("ours, fused attention", context=_fused)
        self.add_ours(f"ours, channels {'first' if last else 'last'}", loop=self._loop(channels_last=not last))
        self.add_ours("ours, checkpointed", checkpointing=True)

    def training_rows(self, seconds: float, least: int) -> Iterator[Row]:
        timed = measure("minimagen", self.steps, baseline="classic", mode="training", shape=self.shape.name,
                        dtype=self.label, device=self.device, seconds=seconds, least=least)
        yield from (row.per_second(self.shape.batch, "pictures") for row in timed if row.metric == "ms")
        peaks = {name: peak_mib(step, self.weights[name], self.device) for name, step in self.steps.items()}
        where = "peak allocated" if self.device.type == "cuda" else "peak of tensors"
        for name, peak in peaks.items():
            yield self._row(name, where, "MiB", peak, peaks["classic"] / peak)
        for name, value in self.warm_up.items():
            yield self._row(name, "compilation for training", "s", value, 1.0)

    def sampling_rows(self, seconds: float, least: int, classic_steps: int, steps: int) -> Iterator[Row]:
        """Seconds a picture, the classic walk's taken from its first steps; and how often the network is asked."""
        x_t, text = self._noise(SAMPLED, "start"), self.features.batch(range(SAMPLED))
        padded = self.classic.encode(self.texts[:SAMPLED])
        self.ours.network.checkpointing = False
        self.classic.network.eval()
        self.ours.network.eval()
        low = [loop.smaller(self._noise(SAMPLED, "pictures").clamp(-1, 1)) for loop in (self.classic, self.ours)]

        def classic() -> None:
            with _explicit():
                self.classic.sample(x_t, padded, low[0], count=classic_steps)

        walks = {"classic": classic, "ours": lambda: self.ours.sample(x_t, text, low[1], steps=steps)}
        if self.device.type == "cuda":
            fast = torch.compile(self.ours.network)
            walks["ours, compiled"] = lambda: self.ours.sample(x_t, text, low[1], steps=steps, forward=fast)
            warm_up = _seconds(walks["ours, compiled"], self.device)
            yield self._row("ours, compiled", "compilation for sampling", "s", warm_up, 1.0)
        modes = dict.fromkeys(walks, f"sampling, {steps} steps")
        modes["classic"] = f"sampling, {STEPS} steps, scaled from {classic_steps}"
        scale = {name: STEPS / classic_steps if name == "classic" else 1.0 for name in walks}
        timed = measure("minimagen", walks, baseline="classic", mode="", shape=self.shape.name, dtype=self.label,
                        device=self.device, seconds=seconds, least=least)
        times = {row.provider: row for row in timed if row.metric == "ms"}
        base = scale["classic"] * times["classic"].p50
        for name, row in times.items():
            p50, p20, p80 = (round(scale[name] * value / SAMPLED / 1e3, 4) for value in (row.p50, row.p20, row.p80))
            yield replace(row, mode=modes[name], metric="s a picture", p50=p50, p20=p20, p80=p80,
                          ratio=round(base / (scale[name] * row.p50), 3))
        loops = {"classic": self.classic.network, "ours": self.ours.network}
        found = {name: [scale[name] * value for value in _passes(walks[name], loops[name])] for name in loops}
        for name, (calls, pictures) in found.items():
            mode = f"network passes, {modes[name].removeprefix('sampling, ')}"
            yield self._row(name, mode, "calls", calls, found["classic"][0] / calls)
            yield self._row(name, mode, "a picture", pictures, found["classic"][1] / pictures)

    def _row(self, name: str, mode: str, metric: str, value: float, ratio: float) -> Row:
        return _row("minimagen", name, mode, self.shape.name, self.label, metric, [value] * 3, ratio, self.device)


def _explicit() -> contextlib.AbstractContextManager:
    """Give the U-Net's blocks `explicit_attention`; the text encoder keeps what it has."""
    return mock.patch.object(unet_blocks, "attend", explicit_attention)


def _fused() -> contextlib.AbstractContextManager:
    """Let `attend` take PyTorch's fused function for short sequences too."""
    return mock.patch.object(attention, "SHORT", 0)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _passes(walk: Callable[[], object], network: nn.Module) -> tuple[float, float]:
    """Return how often `walk` calls the network, and how often for each of the pictures that it draws."""
    sizes: list[int] = []
    hook = network.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    try:
        walk()
    finally:
        hook.remove()
    return len(sizes), sum(sizes) / SAMPLED


def minimagen_rows(device: torch.device, seconds: float, *, shapes: Sequence[Shape] | None = None,
                   ablation: Shape | None = None, text_encoder: Any = None, captions: Sequence[str] | None = None,
                   classic_steps: int = 10, steps: int = 20, least: int | None = None) -> Iterator[Row]:
    """Training (pictures/s, memory) and sampling (seconds a picture, network passes) against the public package's.

    The classic loop has our network with the attention of the package, all scores in memory; a row beside it shows
    what fused attention alone would change there.

    Args:
        shapes: networks to measure. ablation: the one at which levers are switched off, by default the first.
        text_encoder: by default MiniLM. captions: by default of the emoji set.
        classic_steps: of 1000, which are timed. steps: of our sampler. least: timed calls of each provider.
    """
    shapes = shapes or (CUDA_SHAPES if device.type == "cuda" else CPU_SHAPES)
    text_encoder = text_encoder or load_text_encoder("minilm", device=device)
    captions = captions or example_captions(BATCHES * max(shape.batch for shape in shapes))
    least = least or (5 if device.type == "cuda" else 3)  # a step takes seconds on a CPU
    for shape in shapes:
        contest = _Contest(shape, device, text_encoder, captions)
        contest.add_classic()
        contest.add_ours("ours")
        if device.type == "cuda":  # a CPU takes minutes to compile what it would need hours to win back
            torch.compiler.reset()  # it counts the variants of a network's code, and runs the ninth uncompiled
            contest.add_ours("ours, compiled", compiled=True)
        if shape == (ablation or shapes[0]):
            contest.switch_off()
        yield from contest.training_rows(seconds, least)
        yield from contest.sampling_rows(seconds, least, classic_steps, steps)

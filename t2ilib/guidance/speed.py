"""Make a guidance step fast and small without changing what it computes, and say beforehand how much memory it takes.

Weights are frozen during guidance, which allows more than training does: they can be laid out and cast once, and
whatever only they decide can be computed once.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .objective import render
from .ops import clamp_with_grad
from .. import runtime
from ..encoders.clip import input_side
from ..errors import BadParameter
from ..layers.attention import attend
from ..layers.autoencoder import Blocks
from ..layers.conv_blocks import Upsample, doubling_kernel
from ..memory import LiveBytes, no_memory

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
QUICK_GELU = 1.702  # x * sigmoid(1.702 x), OpenAI's approximation


@contextlib.contextmanager
def fast(vqgan, clips, *, channels_last: bool = True, compile: bool | str = False, checkpoint: bool = False,
         drop_encoder: bool = False, drop_text: bool = False, dtype: torch.dtype | None = None) -> Iterator[None]:
    """Put the networks of a guidance loop into their fastest state, and restore them on leaving.

    Always: attention of the guides in one projection per layer instead of one per position (which PyTorch's module
    falls into for pictures first), patch embeddings as one product, QuickGELU with one saved tensor instead of two, and
    the kernels of the decoder's upsampling made once. None of it changes results beyond rounding. Weights get no
    gradient inside.

    Args:
        vqgan, clips: as in `vqgan_clip`. What a network does not have is passed over.
        channels_last: lay convolutions' weights out with channels innermost, as the fast convolutions want them.
        compile: compile decoder and image towers on first use (half a minute or more, again for each new batch size and
            without gradients: enter just around the loop); or a mode of `torch.compile` by name.
        checkpoint: keep only the borders of the decoder's blocks and compute the inside again in the backward pass;
            bit-equal, a third slower, and a fraction of the memory.
        drop_encoder: keep the VQGAN's encoder in the CPU's memory while inside: `encode` must not be called. On the CPU
            itself nothing changes.
        drop_text: the same for the guides' text towers: embed prompts before entering.
        dtype: hold weights of convolutions and linear layers in this precision, for a loop under autocast to it;
            autocast alone casts frozen weights again in every step. Codebook and norms stay in float32.

    Raises:
        BadParameter: compile names no mode of `torch.compile`.
    """
    if isinstance(compile, str) and compile not in COMPILE_MODES:
        raise BadParameter(f"compile must be True, False or one of {', '.join(COMPILE_MODES)}, got {compile!r}")
    clips = list(clips) if isinstance(clips, (list, tuple)) else [clips]
    towers = [_tower(clip) for clip in clips]
    decoder = [m for m in (getattr(vqgan, "decoder", vqgan), getattr(vqgan, "post_quant_conv", None)) if m is not None]
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        if drop_encoder:
            enter(_parked([t for name in ("encoder", "quant_conv") for t in _tensors(getattr(vqgan, name, None))]))
        if drop_text:
            enter(_parked([t for clip, tower in zip(clips, towers, strict=True) for t in _text_tensors(clip, tower)]))
        if channels_last:
            enter(_channels_last([*decoder, *towers]))
        enter(_frozen_forwards(decoder, towers, dtype))
        if dtype not in (None, torch.float32):
            enter(_cast([*decoder, *towers], dtype))
        if checkpoint:
            enter(_checkpointed(vqgan))
        if compile:
            enter(_compiled(vqgan, towers, "default" if compile is True else compile))
        yield


def _tower(clip) -> nn.Module:
    """Return what maps pictures to features: the image tower of a CLIP, or the whole of another guide."""
    return getattr(getattr(clip, "model", None), "visual", clip)


def _modules(roots: Sequence) -> list[nn.Module]:
    return list(dict.fromkeys(m for root in roots if isinstance(root, nn.Module) for m in root.modules()))


def _tensors(root) -> list[Tensor]:
    return [*root.parameters(), *root.buffers()] if isinstance(root, nn.Module) else []


def _text_tensors(clip, tower) -> list[Tensor]:
    seen = {id(t) for t in _tensors(tower)}
    return [t for t in _tensors(getattr(clip, "model", None)) if id(t) not in seen]


@contextlib.contextmanager
def _parked(tensors: Sequence[Tensor]) -> Iterator[None]:
    places = [(t, t.device) for t in tensors if t.device.type != "cpu"]
    try:
        for t, _ in places:
            t.data = t.data.to("cpu")
        yield
    finally:
        for t, device in places:
            t.data = t.data.to(device)


@contextlib.contextmanager
def _channels_last(roots: Sequence) -> Iterator[None]:
    weights = [p for m in _modules(roots) for p in m.parameters(recurse=False)
               if p.ndim == 4 and not p.is_contiguous(memory_format=torch.channels_last)]
    try:
        for p in weights:
            p.data = p.data.contiguous(memory_format=torch.channels_last)
        yield
    finally:
        for p in weights:
            p.data = p.data.contiguous()


@contextlib.contextmanager
def _cast(roots: Sequence, dtype: torch.dtype) -> Iterator[None]:
    kinds = (nn.Conv2d, nn.Linear, nn.MultiheadAttention)
    weights = [p for m in _modules(roots) if isinstance(m, kinds) for p in m.parameters(recurse=False)]
    # the exact values come back from a copy, which waits in the CPU's memory
    kept = [(p, p.device, p.data.to("cpu")) for p in weights if p.dtype == torch.float32]
    try:
        for p, _, _ in kept:
            p.data = p.data.to(dtype)
        yield
    finally:
        for p, device, data in kept:
            p.data = data.to(device)


@contextlib.contextmanager
def _replaced(pairs: Sequence[tuple[nn.Module, str, Callable]]) -> Iterator[None]:
    """Let instances have other methods inside the block."""
    before = [(m, name, vars(m).get(name)) for m, name, _ in pairs]
    try:
        for m, name, method in pairs:
            object.__setattr__(m, name, method)
        yield
    finally:
        for m, name, method in before:
            object.__delattr__(m, name)
            if method is not None:
                object.__setattr__(m, name, method)


def _frozen_forwards(decoder: Sequence, towers: Sequence, dtype: torch.dtype | None
                     ) -> contextlib.AbstractContextManager:
    pairs = []
    for m in _modules(decoder):
        if isinstance(m, Upsample) and m.conv is not None:
            kernel = doubling_kernel(m.conv.weight.detach()).to(dtype or m.conv.weight.dtype)
            if m.conv.weight.is_contiguous(memory_format=torch.channels_last):
                kernel = kernel.contiguous(memory_format=torch.channels_last)
            pairs.append((m, "forward", functools.partial(_upsample, m.conv, kernel)))
    for m in _modules(towers):
        if isinstance(m, nn.MultiheadAttention) and m.batch_first and m.in_proj_weight is not None:
            pairs.append((m, "forward", functools.partial(_attend, m, m.forward)))
        elif isinstance(m, nn.Conv2d) and m.kernel_size == m.stride != (1, 1) and m.groups == 1 and m.padding == (0, 0):
            matrix = m.weight.detach().flatten(1).to(dtype or m.weight.dtype)
            pairs.append((m, "forward", functools.partial(_embed_patches, m, matrix)))
        elif type(m).__name__ == "QuickGELU":
            pairs.append((m, "forward", _quick_gelu))
    return _replaced(pairs)


def _upsample(conv: nn.Conv2d, kernel: Tensor, x: Tensor) -> Tensor:
    return F.conv_transpose2d(x, kernel, conv.bias, stride=2, padding=1)


def _embed_patches(conv: nn.Conv2d, matrix: Tensor, x: Tensor) -> Tensor:
    """Convolve with a stride as large as the kernel: patches do not overlap, so one matrix product does it."""
    (height, width), (p, q) = x.shape[-2:], conv.kernel_size
    x = x[..., :height // p * p, :width // q * q].unflatten(3, (-1, q)).unflatten(2, (-1, p))  # (B, C, h, p, w, q)
    return F.linear(x.permute(0, 2, 4, 1, 3, 5).flatten(3), matrix, conv.bias).movedim(3, 1)


def _quick_gelu(x: Tensor) -> Tensor:
    return F.silu(QUICK_GELU * x) / QUICK_GELU


def _attend(m: nn.MultiheadAttention, original: Callable, query: Tensor, key: Tensor, value: Tensor,
            key_padding_mask: Tensor | None = None, need_weights: bool = True, attn_mask: Tensor | None = None,
            **options) -> tuple[Tensor, Tensor | None]:
    """Self-attention over (B, T, E): one product with all three projections, then fused attention."""
    same = key is query and value is query and query.ndim == 3
    plain = not (need_weights or m.training or options or m.bias_k is not None or m.add_zero_attn)
    if not (same and plain and key_padding_mask is None and attn_mask is None):
        return original(query, key, value, key_padding_mask=key_padding_mask, need_weights=need_weights,
                        attn_mask=attn_mask, **options)
    qkv = F.linear(query, m.in_proj_weight, m.in_proj_bias).unflatten(2, (3, m.num_heads, m.head_dim))
    q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # (B, heads, T, d)
    return m.out_proj(attend(q, k, v).transpose(1, 2).flatten(2)), None


def _checkpointed(vqgan) -> contextlib.AbstractContextManager:
    return _replaced([(m, "checkpoint", True) for m in _modules([getattr(vqgan, "decoder", None)])
                      if isinstance(m, Blocks)])


def _compiled(vqgan, towers: Sequence, mode: str) -> contextlib.AbstractContextManager:
    build = functools.partial(torch.compile, dynamic=False, mode=mode)
    named = [(vqgan, "decode"), *((t, "encode_image" if hasattr(t, "encode_image") else "forward") for t in towers)]
    return _replaced([(owner, name, build(getattr(owner, name))) for owner, name in named])


def memory_estimate(vqgan, clips, *, image_size: tuple[int, int], pictures: int = 1, cutouts: int = 16,
                    dtype: torch.dtype = torch.float32, checkpoint: bool = False) -> int:
    """Return about how many bytes one step takes at its peak: weights, saved activations, and what is alive meanwhile.

    Decoder and guides run forward and backward on tensors that have a size and no content, so nothing large is
    allocated and the state the networks are in (layout, precision of the weights) counts: call it inside `fast`, before
    anything is compiled. Not included: the workspace of single operations and what the allocator keeps, by which a
    process on a CPU grows 10 to 20 % further.

    Args:
        vqgan, clips: as in `vqgan_clip`.
        image_size: (H, W) in pixels.
        pictures, cutouts: of the run, cutouts for each picture.
        dtype: of autocast. checkpoint: as in `fast`.
    """
    clips = list(clips) if isinstance(clips, (list, tuple)) else [clips]
    device, channels = vqgan.codebook.device, vqgan.codebook.shape[1]
    weights = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for network in (vqgan, *clips)
               for t in _tensors(network) if t.device == device}
    with contextlib.ExitStack() as stack:
        if checkpoint:
            stack.enter_context(_checkpointed(vqgan))
        stack.enter_context(no_memory())
        live = stack.enter_context(LiveBytes())
        size = [side // vqgan.factor for side in image_size]
        z = torch.zeros(pictures, channels, *size, device=device).requires_grad_()
        (images, _), loss = render(vqgan, z, dtype), 0.0
        for clip in clips:
            views = _stand_in(images, cutouts, input_side(clip))
            with runtime.autocast(device, dtype):
                loss = loss + clip.encode_image(views.flatten(0, 1)).float().square().sum()
        torch.autograd.grad(loss, z)
    return sum(weights.values()) + live.peak


def _stand_in(images: Tensor, cutouts: int, size: int) -> Tensor:
    """Take the memory that `apply_cutouts` takes; its branches depend on values, which are not there."""
    n = len(images)
    grid, coverage = images.new_zeros(n, cutouts * size, size, 2), images.new_zeros(n, cutouts, 1, size, size)
    x = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    x = coverage * x.unflatten(2, (cutouts, size)).movedim(2, 1)
    x = (images.new_zeros(n, cutouts, 3, 3) @ x.flatten(-2)).view_as(x)
    return clamp_with_grad(x + torch.zeros_like(x))

"""Make a guidance step fast and small without changing what it computes.

Weights are frozen during guidance, which allows more than training does: they can be laid out and cast once, and
whatever only they decide can be computed once.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .networks import as_list
from .protocols import ImageTextModel, PaintingNetwork
from ..errors import BadParameter
from ..layers.attention import attend
from ..layers.autoencoder import Blocks
from ..layers.conv_blocks import Upsample, doubling_kernel

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
QUICK_GELU = 1.702  # x * sigmoid(1.702 x), OpenAI's approximation
Replacement = tuple[object, str, Callable | bool]  # an object, the name of an attribute, and its value for a while


@contextlib.contextmanager
def fast(vqgan: PaintingNetwork, clips: ImageTextModel | Sequence[ImageTextModel], *, channels_last: bool = True,
         compile: bool | str = False, checkpoint: bool = False, drop_encoder: bool = False, drop_text: bool = False,
         dtype: torch.dtype | None = None) -> Iterator[None]:
    """Put the networks of a guidance loop into their fastest state, and restore them at the end of the block.

    Always: attention of the guides in one projection per layer instead of one per position (which PyTorch's module
    falls into where the batch comes first), patch embeddings as one product, QuickGELU with one saved tensor instead of
    two, and the kernels of the decoder's upsampling made once. None of it changes results beyond rounding. Weights get
    no gradient inside.

    Args:
        vqgan, clips: as in `vqgan_clip`. What a network does not have is passed over.
        channels_last: lay convolutions' weights out with channels innermost, as the fast convolutions want them.
        compile: compile decoder and image towers on first use (half a minute or more, again for each new batch size and
            without gradients: use it around the loop alone); or a mode of `torch.compile` by name.
        checkpoint: keep only the borders of the decoder's blocks and compute the inside again in the backward pass;
            bit-equal, a third slower, and a fraction of the memory.
        drop_encoder: keep the VQGAN's encoder in the CPU's memory while inside: `encode` must not be called. On the CPU
            itself nothing changes.
        drop_text: the same for the guides' text towers: embed prompts before.
        dtype: hold weights of convolutions and linear layers in this precision, for a loop under autocast to it;
            autocast alone casts frozen weights again in every step. Codebook and norms stay in float32.

    Raises:
        BadParameter: compile names no mode of `torch.compile`.
    """
    if isinstance(compile, str) and compile not in COMPILE_MODES:
        raise BadParameter(f"compile must be True, False or one of {', '.join(COMPILE_MODES)}, got {compile!r}")
    clips = as_list(clips)
    towers = [_image_tower(clip) for clip in clips]
    decoder = [getattr(vqgan, "decoder", vqgan), getattr(vqgan, "post_quant_conv", None)]
    with contextlib.ExitStack() as stack:
        if drop_encoder:
            encoder = [getattr(vqgan, "encoder", None), getattr(vqgan, "quant_conv", None)]
            stack.enter_context(_on_cpu([t for part in encoder for t in tensors_of(part)]))
        if drop_text:
            for clip, tower in zip(clips, towers, strict=True):
                stack.enter_context(_on_cpu(_text_tensors(clip, tower)))
        if channels_last:
            stack.enter_context(_channels_last([*decoder, *towers]))
        # after the layout and before the precision: the kernels of the upsampling take the layout of their weights,
        # and are summed up from exact weights before they are rounded
        replacements = [*_fast_upsampling(decoder, dtype), *_fast_tower_layers(towers, dtype)]
        stack.enter_context(_replaced(replacements))
        if dtype not in (None, torch.float32):
            stack.enter_context(_cast([*decoder, *towers], dtype))
        if checkpoint:
            stack.enter_context(checkpointed(vqgan))
        if compile:
            stack.enter_context(_compiled(vqgan, towers, "default" if compile is True else compile))
        yield


def tensors_of(network: object) -> list[Tensor]:
    """Return the parameters and buffers of a module; of anything else none."""
    return [*network.parameters(), *network.buffers()] if isinstance(network, nn.Module) else []


def checkpointed(vqgan: PaintingNetwork) -> contextlib.AbstractContextManager:
    """Let the decoder's blocks compute their inside again in the backward pass, while inside the context."""
    blocks = [m for m in _modules([getattr(vqgan, "decoder", None)]) if isinstance(m, Blocks)]
    return _replaced([(m, "checkpoint", True) for m in blocks])


def _image_tower(clip: ImageTextModel) -> object:
    """Return what maps pictures to features: the image tower of a CLIP, or the whole of another guide."""
    return getattr(clip, "visual", clip)


def _modules(roots: Sequence) -> list[nn.Module]:
    """Return the modules inside roots, each once; what is no module is passed over."""
    modules = {}  # keeps the order
    for root in roots:
        if isinstance(root, nn.Module):
            modules.update(dict.fromkeys(root.modules()))
    return list(modules)


def _text_tensors(clip: ImageTextModel, image_tower: object) -> list[Tensor]:
    """Return the tensors of a CLIP that are not of its image tower."""
    of_images = {id(t) for t in tensors_of(image_tower)}
    return [t for t in tensors_of(getattr(clip, "network", None)) if id(t) not in of_images]


@contextlib.contextmanager
def _on_cpu(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Keep tensors in the CPU's memory inside the block."""
    moved = [(t, t.device) for t in tensors if t.device.type != "cpu"]
    try:
        for t, _ in moved:
            t.data = t.data.to("cpu")
        yield
    finally:
        for t, device in moved:
            t.data = t.data.to(device)


@contextlib.contextmanager
def _channels_last(roots: Sequence) -> Iterator[None]:
    """Lay the weights of convolutions out with channels innermost inside the block."""
    weights = []
    for module in _modules(roots):
        for p in module.parameters(recurse=False):
            if p.ndim == 4 and not p.is_contiguous(memory_format=torch.channels_last):
                weights.append(p)
    try:
        for p in weights:
            p.data = p.data.contiguous(memory_format=torch.channels_last)
        yield
    finally:
        for p in weights:
            p.data = p.data.contiguous()


@contextlib.contextmanager
def _cast(roots: Sequence, dtype: torch.dtype) -> Iterator[None]:
    """Hold the float32 weights of convolutions and linear layers in a lower precision inside the block."""
    exact = []  # the values to restore wait in the CPU's memory
    for module in _modules(roots):
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.MultiheadAttention)):
            for p in module.parameters(recurse=False):
                if p.dtype == torch.float32:
                    exact.append((p, p.device, p.data.to("cpu")))
    try:
        for p, _, _ in exact:
            p.data = p.data.to(dtype)
        yield
    finally:
        for p, device, data in exact:
            p.data = data.to(device)


@contextlib.contextmanager
def _replaced(replacements: Sequence[Replacement]) -> Iterator[None]:
    """Give objects other attributes inside the block, beside the class and past `nn.Module.__setattr__`."""
    before = [(owner, name, vars(owner).get(name)) for owner, name, _ in replacements]
    try:
        for owner, name, value in replacements:
            object.__setattr__(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            object.__delattr__(owner, name)
            if value is not None:
                object.__setattr__(owner, name, value)


def _fast_upsampling(decoder: Sequence, dtype: torch.dtype | None) -> list[Replacement]:
    """Return a forward for each upsampling of the decoder, with its kernel made beforehand."""
    replacements = []
    for module in _modules(decoder):
        if isinstance(module, Upsample) and module.conv is not None:
            weight = module.conv.weight
            kernel = doubling_kernel(weight.detach()).to(dtype or weight.dtype)
            if weight.is_contiguous(memory_format=torch.channels_last):
                kernel = kernel.contiguous(memory_format=torch.channels_last)
            replacements.append((module, "forward", functools.partial(_upsample, module.conv, kernel)))
    return replacements


def _fast_tower_layers(towers: Sequence, dtype: torch.dtype | None) -> list[Replacement]:
    """Return a faster forward for attention, patch embedding and QuickGELU of the image towers."""
    replacements = []
    for module in _modules(towers):
        if isinstance(module, nn.MultiheadAttention):
            if module.batch_first and module.in_proj_weight is not None:
                forward = functools.partial(_self_attention, module, module.forward)
                replacements.append((module, "forward", forward))
        elif isinstance(module, nn.Conv2d):
            if _embeds_patches(module):
                matrix = module.weight.detach().flatten(1).to(dtype or module.weight.dtype)  # (out, in p q)
                replacements.append((module, "forward", functools.partial(_embed_patches, module, matrix)))
        elif type(module).__name__ == "QuickGELU":
            replacements.append((module, "forward", _quick_gelu))
    return replacements


def _upsample(conv: nn.Conv2d, kernel: Tensor, x: Tensor) -> Tensor:
    return F.conv_transpose2d(x, kernel, conv.bias, stride=2, padding=1)


def _embeds_patches(conv: nn.Conv2d) -> bool:
    """Return whether a convolution reads each pixel once: its stride is as large as its kernel."""
    return conv.kernel_size == conv.stride != (1, 1) and conv.groups == 1 and conv.padding == (0, 0)


def _embed_patches(conv: nn.Conv2d, matrix: Tensor, x: Tensor) -> Tensor:
    """Convolve with a stride as large as the kernel: patches do not overlap, so one matrix product does it."""
    p, q = conv.kernel_size
    rows = x.shape[-2] // p
    columns = x.shape[-1] // q
    x = x[..., :rows * p, :columns * q]
    x = x.unflatten(3, (columns, q)).unflatten(2, (rows, p))  # (B, C, h, p, w, q)
    patches = x.permute(0, 2, 4, 1, 3, 5).flatten(3)  # (B, h, w, C p q)
    return F.linear(patches, matrix, conv.bias).movedim(3, 1)  # (B, out, h, w)


def _quick_gelu(x: Tensor) -> Tensor:
    return F.silu(QUICK_GELU * x) / QUICK_GELU


def _self_attention(module: nn.MultiheadAttention, original: Callable, query: Tensor, key: Tensor, value: Tensor,
                    key_padding_mask: Tensor | None = None, need_weights: bool = True, attn_mask: Tensor | None = None,
                    **options) -> tuple[Tensor, Tensor | None]:
    """Self-attention over (B, T, E): one product with all three projections, then fused attention.

    Whatever else the module is asked for, its own forward does.
    """
    to_itself = key is query and value is query and query.ndim == 3
    masked = key_padding_mask is not None or attn_mask is not None
    unusual_module = module.training or module.bias_k is not None or module.add_zero_attn
    if not to_itself or masked or unusual_module or need_weights or options:
        return original(query, key, value, key_padding_mask=key_padding_mask, need_weights=need_weights,
                        attn_mask=attn_mask, **options)
    qkv = F.linear(query, module.in_proj_weight, module.in_proj_bias)  # (B, T, 3 E)
    qkv = qkv.unflatten(2, (3, module.num_heads, module.head_dim))  # (B, T, 3, heads, d)
    q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # (B, heads, T, d)
    attended = attend(q, k, v).transpose(1, 2).flatten(2)  # (B, T, E)
    return module.out_proj(attended), None


def _compiled(vqgan: PaintingNetwork, towers: Sequence, mode: str) -> contextlib.AbstractContextManager:
    """Compile the decoder and the image towers inside the block."""
    build = functools.partial(torch.compile, dynamic=False, mode=mode)
    replacements = [(vqgan, "decode", build(vqgan.decode))]
    for tower in towers:
        name = "encode_image" if hasattr(tower, "encode_image") else "forward"
        replacements.append((tower, name, build(getattr(tower, name))))
    return _replaced(replacements)

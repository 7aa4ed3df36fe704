"""Imagen's U-Net, for the base stage and for super-resolution, at any size from a laptop's to the paper's.

Saharia et al. 2022, "Photorealistic text-to-image diffusion models with deep language understanding", appendix B; the
parameters have the names of the public MinImagen package, so that its JSON configurations fit.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..checkpoint import configurable
from ..diffusion import Schedule, alpha_sigma, v_of_residual
from ..errors import BadParameter, unknown_name
from ..files import read_json
from ..layers.conv_blocks import norm_silu
from ..layers.unet_blocks import (
    GROUPS,
    CrossEmbed,
    DropsText,
    PixelDown,
    PixelUp,
    SelfAttention,
    TextResnetBlock,
    timestep_embedding,
    zero_,
)

TIME_TOKENS = 2
SKIP_SCALE = 2**-0.5
BINOMIAL = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16


class Level(nn.Module):
    """The blocks of one resolution, of which the first may attend to the text, and self-attention where asked for.

    The U-Net runs them itself, because skips are kept and taken between them.
    """

    def __init__(self, *, in_channels: int, out_channels: int, num_blocks: int, attention: bool, ff_mult: float,
                 context_dim: int | None, heads: int, dim_head: int, **block: Any):
        super().__init__()
        self.blocks = nn.ModuleList()
        for i in range(num_blocks):
            self.blocks.append(TextResnetBlock(
                in_channels=in_channels, out_channels=out_channels, context_dim=context_dim if i == 0 else None,
                heads=heads, dim_head=dim_head, **block))
        self.attention = nn.Identity()
        if attention:
            self.attention = SelfAttention(dim=out_channels, heads=heads, dim_head=dim_head, ff_mult=ff_mult)


@configurable
class ImagenUNet(DropsText, nn.Module):
    """Predict noise, picture or v from a noised picture, its time and a text; with `low`, to enlarge that.

    Args:
        dim: channels of the first level. dim_mults: width of each level, as a multiple of `dim`; sides halve.
        channels, channels_out: of the picture; the latter is the former by default.
        cond_dim: width of the tokens to which places attend; `dim` by default.
        text_embed_dim: width of the text encoder's tokens and of its pooled feature.
        num_resnet_blocks: of each level, beside the one that reads the text.
        layer_attns, layer_cross_attns: which levels have self-attention, which attend to the text.
        attn_heads, attn_dim_head: number and width of attention heads. ff_mult: width of their feed-forward layer.
        lowres_cond: take a second picture to enlarge, and its noise level.
        memory_efficient: each level halves the side before its blocks, not after (the paper's Efficient U-Net). Then
            only the first and the last convolution are computed at full size.
        attend_at_middle: self-attention at the narrowest place.
        init_kernels: sizes of the first convolution's kernels. final_resnet_block: one more block at full size.
        dropout: in each block. checkpointing: compute each block's inside again in the backward pass.
        residual_std: for super-resolution that predicts v around the smaller picture (`diffusion.v_of_residual`): the
            standard deviation of the larger ones around it, such as 0.12. 0 predicts v from nothing.
        schedule_shift: of the schedule that it is trained with; needed with `residual_std` alone.

    Shapes:
        x_t: (B, C, H, W), t: (B,) in [0, 1], tokens: (B, T, E), mask: (B, T) bool, pooled: (B, E),
        low: (B, C, H, W) already enlarged and noised to time low_t (B,) -> (B, channels_out, H, W); H and W are
        multiples of `self.factor`.

    Raises:
        BadParameter: widths that do not fit, lists of unequal length, a picture of the wrong size, or `low` missing.
    """

    def __init__(self, *, dim: int = 128, dim_mults: Sequence[int] = (1, 2, 4), channels: int = 3,
                 channels_out: int | None = None, cond_dim: int | None = None, text_embed_dim: int = 384,
                 num_resnet_blocks: int | Sequence[int] = 1, layer_attns: bool | Sequence[bool] = True,
                 layer_cross_attns: bool | Sequence[bool] = True, attn_heads: int = 8, attn_dim_head: int = 64,
                 ff_mult: float = 2.0, lowres_cond: bool = False, memory_efficient: bool = False,
                 attend_at_middle: bool = False, init_kernels: Sequence[int] = (3, 7, 15),
                 final_resnet_block: bool = True, dropout: float = 0.0, checkpointing: bool = False,
                 residual_std: float = 0.0, schedule_shift: float = 0.0):
        super().__init__()
        levels = len(dim_mults)
        num_resnet_blocks = _per_level("num_resnet_blocks", num_resnet_blocks, levels)
        layer_attns = _per_level("layer_attns", layer_attns, levels)
        layer_cross_attns = _per_level("layer_cross_attns", layer_cross_attns, levels)
        widths = [dim, *(dim * m for m in dim_mults)]
        if not levels or dim % 2 or any(width % GROUPS for width in widths):
            raise BadParameter(f"dim and dim times each of dim_mults must be multiples of {GROUPS}, got dim={dim} and "
                               f"dim_mults={list(dim_mults)}")
        if residual_std < 0 or (residual_std and not lowres_cond):
            raise BadParameter(f"residual_std must be 0, or above 0 with lowres_cond; got {residual_std}")
        self.dim = dim
        self.lowres_cond = lowres_cond
        self.checkpointing = checkpointing
        self.factor = 2 ** (levels if memory_efficient else levels - 1)
        width = 4 * dim  # of the condition
        cond_dim = cond_dim or dim

        self.conv_in = CrossEmbed(in_channels=channels * (1 + lowres_cond), out_channels=dim, kernels=init_kernels)
        self._add_conditioning(dim, width, cond_dim, text_embed_dim)
        block = {"condition_dim": width, "dropout": dropout, "heads": attn_heads, "dim_head": attn_dim_head}
        self.down = nn.ModuleList()
        self.downsamples = nn.ModuleList()  # before the level of the same index
        self.up = nn.ModuleList()
        self.upsamples = nn.ModuleList()  # after the level of the same index
        for i in range(levels):
            outer = widths[i]
            inner = widths[i + 1]
            halves = memory_efficient or i > 0
            level = {"out_channels": inner, "num_blocks": 1 + num_resnet_blocks[i], "attention": layer_attns[i],
                     "ff_mult": ff_mult, "context_dim": cond_dim if layer_cross_attns[i] else None, **block}
            self.downsamples.append(_resize(PixelDown, halves, outer, inner))
            self.down.append(Level(in_channels=inner, **level))
            self.up.insert(0, Level(in_channels=2 * inner, **level))
            self.upsamples.insert(0, _resize(PixelUp, halves, inner, outer))
        self.middle = _middle(widths[-1], cond_dim, ff_mult, attend_at_middle, block)
        self.join = nn.Conv2d(2 * dim, dim, 1)
        self.final = TextResnetBlock(in_channels=dim, out_channels=dim, **block) if final_resnet_block else None
        self.norm_out = nn.GroupNorm(GROUPS, dim)
        self.conv_out = zero_(nn.Conv2d(dim, channels_out or channels, 3, padding=1))
        self.residual_std = residual_std
        self.schedule = Schedule("cosine", schedule_shift)
        if residual_std:
            self.smoothing = nn.Parameter(BINOMIAL[:, None] * BINOMIAL)  # bilinear enlargement leaves a grid

    def _add_conditioning(self, dim: int, width: int, cond_dim: int, text_embed_dim: int) -> None:
        """Make the layers that turn times and text into a condition (B, width) and a context (B, T, cond_dim)."""
        self.time = _time_mlp(dim, width)
        self.time_tokens = nn.Linear(width, TIME_TOKENS * cond_dim)
        self.low_time = _time_mlp(dim, width) if self.lowres_cond else None
        self.text = nn.Linear(text_embed_dim, cond_dim)
        self.context_norm = nn.LayerNorm(cond_dim)
        self.pooled = nn.Sequential(
            nn.LayerNorm(text_embed_dim),
            nn.Linear(text_embed_dim, width),
            nn.SiLU(),
            nn.Linear(width, width),
        )
        # what stands for "no text": learned, one token long
        self.null_token = nn.Parameter(torch.randn(text_embed_dim) * text_embed_dim**-0.5)
        self.null_pooled = nn.Parameter(torch.randn(text_embed_dim) * text_embed_dim**-0.5)

    @classmethod
    def from_json(cls, path: str | Path, **changes: Any) -> "ImagenUNet":
        """Build from a JSON file with the parameters of this class, which are those of the public package.

        Args:
            changes: replace what the file says.

        Raises:
            UnknownName: the file has a parameter that this class does not know. BadParameter: no JSON object.
        """
        parameters = read_json(path) | changes
        known = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
        for name in parameters:
            if name not in known:
                raise unknown_name("parameter of the U-Net", name, known)
        return cls(**parameters)

    @staticmethod
    def current_key(key: str) -> str:
        """Return the name that a tensor of an older checkpoint has now; the shipped base says `enter` and `leave`."""
        list_name, dot, rest = key.partition(".")
        renamed = {"enter": "downsamples", "leave": "upsamples"}
        return renamed.get(list_name, list_name) + dot + rest

    def forward(self, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, pooled: Tensor, low: Tensor | None = None,
                low_t: Tensor | None = None) -> Tensor:
        self._check(x_t, low, low_t)
        condition = self.time(timestep_embedding(t, self.dim))  # (B, width)
        pictures = x_t
        if low is not None:
            condition = condition + self.low_time(timestep_embedding(low_t, self.dim))
            pictures = torch.cat([x_t, low], dim=1)  # (B, 2 C, H, W)
        moments = self.time_tokens(condition).unflatten(1, (TIME_TOKENS, -1))  # (B, TIME_TOKENS, D)
        context = self.context_norm(torch.cat([moments, self.text(tokens)], dim=1))  # (B, TIME_TOKENS + T, D)
        condition = F.silu(condition + self.pooled(pooled))
        keep = F.pad(mask, (TIME_TOKENS, 0), value=True)  # (B, TIME_TOKENS + T)
        text = (condition, context, keep)

        stem = self.conv_in(pictures)
        h = stem
        skips = []
        for downsample, level in zip(self.downsamples, self.down, strict=True):
            h = downsample(h)
            *blocks, last = level.blocks
            for block in blocks:
                h = self._run(block, h, *text)
                skips.append(h * SKIP_SCALE)
            h = self._run(last, h, *text)
            h = self._run(level.attention, h)
            skips.append(h * SKIP_SCALE)
        first, attention, second = self.middle
        h = self._run(first, h, *text)
        h = self._run(attention, h)
        h = self._run(second, h, *text)
        for level, upsample in zip(self.up, self.upsamples, strict=True):
            for block in level.blocks:
                h = self._run(block, torch.cat([h, skips.pop()], dim=1), *text)
            h = self._run(level.attention, h)
            h = upsample(h)
        h = self.join(torch.cat([h, stem * SKIP_SCALE], dim=1))
        if self.final is not None:
            h = self._run(self.final, h, *text)
        prediction = self.conv_out(norm_silu(self.norm_out, h))
        if not self.residual_std:
            return prediction
        guess = self._smooth(low, low_t)
        return v_of_residual(prediction.float(), x_t, t, guess, std=self.residual_std, schedule=self.schedule)

    def _smooth(self, low: Tensor, low_t: Tensor) -> Tensor:
        """Return the smaller picture as it was before its noise was added (but for that noise), smoothed."""
        alpha, _ = alpha_sigma(low_t, low.ndim)
        margin = (len(BINOMIAL) // 2,) * 4
        padded = F.pad(low / alpha, margin, mode="replicate")
        kernels = self.smoothing.expand(low.shape[1], 1, -1, -1)
        return F.conv2d(padded, kernels, groups=low.shape[1])

    def _run(self, module: nn.Module, *inputs: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(module, *inputs, use_reentrant=False)
        return module(*inputs)

    def _check(self, x_t: Tensor, low: Tensor | None, low_t: Tensor | None) -> None:
        if (low is not None) != self.lowres_cond or (low_t is not None) != self.lowres_cond:
            expected = "a small picture `low` and its `low_t`" if self.lowres_cond else "no `low`: it draws from noise"
            raise BadParameter(f"this U-Net has lowres_cond={self.lowres_cond} and takes {expected}")
        if low is not None and low.shape != x_t.shape:
            raise BadParameter(f"`low` must be enlarged to the size of x_t, got {tuple(low.shape)} and "
                               f"{tuple(x_t.shape)}; see cascade.low_resolution_condition")
        if any(side % self.factor for side in x_t.shape[-2:]):
            raise BadParameter(f"height and width must be multiples of {self.factor}, got {tuple(x_t.shape[-2:])}")


def _time_mlp(dim: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, width), nn.SiLU(), nn.Linear(width, width))


def _middle(width: int, context_dim: int, ff_mult: float, attention: bool, block: dict[str, Any]) -> nn.ModuleList:
    """Return the narrowest part: a block that attends to the text, self-attention or nothing, another block."""
    first = TextResnetBlock(in_channels=width, out_channels=width, context_dim=context_dim, **block)
    between = nn.Identity()
    if attention:
        between = SelfAttention(dim=width, ff_mult=ff_mult, heads=block["heads"], dim_head=block["dim_head"])
    second = TextResnetBlock(in_channels=width, out_channels=width, **block)
    return nn.ModuleList([first, between, second])


def _resize(kind: type[nn.Module], resizes: bool, in_channels: int, out_channels: int) -> nn.Module:
    """Return a change of resolution of this kind, or without it what makes the channels fit."""
    if resizes:
        return kind(in_channels=in_channels, out_channels=out_channels)
    if in_channels == out_channels:
        return nn.Identity()
    return nn.Conv2d(in_channels, out_channels, 1)


def _per_level(name: str, value: Any, levels: int) -> list[Any]:
    """Return one value for each level from a single one or a list."""
    values = [value] * levels if isinstance(value, (bool, int)) else list(value)
    if len(values) != levels:
        raise BadParameter(f"{name} must be one value or one for each of the {levels} levels, got {value!r}")
    return values

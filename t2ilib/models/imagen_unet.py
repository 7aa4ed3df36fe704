"""Imagen's U-Net, for the base stage and for super-resolution, at any size from a laptop's to the paper's.

Saharia et al. 2022, "Photorealistic text-to-image diffusion models with deep language understanding", appendix B; the
parameters have the names of the public MinImagen package, so that its JSON configurations fit.
"""

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..checkpoint import configurable
from ..errors import BadParameter, unknown_name
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


@configurable
class ImagenUNet(DropsText, nn.Module):
    """Predict noise, picture or v from a noised picture, its time and a text; given `low`, enlarge that.

    Args:
        dim: channels of the first level. dim_mults: width of each level, as a multiple of `dim`; sides halve.
        channels, channels_out: of the picture; the latter is the former by default.
        cond_dim: width of the tokens to which places attend; `dim` by default.
        text_embed_dim: width of the text encoder's tokens and of its pooled feature.
        num_resnet_blocks: of each level, beside the one that reads the text.
        layer_attns, layer_cross_attns: which levels look at themselves, which at the text.
        attn_heads, attn_dim_head: number and width of attention heads. ff_mult: width of their feed-forward layer.
        lowres_cond: take a second picture to enlarge, and its noise level.
        memory_efficient: each level halves the side before its blocks, not after (the paper's Efficient U-Net), so
            that nothing is computed at full size but the first and the last convolution.
        attend_at_middle: self-attention at the narrowest place.
        init_kernels: sizes of the first convolution's kernels. final_resnet_block: one more block at full size.
        dropout: in each block. checkpointing: compute each block's inside again in the backward pass.

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
                 final_resnet_block: bool = True, dropout: float = 0.0, checkpointing: bool = False):
        super().__init__()
        levels = len(dim_mults)
        blocks, attns, crosses = (_each(name, value, levels) for name, value in (
            ("num_resnet_blocks", num_resnet_blocks), ("layer_attns", layer_attns),
            ("layer_cross_attns", layer_cross_attns)))
        if not levels or any(dim * m % GROUPS for m in (1, *dim_mults)) or dim % 2:
            raise BadParameter(f"dim and dim times each of dim_mults must be multiples of {GROUPS}, got dim={dim} and "
                               f"dim_mults={list(dim_mults)}")
        self.dim, self.lowres_cond, self.checkpointing = dim, lowres_cond, checkpointing
        self.factor = 2 ** (levels if memory_efficient else levels - 1)
        width, cond_dim = 4 * dim, cond_dim or dim
        self.conv_in = CrossEmbed(in_channels=channels * (1 + lowres_cond), out_channels=dim, kernels=init_kernels)
        self.time, self.time_tokens = _time_mlp(dim, width), nn.Linear(width, TIME_TOKENS * cond_dim)
        self.low_time = _time_mlp(dim, width) if lowres_cond else None
        self.text, self.context_norm = nn.Linear(text_embed_dim, cond_dim), nn.LayerNorm(cond_dim)
        self.pooled = nn.Sequential(nn.LayerNorm(text_embed_dim), nn.Linear(text_embed_dim, width), nn.SiLU(),
                                    nn.Linear(width, width))
        # what stands for "no text": learned, one token long
        self.null_token = nn.Parameter(torch.randn(text_embed_dim) * text_embed_dim**-0.5)
        self.null_pooled = nn.Parameter(torch.randn(text_embed_dim) * text_embed_dim**-0.5)

        attention = dict(heads=attn_heads, dim_head=attn_dim_head)

        def level(c_in: int, w: int, i: int) -> nn.ModuleDict:
            read = [crosses[i]] + [False] * blocks[i]
            return nn.ModuleDict({
                "blocks": nn.ModuleList(TextResnetBlock(
                    in_channels=c_in, out_channels=w, condition_dim=width, dropout=dropout,
                    context_dim=cond_dim if r else None, **attention) for r in read),
                "attention": SelfAttention(dim=w, ff_mult=ff_mult, **attention) if attns[i] else nn.Identity()})

        widths = [dim, *(dim * m for m in dim_mults)]
        self.down, self.enter, self.up, self.leave = (nn.ModuleList() for _ in range(4))
        for i, (outer, w) in enumerate(zip(widths, widths[1:], strict=False)):
            halves = memory_efficient or i > 0
            self.enter.append(_resize(PixelDown, halves, outer, w))
            self.down.append(level(w, w, i))
            self.up.insert(0, level(2 * w, w, i))
            self.leave.insert(0, _resize(PixelUp, halves, w, outer))
        block = dict(condition_dim=width, dropout=dropout, **attention)
        self.middle = nn.ModuleList([TextResnetBlock(in_channels=w, out_channels=w, context_dim=cond_dim, **block),
                                     SelfAttention(dim=w, ff_mult=ff_mult, **attention) if attend_at_middle
                                     else nn.Identity(), TextResnetBlock(in_channels=w, out_channels=w, **block)])
        self.join = nn.Conv2d(2 * dim, dim, 1)
        self.final = TextResnetBlock(in_channels=dim, out_channels=dim, **block) if final_resnet_block else None
        self.norm_out = nn.GroupNorm(GROUPS, dim)
        self.conv_out = zero_(nn.Conv2d(dim, channels_out or channels, 3, padding=1))

    @classmethod
    def from_json(cls, path: str | Path, **changes: Any) -> "ImagenUNet":
        """Build from a JSON file with the parameters of this class, which are those of the public package.

        Args:
            changes: replace what the file says.

        Raises:
            UnknownName: the file has a parameter that this class does not know. BadParameter: no JSON object.
        """
        try:
            given = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as e:
            raise BadParameter(f"{path} is not JSON: {e}") from e
        if not isinstance(given, dict):
            raise BadParameter(f"{path} must hold one object of parameters, got {type(given).__name__}")
        known = inspect.signature(cls.__init__).parameters
        for name in (*given, *changes):
            if name not in known or name == "self":
                raise unknown_name("parameter of the U-Net", name, [k for k in known if k != "self"])
        return cls(**{**given, **changes})

    def forward(self, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, pooled: Tensor, low: Tensor | None = None,
                low_t: Tensor | None = None) -> Tensor:
        self._check(x_t, low, low_t)
        condition = self.time(timestep_embedding(t, self.dim))
        if low is not None:
            condition = condition + self.low_time(timestep_embedding(low_t, self.dim))
            x_t = torch.cat([x_t, low], dim=1)
        moments = self.time_tokens(condition).unflatten(1, (TIME_TOKENS, -1))
        context = self.context_norm(torch.cat([moments, self.text(tokens)], dim=1))
        given = F.silu(condition + self.pooled(pooled)), context, F.pad(mask, (TIME_TOKENS, 0), value=True)
        h = stem = self.conv_in(x_t)
        skips = []
        for enter, level in zip(self.enter, self.down, strict=True):
            h = enter(h)
            for block in level["blocks"]:
                h = self._run(block, h, *given)
                if block is level["blocks"][-1]:
                    h = self._run(level["attention"], h)
                skips.append(h * SKIP_SCALE)
        h = self._run(self.middle[0], h, *given)
        h = self._run(self.middle[2], self._run(self.middle[1], h), *given)
        for level, leave in zip(self.up, self.leave, strict=True):
            for block in level["blocks"]:
                h = self._run(block, torch.cat([h, skips.pop()], dim=1), *given)
            h = leave(self._run(level["attention"], h))
        h = self.join(torch.cat([h, stem * SKIP_SCALE], dim=1))
        if self.final is not None:
            h = self._run(self.final, h, *given)
        return self.conv_out(norm_silu(self.norm_out, h))

    def _run(self, module: nn.Module, *args: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled() and not isinstance(module, nn.Identity):
            return checkpoint(module, *args, use_reentrant=False)
        return module(*args)

    def _check(self, x_t: Tensor, low: Tensor | None, low_t: Tensor | None) -> None:
        if (low is not None) != self.lowres_cond or (low_t is not None) != self.lowres_cond:
            wanted = "a small picture `low` and its `low_t`" if self.lowres_cond else "no `low`: it draws from noise"
            raise BadParameter(f"this U-Net has lowres_cond={self.lowres_cond} and takes {wanted}")
        if low is not None and low.shape != x_t.shape:
            raise BadParameter(f"`low` must be enlarged to the size of x_t, got {tuple(low.shape)} and "
                               f"{tuple(x_t.shape)}; see cascade.low_resolution_condition")
        if any(side % self.factor for side in x_t.shape[-2:]):
            raise BadParameter(f"height and width must be multiples of {self.factor}, got {tuple(x_t.shape[-2:])}")


def _time_mlp(dim: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, width), nn.SiLU(), nn.Linear(width, width))


def _resize(kind: type[nn.Module], halves: bool, c_in: int, c_out: int) -> nn.Module:
    if halves:
        return kind(in_channels=c_in, out_channels=c_out)
    return nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()


def _each(name: str, value: Any, levels: int) -> list[Any]:
    """Return one value for each level from a single one or a list."""
    found = [value] * levels if isinstance(value, (bool, int)) else list(value)
    if len(found) != levels:
        raise BadParameter(f"{name} must be one value or one for each of the {levels} levels, got {value!r}")
    return found

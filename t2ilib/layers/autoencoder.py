"""Convolutional encoder and decoder of VQGANs and of latent diffusion's first stages (Esser et al. 2021, table 7).

Names of parameters follow taming-transformers. Checked against: taming.modules.diffusionmodules.model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils import checkpoint

from .conv_blocks import AttnBlock, Downsample, ResnetBlock, Upsample, group_norm, norm_silu


class Blocks(nn.Module):
    """Blocks that follow one another.

    Attributes:
        checkpoint: keep only each block's input for the backward pass and compute its inside again there (Chen et al.
            2016, arXiv 1604.06174): the same bits in more time and much less memory.
    """

    checkpoint = False

    def run(self, block: nn.Module, x: Tensor) -> Tensor:
        """Return `block(x)`."""
        if not (self.checkpoint and torch.is_grad_enabled()):
            return block(x)
        return checkpoint.checkpoint(block, x, use_reentrant=False, preserve_rng_state=self.training)


class _Level(Blocks):
    """Residual blocks of one resolution, each followed by attention where asked for, then a change of resolution."""

    def __init__(
        self, *, in_channels: int, out_channels: int, blocks: int, attention: bool, dropout: float, norm_groups: int
    ):
        super().__init__()
        self.block = nn.ModuleList()
        for i in range(blocks):
            width = in_channels if i == 0 else out_channels
            self.block.append(ResnetBlock(in_channels=width, out_channels=out_channels, dropout=dropout,
                                          norm_groups=norm_groups))
        self.attn = nn.ModuleList()
        for _ in range(blocks if attention else 0):
            self.attn.append(AttnBlock(channels=out_channels, norm_groups=norm_groups))

    def forward(self, x: Tensor) -> Tensor:
        has_attention = len(self.attn) > 0
        for i, block in enumerate(self.block):
            x = self.run(block, x)
            if has_attention:
                x = self.run(self.attn[i], x)
        return x


class _Middle(Blocks):
    """Residual block, attention (or nothing), residual block at the lowest resolution."""

    def __init__(self, *, channels: int, attention: bool, dropout: float, norm_groups: int):
        super().__init__()
        sizes = {"in_channels": channels, "out_channels": channels, "dropout": dropout, "norm_groups": norm_groups}
        self.block_1 = ResnetBlock(**sizes)
        self.attn_1 = AttnBlock(channels=channels, norm_groups=norm_groups) if attention else nn.Identity()
        self.block_2 = ResnetBlock(**sizes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.run(self.block_1, x)
        x = self.run(self.attn_1, x)
        return self.run(self.block_2, x)


class Encoder(nn.Module):
    """Map pictures to feature maps of 1 / 2^(len(ch_mult) - 1) of their side.

    Args:
        ch: width of the first level; ch_mult multiplies it from the highest resolution to the lowest.
        num_res_blocks: residual blocks on each level.
        attn_resolutions: sides (for pictures of side `resolution`) at which attention follows each block.
        resolution: side that decides where attention goes; other sides can be encoded all the same.
        z_channels: channels of the result, twice as many with double_z (mean and log variance).
        resamp_with_conv: strided convolution instead of average pooling.
        mid_attention: attention between the two blocks at the lowest resolution.

    Shapes:
        x: (B, in_channels, H, W) -> (B, z_channels, H / f, W / f)
    """

    def __init__(
        self, *, ch: int, ch_mult: Sequence[int], num_res_blocks: int, attn_resolutions: Sequence[int],
        in_channels: int, resolution: int, z_channels: int, double_z: bool = False, dropout: float = 0.0,
        resamp_with_conv: bool = True, mid_attention: bool = True, norm_groups: int = 32,
    ):  # fmt: skip
        super().__init__()
        widths = [ch] + [ch * m for m in ch_mult]
        last = len(ch_mult) - 1
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        self.down = nn.ModuleList()
        for i in range(len(ch_mult)):
            level = _Level(
                in_channels=widths[i], out_channels=widths[i + 1], blocks=num_res_blocks,
                attention=resolution // 2**i in attn_resolutions, dropout=dropout, norm_groups=norm_groups,
            )  # fmt: skip
            if i < last:
                level.downsample = Downsample(channels=widths[i + 1], with_conv=resamp_with_conv)
            self.down.append(level)
        self.mid = _Middle(channels=widths[-1], attention=mid_attention, dropout=dropout, norm_groups=norm_groups)
        self.norm_out = group_norm(widths[-1], norm_groups)
        self.conv_out = nn.Conv2d(widths[-1], 2 * z_channels if double_z else z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        last = len(self.down) - 1
        h = self.conv_in(x)
        for i, level in enumerate(self.down):
            h = level(h)
            if i < last:
                h = level.downsample(h)
        h = self.mid(h)
        return self.conv_out(norm_silu(self.norm_out, h))


class Decoder(nn.Module):
    """Map feature maps back to pictures; the mirror of `Encoder` with one more block on each level.

    Shapes:
        z: (B, z_channels, h, w) -> (B, out_ch, f h, f w)
    """

    def __init__(
        self, *, ch: int, ch_mult: Sequence[int], num_res_blocks: int, attn_resolutions: Sequence[int],
        out_ch: int, resolution: int, z_channels: int, dropout: float = 0.0, resamp_with_conv: bool = True,
        mid_attention: bool = True, norm_groups: int = 32,
    ):  # fmt: skip
        super().__init__()
        widths = [ch * m for m in ch_mult]
        self.conv_in = nn.Conv2d(z_channels, widths[-1], 3, padding=1)
        self.mid = _Middle(channels=widths[-1], attention=mid_attention, dropout=dropout, norm_groups=norm_groups)
        self.up = nn.ModuleList()
        for i in range(len(ch_mult)):  # indexed by resolution like the encoder's, run from the last to the first
            below = widths[min(i + 1, len(widths) - 1)]  # of the level that is run before this one
            level = _Level(
                in_channels=below, out_channels=widths[i], blocks=num_res_blocks + 1,
                attention=resolution // 2**i in attn_resolutions, dropout=dropout, norm_groups=norm_groups,
            )  # fmt: skip
            if i > 0:
                level.upsample = Upsample(channels=widths[i], with_conv=resamp_with_conv)
            self.up.append(level)
        self.norm_out = group_norm(widths[0], norm_groups)
        self.conv_out = nn.Conv2d(widths[0], out_ch, 3, padding=1)

    @property
    def last_layer(self) -> nn.Parameter:
        """The last convolution's weight, on which the adversarial weight is balanced (eq. 7)."""
        return self.conv_out.weight

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for i in reversed(range(len(self.up))):
            h = self.up[i](h)
            if i > 0:
                h = self.up[i].upsample(h)
        return self.conv_out(norm_silu(self.norm_out, h))

"""Generator and critic of a WGAN-GP, both without batch statistics.

The penalty on the critic's gradient is computed for each picture, so a picture's score may not depend on the others of
its batch. A generator with batch norm would draw other pictures on two processes than on one. Papers: Gulrajani et al.
2017 (section 4 and appendix C), Radford et al. 2016, Odena et al. 2016 (repeating pixels leaves no checkerboard), Wu &
He 2018.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint import configurable
from ..errors import BadParameter
from ..layers.conv_blocks import double_and_convolve, group_norm, norm_silu

SMALLEST = 4  # side of the first map of the generator, and of the last of the critic


def _widths(image_size: int, ch: int, max_ch: int) -> list[int]:
    """Return channels from the full size down to 4 x 4: doubled with each halving, up to `max_ch`."""
    levels = image_size.bit_length() - SMALLEST.bit_length()
    is_power_of_2 = levels >= 1 and image_size == SMALLEST << levels
    if not is_power_of_2 or not 1 <= ch <= max_ch:
        raise BadParameter(f"image_size must be a power of 2 from 8 on, and 1 <= ch <= max_ch; got {image_size}, {ch} "
                           f"and {max_ch}")
    return [min(ch << i, max_ch) for i in range(levels + 1)]


class UpBlock(nn.Module):
    """Norm, SiLU, doubling 3x3 convolution, norm, SiLU, 3x3 convolution, around an enlarged shortcut.

    Pixels are repeated and then convolved, in one operation (see `layers.conv_blocks.double_and_convolve`).

    Shapes:
        x: (B, in_channels, H, W) -> (B, out_channels, 2 H, 2 W)
    """

    def __init__(self, *, in_channels: int, out_channels: int, norm_groups: int):
        super().__init__()
        self.norm1 = group_norm(in_channels, norm_groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels, norm_groups)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = double_and_convolve(norm_silu(self.norm1, x), self.conv1)
        h = self.conv2(norm_silu(self.norm2, h))
        return h + F.interpolate(self.shortcut(x), scale_factor=2.0, mode="nearest")


@configurable
class WGANGenerator(nn.Module):
    """Draw pictures from noise: a linear map to 4 x 4, then one doubling block for each level.

    Args:
        image_size: side of the pictures, a power of 2 from 8 on (32, 64, 128).
        latent_dim: length of z.
        ch: channels at the full size; they double with each halving.
        max_ch: upper limit of that.
        norm_groups: groups of GroupNorm; divides all widths.

    Shapes:
        z: (B, latent_dim), standard normal -> (B, 3, image_size, image_size) in [-1, 1]

    Raises:
        BadParameter: a size or width that does not fit.
    """

    def __init__(self, *, image_size: int = 64, latent_dim: int = 128, ch: int = 32, max_ch: int = 256,
                 norm_groups: int = 8):
        super().__init__()
        widths = _widths(image_size, ch, max_ch)[::-1]  # from 4 x 4 up
        self.latent_dim = latent_dim
        self.first = nn.Linear(latent_dim, widths[0] * SMALLEST**2)
        self.blocks = nn.Sequential()
        for before, after in pairwise(widths):
            self.blocks.append(UpBlock(in_channels=before, out_channels=after, norm_groups=norm_groups))
        self.norm_out = group_norm(widths[-1], norm_groups)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.first(z).view(len(z), -1, SMALLEST, SMALLEST)  # (B, C, 4, 4)
        h = self.blocks(h)  # (B, ch, image_size, image_size)
        return self.conv_out(norm_silu(self.norm_out, h)).tanh()


@configurable
class WGANCritic(nn.Module):
    """Give each picture one number of any size: halving 4x4 convolutions with leaky ReLU, and no normalisation at all.

    Args:
        image_size: side of the pictures, a power of 2 from 8 on.
        ch: channels after the first halving; they double with each further one.
        max_ch: upper limit of that.

    Shapes:
        x: (B, 3, image_size, image_size) in [-1, 1] -> scores (B,)

    Raises:
        BadParameter: a size or width that does not fit, or pictures of another size.
    """

    def __init__(self, *, image_size: int = 64, ch: int = 48, max_ch: int = 384):
        super().__init__()
        self.image_size = image_size
        widths = [3, *_widths(image_size, ch, max_ch)[:-1]]
        self.convs = nn.ModuleList()
        for before, after in pairwise(widths):
            self.convs.append(nn.Conv2d(before, after, 4, stride=2, padding=1))
        self.score = nn.Linear(widths[-1] * SMALLEST**2, 1)
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight, a=0.2)
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        size = self.image_size
        if x.shape[1:] != (3, size, size):
            raise BadParameter(f"this critic scores pictures (B, 3, {size}, {size}), got {tuple(x.shape)}")
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.2)
        return self.score(x.flatten(1))[:, 0]  # (B,)

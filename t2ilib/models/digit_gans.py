"""Generators and discriminators for digits: the linear pair of first lessons, and a small convolutional pair.

A discriminator returns logits; without a sigmoid at its end it is a critic as well. No discriminator normalises over
the batch, because a gradient penalty is computed for one picture at a time (Gulrajani et al. 2017, section 4). Papers:
Goodfellow et al. 2014; Radford et al. 2016 ("DCGAN"); Karras et al. 2018.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from ..checkpoint import configurable
from ..errors import BadParameter


@configurable
class LinearGenerator(nn.Module):
    """Linear layers that widen from noise to all pixels, batch-normalised from the second on.

    Args:
        latent_dim: length of the noise vectors. widths: of the hidden layers.
        image_channels, image_size: of the pictures.

    Shapes:
        z: (B, latent_dim) -> (B, image_channels, image_size, image_size) in [-1, 1]
    """

    def __init__(self, *, latent_dim: int = 100, widths: tuple[int, ...] = (128, 256, 512, 1024),
                 image_channels: int = 1, image_size: int = 28):
        super().__init__()
        self.latent_dim = latent_dim
        self.shape = (image_channels, image_size, image_size)
        self.layers = nn.Sequential()
        for i, (before, after) in enumerate(pairwise([latent_dim, *widths])):
            self.layers.append(nn.Linear(before, after))
            if i > 0:
                self.layers.append(nn.BatchNorm1d(after))
            self.layers.append(nn.LeakyReLU(0.2))
        self.layers.append(nn.Linear(widths[-1], image_channels * image_size**2))
        self.layers.append(nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).unflatten(1, self.shape)


@configurable
class LinearDiscriminator(nn.Module):
    """Linear layers from all pixels to one logit.

    Args:
        widths: of the hidden layers. image_channels, image_size: of the pictures.

    Shapes:
        x: (B, image_channels, image_size, image_size) in [-1, 1] -> logits (B,)
    """

    def __init__(self, *, widths: tuple[int, ...] = (512, 256), image_channels: int = 1, image_size: int = 28):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten())
        for before, after in pairwise([image_channels * image_size**2, *widths]):
            self.layers.append(nn.Linear(before, after))
            self.layers.append(nn.LeakyReLU(0.2))
        self.layers.append(nn.Linear(widths[-1], 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)[:, 0]


@configurable
class ConvGenerator(nn.Module):
    """Noise to a small map, then transposed convolutions that double its side: two of them, or one for tiny pictures.

    Args:
        latent_dim: length of the noise vectors. ch: channels before the last layer; twice as many before that.
        image_channels, image_size: of the pictures; the size is a multiple of 4, below 16 the map is of half the side.
        norm: "batch" as in DCGAN, or "group", with which a picture does not depend on the others of its batch.

    Shapes:
        z: (B, latent_dim) -> (B, image_channels, image_size, image_size) in [-1, 1]
    """

    def __init__(self, *, latent_dim: int = 64, ch: int = 32, image_channels: int = 1, image_size: int = 28,
                 norm: str = "batch"):
        super().__init__()
        tiny = _is_tiny(image_size)
        side = image_size // (2 if tiny else 4)
        if norm not in ("batch", "group"):
            raise BadParameter(f"norm must be 'batch' or 'group', got {norm!r}")
        self.latent_dim = latent_dim
        self.start = (2 * ch, side, side)
        self.project = nn.Linear(latent_dim, 2 * ch * side**2)
        if tiny:
            last = nn.Conv2d(ch, image_channels, 3, padding=1)
        else:
            last = nn.ConvTranspose2d(ch, image_channels, 4, stride=2, padding=1)
        self.layers = nn.Sequential(
            _norm(norm, 2 * ch),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * ch, ch, 4, stride=2, padding=1),
            _norm(norm, ch),
            nn.ReLU(),
            last,
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(self.project(z).unflatten(1, self.start))


@configurable
class ConvCritic(nn.Module):
    """Three convolutions, of which the first two halve the side, and one number; in tiny pictures only the second does.

    Args:
        ch: channels after the first layer; twice as many after the next.
        image_channels, image_size: of the pictures; the size is a multiple of 4, and tiny is below 16.
        minibatch_std: show the last convolution how much the pictures of the batch differ. Real and fake pictures must
            then come in batches of their own.

    Shapes:
        x: (B, image_channels, image_size, image_size) in [-1, 1] -> scores (B,)
    """

    def __init__(self, *, ch: int = 32, image_channels: int = 1, image_size: int = 28, minibatch_std: bool = False):
        super().__init__()
        tiny = _is_tiny(image_size)
        side = image_size // (2 if tiny else 4)
        if tiny:
            first = nn.Conv2d(image_channels, ch, 3, padding=1)
        else:
            first = nn.Conv2d(image_channels, ch, 4, stride=2, padding=1)
        self.layers = nn.Sequential(
            first,
            nn.LeakyReLU(0.2),
            nn.Conv2d(ch, 2 * ch, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        )
        if minibatch_std:
            self.layers.append(MinibatchStd())
        self.layers.extend([
            nn.Conv2d(2 * ch + minibatch_std, 2 * ch, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(2 * ch * side**2, 1),
        ])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)[:, 0]


class MinibatchStd(nn.Module):
    """Append a channel with the deviation between the pictures of a batch (Karras et al. 2018, section 3).

    The standard deviation of each feature at each place, over the batch; its mean is one number, the same for all. It
    shows a generator that always makes the same picture.

    Shapes:
        x: (B, C, H, W) -> (B, C + 1, H, W)
    """

    def forward(self, x: Tensor) -> Tensor:
        # the root has no derivative at 0, where all pictures are equal
        deviation = (x.var(dim=0, correction=0) + 1e-8).sqrt().mean()
        channel = deviation.expand(len(x), 1, *x.shape[2:])  # (B, 1, H, W)
        return torch.cat([x, channel], dim=1)


def _norm(kind: str, width: int) -> nn.Module:
    return nn.BatchNorm2d(width) if kind == "batch" else nn.GroupNorm(8, width)


def _is_tiny(image_size: int) -> bool:
    if image_size < 4 or image_size % 4:
        raise BadParameter(f"image_size must be a multiple of 4, got {image_size}; digits have 8 or 28 pixels")
    return image_size < 16

"""A classifier of digits: it counts which digits a generator draws, and its features measure how far they are off."""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoint import configurable


@configurable
class DigitClassifier(nn.Module):
    """Three convolutions, of which the last halves the side, as does the first from 16 pixels on; two linear layers.

    Args:
        ch: channels of the first convolution, of which the others have twice as many.
        image_size: side of the pictures.
        feature_dim: length of the features; small, so that a few hundred pictures can tell their covariance.
        dropout: share of the last map's values that is left out while training.

    Shapes:
        x: (B, 1, image_size, image_size) in [-1, 1] -> logits (B, 10)
    """

    def __init__(self, *, ch: int = 32, image_size: int = 28, feature_dim: int = 32, dropout: float = 0.3):
        super().__init__()
        first_stride = 1 if image_size < 16 else 2
        side = math.ceil(image_size / (2 * first_stride))
        self.layers = nn.Sequential(
            *_conv(1, ch, first_stride),
            *_conv(ch, 2 * ch, 1),
            *_conv(2 * ch, 2 * ch, 2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(2 * ch * side**2, feature_dim),
        )
        self.head = nn.Linear(feature_dim, 10)

    def features(self, x: Tensor) -> Tensor:
        """Return the input of the last layer: (B, feature_dim)."""
        return F.silu(self.layers(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def _conv(in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU()]

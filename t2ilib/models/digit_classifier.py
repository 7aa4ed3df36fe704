"""A classifier of digits: it counts which digits a generator draws, and its features measure how far they are off."""

from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoint import configurable


@configurable
class DigitClassifier(nn.Module):
    """Three convolutions, of which the first and the last halve the side, two linear layers.

    Args:
        ch: channels of the first convolution, of which the others have twice as many.
        image_size: side of the pictures.
        feature_dim: length of the features; small, so that a few hundred pictures can tell their covariance.
        dropout: share of what the features are made of that is left out while training.

    Shapes:
        x: (B, 1, image_size, image_size) in [-1, 1] -> logits (B, 10)
    """

    def __init__(self, *, ch: int = 32, image_size: int = 28, feature_dim: int = 32, dropout: float = 0.3):
        super().__init__()

        def conv(a: int, b: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(a, b, 3, stride=stride, padding=1), nn.BatchNorm2d(b), nn.ReLU()]

        first = 1 if image_size < 16 else 2
        side = (image_size + 2 * first - 1) // (2 * first)  # rounded up
        self.layers = nn.Sequential(*conv(1, ch, first), *conv(ch, 2 * ch, 1), *conv(2 * ch, 2 * ch, 2), nn.Flatten(),
                                    nn.Dropout(dropout), nn.Linear(2 * ch * side**2, feature_dim))
        self.head = nn.Linear(feature_dim, 10)

    def features(self, x: Tensor) -> Tensor:
        """Return what the last layer looks at: (B, feature_dim)."""
        return F.silu(self.layers(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

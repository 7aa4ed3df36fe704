"""A VQ-VAE whose codes hold feature vectors beside the picture, for the lesson on what a condition gives away.

The study that notebook 06 follows quantises BLIP's features of the picture and of its text jointly with the picture.
Its code is not known; this is the plainest form of the idea, one set of codes for both.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .vqvae2 import VQVAE2, Level
from ..checkpoint import configurable
from ..errors import BadParameter


@configurable
class JointVQVAE(VQVAE2):
    """A `VQVAE2` that joins a vector for each picture to what its encoder finds, before the codes.

    The vector is laid at every place of the fine grid and brought to the width of what was found there, by a linear
    map, and both are added: the same as a 1x1 convolution of the two side by side. The decoder reads codes alone:
    whatever it knows of the vector has come through them.

    Args:
        feature_dim: numbers of the vector. vqvae: arguments of `VQVAE2`.

    Shapes:
        x: (B, 3, H, W) in [-1, 1], features: (B, feature_dim), zeros if there are none -> as of `VQVAE2`

    Raises:
        BadParameter: an argument is out of range, or inputs do not fit.

    Example:
        net = JointVQVAE(feature_dim=384, vqvae=sizes.VQVAE2["small"])
        pictures, levels = net(x, torch.cat([blip.encode_image(to_unit(x)), blip.encode_text(names)], dim=1))
    """

    def __init__(self, *, feature_dim: int, vqvae: Mapping[str, Any]):
        super().__init__(**vqvae)
        if feature_dim < 1:
            raise BadParameter(f"feature_dim must be at least 1, got {feature_dim}; take VQVAE2 for pictures alone")
        self.feature_dim = feature_dim
        self.features_in = nn.Linear(feature_dim, self.from_fine.out_channels)

    def forward(self, x: Tensor, features: Tensor | None = None) -> tuple[Tensor, tuple[Level, ...]]:
        """Return reconstructions and levels."""
        if features is None:
            features = x.new_zeros(len(x), self.feature_dim)
        if features.shape != (len(x), self.feature_dim):
            raise BadParameter(f"features must be ({len(x)}, {self.feature_dim}), a vector for each picture, got "
                               f"{tuple(features.shape)}")
        found = self._features(x)  # (B, width, h, w)
        vector = self.features_in(features)[:, :, None, None]  # (B, width, 1, 1)
        return self._through_codes(found + vector)

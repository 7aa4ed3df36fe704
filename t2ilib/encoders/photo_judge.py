"""A second judge, which has seen photographs: frozen EfficientNet-Lite2 and a linear discriminant analysis on it.

`emoji-judge` learned from the drawings that the guides learned from, in the same way, and a search that climbs a guide
finds pictures that please both and nobody else. This one shares nothing with them but the drawings: its features come
from photographs, no training step made it, and what guides never reads them.
"""

from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .efficientnet_lite import HEAD_WIDTH, LITES
from .photo_clip import FLOOR
from ..assets import PACKAGED
from ..checkpoint import absent_checkpoint, configurable, load_model
from ..errors import BadParameter, MissingAsset, check_name
from ..paths import checkpoints_dir

PHOTO_JUDGE = "emoji-judge-photo"
RECIPE = "python -m t2ilib train judge-photo"
SHRINKAGE = 0.1  # of the covariance within concepts, towards a multiple of the identity


@configurable
class PhotoJudge(nn.Module):
    """Say which of C concepts a picture shows, from features of a frozen network.

    Features are brought into the space in which drawings of one concept scatter alike in all directions (linear
    discriminant analysis: Rao 1948; Hastie et al. 2009, section 4.3.3), so that what differs between artists, sizes,
    grounds and sharpness of one concept counts little. There a picture is compared with the mean of each concept.

    Args:
        concepts: number C of concepts, in the order of `Judgement.names`. directions: number D of the space that is
            kept, those that tell the means of the concepts apart best.
        network: EfficientNet-Lite that only measures. network_sha256: of the weights whose features it is fitted to.

    Shapes:
        forward: features (B, 1280) -> (B, D), unit norm. prototypes: (C, D), unit norm

    Raises:
        BadParameter: a value out of range, or a network that may guide.
    """

    def __init__(self, *, concepts: int, directions: int = 256, network: str = "efficientnet-lite2",
                 network_sha256: str = PACKAGED["efficientnet-lite2"].sha256):
        super().__init__()
        check_name("EfficientNet-Lite", network, LITES)
        if not LITES[network].measure_only:
            raise BadParameter(f"{network} may guide and must not judge; take efficientnet-lite2")
        if not 1 <= directions < min(concepts, HEAD_WIDTH):  # the means of C concepts span C - 1 directions
            raise BadParameter(f"{concepts} concepts span {min(concepts, HEAD_WIDTH) - 1} directions at most, got "
                               f"directions={directions}; give it more concepts or fewer directions")
        self.network = network
        self.network_sha256 = network_sha256
        self.register_buffer("feature_mean", torch.zeros(HEAD_WIDTH))
        self.register_buffer("directions", torch.zeros(HEAD_WIDTH, directions))
        self.register_buffer("prototypes", torch.zeros(concepts, directions))

    @torch.no_grad()
    def fit(self, features: Tensor, concepts: Tensor, *, shrinkage: float = SHRINKAGE) -> Self:
        """Take the means of the concepts and the scatter around them from N pictures; returns itself.

        Args:
            features: (N, 1280). concepts: (N,) int64, which concept each picture shows.
            shrinkage: in (0, 1], of the covariance within concepts (Friedman 1989, "regularised discriminant
                analysis").

        Raises:
            BadParameter: a concept without a picture, or a shrinkage out of range.
        """
        counts = concepts.bincount(minlength=len(self.prototypes))  # (C,)
        if len(counts) != len(self.prototypes) or counts.min() == 0:
            raise BadParameter(f"got pictures of {int((counts > 0).sum())} concepts for {len(self.prototypes)}; give "
                               "each concept a picture")
        if not 0 < shrinkage <= 1:
            raise BadParameter(f"shrinkage must be in (0, 1], got {shrinkage}")
        roots = (features + FLOOR).sqrt()
        self.feature_mean.copy_(roots.mean(0))
        x = (roots - self.feature_mean).double()
        means = x.new_zeros(len(counts), x.shape[1]).index_add(0, concepts, x) / counts[:, None]  # (C, 1280)
        around = x - means[concepts]
        within = around.T @ around / (len(x) - len(counts))
        within = torch.lerp(within, within.diagonal().mean() * torch.eye(len(within), dtype=x.dtype), shrinkage)
        whitening = torch.linalg.inv(torch.linalg.cholesky(within)).T  # (1280, 1280)
        _, _, axes = torch.linalg.svd(means @ whitening, full_matrices=False)
        self.directions.copy_(whitening @ axes[:self.directions.shape[1]].T)
        self.prototypes.copy_(F.normalize(means @ self.directions.double(), dim=1))
        return self

    def forward(self, features: Tensor) -> Tensor:
        """Return unit vectors of pictures, whose cosine to a prototype says how much they show its concept."""
        return F.normalize(((features + FLOOR).sqrt() - self.feature_mean) @ self.directions, dim=1)


def load_photo_judge(name: str | Path = PHOTO_JUDGE, *, device: torch.device | str = "cpu") -> PhotoJudge:
    """Load the judge that has seen photographs, in eval mode.

    Args:
        name: "emoji-judge-photo", or a folder like its.

    Raises:
        MissingAsset: there is no such checkpoint.
    """
    folder = checkpoints_dir() / name  # a folder's own path, where the name is one
    if not (folder / "config.json").is_file():
        raise MissingAsset(absent_checkpoint(folder.name, folder.parent, RECIPE))
    return load_model(PhotoJudge, folder, device=device).requires_grad_(False)

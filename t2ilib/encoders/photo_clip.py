"""A guide that has seen photographs: frozen EfficientNet-Lite0 for pictures, frozen MiniLM for texts, little between.

Pictures come to MiniLM's space in two ways, the sum of which is compared with the text:

- **prototypes**: the mean features of each training concept, and a kernel ridge regression from the similarity to them
  to the vectors of their names. It has a closed form, so that nothing is trained.
- **class names**: the 1000 classes that Lite0 can tell apart have names; their mean vector, weighted by what the
  classifier thinks, needs no drawing at all (Norouzi et al. 2014, arXiv:1312.5650).

Only prototypes, statistics and vectors of names are kept in a checkpoint; both frozen networks come from their pip
packages.
"""

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .efficientnet_lite import HEAD_WIDTH, LITES, EfficientNetLite, load_efficientnet_lite
from .emoji_clip import EmojiTokenizer
from .minilm import WIDTH, load_minilm
from .text import mean_pool
from ..assets import PACKAGED
from ..checkpoint import configurable
from ..errors import BadParameter, CheckpointMismatch, check_name

CLASSES = 1000  # of ImageNet
FLOOR = 1e-3  # added to features before their root, whose slope is infinite at zero
LOGIT_SCALE = 20.0  # a factor on cosines for those who want probabilities; nothing here is trained with it


class PhotoNames(NamedTuple):
    """MiniLM's features of the texts that a `PhotoClip` is fitted to.

    Attributes:
        names, keywords: of each training concept, (C, 384). class_names: of ImageNet's classes, (1000, 384).
    """

    names: Tensor
    keywords: Tensor
    class_names: Tensor


@configurable
class PhotoClip(nn.Module):
    """The kept part of the guide: prototypes of concepts, statistics of training drawings, vectors of class names.

    Args:
        prototypes: number C of training concepts. image_size: side of the pictures that Lite0 reads.
        bandwidth: of the kernel, as part of the median squared distance between prototypes.
        ridge: what is added to the diagonal of the kernel matrix.
        keyword_share: weight of a concept's keywords in the vector it is fitted to; that of its name is 1.
        class_share: weight of what the class names say; that of the prototypes is 1.
        class_temperature: of the softmax over the standardised logits.
        network: EfficientNet-Lite that may guide. network_sha256: of the weights whose features it is fitted to.

    Shapes:
        from_prototypes: features (B, 1280) of Lite0 -> (B, 384), unit norm
        from_classes: logits (B, 1000) of Lite0 -> (B, 384), unit norm
        forward: features and logits -> (B, 384), unit norm
        encode_texts: MiniLM's pooled features (B, 384) -> (B, 384), unit norm

    Raises:
        BadParameter: a value out of range, or a network that only measures.

    References:
        Saunders et al. 1998 (kernel ridge regression); Norouzi et al. 2014, arXiv:1312.5650, equation 4.
    """

    def __init__(self, *, prototypes: int, image_size: int = 192, bandwidth: float = 0.4, ridge: float = 0.2,
                 keyword_share: float = 0.6, class_share: float = 0.4, class_temperature: float = 0.5,
                 network: str = "efficientnet-lite0", network_sha256: str = PACKAGED["efficientnet-lite0"].sha256):
        super().__init__()
        check_name("EfficientNet-Lite", network, LITES)
        if LITES[network].measure_only:
            raise BadParameter(f"{network} only measures and must not guide; take efficientnet-lite0")
        if prototypes < 2 or image_size < 32:
            raise BadParameter(f"prototypes {prototypes}, image_size {image_size}: expected >= 2 and >= 32")
        if min(bandwidth, ridge, class_temperature) <= 0 or min(keyword_share, class_share) < 0:
            raise BadParameter(f"bandwidth {bandwidth}, ridge {ridge}, class_temperature {class_temperature}, "
                               f"keyword_share {keyword_share}, class_share {class_share}: expected the first three "
                               "above 0, the others >= 0")
        self.image_size = image_size
        self.bandwidth = bandwidth
        self.ridge = ridge
        self.keyword_share = keyword_share
        self.class_share = class_share
        self.class_temperature = class_temperature
        self.network = network
        self.network_sha256 = network_sha256
        self.register_buffer("feature_mean", torch.zeros(HEAD_WIDTH))
        self.register_buffer("feature_deviation", torch.ones(HEAD_WIDTH))
        self.register_buffer("logit_mean", torch.zeros(CLASSES))
        self.register_buffer("logit_deviation", torch.ones(CLASSES))
        self.register_buffer("text_mean", torch.zeros(WIDTH))
        self.register_buffer("class_names", torch.zeros(CLASSES, WIDTH))
        self.register_buffer("prototypes", torch.zeros(prototypes, HEAD_WIDTH))
        self.register_buffer("weights", torch.zeros(prototypes, WIDTH))
        self.register_buffer("width", torch.ones(()))  # squared, of the kernel

    @torch.no_grad()
    def fit(self, features: Tensor, logits: Tensor, concepts: Tensor, texts: PhotoNames) -> Self:
        """Take statistics and prototypes from N training drawings, and solve for the weights; returns itself.

        Args:
            features, logits: (N, 1280) and (N, 1000), of Lite0.
            concepts: (N,) int64, the place of each drawing's concept among `texts`.

        Raises:
            BadParameter: there are other numbers of concepts than of prototypes, or one without a drawing.
        """
        counts = concepts.bincount(minlength=len(self.prototypes))  # (C,)
        if not len(counts) == len(texts.names) == len(texts.keywords) == len(self.prototypes) or counts.min() == 0:
            raise BadParameter(f"got {len(texts.names)} names and drawings of {int((counts > 0).sum())} concepts for "
                               f"{len(self.prototypes)} prototypes; give each concept a name and a drawing")
        roots = (features + FLOOR).sqrt()
        self.feature_mean.copy_(roots.mean(0))
        self.feature_deviation.copy_(roots.std(0) + 1e-6)
        self.logit_mean.copy_(logits.mean(0))
        self.logit_deviation.copy_(logits.std(0) + 1e-6)
        self.text_mean.copy_(texts.names.mean(0))
        self.class_names.copy_(self.encode_texts(texts.class_names))
        sums = torch.zeros_like(self.prototypes).index_add(0, concepts, self._standardised(features))
        self.prototypes.copy_(sums / counts[:, None])
        distances = _squared_distances(self.prototypes, self.prototypes)  # (C, C)
        self.width.copy_(self.bandwidth * distances.median())
        kernel = (-distances / self.width).exp()
        keywords = F.normalize(texts.keywords - texts.keywords.mean(0), dim=-1)
        targets = F.normalize(self.encode_texts(texts.names) + self.keyword_share * keywords, dim=-1)
        diagonal = self.ridge * torch.eye(len(kernel), device=kernel.device)
        self.weights.copy_(torch.linalg.solve(kernel + diagonal, targets))
        return self

    def _standardised(self, features: Tensor) -> Tensor:
        """Return features (B, 1280) whose root varies alike in all of them.

        The root makes the few large ones smaller; on validation that is worth a point of top-5.
        """
        return ((features + FLOOR).sqrt() - self.feature_mean) / self.feature_deviation

    def encode_texts(self, features: Tensor) -> Tensor:
        """Return what MiniLM says of texts beyond what it says of the mean name.

        All names of drawings lie close together; without their mean the differences between them count.
        """
        return F.normalize(F.normalize(features, dim=-1) - self.text_mean, dim=-1)

    def from_prototypes(self, features: Tensor) -> Tensor:
        """Return where the concepts with similar features say that pictures lie."""
        distances = _squared_distances(self._standardised(features), self.prototypes)  # (B, C)
        similarities = (-distances / self.width).exp()
        return F.normalize(similarities @ self.weights, dim=-1)

    def from_classes(self, logits: Tensor) -> Tensor:
        """Return the mean vector of the class names, weighted by the classifier.

        Logits are standardised over training drawings, because to Lite0 half of the drawings are one of 12 things (a
        digital clock, a ping-pong ball), and one of 172 after that.
        """
        standardised = (logits - self.logit_mean) / self.logit_deviation
        shares = (standardised / self.class_temperature).softmax(-1)  # (B, 1000)
        return F.normalize(shares @ self.class_names, dim=-1)

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        """Return unit vectors of pictures from what Lite0 says of them."""
        return F.normalize(self.from_prototypes(features) + self.class_share * self.from_classes(logits), dim=-1)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return (B, D), (C, D) -> (B, C); unlike those of a root, its gradient is finite where both are equal."""
    squares = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
    return squares.clamp(min=0)


class PhotoTower(nn.Module):
    """Frozen EfficientNet-Lite with a `PhotoClip` on it: pictures (B, 3, H, W) in [0, 1] -> (B, 384), unit norm."""

    def __init__(self, network: EfficientNetLite, learnt: PhotoClip):
        super().__init__()
        self.network = network
        self.learnt = learnt

    def forward(self, x: Tensor) -> Tensor:
        features = self.network.features(x)  # (B, 1280)
        return self.learnt(features, self.network.classifier(features))


class PhotoClipNetwork(nn.Module):
    """A `PhotoClip` with its two frozen networks, as `Clip` takes it.

    Args:
        learnt: the kept part; its modules are shared.

    Shapes:
        encode_image: (B, 3, S, S) in [0, 1] -> (B, 384)
        encode_text: ids (B, T), filled up with `tokenizer.padding` -> (B, 384)

    Raises:
        MissingAsset: a package of weights is not installed.
        CheckpointMismatch: the head belongs to other weights than those of the package.
    """

    def __init__(self, learnt: PhotoClip):
        super().__init__()
        network = load_efficientnet_lite(learnt.network)
        if network.sha256 != learnt.network_sha256:
            raise CheckpointMismatch(f"this guide was fitted to {learnt.network} {learnt.network_sha256[:12]}..., the "
                                     f"package holds {network.sha256[:12]}...; train it again: `python -m t2ilib train "
                                     "clip-photo`")
        self.config = learnt.config
        self.visual = PhotoTower(network, learnt)
        self.minilm, pieces = load_minilm()
        self.tokenizer = EmojiTokenizer(pieces)
        self.register_buffer("logit_scale", torch.tensor(math.log(LOGIT_SCALE)), persistent=False)

    def encode_image(self, x: Tensor) -> Tensor:
        """Return unit vectors of pictures."""
        return self.visual(x)

    def encode_text(self, ids: Tensor) -> Tensor:
        """Return unit vectors of texts."""
        mask = ids != self.tokenizer.padding  # (B, T)
        return self.visual.learnt.encode_texts(mean_pool(self.minilm(ids, mask), mask))

"""A VQ-VAE of plain residual blocks with batch norm, for the study of its loss (van den Oord et al. 2017).

A 7x7 convolution, six residual blocks of four 3x3 convolutions, three halvings; the decoder is the mirror image. All
layers have one width. At 256 channels these are about 28 million parameters, and a picture of 128 x 128 becomes 16 x 16
of 512 codes.

Batch norm makes what a network in train mode says of a picture depend on the other pictures of the batch. Codes are
therefore always read in eval mode.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint import configurable
from ..errors import BadParameter
from ..layers.quantize import Quantized, VectorQuantizer

BLOCKS = 6
HALVINGS = 3
CONVS = 4  # of a residual block
FACTOR = 2**HALVINGS


class ResidualBlock(nn.Module):
    """Four times 3x3 convolution, batch norm, ReLU, beside the input (He et al. 2016).

    Args:
        channels: of input and output.
        resample: "down" halves the side in the first convolution, "up" doubles it behind the last; "" keeps it.

    Shapes:
        (B, channels, H, W) -> (B, channels, H', W')
    """

    def __init__(self, channels: int, *, resample: str = ""):
        super().__init__()
        self.resample = resample
        layers: list[nn.Module] = []
        for i in range(CONVS):
            stride = 2 if resample == "down" and i == 0 else 1
            layers.append(nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False))
            layers.append(nn.BatchNorm2d(channels))
            layers.append(nn.ReLU(inplace=True))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layers(x)
        if self.resample == "down":
            x = F.avg_pool2d(x, 2)
        h = h + x
        if self.resample == "up":
            h = F.interpolate(h, scale_factor=2.0, mode="nearest")
        return h


@configurable
class VQVAE(nn.Module):
    """Encoder, codebook and decoder.

    Args:
        channels: of every layer, and numbers of a code vector.
        n_embed: number of codes K.
        beta: weight of the commitment term in the quantiser's `loss`.
        extra_doublings: blocks behind the decoder, each of which doubles the side and adds what is missing to the
            enlarged smaller picture, for pictures larger than those that are read.

    The submodule `quantize` is the quantiser: `model.quantize(model.encode(x))` returns a `Quantized` with a
    straight-through gradient.

    Shapes:
        x: (B, 3, H, W) in [-1, 1], H and W multiples of 8 -> reconstruction (B, 3, s H, s W) with
        s = 2^extra_doublings, Quantized

    Raises:
        BadParameter: an argument is out of range, or pictures do not fit.
    """

    def __init__(self, *, channels: int = 256, n_embed: int = 512, beta: float = 0.25, extra_doublings: int = 0):
        super().__init__()
        if channels < 1 or n_embed < 1 or extra_doublings < 0:
            raise BadParameter("channels and n_embed must be at least 1 and extra_doublings at least 0, got "
                               f"{channels}, {n_embed} and {extra_doublings}")
        self.factor = FACTOR
        self.conv_in = nn.Conv2d(3, channels, 7, padding=3)
        self.encoder = nn.Sequential()
        self.decoder = nn.Sequential()
        for i in range(BLOCKS):
            changes = i % 2 == 0  # every other block changes the side, so that two blocks work on each
            self.encoder.append(ResidualBlock(channels, resample="down" if changes else ""))
            self.decoder.append(ResidualBlock(channels, resample="" if changes else "up"))
        self.enlarger = nn.ModuleList()
        self.details = nn.ModuleList()
        for _ in range(extra_doublings):
            self.enlarger.append(ResidualBlock(channels, resample="up"))
            self.details.append(nn.Conv2d(channels, 3, 3, padding=1))
        self.conv_out = nn.Conv2d(channels, 3, 7, padding=3)
        self.quantize = VectorQuantizer(n_embed=n_embed, embed_dim=channels, beta=beta)

    @property
    def codebook(self) -> Tensor:
        """The table of code vectors, (K, channels)."""
        return self.quantize.table

    @property
    def last_layer(self) -> nn.Parameter:
        """The decoder's last weight, for `losses.adaptive_weight`."""
        return self.conv_out.weight

    def encode(self, x: Tensor) -> Tensor:
        """Return what is to be quantised: (B, 3, H, W) in [-1, 1] -> z_e (B, channels, H / 8, W / 8)."""
        height, width = x.shape[-2:]
        if x.ndim != 4 or x.shape[1] != 3 or height % self.factor or width % self.factor:
            raise BadParameter(f"pictures must be (B, 3, H, W) with sides that are multiples of {self.factor}, got "
                               f"{tuple(x.shape)}")
        return self.encoder(self.conv_in(x))

    def embed_codes(self, codes: Tensor) -> Tensor:
        """Look up code vectors: codes (B, h, w), int64 -> z_q (B, channels, h, w)."""
        return F.embedding(codes, self.codebook).movedim(-1, 1)

    def decode(self, z_q: Tensor) -> Tensor:
        """Return pictures: (B, channels, h, w) -> (B, 3, 8 s h, 8 s w), about [-1, 1] but not clamped."""
        return self.paint(self.decoder(z_q))

    def paint(self, features: Tensor) -> Tensor:
        """Return pictures for what `decoder` makes of codes: (B, channels, 8 h, 8 w) -> (B, 3, 8 s h, 8 s w)."""
        picture = self.conv_out(features)
        for block, details in zip(self.enlarger, self.details, strict=True):
            features = block(features)
            enlarged = F.interpolate(picture, scale_factor=2.0, mode="bilinear", align_corners=False)
            picture = enlarged + details(features)
        return picture

    def decode_codes(self, codes: Tensor) -> Tensor:
        """Return pictures for codes (B, h, w) -> (B, 3, 8 s h, 8 s w)."""
        return self.decode(self.embed_codes(codes))

    def encode_codes(self, x: Tensor) -> Tensor:
        """Return the codes of pictures, each by itself whatever mode the network is in: (B, 3, H, W) -> (B, h, w)."""
        was_training = self.training
        self.eval()
        try:
            return self.quantize(self.encode(x)).codes
        finally:
            self.train(was_training)

    def forward(self, x: Tensor) -> tuple[Tensor, Quantized]:
        quantized = self.quantize(self.encode(x))
        return self.decode(quantized.z_q), quantized


def enlarge(model: VQVAE) -> VQVAE:
    """Return a network that decodes to twice the side, with equal weights and one more block behind the decoder.

    Codes stay what they are. What the new block adds is 0 at first, so that training begins with the smaller picture,
    enlarged.
    """
    config = model.config
    larger = VQVAE(**{**config, "extra_doublings": config["extra_doublings"] + 1})
    state = larger.state_dict()
    state.update(model.state_dict())
    larger.load_state_dict(state)
    nn.init.zeros_(larger.details[-1].weight)
    nn.init.zeros_(larger.details[-1].bias)
    device = model.conv_in.weight.device
    return larger.to(device).train(model.training)

"""VQ-VAE with one grid of codes or with two, a coarse one that the fine one builds on.

van den Oord et al. 2017, "Neural discrete representation learning"; Razavi et al. 2019, "Generating diverse
high-fidelity images with VQ-VAE-2". Strided convolutions, plain residual blocks, no normalisation.
"""

import hashlib
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoint import configurable, load_model
from ..errors import BadParameter, MissingAsset, unknown_name
from ..layers.quantize import Quantized, VectorQuantizer
from ..paths import checkpoints_dir

FACTOR = 4  # sides of a picture over those of the finest grid
STEM = 2  # channels of a picture at half of its side are `channels // STEM`
Grids = tuple[Tensor, ...]
NAME = "emoji-vqvae"
RECIPE = "python -m t2ilib train vqvae"


class Level(NamedTuple):
    """What a picture was at one grid: z_e (B, D, h, w) before, and `quantized` after the codebook."""

    z_e: Tensor
    quantized: Quantized


class ResBlock(nn.Module):
    """ReLU, 3x3 convolution, ReLU, 1x1 convolution, beside the input: (B, C, H, W) -> same."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.first = nn.Conv2d(channels, hidden, 3, padding=1)
        self.second = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(F.relu(x))
        return x + self.second(F.relu(h))


def _residual(channels: int, hidden: int, blocks: int) -> list[nn.Module]:
    """Return residual blocks and the ReLU that follows them."""
    return [*(ResBlock(channels, hidden) for _ in range(blocks)), nn.ReLU()]


def _initialise(module: nn.Module) -> None:
    """Keep the size of signals from layer to layer (He et al. 2015), and begin with residual blocks that add nothing.

    There is no normalisation that would do it, and torch's own initialisation lets signals fade.
    """
    if isinstance(module, ResBlock):
        nn.init.zeros_(module.second.weight)
    elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        fan_in = module.weight[0].numel()
        if isinstance(module, nn.ConvTranspose2d):
            fan_in = module.in_channels * 4  # of a 4 x 4 kernel of stride 2, each output sees 2 x 2 inputs
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_in))
        nn.init.zeros_(module.bias)


def _halve(in_channels: int, out_channels: int) -> nn.Module:
    return nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1)


def _double(in_channels: int, out_channels: int) -> nn.Module:
    return nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1)


@configurable
class VQVAE2(nn.Module):
    """Encoder, one codebook for each grid, decoder.

    Args:
        levels: 1 is the VQ-VAE of 2017 with a grid of a quarter of the sides; 2 has a coarse grid of an eighth, too.
        channels: of the features at the grids. hidden: inside their residual blocks, of which there are `blocks`
            before and behind each grid.
        n_embed: number of codes K of each grid. embed_dim: numbers D of a code vector.
        beta: weight of the commitment term. gradient: how it passes the codebook, see `layers.quantize`.

    Attributes:
        quantizers: one for each grid, the coarse one first.

    Shapes:
        x: (B, 3, H, W) in [-1, 1], sides multiples of 4 `levels` -> reconstruction of the same shape, and a `Level`
        for each grid, the coarse one first

    Raises:
        BadParameter: an argument is out of range, or pictures do not fit.
    """

    def __init__(self, *, levels: int = 1, channels: int = 128, hidden: int = 64, blocks: int = 2, n_embed: int = 512,
                 embed_dim: int = 32, beta: float = 0.25, gradient: str = "straight_through"):
        super().__init__()
        if levels not in (1, 2):
            raise BadParameter(f"levels must be 1 or 2, got {levels}")
        if min(channels // STEM, hidden, n_embed, embed_dim) < 1 or blocks < 0:
            raise BadParameter(f"channels must be at least {STEM}, hidden, n_embed and embed_dim at least 1, blocks at "
                               f"least 0, got {channels}, {hidden}, {n_embed}, {embed_dim} and {blocks}")
        self.levels = levels
        self.factor = FACTOR
        stem = channels // STEM
        self.encoder = nn.Sequential(
            _halve(3, stem), nn.ReLU(), _halve(stem, channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1), *_residual(channels, hidden, blocks))
        fine_channels = channels
        decoder_channels = embed_dim
        if levels == 2:
            self.coarse_encoder = nn.Sequential(_halve(channels, channels), nn.ReLU(),
                                                nn.Conv2d(channels, channels, 3, padding=1),
                                                *_residual(channels, hidden, blocks))
            self.to_coarse = nn.Conv2d(channels, embed_dim, 1)
            self.coarse_decoder = nn.Sequential(nn.Conv2d(embed_dim, channels, 3, padding=1),
                                                *_residual(channels, hidden, blocks), _double(channels, embed_dim))
            self.coarse_doubling = _double(embed_dim, embed_dim)
            fine_channels = channels + embed_dim
            decoder_channels = 2 * embed_dim
        self.to_fine = nn.Conv2d(fine_channels, embed_dim, 1)
        self.quantizers = nn.ModuleList()
        for _ in range(levels):
            self.quantizers.append(VectorQuantizer(n_embed=n_embed, embed_dim=embed_dim, beta=beta, gradient=gradient))
        self.decoder = nn.Sequential(
            nn.Conv2d(decoder_channels, channels, 3, padding=1), *_residual(channels, hidden, blocks),
            _double(channels, stem), ResBlock(stem, stem), nn.ReLU(), _double(stem, 3))
        self.apply(_initialise)

    @property
    def codebook(self) -> Tensor:
        """Return the table of the finest grid's code vectors, (K, D)."""
        return self.quantizers[-1].table

    def shapes(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """Return the sides of the grids for pictures of this size, the coarse grid first."""
        multiple = FACTOR * self.levels
        if min(height, width) < multiple or height % multiple or width % multiple:
            raise BadParameter(f"pictures need sides that are multiples of {multiple}, got {height} x {width}")
        fine = (height // FACTOR, width // FACTOR)
        if self.levels == 1:
            return (fine,)
        return (fine[0] // 2, fine[1] // 2), fine

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Level, ...]]:
        """Return reconstructions and levels."""
        if x.ndim != 4 or x.shape[1] != 3:
            raise BadParameter(f"pictures must be (B, 3, H, W), got {tuple(x.shape)}")
        self.shapes(*x.shape[-2:])  # refuses sides that do not fit
        features = self.encoder(x)
        levels = []
        if self.levels == 2:
            coarse = self._quantize(0, self.to_coarse(self.coarse_encoder(features)))
            levels.append(coarse)
            features = torch.cat([self.coarse_decoder(coarse.quantized.z_q), features], dim=1)
        levels.append(self._quantize(-1, self.to_fine(features)))
        pictures = self.decode(*(level.quantized.z_q for level in levels))
        return pictures, tuple(levels)

    def _quantize(self, level: int, z_e: Tensor) -> Level:
        z_e = z_e.float()  # distances to codes need more than the precision of autocast
        return Level(z_e, self.quantizers[level](z_e))

    def decode(self, *z_q: Tensor) -> Tensor:
        """Return pictures (B, 3, H, W), about [-1, 1] but not clamped, of code vectors (B, D, h, w) of each grid."""
        if len(z_q) != self.levels:
            raise BadParameter(f"this network has {self.levels} grids of codes, got {len(z_q)}")
        fine = z_q[-1]
        if self.levels == 2:
            fine = torch.cat([self.coarse_doubling(z_q[0]), fine], dim=1)
        return self.decoder(fine)

    def embed_codes(self, *codes: Tensor) -> Grids:
        """Look up code vectors: codes (B, h, w) of each grid -> (B, D, h, w) of each."""
        vectors = []
        for quantizer, grid in zip(self.quantizers, codes, strict=True):
            vectors.append(F.embedding(grid, quantizer.table).movedim(-1, 1))
        return tuple(vectors)

    def encode_codes(self, x: Tensor) -> Grids:
        """Return the codes of pictures: (B, 3, H, W) in [-1, 1] -> (B, h, w) int64 of each grid, coarse ones first."""
        _, levels = self(x)
        return tuple(level.quantized.codes for level in levels)

    def decode_codes(self, *codes: Tensor) -> Tensor:
        """Return pictures (B, 3, H, W) for codes (B, h, w) of each grid, the coarse one first."""
        if len(codes) != self.levels:
            raise BadParameter(f"this network has {self.levels} grids of codes, got {len(codes)}")
        return self.decode(*self.embed_codes(*codes))

    def digest(self) -> str:
        """Return a SHA-256 of all weights, by which stores of codes and networks of codes know this one."""
        found = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            found.update(name.encode())
            found.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()


def load_vqvae(name_or_path: str | Path = NAME, *, home: Path | None = None,
               device: torch.device | str = "cpu") -> VQVAE2:
    """Load a VQ-VAE in eval mode, without gradients for its weights.

    Args:
        name_or_path: a folder with `config.json`, or the name of a checkpoint. home: a folder of checkpoints in which a
            name is looked for before those that ship.

    Raises:
        MissingAsset: there is no such checkpoint. CheckpointMismatch: it is of another class, or damaged.
    """
    return load_model(VQVAE2, find_vqvae(name_or_path, home), device=device).requires_grad_(False)


def find_vqvae(name_or_path: str | Path, home: Path | None = None) -> Path:
    """Return the folder of a VQ-VAE; arguments and errors as in `load_vqvae`."""
    name = str(name_or_path)
    folders = [Path(name_or_path).expanduser(), checkpoints_dir() / name]
    if home is not None:
        folders.insert(1, home / name)
    for folder in folders:
        if folder.is_dir():
            return folder
    if name == NAME:
        raise MissingAsset(f"no checkpoint {NAME}; train it with `{RECIPE}`, or give the folder of a VQ-VAE")
    known = {config.parent.name for config in checkpoints_dir().glob("*vqvae*/config.json")}
    raise unknown_name("VQ-VAE", name, known | {NAME})

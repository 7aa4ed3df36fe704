"""VQ-VAE with one grid of codes or with two, a coarse one that the fine one builds on.

van den Oord et al. 2017, "Neural discrete representation learning"; Razavi et al. 2019, "Generating diverse
high-fidelity images with VQ-VAE-2". Encoder and decoder are those of `layers.autoencoder`, whose normalised blocks need
fewer pictures than the plain ones of both papers.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoint import absent_checkpoint, configurable, load_model
from ..errors import BadParameter, MissingAsset, unknown_name
from ..layers.autoencoder import Decoder, Encoder
from ..layers.conv_blocks import Downsample, ResnetBlock, Upsample
from ..layers.quantize import Quantized, VectorQuantizer
from ..paths import checkpoints_dir

Grids = tuple[Tensor, ...]
NAME = "emoji-vqvae"
RECIPE = "python -m t2ilib train vqvae"


class Level(NamedTuple):
    """What a picture was at one grid: z_e (B, D, h, w) before, and `quantized` after the codebook."""

    z_e: Tensor
    quantized: Quantized


@configurable
class VQVAE2(nn.Module):
    """Encoder, one codebook for each grid, decoder.

    Args:
        levels: 1 has one grid, as in 2017; 2 has a coarse grid of half its sides, too.
        ch, ch_mult, num_res_blocks, norm_groups: of `layers.autoencoder`, down to the fine grid and up again.
        coarse_blocks: residual blocks before and behind the coarse grid.
        n_embed: number of codes K of each grid. embed_dim: numbers D of a code vector; few, so that vectors lie close
            together and codes are used (Yu et al. 2021, section 3.2).
        beta: weight of the commitment term. gradient: how it passes the codebook, see `layers.quantize`.
        patch_size: side of the pixel blocks that are folded into channels, as in `models.vqgan`.

    Attributes:
        factor: sides of a picture over those of the fine grid.
        quantizers: one for each grid, the coarse one first.

    Shapes:
        x: (B, 3, H, W) in [-1, 1], sides multiples of `factor * levels` -> reconstruction of the same shape, and a
        `Level` for each grid, the coarse one first

    Raises:
        BadParameter: an argument is out of range, or pictures do not fit.
    """

    def __init__(self, *, levels: int = 1, ch: int = 16, ch_mult: Sequence[int] = (1, 3, 8), num_res_blocks: int = 1,
                 norm_groups: int = 8, coarse_blocks: int = 1, n_embed: int = 1024, embed_dim: int = 8,
                 beta: float = 0.25, gradient: str = "straight_through", patch_size: int = 1):
        super().__init__()
        if levels not in (1, 2):
            raise BadParameter(f"levels must be 1 or 2, got {levels}")
        if min(ch, num_res_blocks, n_embed, embed_dim, patch_size, coarse_blocks, len(ch_mult)) < 1:
            raise BadParameter("ch, ch_mult, num_res_blocks, n_embed, embed_dim, patch_size and coarse_blocks must be "
                               f"at least 1, got {ch}, {list(ch_mult)}, {num_res_blocks}, {n_embed}, {embed_dim}, "
                               f"{patch_size} and {coarse_blocks}")
        self.levels = levels
        self.patch_size = patch_size
        self.factor = patch_size * 2 ** (len(ch_mult) - 1)
        width = ch * ch_mult[-1]  # of the features at the fine grid
        common = {"ch": ch, "ch_mult": tuple(ch_mult), "num_res_blocks": num_res_blocks, "attn_resolutions": (),
                  "resolution": 64, "mid_attention": False, "norm_groups": norm_groups}
        self.encoder = Encoder(in_channels=3 * patch_size**2, z_channels=width, **common)
        fine_channels = width
        if levels == 2:
            coarse = {"channels": width, "blocks": coarse_blocks, "norm_groups": norm_groups}
            self.coarse_encoder = nn.Sequential(Downsample(channels=width), *_blocks(**coarse))
            self.to_coarse = nn.Conv2d(width, embed_dim, 1)
            self.coarse_decoder = nn.Sequential(nn.Conv2d(embed_dim, width, 3, padding=1), *_blocks(**coarse),
                                                Upsample(channels=width))
            fine_channels = 2 * width
        self.to_fine = nn.Conv2d(fine_channels, embed_dim, 1)
        self.quantizers = nn.ModuleList()
        for _ in range(levels):
            self.quantizers.append(VectorQuantizer(n_embed=n_embed, embed_dim=embed_dim, beta=beta, gradient=gradient))
        self.from_fine = nn.Conv2d(embed_dim, width, 1)
        self.decoder = Decoder(out_ch=3 * patch_size**2, z_channels=levels * width, **common)

    @property
    def codebook(self) -> Tensor:
        """Return the table of the finest grid's code vectors, (K, D)."""
        return self.quantizers[-1].table

    @property
    def codebooks(self) -> Grids:
        """Return the tables of code vectors of all grids, the coarse one first."""
        return tuple(quantizer.table for quantizer in self.quantizers)

    def shapes(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """Return the sides of the grids for pictures of this size, the coarse grid first."""
        multiple = self.factor * self.levels
        if min(height, width) < multiple or height % multiple or width % multiple:
            raise BadParameter(f"pictures need sides that are multiples of {multiple}, got {height} x {width}")
        fine = (height // self.factor, width // self.factor)
        if self.levels == 1:
            return (fine,)
        return (fine[0] // 2, fine[1] // 2), fine

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Level, ...]]:
        """Return reconstructions and levels."""
        return self._through_codes(self._features(x))

    def _through_codes(self, features: Tensor) -> tuple[Tensor, tuple[Level, ...]]:
        """Return what the decoder paints of features (B, width, h, w), and their levels."""
        levels = []
        said = []  # what the decoder reads
        if self.levels == 2:
            coarse = self._quantize(0, self.to_coarse(self.coarse_encoder(features)))
            levels.append(coarse)
            said.append(self.coarse_decoder(coarse.quantized.z_q))
            features = torch.cat([said[0], features], dim=1)  # (B, 2 width, h, w)
        fine = self._quantize(-1, self.to_fine(features))
        levels.append(fine)
        said.append(self.from_fine(fine.quantized.z_q))
        return self._paint(said), tuple(levels)

    def _features(self, x: Tensor) -> Tensor:
        """Return what the encoder finds at the fine grid: (B, width, h, w)."""
        if x.ndim != 4 or x.shape[1] != 3:
            raise BadParameter(f"pictures must be (B, 3, H, W), got {tuple(x.shape)}")
        self.shapes(*x.shape[-2:])  # refuses sides that do not fit
        return self.encoder(F.pixel_unshuffle(x, self.patch_size))

    def _quantize(self, level: int, z_e: Tensor) -> Level:
        z_e = z_e.float()  # distances to codes need more than the precision of autocast
        return Level(z_e, self.quantizers[level](z_e))

    def _paint(self, said: list[Tensor]) -> Tensor:
        return F.pixel_shuffle(self.decoder(torch.cat(said, dim=1)), self.patch_size)

    def decode(self, *z_q: Tensor) -> Tensor:
        """Return pictures (B, 3, H, W), about [-1, 1] but not clamped, of code vectors (B, D, h, w) of each grid."""
        self._check_grids(z_q)
        said = [self.from_fine(z_q[-1])]
        if self.levels == 2:
            said.insert(0, self.coarse_decoder(z_q[0]))
        return self._paint(said)

    def _check_grids(self, grids: Sequence[Tensor]) -> None:
        if len(grids) != self.levels:
            raise BadParameter(f"this network has {self.levels} grids of codes, got {len(grids)}")

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
        self._check_grids(codes)
        return self.decode(*self.embed_codes(*codes))

    def digest(self) -> str:
        """Return a SHA-256 of all weights, by which stores of codes and networks of codes know this one."""
        found = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            found.update(name.encode())
            found.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()


def _blocks(channels: int, blocks: int, norm_groups: int) -> list[nn.Module]:
    return [ResnetBlock(in_channels=channels, out_channels=channels, norm_groups=norm_groups) for _ in range(blocks)]


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
        raise MissingAsset(absent_checkpoint(NAME, home or checkpoints_dir(), RECIPE))
    known = {config.parent.name for config in checkpoints_dir().glob("*vqvae*/config.json")}
    raise unknown_name("VQ-VAE", name, known | {NAME})

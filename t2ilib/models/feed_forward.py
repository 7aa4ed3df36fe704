"""Feed-forward generators: from a text's embedding to a picture in one pass, without optimisation and without steps.

`PixelGenerator` makes pixels and is trained against a CLIP: linear blocks, a transformer of residual attention blocks,
convolutions with upsampling. `CodeGenerator` predicts all codes of a VQGAN at once, whose decoder makes the pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoint import configurable
from ..errors import BadParameter, check_name
from ..layers.conv_blocks import ResnetBlock, group_norm, norm_silu
from ..layers.text_memory import TextMemory, begin_with_components, by_thing
from ..layers.transformer import INIT_STD, Transformer
from ..layers.unet_blocks import zero_

UPSAMPLINGS = ("transposed", "nearest")
GRID = 4  # side of the grid of tokens that becomes a picture
NEARNESS = 0.3  # of code vectors before training, as an inverse variance


@configurable
class PixelGenerator(nn.Module):
    """An embedding becomes 16 tokens, a transformer relates them, convolutions enlarge their grid to pixels.

    With the defaults it follows the description of a published system of 4,647,963 parameters; the widths are chosen
    here.

    Args:
        embed_dim: D of the embedding. noise_dim: Z further numbers, drawn anew for each picture; 0 is none.
        hidden: width of the first linear block. dim, depth, heads: of the transformer.
        widths: channels after each doubling of the side; their number decides the picture's side, 4 * 2^len(widths).
        upsample: "transposed" convolutions, which leave a checkerboard to be unlearned, or "nearest" pixels repeated
            before a plain convolution (Odena et al. 2016).
        channels: 3 of a picture; or as many as the latents of a VQGAN have, which its decoder paints.

    Shapes:
        embedding: (B, D), noise: (B, Z) or None -> (B, channels, S, S), in [-1, 1] if they are 3

    Raises:
        UnknownName: no such `upsample`. BadParameter: an input has another width.
    """

    def __init__(self, *, embed_dim: int = 256, noise_dim: int = 0, hidden: int = 554, dim: int = 256, depth: int = 2,
                 heads: int = 8, widths: Sequence[int] = (160, 112, 80, 48), upsample: str = "transposed",
                 channels: int = 3):
        super().__init__()
        check_name("upsample", upsample, UPSAMPLINGS)
        self.embed_dim = embed_dim
        self.noise_dim = noise_dim
        self.dim = dim
        self.channels = channels
        self.image_size = GRID * 2 ** len(widths)
        self.linear = nn.Sequential(
            nn.Linear(embed_dim + noise_dim, hidden),
            nn.GELU(),
            nn.Linear(hidden, GRID**2 * dim),
        )
        self.positions = nn.Parameter(torch.randn(GRID**2, dim) * INIT_STD)
        self.transformer = Transformer(dim=dim, depth=depth, heads=heads)
        self.norm = nn.LayerNorm(dim)
        layers: list[nn.Module] = []
        previous = dim
        for width in widths:
            layers.extend(_enlarge(previous, width, upsample))
            layers.extend([nn.GroupNorm(8, width), nn.SiLU()])
            previous = width
        layers.append(nn.Conv2d(previous, channels, 3, padding=1))
        self.convolutions = nn.Sequential(*layers)

    def forward(self, embedding: Tensor, noise: Tensor | None = None) -> Tensor:
        if embedding.ndim != 2 or embedding.shape[1] != self.embed_dim:
            raise BadParameter(f"need embeddings (B, {self.embed_dim}), got {tuple(embedding.shape)}")
        if self.noise_dim:
            if noise is None or noise.shape != (len(embedding), self.noise_dim):
                raise BadParameter(f"this generator needs noise (B, {self.noise_dim}), got "
                                   f"{None if noise is None else tuple(noise.shape)}")
            embedding = torch.cat([embedding, noise], dim=1)  # (B, D + Z)
        tokens = self.linear(embedding).unflatten(1, (GRID**2, self.dim))  # (B, 16, dim)
        tokens = self.norm(self.transformer(tokens + self.positions))
        x = tokens.transpose(1, 2).unflatten(2, (GRID, GRID))  # (B, dim, 4, 4)
        x = self.convolutions(x)
        return x.tanh() if self.channels == 3 else x


def _enlarge(in_channels: int, out_channels: int, upsample: str) -> list[nn.Module]:
    """Return the layers that double the side of a map."""
    if upsample == "transposed":
        return [nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1)]
    return [nn.Upsample(scale_factor=2.0, mode="nearest"), nn.Conv2d(in_channels, out_channels, 3, padding=1)]


@configurable
class CodeGenerator(nn.Module):
    """Predict all codes of a picture at once, from a text, a style and noise.

    The text looks up a draft of V numbers in a memory, and a linear block reads it too; a linear layer makes latents of
    the draft; a transformer over squares of 2 x 2 places and a residual block refine them; logits are how near each
    code vector is to the latent of a place, plus a linear layer's. Where several pictures fit a text, codes that are
    predicted independently do not fit one another. The style, which of several drawings is meant, takes most of that
    away; the noise moves the text a little, in training as in drawing.

    Args:
        codes: K of the codebook. code_dim: D of its vectors. height, width: of the grid, even.
        text_dim: E of the text encoder's pooled feature.
        styles: names of the styles, such as the artists of a data set; one if there are none.
        text_noise: standard deviation of the noise on the text, whose numbers have about 1.
        memory: rows of the `TextMemory`; 0 is none. key_dim: what is compared in it.
        draft_dim: V. text_hidden: width of the linear block that reads the text.
        dim, depth, heads: of the transformer. local_dim: width of a single place.

    Shapes:
        pooled: (B, E), style: (B, S) weights of the styles, noise: (B, E), hidden: (B, memory) bool
        -> logits (B, height * width, K)

    Raises:
        BadParameter: an argument or an input does not fit.
    """

    def __init__(self, *, codes: int = 2048, code_dim: int = 8, height: int = 16, width: int = 16, text_dim: int = 384,
                 styles: Sequence[str] = ("",), text_noise: float = 0.2, memory: int = 0, key_dim: int = 128,
                 draft_dim: int = 128, text_hidden: int = 512, dim: int = 256, depth: int = 3, heads: int = 8,
                 local_dim: int = 96):
        super().__init__()
        if codes < 2 or height < 2 or width < 2 or height % 2 or width % 2:
            raise BadParameter(f"need at least 2 codes and a grid of even sides, got {codes} codes, {height} x {width}")
        if not styles:
            raise BadParameter("need at least one style; leave styles out where a data set has none")
        self.codes = codes
        self.code_dim = code_dim
        self.grid = (height, width)
        self.squares = (height // 2, width // 2)
        self.styles = tuple(styles)
        self.text_dim = text_dim
        self.text_noise = text_noise
        self.register_buffer("text_mean", torch.zeros(text_dim))
        self.register_buffer("text_scale", torch.ones(()))
        self.register_buffer("codebook", torch.zeros(codes, code_dim))
        self.text_in = nn.Linear(text_dim + len(styles), text_hidden)
        self.text_out = zero_(nn.Linear(text_hidden, draft_dim))
        self.memory = None
        if memory:
            self.memory = TextMemory(rows=memory, styles=len(styles), text_dim=text_dim, key_dim=key_dim, dim=draft_dim)
        self.latents = nn.Linear(draft_dim, height * width * code_dim)
        self.draft_scale = nn.Parameter(torch.ones(draft_dim))
        self.square_in = nn.Conv2d(code_dim, dim, 2, stride=2)
        self.draft_in = nn.Linear(draft_dim + len(styles), dim)
        self.positions = nn.Parameter(torch.randn(self.squares[0] * self.squares[1], dim) * INIT_STD)
        self.transformer = Transformer(dim=dim, depth=depth, heads=heads)
        self.norm = nn.LayerNorm(dim)
        self.split = nn.ConvTranspose2d(dim, local_dim, 2, stride=2)
        self.block = ResnetBlock(in_channels=local_dim, out_channels=local_dim, norm_groups=8)
        self.norm_out = group_norm(local_dim, 8)
        self.refine = zero_(nn.Linear(local_dim, code_dim))
        self.out = zero_(nn.Linear(local_dim, codes))
        self.log_nearness = nn.Parameter(torch.tensor(NEARNESS).log())

    @property
    def places(self) -> int:
        """Return N, the number of codes of a picture."""
        return self.grid[0] * self.grid[1]

    def forward(self, pooled: Tensor, style: Tensor, noise: Tensor | None = None, at: Tensor | None = None,
                hidden: Tensor | None = None, sharpness: float = 1.0) -> Tensor:
        """Return the logits of all codes, or those (M, K) of the M places where `at` (B, N) is True.

        Args:
            noise: standard normal; None is none, which draws the picture in the middle.
            hidden: rows of the memory that must not be seen.
            sharpness: of the lookup in the memory, as a factor of what was learned.
        """
        draft = self.draft(pooled, style, noise, hidden, sharpness)  # (B, V)
        latents = self.latents(draft).unflatten(1, (self.code_dim, *self.grid))  # (B, D, H, W)
        x = self.square_in(latents).flatten(2).transpose(1, 2)  # (B, squares, dim)
        x = x + self.draft_in(torch.cat([draft * self.draft_scale, style], dim=1))[:, None] + self.positions
        x = self.norm(self.transformer(x))
        x = x.transpose(1, 2).unflatten(2, self.squares)  # (B, dim, H / 2, W / 2)
        x = self.block(self.split(x))  # (B, local_dim, H, W)
        x = norm_silu(self.norm_out, x).flatten(2).transpose(1, 2)  # (B, N, local_dim)
        latents = latents.flatten(2).transpose(1, 2)  # (B, N, D)
        if at is not None:
            x = x[at]  # (M, local_dim)
            latents = latents[at]
        return self.out(x) + self.nearness(latents + self.refine(x))

    def draft(self, pooled: Tensor, style: Tensor, noise: Tensor | None = None,
              hidden: Tensor | None = None, sharpness: float = 1.0) -> Tensor:
        """Return the numbers that the picture is made of, (B, V)."""
        if pooled.ndim != 2 or pooled.shape[1] != self.text_dim:
            raise BadParameter(f"need pooled features (B, {self.text_dim}), got {tuple(pooled.shape)}")
        if style.shape != (len(pooled), len(self.styles)):
            raise BadParameter(f"need weights of the styles ({len(pooled)}, {len(self.styles)}), got "
                               f"{tuple(style.shape)}")
        text = (pooled - self.text_mean) * self.text_scale
        if noise is not None:
            text = text + self.text_noise * noise
        draft = self.text_out(F.gelu(self.text_in(torch.cat([text, style], dim=1))))
        if self.memory is not None:
            draft = draft + self.memory(text, style, hidden, sharpness)
        return draft

    def nearness(self, latents: Tensor) -> Tensor:
        """Return the logits of a normal distribution around latents: (..., D) -> (..., K)."""
        dots = 2 * latents.float() @ self.codebook.T - self.codebook.square().sum(1)
        return self.log_nearness.exp() * dots

    def style_weights(self, names: Sequence[str]) -> Tensor:
        """Return the weights (B, S) that say one style each; raises UnknownName."""
        rows = []
        for name in names:
            check_name("style", name, self.styles)
            rows.append(self.styles.index(name))
        return F.one_hot(torch.tensor(rows), len(self.styles)).float()

    @torch.no_grad()
    def begin_with(self, *, texts: Tensor, codebook: Tensor, codes: Tensor, things: Tensor, styles: Tensor) -> None:
        """Set what is known before training: the scale of texts, the code vectors, and drafts of all drawings.

        The draft of a drawing are its principal components, and the linear layer starts as what undoes them.

        Args:
            texts: (M, E) of the things in the memory. codebook: (K, D). codes: (N, H W) of drawings.
            things: (N,) which row of the memory each drawing shows. styles: (N,) its style.
        """
        self.text_mean.copy_(texts.mean(0))
        self.text_scale.copy_(1 / (texts - self.text_mean).std())
        self.codebook.copy_(codebook)
        latents = F.embedding(codes, codebook).transpose(1, 2).flatten(1)  # (N, D H W)
        drafts = begin_with_components(self.latents, latents)
        if self.memory is not None:
            values = by_thing(drafts, things, styles, len(texts), len(self.styles))
            self.memory.begin_with((texts - self.text_mean) * self.text_scale, values)

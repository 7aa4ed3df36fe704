"""What a text says about every place of a grid, before anything is drawn there."""

import torch
from torch import Tensor, nn

from .transformer import INIT_STD, Transformer
from .unet_blocks import zero_


class TextPlan(nn.Module):
    """A small transformer over the places of a grid, which reads the text: features of each place from words alone.

    Causal convolutions know a place only by what was drawn before it, and a vector that is added everywhere says the
    same at each of them. A plan lets words say another thing here than there. It is computed once a picture, and adds
    nothing before training.

    Args:
        grid: rows and columns. text_dim: width of tokens and of the pooled text. out_dim: of the features.
        dim, depth, heads, ff_mult: of the transformer.

    Shapes:
        tokens: (B, T, text_dim), mask: (B, T) bool, pooled: (B, text_dim) -> (B, H, W, out_dim)
    """

    def __init__(self, *, grid: tuple[int, int], text_dim: int, out_dim: int, dim: int = 96, depth: int = 2,
                 heads: int = 6, ff_mult: float = 1.0):
        super().__init__()
        self.grid = grid
        self.places = nn.Parameter(torch.randn(grid[0] * grid[1], dim) * INIT_STD)
        self.text = nn.Linear(text_dim, dim)  # of tokens and of the pooled text alike
        self.transformer = Transformer(dim=dim, depth=depth, heads=heads, ff_mult=ff_mult, context=True)
        self.norm = nn.LayerNorm(dim)
        self.out = zero_(nn.Linear(dim, out_dim))

    def forward(self, tokens: Tensor, mask: Tensor, pooled: Tensor) -> Tensor:
        h = self.places + self.text(pooled)[:, None]  # (B, H W, dim)
        context = self.transformer.read_context(self.text(tokens))
        h = self.transformer(h, context=context, context_keep=mask)
        return self.out(self.norm(h)).unflatten(1, self.grid)

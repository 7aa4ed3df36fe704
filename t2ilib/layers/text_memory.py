"""A memory of drawings that a text looks up, and how it is filled: principal components of each thing's drawings."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import BadParameter

MEMORY_SHARPNESS = 20.0  # of the softmax over names before training, as an inverse temperature of cosines


class TextMemory(nn.Module):
    """A table of drawings that a text looks up by similarity: softmax(s cos(q, k)) v.

    One step of a modern Hopfield network (Ramsauer et al. 2021, eq. 3) whose patterns are learned. What a network knows
    of a thing by heart lies here, so that its layers are left to say how things are drawn.

    Args:
        rows: M things. styles: S drawings of each. text_dim: E of the text. key_dim: width of what is compared.
        dim: V numbers of a drawing.

    Shapes:
        text: (B, E), style: (B, S), hidden: (B, M) bool, True at rows that must not be seen; sharpness: a factor of
        the learned one -> (B, V)
    """

    def __init__(self, *, rows: int, styles: int, text_dim: int, key_dim: int, dim: int):
        super().__init__()
        self.query = nn.Linear(text_dim, key_dim, bias=False)
        self.keys = nn.Parameter(torch.randn(rows, key_dim))
        self.values = nn.Parameter(torch.randn(rows, styles * dim))
        self.log_sharpness = nn.Parameter(torch.tensor(MEMORY_SHARPNESS).log())

    def forward(self, text: Tensor, style: Tensor, hidden: Tensor | None = None, sharpness: float = 1.0) -> Tensor:
        found = self.weights(text, hidden, sharpness) @ self.values.float()  # (B, S V)
        found = found.unflatten(1, (style.shape[1], -1))  # (B, S, V)
        return (style[..., None] * found).sum(1)

    def weights(self, text: Tensor, hidden: Tensor | None = None, sharpness: float = 1.0) -> Tensor:
        """Return how much each row is looked at, (B, M); rows sum to 1."""
        queries = F.normalize(self.query(text).float(), dim=1)
        cosines = queries @ F.normalize(self.keys.float(), dim=1).T  # (B, M)
        logits = sharpness * self.log_sharpness.exp() * cosines
        if hidden is not None:
            logits = logits.masked_fill(hidden, -torch.inf)
        return logits.softmax(dim=1)

    @torch.no_grad()
    def begin_with(self, texts: Tensor, values: Tensor) -> None:
        """Give each row the key of one text and the drawings of it: texts (M, E), centred; values (M, S, V).

        Directions in which texts differ much and little are compared more alike: they are scaled by the square root of
        their standard deviation, half way to whitening.

        Raises:
            BadParameter: not one text and its drawings for each row.
        """
        rows, key_dim = self.keys.shape
        values = values.flatten(1)  # (M, S V)
        if len(texts) != rows or values.shape != self.values.shape:
            raise BadParameter(f"this memory has {rows} rows of {self.values.shape[1]} numbers, got {len(texts)} texts "
                               f"and values {tuple(values.shape)}")
        _, strengths, directions = torch.linalg.svd(texts, full_matrices=False)
        count = min(key_dim, len(strengths))
        strengths = strengths[:count]
        differs = strengths > 1e-3 * strengths[0]  # centred texts of few things have a direction in which none differs
        scales = torch.where(differs, strengths.clamp(min=1e-12) ** -0.5, 0.0)
        self.query.weight.zero_()
        self.query.weight[:count] = scales[:, None] * directions[:count]
        self.keys.copy_(F.normalize(self.query(texts), dim=1))
        self.values.copy_(values)


@torch.no_grad()
def begin_with_components(linear: nn.Linear, x: Tensor) -> Tensor:
    """Return the principal components of rows, scaled to a variance of 1, and let the layer be what undoes them.

    Components beyond the width of the rows are 0.

    Shapes:
        linear: count -> D, x: (N, D) -> (N, count)
    """
    mean = x.mean(0)
    x = x - mean
    variances, directions = torch.linalg.eigh(x.T @ x / len(x))
    used = min(linear.in_features, len(variances))
    scales = variances.flip(0)[:used].clamp(min=1e-6).sqrt()
    basis = torch.zeros(x.shape[1], linear.in_features)
    basis[:, :used] = directions.flip(1)[:, :used] * scales
    components = torch.zeros(len(x), linear.in_features)
    components[:, :used] = x @ (basis[:, :used] / scales.square())
    linear.weight.copy_(basis)
    linear.bias.copy_(mean)
    return components


def by_thing(drafts: Tensor, things: Tensor, styles: Tensor, rows: int, count: int) -> Tensor:
    """Return the draft of each thing in each style, where there is none the mean of its others: (N, V) -> (M, S, V)."""
    sums = torch.zeros(rows, count, drafts.shape[1]).index_put_((things, styles), drafts, accumulate=True)
    numbers = torch.zeros(rows, count).index_put_((things, styles), torch.ones(len(drafts)), accumulate=True)[..., None]
    means = sums.sum(1, keepdim=True) / numbers.sum(1, keepdim=True).clamp(min=1)  # (M, 1, V)
    return torch.where(numbers > 0, sums / numbers.clamp(min=1), means)

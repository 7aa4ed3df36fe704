"""Networks that know their data exactly, and a text encoder that knows three colours."""

import pytest
import torch
from torch import nn

from t2ilib.cascade import Cascade, Stage
from t2ilib.diffusion import COSINE, Schedule, alpha_sigma, to_x0_eps, training_target

COLOURS = {"red": (0.8, -0.6, -0.6), "blue": (-0.6, -0.6, 0.8), "green": (-0.6, 0.7, -0.6)}


class Words:
    """A text encoder: the last word is a colour, or grey; a token for each word; remembers what it encodes."""

    def __init__(self):
        self.seen = []

    def encode(self, texts):
        self.seen += texts
        pooled = torch.tensor([COLOURS.get(t.split()[-1], (0.0, 0.0, 0.0)) for t in texts])
        lengths = torch.tensor([len(t.split()) for t in texts])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        return mask[..., None] * pooled[:, None], mask, pooled


class Painter(nn.Module):
    """The exact network for pixels drawn from N(colour of the text, std^2), halfway to the smaller picture if any.

    The colour is read from the tokens that the mask keeps and from `pooled`; remembers what it is called with.
    """

    def __init__(self, std=0.1, target="v", schedule=COSINE):
        super().__init__()
        self.null, self.std, self.calls = nn.Parameter(torch.zeros(3)), std, []
        self.target, self.schedule = target, schedule

    def without_text(self, tokens, mask, pooled, drop):
        first = torch.arange(tokens.shape[1]) == 0
        return (torch.where(drop[:, None, None], self.null, tokens), torch.where(drop[:, None], first, mask),
                torch.where(drop[:, None], self.null, pooled))

    def forward(self, x_t, t, tokens, mask, pooled, low=None, low_t=None):
        self.calls.append({"x_t": x_t, "t": t, "low": low, "low_t": low_t, "mask": mask})
        read = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        mean = (0.5 * (read + pooled))[:, :, None, None]
        mean = mean if low is None else 0.5 * (mean + low)
        alpha, sigma = alpha_sigma(t, x_t.ndim, schedule=self.schedule)
        x_0 = mean + alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2) * (x_t - alpha * mean)
        _, eps = to_x0_eps(x_t, t, x_0, target="x0", schedule=self.schedule)
        return training_target(x_0, t, eps, target=self.target, schedule=self.schedule)


@pytest.fixture
def make():
    def build(sizes=(4, 8), std=0.1, *, schedule="cosine", shift=0.0, target="v", **options):
        stages = [Stage(Painter(std, target, Schedule(schedule, shift)), size, schedule, shift, target)
                  for size in sizes]
        return Cascade(stages, Words(), precision="float32", **options)
    return build

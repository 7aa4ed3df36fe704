"""Tiny stand-ins for the VQGAN and CLIP that guidance works with."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

COLOURS = {"red": (0.9, 0.1, 0.1), "blue": (0.1, 0.1, 0.9), "green": (0.1, 0.8, 0.1), "white": (1.0, 1.0, 1.0)}


class TinyVQGAN(nn.Module):
    """Codes of 4 numbers: the colour of 8 x 8 pixels and a faint pattern on it; counts its decodings."""

    factor, resolution = 8, 32

    def __init__(self, codes=64):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.table = nn.Parameter(torch.randn(codes, 4))
            self.net = nn.Sequential(nn.ConvTranspose2d(4, 3, 8, 8), nn.Tanh(), nn.Conv2d(3, 3, 1, bias=False))
            colours = torch.eye(4, 3)[:, :, None, None] + 0.3 * torch.randn(4, 3, 8, 8)
            self.net[0].weight = nn.Parameter(colours)
            self.net[2].weight = nn.Parameter(torch.eye(3)[:, :, None, None])
        self.calls = 0

    @property
    def codebook(self):
        return self.table

    def decode(self, z):
        self.calls += 1
        return self.net(z)


class TinyCLIP(nn.Module):
    """Compares coarse colours: the text "red" is a red picture, other texts are fixed random pictures."""

    def __init__(self, image_size=16, cells=4):
        super().__init__()
        self.image_size, self.cells = image_size, cells
        self.mix = nn.Linear(3 * cells * cells, 24, bias=False)
        with torch.random.fork_rng():
            torch.manual_seed(image_size)
            nn.init.orthogonal_(self.mix.weight)

    def encode_image(self, x):
        assert x.shape[-2:] == (self.image_size, self.image_size)
        return F.normalize(self.mix(F.adaptive_avg_pool2d(x - 0.5, self.cells).flatten(1)), dim=-1)

    def encode_text(self, texts):
        def picture(text):
            if text in COLOURS:
                return torch.tensor(COLOURS[text])[:, None, None].expand(3, self.image_size, self.image_size)
            g = torch.Generator().manual_seed(sum(map(ord, text)))
            return F.interpolate(torch.rand(1, 3, 4, 4, generator=g), self.image_size)[0]

        return self.encode_image(torch.stack([picture(t) for t in texts]).to(self.mix.weight.dtype))


@pytest.fixture
def vqgan():
    return TinyVQGAN()


@pytest.fixture
def clip():
    return TinyCLIP()


@pytest.fixture
def clips():
    return [TinyCLIP(16), TinyCLIP(24)]

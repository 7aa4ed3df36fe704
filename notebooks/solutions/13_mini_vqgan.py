"""A solution of the exercise of notebook 13: how many codes are in use."""

import torch

from t2ilib.layers.quantize import code_perplexity


def perplexity(codes, count):
    """Codes of any shape, each below count -> scalar."""
    counts = torch.bincount(codes.flatten(), minlength=count)
    shares = counts / counts.sum()  # (count,)
    return torch.special.entr(shares).sum().exp()


codes = torch.randint(20, (4, 8, 8), generator=torch.Generator().manual_seed(0))
torch.testing.assert_close(perplexity(codes, 64), code_perplexity(codes, 64))
assert abs(perplexity(torch.tensor([5, 5, 5]), 8).item() - 1) < 1e-6
assert abs(perplexity(torch.tensor([1, 6]), 8).item() - 2) < 1e-6
assert abs(perplexity(torch.arange(8), 8).item() - 8) < 1e-5

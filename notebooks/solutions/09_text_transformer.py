"""A solution of the exercise of notebook 09: nucleus sampling."""

import math

import torch

from t2ilib.sampling import filter_logits


def nucleus(logits, p):
    probabilities = logits.softmax(0)
    order = probabilities.argsort(descending=True)
    likelier = probabilities[order].cumsum(0) - probabilities[order]
    logits[order[likelier >= p]] = -math.inf
    return logits


rng = torch.Generator().manual_seed(0)
for p in (0.1, 0.5, 0.9):
    logits = 3 * torch.randn(50, generator=rng)
    torch.testing.assert_close(nucleus(logits.clone(), p), filter_logits(logits, top_p=p))

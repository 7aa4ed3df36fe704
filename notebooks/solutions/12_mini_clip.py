"""A solution of the exercise of notebook 12: the rank of the right name."""

import torch
from torch.nn import functional as F

from t2ilib.metrics import retrieval_ranks


def own_ranks(pictures, names, targets):
    """Unit vectors (N, D) and (M, D), indices (N,) -> ranks (N,)."""
    scores = pictures @ names.T  # (N, M)
    of_own = scores.gather(1, targets[:, None])  # (N, 1)
    return (scores >= of_own).sum(dim=1)


rng = torch.Generator().manual_seed(0)
pictures = F.normalize(torch.randn(20, 8, generator=rng), dim=1)
names = F.normalize(torch.randn(50, 8, generator=rng), dim=1)
targets = torch.randint(50, (20,), generator=rng)
assert torch.equal(own_ranks(pictures, names, targets), retrieval_ranks(pictures, names, targets))
assert (own_ranks(pictures, names[:1].repeat(50, 1), targets) == 50).all()

"""A bank of drawings, as VQGAN codes with their names: where a search for a picture may begin.

Only the coarse layout of a drawing is meant to survive: a prior adds so much noise that it draws everything else anew
(Meng et al. 2022, "SDEdit: guided image synthesis and editing with stochastic differential equations").
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoint import configurable
from ..errors import BadParameter


@configurable
class StartBank(nn.Module):
    """Codes of N drawings of M named things.

    Args:
        drawings, names: N and M. size: (h, w) of the code grids. codes, dim: K and D of the codebook.
        text_dim: width E of the names' text features.

    Attributes:
        grids: codes (N, h, w), int16. owner: index of each drawing's name (N,), int16. text: unit features of the
        names (M, E). codebook: (K, D).
    """

    def __init__(self, *, drawings: int, names: int, size: tuple[int, int] = (16, 16), codes: int = 2048, dim: int = 8,
                 text_dim: int = 384):
        super().__init__()
        self.size = tuple(size)
        self.register_buffer("grids", torch.zeros(drawings, *size, dtype=torch.int16))
        self.register_buffer("owner", torch.zeros(drawings, dtype=torch.int16))
        self.register_buffer("text", torch.zeros(names, text_dim))
        self.register_buffer("codebook", torch.zeros(codes, dim))

    @classmethod
    def build(cls, grids: Tensor, owner: Tensor, text: Tensor, codebook: Tensor) -> "StartBank":
        """Make a bank from codes (N, h, w), the index of each drawing's name (N,), text features (M, E), a codebook.

        Raises:
            BadParameter: shapes or indices that do not fit together.
        """
        fits = len(grids) == len(owner) and len(grids) > 0
        if not fits or owner.max() >= len(text) or grids.max() >= len(codebook):
            raise BadParameter(f"got {len(grids)} drawings with {len(owner)} owners, which must be below {len(text)}, "
                               f"and codes which must be below {len(codebook)}; give codes, owner, text and codebook "
                               "of one data set and one VQGAN")
        bank = cls(drawings=len(grids), names=len(text), size=tuple(grids.shape[1:]), codes=len(codebook),
                   dim=codebook.shape[1], text_dim=text.shape[1])
        with torch.no_grad():
            bank.grids.copy_(grids)
            bank.owner.copy_(owner)
            bank.text.copy_(F.normalize(text.float(), dim=1))
            bank.codebook.copy_(codebook)
        return bank

    def nearest(self, text: Tensor, count: int, *, names: int | None = None) -> Tensor:
        """Return the positions (count,) of the drawings whose names are closest to a text feature (E,), closest first.

        Drawings of one name keep their order. Where there are fewer than `count` drawings, they repeat.

        Args:
            names: of how many names, the closest ones, drawings are taken; None is of as many as are needed.
        """
        text = F.normalize(text.float(), dim=0).to(self.text.device)
        of_names = self.text @ text  # (M,)
        of_drawings = of_names[self.owner.long()]  # (N,)
        order = of_drawings.argsort(descending=True, stable=True)
        if names is not None:
            least = of_names.topk(min(names, len(of_names))).values[-1]
            order = order[of_drawings[order] >= least]
        return order[torch.arange(count, device=order.device) % len(order)]

    def best_similarity(self, text: Tensor) -> float:
        """Return the cosine of a text feature (E,) and the name that is closest to it."""
        text = F.normalize(text.float(), dim=0).to(self.text.device)
        return (self.text @ text).max().item()

    def latents(self, rows: Tensor) -> Tensor:
        """Return the code vectors of drawings: positions (B,) -> (B, D, h, w)."""
        return F.embedding(self.grids[rows].long(), self.codebook).movedim(-1, 1)

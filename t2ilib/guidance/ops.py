"""Small differentiable operations of the VQGAN+CLIP loop (Crowson et al. 2022, arXiv 2204.08583)."""

import torch
from torch import Tensor

from ..errors import BadParameter


class _ClampWithGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, low: float, high: float) -> Tensor:
        ctx.bounds = (low, high)
        ctx.save_for_backward(x)
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (x,) = ctx.saved_tensors
        outside = x - x.clamp(*ctx.bounds)  # 0 inside, else the signed distance to the bound
        # descent moves x along -grad: back in where both have one sign
        moves_back = grad * outside >= 0
        return grad * moves_back, None, None


def clamp_with_grad(x: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Clamp to [low, high]; outside, the gradient passes only where a descent step would move x back in.

    With `torch.clamp` a saturated pixel gets no gradient and never recovers.
    """
    return _ClampWithGrad.apply(x, low, high)


def angle_between(a: Tensor, b: Tensor, dim: int = -1, *, keepdim: bool = False) -> Tensor:
    """Return the angle between unit vectors that lie along `dim`, in [0, pi]; other dimensions broadcast.

    Kahan's form 2 atan2(|a - b|, |a + b|) is exact for equal and for opposite vectors. There arcsin(|a - b| / 2) has an
    infinite derivative for opposite ones (and so a NaN gradient), and arccos(a . b) for equal ones.
    """
    difference = torch.linalg.vector_norm(a - b, dim=dim, keepdim=keepdim)
    total = torch.linalg.vector_norm(a + b, dim=dim, keepdim=keepdim)
    return 2 * torch.atan2(difference, total)


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Turn the vector at each position of a towards that of b while its length changes evenly (Shoemake 1985, 3.3).

    Where the two have one direction, or opposite ones, the blend is linear.

    Shapes:
        a, b (..., D, h, w) -> (..., D, h, w)
    """
    length_a = a.norm(dim=-3, keepdim=True).clamp(min=1e-12)  # (..., 1, h, w)
    length_b = b.norm(dim=-3, keepdim=True).clamp(min=1e-12)
    unit_a = a / length_a
    unit_b = b / length_b
    angle = angle_between(unit_a, unit_b, dim=-3, keepdim=True)
    share_a = ((1 - t) * angle).sin() / angle.sin()
    share_b = (t * angle).sin() / angle.sin()
    turned = (share_a * unit_a + share_b * unit_b) * torch.lerp(length_a, length_b, t)
    return torch.where(angle.sin() < 1e-3, torch.lerp(a, b, t), turned)


def z_bounds(codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest value of each channel over the codebook.

    Shapes:
        codebook (K, D) -> two of (1, D, 1, 1)
    """
    low, high = codebook.detach().aminmax(dim=0)  # (D,) each
    return low[None, :, None, None], high[None, :, None, None]


def total_variation(images: Tensor) -> Tensor:
    """Return the mean squared difference of neighbouring pixels of each image.

    Shapes:
        images (B, C, H, W) -> (B,)
    """
    down = (images[:, :, 1:] - images[:, :, :-1]).square()  # (B, C, H - 1, W)
    right = (images[:, :, :, 1:] - images[:, :, :, :-1]).square()  # (B, C, H, W - 1)
    pairs = down[0].numel() + right[0].numel()
    total = down.flatten(1).sum(1) + right.flatten(1).sum(1)  # (B,)
    return total / max(pairs, 1)  # a single pixel has no neighbour


class LatentEMA:
    """Exponential moving average of a latent, corrected for its start at zero (as Adam corrects its moments).

    Args:
        decay: weight of the past in [0, 1); 0 keeps the newest value only.
    """

    def __init__(self, decay: float):
        if not 0 <= decay < 1:
            raise BadParameter(f"ema must be in [0, 1), got {decay}; 0.95 averages about 20 steps")
        self.decay = decay
        self.sum: Tensor | None = None
        self.weight = 0.0

    @torch.no_grad()
    def update(self, z: Tensor) -> None:
        """Take in the value after one step."""
        past = torch.zeros_like(z) if self.sum is None else self.sum
        self.sum = past.mul(self.decay).add(z.detach(), alpha=1 - self.decay)
        self.weight = self.weight * self.decay + 1 - self.decay  # what the weights of all values so far sum to

    def value(self) -> Tensor:
        """Return the average so far."""
        if self.sum is None:
            raise BadParameter("the average is empty; call update(z) first")
        return self.sum / self.weight

"""Vector quantisation: nearest code, Gumbel codes, gradients that pass them, and a codebook learned by averages.

Papers: van den Oord et al. 2017 (eq. 1-3, appendix A.1 for the averages); Jang et al. 2017; Razavi et al. 2019;
Fifty et al. 2024 (the rotation trick).
"""

import math
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import BadParameter, CheckpointMismatch, check_name
from ..kernels import nearest_code

GRADIENTS = ("straight_through", "rotation")


class Quantized(NamedTuple):
    """What quantisation returns.

    Shapes:
        z_q: (B, D, h, w), value of the code, gradient of z_e; codes: (B, h, w), int64; the others are scalars
    """

    z_q: Tensor
    codes: Tensor
    loss: Tensor  # codebook_loss + beta * commitment (eq. 3); for a Gumbel quantiser the KL term
    commitment: Tensor  # |z_e - sg(e)|^2, moves the encoder towards its codes
    codebook_loss: Tensor  # |sg(z_e) - e|^2, moves the codes towards the encoder; unused with EMACodebook
    perplexity: Tensor  # exp(entropy) of the codes in this batch: how many are in use, 1 to K


def straight_through(value: Tensor, gradient: Tensor) -> Tensor:
    """Return `value` in the forward pass and pass the gradient on to `gradient`.

    It arrives unchanged, or summed to the shape of `gradient` where that was broadcast to the shape of `value`.
    """
    return _StraightThrough.apply(value, gradient)


class _StraightThrough(torch.autograd.Function):
    # exact, where z + (z_q - z).detach() would round z_q
    @staticmethod
    def forward(ctx, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.dtype = gradient.dtype
        ctx.shape = gradient.shape
        return value.detach().clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad.sum_to_size(ctx.shape).to(ctx.dtype)


def rotate_through(value: Tensor, gradient: Tensor) -> Tensor:
    """Return `value` in the forward pass, and pass the gradient on as if value were (|value| / |z|) R z.

    z is `gradient`, and R the rotation in the plane of both that turns z into the direction of `value`; R and the ratio
    of lengths count as constants (Fifty et al. 2024, section 4.2). So the angle between what arrives and z is that
    between the gradient and `value`. Where one of them is zero the gradient passes unchanged.

    Shapes:
        value, gradient: (B, D, ...), vectors along the second dimension -> (B, D, ...)
    """
    return _RotateThrough.apply(value, gradient)


class _RotateThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(value, gradient)
        return value.detach().clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor]:
        value, z = ctx.saved_tensors
        length = z.float().norm(dim=1, keepdim=True)
        value_length = value.float().norm(dim=1, keepdim=True)
        is_defined = (length > 0) & (value_length > 0)
        e = F.normalize(z.float(), dim=1)
        q = F.normalize(value.float(), dim=1)
        between = F.normalize(e + q, dim=1)
        wide = grad.float()
        # R = 1 - 2 between between^T + 2 q e^T, and what arrives at z is R^T times the gradient
        turned = wide - 2 * between * (between * wide).sum(1, keepdim=True) + 2 * e * (q * wide).sum(1, keepdim=True)
        scaled = turned * (value_length / length)
        return None, torch.where(is_defined, scaled, wide).to(z.dtype)


def vector_quantize(z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Replace each latent by its nearest codebook row; the gradient passes as through the identity, to z alone.

    Shapes:
        z (B, D, h, w), codebook (K, D) -> z_q (B, D, h, w), codes (B, h, w) int64
    """
    codes = nearest_code(z.movedim(1, -1), codebook)  # (B, h, w)
    code_vectors = F.embedding(codes, codebook.detach()).movedim(-1, 1)  # (B, D, h, w)
    dtype = torch.promote_types(z.dtype, codebook.dtype)
    return straight_through(code_vectors.to(dtype), z), codes


def code_perplexity(codes: Tensor, n_embed: int) -> Tensor:
    """Return exp(entropy) of how often each code occurs: 1 for a single code, K for all equally often."""
    share = torch.bincount(codes.flatten(), minlength=n_embed).float() / max(1, codes.numel())
    return torch.special.entr(share).sum().exp()


class VectorQuantizer(nn.Module):
    """Replace each vector by the nearest row of a table (Euclidean).

    Args:
        n_embed: rows K of the table.
        embed_dim: their size D.
        beta: weight of the commitment term in `loss`.
        gradient: "straight_through", or "rotation", see `rotate_through`.

    Shapes:
        z_e: (B, D, h, w) -> Quantized
    """

    def __init__(self, *, n_embed: int, embed_dim: int, beta: float = 0.25, gradient: str = "straight_through"):
        super().__init__()
        check_name("gradient", gradient, GRADIENTS)
        self.beta = beta
        self.pass_gradient = rotate_through if gradient == "rotation" else straight_through
        self.embedding = nn.Embedding(n_embed, embed_dim)
        nn.init.uniform_(self.embedding.weight, -1.0 / n_embed, 1.0 / n_embed)

    @property
    def table(self) -> Tensor:
        return self.embedding.weight

    def forward(self, z_e: Tensor) -> Quantized:
        codes = nearest_code(z_e.movedim(1, -1), self.table)  # (B, h, w)
        code_vectors = F.embedding(codes, self.table).movedim(-1, 1)  # (B, D, h, w), float32
        z_wide = z_e.to(code_vectors.dtype)
        commitment = F.mse_loss(z_wide, code_vectors.detach())
        codebook_loss = F.mse_loss(code_vectors, z_wide.detach())
        return Quantized(
            z_q=self.pass_gradient(code_vectors, z_e),
            codes=codes,
            loss=codebook_loss + self.beta * commitment,
            commitment=commitment,
            codebook_loss=codebook_loss,
            perplexity=code_perplexity(codes, self.table.shape[0]),
        )


class GumbelQuantizer(nn.Module):
    """Choose codes by logits from a 1x1 convolution: sampled softly while training, the largest logit otherwise.

    Evaluation is deterministic on purpose: the original samples there too, so the same picture gives other codes
    on every call.

    Args:
        n_embed: number of codes K.
        embed_dim: size D of a code's vector.
        num_hiddens: channels of the input.
        kl_weight: weight of the divergence from uniform codes in `loss`.
        temperature: of the softmax while training; lower it over time.

    Shapes:
        z_e: (B, num_hiddens, h, w) -> Quantized
    """

    def __init__(
        self, *, n_embed: int, embed_dim: int, num_hiddens: int, kl_weight: float = 5e-4, temperature: float = 1.0
    ):
        super().__init__()
        self.kl_weight = kl_weight
        self.temperature = temperature
        self.proj = nn.Conv2d(num_hiddens, n_embed, 1)
        self.embed = nn.Embedding(n_embed, embed_dim)

    @property
    def table(self) -> Tensor:
        return self.embed.weight

    def forward(self, z_e: Tensor) -> Quantized:
        logits = self.proj(z_e).float()  # (B, K, h, w)
        n_embed = logits.shape[1]
        codes = logits.argmax(dim=1)
        if self.training:
            soft = F.gumbel_softmax(logits, tau=self.temperature, dim=1)
            z_q = torch.einsum("bkhw,kd->bdhw", soft, self.table)
        else:
            z_q = F.embedding(codes, self.table).movedim(-1, 1)
        log_share = logits.log_softmax(dim=1)
        kl = log_share.exp() * (log_share + math.log(n_embed))  # (B, K, h, w), the terms of the sum over codes
        uniform_kl = kl.sum(dim=1).mean()
        zero = torch.zeros((), device=z_e.device)
        return Quantized(z_q, codes, self.kl_weight * uniform_kl, zero, zero, code_perplexity(codes, n_embed))


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


class EMACodebook:
    """Learn a VectorQuantizer's table by running averages of the vectors that choose each row (no gradient).

    The state lives here, like an optimiser's, so that the network keeps exactly the keys of a plain VQGAN. A row
    that is hardly ever chosen is dead, and is restarted: it is moved onto a vector of the current batch.
    The first update replaces the whole table by such vectors.

    Args:
        quantizer: the table's owner; its weight stops requiring gradients.
        decay: of the averages; 0.99 looks back about 100 steps.
        eps: Laplace smoothing of the counts.
        restart_below: rows chosen less often than this fraction of the average are restarted; 0 switches it off.
        seed: of the generator that draws replacements; its state is part of `state_dict`.
        distributed: whether the processes of the group share each batch; None says yes where there is a group. False
            where one process of it trains alone.

    Raises:
        BadParameter: decay outside [0, 1) or a negative threshold.
    """

    def __init__(
        self,
        quantizer: VectorQuantizer,
        *,
        decay: float = 0.99,
        eps: float = 1e-5,
        restart_below: float = 0.1,
        seed: int = 0,
        distributed: bool | None = None,
    ):
        if not 0 <= decay < 1:
            raise BadParameter(f"decay must be in [0, 1), got {decay}; 0.99 is usual")
        if restart_below < 0:
            raise BadParameter(f"restart_below must not be negative, got {restart_below}; 0 switches restarts off")
        self.weight = quantizer.embedding.weight.requires_grad_(False)
        self.decay = decay
        self.eps = eps
        self.restart_below = restart_below
        self.cluster_size = torch.ones(self.weight.shape[0], device=self.weight.device)
        self.embed_avg = self.weight.detach().clone()
        self.started = False
        self.distributed = distributed
        self.generator = torch.Generator().manual_seed(seed)  # on the CPU: the same draws on every device

    @torch.no_grad()
    def update(self, z_e: Tensor, codes: Tensor) -> int:
        """Move the table after one batch; call it once per step, after the forward pass.

        Shapes:
            z_e: (B, D, h, w); codes: (B, h, w) as the quantiser returned them

        Returns:
            The number of rows that were restarted.
        """
        vectors = z_e.detach().movedim(1, -1).reshape(-1, z_e.shape[1]).to(self.weight.dtype)  # (N, D)
        if not self.started:
            self.started = True
            self._place(torch.ones_like(self.cluster_size, dtype=torch.bool), vectors)
            codes = nearest_code(vectors, self.weight)
        codes = codes.flatten()  # (N,)
        counts = torch.bincount(codes, minlength=self.weight.shape[0]).to(self.weight.dtype)  # (K,)
        sums = torch.zeros_like(self.weight).index_add_(0, codes, vectors)  # (K, D)
        if self._shares_batches():
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        self.cluster_size.lerp_(counts, 1 - self.decay)
        self.embed_avg.lerp_(sums, 1 - self.decay)
        total = self.cluster_size.sum()
        smoothed = (self.cluster_size + self.eps) / (total + len(counts) * self.eps) * total
        self.weight.copy_(self.embed_avg / smoothed.unsqueeze(1))
        dead = self.cluster_size < self.restart_below * self.cluster_size.mean()
        return self._place(dead, vectors)

    def _place(self, rows: Tensor, vectors: Tensor) -> int:
        """Put the marked rows on vectors drawn from the batch, with a part of an average row's count.

        The small count lets a row settle within a few steps, and lets it be moved again soon if it still is not used.
        """
        count = int(rows.sum())
        if count == 0:
            return 0
        draw = torch.randperm(len(vectors), generator=self.generator)
        draw = draw.repeat(math.ceil(count / len(vectors)))[:count]  # a small batch is used several times
        chosen = vectors[draw.to(vectors.device)]  # (count, D)
        if self._shares_batches():
            dist.broadcast(chosen, src=0)
        share = min(1.0, 3 * self.restart_below) if self.restart_below else 1.0
        size = share * self.cluster_size.mean()
        self.weight[rows] = chosen
        self.cluster_size[rows] = size
        self.embed_avg[rows] = chosen * size
        return count

    def _shares_batches(self) -> bool:
        return _is_distributed() if self.distributed is None else self.distributed

    def state_dict(self) -> dict:
        """Return everything that resuming needs besides the network's own weights."""
        return {
            "cluster_size": self.cluster_size.clone(),
            "embed_avg": self.embed_avg.clone(),
            "started": self.started,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore `state_dict`; raise CheckpointMismatch if its table has another shape."""
        if state["embed_avg"].shape != self.embed_avg.shape:
            got = tuple(state["embed_avg"].shape)
            expected = tuple(self.embed_avg.shape)
            raise CheckpointMismatch(f"codebook averages are {got}, the table is {expected}; build the same model")
        self.cluster_size.copy_(state["cluster_size"])
        self.embed_avg.copy_(state["embed_avg"])
        self.started = bool(state["started"])
        self.generator.set_state(state["generator"].cpu())

"""MinImagen's training loop and sampler as the public package runs them, in plain torch: what ours is measured against.

Everything stands here as there, slow parts included: float32, one caption after another through the text encoder inside
the loop, 256 tokens whatever the caption's length, the linear schedule as a table of 1000 steps, noise as the target,
and to sample all 1000 steps with two network passes each. Ho et al. 2020, "Denoising diffusion probabilistic models";
Saharia et al. 2022 (arXiv 2205.11487). What is in its favour: our U-Net in the place of its own, pictures in memory
instead of downloaded, networks that stay on their device between steps, and an encoder smaller than its T5. Attention
is the network's: `set_attention(network, explicit_attention)` makes it the package's, with all scores in memory.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..runtime import autocast, generator

STEPS = 1000
TOKENS = 256


def explicit_attention(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None = None) -> Tensor:
    """`attend` with all scores in memory and a softmax in float32, as the public package has it."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (B, heads, N, M)
    if keep is not None:
        scores = scores.masked_fill(~keep, -torch.inf)
    return scores.softmax(dim=-1, dtype=torch.float32).to(v.dtype) @ v


def encode_each(text_encoder: Any, captions: Sequence[str], device: torch.device,
                length: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Encode captions one at a time and pad them to `length` tokens, or to the longest of them if it is None.

    Shapes:
        tokens (B, T, E), zero where there is none; mask (B, T) bool; pooled (B, E)
    """
    tokens = []
    masks = []
    pooled = []
    for caption in captions:
        encoded = text_encoder.encode([caption])
        tokens.append(encoded[0])
        masks.append(encoded[1])
        pooled.append(encoded[2])
    length = length or max(each.shape[1] for each in tokens)
    for i in range(len(captions)):
        missing = max(0, length - tokens[i].shape[1])
        tokens[i] = F.pad(tokens[i][:, :length], (0, 0, 0, missing))  # (1, length, E)
        masks[i] = F.pad(masks[i][:, :length], (0, missing))
    return torch.cat(tokens).to(device), torch.cat(masks).to(device), torch.cat(pooled).to(device)


def _tables() -> dict[str, Tensor]:
    """Return what the formulas need at each of the 1000 steps, each (1000,)."""
    beta = torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64)
    alpha_bar = (1 - beta).cumprod(0)
    before = F.pad(alpha_bar[:-1], (1, 0), value=1.0)
    variance = beta * (1 - before) / (1 - alpha_bar)
    return {"alpha": alpha_bar.sqrt(),
            "sigma": (1 - alpha_bar).sqrt(),
            "to_x0": (1 / alpha_bar).sqrt(),
            "to_x0_eps": (1 / alpha_bar - 1).sqrt(),
            "log_variance": variance.clamp(min=1e-20).log(),
            "mean_x0": beta * before.sqrt() / (1 - alpha_bar),
            "mean_x_t": (1 - before) * (1 - beta).sqrt() / (1 - alpha_bar)}


class ClassicImagen:
    """One network of the cascade, trained and sampled as the public package does it.

    Args:
        network: as `models.imagen_unet.ImagenUNet`, which is trained in place. text_encoder: the frozen one.
        drop: share of captions replaced by "no text". low_size: side of the smaller picture that is enlarged.
        dtype: of autocast around the network; the package has none.
    """

    def __init__(self, network: nn.Module, text_encoder: Any, *, learning_rate: float = 1e-4, drop: float = 0.1,
                 low_size: int | None = None, dtype: torch.dtype = torch.float32, seed: int = 0):
        self.network = network
        self.text_encoder = text_encoder
        self.drop = drop
        self.low_size = low_size
        self.dtype = dtype
        self.device = next(network.parameters()).device
        self.optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
        self.stream = generator(seed, "bench", "classic imagen", device=self.device)
        self.tables = {name: table.float().to(self.device) for name, table in _tables().items()}

    def _at(self, name: str, steps: Tensor) -> Tensor:
        return self.tables[name].gather(0, steps)[:, None, None, None]

    def _noised(self, x_0: Tensor, steps: Tensor, eps: Tensor) -> Tensor:
        return self._at("alpha", steps) * x_0 + self._at("sigma", steps) * eps

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.stream, device=self.device)

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens (B, 256, E), mask (B, 256) and pooled (B, E)."""
        return encode_each(self.text_encoder, captions, self.device, TOKENS)

    def smaller(self, x_0: Tensor) -> dict[str, Tensor]:
        """Return the picture to enlarge, made from x_0 and noised by one step for the whole batch; or nothing."""
        if self.low_size is None:
            return {}
        low = F.interpolate(x_0, (self.low_size,) * 2, mode="bicubic", antialias=True)
        low = F.interpolate(low, x_0.shape[-2:], mode="bilinear")
        steps = torch.randint(STEPS, (1,), generator=self.stream, device=self.device)
        steps = steps.expand(len(x_0))
        noised = self._noised(low, steps, self._noise(low))
        return {"low": noised, "low_t": steps / (STEPS - 1)}

    def loss(self, x_0: Tensor, text: tuple[Tensor, Tensor, Tensor], steps: Tensor, eps: Tensor, drop: Tensor,
             smaller: dict[str, Tensor]) -> Tensor:
        """Return the mean squared error of the predicted noise.

        Shapes:
            x_0, eps: (B, 3, H, W), text: as from `encode`, steps: (B,) of 0 to 999, drop: (B,) bool -> ()
        """
        text = self.network.without_text(*text, drop)
        # (B, 3, H, W); the network's time runs from 0 to 1
        x_t = self._noised(x_0, steps, eps)
        return F.mse_loss(self._predict(x_t, steps, text, smaller), eps)

    def _predict(self, x_t: Tensor, steps: Tensor, text: tuple[Tensor, Tensor, Tensor], smaller: dict[str, Tensor]
                 ) -> Tensor:
        with autocast(self.device, self.dtype):
            return self.network(x_t, steps / (STEPS - 1), *text, **smaller).float()

    def step(self, x_0: Tensor, captions: Sequence[str]) -> Tensor:
        """Make one training step and return the loss before it."""
        text = self.encode(captions)
        steps = torch.randint(STEPS, (len(x_0),), generator=self.stream, device=self.device)
        drop = torch.rand(len(x_0), generator=self.stream, device=self.device) < self.drop
        loss = self.loss(x_0, text, steps, self._noise(x_0), drop, self.smaller(x_0))
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 50.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    @torch.no_grad()
    def sample(self, x_t: Tensor, text: tuple[Tensor, Tensor, Tensor], smaller: dict[str, Tensor], *,
               guidance_scale: float = 5.0, percentile: float = 0.9, count: int = STEPS) -> Tensor:
        """Walk the first `count` of the 1000 steps back from noise, with guidance in two passes a step.

        Shapes:
            x_t: (B, 3, H, W), text: as from `encode` -> (B, 3, H, W)
        """
        everywhere = torch.ones(len(x_t), dtype=torch.bool, device=self.device)
        nothing = self.network.without_text(*text, everywhere)
        for i in reversed(range(STEPS - count, STEPS)):
            steps = torch.full((len(x_t),), i, device=self.device)
            conditional = self._predict(x_t, steps, text, smaller)
            unconditional = self._predict(x_t, steps, nothing, smaller)
            eps = unconditional + guidance_scale * (conditional - unconditional)
            x_0 = self._at("to_x0", steps) * x_t - self._at("to_x0_eps", steps) * eps
            s = torch.quantile(x_0.flatten(1).abs(), percentile, dim=1).clamp(min=1)  # (B,)
            s = s[:, None, None, None]
            x_0 = x_0.clamp(-s, s) / s
            x_t = self._at("mean_x0", steps) * x_0 + self._at("mean_x_t", steps) * x_t
            if i:
                x_t = x_t + (0.5 * self._at("log_variance", steps)).exp() * self._noise(x_t)
        return x_t

"""MinImagen's training loop and sampler as the public package runs them, in plain torch: what ours is measured against.

Everything stands here as there, slow parts included: float32, one caption after another through the text encoder inside
the loop, 256 tokens whatever the caption's length, the linear schedule as a table of 1000 steps, noise as the target,
and to sample all 1000 steps with two network passes each. Ho et al. 2020, "Denoising diffusion probabilistic models";
Saharia et al. 2022 (arXiv 2205.11487). What is in its favour: our U-Net in the place of its own, pictures in memory
instead of downloaded, networks that stay on their device between steps, and an encoder smaller than its T5. Attention
is the network's; `minimagen` swaps it for the package's, with all scores in memory.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..runtime import generator

STEPS, TOKENS = 1000, 256


def encode_each(text_encoder: Any, captions: Sequence[str], device: torch.device,
                length: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Encode captions one at a time and pad them to `length` tokens, or to the longest of them if it is None.

    Shapes:
        tokens (B, T, E), zero where there is none; mask (B, T) bool; pooled (B, E)
    """
    found = [text_encoder.encode([caption]) for caption in captions]
    length = length or max(tokens.shape[1] for tokens, _, _ in found)
    tokens = torch.cat([F.pad(tokens[:, :length], (0, 0, 0, max(0, length - tokens.shape[1])))
                        for tokens, _, _ in found])
    mask = torch.cat([F.pad(mask[:, :length], (0, max(0, length - mask.shape[1]))) for _, mask, _ in found])
    return tokens.to(device), mask.to(device), torch.cat([pooled for _, _, pooled in found]).to(device)


class ClassicImagen:
    """One network of the cascade, trained and sampled as the public package does it.

    Args:
        network: as `models.imagen_unet.ImagenUNet`, which is trained in place. text_encoder: the frozen one.
        drop: share of captions replaced by "no text". low_size: side of the smaller picture that is enlarged.
    """

    def __init__(self, network: nn.Module, text_encoder: Any, *, learning_rate: float = 1e-4, drop: float = 0.1,
                 low_size: int | None = None, seed: int = 0):
        self.network, self.text_encoder, self.drop, self.low_size = network, text_encoder, drop, low_size
        self.device = next(network.parameters()).device
        self.optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
        self.stream = generator(seed, "bench", "classic imagen", device=self.device)
        beta = torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64)
        alpha_bar = (1 - beta).cumprod(0)
        before = F.pad(alpha_bar[:-1], (1, 0), value=1.0)
        variance = beta * (1 - before) / (1 - alpha_bar)
        tables = {"alpha": alpha_bar.sqrt(), "sigma": (1 - alpha_bar).sqrt(), "to_x0": (1 / alpha_bar).sqrt(),
                  "to_x0_eps": (1 / alpha_bar - 1).sqrt(), "log_variance": variance.clamp(min=1e-20).log(),
                  "mean_x0": beta * before.sqrt() / (1 - alpha_bar),
                  "mean_x_t": (1 - before) * (1 - beta).sqrt() / (1 - alpha_bar)}
        self.tables = {name: table.float().to(self.device) for name, table in tables.items()}

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
        steps = torch.randint(STEPS, (1,), generator=self.stream, device=self.device).expand(len(x_0))
        return {"low": self._noised(low, steps, self._noise(low)), "low_t": steps / (STEPS - 1)}

    def loss(self, x_0: Tensor, text: tuple[Tensor, Tensor, Tensor], steps: Tensor, eps: Tensor, drop: Tensor,
             smaller: dict[str, Tensor]) -> Tensor:
        """Return the mean squared error of the predicted noise.

        Shapes:
            x_0, eps: (B, 3, H, W), text: as from `encode`, steps: (B,) of 0 to 999, drop: (B,) bool -> ()
        """
        text = self.network.without_text(*text, drop)
        return F.mse_loss(self.network(self._noised(x_0, steps, eps), steps / (STEPS - 1), *text, **smaller), eps)

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
        nothing = self.network.without_text(*text, torch.ones(len(x_t), dtype=torch.bool, device=self.device))
        for i in reversed(range(STEPS - count, STEPS)):
            steps = torch.full((len(x_t),), i, device=self.device)
            given = self.network(x_t, steps / (STEPS - 1), *text, **smaller)
            free = self.network(x_t, steps / (STEPS - 1), *nothing, **smaller)
            eps = free + guidance_scale * (given - free)
            x_0 = self._at("to_x0", steps) * x_t - self._at("to_x0_eps", steps) * eps
            s = torch.quantile(x_0.flatten(1).abs(), percentile, dim=1).clamp(min=1)[:, None, None, None]
            x_0 = x_0.clamp(-s, s) / s
            x_t = self._at("mean_x0", steps) * x_0 + self._at("mean_x_t", steps) * x_t
            if i:
                x_t = x_t + (0.5 * self._at("log_variance", steps)).exp() * self._noise(x_t)
        return x_t

"""A learned prior for VQGAN+CLIP: a small text-conditional diffusion model over the VQGAN's latents.

From random codes a small CLIP is fooled into texture. The prior draws starts that look like pictures, from noise or
from the coarse layout of related drawings, and its `tether` pulls the optimised latents back towards what it believes
in, so that the guide corrects a picture instead of dissolving it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import diffusion, runtime
from ..diffusion import samplers
from ..errors import BadParameter
from ..models.latent_prior import LatentPrior
from ..models.start_bank import StartBank


class DiffusionPrior:
    """Draw VQGAN latents for texts, and measure how far latents are from what the prior expects.

    Args:
        network: the diffusion U-Net. text_encoder: the frozen encoder it was trained with.
        guidance_scale: classifier-free guidance; 1 is the plain conditional model.
        steps: DPM-Solver++ steps.
        tether_times: range of noise levels t in which the tether looks.
        chunk: latents sampled in one batch.
        bank: drawings from whose layout a part of the samples starts; None: all start from noise.
        bank_share: part of the samples of each prompt that start from the drawings with the closest names.
        bank_noise: time t to which those are noised; at 0.85 a twentieth of the variance is the drawing's.
    """

    def __init__(self, network: LatentPrior, text_encoder, *, guidance_scale: float = 3.0, steps: int = 18,
                 tether_times: tuple[float, float] = (0.15, 0.5), chunk: int = 32, precision: str = "auto",
                 bank: StartBank | None = None, bank_share: float = 0.5, bank_noise: float = 0.85):
        if steps < 1 or guidance_scale < 0 or not 0 <= bank_share <= 1 or not 0 < bank_noise <= 1:
            raise BadParameter(f"need steps >= 1, guidance_scale >= 0, bank_share in [0, 1] and bank_noise in (0, 1], "
                               f"got {steps}, {guidance_scale}, {bank_share} and {bank_noise}")
        self.bank, self.bank_share, self.bank_noise = bank, bank_share, bank_noise
        self.network, self.text_encoder = network.eval().requires_grad_(False), text_encoder
        self.guidance_scale, self.steps, self.tether_times, self.chunk = guidance_scale, steps, tether_times, chunk
        self.device = network.mean.device
        self.dtype = runtime.pick_dtype(self.device, precision)
        self._texts: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    def settings(self) -> dict[str, float | list[float]]:
        """Return what decides the samples beside the weights, as plain JSON types."""
        return {"guidance_scale": self.guidance_scale, "steps": self.steps, "tether_times": list(self.tether_times),
                "bank_share": self.bank_share if self.bank is not None else 0.0, "bank_noise": self.bank_noise}

    @torch.no_grad()
    def sample(self, prompts: Sequence[str], *, num: int, generators: Sequence[torch.Generator],
               size: tuple[int, int]) -> Tensor:
        """Return `num` latents for each of P prompts: (P * num, D, h, w); prompt i uses only `generators[i]`.

        With a bank of this size, the last `int(bank_share * num)` of each prompt start from drawings.
        """
        if not prompts or len(prompts) != len(generators) or num < 1:
            raise BadParameter(f"need num >= 1, and a generator for each of at least one prompt; got num={num}, "
                               f"{len(prompts)} prompts and {len(generators)} generators")
        channels = self.network.mean.shape[1]
        noise = torch.stack([torch.randn((num, channels, *size), generator=g) for g in generators]).to(self.device)
        drawn = int(self.bank_share * num) if self.bank is not None and tuple(size) == self.bank.size else 0
        out = self._denoise([p for p in prompts for _ in range(num - drawn)], noise[:, :num - drawn].flatten(0, 1), 1.0)
        out = out.unflatten(0, (len(prompts), num - drawn))
        if drawn:
            x = torch.stack([self.network.normalize(self._drawings(prompt, drawn)) for prompt in prompts])
            t = torch.full((len(prompts) * drawn,), self.bank_noise, device=self.device)
            x_t = diffusion.q_sample(x.flatten(0, 1), t, noise[:, num - drawn:].flatten(0, 1))
            again = self._denoise([p for p in prompts for _ in range(drawn)], x_t, self.bank_noise)
            out = torch.cat([out, again.unflatten(0, (len(prompts), drawn))], dim=1)
        return self.network.denormalize(out.flatten(0, 1))

    @torch.no_grad()
    def redraw(self, z: Tensor, prompts: Sequence[str], *, num: int, generators: Sequence[torch.Generator],
               strength: float) -> Tensor:
        """Return `num` versions of each latent, drawn anew for its prompt from a noised copy (Meng et al. 2022).

        Args:
            strength: the time in (0, 1] to which the copy is noised; at 1 nothing of it is left.

        Shapes:
            z (P, D, h, w) -> (P * num, D, h, w)
        """
        x = self.network.normalize(z.to(self.device)).repeat_interleave(num, dim=0)
        noise = torch.cat([torch.randn((num, *z.shape[1:]), generator=g) for g in generators]).to(x)
        x_t = diffusion.q_sample(x, torch.full((len(x),), strength, device=self.device), noise)
        return self.network.denormalize(self._denoise([p for p in prompts for _ in range(num)], x_t, strength))

    def _denoise(self, texts: list[str], x_t: Tensor, start: float) -> Tensor:
        """Sample from x_t (B, D, h, w) at time `start` down to 0, a chunk at a time."""
        steps, out = max(1, round(self.steps * start)), [x_t[:0]]
        for i in range(0, len(texts), self.chunk):
            denoiser = self._denoiser(texts[i:i + self.chunk], self.guidance_scale)
            out.append(samplers.sample_dpm_solver(denoiser, x_t[i:i + self.chunk], steps=steps, start=start))
        return torch.cat(out)

    def _drawings(self, prompt: str, count: int) -> Tensor:
        """Return latents (count, D, h, w) of the drawings whose names are closest to the prompt."""
        _, _, pooled = self._condition([prompt])
        return self.bank.latents(self.bank.nearest(pooled[0], count)).to(self.device)

    def tether(self, z: Tensor, prompts: Sequence[str], generators: Sequence[torch.Generator]) -> Tensor:
        """Return the mean squared distance (B,) of z to the prior's own estimate of it from a noised copy.

        The estimate carries no gradient: minimising this moves z towards it (the score distillation of Poole et al.
        2022, eq. 3, written as a regression).
        """
        if not len(z) == len(prompts) == len(generators):
            raise BadParameter(f"need a prompt and a generator for each latent, got {len(z)} latents, "
                               f"{len(prompts)} prompts and {len(generators)} generators")
        x = self.network.normalize(z)
        low, high = self.tether_times
        draws = [(torch.rand((), generator=g), torch.randn(x.shape[1:], generator=g)) for g in generators]
        t = (low + (high - low) * torch.stack([d[0] for d in draws])).to(x)
        eps = torch.stack([d[1] for d in draws]).to(x)
        with torch.no_grad():
            x_t = diffusion.q_sample(x, t, eps)
            x_0, _ = diffusion.to_x0_eps(x_t, t, self._denoiser(prompts, self.guidance_scale)(x_t, t))
        return (x - x_0).square().mean(dim=(1, 2, 3))

    def _denoiser(self, prompts: Sequence[str], scale: float) -> diffusion.Denoiser:
        tokens, mask, pooled = self._condition(prompts)
        condition = {"tokens": tokens, "mask": mask, "pooled": pooled}
        drop = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
        nothing = dict(zip(condition, self.network.without_text(tokens, mask, pooled, drop), strict=True))

        def network(x_t: Tensor, t: Tensor, given: dict[str, Tensor]) -> Tensor:
            with runtime.autocast(self.device, self.dtype):
                return self.network(x_t, t, **given).float()

        return diffusion.with_guidance(network, condition, nothing, scale)

    def _condition(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        new = [p for p in dict.fromkeys(prompts) if p not in self._texts]
        if new:
            tokens, mask, pooled = (f.to(self.device) for f in self.text_encoder.encode(new))
            for i, prompt in enumerate(new):
                self._texts[prompt] = (tokens[i, mask[i]], mask[i, mask[i]], pooled[i])
        rows = [self._texts[p] for p in prompts]
        pad = torch.nn.utils.rnn.pad_sequence
        return (pad([r[0] for r in rows], batch_first=True), pad([r[1] for r in rows], batch_first=True),
                torch.stack([r[2] for r in rows]))

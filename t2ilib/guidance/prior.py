"""A learned prior for VQGAN+CLIP: a small text-conditional diffusion model over the VQGAN's latents.

From random codes a small CLIP is fooled into texture. The prior draws starts that look like pictures, from noise or
from noised drawings with related names, and its score distillation pulls the optimised latents back towards what the
prior expects, so that the guide corrects a picture instead of dissolving it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .near_drawings import NearDrawings
from .protocols import CodingNetwork
from .. import runtime
from ..diffusion import (
    Denoiser,
    noise_for,
    null_condition,
    q_sample,
    sample_dpm_solver,
    to_x0_eps,
    with_guidance,
)
from ..encoders import TextConditioner, TextEncoder, batch_conditions
from ..errors import BadParameter
from ..models.latent_prior import LatentPrior
from ..models.start_bank import StartBank

BANK_NOISE = 0.5  # time to which drawings are noised, among latents: earlier they stay nearly as they are


class DiffusionPrior:
    """Draw VQGAN latents for texts, and measure how far latents are from what the prior expects.

    Args:
        network: the diffusion U-Net. text_encoder: the frozen encoder it was trained with.
        guidance_scale: classifier-free guidance; 1 is the plain conditional model.
        steps: DPM-Solver++ steps.
        distillation_times: range of noise levels t at which score distillation asks the network.
        chunk: latents sampled in one batch.
        precision: of the network's arithmetic.
        bank: drawings from which a part of the samples starts; None: all start from noise.
        painter: a VQGAN with the bank's codebook, which paints drawings of the bank in the colour that a prompt asks
            for; None leaves every drawing its colours.
        bank_share: part of the samples of each prompt that start from the drawings with the closest names.
        bank_noise: time t to which those are noised. At 0.5 half of the variance is the drawing's, and it stays nearly
            as it is; at 0.7 a fifth, and its shape survives; at 0.85 a twentieth, and its layout does; at 1 nothing.

    Raises:
        BadParameter: an argument is out of range.
    """

    def __init__(self, network: LatentPrior, text_encoder: TextEncoder, *, guidance_scale: float = 3.0, steps: int = 18,
                 distillation_times: tuple[float, float] = (0.15, 0.5), chunk: int = 32, precision: str = "auto",
                 bank: StartBank | None = None, painter: CodingNetwork | None = None, bank_share: float = 0.5,
                 bank_noise: float = BANK_NOISE):
        if steps < 1 or guidance_scale < 0 or not 0 <= bank_share <= 1 or not 0 < bank_noise <= 1:
            raise BadParameter(f"need steps >= 1, guidance_scale >= 0, bank_share in [0, 1] and bank_noise in (0, 1], "
                               f"got {steps}, {guidance_scale}, {bank_share} and {bank_noise}")
        self.network = network.eval().requires_grad_(False)
        self.text_encoder = text_encoder
        self.guidance_scale = guidance_scale
        self.steps = steps
        self.distillation_times = distillation_times
        self.chunk = chunk
        self._near = None if bank is None else NearDrawings(bank, text_encoder, painter, chunk=chunk)
        self.bank_share = bank_share
        self.bank_noise = bank_noise
        self.device = network.mean.device
        self.dtype = runtime.pick_dtype(self.device, precision)
        self._conditions = TextConditioner(text_encoder, self.device)

    def settings(self) -> dict[str, float | list[float]]:
        """Return what decides the samples beside the weights, as plain JSON types."""
        return {"guidance_scale": self.guidance_scale, "steps": self.steps,
                "distillation_times": list(self.distillation_times),
                "bank_share": self.bank_share if self._near is not None else 0.0, "bank_noise": self.bank_noise}

    @torch.no_grad()
    def sample(self, prompts: Sequence[str], *, num: int, generators: Sequence[torch.Generator],
               size: tuple[int, int]) -> Tensor:
        """Return `num` latents for each of P prompts: (P * num, D, h, w); prompt i uses only `generators[i]`.

        With a bank of this size, the last of each prompt start from drawings: `int(bank_share * num)`, or all where the
        drawings are painted in the prompt's colour.
        """
        if not prompts or len(prompts) != len(generators) or num < 1:
            raise BadParameter(f"need num >= 1, and a generator for each of at least one prompt; got num={num}, "
                               f"{len(prompts)} prompts and {len(generators)} generators")
        channels = self.network.mean.shape[1]
        noise = noise_for(generators, (num, channels, *size)).to(self.device)  # (P, num, D, h, w)
        counts = [0] * len(prompts)  # of samples from the bank
        if self._near is not None and tuple(size) == self._near.bank.size:
            counts = [self._near.drafts(prompt, num, self.bank_share) for prompt in prompts]
        split_noise = [of_prompt.split([num - count, count]) for of_prompt, count in zip(noise, counts, strict=True)]

        x_t = torch.cat([first for first, _ in split_noise])  # those that start from noise, of all prompts
        from_noise = self._denoise(_repeat(prompts, [num - count for count in counts]), x_t, start=1.0)
        x_t = torch.cat([last for _, last in split_noise])  # those that start from drawings
        if len(x_t):
            count_of = dict(zip(prompts, counts, strict=True))  # a prompt of several pictures is looked up once
            near = {prompt: self._near.latents(prompt, count) for prompt, count in count_of.items()}
            drawings = torch.cat([near[prompt] for prompt in prompts]).to(self.device)
            x_t = self._noised(self.network.normalize(drawings), x_t, self.bank_noise)
        from_bank = self._denoise(_repeat(prompts, counts), x_t, start=self.bank_noise)

        samples = []
        of_noise = from_noise.split([num - count for count in counts])
        for first, last in zip(of_noise, from_bank.split(counts), strict=True):
            samples += [first, last]
        return self.network.denormalize(torch.cat(samples))

    def paints(self, prompt: str) -> bool:
        """Return whether samples for a prompt start from drawings that were painted in the colour it asks for."""
        return self._near is not None and self._near.paints(prompt) and self.bank_share > 0

    @torch.no_grad()
    def redraw(self, z: Tensor, prompts: Sequence[str], *, num: int, generators: Sequence[torch.Generator],
               strength: float) -> Tensor:
        """Draw each latent anew, `num` times, from a noised copy of it (Meng et al. 2022, "SDEdit").

        Args:
            strength: the time in (0, 1] to which the copy is noised; at 1 nothing of it is left.

        Shapes:
            z (P, D, h, w) -> (P * num, D, h, w)
        """
        x_0 = self.network.normalize(z.to(self.device)).repeat_interleave(num, dim=0)  # (P num, D, h, w)
        noise = noise_for(generators, (num, *z.shape[1:]))  # (P, num, D, h, w)
        x_t = self._noised(x_0, noise.flatten(0, 1).to(x_0), strength)
        redrawn = self._denoise(_repeat(prompts, [num] * len(prompts)), x_t, start=strength)
        return self.network.denormalize(redrawn)

    def score_distillation(self, z: Tensor, prompts: Sequence[str], generators: Sequence[torch.Generator]) -> Tensor:
        """Return the mean squared distance (B,) of z to the prior's own estimate of it from a noised copy.

        The estimate carries no gradient: minimising this moves z towards it (the score distillation of Poole et al.
        2022, eq. 3, written as a regression).
        """
        if not len(z) == len(prompts) == len(generators):
            raise BadParameter(f"need a prompt and a generator for each latent, got {len(z)} latents, "
                               f"{len(prompts)} prompts and {len(generators)} generators")
        x = self.network.normalize(z)
        low, high = self.distillation_times
        share = torch.stack([torch.rand((), generator=g) for g in generators])  # (B,)
        t = (low + (high - low) * share).to(x)
        eps = noise_for(generators, x.shape[1:]).to(x)
        with torch.no_grad():
            x_t = q_sample(x, t, eps)
            prediction = self._denoiser(prompts)(x_t, t)
            x_0, _ = to_x0_eps(x_t, t, prediction)
        return (x - x_0).square().mean(dim=(1, 2, 3))

    def _noised(self, x_0: Tensor, eps: Tensor, t: float) -> Tensor:
        """Return x_0 (B, D, h, w) noised to one time."""
        return q_sample(x_0, torch.full((len(x_0),), t, device=self.device), eps)

    def _denoise(self, texts: list[str], x_t: Tensor, *, start: float) -> Tensor:
        """Sample from x_t (B, D, h, w) at time `start` down to 0, a chunk at a time; B may be 0."""
        steps = max(1, round(self.steps * start))
        parts = [x_t[:0]]  # so that there is something to join where B is 0
        for i in range(0, len(texts), self.chunk):
            denoiser = self._denoiser(texts[i:i + self.chunk])
            parts.append(sample_dpm_solver(denoiser, x_t[i:i + self.chunk], steps=steps, start=start))
        return torch.cat(parts)

    def _denoiser(self, texts: Sequence[str]) -> Denoiser:
        """Return the network as it follows these texts."""
        condition = batch_conditions(self._conditions(texts))
        unconditional = null_condition(self.network, condition)
        return with_guidance(self._predict, condition, unconditional, self.guidance_scale)

    def _predict(self, x_t: Tensor, t: Tensor, condition: dict[str, Tensor]) -> Tensor:
        with runtime.autocast(self.device, self.dtype):
            return self.network(x_t, t, **condition).float()


def _repeat(prompts: Sequence[str], counts: Sequence[int]) -> list[str]:
    """Return each prompt so many times, those of one next to one another."""
    return [prompt for prompt, count in zip(prompts, counts, strict=True) for _ in range(count)]

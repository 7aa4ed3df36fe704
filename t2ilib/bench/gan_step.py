"""One training step of a GAN on digits: all on the device and nothing waited for, against the loop of first scripts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from .measure import Row, measure, tf32
from ..data import DigitImages, load_digits
from ..models.digit_gans import ConvCritic, ConvGenerator, LinearDiscriminator, LinearGenerator
from ..runtime import autocast, generator, pick_dtype
from ..training.losses import logistic_critic_loss, nonsaturating_generator_loss

LEARNING_RATE, BETAS = 2e-4, (0.5, 0.999)


@dataclass(frozen=True)
class Pair:
    """A generator and a discriminator that are timed, and what they are called in the table."""

    name: str
    generator: Callable[..., nn.Module]
    discriminator: Callable[..., nn.Module]
    batch: int = 64
    image_size: int = 28
    options: tuple[tuple[str, Any], ...] = ()

    def build(self) -> tuple[nn.Module, nn.Module]:
        """Return both networks, always with the same weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            kwargs = dict(self.options, image_size=self.image_size)
            return self.generator(**kwargs), self.discriminator(**kwargs)


PAIRS = (Pair("linear, batch 64", LinearGenerator, LinearDiscriminator),
         Pair("DCGAN, batch 64", ConvGenerator, ConvCritic))


class PillowDigits(Dataset):
    """Digits as data sets of torchvision hold them: each is unpacked, converted and normalised when it is asked for."""

    def __init__(self, digits: DigitImages):
        self.images, self.labels = digits.images[:, 0].numpy(), digits.labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from torchvision.transforms import functional as transforms

        x = transforms.to_tensor(Image.fromarray(self.images[index]))
        return transforms.normalize(x, [0.5], [0.5]), self.labels[index]


class ClassicGan:
    """The loop of public first scripts: pictures one by one, noise from NumPy, numbers read in every step."""

    def __init__(self, pair: Pair, digits: DigitImages, device: torch.device):
        self.device, (self.net, self.critic) = device, pair.build()
        self.net.to(device), self.critic.to(device)
        self.optimizers = [torch.optim.Adam(n.parameters(), lr=LEARNING_RATE, betas=BETAS) for n in
                           (self.net, self.critic)]
        self.loader = DataLoader(PillowDigits(digits.to("cpu")), batch_size=pair.batch, shuffle=True, drop_last=True)
        self.rng, self.batches = np.random.default_rng(0), iter(())

    def next(self) -> tuple[Tensor, Tensor]:
        """Return pictures and noise of the next step, on the device."""
        try:
            real, _ = next(self.batches)
        except StopIteration:
            self.batches = iter(self.loader)
            real, _ = next(self.batches)
        z = torch.from_numpy(self.rng.normal(size=(len(real), self.net.latent_dim)).astype(np.float32))
        return real.to(self.device), z.to(self.device)

    def update(self, real: Tensor, z: Tensor) -> tuple[float, float]:
        """Train the generator, then the discriminator on the same fakes; return both losses as numbers."""
        one, zero = torch.ones(len(real), device=self.device), torch.zeros(len(real), device=self.device)
        self.optimizers[0].zero_grad()
        fake = self.net(z)
        generator_loss = F.binary_cross_entropy_with_logits(self.critic(fake), one)
        generator_loss.backward()
        self.optimizers[0].step()
        self.optimizers[1].zero_grad()
        on_real = F.binary_cross_entropy_with_logits(self.critic(real), one)
        on_fake = F.binary_cross_entropy_with_logits(self.critic(fake.detach()), zero)
        loss = (on_real + on_fake) / 2
        loss.backward()
        self.optimizers[1].step()
        return loss.item(), generator_loss.item()

    def step(self) -> None:
        self.update(*self.next())


class ResidentGan:
    """The same updates with everything on the device.

    All digits lie there as bytes and a batch is an index into them; the fakes go through the discriminator once for
    both losses; the generator's loss asks for no gradients of the discriminator's weights; Adam is one kernel; losses
    stay on the device.

    Args:
        dtype: of autocast.
    """

    def __init__(self, pair: Pair, digits: DigitImages, device: torch.device, *, dtype: torch.dtype = torch.float32):
        self.device, self.dtype, self.batch, (self.net, self.critic) = device, dtype, pair.batch, pair.build()
        self.net.to(device), self.critic.to(device)
        self.optimizers = [torch.optim.Adam(n.parameters(), lr=LEARNING_RATE, betas=BETAS, fused=device.type != "mps")
                           for n in (self.net, self.critic)]
        self.digits, self.stream = digits.to(device), generator(0, "bench", "gan_step", device=device)
        self.losses = torch.zeros(2, device=device)

    def next(self) -> tuple[Tensor, Tensor]:
        """Return pictures and noise of the next step."""
        rows = torch.randint(len(self.digits), (self.batch,), generator=self.stream, device=self.device)
        z = torch.randn(self.batch, self.net.latent_dim, generator=self.stream, device=self.device)
        return self.digits.batch(rows), z

    def update(self, real: Tensor, z: Tensor) -> Tensor:
        """Train both on the same fakes; return both losses, (2,) on the device."""
        with autocast(self.device, self.dtype):
            fake = self.net(z)
            seen = fake.detach().requires_grad_()
            on_real, on_fake = self.critic(real).float(), self.critic(seen).float()
        generator_loss, loss = nonsaturating_generator_loss(on_fake), logistic_critic_loss(on_real, on_fake)
        pull, = torch.autograd.grad(generator_loss, seen, retain_graph=True)
        loss.backward(inputs=list(self.critic.parameters()))
        fake.backward(pull)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return torch.stack([loss.detach(), generator_loss.detach()])

    def step(self) -> None:
        self.losses = self.update(*self.next())


class ResidentData(ClassicGan):
    """The classic updates with pictures and noise from the device: what the data alone are worth."""

    def __init__(self, pair: Pair, digits: DigitImages, device: torch.device):
        super().__init__(pair, digits, device)
        self.source = ResidentGan(pair, digits, device)

    def next(self) -> tuple[Tensor, Tensor]:
        return self.source.next()


def gan_step_rows(device: torch.device, seconds: float, *, pairs: Sequence[Pair] = PAIRS,
                  digits: DigitImages | None = None, steps: int = 10, least: int = 5) -> Iterator[Row]:
    """Steps/s of the classic loop, of the same updates on resident data, and of ours in both precisions.

    Args:
        pairs: networks to time. digits: by default MNIST if it is there, else scikit-learn's, enlarged to its size.
        steps: in one timed call, after which the device is waited for. least: timed calls of each provider.
    """
    other = pick_dtype(device)
    for pair in pairs:
        chosen = digits if digits is not None else load_digits(image_size=pair.image_size)
        loops = {"classic": ClassicGan(pair, chosen, device), "ours": ResidentGan(pair, chosen, device),
                 "classic, resident data": ResidentData(pair, chosen, device)}
        if other != torch.float32:
            loops[f"ours, {str(other).removeprefix('torch.')}"] = ResidentGan(pair, chosen, device, dtype=other)
        work = {name: _repeated(loop.step, steps) for name, loop in loops.items()}
        timed = measure("gan_step", work, baseline="classic", mode="training", device=device, seconds=seconds,
                        least=least, shape=f"{pair.name}, {chosen.name} of {pair.image_size} px",
                        dtype=f"float32 unless named{tf32(device)}")
        yield from (row.per_second(steps, "steps") for row in timed if row.metric == "ms")


def _repeated(step: Callable[[], object], steps: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(steps):
            step()

    return run

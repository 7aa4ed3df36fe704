"""One training step of a GAN on digits: that of notebook 01, all on the device, against the loop of first scripts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from .measure import Contest, Row, precision, short_name
from .memory import Work
from ..data import DigitImages, load_digits
from ..models.digit_gans import ConvCritic, ConvGenerator, LinearDiscriminator, LinearGenerator
from ..models.sizes import DIGIT_GAN
from ..runtime import autocast, generator, pick_dtype
from ..training import GanRule, gan_step

LEARNING_RATE = 1e-3
BETAS = (0.5, 0.99)
RULE = GanRule()


@dataclass(frozen=True)
class Pair:
    """A generator and a discriminator that are timed, and what they are called in the table."""

    name: str
    generator: Callable[..., nn.Module]
    discriminator: Callable[..., nn.Module]
    batch: int = 64
    image_size: int = 28
    sizes: dict[str, Any] = field(default_factory=dict)

    def build(self, device: torch.device) -> tuple[nn.Module, nn.Module]:
        """Return both networks, always with the same weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = self.generator(image_size=self.image_size, **self.sizes)
            critic = self.discriminator(image_size=self.image_size, **self.sizes)
        return net.to(device), critic.to(device)


PAIRS = (Pair("linear, batch 64", LinearGenerator, LinearDiscriminator, sizes=DIGIT_GAN["linear"]),
         Pair("DCGAN, batch 64", ConvGenerator, ConvCritic, sizes=DIGIT_GAN["convolutional"]))


class PillowDigits(Dataset):
    """Digits as data sets of torchvision hold them: each is unpacked, converted and normalised when it is asked for."""

    def __init__(self, digits: DigitImages):
        self.images = digits.images[:, 0].numpy()
        self.labels = digits.labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from torchvision.transforms import functional as transforms

        x = transforms.to_tensor(Image.fromarray(self.images[index]))
        return transforms.normalize(x, [0.5], [0.5]), self.labels[index]


class ClassicGan:
    """The loop of public first scripts: pictures one by one, noise from NumPy, numbers read in every step.

    The discriminator is first, as in PyTorch's own example and in notebook 01.

    Args:
        dtype: of autocast around the networks; the scripts have none.
    """

    def __init__(self, pair: Pair, digits: DigitImages, device: torch.device, *, dtype: torch.dtype = torch.float32):
        self.device = device
        self.dtype = dtype
        self.net, self.critic = pair.build(device)
        self.net_adam = torch.optim.Adam(self.net.parameters(), lr=LEARNING_RATE, betas=BETAS)
        self.critic_adam = torch.optim.Adam(self.critic.parameters(), lr=LEARNING_RATE, betas=BETAS)
        self.loader = DataLoader(PillowDigits(digits.to("cpu")), batch_size=pair.batch, shuffle=True, drop_last=True)
        self.rng = np.random.default_rng(0)
        self.batches = iter(())

    def next(self) -> tuple[Tensor, Tensor]:
        """Return pictures and noise of the next step, on the device."""
        try:
            real, _ = next(self.batches)
        except StopIteration:
            self.batches = iter(self.loader)
            real, _ = next(self.batches)
        z = self.rng.normal(size=(len(real), self.net.latent_dim)).astype(np.float32)
        return real.to(self.device), torch.from_numpy(z).to(self.device)

    def update(self, real: Tensor, z: Tensor) -> tuple[float, float]:
        """Train the discriminator, then the generator on the same fakes; return both losses as numbers."""
        # the discriminator, on fakes that are detached from the generator
        self.critic_adam.zero_grad()
        fake = self._run(self.net, z)
        on_real = _binary(self._run(self.critic, real), torch.ones)
        on_fake = _binary(self._run(self.critic, fake.detach()), torch.zeros)
        loss = (on_real + on_fake) / 2
        loss.backward()
        self.critic_adam.step()

        # the generator, through the discriminator, which gets gradients that nobody uses
        self.net_adam.zero_grad()
        generator_loss = _binary(self._run(self.critic, fake), torch.ones)
        generator_loss.backward()
        self.net_adam.step()
        return loss.item(), generator_loss.item()

    def _run(self, network: nn.Module, x: Tensor) -> Tensor:
        with autocast(self.device, self.dtype):
            return network(x)

    def step(self) -> None:
        self.update(*self.next())


def _binary(logits: Tensor, label: Callable[..., Tensor]) -> Tensor:
    """Return the binary cross entropy against a label made for this batch, `torch.ones` or `torch.zeros`."""
    if logits.dtype == torch.bfloat16:
        logits = logits.float()
    return F.binary_cross_entropy_with_logits(logits, label(len(logits), dtype=logits.dtype, device=logits.device))


class ResidentGan:
    """The step of notebook 01: digits lie on the device as bytes, a batch is an index into them, no number is read.

    Args:
        dtype: of autocast.
    """

    def __init__(self, pair: Pair, digits: DigitImages, device: torch.device, *, dtype: torch.dtype = torch.float32):
        self.device = device
        self.dtype = dtype
        self.batch = pair.batch
        self.net, self.critic = pair.build(device)
        fused = device.type != "mps"
        self.net_adam = torch.optim.Adam(self.net.parameters(), lr=LEARNING_RATE, betas=BETAS, fused=fused)
        self.critic_adam = torch.optim.Adam(self.critic.parameters(), lr=LEARNING_RATE, betas=BETAS, fused=fused)
        self.digits = digits.to(device)
        self.stream = generator(0, "bench", "gan_step", device=device)
        self.losses = torch.zeros(2, device=device)

    def next(self) -> tuple[Tensor, Tensor]:
        """Return pictures and noise of the next step."""
        rows = torch.randint(len(self.digits), (self.batch,), generator=self.stream, device=self.device)
        z = torch.randn(self.batch, self.net.latent_dim, generator=self.stream, device=self.device)
        return self.digits.batch(rows), z

    def update(self, real: Tensor, z: Tensor) -> Tensor:
        """Train both on the same fakes; return both losses, (2,) on the device."""
        step = gan_step(RULE, self.net, self.critic, self.net_adam, self.critic_adam, real, z, dtype=self.dtype)
        return torch.stack([step.critic.loss, step.generator.loss])

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
    """Steps/s of the classic loop, of the same updates on resident data, and of ours, at equal precision and at lower.

    Args:
        pairs: networks to time. digits: by default MNIST if it is there, else scikit-learn's, enlarged to its size.
        steps: in one timed call, after which the device is waited for. least: timed calls of each provider.
    """
    exact = torch.float32
    fast = pick_dtype(device)
    for pair in pairs:
        images = load_digits(image_size=pair.image_size) if digits is None else digits
        contest = Contest("gan_step", f"{pair.name}, {images.name} of {pair.image_size} px", device)
        loops = [("classic", ClassicGan(pair, images, device), exact),
                 ("classic, resident data", ResidentData(pair, images, device), exact),
                 ("ours", ResidentGan(pair, images, device), exact)]
        if fast != exact:
            name = short_name(fast)
            loops += [(f"classic, {name}", ClassicGan(pair, images, device, dtype=fast), fast),
                      (f"ours, {name}", ResidentGan(pair, images, device, dtype=fast), fast)]
        for name, loop, dtype in loops:
            contest.add(name, _repeated(loop.step, steps), dtype=precision(dtype, device))
        for row in contest.time_rows("training", seconds, least):
            yield row.per_second(steps, "steps")


def _repeated(step: Work, steps: int) -> Work:
    def run() -> None:
        for _ in range(steps):
            step()

    return run

"""Where a step's time and memory go, operation by operation: what to look at before a kernel is written."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from statistics import quantiles

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from .gan_step import PAIRS, ResidentGan
from .guidance import guidance_step, random_networks
from .measure import Row, _row, noise
from .minimagen import BASE, LAPTOP, OurImagen
from ..data import load_digits
from ..guidance.speed import fast
from ..models.imagen_unet import ImagenUNet
from ..models.wgan import WGANCritic, WGANGenerator
from ..runtime import autocast, pick_dtype
from ..training.losses import gradient_penalty, wasserstein_critic_loss

TOP = 10
TOKENS, WIDTH = 20, 384  # of the text that a U-Net reads
ALLOCATING = ("aten::empty", "aten::empty_strided", "aten::empty_like", "aten::resize_")
Step = Callable[[], object]
Build = Callable[[torch.device], AbstractContextManager[tuple[str, Step]]]


@contextmanager
def gan_training(device: torch.device) -> Iterator[tuple[str, Step]]:
    """The DCGAN of notebook 01 on digits."""
    gan = ResidentGan(PAIRS[1], load_digits("digits", image_size=28), device, dtype=pick_dtype(device))
    yield "DCGAN, 28 px, batch 64", gan.step


@contextmanager
def critic_training(device: torch.device, *, batch: int = 64) -> Iterator[tuple[str, Step]]:
    """A critic's step of notebook 02, with its penalty."""
    generator = WGANGenerator(image_size=64, ch=24, max_ch=192).to(device)
    critic = WGANCritic(image_size=64, ch=48, max_ch=384).to(device)
    adam = torch.optim.Adam(critic.parameters(), lr=5e-4, betas=(0.0, 0.9))
    real, z = noise(batch, 3, 64, 64, device=device, name="real"), noise(batch, 128, device=device, name="z")
    alpha = torch.linspace(0, 1, batch, device=device)

    def step() -> None:
        with autocast(device, pick_dtype(device)):
            with torch.no_grad():
                fake = generator(z).float()
            on_real, on_fake = critic(torch.cat([real, fake])).float().chunk(2)
        loss = wasserstein_critic_loss(on_real, on_fake) + 10 * gradient_penalty(critic, real, fake, alpha)
        adam.zero_grad()
        loss.backward()
        adam.step()

    yield f"critic with penalty, 64 px, batch {batch}", step


@contextmanager
def guidance(device: torch.device) -> Iterator[tuple[str, Step]]:
    """A step of notebook 03 with networks as large as the published ones."""
    side, cutouts = (128, 8) if device.type == "cpu" else (400, 32)
    networks = random_networks(device)
    step = guidance_step(*networks, side, cutouts, dtype=pick_dtype(device))
    with fast(*networks, dtype=pick_dtype(device), drop_encoder=True, drop_text=True):
        yield f"VQGAN+CLIP, {side} px, {cutouts} cutouts", step


@contextmanager
def diffusion_training(device: torch.device) -> Iterator[tuple[str, Step]]:
    """A training step of notebook 08's first network."""
    shape = LAPTOP if device.type == "cpu" else BASE
    network = ImagenUNet(text_embed_dim=WIDTH, **shape.network).to(device)
    loop, n = OurImagen(network, pick_dtype(device)), shape.batch
    x_0 = noise(n, 3, shape.size, shape.size, device=device, name="x_0").clamp(-1, 1)
    text = (noise(n, TOKENS, WIDTH, device=device, name="tokens"), torch.ones(n, TOKENS, dtype=torch.bool,
                                                                              device=device),
            noise(n, WIDTH, device=device, name="pooled"))
    yield shape.name, lambda: loop.step(x_0, text)


STEPS = {"01_gan_basics": gan_training, "02_wgan_gp": critic_training, "03_vqgan_clip": guidance,
         "08_minimagen": diffusion_training}


def operations(step: Step, device: torch.device) -> tuple[dict[str, float], dict[str, float]]:
    """Return milliseconds and MiB of each operation of one step, without those that it calls.

    On CUDA the time is that of the device. MiB is all that an operation allocates, freed or not; what only allocates
    does so for the operation that called it.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, profile_memory=True) as found:
        step()
    # a GPU's kernels have rows of their own, whose time stands in that of the operation that launched them too
    events = [e for e in found.key_averages()
              if e.device_type == DeviceType.CPU and (e.key.startswith("aten::") or "::" not in e.key)]
    time = {e.key: (e.self_device_time_total if on_gpu else e.self_cpu_time_total) / 1e3 for e in events}
    grown: dict[str, float] = defaultdict(float)
    for event in found.events():
        size = event.self_device_memory_usage if on_gpu else event.self_cpu_memory_usage
        if size > 0:
            while event.name in ALLOCATING and event.cpu_parent:
                event = event.cpu_parent
            grown[event.name] += size / 2**20
    return time, grown


def profile_rows(device: torch.device, seconds: float, *, steps: dict[str, Build] | None = None,
                 repeats: int = 5) -> Iterator[Row]:
    """The ten operations that take most time, and the ten that allocate most, of one step of each notebook.

    `ratio` is the whole step's over the operation's: no kernel in its place can make the step faster than by
    1 / (1 - 1 / ratio).

    Args:
        seconds: not used; a profiled step is made `repeats` times.
        steps: notebook -> context that yields what is measured and a step; None is `STEPS`.
    """
    for notebook, build in (STEPS if steps is None else steps).items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            with build(device) as (shape, step):
                for _ in range(2):
                    step()
                runs = [operations(step, device) for _ in range(repeats)]
        for metric, each in zip(("ms", "MiB allocated"), zip(*runs, strict=True), strict=True):
            yield from _top(each, metric, notebook, shape, device)


def _top(runs: Sequence[dict[str, float]], metric: str, notebook: str, shape: str, device: torch.device
         ) -> Iterator[Row]:
    values: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        values["whole step"].append(sum(run.values()))
        for name, value in run.items():
            values[name].append(value)
    spread = {name: quantiles([*found, *[0.0] * (len(runs) - len(found))], n=10, method="inclusive")
              for name, found in values.items()}
    for name in sorted(spread, key=lambda name: -spread[name][4])[:TOP + 1]:
        low, middle, high = (spread[name][k] for k in (1, 4, 7))
        if middle:
            yield _row("profile", name.removeprefix("aten::"), notebook, shape, str(pick_dtype(device)).removeprefix(
                "torch."), metric, (middle, low, high), spread["whole step"][4] / middle, device)

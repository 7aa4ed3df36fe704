"""Where a step's time and memory go, operation by operation: what to look at before a kernel is written."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from statistics import quantiles

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from .gan_step import PAIRS, ResidentGan
from .guidance import DROP, guidance_step, random_networks
from .measure import Row, noise, precision, row
from .memory import Work
from .minimagen import CPU_SHAPES, CUDA_SHAPES
from ..data import load_digits
from ..guidance.speed import fast
from ..models.imagen_unet import ImagenUNet
from ..models.sizes import WGAN
from ..models.wgan import WGANCritic, WGANGenerator
from ..runtime import autocast, pick_dtype
from ..training import DiffusionBatch, DiffusionTraining, GanRule, critic_step, make_fabric

TOP = 10
TOKENS = 20  # of the text that a U-Net reads
WIDTH = 384
ALLOCATING = ("aten::empty", "aten::empty_strided", "aten::empty_like", "aten::resize_")
Build = Callable[[torch.device], AbstractContextManager[tuple[str, Work]]]
Spread = tuple[float, float, float]  # median, 20th and 80th percentile


@contextmanager
def gan_training(device: torch.device) -> Iterator[tuple[str, Work]]:
    """The DCGAN of notebook 01 on digits."""
    gan = ResidentGan(PAIRS[1], load_digits("digits", image_size=28), device, dtype=pick_dtype(device))
    yield "DCGAN, 28 px, batch 64", gan.step


@contextmanager
def critic_training(device: torch.device, *, batch: int = 64) -> Iterator[tuple[str, Work]]:
    """A critic's step of notebook 02, with its penalty."""
    generator = WGANGenerator(**WGAN["shipped"]["generator"]).to(device)
    critic = WGANCritic(**WGAN["shipped"]["critic"]).to(device)
    adam = torch.optim.Adam(critic.parameters(), lr=5e-4, betas=(0.0, 0.9))
    rule = GanRule("wasserstein", penalty=10.0, one_pass=True)
    real = noise(batch, 3, 64, 64, device=device, name="real")
    z = noise(batch, 128, device=device, name="z")
    alpha = torch.linspace(0, 1, batch, device=device)
    dtype = pick_dtype(device)

    def step() -> None:
        with torch.no_grad(), autocast(device, dtype):
            fake = generator(z)
        critic_step(rule, critic, adam, real, fake, alpha=alpha, dtype=dtype)

    yield f"critic with penalty, 64 px, batch {batch}", step


@contextmanager
def guidance(device: torch.device) -> Iterator[tuple[str, Work]]:
    """A step of notebook 03 with networks as large as the published ones."""
    side, cutouts = (128, 8) if device.type == "cpu" else (400, 32)
    networks = random_networks(device)
    step = guidance_step(*networks, side, cutouts, dtype=pick_dtype(device))
    with fast(*networks, dtype=pick_dtype(device), **DROP):
        yield f"VQGAN+CLIP, {side} px, {cutouts} cutouts", step


@contextmanager
def diffusion_training(device: torch.device) -> Iterator[tuple[str, Work]]:
    """A training step of notebook 08's first network."""
    shape = CPU_SHAPES[0] if device.type == "cpu" else CUDA_SHAPES[0]
    n = shape.batch
    network = ImagenUNet(**shape.network).to(device)
    training = DiffusionTraining(network, make_fabric(device, pick_dtype(device)), fused=device.type != "mps")
    pixels = (n, 3, shape.size, shape.size)
    text = (noise(n, TOKENS, WIDTH, device=device, name="tokens"),
            torch.ones(n, TOKENS, dtype=torch.bool, device=device), noise(n, WIDTH, device=device, name="pooled"))
    batch = DiffusionBatch(noise(*pixels, device=device, name="x_0").clamp(-1, 1), text,
                           drop=torch.arange(n, device=device) % 10 == 0, t=torch.linspace(0, 1, n, device=device),
                           eps=noise(*pixels, device=device, name="eps"))
    yield shape.name, lambda: training.step(batch)


STEPS = {"01_gan_basics": gan_training, "02_wgan_gp": critic_training, "03_vqgan_clip": guidance,
         "08_minimagen": diffusion_training}


def operations(step: Work, device: torch.device) -> tuple[dict[str, float], dict[str, float]]:
    """Return milliseconds and MiB of each operation of one step, without those that it calls.

    On CUDA the time is that of the device. MiB is all that an operation allocates, freed or not; what only allocates
    does so for the operation that called it.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU]
    if on_gpu:
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, profile_memory=True) as found:
        step()
    times = {}
    for average in found.key_averages():
        # a GPU's kernels have rows of their own, whose time stands in that of the operation that launched them too
        is_operation = average.key.startswith("aten::") or "::" not in average.key
        if average.device_type == DeviceType.CPU and is_operation:
            microseconds = average.self_device_time_total if on_gpu else average.self_cpu_time_total
            times[average.key] = microseconds / 1e3
    allocated: dict[str, float] = defaultdict(float)
    for event in found.events():
        size = event.self_device_memory_usage if on_gpu else event.self_cpu_memory_usage
        if size > 0:
            while event.name in ALLOCATING and event.cpu_parent:
                event = event.cpu_parent
            allocated[event.name] += size / 2**20
    return times, allocated


def profile_rows(device: torch.device, seconds: float, *, steps: Mapping[str, Build] | None = None,
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
        about = dict(mode=notebook, shape=shape, device=device, dtype=precision(pick_dtype(device), device))
        for metric, values in {"ms": [times for times, _ in runs],
                               "MiB allocated": [allocated for _, allocated in runs]}.items():
            whole, parts = largest(values)
            if whole[0]:
                yield row("profile", "whole step", metric, whole, **about)
            for name, spread in parts.items():
                yield row("profile", name.removeprefix("aten::"), metric, spread, ratio=whole[0] / spread[0], **about)


def largest(runs: Sequence[Mapping[str, float]], count: int = TOP) -> tuple[Spread, dict[str, Spread]]:
    """Return what the whole of each run comes to, and the operations with the largest medians, largest first.

    Args:
        runs: of one step several times: operation -> value. Where an operation is missing it counts as 0.
    """
    spreads = {}
    for name in sorted({name for run in runs for name in run}):
        values = [run.get(name, 0.0) for run in runs]
        spreads[name] = _spread(values)
    whole = _spread([sum(run.values()) for run in runs])
    ordered = sorted(spreads, key=lambda name: -spreads[name][0])
    return whole, {name: spreads[name] for name in ordered[:count] if spreads[name][0] > 0}


def _spread(values: Sequence[float]) -> Spread:
    tenths = quantiles(values, n=10, method="inclusive")
    return tenths[4], tenths[1], tenths[7]

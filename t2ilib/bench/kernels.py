"""The operations of `t2ilib.kernels` beside the plain formula, what others offer, `torch.compile` and Triton."""

import importlib.util
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .measure import Row, measure, noise
from ..kernels import HAS_TRITON, cutouts, group_norm_silu, nearest_code
from ..kernels.cutouts import centre_jacobian
from ..runtime import generator

EPS = 1e-6  # of the normalisation
NEAREST = {"cpu": ((2048, 2048, 8), (625, 16384, 256)),  # vectors, codes, dimensions
           "cuda": ((625, 16384, 256), (16384, 512, 256), (131072, 8192, 64))}
NORMS = {"cpu": ((16, 48, 32, 32, 8), (1, 128, 128, 128, 32)),  # of a U-Net and of the f16 VQGAN; the last: groups
         "cuda": ((64, 96, 32, 32, 8), (1, 128, 400, 400, 32))}
CUTS = {"cpu": ((64, 16, 64), (400, 32, 224)), "cuda": ((400, 32, 224), (512, 64, 224))}  # side, how many, their side


@dataclass(frozen=True)
class Case:
    """One operation at one size.

    Attributes:
        work: name -> function of the inputs. "eager" is the baseline.
        moved: bytes that must be read and written at least, forward and backward.
        flop: arithmetic of the forward pass, where it counts.
    """

    kernel: str
    shape: str
    inputs: tuple[Tensor, ...]
    work: dict[str, Callable[..., Tensor]]
    moved: tuple[int, int]
    flop: int = 0
    modes: tuple[str, ...] = ("forward", "backward", "full")


@dataclass(frozen=True)
class Rates:
    """What this machine does at best: bytes/s of a copy, float32 FLOP/s of a large product."""

    copy: float
    matmul: float

    def ideal_ms(self, case: Case, mode: str) -> float:
        """Return the time below which no implementation can be: the roofline (Williams et al. 2009)."""
        forward, backward = case.moved
        moved = {"forward": forward, "backward": backward, "full": forward + backward}[mode]
        return 1e3 * max(moved / self.copy, case.flop / self.matmul)


def machine_rows(device: torch.device, seconds: float) -> tuple[list[Row], Rates]:
    """Measure a copy and float32 products (and what is faster on tensor cores, which nothing here is compared with)."""
    on_cpu = device.type == "cpu"
    source = torch.ones(2**24 if on_cpu else 2**27, device=device)
    target = torch.empty_like(source)
    copied = measure("machine", {"copy": lambda: target.copy_(source)}, baseline="copy", mode="forward",
                     shape=f"{source.nbytes >> 20} MiB", device=device, seconds=seconds, memory=False)[0]

    side = 512 if on_cpu else 4096
    a = noise(side, side, device=device, name="product")
    half = a.bfloat16()
    products = measure("machine", {"matmul float32": lambda: a @ a, "matmul bfloat16": lambda: half @ half},
                       baseline="matmul float32", mode="forward", shape=f"{side}^3", dtype="as named", device=device,
                       seconds=seconds, memory=False)
    flop = 2 * side**3
    rates = Rates(copy=2e3 * source.nbytes / copied.p50, matmul=1e3 * flop / products[0].p50)
    rows = [row.per_second(flop / 1e9, "GFLOP") for row in products]
    return [copied.per_second(2 * source.nbytes / 1e9, "GB"), *rows], rates


def nearest_code_cases(device: torch.device) -> Iterator[Case]:
    """Nearest code, against all distances (taming's formula), `cdist` and vector-quantize-pytorch."""
    for n, k, d in NEAREST[device.type]:
        z = noise(n, d, device=device, name="z")
        table = noise(k, d, device=device, name="codebook")

        def eager(z: Tensor, table: Tensor) -> Tensor:
            return (z.square().sum(1, keepdim=True) + table.square().sum(1) - 2 * z @ table.T).argmin(1)

        work = {"eager": eager, "cdist": lambda z, table: torch.cdist(z, table).argmin(1), **_peer(table),
                "t2ilib": nearest_code}
        yield Case("nearest_code", f"{n}x{d}, K={k}", (z, table), work, (z.nbytes + table.nbytes + 8 * n, 0),
                   2 * n * k * d, modes=("forward",))


def _peer(table: Tensor) -> dict[str, Callable[..., Tensor]]:
    """The quantiser of vector-quantize-pytorch where that is installed; it also looks the codes up."""
    if importlib.util.find_spec("vector_quantize_pytorch") is None:
        return {}
    from vector_quantize_pytorch import VectorQuantize

    quantise = VectorQuantize(dim=table.shape[1], codebook_size=len(table)).to(table.device).eval()
    quantise.codebook = table
    return {"vector-quantize-pytorch": lambda z, table: quantise(z[None])[1][0]}


def group_norm_silu_cases(device: torch.device) -> Iterator[Case]:
    """Normalisation and activation in one call, in both layouts, against two calls and against taming's three."""
    for *shape, groups in NORMS[device.type]:
        for layout, name in ((torch.contiguous_format, "NCHW"), (torch.channels_last, "channels last")):
            x = noise(*shape, device=device, name="x").contiguous(memory_format=layout).requires_grad_()
            weight = noise(shape[1], device=device, name="weight").requires_grad_()
            bias = noise(shape[1], device=device, name="bias").requires_grad_()

            def eager(x: Tensor, weight: Tensor, bias: Tensor, groups: int = groups) -> Tensor:
                return F.silu(F.group_norm(x, groups, weight, bias, EPS))

            def taming(x: Tensor, weight: Tensor, bias: Tensor, groups: int = groups) -> Tensor:
                y = F.group_norm(x, groups, weight, bias, EPS)
                return y * torch.sigmoid(y)

            def ours(x: Tensor, weight: Tensor, bias: Tensor, groups: int = groups, backend: str = "auto") -> Tensor:
                return group_norm_silu(x, weight, bias, groups, EPS, backend=backend)

            size = "x".join(map(str, shape))
            yield Case("group_norm_silu", f"{size}, {groups} groups, {name}", (x, weight, bias),
                       {"eager": eager, "taming": taming, "t2ilib": ours}, (2 * x.nbytes, 3 * x.nbytes))


def cutouts_cases(device: torch.device) -> Iterator[Case]:
    """N crops of a picture in one warp, against a loop that crops and resizes each, and against `roi_align`."""
    from torchvision.ops import roi_align

    for size, n, side in CUTS[device.type]:
        image = noise(1, 3, size, size, device=device, name="image").requires_grad_()
        g = generator(0, "bench", "crops")
        crop = torch.randint(size // 2, size, (n,), generator=g)
        corner = (torch.rand((n, 2), generator=g) * (size - crop)[:, None]).long()  # (n, 2): y, x
        centre = (2 * corner + crop[:, None]) / size - 1
        scale = (crop / size)[:, None, None] * torch.eye(2)
        theta = torch.cat([scale, centre.flip(1)[:, :, None]], dim=2)[None].to(device)  # (1, n, 2, 3)
        box = torch.cat([corner.flip(1), corner.flip(1) + crop[:, None]], 1).float().to(device)  # (n, 4)

        def loop(image: Tensor, crop: Tensor = crop, corner: Tensor = corner, side: int = side) -> Tensor:
            views = []
            for length, (y, x) in zip(crop.tolist(), corner.tolist(), strict=True):
                part = image[:, :, y:y + length, x:x + length]
                views.append(F.interpolate(part, (side, side), mode="bilinear", antialias=True))
            return torch.cat(views)

        def aligned(image: Tensor, box: Tensor = box, side: int = side) -> Tensor:
            return roi_align(image, [box], side, aligned=True)

        work = {"eager": loop, "roi_align": aligned, "t2ilib": _cutting(theta, side)}
        bytes_out = 4 * n * 3 * side * side
        yield Case("cutouts", f"{size} px, {n} of {side} px", (image,), work, (image.nbytes + bytes_out,) * 2)
        yield _perspective_case(image, theta, side, g)


def _cutting(theta: Tensor, side: int) -> Callable[..., Tensor]:
    def cut(image: Tensor, backend: str = "auto") -> Tensor:
        return cutouts(image, theta, side, backend=backend).flatten(0, 1)  # (n, 3, side, side)

    return cut


def _perspective_case(image: Tensor, theta: Tensor, side: int, g: torch.Generator) -> Case:
    """The same crops in perspective, as guidance takes them: against `grid_sample` of all of them at each mip level."""
    tilt = (torch.rand((1, theta.shape[1], 1, 2), generator=g) * 0.4 - 0.2).to(theta)
    theta = torch.cat([theta, F.pad(tilt, (0, 1), value=1.0)], dim=2)  # (1, n, 3, 3)
    steps = torch.linalg.vector_norm(centre_jacobian(theta, image.shape[-2:], side), dim=-2)
    level = steps.amax(-1).clamp(min=1).log2()  # (1, n)

    def all_at_once(image: Tensor) -> Tensor:
        ticks = (torch.arange(side).to(image) * 2 + 1) / side - 1
        y, x = torch.meshgrid(ticks, ticks, indexing="ij")
        homogeneous = torch.stack([x, y, torch.ones_like(x)], -1)
        placed = homogeneous @ theta.mT.unsqueeze(2)  # (1, n, side, side, 3)
        grid = (placed[..., :2] / placed[..., 2:]).flatten(1, 2)
        total = 0
        for depth in range(math.ceil(float(level.max())) + 1):
            if depth:
                image = F.avg_pool2d(image, 2, ceil_mode=True)
            views = F.grid_sample(image, grid, align_corners=False).unflatten(2, (-1, side))  # (1, 3, n, side, side)
            share = (1 - (level - depth).abs()).clamp(min=0)
            total = total + views * share[:, None, :, None, None]
        return total[0].transpose(0, 1)

    n = theta.shape[1]
    bytes_out = 4 * n * 3 * side * side
    return Case("cutouts", f"{image.shape[-1]} px, {n} of {side} px, in perspective", (image,),
                {"eager": all_at_once, "t2ilib": _cutting(theta, side)}, (image.nbytes + bytes_out,) * 2)


CASES = {"nearest_code": nearest_code_cases, "group_norm_silu": group_norm_silu_cases, "cutouts": cutouts_cases}
COMPILED = ("nearest_code", "group_norm_silu")  # a loop over crops of all sizes is compiled anew for each


def _call(function: Callable[..., Tensor], case: Case, mode: str) -> Callable[[], object]:
    """Return what is timed: the forward pass, the backward pass of a graph that is kept, or both."""
    parameters = [x for x in case.inputs if x.requires_grad]
    if mode == "forward":
        return lambda: function(*case.inputs)
    result = function(*case.inputs)
    upstream = torch.ones_like(result)
    if mode == "backward":
        return lambda: torch.autograd.grad(result, parameters, upstream, retain_graph=True)
    return lambda: torch.autograd.grad(function(*case.inputs), parameters, upstream)


def case_rows(case: Case, rates: Rates, device: torch.device, seconds: float) -> Iterator[Row]:
    """Time and peak memory of each provider, and which share of the roofline it reaches."""
    work = dict(case.work)
    if device.type == "cuda":
        if case.kernel in COMPILED:
            work["torch.compile"] = torch.compile(work["eager"], dynamic=False)
        if HAS_TRITON:
            work["triton"] = lambda *inputs: case.work["t2ilib"](*inputs, backend="triton")
    for mode in case.modes:
        providers = {name: _call(function, case, mode) for name, function in work.items()}
        rows = measure(case.kernel, providers, baseline="eager", mode=mode, shape=case.shape, device=device,
                       seconds=seconds, memory=True)
        yield from rows
        ideal = rates.ideal_ms(case, mode)
        for row in rows:
            if row.metric == "ms":
                yield row.inverse(ideal, "of roofline")


def kernels_rows(device: torch.device, seconds: float) -> Iterator[Row]:
    """All operations, after the rates of the machine that their rooflines are made of."""
    rows, rates = machine_rows(device, seconds)
    yield from rows
    for cases in CASES.values():
        for case in cases(device):
            yield from case_rows(case, rates, device, seconds)

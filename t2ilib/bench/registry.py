"""What can be measured: kernels and the VQGAN against what they replace, loops against the public ones."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import unknown_name
from ..kernels import cutouts, group_norm_silu, nearest_code
from ..models.vqgan import VQGAN
from ..paths import reports_dir
from ..runtime import autocast, generator, pick_device, pick_dtype
from .gan_step import gan_step_rows
from .guidance import vqgan_clip_rows
from .guidance_quality import vqgan_clip_quality_rows
from .guidance_score import vqgan_clip_score_rows
from .measure import Row, measure, write_rows
from .minimagen import minimagen_rows


def _noise(*shape: int, device: torch.device, name: str) -> Tensor:
    return torch.randn(shape, generator=generator(0, "bench", name)).to(device)


def nearest_code_rows(device: torch.device, seconds: float) -> Iterator[Row]:
    """Nearest code and its vector, against all distances followed by a product with one-hot rows."""
    for n, d, k in ((8 * 256, 8, 2048), (1024, 256, 16384)):
        z, table = _noise(n, d, device=device, name="z"), _noise(k, d, device=device, name="codebook")

        def classic(z: Tensor = z, table: Tensor = table) -> Tensor:
            distance = z.square().sum(1, keepdim=True) + table.square().sum(1) - 2 * z @ table.T
            return F.one_hot(distance.argmin(1), len(table)).float() @ table

        ours = {"one_hot": classic, "nearest_code": lambda z=z, table=table: F.embedding(nearest_code(z, table), table)}
        yield from measure("nearest_code", ours, baseline="one_hot", mode="forward", shape=f"{n}x{d}, K={k}",
                           device=device, seconds=seconds)


def cutouts_rows(device: torch.device, seconds: float) -> Iterator[Row]:
    """n crops of a picture in one warp, against a loop that crops and resizes each."""
    for size, n, side in ((64, 16, 64), (400, 32, 224)):
        image = _noise(1, 3, size, size, device=device, name="image").requires_grad_()
        g = generator(0, "bench", "crops")
        crop = torch.randint(size // 2, size, (n,), generator=g)
        corner = (torch.rand((n, 2), generator=g) * (size - crop)[:, None]).long()
        centre = (2 * corner + crop[:, None]) / size - 1
        scale = (crop / size)[:, None, None] * torch.eye(2)
        theta = torch.cat([scale, centre.flip(1)[:, :, None]], dim=2)[None].to(device)

        def loop(image: Tensor = image, crop: Tensor = crop, corner: Tensor = corner, side: int = side) -> None:
            views = [F.interpolate(image[:, :, y:y + c, x:x + c], (side, side), mode="bilinear", antialias=True)
                     for c, (y, x) in zip(crop.tolist(), corner.tolist(), strict=True)]
            torch.autograd.grad(torch.cat(views).square().mean(), image)

        def batched(image: Tensor = image, theta: Tensor = theta, side: int = side) -> None:
            torch.autograd.grad(cutouts(image, theta, side).square().mean(), image)

        yield from measure("cutouts", {"loop": loop, "batched": batched}, baseline="loop", mode="full",
                           shape=f"{size} px, {n} of {side} px", device=device, seconds=seconds)


def group_norm_silu_rows(device: torch.device, seconds: float) -> Iterator[Row]:
    """Normalisation and activation in one call, against GroupNorm followed by x * sigmoid(x)."""
    for b, c, side in ((16, 48, 32), (1, 128, 128)):
        norm = nn.GroupNorm(8, c, eps=1e-6).to(device)
        x = _noise(b, c, side, side, device=device, name="x").to(memory_format=torch.channels_last).requires_grad_()

        def classic(x: Tensor = x, norm: nn.GroupNorm = norm) -> None:
            y = norm(x)
            torch.autograd.grad((y * torch.sigmoid(y)).sum(), x)

        def ours(x: Tensor = x, norm: nn.GroupNorm = norm) -> None:
            torch.autograd.grad(group_norm_silu(x, norm.weight, norm.bias, norm.num_groups, norm.eps).sum(), x)

        providers = {"eager": classic, "group_norm_silu": ours}
        yield from measure("group_norm_silu", providers, baseline="eager", mode="full",
                           shape=f"{b}x{c}x{side}x{side} channels last", device=device, seconds=seconds)


def vqgan_rows(device: torch.device, seconds: float) -> Iterator[Row]:
    """Decoder of the published f16 network, random weights, forward and gradient to z, against taming's own module."""
    from taming.modules.diffusionmodules.model import Decoder

    side = 128 if device.type == "cpu" else 512
    sizes = dict(ch=128, ch_mult=(1, 1, 2, 2, 4), num_res_blocks=2, attn_resolutions=[16], resolution=256,
                 z_channels=256)
    peer = Decoder(out_ch=3, in_channels=3, **sizes).to(device).eval().requires_grad_(False)
    ours = VQGAN(embed_dim=256, n_embed=1024, **sizes).to(device).eval().requires_grad_(False)
    z = _noise(1, 256, side // 16, side // 16, device=device, name="z").requires_grad_()
    fast = pick_dtype(device)

    def step(network: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Callable[[], None]:
        def run() -> None:
            with autocast(device, dtype):
                picture = network(z)
            torch.autograd.grad(picture.float().square().mean(), z)

        return run

    providers = {"taming float32": step(peer, torch.float32), "ours float32": step(ours.decode, torch.float32)}
    if fast != torch.float32:
        providers[f"ours {str(fast).removeprefix('torch.')}"] = step(ours.decode, fast)
    yield from measure("vqgan_decoder", providers, baseline="taming float32", mode="full", shape=f"f16, {side} px",
                       dtype="as named", device=device, seconds=seconds)


BENCHMARKS: dict[str, Callable[..., Iterator[Row]]] = {
    "nearest_code": nearest_code_rows, "cutouts": cutouts_rows, "group_norm_silu": group_norm_silu_rows,
    "vqgan": vqgan_rows, "vqgan_clip": vqgan_clip_rows, "vqgan_clip_score": vqgan_clip_score_rows,
    "vqgan_clip_quality": vqgan_clip_quality_rows, "minimagen": minimagen_rows, "gan_step": gan_step_rows,
}


def run_benchmark(name: str, *, device: str = "auto", seconds: float = 2.0, folder: Path | None = None,
                  **options: Any) -> tuple[list[Row], Path]:
    """Run one benchmark and write its CSV; return the rows and the file.

    Args:
        name: a key of `BENCHMARKS`. device: as in `pick_device`. seconds: measured for each provider.
        folder: where the CSV goes; None is `reports/benchmarks/`.
        options: further arguments of the benchmark's function.
    """
    if name not in BENCHMARKS:
        raise unknown_name("benchmark", name, BENCHMARKS)
    rows = list(BENCHMARKS[name](pick_device(device), seconds, **options))
    return rows, write_rows((folder or reports_dir() / "benchmarks") / f"{name}.csv", rows)

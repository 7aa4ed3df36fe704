"""What can be measured: kernels and the VQGAN against what they replace, loops against the public ones."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .gan_step import gan_step_rows
from .guidance import vqgan_clip_rows
from .guidance_quality import vqgan_clip_quality_rows
from .guidance_score import vqgan_clip_score_rows
from .kernels import kernels_rows
from .measure import Row, measure, noise, write_rows
from .minimagen import minimagen_rows
from .profile import profile_rows
from ..errors import check_name
from ..models.vqgan import VQGAN
from ..paths import reports_dir
from ..runtime import autocast, pick_device, pick_dtype


def vqgan_rows(device: torch.device, seconds: float) -> Iterator[Row]:
    """Decoder of the published f16 network, random weights, forward and gradient to z, against taming's own module."""
    from taming.modules.diffusionmodules.model import Decoder

    side = 128 if device.type == "cpu" else 512
    sizes = dict(ch=128, ch_mult=(1, 1, 2, 2, 4), num_res_blocks=2, attn_resolutions=[16], resolution=256,
                 z_channels=256)
    peer = Decoder(out_ch=3, in_channels=3, **sizes).to(device).eval().requires_grad_(False)
    ours = VQGAN(embed_dim=256, n_embed=1024, **sizes).to(device).eval().requires_grad_(False)
    z = noise(1, 256, side // 16, side // 16, device=device, name="z").requires_grad_()
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
    "kernels": kernels_rows, "vqgan": vqgan_rows, "vqgan_clip": vqgan_clip_rows,
    "vqgan_clip_score": vqgan_clip_score_rows, "vqgan_clip_quality": vqgan_clip_quality_rows,
    "minimagen": minimagen_rows, "gan_step": gan_step_rows, "profile": profile_rows,
}


def run_benchmark(name: str, *, device: str = "auto", seconds: float = 2.0, folder: Path | None = None,
                  **options: Any) -> tuple[list[Row], Path]:
    """Run one benchmark and write its CSV; return the rows and the file.

    Args:
        name: a key of `BENCHMARKS`. device: as in `pick_device`. seconds: measured for each provider.
        folder: where the CSV goes; None is `reports/benchmarks/`.
        options: further arguments of the benchmark's function.
    """
    check_name("benchmark", name, BENCHMARKS)
    rows = list(BENCHMARKS[name](pick_device(device), seconds, **options))
    return rows, write_rows((folder or reports_dir() / "benchmarks") / f"{name}.csv", rows)

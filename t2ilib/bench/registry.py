"""What can be measured: kernels and the VQGAN against what they replace, loops against the public ones."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .code_store import code_store_rows
from .eyes import eyes_rows
from .gan_step import gan_step_rows
from .gigagan import gigagan_rows
from .guidance import vqgan_clip_rows
from .guidance_quality import vqgan_clip_quality_rows
from .guidance_score import vqgan_clip_score_rows
from .kernels import kernels_rows
from .measure import Contest, Row, noise, precision, short_name, write_rows
from .memory import Work
from .minimagen import minimagen_rows
from .pixelsnail import pixelsnail_rows
from .profile import profile_rows
from .shapes import shapes_rows
from .startup import startup_rows
from .text_transformer import text_transformer_rows
from ..errors import check_name
from ..models.sizes import VQGAN as VQGAN_SIZES
from ..models.vqgan import VQGAN
from ..paths import reports_dir
from ..runtime import autocast, pick_device, pick_dtype

DECODER = ("ch", "ch_mult", "num_res_blocks", "attn_resolutions", "resolution", "z_channels")  # of taming's arguments


def vqgan_rows(device: torch.device, seconds: float) -> Iterator[Row]:
    """Decoder of the published f16 network, random weights, forward and gradient to z, against taming's own module."""
    from taming.modules.diffusionmodules.model import Decoder

    side = 128 if device.type == "cpu" else 512
    sizes = {name: VQGAN_SIZES["f16"][name] for name in DECODER}
    peer = Decoder(out_ch=3, in_channels=3, **sizes).to(device).eval().requires_grad_(False)
    ours = VQGAN(**{**VQGAN_SIZES["f16"], "n_embed": 1024}).to(device).eval().requires_grad_(False)
    z = noise(1, 256, side // 16, side // 16, device=device, name="z").requires_grad_()

    def step(network: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Work:
        def run() -> None:
            with autocast(device, dtype):
                picture = network(z)
            torch.autograd.grad(picture.float().square().mean(), z)

        return run

    contest = Contest("vqgan_decoder", f"f16, {side} px", device, baseline="taming float32")
    for dtype in dict.fromkeys([torch.float32, pick_dtype(device)]):
        contest.add(f"taming {short_name(dtype)}", step(peer, dtype), dtype=precision(dtype, device))
        contest.add(f"ours {short_name(dtype)}", step(ours.decode, dtype), dtype=precision(dtype, device))
    yield from contest.time_rows("full", seconds, least=5)
    if device.type == "cuda":
        yield from contest.memory_rows()


BENCHMARKS: dict[str, Callable[..., Iterator[Row]]] = {
    "kernels": kernels_rows, "vqgan": vqgan_rows, "vqgan_clip": vqgan_clip_rows,
    "vqgan_clip_score": vqgan_clip_score_rows, "vqgan_clip_quality": vqgan_clip_quality_rows,
    "minimagen": minimagen_rows, "gan_step": gan_step_rows, "gigagan": gigagan_rows, "profile": profile_rows,
    "startup": startup_rows, "eyes": eyes_rows, "shapes": shapes_rows,
    "text_transformer": text_transformer_rows, "pixelsnail": pixelsnail_rows,
    "code_store": code_store_rows,
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
    path = (folder or reports_dir() / "benchmarks") / f"{name}.csv"
    unfinished = path.with_suffix(".unfinished.csv")  # what there is, should the time not suffice
    rows: list[Row] = []
    for row in BENCHMARKS[name](pick_device(device), seconds, **options):
        rows.append(row)
        write_rows(unfinished, rows)
    write_rows(path, rows)
    unfinished.unlink(missing_ok=True)
    return rows, path

"""What eyes that know photographs say of drawings: true ones, decoded, enlarged, and drawn from prompts."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .measure import Row, row
from ..cascade import downsample
from ..data import load_captioned
from ..encoders import load_judge
from ..media import stack_pictures, to_signed, to_unit
from ..metrics import bootstrap_interval, psnr
from ..metrics.eyes import SIDE, Eyes, load_eyes
from ..metrics.judging import Judgement
from ..models.vqgan import load_vqgan
from ..runtime import generator

BENCHMARK = "eyes"
METHODS = ("minimagen", "vqgan_clip")  # whose pictures from prompts are measured
VQGANS = ("emoji-vqgan-128",)
SMALL = 32  # side of the true pictures that are enlarged


def eyes_rows(device: torch.device, seconds: float, *, pictures: int = 64, prompts: int = 20,
              methods: Sequence[str] = METHODS, eyes: Eyes | None = None) -> Iterator[Row]:
    """KID, precision and recall on EfficientNet-Lite2's features of validation drawings and of what methods make.

    Args:
        seconds: not used; drawing takes what it takes.
        pictures: validation drawings, spread evenly; 0 takes all. prompts: validation concepts drawn by each of
            `methods`, at seed 0; 0 leaves them out.
        eyes: None loads them.
    """
    eyes = eyes or load_eyes(device=device)
    data = load_captioned("emoji", split="validation", image_size=SIDE).spread(pictures)
    true = to_unit(data.batch(torch.arange(len(data))))  # (N, 3, 128, 128) in [0, 1]
    yield from picture_rows(eyes, "true drawings", true, device)
    for name in VQGANS:
        yield from picture_rows(eyes, f"{name} reconstructions", reconstructed(name, true, device), device, true=true,
                                checkpoints=[name])
    for side in (64, SMALL):
        yield from picture_rows(eyes, f"bicubic from true {side} px", bicubic(true, side), device, true=true)
    enlarged = enlarged_by_minimagen(true, data.captions, device)
    yield from picture_rows(eyes, f"minimagen's enlargers from true {SMALL} px", enlarged, device, true=true)
    if prompts:
        yield from _method_rows(eyes, methods, prompts, device)


def picture_rows(eyes: Eyes, provider: str, images: Tensor, device: torch.device, *, true: Tensor | None = None,
                 checkpoints: Iterable[str] = ()) -> Iterator[Row]:
    """Yield what the eyes say of pictures, and how close they are to the true ones.

    Args:
        images, true: (N, 3, H, W) in [0, 1]. checkpoints: which drew them.
    """
    found = eyes.report(eyes.features(images))
    shape = f"n = {len(images)}, {images.shape[-1]} px"
    about: dict[str, Any] = dict(mode=role_of_lite0(checkpoints), shape=shape, device=device)
    yield row(BENCHMARK, provider, "KID-lite2", (found["kid"], found["kid_low"], found["kid_high"]), **about)
    yield row(BENCHMARK, provider, "precision", (found["precision"], found["low"], found["high"]), **about)
    yield row(BENCHMARK, provider, "recall", found["recall"], **about)
    if true is not None:
        yield row(BENCHMARK, provider, "PSNR dB", psnr(images, true).mean().item(), **about)


def role_of_lite0(checkpoints: Iterable[str]) -> str:
    """Return whether EfficientNet-Lite0 trained or guided checkpoints: the eyes, of its family, may be mild then."""
    from ..methods.networks import lite0_role

    return f"{lite0_role(checkpoints) or 'neither trained nor guided'} by EfficientNet-Lite0"


@torch.no_grad()
def reconstructed(name: str, images: Tensor, device: torch.device) -> Tensor:
    """Return what a VQGAN makes of its own codes of pictures (N, 3, H, W) in [0, 1]."""
    vqgan = load_vqgan(name, device=device)
    parts = []
    for part in images.split(16):
        reconstruction, _ = vqgan(to_signed(part.to(device)))
        parts.append(to_unit(reconstruction.clamp(-1, 1)).cpu())
    return torch.cat(parts)


def bicubic(images: Tensor, side: int) -> Tensor:
    """Return pictures (N, 3, H, W) in [0, 1] that were shrunk to a side, and enlarged again by interpolation."""
    small = downsample(to_signed(images), side)
    large = F.interpolate(small, images.shape[-2:], mode="bicubic", align_corners=False)
    return to_unit(large.clamp(-1, 1))


def enlarged_by_minimagen(images: Tensor, captions: Sequence[str], device: torch.device) -> Tensor:
    """Return what the networks above MinImagen's base make of true small pictures: (N, 3, 128, 128) in [0, 1]."""
    from ..methods.minimagen import load_cascade

    cascade = load_cascade(device=str(device))
    small = downsample(to_signed(images), SMALL)
    streams = [generator(0, BENCHMARK, index) for index in range(len(images))]
    return to_unit(cascade.sample(list(captions), generators=streams, low=small.to(device))[-1].cpu())


def _method_rows(eyes: Eyes, methods: Sequence[str], prompts: int, device: torch.device) -> Iterator[Row]:
    """Yield what eyes and judge say of pictures from prompts, which are validation concepts."""
    from ..methods import generate_with_record

    judgement = Judgement(load_judge(device=device), load_captioned("emoji", split="all", image_size=64))
    names = judgement.concepts("validation", prompts)
    for method in methods:
        images, record = generate_with_record(names, method=method, num_images=1, seed=0, device=str(device))
        drawn = stack_pictures(images)  # (N, 3, H, W) in [0, 1]
        provider = f"{method} from prompts"
        yield from picture_rows(eyes, provider, drawn, device, checkpoints=record["checkpoints"])
        hits = (judgement.ranks(judgement.features(drawn), names) <= 10).float()
        yield row(BENCHMARK, provider, "strict top-10", bootstrap_interval(hits), device=device,
                  mode=role_of_lite0(record["checkpoints"]), shape=f"n = {len(drawn)}, {drawn.shape[-1]} px")

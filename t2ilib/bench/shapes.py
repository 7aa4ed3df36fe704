"""How often the parser of shapes reads a scene without a mistake as pictures get worse, and what it sees elsewhere."""

import io
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from .eyes import reconstructed
from .measure import Row, row
from ..cascade import downsample
from ..data import load_captioned
from ..data.shape_scenes import Scene, scene_at
from ..data.shapes import UNITS, draw_scene
from ..media import to_pil, to_signed, to_unit
from ..metrics import bootstrap_interval
from ..metrics.shape_parser import Found, parse_shapes
from ..runtime import generator

BENCHMARK = "shapes"
SIDE = 128
SEED = 1  # of the scenes; 0 is the set itself


def noise(pictures: Tensor, strength: float) -> Tensor:
    """Add Gaussian noise of this standard deviation."""
    drawn = torch.randn(pictures.shape, generator=generator(SEED, BENCHMARK, "noise"))
    return (pictures + strength * drawn).clamp(0, 1)


def blur(pictures: Tensor, strength: float) -> Tensor:
    """Blur with a Gaussian of this standard deviation, in units (of which a side has 128)."""
    from torchvision.transforms.functional import gaussian_blur

    deviation = strength * pictures.shape[-1] / UNITS
    return gaussian_blur(pictures, 2 * int(3 * deviation + 1) + 1, deviation)


def shift(pictures: Tensor, strength: float) -> Tensor:
    """Add the same random offset, up to this, to one channel of all pixels of a picture."""
    drawn = torch.rand(len(pictures), 3, 1, 1, generator=generator(SEED, BENCHMARK, "shift"))
    return (pictures + strength * (2 * drawn - 1)).clamp(0, 1)


def fade(pictures: Tensor, strength: float) -> Tensor:
    """Mix this share of white into all pixels."""
    return pictures + strength * (1 - pictures)


def jpeg(pictures: Tensor, strength: float) -> Tensor:
    """Compress as JPEG of this quality."""
    read = []
    for picture in to_pil(pictures):
        data = io.BytesIO()
        picture.save(data, format="JPEG", quality=int(strength))
        read.append(torch.from_numpy(np.array(Image.open(data))).permute(2, 0, 1) / 255)
    return torch.stack(read)


def shrink(pictures: Tensor, strength: float) -> Tensor:
    """Shrink to this side by averaging."""
    return to_unit(downsample(to_signed(pictures), int(strength)))


def shrink_and_enlarge(pictures: Tensor, strength: float) -> Tensor:
    """Shrink to this side, and enlarge again by bilinear interpolation."""
    return F.interpolate(shrink(pictures, strength), pictures.shape[-2:], mode="bilinear", align_corners=False)


PERTURBATIONS: dict[Callable[[Tensor, float], Tensor], tuple[float, ...]] = {
    noise: (0.02, 0.05, 0.1, 0.15, 0.2),
    blur: (1, 2, 3, 4),
    shift: (0.03, 0.06, 0.1, 0.15),
    fade: (0.05, 0.1, 0.2, 0.3),
    jpeg: (90, 50, 20, 10, 5),
    shrink: (64, 32, 24, 16),
    shrink_and_enlarge: (64, 32, 24, 16),
}


def shapes_rows(device: torch.device, seconds: float, *, scenes: int = 200, others: int = 100) -> Iterator[Row]:
    """Shares of scenes that are read exactly, and of other pictures in which a shape is believed to be.

    Args:
        seconds: not used; reading takes what it takes.
        scenes: of other seeds than the set's. others: pictures of each kind that are no scenes.
    """
    drawn = [scene_at(index, "train", seed=SEED) for index in range(scenes)]
    for side in (32, 64, SIDE):
        yield from scene_rows(f"as drawn, {side} px", draw(drawn, side), drawn, device)
    pictures = draw(drawn, SIDE)
    for perturb, strengths in PERTURBATIONS.items():
        for strength in strengths:
            yield from scene_rows(f"{perturb.__name__} {strength:g}", perturb(pictures, strength), drawn, device)
    for name in ("emoji-vqgan", "emoji-vqgan-128"):
        side = SIDE if name.endswith("128") else 64
        decoded = reconstructed(name, draw(drawn, side), device)
        yield from scene_rows(f"{name} reconstructions", decoded, drawn, device)
    for name, foreign in foreign_pictures(others).items():
        believed = torch.tensor([float(bool(recognized(parse_shapes(picture)))) for picture in foreign])
        yield row(BENCHMARK, name, "share with a shape", bootstrap_interval(believed), mode="no scenes",
                  shape=f"n = {len(foreign)}", device=device)


def scene_rows(name: str, pictures: Tensor, drawn: list[Scene], device: torch.device) -> Iterator[Row]:
    """Yield the share of scenes that are read exactly, and of those in which something is taken for something else."""
    exact = []
    wrong = []
    for picture, scene in zip(pictures, drawn, strict=True):
        found = parse_shapes(picture)
        truth = Counter((thing.shape, thing.color) for thing in scene.things)
        known = Counter((thing.shape, thing.color) for thing in recognized(found))
        exact.append(float(known == truth and len(found) == len(scene.things)))
        wrong.append(float(not known <= truth))
    for metric, values in {"exact": exact, "mistaken": wrong}.items():
        yield row(BENCHMARK, name, metric, bootstrap_interval(torch.tensor(values)), mode="scenes",
                  shape=f"n = {len(drawn)}", device=device)


def recognized(found: list[Found]) -> list[Found]:
    """Return those things of a picture whose shape and colour are known."""
    return [thing for thing in found if thing.shape and thing.color]


def draw(drawn: list[Scene], side: int) -> Tensor:
    """Return pictures of scenes: (N, 3, side, side) in [0, 1]."""
    pictures = [torch.from_numpy(draw_scene(scene.things, side)) for scene in drawn]
    return torch.stack(pictures).permute(0, 3, 1, 2) / 255


def foreign_pictures(count: int) -> dict[str, Tensor]:
    """Return pictures that are no scenes: (count, 3, 128, 128) in [0, 1] of each kind."""
    stream = generator(SEED, BENCHMARK, "foreign")
    shape = (count, 3, SIDE, SIDE)
    coarse = torch.rand(count, 3, 8, 8, generator=stream)
    spots = F.interpolate(torch.rand(count, 3, 16, 16, generator=stream), SIDE, mode="bicubic").clamp(0, 1)
    drawings = load_captioned("emoji", split="validation", image_size=SIDE).spread(count)
    return {"white": torch.ones(1, *shape[1:]), "black": torch.zeros(1, *shape[1:]),
            "uniform noise": torch.rand(shape, generator=stream),
            "noise on white": (1 - 0.3 * torch.randn(shape, generator=stream).abs()).clamp(0, 1),
            "coarse noise": F.interpolate(coarse, SIDE, mode="nearest"),
            "spots on white": torch.where(spots.mean(1, keepdim=True) < 0.4, spots, torch.ones(())),
            "emoji": to_unit(drawings.batch(torch.arange(len(drawings))))}

"""The metrics of published tables, on the networks that define them: FID, KID and Inception score, CLIP score, CMMD.

Their weights are large and do not ship; give a file, or "download". On any other network a number carries another name,
see `frechet_distance` and `metrics.eyes`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .image import encode_pictures, frechet_distance, kid
from ..assets import Asset, AssetFile
from ..encoders import Clip
from ..encoders.perceptual import read_trunk, trunk_file
from ..errors import BadParameter, CheckpointMismatch, MissingAsset

INCEPTION_URL = ("https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
                 "weights-inception-2015-12-05-6726825d.pth")
INCEPTION = Asset("inception-2015-12-05", "metrics", "ImageNet", "Apache-2.0", "https://github.com/toshas/torch-fidelity",
                  (AssetFile(INCEPTION_URL.rsplit("/", 1)[-1], (INCEPTION_URL,), about_mb=91),))
LAYERS = ["2048", "logits_unbiased"]
SPLITS = 10  # of the Inception score, as published
CMMD_CLIP = "ViT-L-14-336/openai"  # by which CMMD is defined
CMMD_BANDWIDTH = 10.0
CMMD_SCALE = 1000.0


class InceptionFeatures(NamedTuple):
    """What Inception makes of N pictures: pooled (N, 2048) and logits (N, 1008), float32 on the CPU."""

    pooled: Tensor
    logits: Tensor


class Inception:
    """The network of FID, KID and the Inception score.

    Args:
        network: uint8 pictures (B, 3, H, W) -> pooled features and logits, torch-fidelity's.
    """

    def __init__(self, network: nn.Module):
        self.network = network

    @torch.no_grad()
    def features(self, images: Tensor, *, batch_size: int = 32) -> InceptionFeatures:
        """Return features of pictures (N, 3, H, W) in [0, 1] of any size, which it scales to 299 pixels itself."""
        device = next(self.network.parameters()).device
        pooled = []
        logits = []
        for part in images.split(batch_size):
            pixels = (part.clamp(0, 1) * 255).round().to(torch.uint8)
            of_part, logits_of_part = self.network(pixels.to(device))
            pooled.append(of_part.float().cpu())
            logits.append(logits_of_part.float().cpu())
        return InceptionFeatures(torch.cat(pooled), torch.cat(logits))


def load_inception(weights: str | Path = "", *, device: torch.device | str = "cpu") -> Inception:
    """Return the Inception of 2015 on which FID is defined, by torch-fidelity.

    Args:
        weights: a file, "download", or "" to look where it may lie; see `encoders.perceptual.trunk_file`.

    Raises:
        MissingAsset: the weights or the package are not here. CheckpointMismatch: the file holds another network.
    """
    path = trunk_file(INCEPTION, weights)
    read_trunk(path)  # refuses what is not plain weights; the package would run whatever a file holds
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise MissingAsset(f"FID needs the package torch-fidelity ({error}): pip install torch-fidelity") from error
    try:
        network = FeatureExtractorInceptionV3("inception", LAYERS, feature_extractor_weights_path=str(path))
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise CheckpointMismatch(f"{path} is not {INCEPTION.files[0].name}: {first}") from error
    return Inception(network.eval().to(device))


def inception_score(logits: Tensor, *, splits: int = SPLITS, seed: int = 0) -> tuple[float, float]:
    """Return the Inception score (Salimans et al. 2016): exp of the mean KL divergence of a picture's classes from all
    pictures' classes; its mean and deviation over random splits. It grows with the number of pictures.

    Shapes:
        logits: (N, K)

    Raises:
        BadParameter: less than one picture for each split.
    """
    if logits.ndim != 2 or not 1 <= splits <= len(logits):
        raise BadParameter(f"need logits (N, K) of at least one picture for each of {splits} splits, got "
                           f"{tuple(logits.shape)}")
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed))
    scores = []
    for part in logits[order].double().chunk(splits):
        log_p = part.log_softmax(dim=1)  # (n, K)
        p = log_p.exp()
        divergence = (p * (log_p - p.mean(0).log())).sum(1)  # (n,)
        scores.append(divergence.mean().exp())
    values = torch.stack(scores)
    return values.mean().item(), values.std(correction=0).item()


def clip_score(similarity: Tensor) -> float:
    """Return 100 times the mean of max(cos, 0) of pictures and their prompts (Hessel et al. 2021, there times 2.5).

    Shapes:
        similarity: (N,), the cosines, from `Clip.similarity`
    """
    return 100 * similarity.clamp(min=0).mean().item()


def cmmd(real: Tensor, fake: Tensor) -> float:
    """Return the CLIP maximum mean discrepancy (Jayasumana et al. 2024): 1000 times MMD^2 with a Gaussian kernel of
    width 10, the estimator of the paper, which counts each picture's pair with itself.

    Args:
        real, fake: unit vectors (N, D) and (M, D), by `CMMD_CLIP`.

    Raises:
        BadParameter: widths differ or one side is empty.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or not len(real) or not len(fake):
        raise BadParameter(f"cmmd needs features (N, D) and (M, D), got {tuple(real.shape)} and {tuple(fake.shape)}")
    real = real.double()
    fake = fake.double()
    discrepancy = _gaussian(real, real) + _gaussian(fake, fake) - 2 * _gaussian(real, fake)
    return CMMD_SCALE * discrepancy.item()


def _gaussian(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean Gaussian kernel over all pairs: (N, D), (M, D) -> ()."""
    squares = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T  # (N, M)
    return (-squares / (2 * CMMD_BANDWIDTH**2)).exp().mean()


def standard_report(fake: Tensor, real: Tensor, prompts: Sequence[str] | None = None, *,
                    inception: Inception | None = None, clip: Clip | None = None, cmmd_clip: Clip | None = None,
                    batch_size: int = 32) -> dict[str, Any]:
    """Return the standard metrics of pictures, of those networks that are given; never without the numbers of pictures.

    Args:
        fake, real: pictures (N, 3, H, W) and (M, 3, H', W') in [0, 1]. prompts: of `fake`, for the CLIP score.
        inception: for FID, KID and the Inception score. clip: for the CLIP score. cmmd_clip: see `CMMD_CLIP`.

    Returns:
        n, n_real; FID; KID and KID_deviation over subsets; IS and IS_deviation over splits; CLIP_score; CMMD

    Raises:
        BadParameter: not a prompt for each picture.
    """
    report: dict[str, Any] = {"n": len(fake), "n_real": len(real)}
    if inception is not None:
        of_fake = inception.features(fake, batch_size=batch_size)
        of_real = inception.features(real, batch_size=batch_size)
        report["FID"] = frechet_distance(of_real.pooled, of_fake.pooled)
        report["KID"], report["KID_deviation"] = kid(of_real.pooled, of_fake.pooled)
        splits = min(SPLITS, len(fake))
        report["IS"], report["IS_deviation"] = inception_score(of_fake.logits, splits=splits)
    if clip is not None:
        if prompts is None or len(prompts) != len(fake):
            given = "none" if prompts is None else str(len(prompts))
            raise BadParameter(f"the CLIP score needs a prompt for each of {len(fake)} pictures, got {given}")
        report["CLIP_score"] = clip_score(clip.similarity(fake, list(prompts), batch_size=batch_size))
    if cmmd_clip is not None:
        report["CMMD"] = cmmd(encode_pictures(cmmd_clip, real, batch_size=batch_size),
                              encode_pictures(cmmd_clip, fake, batch_size=batch_size))
    return report

"""How close pictures are to others: one by one (PSNR, SSIM), as distributions, to the nearest one."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .modes import nearest_distances
from ..errors import BadParameter

CHUNK = 32  # pictures worked on at a time, so that a thousand of them need no gigabytes in float64


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each picture in dB; inf where it equals its reference.

    Shapes:
        two of (B, C, H, W) in [0, 1] -> (B,)

    Raises:
        BadParameter: the shapes differ.
    """
    _check_pair(images, reference)
    errors = []
    for a, b in zip(images.split(CHUNK), reference.split(CHUNK), strict=True):
        squared = (a.double() - b.double()).square()  # (b, C, H, W)
        errors.append(squared.flatten(1).mean(dim=1))
    return -10 * torch.cat(errors).log10()


def ssim(images: Tensor, reference: Tensor) -> Tensor:
    """Return the structural similarity of each picture (Wang et al. 2004, eq. 13), the mean over channels.

    Means, variances and covariance are weighted by a Gaussian window of 11 x 11 pixels with sigma 1.5; windows that
    would reach beyond the picture are left out, as in the authors' code.

    Shapes:
        two of (B, C, H, W) in [0, 1], sides of at least 11 -> (B,), float64, at most 1

    Raises:
        BadParameter: the shapes differ, or a side is below 11.
    """
    _check_pair(images, reference)
    if min(images.shape[-2:]) < 11:
        raise BadParameter("ssim looks through a window of 11 x 11 pixels, got pictures of "
                           f"{tuple(images.shape[-2:])}; enlarge them first")
    values = []
    for a, b in zip(images.split(CHUNK), reference.split(CHUNK), strict=True):
        values.append(_ssim(a.double(), b.double()))
    return torch.cat(values)


def _ssim(images: Tensor, reference: Tensor) -> Tensor:
    x = images.flatten(0, 1)[:, None]  # (B C, 1, H, W)
    y = reference.flatten(0, 1)[:, None]
    offsets = torch.arange(11, dtype=x.dtype, device=x.device) - 5
    window = torch.exp(-offsets.square() / (2 * 1.5**2))
    window = window / window.sum()

    def average(v: Tensor) -> Tensor:
        v = F.conv2d(v, window[None, None, :, None])
        return F.conv2d(v, window[None, None, None, :])  # (B C, 1, H - 10, W - 10)

    mean_x = average(x)
    mean_y = average(y)
    variances = average(x * x) - mean_x.square() + average(y * y) - mean_y.square()
    covariance = average(x * y) - mean_x * mean_y
    c1 = 0.01**2
    c2 = 0.03**2
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    denominator = (mean_x.square() + mean_y.square() + c1) * (variances + c2)
    index = numerator / denominator
    of_channels = index.flatten(1).mean(dim=1).unflatten(0, images.shape[:2])  # (B, C)
    return of_channels.mean(dim=1)


def _check_pair(images: Tensor, reference: Tensor) -> None:
    if images.shape != reference.shape or images.ndim != 4:
        raise BadParameter(f"need two equal shapes (B, C, H, W), got {tuple(images.shape)} and "
                           f"{tuple(reference.shape)}")


def _are_features(real: Tensor, fake: Tensor) -> bool:
    return real.ndim == 2 and fake.ndim == 2 and real.shape[1] == fake.shape[1]


def mmd2(x: Tensor, y: Tensor, *, degree: int = 3, within_y: Tensor | None = None) -> Tensor:
    """Return the unbiased estimate of the squared maximum mean discrepancy (Gretton et al. 2012, eq. 3).

    The kernel is that of KID, (x . y / D + 1)^degree. The estimate may be negative when the distributions are equal.

    Args:
        within_y: `mean_kernel(y)` of a large y that is compared with many x; None computes it.

    Shapes:
        x (..., m, D), y (..., n, D) -> (...), float64
    """
    m = x.shape[-2]
    n = y.shape[-2]
    if m < 2 or n < 2:
        raise BadParameter(f"mmd2 compares pairs and needs at least 2 samples on each side, got {m} and {n}")
    within_x = mean_kernel(x, degree=degree)
    if within_y is None:
        within_y = mean_kernel(y, degree=degree)
    between = _kernel(x.double(), y.double(), degree).mean((-1, -2))
    return within_x + within_y - 2 * between


def mmd2_without_each(x: Tensor, y: Tensor, *, group: Tensor, groups: int, within_y: Tensor) -> Tensor:
    """Return `mmd2` of what is left of x without each group of its samples: what `jackknife_interval` asks for.

    Args:
        group: the number of each sample's group, below `groups`. within_y: `mean_kernel(y)`.

    Returns:
        (groups,), float64; NaN where fewer than 2 samples are left.

    Shapes:
        x (m, D), y (n, D), group (m,)
    """
    x = x.double()
    pairs = _kernel(x, x, 3).fill_diagonal_(0)  # (m, m)
    between = _kernel(x, y.double(), 3).mean(1)  # (m,)
    kept = (group != torch.arange(groups)[:, None]).double()  # (groups, m)
    left = kept.sum(1)
    within_x = ((kept @ pairs) * kept).sum(1) / (left * (left - 1))
    return within_x + within_y - 2 * (kept @ between) / left


def mean_kernel(x: Tensor, *, degree: int = 3) -> Tensor:
    """Return the mean of the kernel of `mmd2` over all pairs of different samples: (..., m, D) -> (...), float64."""
    x = x.double()
    count = x.shape[-2]
    k = _kernel(x, x, degree)  # (..., m, m)
    off_diagonal = k.sum((-1, -2)) - k.diagonal(dim1=-2, dim2=-1).sum(-1)
    return off_diagonal / (count * (count - 1))


def _kernel(a: Tensor, b: Tensor, degree: int) -> Tensor:
    return (a @ b.transpose(-1, -2) / a.shape[-1] + 1) ** degree


def kid(real: Tensor, fake: Tensor, *, subsets: int = 100, subset_size: int = 1000,
        seed: int = 0) -> tuple[float, float]:
    """Return the kernel inception distance on given features (Binkowski et al. 2018): mean and deviation over subsets.

    Unlike FID it is unbiased, so small samples may be compared. Features of another network than Inception give
    another scale: compare only numbers of one network.

    Args:
        real, fake: features (N, D) and (M, D).
        subsets: random subsets without replacement, over which the mean is taken.
        subset_size: of each; at most the smaller of N and M is used.

    Raises:
        BadParameter: widths differ, or fewer than 2 features on one side.
    """
    if not _are_features(real, fake):
        raise BadParameter(f"kid needs features (N, D) and (M, D), got {tuple(real.shape)} and {tuple(fake.shape)}")
    if subsets < 1 or subset_size < 2:
        raise BadParameter(f"kid needs subsets >= 1 and subset_size >= 2, got {subsets} and {subset_size}")
    size = min(subset_size, len(real), len(fake))
    g = torch.Generator().manual_seed(seed)

    def draw(features: Tensor) -> Tensor:
        rows = torch.randperm(len(features), generator=g)[:size]
        return features[rows.to(features.device)]  # (size, D)

    values = torch.stack([mmd2(draw(real), draw(fake)) for _ in range(subsets)])
    return values.mean().item(), values.std(correction=0).item()


def precision_recall(real: Tensor, fake: Tensor, *, k: int = 5, real_radii: Tensor | None = None
                     ) -> tuple[Tensor, Tensor]:
    """Return which fakes look real and which real ones are reached (Kynkäänniemi et al. 2019, eq. 1 and 2).

    Around each feature lies a ball that reaches to its k-th nearest neighbour of its own side. A fake inside a ball of
    any real one is precise; a real one inside a ball of any fake is recalled. Precision and recall are the means.
    Fewer or more scattered fakes have larger balls: compare recall at equal numbers and similar precision only. One
    ball may hold all fakes: that of one emoji drawing holds much white noise. Read recall or KID beside precision.

    Args:
        real, fake: features (N, D) and (M, D).
        real_radii: `nearest_distances(real, k=k)` of a large `real` that is asked often; None computes it.

    Returns:
        precise (M,) and recalled (N,), of 0 and 1.

    Raises:
        BadParameter: widths differ, or not more than k features on one side.
    """
    if not _are_features(real, fake) or not 1 <= k < min(len(real), len(fake)):
        raise BadParameter(f"precision_recall needs features (N, D) and (M, D), more than k = {k} (at least 1) on each "
                           f"side, got {tuple(real.shape)} and {tuple(fake.shape)}")
    real = real.float()
    fake = fake.float()
    if real_radii is None:
        real_radii = nearest_distances(real, k=k)
    fake_radii = nearest_distances(fake, k=k)
    precise = []
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for part, radii in zip(fake.split(CHUNK), fake_radii.split(CHUNK), strict=True):
        # exact, so that a copy is at distance 0
        distance = torch.cdist(part, real, compute_mode="donot_use_mm_for_euclid_dist")  # (chunk, N)
        precise.append((distance <= real_radii).any(dim=1))
        recalled |= (distance <= radii[:, None]).any(dim=0)
    return torch.cat(precise).float(), recalled.float()


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Return the squared Fréchet distance between Gaussians fitted to features (Heusel et al. 2017, eq. 6).

    It is "FID" on features of the Inception network and only there; on others, give it another name. Biased: the fewer
    the features, the larger it is, so compare equal numbers of them.

    Args:
        real, fake: features (N, D) and (M, D).

    Raises:
        BadParameter: widths differ, or fewer than 2 features on one side.
    """
    if not _are_features(real, fake) or min(len(real), len(fake)) < 2:
        raise BadParameter("frechet_distance needs features (N, D) and (M, D), at least 2 on each side, got "
                           f"{tuple(real.shape)} and {tuple(fake.shape)}")
    real = real.cpu().double()  # on the CPU, because some accelerators have no double precision
    fake = fake.cpu().double()
    return gaussian_frechet(real.mean(0), torch.cov(real.T), fake.mean(0), torch.cov(fake.T))


def gaussian_frechet(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    """Return the squared Fréchet distance of two Gaussians (Dowson & Landau 1982, eq. 4), exact also for singular ones.

    The trace of the root of a product of covariances A B is the sum of the roots of the eigenvalues of the symmetric
    matrix A^(1/2) B A^(1/2), which has the same ones.

    Shapes:
        means (D,), covariances (D, D), best in double precision
    """
    dim = len(mean1)
    covariance1 = covariance1.reshape(dim, dim)  # the covariance of one feature comes as a scalar
    covariance2 = covariance2.reshape(dim, dim)
    values, vectors = torch.linalg.eigh(covariance1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T  # of covariance1, (D, D)
    products = torch.linalg.eigvalsh(root @ covariance2 @ root)  # (D,)
    # rounding leaves 1e-16 of a zero, and the root of that is 1e-8: what is so small counts as zero
    negligible = dim * torch.finfo(products.dtype).eps * products.max()
    trace_of_root = products[products > negligible].sqrt().sum()
    distance = (mean1 - mean2).square().sum() + covariance1.trace() + covariance2.trace() - 2 * trace_of_root
    return distance.clamp(min=0).item()


@torch.no_grad()
def encode_pictures(encoder: Any, pictures: Tensor, *, batch_size: int = 128) -> Tensor:
    """Return what an encoder makes of pictures, on the CPU: (N, 3, H, W) in [0, 1] -> (N, D) float32.

    Args:
        encoder: with `.encode_image`, such as `load_clip("emoji-clip")`, which brings a batch to its own device.
    """
    return torch.cat([encoder.encode_image(part).float().cpu() for part in pictures.split(batch_size)])


def nearest_neighbour(features: Tensor, bank: Tensor, *, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """Return for each feature the cosine to its nearest neighbour in the bank, and that neighbour's index.

    It shows copies: a method that returns training pictures has cosines near 1.

    Shapes:
        features (N, D), bank (M, D) -> similarity (N,) in [-1, 1], index (N,)

    Raises:
        BadParameter: the bank is empty or the widths differ.
    """
    if len(bank) == 0 or features.shape[1:] != bank.shape[1:]:
        raise BadParameter(f"need a bank (M, D) with M >= 1 of the features' width, got {tuple(bank.shape)} for "
                           f"features {tuple(features.shape)}")
    bank = F.normalize(bank.float(), dim=-1)
    similarities = []
    indices = []
    for part in features.split(chunk):
        cosines = F.normalize(part.float(), dim=-1) @ bank.T  # (chunk, M)
        similarity, index = cosines.max(dim=1)
        similarities.append(similarity)
        indices.append(index)
    return torch.cat(similarities), torch.cat(indices)

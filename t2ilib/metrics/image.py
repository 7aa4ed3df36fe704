"""How close pictures are to others: one by one (PSNR, SSIM), as distributions (KID, Fréchet), to the nearest one."""

import torch
import torch.nn.functional as F
from torch import Tensor

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
    error = [(a.double() - b.double()).square().flatten(1).mean(dim=1)
             for a, b in zip(images.split(CHUNK), reference.split(CHUNK), strict=True)]
    return -10 * torch.cat(error).log10()


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
    pairs = zip(images.split(CHUNK), reference.split(CHUNK), strict=True)
    return torch.cat([_ssim(a.double(), b.double()) for a, b in pairs])


def _ssim(images: Tensor, reference: Tensor) -> Tensor:
    x, y = images.flatten(0, 1)[:, None], reference.flatten(0, 1)[:, None]
    window = torch.exp(-(torch.arange(11, dtype=x.dtype, device=x.device) - 5).square() / (2 * 1.5**2))
    window = window / window.sum()

    def average(v: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(v, window[None, None, :, None]), window[None, None, None, :])

    mean_x, mean_y = average(x), average(y)
    variances = average(x * x) - mean_x.square() + average(y * y) - mean_y.square()
    covariance = average(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    index = index / ((mean_x.square() + mean_y.square() + c1) * (variances + c2))
    return index.flatten(1).mean(dim=1).unflatten(0, images.shape[:2]).mean(dim=1)


def _check_pair(images: Tensor, reference: Tensor) -> None:
    if images.shape != reference.shape or images.ndim != 4:
        raise BadParameter(f"need two equal shapes (B, C, H, W), got {tuple(images.shape)} and "
                           f"{tuple(reference.shape)}")


def mmd2(x: Tensor, y: Tensor, *, degree: int = 3) -> Tensor:
    """Return the unbiased estimate of the squared maximum mean discrepancy (Gretton et al. 2012, eq. 3).

    The kernel is that of KID, (x . y / D + 1)^degree. The estimate may be negative when the distributions are equal.

    Shapes:
        x (..., m, D), y (..., n, D) -> (...), float64
    """
    x, y = x.double(), y.double()
    m, n = x.shape[-2], y.shape[-2]
    if m < 2 or n < 2:
        raise BadParameter(f"mmd2 compares pairs and needs at least 2 samples on each side, got {m} and {n}")

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.transpose(-1, -2) / x.shape[-1] + 1) ** degree

    def off_diagonal_mean(k: Tensor, count: int) -> Tensor:
        return (k.sum((-1, -2)) - k.diagonal(dim1=-2, dim2=-1).sum(-1)) / (count * (count - 1))

    return off_diagonal_mean(kernel(x, x), m) + off_diagonal_mean(kernel(y, y), n) - 2 * kernel(x, y).mean((-1, -2))


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
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise BadParameter(f"kid needs features (N, D) and (M, D), got {tuple(real.shape)} and {tuple(fake.shape)}")
    if subsets < 1 or subset_size < 2:
        raise BadParameter(f"kid needs subsets >= 1 and subset_size >= 2, got {subsets} and {subset_size}")
    size = min(subset_size, len(real), len(fake))
    g = torch.Generator().manual_seed(seed)

    def draw(features: Tensor) -> Tensor:
        return features[torch.randperm(len(features), generator=g)[:size].to(features.device)]

    values = torch.stack([mmd2(draw(real), draw(fake)) for _ in range(subsets)])
    return values.mean().item(), values.std(correction=0).item()


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Return the squared Fréchet distance between Gaussians fitted to features (Heusel et al. 2017, eq. 6).

    It is "FID" on features of the Inception network and only there; on others, give it another name. Biased: the fewer
    the features, the larger it is, so compare equal numbers of them.

    Args:
        real, fake: features (N, D) and (M, D).

    Raises:
        BadParameter: widths differ, or fewer than 2 features on one side.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or min(len(real), len(fake)) < 2:
        raise BadParameter("frechet_distance needs features (N, D) and (M, D), at least 2 on each side, got "
                           f"{tuple(real.shape)} and {tuple(fake.shape)}")
    real, fake = real.cpu().double(), fake.cpu().double()  # some accelerators have no double precision
    return gaussian_frechet(real.mean(0), torch.cov(real.T), fake.mean(0), torch.cov(fake.T))


def gaussian_frechet(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    """Return the squared Fréchet distance of two Gaussians (Dowson & Landau 1982, eq. 4), exact also for singular ones.

    The trace of the root of a product of covariances A B is the sum of the roots of the eigenvalues of the symmetric
    matrix A^(1/2) B A^(1/2), which has the same ones.

    Shapes:
        means (D,), covariances (D, D), best in double precision
    """
    covariance1, covariance2 = (c.reshape(len(mean1), len(mean1)) for c in (covariance1, covariance2))
    values, vectors = torch.linalg.eigh(covariance1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ covariance2 @ root).clamp(min=0).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + covariance1.trace() + covariance2.trace() - 2 * shared
    return distance.clamp(min=0).item()


def nearest_neighbour(features: Tensor, bank: Tensor, *, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """Return for each feature the cosine to its nearest neighbour in the bank, and that neighbour's index.

    Tells retrieval in disguise: a method that copies training pictures has cosines near 1.

    Shapes:
        features (N, D), bank (M, D) -> similarity (N,) in [-1, 1], index (N,)

    Raises:
        BadParameter: the bank is empty or the widths differ.
    """
    if len(bank) == 0 or features.shape[1:] != bank.shape[1:]:
        raise BadParameter(f"need a bank (M, D) with M >= 1 of the features' width, got {tuple(bank.shape)} for "
                           f"features {tuple(features.shape)}")
    bank = F.normalize(bank.float(), dim=-1)
    best = [(F.normalize(part.float(), dim=-1) @ bank.T).max(dim=1) for part in features.split(chunk)]
    return torch.cat([b.values for b in best]), torch.cat([b.indices for b in best])

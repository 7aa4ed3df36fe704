"""Does a generator draw everything there is? Classes and how often, modes, and pictures drawn twice.

A classifier says what the pictures show, so a number is only as good as the classifier. Two digits are one class,
however differently they are written: full coverage does not mean that nothing is missing within a class.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import BadParameter


def class_histogram(labels: Tensor, classes: int) -> Tensor:
    """Return how many of the labels (N,), in 0..classes-1, are of each class: (classes,) int64.

    Raises:
        BadParameter: no labels, or one out of range.
    """
    if not len(labels) or labels.min() < 0 or labels.max() >= classes:
        span = f"{labels.min()}..{labels.max()}" if len(labels) else "no labels"
        raise BadParameter(f"class_histogram needs labels in 0..{classes - 1}, got {span}")
    return torch.bincount(labels.flatten(), minlength=classes)


def entropy(counts: Tensor) -> float:
    """Return the entropy of counts (K,) in nats: log K if all are equal, 0 if one class has everything."""
    return torch.special.entr(_shares(counts)).sum().item()


def modes_covered(counts: Tensor, *, share: float = 0.0) -> int:
    """Return how many classes have at least one picture and at least `share` of all: counts (K,) -> 0..K."""
    return int(((counts > 0) & (_shares(counts) >= share)).sum())


def kl_to_data(counts: Tensor, data_counts: Tensor) -> float:
    """Return the Kullback-Leibler divergence of generated classes from those of the data, in nats.

    0 if classes are as frequent as in the data; inf if something is drawn that the data does not hold. Used for modes
    of stacked digits by Metz et al. 2017 ("Unrolled GANs", section 3.3.1).

    Shapes:
        two of (K,), counts or shares

    Raises:
        BadParameter: the numbers of classes differ.
    """
    if counts.shape != data_counts.shape:
        raise BadParameter(f"need the same classes, got {tuple(counts.shape)} and {tuple(data_counts.shape)}")
    p = _shares(counts)
    q = _shares(data_counts)
    terms = torch.where(p > 0, p * (p / q).log(), 0.0)  # (K,)
    return terms.sum().clamp(min=0).item()


def _shares(counts: Tensor) -> Tensor:
    if counts.ndim != 1 or not (counts >= 0).all() or counts.sum() <= 0:
        raise BadParameter(f"need counts (K,), none negative and not all zero, got {counts.tolist()[:10]}")
    counts = counts.cpu().double()
    return counts / counts.sum()


def nearest_distances(points: Tensor, *, k: int = 1, chunk: int = 1024) -> Tensor:
    """Return the Euclidean distance of each point to the k-th nearest other one: (N, ...) -> (N,).

    Raises:
        BadParameter: fewer than k + 1 points.
    """
    if not 1 <= k < len(points):
        raise BadParameter(f"nearest_distances compares points with one another and needs {k + 1} for neighbour k = "
                           f"{k} (at least 1), got {len(points)}")
    points = points.flatten(1).float()
    nearest = []
    for start in range(0, len(points), chunk):
        part = points[start:start + chunk]
        # exact, so that equal points are at distance 0
        distance = torch.cdist(part, points, compute_mode="donot_use_mm_for_euclid_dist")  # (chunk, N)
        row = torch.arange(len(part))
        distance[row, start + row] = torch.inf  # a point is not its own neighbour
        nearest.append(distance.kthvalue(k, dim=1).values)
    return torch.cat(nearest)


def duplicate_rate(pictures: Tensor, data: Tensor, *, quantile: float = 0.01) -> float:
    """Return the share of pictures that are nearly equal to another one.

    Two are nearly equal if they are closer than the `quantile` of the distances between nearest neighbours in the data.
    The data itself has a share of about `quantile`. How close a nearest neighbour is depends on how many there are, so
    both sides must be of one size. Idea: the birthday paradox (Arora & Zhang 2018, "Do GANs learn the distribution?").

    Args:
        pictures, data: (N, ...), pixels or features.

    Raises:
        BadParameter: not equally many, or of another shape.
    """
    if pictures.shape != data.shape:
        raise BadParameter(f"duplicate_rate needs as many pictures as data and of one shape, got "
                           f"{tuple(pictures.shape)} and {tuple(data.shape)}")
    radius = torch.quantile(nearest_distances(data), quantile)
    return (nearest_distances(pictures) < radius).double().mean().item()


@torch.no_grad()
def stacked_modes(classify: Callable[[Tensor], Tensor], images: Tensor, *, chunk: int = 1024) -> Tensor:
    """Return which of the 1000 triples each picture shows: the digit in red is the hundreds.

    Args:
        classify: logits (B, 10) of grey digits (B, 1, H, W).

    Shapes:
        images: (N, 3, H, W) -> (N,) int64 in 0..999

    Raises:
        BadParameter: pictures without three channels.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise BadParameter(f"stacked digits are (N, 3, H, W), got {tuple(images.shape)}")
    digits = []
    for part in images.split(chunk):
        channels = part.flatten(0, 1)[:, None]  # (3 B, 1, H, W)
        digits.append(classify(channels).argmax(1))
    red, green, blue = torch.cat(digits).unflatten(0, (-1, 3)).unbind(1)  # (N,) each
    return 100 * red + 10 * green + blue

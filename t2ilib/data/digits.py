"""Handwritten digits: scikit-learn's small set, always there, and MNIST."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from .decoding import check_size
from .. import paths
from ..errors import MissingAsset, check_name

NAMES = ("auto", "digits", "mnist")
SPLITS = ("train", "test", "all")
_TRAINING_DIGITS = 1500  # of scikit-learn's 1,797, in the order of its file


@dataclass(frozen=True)
class DigitImages:
    """Digits and what they are.

    Attributes:
        images: (N, 1, H, W) uint8, ink is bright (255) on black (0).
        labels: (N,) int64 in 0..9.
        name: "digits" or "mnist": which set was taken.
    """

    images: Tensor
    labels: Tensor
    name: str

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> "DigitImages":
        """Return the digits at `indices`."""
        return DigitImages(self.images[indices], self.labels[indices], self.name)

    def to(self, device: torch.device | str) -> "DigitImages":
        """Return the set on `device`."""
        return DigitImages(self.images.to(device), self.labels.to(device), self.name)

    def batch(self, indices: Tensor) -> Tensor:
        """Return digits as networks take them.

        Shapes:
            result: (B, 1, H, W) float32 in [-1, 1].
        """
        return self.images[indices].float().div_(127.5).sub_(1)

    def stacked(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw digits at random in threes, as the red, green and blue of one picture: 1000 modes ("stacked MNIST").

        Idea: Metz et al. 2017 ("Unrolled GANs", section 3.3.1).

        Args:
            generator: on the device of the set.

        Shapes:
            result: pictures (count, 3, H, W) float32 in [-1, 1], and which triple each is, (count,) in 0..999; the
                digit in red is the hundreds.
        """
        device = self.images.device
        indices = torch.randint(len(self), (count, 3), generator=generator, device=device)
        red, green, blue = self.labels[indices].unbind(1)
        return self.batch(indices)[:, :, 0], 100 * red + 10 * green + blue


def load_digits(name: str = "auto", *, split: str = "train", image_size: int | None = None,
                root: str | Path | None = None) -> DigitImages:
    """Load handwritten digits.

    Args:
        name: "digits": 1,797 pictures of 8 x 8 that come with scikit-learn, the last 297 for testing;
            "mnist": 70,000 pictures of 28 x 28 (60,000 / 10,000) from `root`, else from the folder named by `T2I_DATA`,
            else downloaded once; "auto": MNIST if it is already there, else the digits. "auto" never downloads.
        split: "train", "test" or "all".
        image_size: Edge length to resize to (bilinear, antialiased); the set's own by default.
        root: Folder that holds `MNIST/raw`.

    Raises:
        UnknownName: If `name` or `split` is not known.
        BadParameter: If `image_size` is bad.
        MissingAsset: If MNIST is asked for and cannot be had.
    """
    check_name("digit set", name, NAMES)
    check_name("split of the digits", split, SPLITS)
    if image_size is not None:
        check_size(image_size)
    folder = Path(root) if root is not None else paths.user_data_dir()
    if name == "mnist" or (name == "auto" and folder is not None and _has_mnist(folder)):
        images, labels = _mnist(folder, split)
        name = "mnist"
    else:
        images, labels = _scikit_digits(split)
        name = "digits"
    if image_size is not None and image_size != images.shape[-1]:
        images = _resized(images, image_size)
    return DigitImages(images, labels, name)


def _has_mnist(folder: Path) -> bool:
    raw = folder / "MNIST" / "raw"
    for part in ("train", "t10k"):
        name = f"{part}-images-idx3-ubyte"
        if not (raw / name).exists() and not (raw / f"{name}.gz").exists():
            return False
    return True


def _mnist(folder: Path | None, split: str) -> tuple[Tensor, Tensor]:
    from torchvision.datasets import MNIST

    is_present = folder is not None and _has_mnist(folder)
    root = folder if is_present else paths.cache_dir()
    parts = {"train": [True], "test": [False], "all": [True, False]}[split]
    sets = []
    try:
        for part in parts:
            sets.append(MNIST(str(root), train=part, download=not _has_mnist(root)))
    except (RuntimeError, OSError) as error:
        raise MissingAsset(
            f"MNIST is not below {folder or 'T2I_DATA (not set)'} and could not be downloaded to {root}: {error}. "
            "Set T2I_DATA to a folder with MNIST/raw, or take name='digits', which needs nothing."
        ) from error
    images = torch.cat([part.data for part in sets])  # (N, 28, 28)
    labels = torch.cat([part.targets for part in sets])
    return images[:, None], labels.long()


def _scikit_digits(split: str) -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits as load

    bunch = load()
    ink = torch.from_numpy(bunch.images).float()  # (N, 8, 8), 0..16
    images = (ink * (255 / 16)).round().to(torch.uint8)[:, None]  # (N, 1, 8, 8)
    labels = torch.from_numpy(bunch.target).long()
    part = {"train": slice(0, _TRAINING_DIGITS), "test": slice(_TRAINING_DIGITS, None), "all": slice(None)}[split]
    return images[part].contiguous(), labels[part].contiguous()


def _resized(images: Tensor, size: int) -> Tensor:
    """Resize in pieces, so that MNIST does not stand in memory as floats."""
    pieces = []
    for piece in images.split(4096):
        piece = F.interpolate(piece.float(), size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        pieces.append(piece.round().clamp(0, 255).to(torch.uint8))
    return torch.cat(pieces)

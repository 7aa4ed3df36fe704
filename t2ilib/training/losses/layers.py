"""Losses on the layers of a perceptual network, and a learned perceptual distance."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...assets import Asset, AssetFile
from ...checkpoint import load_strict
from ...encoders.perceptual import PerceptualNetwork, read_trunk, trunk_file
from ...errors import BadParameter, CheckpointMismatch, check_name

SQUEEZENET = Asset("squeezenet1_1", "perceptual", "ImageNet", "BSD-3-Clause; data for non-commercial research",
                   "https://github.com/pytorch/vision",
                   (AssetFile("squeezenet1_1-b8a52dc0.pth",
                              ("https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",), about_mb=5),))


class EqualisedLoss:
    """The mean of several terms, each divided by its first value, so that terms of any scale weigh alike.

    The value of each term in the first call is kept; the loss begins at 1 and is what is left of the terms.

    Args:
        terms: name -> function of images and target (B, 3, H, W) in [0, 1] that returns a scalar.

    Attributes:
        first: name of a term -> its value in the first call; empty before. It is part of a training's state.

    Raises:
        BadParameter: no terms.
    """

    def __init__(self, terms: Mapping[str, Callable[[Tensor, Tensor], Tensor]]):
        if not terms:
            raise BadParameter("an equalised loss needs at least one term, got none")
        self.terms = dict(terms)
        self.first: dict[str, float] = {}

    def __call__(self, images: Tensor, target: Tensor) -> Tensor:
        shares = []
        for name, value in self.values(images, target).items():
            # a term that is 0 at first has no scale of its own
            first = self.first.setdefault(name, max(value.item(), 1e-12))
            shares.append(value / first)
        return torch.stack(shares).mean()

    def values(self, images: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the terms as they are: name -> scalar, with gradient."""
        return {name: term(images, target) for name, term in self.terms.items()}

    def state_dict(self) -> dict[str, float]:
        return dict(self.first)

    def load_state_dict(self, state: dict[str, float]) -> None:
        if state and set(state) != set(self.terms):
            raise CheckpointMismatch(f"the saved loss has the terms {sorted(state)}, this one {sorted(self.terms)}; go "
                                     "on with the same loss")
        self.first = dict(state)


class LayerLoss(EqualisedLoss):
    """The mean squared difference in named layers of a perceptual network, each divided by its first value.

    Layers differ in scale by orders of magnitude, so that a plain sum is the loss of one layer. The target goes through
    the network without a graph, and no layer is computed in vain.

    Args:
        network: frozen. layers: names of its layers; "pixels" are the pictures themselves.

    Shapes:
        images, target (B, 3, H, W) in [0, 1] -> scalar; gradients reach images

    Raises:
        BadParameter: no layers. UnknownName: the network has no such layer.
    """

    def __init__(self, network: PerceptualNetwork, layers: Sequence[str]):
        super().__init__(dict.fromkeys(layers, F.mse_loss))
        for name in layers:
            check_name(f"layer of {network.name}", name, network.layers)
        self.network = network

    def values(self, images: Tensor, target: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            target_maps = self.network(target, self.terms)
        maps = self.network(images, self.terms)
        differences = {}
        for name, term in self.terms.items():
            differences[name] = term(maps[name].float(), target_maps[name].float())
        return differences


def load_lpips(weights: str | Path = "", *, device: torch.device | str = "cpu") -> Any:
    """Return LPIPS (Zhang et al. 2018, arXiv:1801.03924) on SqueezeNet, frozen.

    Its linear heads come with the package lpips, the weights of its trunk do not.

    Args:
        weights: of SqueezeNet: a file, "download", or "" to look where it may lie; see `trunk_file`.

    Shapes:
        result: called with two of (B, 3, H, W) in [0, 1] and normalize=True -> (B, 1, 1, 1); gradients reach both

    Raises:
        MissingAsset: the weights or the package are not here. CheckpointMismatch: they are of another network.
    """
    path = trunk_file(SQUEEZENET, weights)
    network = _lpips()
    state = {}
    for name, tensor in read_trunk(path).items():
        kind, _, rest = name.partition(".")
        if kind == "features":
            state[rest] = tensor
    _load_slices(network.net, state, source=str(path))
    return network.eval().requires_grad_(False).to(device)


def _lpips() -> Any:
    """Return LPIPS whose trunk has random weights."""
    import warnings

    from lpips import LPIPS

    with warnings.catch_warnings():  # it asks torchvision for the trunk in a way that is going out of use
        warnings.simplefilter("ignore", UserWarning)
        return LPIPS(net="squeeze", pnet_rand=True, verbose=False)


def _load_slices(trunk: nn.Module, state: dict[str, Tensor], *, source: str) -> None:
    """Give the trunk, which LPIPS cut into slices, the weights of the uncut one: their numbers go on."""
    slice_of = {}
    for name in trunk.state_dict():
        part, _, rest = name.partition(".")
        slice_of[rest] = part
    load_strict(trunk, {f"{slice_of.get(rest, 'none')}.{rest}": tensor for rest, tensor in state.items()},
                source=source)

"""The EfficientNet-Lite0 distance: zero for equal pictures, growing with damage, one for unrelated drawings."""

import pytest
import torch
from torch.nn import functional as F

from t2ilib.data import load_captioned
from t2ilib.encoders import EfficientNetLite, load_efficientnet_lite
from t2ilib.errors import BadParameter
from t2ilib.media import to_unit
from t2ilib.training.losses import lite_distance


@pytest.fixture(scope="module")
def lite0():
    return load_efficientnet_lite()


@pytest.fixture(scope="module")
def drawings():
    data = load_captioned("emoji", split="validation", image_size=128, limit=48)
    return to_unit(data.batch(torch.arange(48)))


def blurred(x, times):
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    weight = (kernel[:, None] * kernel).expand(3, 1, 3, 3)
    for _ in range(times):
        x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight, groups=3)
    return x


def test_equal_pictures_are_at_no_distance_and_unrelated_drawings_at_one(lite0, drawings):
    assert torch.equal(lite_distance(lite0, drawings[:4], drawings[:4]), torch.zeros(4))
    apart = lite_distance(lite0, drawings, drawings.roll(23, 0))
    assert apart.shape == (48,) and 0.85 < apart.mean() < 1.15


def test_it_grows_with_blur_and_noise(lite0, drawings):
    x = drawings[:6]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    damage = {"blur": [blurred(x, times) for times in (1, 3, 9, 27)],
              "noise": [(x + level * noise).clamp(0, 1) for level in (0.01, 0.03, 0.1, 0.3)]}
    for name, steps in damage.items():
        distances = torch.stack([lite_distance(lite0, y, x) for y in steps])  # (4, 6)
        assert (distances[0] > 0).all() and (distances.diff(dim=0) > 0).all(), name
        assert distances[-1].mean() < 1.2, name


def test_gradients_reach_the_pictures_and_nothing_else(lite0, drawings):
    x = blurred(drawings[:2], 2).requires_grad_()
    target = drawings[:2].clone().requires_grad_()
    before = lite_distance(lite0, x, target).mean()
    before.backward()
    assert x.grad.abs().sum() > 0 and target.grad is None
    assert all(p.grad is None for p in lite0.parameters())
    step = 0.05 * x.grad / x.grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert lite_distance(lite0, (x - step).detach(), target).mean() < before


def test_other_networks_and_shapes_are_refused(lite0, drawings):
    for other in (EfficientNetLite(name="efficientnet-lite2", classes=2), torch.nn.Identity()):
        with pytest.raises(BadParameter, match="calibrated for efficientnet-lite0"):
            lite_distance(other, drawings[:1], drawings[:1])
    with pytest.raises(BadParameter, match="two equal shapes"):
        lite_distance(lite0, drawings[:1], drawings[:2])

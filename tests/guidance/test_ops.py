import math

import pytest
import torch
from torch.testing import assert_close

from t2ilib.errors import BadParameter
from t2ilib.guidance.ops import LatentEMA, angle_between, clamp_with_grad, total_variation, z_bounds


@pytest.mark.parametrize(("x", "g", "dx"), [(-0.2, 1, 0), (-0.2, -1, -1), (1.3, 1, 1), (1.3, -1, 0), (0, 1, 1),
                                            (1, -1, -1), (0.5, 1, 1), (0.5, -1, -1)])
def test_clamp_with_grad_passes_what_moves_back_in(x, g, dx):
    x = torch.tensor([float(x)], requires_grad=True)
    y = clamp_with_grad(x, 0, 1)
    assert_close(y.detach(), x.detach().clamp(0, 1))
    y.backward(torch.tensor([float(g)]))
    assert x.grad.item() == dx


def test_bounds_are_per_channel():
    low, high = z_bounds(torch.tensor([[0.0, 5.0], [2.0, -1.0], [1.0, 1.0]]))
    assert low.flatten().tolist() == [0, -1] and high.flatten().tolist() == [2, 5]
    assert low.shape == (1, 2, 1, 1)


def test_angles_are_exact_for_equal_and_for_opposite_vectors():
    a = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0.6, 0.8]], requires_grad=True)
    b = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [1, 0]])
    angle = angle_between(a, b)
    assert_close(angle, torch.tensor([0, math.pi, math.pi / 2, math.acos(0.6)]))
    assert angle_between(a.T, b.T, dim=0, keepdim=True).shape == (1, 4)
    angle.sum().backward()
    assert a.grad.isfinite().all()


def test_total_variation():
    x = torch.zeros(2, 1, 3, 4)
    x[1, :, :, 2:] = 2.0  # one step of 2 in each of 3 rows; 8 vertical and 9 horizontal pairs
    assert_close(total_variation(x), torch.tensor([0.0, 3 * 4 / 17]))
    assert_close(total_variation(torch.rand(1, 3, 1, 1)), torch.zeros(1))


def test_ema_is_corrected_for_its_start():
    ema, values = LatentEMA(0.9), [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0]), torch.tensor([-1.0, 2.0])]
    for v in values:
        ema.update(v)
    weights = torch.tensor([0.81, 0.9, 1.0])
    assert_close(ema.value(), (weights[:, None] * torch.stack(values)).sum(0) / weights.sum())
    last = LatentEMA(0.0)
    for v in values:
        last.update(v)
    assert_close(last.value(), values[-1])
    with pytest.raises(BadParameter, match="empty"):
        LatentEMA(0.5).value()
    with pytest.raises(BadParameter, match="ema must be in"):
        LatentEMA(1.0)

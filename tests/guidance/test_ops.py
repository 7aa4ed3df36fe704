import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from t2ilib.errors import BadParameter
from t2ilib.guidance.ops import LatentEMA, angle_between, clamp_with_grad, resample, total_variation, z_bounds


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


def lanczos_reference(n_in, n_out):
    """Matrix of the low-pass along one side in float64, from the definition: taps at every multiple of the ratio."""
    if n_out >= n_in:
        return np.eye(n_in)
    ratio = n_out / n_in
    taps, j = {}, 0
    while j * ratio < 2:
        x = j * ratio
        value = 1.0 if x == 0 else math.sin(math.pi * x) / (math.pi * x) * math.sin(math.pi * x / 2) / (math.pi * x / 2)
        taps[j] = taps[-j] = value
        j += 1
    total = sum(taps.values())
    matrix = np.zeros((n_in, n_in))
    for i in range(n_in):
        for j, value in taps.items():
            source = abs(i + j)
            source = 2 * (n_in - 1) - source if source >= n_in else source
            matrix[i, source] += value / total
    return matrix


def bicubic_reference(n_in, n_out, a=-0.75):
    """Matrix of cubic convolution with aligned corners (Keys 1981), edges repeated."""
    matrix = np.zeros((n_out, n_in))
    for i in range(n_out):
        position = i * (n_in - 1) / (n_out - 1)
        first = math.floor(position)
        for k in range(first - 1, first + 3):
            d = abs(position - k)
            near = (a + 2) * d**3 - (a + 3) * d**2 + 1
            matrix[i, min(max(k, 0), n_in - 1)] += near if d <= 1 else a * (d**3 - 5 * d**2 + 8 * d - 4)
    return matrix


@pytest.mark.parametrize(("size", "out"), [((40, 33), (16, 16)), ((16, 50), (24, 24)), ((20, 20), (32, 32)),
                                           ((37, 37), (37, 12))])
def test_resample_equals_an_independent_float64_version(size, out):
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    rows, columns = (bicubic_reference(n, m) @ lanczos_reference(n, m) for n, m in zip(size, out, strict=True))
    expected = np.einsum("ih,bchw,jw->bcij", rows, x.double().numpy(), columns)
    assert_close(resample(x.double(), out), torch.from_numpy(expected), rtol=1e-9, atol=1e-9)
    assert_close(resample(x, out).double(), torch.from_numpy(expected), rtol=0, atol=2e-6)


def test_resample_keeps_constants_and_removes_what_would_alias():
    assert_close(resample(torch.full((1, 1, 60, 60), 0.3), (16, 16)), torch.full((1, 1, 16, 16), 0.3))
    stripes = (torch.arange(64) % 2).float().expand(1, 1, 64, 64)
    kept = F.interpolate(stripes, (24, 24), mode="bicubic", align_corners=True)
    assert resample(stripes, (24, 24))[..., 4:-4].std() < 0.1 * kept.std()


def test_resample_names_a_side_that_is_too_small():
    with pytest.raises(BadParameter, match="side of 8 to 1"):
        resample(torch.rand(1, 1, 8, 8), (1, 8))


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

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from t2ilib.bench.lanczos import resample
from t2ilib.errors import BadParameter


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

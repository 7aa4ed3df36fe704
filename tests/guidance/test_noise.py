import pytest
import torch
from torch.testing import assert_close

from t2ilib.guidance.noise import NOISES, noise_picture


@pytest.mark.parametrize("kind", NOISES)
def test_noise_is_in_range_repeats_and_has_no_preferred_shape(kind):
    one, two, other = (noise_picture(kind, (24, 40), torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert one.shape == (3, 24, 40) and 0 <= one.min() and one.max() <= 1
    assert torch.equal(one, two) and not torch.equal(one, other)
    if kind == "gradient":
        assert_close(one[:, 1:, :].diff(dim=1), one[:, :-1, :].diff(dim=1), atol=1e-5, rtol=0)  # linear
    if kind == "fractal":
        assert 0.1 < one.std() < 0.4 and one.diff(dim=2).abs().mean() < 0.5 * one.std()  # smooth

"""A grown VQGAN starts as the small one with doubled positions, and can be trained further."""

import pytest
import torch
from torch.nn import functional as F

from t2ilib.errors import BadParameter
from t2ilib.models.vqgan import VQGAN
from t2ilib.models.vqgan_growth import grow

SMALL = dict(embed_dim=4, n_embed=16, z_channels=4, resolution=16, ch=8, ch_mult=[1, 2, 3], num_res_blocks=1,
             attn_resolutions=[8], norm_groups=4)


@pytest.fixture
def small():
    torch.manual_seed(0)
    return VQGAN(**SMALL).eval()


def last_features(network, codes):
    """What the decoder's last convolution reads."""
    seen = []
    handle = network.decoder.conv_out.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network.decode_codes(codes)
    handle.remove()
    return seen[0]


def test_the_same_codes_give_the_same_features_with_doubled_positions(small):
    large, codes = grow(small).eval(), torch.randint(16, (2, 4, 4))
    expected = F.interpolate(last_features(small, codes), scale_factor=2, mode="nearest")
    torch.testing.assert_close(last_features(large, codes), expected, atol=1e-5, rtol=1e-4)
    assert large.factor == 2 * small.factor and large.config["resolution"] == 32
    assert torch.equal(large.codebook, small.codebook)


def test_the_encoder_starts_near_the_small_one(small):
    large = grow(small).eval()
    flat = torch.full((1, 3, 32, 32), 0.3)  # on a plain area halving changes nothing, away from the border
    with torch.no_grad():
        inside = (large.encode(flat) - small.encode(flat[..., ::2, ::2])).abs()[..., 1:-1, 1:-1]
        other = (small.encode(-flat[..., ::2, ::2]) - small.encode(flat[..., ::2, ::2])).abs()[..., 1:-1, 1:-1]
    assert inside.mean() < 0.5 * other.mean()


def test_every_new_weight_receives_a_gradient(small):
    large = grow(small)
    reconstruction, quantized = large(torch.randn(1, 3, 32, 32))
    (reconstruction.square().mean() + quantized.loss).backward()
    without = [n for n, p in large.named_parameters() if p.grad is None]
    assert without == []
    assert large.decoder.up[0].block[0].conv2.weight.grad.abs().sum() > 0


def test_what_cannot_grow_says_so():
    with pytest.raises(BadParameter, match="patch_size=1"):
        grow(VQGAN(**{**SMALL, "patch_size": 2}))

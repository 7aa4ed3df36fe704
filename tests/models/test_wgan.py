"""Generator and critic of the WGAN-GP: sizes, independence of the pictures of a batch, and what the penalty needs."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from t2ilib.checkpoint import load_model, save_model
from t2ilib.errors import BadParameter
from t2ilib.models.wgan import UpBlock, WGANCritic, WGANGenerator
from t2ilib.runtime import generator
from t2ilib.training.losses import gradient_penalty

TINY = dict(ch=8, max_ch=16)
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def noise(*shape):
    return torch.randn(shape, generator=generator(0, "noise"))


@pytest.mark.parametrize("size", [8, 32, 64, 128])
def test_sizes_fit_each_other(size):
    draw, critic = WGANGenerator(image_size=size, latent_dim=6, **TINY), WGANCritic(image_size=size, **TINY)
    x = draw(noise(3, 6))
    assert x.shape == (3, 3, size, size) and -1 <= x.min() < x.max() <= 1
    assert critic(x).shape == (3,)
    assert len(draw.blocks) == len(critic.convs) == size.bit_length() - 3


@pytest.mark.parametrize("training", [True, False])
def test_what_one_picture_gets_does_not_depend_on_the_others(training):
    draw = WGANGenerator(image_size=32, latent_dim=6, **TINY).double().train(training)
    critic = WGANCritic(image_size=32, **TINY).double().train(training)
    z = noise(5, 6).double()
    x = draw(z)
    scores = critic(x)
    for i in range(5):
        torch.testing.assert_close(draw(z[i:i + 1])[0], x[i], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(critic(x[i:i + 1])[0], scores[i], rtol=1e-10, atol=1e-12)
    jacobian = torch.autograd.functional.jacobian(critic, x.detach())  # (5, 5, 3, 32, 32)
    across = jacobian.flatten(2).norm(dim=2)
    assert across.diagonal().min() > 0 and (across - across.diagonal().diag()).abs().max() == 0


def test_no_batch_statistics_anywhere_and_no_norm_in_the_critic():
    draw, critic = WGANGenerator(image_size=32, **TINY), WGANCritic(image_size=32, **TINY)
    assert not [m for m in critic.modules() if isinstance(m, NORMS)]
    assert not [m for m in draw.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    assert not list(draw.buffers()) + list(critic.buffers())


def test_a_doubling_block_repeats_pixels_and_then_convolves():
    block = UpBlock(in_channels=8, out_channels=4, norm_groups=2).double()
    x = noise(2, 8, 5, 5).double()
    h = F.silu(F.group_norm(x, 2, block.norm1.weight, block.norm1.bias, block.norm1.eps))
    h = block.conv1(h.repeat_interleave(2, 2).repeat_interleave(2, 3))
    h = block.conv2(F.silu(F.group_norm(h, 2, block.norm2.weight, block.norm2.bias, block.norm2.eps)))
    expected = h + block.shortcut(x).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(block(x), expected)


def test_the_penalty_reaches_every_weight_of_the_critic_by_its_second_derivative():
    critic = WGANCritic(image_size=8, **TINY).double()
    real, fake = noise(2, 4, 3, 8, 8).double()
    alpha = torch.rand(4, generator=generator(0, "alpha"), dtype=torch.float64)
    gradient_penalty(critic, real, fake, alpha).backward()
    assert all(p.grad.abs().max() > 0 for name, p in critic.named_parameters() if name.endswith("weight"))
    weight = critic.convs[0].weight
    told, eps, values = weight.grad[0, 0, 0, 0].item(), 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            weight[0, 0, 0, 0] += sign * eps
        values.append(gradient_penalty(critic, real, fake, alpha).item())
        with torch.no_grad():
            weight[0, 0, 0, 0] -= sign * eps
    assert (values[0] - values[1]) / (2 * eps) == pytest.approx(told, rel=1e-4)


def test_saved_networks_are_rebuilt_from_their_config(tmp_path):
    for network, x in ((WGANGenerator(image_size=16, latent_dim=4, **TINY), noise(2, 4)),
                       (WGANCritic(image_size=16, **TINY), noise(2, 3, 16, 16))):
        again = load_model(type(network), save_model(tmp_path / type(network).__name__, network))
        torch.testing.assert_close(again(x), network(x), rtol=0, atol=0)
        assert again.config == network.config


@pytest.mark.parametrize("kwargs", [dict(image_size=48), dict(image_size=4), dict(image_size=0), dict(ch=0),
                                    dict(ch=64, max_ch=32)])
def test_sizes_that_do_not_fit_are_refused(kwargs):
    for network in (WGANGenerator, WGANCritic):
        with pytest.raises(BadParameter, match="image_size must be a power of 2 .* and 1 <= ch <= max_ch"):
            network(**kwargs)


def test_other_misfits_are_refused():
    with pytest.raises(BadParameter, match="multiple of norm_groups=8, got 12"):
        WGANGenerator(ch=12)
    with pytest.raises(BadParameter, match=r"scores pictures \(B, 3, 32, 32\), got \(2, 3, 64, 64\)"):
        WGANCritic(image_size=32, **TINY)(torch.zeros(2, 3, 64, 64))

import pytest
import torch
from torch import nn

from t2ilib.checkpoint import load_model, save_model
from t2ilib.errors import BadParameter
from t2ilib.models.digit_gans import ConvCritic, ConvGenerator, LinearDiscriminator, LinearGenerator, MinibatchStd
from t2ilib.runtime import generator
from t2ilib.training.losses import gradient_penalty, zero_centred_penalty

SHAPES = [(1, 28), (3, 28), (1, 8), (3, 8)]


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("channels, size", SHAPES)
@pytest.mark.parametrize("pair", [(LinearGenerator, LinearDiscriminator), (ConvGenerator, ConvCritic)])
def test_pairs_fit_together_and_every_weight_learns(pair, channels, size):
    net, critic = (cls(image_channels=channels, image_size=size) for cls in pair)
    z = randn(5, net.latent_dim)
    fake = net(z)
    assert fake.shape == (5, channels, size, size) and fake.abs().max() <= 1
    scores = critic(fake)
    assert scores.shape == (5,)
    scores.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (*net.parameters(), *critic.parameters()))
    dead = [name for name, p in net.named_parameters() if not p.grad.abs().sum() > 0]
    # a bias right before batch norm is the only thing that cannot matter
    normed = {f"layers.{i}.bias" for i in range(len(net.layers) - 1) if isinstance(net.layers[i + 1], nn.BatchNorm1d)}
    assert set(dead) <= normed


def test_sizes_of_the_originals():
    def count(net):
        return sum(p.numel() for p in net.parameters())

    assert count(LinearGenerator()) == 1_510_032 and count(LinearDiscriminator()) == 533_505
    assert count(ConvGenerator()) < 300_000 and count(ConvCritic()) < 120_000


def test_batch_norm_keeps_the_library_s_eps():
    """The public script passes 0.8 as the second argument, which is eps: its norms hardly normalise."""
    for net in (LinearGenerator(), ConvGenerator()):
        norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        assert norms and all(norm.eps == 1e-5 for norm in norms)


@pytest.mark.parametrize("critic", [ConvCritic(image_size=8), LinearDiscriminator(image_size=8)])
def test_a_score_does_not_depend_on_the_other_pictures(critic):
    x = randn(6, 1, 8, 8)
    torch.testing.assert_close(critic(x)[:2], critic(x[:2]))
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in critic.modules())
    for penalty in (zero_centred_penalty(critic, x), gradient_penalty(critic, x, -x, torch.rand(6))):
        critic.zero_grad()
        penalty.backward()
        gradients = [p.grad for p in critic.parameters() if p.grad is not None]
        assert penalty > 0 and all(gradient.isfinite().all() for gradient in gradients)
        assert any(gradient.any() for gradient in gradients)


def test_group_norm_makes_pictures_independent_and_batch_norm_does_not():
    z = randn(6, 64)
    group, batch = (ConvGenerator(image_size=8, norm=norm) for norm in ("group", "batch"))
    torch.testing.assert_close(group(z)[:2], group(z[:2]))
    assert not torch.allclose(batch(z)[:2], batch(z[:2]), atol=1e-3)
    batch.eval()
    torch.testing.assert_close(batch(z)[:2], batch(z[:2]))


def test_minibatch_std_is_the_mean_deviation_and_safe_where_all_are_equal():
    x = randn(7, 3, 4, 4)
    y = MinibatchStd()(x)
    assert y.shape == (7, 4, 4, 4) and torch.equal(y[:, :3], x)
    expected = x.double().std(dim=0, correction=0).mean().float()
    torch.testing.assert_close(y[:, 3], expected.expand(7, 4, 4), rtol=1e-5, atol=1e-6)
    same = x[:1].repeat(7, 1, 1, 1).requires_grad_()
    deviation = MinibatchStd()(same)[:, 3]
    deviation.sum().backward()
    assert deviation.max() < 2e-4 and same.grad.isfinite().all()


def test_a_critic_with_minibatch_std_sees_the_batch():
    critic = ConvCritic(image_size=8, minibatch_std=True)
    x = randn(4, 1, 8, 8)
    assert not torch.allclose(critic(x)[0], critic(x[:1].repeat(4, 1, 1, 1))[0])


def test_saved_and_loaded_it_is_the_same(tmp_path):
    net = ConvGenerator(image_size=8, ch=8, norm="group")
    again = load_model(ConvGenerator, save_model(tmp_path, net))
    z = torch.randn(3, 64, generator=generator(0, "z"))
    assert torch.equal(again(z), net(z)) and again.config == net.config


def test_what_does_not_fit_is_refused():
    for make in (ConvGenerator, ConvCritic):
        with pytest.raises(BadParameter, match="multiple of 4, got 30"):
            make(image_size=30)
    with pytest.raises(BadParameter, match="'batch' or 'group', got 'layer'"):
        ConvGenerator(norm="layer")

"""A VQ-VAE that quantises features with the picture: where they enter, what the decoder sees, checkpoints."""

import pytest
import torch
from torch.testing import assert_close

from t2ilib.checkpoint import load_model, save_model
from t2ilib.errors import BadParameter
from t2ilib.models.joint_vqvae import JointVQVAE
from t2ilib.runtime import generator
from t2ilib.training import VQVAETraining, make_fabric

SMALL = dict(ch=4, ch_mult=[1, 2, 2], norm_groups=2, n_embed=12, embed_dim=3)


def network(levels=1, feature_dim=5):
    torch.manual_seed(0)
    net = JointVQVAE(feature_dim=feature_dim, vqvae=SMALL | {"levels": levels})
    for quantizer in net.quantizers:
        torch.nn.init.normal_(quantizer.embedding.weight, std=0.3)
    return net.eval()


def inputs(count=2):
    stream = generator(0, "inputs")
    x = torch.rand(count, 3, 16, 24, generator=stream) * 2 - 1
    return x, torch.randn(count, 5, generator=stream)


@pytest.mark.parametrize("levels", [1, 2])
def test_features_reach_the_picture_through_the_codes_alone(levels):
    net = network(levels)
    x, features = inputs()
    pictures, found = net(x, features)
    codes = [level.quantized.codes for level in found]
    assert pictures.shape == x.shape and [grid.shape[1:] for grid in codes] == list(net.shapes(16, 24))
    assert_close(net.decode_codes(*codes), pictures)
    for moved, level in zip(net(x, features.flip(0))[1], found, strict=True):
        assert (moved.z_e - level.z_e).abs().amax((1, 2, 3)).min() > 1e-3  # of each picture


def test_the_vector_of_a_picture_is_its_own_and_the_same_at_every_place():
    net = network()
    x, features = inputs()
    changed = features.clone()
    changed[0] += 1.0
    z_e = net(x, features)[1][0].z_e
    moved = net(x, changed)[1][0].z_e - z_e
    assert moved[0].abs().max() > 1e-3 and not moved[1].any()
    assert_close(moved[0], moved[0, :, :1, :1].expand_as(moved[0]), atol=1e-5, rtol=1e-4)


def test_no_features_are_zeros():
    net = network()
    x, features = inputs()
    assert_close(net(x)[0], net(x, torch.zeros_like(features))[0])
    assert torch.equal(net.encode_codes(x)[0], net(x, torch.zeros_like(features))[1][0].quantized.codes)


def test_what_is_trained_with_features_needs_them():
    """Sheets of one colour, which the features say too: with those of another sheet the pictures are worse."""
    torch.manual_seed(0)
    net = JointVQVAE(feature_dim=3, vqvae=SMALL | {"n_embed": 32}).train()
    training = VQVAETraining(net, make_fabric(), learning_rate=3e-3, ema_decay=0.9)
    stream = generator(0, "colours")

    def sheets(count):
        colours = torch.rand(count, 3, generator=stream) * 2 - 1
        return colours[:, :, None, None].expand(-1, -1, 8, 8).contiguous(), colours

    losses = [training.step(sheets(8)).item() for _ in range(120)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    x, colours = sheets(64)
    with torch.no_grad():
        right = training.ema.model(x, colours)[0] - x
        wrong = training.ema.model(x, colours.roll(1, 0))[0] - x
    assert right.square().mean() < 0.8 * wrong.square().mean()


def test_it_comes_back_from_its_checkpoint(tmp_path):
    net = network(2)
    x, features = inputs()
    loaded = load_model(JointVQVAE, save_model(tmp_path / "joint", net))
    assert_close(loaded(x, features)[0], net(x, features)[0])


@pytest.mark.parametrize("shape", [(2, 4), (1, 5), (5,), (2, 5, 1)])
def test_features_that_do_not_fit(shape):
    x, _ = inputs()
    with pytest.raises(BadParameter, match=r"features must be \(2, 5\), a vector for each picture"):
        network()(x, torch.zeros(shape))


def test_a_vector_of_no_numbers():
    with pytest.raises(BadParameter, match="feature_dim must be at least 1, got 0; take VQVAE2"):
        network(feature_dim=0)

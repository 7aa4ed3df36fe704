"""The study's VQ-VAE: size, straight-through gradient, codes that do not depend on the batch, and a larger decoder."""

import pytest
import torch
from torch import nn

from t2ilib.checkpoint import load_model, save_model
from t2ilib.errors import BadParameter
from t2ilib.layers.quantize import EMACodebook
from t2ilib.models.vqvae import VQVAE, enlarge
from t2ilib.runtime import generator

TINY = dict(channels=8, n_embed=16)


def pictures(count=4, side=32):
    return torch.rand(count, 3, side, side, generator=generator(0, "pictures")) * 2 - 1


@pytest.fixture
def model():
    """A small network whose batch norms have seen pictures and whose codebook lies among its latents."""
    torch.manual_seed(0)
    model = VQVAE(**TINY)
    book = EMACodebook(model.quantize)
    for _ in range(3):
        z_e = model.encode(pictures())
        book.update(z_e, model.quantize(z_e).codes)
    return model


def test_the_original_size():
    with torch.device("meta"):
        network = VQVAE()
        x = torch.empty(1, 3, 128, 128)
        z_e = network.encode(x)
        assert z_e.shape == (1, 256, 16, 16)
        assert network.decode(z_e).shape == x.shape
    assert network.codebook.shape == (512, 256)
    parameters = sum(p.numel() for p in network.parameters())
    assert round(parameters / 1e6, 1) == 28.5
    convs = [m for m in network.encoder.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 24 and {conv.kernel_size for conv in convs} == {(3, 3)}
    assert network.conv_in.kernel_size == network.conv_out.kernel_size == (7, 7)
    assert sum(conv.stride == (2, 2) for conv in convs) == 3


def test_gradients_pass_the_codes_straight_through(model):
    fake, quantized = model(pictures())
    assert fake.shape == (4, 3, 32, 32) and quantized.codes.shape == (4, 4, 4)
    (fake.square().mean() + quantized.commitment).backward()
    assert model.conv_in.weight.grad.abs().sum() > 0
    z_e = model.encode(pictures()).detach().requires_grad_()
    z_q = model.quantize(z_e).z_q
    weights = torch.rand(z_q.shape, generator=generator(0, "weights"))
    (gradient,) = torch.autograd.grad((z_q * weights).sum(), z_e)
    assert torch.equal(gradient, weights)


def test_codes_do_not_depend_on_the_batch(model):
    x = pictures(8)
    model.train()
    statistics = [m.running_mean.clone() for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    codes = model.encode_codes(x)
    assert model.training
    after = [m.running_mean for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(torch.equal(a, b) for a, b in zip(statistics, after, strict=True))
    alone = torch.cat([model.encode_codes(picture[None]) for picture in x])
    assert torch.equal(alone, codes)
    assert torch.equal(model.encode_codes(x.flip(0)).flip(0), codes)
    in_train_mode = model.quantize(model.encode(x)).codes  # where they do depend on it
    others = model.quantize(model.encode(x[:2])).codes
    assert not torch.equal(in_train_mode[:2], others)
    assert model.eval().encode_codes(x).shape == (8, 4, 4) and not model.training


def test_codes_decode_as_in_one_pass(model):
    model.eval()
    x = pictures()
    with torch.no_grad():
        torch.testing.assert_close(model.decode_codes(model.encode_codes(x)), model(x)[0])


def test_a_larger_decoder_keeps_codes_and_weights(model):
    model.eval()
    larger = enlarge(model)
    x = pictures()
    with torch.no_grad():
        assert torch.equal(larger.encode_codes(x), model.encode_codes(x))
        small = model(x)[0]
        enlarged = nn.functional.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
        torch.testing.assert_close(larger(x)[0], enlarged)
    for name, tensor in model.state_dict().items():
        assert torch.equal(larger.state_dict()[name], tensor)
    assert enlarge(larger)(x)[0].shape == (4, 3, 128, 128)
    larger(x)[0].square().mean().backward()
    assert larger.details[-1].weight.grad.abs().sum() > 0
    nn.init.normal_(larger.details[-1].weight)
    larger(x)[0].square().mean().backward()
    assert larger.enlarger[-1].layers[0].weight.grad.abs().sum() > 0


def test_save_and_reload(model, tmp_path):
    larger = enlarge(model.eval())
    again = load_model(VQVAE, save_model(tmp_path / "vqvae", larger))
    with torch.no_grad():
        assert torch.equal(again(pictures())[0], larger(pictures())[0])


def test_bad_input(model):
    with pytest.raises(BadParameter, match="at least 1"):
        VQVAE(channels=0)
    with pytest.raises(BadParameter, match="multiples of 8"):
        model.encode(pictures(side=36))

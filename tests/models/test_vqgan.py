import contextlib
import io

import pytest
import torch
from taming.modules.diffusionmodules.model import Decoder as TamingDecoder
from taming.modules.diffusionmodules.model import Encoder as TamingEncoder

from t2ilib.checkpoint import save_model
from t2ilib.errors import BadParameter, UnknownName
from t2ilib.models.vqgan import VQGAN, load_vqgan

TINY = dict(embed_dim=4, n_embed=32, z_channels=6, resolution=32, ch=8, ch_mult=(1, 2, 2), num_res_blocks=1,
            attn_resolutions=(8,), norm_groups=4)  # fmt: skip
CONFIGS = {
    "published layout, narrow": dict(ch=32, ch_mult=(1, 1, 2, 2, 4), num_res_blocks=2, attn_resolutions=(4,),
                                     resolution=64, z_channels=16),
    "no attention on levels": dict(ch=32, ch_mult=(1, 2, 4), num_res_blocks=1, attn_resolutions=(), resolution=64,
                                   z_channels=8),
    "gumbel f8 layout, narrow": dict(ch=32, ch_mult=(1, 1, 2, 4), num_res_blocks=2, attn_resolutions=(8, 16),
                                     resolution=64, z_channels=16),
    "latent diffusion f4 layout without attention, narrow": dict(
        ch=32, ch_mult=(1, 2, 4), num_res_blocks=1, attn_resolutions=(), resolution=64, z_channels=3,
        mid_attention=False),
    "average pooling": dict(ch=32, ch_mult=(2, 1), num_res_blocks=1, attn_resolutions=(32,), resolution=32,
                            z_channels=4, resamp_with_conv=False),
}  # fmt: skip


def tiny(**changes):
    torch.manual_seed(0)
    return VQGAN(**{**TINY, **changes})


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_encoder_and_decoder_equal_taming_in_values_and_gradients(name, layout):
    config = CONFIGS[name]
    torch.manual_seed(0)
    model = VQGAN(embed_dim=8, n_embed=16, **config)
    with torch.no_grad():
        for p in model.parameters():  # norms and biases away from ones and zeros
            p.add_(0.02 * torch.randn_like(p))
    with contextlib.redirect_stdout(io.StringIO()):
        sizes = {"in_channels": 3, "out_ch": 3, "double_z": False, **config}
        middle = sizes.pop("mid_attention", True)
        encoder, decoder = TamingEncoder(**sizes), TamingDecoder(**sizes)
    if not middle:  # what latent diffusion makes of attn_type: none
        encoder.mid.attn_1, decoder.mid.attn_1 = torch.nn.Identity(), torch.nn.Identity()
    encoder.load_state_dict(model.encoder.state_dict())
    decoder.load_state_dict(model.decoder.state_dict())
    # in float64, where rounding is no matter of the processor
    model, encoder, decoder = (network.double() for network in (model.to(memory_format=layout), encoder, decoder))
    x = torch.randn(2, 3, 32, 64, dtype=torch.float64)
    z = torch.randn(2, config["z_channels"], 4, 6, dtype=torch.float64)
    for ours, theirs, value in ((model.encoder, encoder, x), (model.decoder, decoder, z)):
        a, b = value.clone(memory_format=layout).requires_grad_(), value.clone().requires_grad_()
        found, expected = ours(a), theirs(b)
        assert (found - expected).abs().max() < 2e-5
        upstream = torch.randn_like(expected)
        (found * upstream).sum().backward()
        (expected * upstream).sum().backward()
        assert (a.grad - b.grad).norm() < 1e-4 * b.grad.norm()
        # a bias in front of a norm of one channel has no gradient but rounding: compare on the scale of all of them
        scale = max(q.grad.norm() for q in theirs.parameters())
        for (key, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            difference = (p.grad - q.grad).norm() / (q.grad.norm() + 0.01 * scale)
            assert difference < 1e-4, f"gradient of {key} differs by {difference:.1e}"


def test_published_configuration_has_exactly_the_published_keys():
    with torch.device("meta"):
        model = VQGAN(n_embed=16384)
    keys = set(model.state_dict())
    assert len(keys) == 343
    assert sum(k.startswith("encoder.") for k in keys) == 144 and sum(k.startswith("decoder.") for k in keys) == 194
    assert keys >= {
        "quantize.embedding.weight", "quant_conv.weight", "post_quant_conv.bias", "encoder.down.4.attn.1.q.weight",
        "decoder.up.4.attn.2.proj_out.bias", "decoder.up.3.block.0.nin_shortcut.weight",
    }  # fmt: skip
    with torch.device("meta"):
        gumbel = VQGAN(n_embed=8192, quantizer="gumbel", ch_mult=(1, 1, 2, 4), attn_resolutions=(32,))
    assert {k for k in gumbel.state_dict() if k.startswith("quantize.")} == {
        "quantize.proj.weight", "quantize.proj.bias", "quantize.embed.weight"
    }  # fmt: skip


@pytest.mark.parametrize("patch_size", [1, 2])
def test_shapes_ranges_and_agreement_of_the_methods(patch_size):
    model = tiny(patch_size=patch_size).eval()
    factor = 4 * patch_size
    assert model.factor == factor and model.codebook.shape == (32, 4)
    x = torch.rand(2, 3, 4 * factor, 2 * factor) * 2 - 1
    assert model.latent_shape(4 * factor, 2 * factor) == (4, 4, 2)
    z_e = model.encode(x)
    quantized = model.quantize(z_e)
    assert z_e.shape == quantized.z_q.shape == (2, 4, 4, 2)
    assert quantized.codes.shape == (2, 4, 2) and quantized.codes.dtype == torch.int64
    picture, again = model(x)
    assert picture.shape == x.shape
    torch.testing.assert_close(again.codes, quantized.codes)
    torch.testing.assert_close(model.encode_codes(x), quantized.codes)
    torch.testing.assert_close(model.decode(quantized.z_q), picture)
    torch.testing.assert_close(model.decode_codes(quantized.codes), picture)
    snapped, codes = model.snap(z_e)
    torch.testing.assert_close(snapped, quantized.z_q)
    torch.testing.assert_close(codes, quantized.codes)
    low, high = model.codebook.aminmax(dim=0)  # (4,)
    assert (quantized.z_q >= low[:, None, None]).all() and (quantized.z_q <= high[:, None, None]).all()


def test_snap_works_among_code_vectors_for_gumbel_too():
    model = tiny(quantizer="gumbel", embed_dim=6).eval()
    codes = torch.randint(32, (1, 3, 3))
    z_q, found = model.snap(model.embed_codes(codes) + 1e-4)
    torch.testing.assert_close(found, codes)
    x = torch.rand(1, 3, 8, 8) * 2 - 1
    torch.testing.assert_close(model.encode_codes(x), model.encode_codes(x))


def test_gradient_reaches_the_encoder_through_the_codes_and_a_step_lowers_the_loss():
    model = tiny()
    x = torch.rand(4, 3, 16, 16) * 2 - 1
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(8):
        picture, quantized = model(x)
        loss = (picture - x).abs().mean() + quantized.loss
        optimizer.zero_grad()
        loss.backward()
        assert model.encoder.conv_in.weight.grad.abs().sum() > 0
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert model.last_layer is model.decoder.conv_out.weight


def test_bf16_autocast_agrees_and_codes_are_found_in_float32():
    model = tiny().eval().to(memory_format=torch.channels_last)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        picture, quantized = model(x)
    assert quantized.commitment.dtype == torch.float32
    torch.testing.assert_close(picture.float(), model.decode_codes(quantized.codes), rtol=0.05, atol=0.05)


def test_explicit_attention_gives_the_same_picture_with_a_second_derivative():
    model = tiny().eval()
    z = torch.randn(1, 4, 2, 2, requires_grad=True)
    fused = model.decode(z)
    explicit = model.use_explicit_attention().decode(z)
    torch.testing.assert_close(fused, explicit, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(explicit.square().sum(), z, create_graph=True)
    assert torch.autograd.grad(gradient.square().sum(), z)[0].abs().sum() > 0


def test_save_and_load_give_equal_outputs(tmp_path):
    model = tiny(patch_size=2).eval()
    save_model(tmp_path / "mine", model)
    loaded = load_vqgan(tmp_path / "mine")
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(loaded(x)[0], model(x)[0], rtol=0, atol=0)
    torch.testing.assert_close(load_vqgan(tmp_path / "mine" / "model.safetensors")(x)[0], model(x)[0], rtol=0, atol=0)


def test_wrong_sizes_and_arguments_are_refused():
    model = tiny()
    with pytest.raises(BadParameter, match=r"multiple of the VQGAN's factor 4, got 18 x 16; use 16 x 16"):
        model.encode(torch.zeros(1, 3, 18, 16))
    with pytest.raises(BadParameter, match="double_z"):
        tiny(double_z=True)
    with pytest.raises(BadParameter, match="embed_dim = z_channels, got 4 and 6"):
        tiny(quantizer="gumbel")
    with pytest.raises(UnknownName, match="did you mean gumbel"):
        tiny(quantizer="gumble")
    with pytest.raises(BadParameter, match="multiple of norm_groups=32, got 8"):
        tiny(norm_groups=32)
    with pytest.raises(BadParameter, match=r"len\(ch_mult\)"):
        tiny(ch_mult=())

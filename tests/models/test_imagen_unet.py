import json

import pytest
import torch
from torch import nn

from t2ilib import diffusion
from t2ilib.checkpoint import load_model, load_state, save_model, save_state
from t2ilib.errors import BadParameter, UnknownName
from t2ilib.models.imagen_unet import ImagenUNet
from t2ilib.paths import checkpoints_dir

TINY = dict(dim=16, dim_mults=[1, 2], text_embed_dim=12, attn_heads=2, attn_dim_head=8)
# what the public package writes for a base stage and for a super-resolution stage
PACKAGE = dict(dim=128, dim_mults=[1, 2, 4], channels=3, channels_out=None, cond_dim=None, text_embed_dim=512,
               num_resnet_blocks=1, layer_attns=[False, True, True], layer_cross_attns=[False, True, True],
               attn_heads=8, lowres_cond=False, memory_efficient=False, attend_at_middle=False)


def awake(network):
    """Give every layer that starts at zero random weights, so that its part is seen."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.1)
    return network.eval()


def inputs(size=(8, 8), batch=3, tokens=5, seed=0, low=False):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 3, *size, generator=g)
    mask = torch.arange(tokens) < torch.tensor([tokens, 2, 1])[:batch, None]
    arguments = [x, torch.rand(batch, generator=g), torch.randn(batch, tokens, 12, generator=g), mask,
                 torch.randn(batch, 12, generator=g)]
    return arguments + ([torch.randn(x.shape, generator=g), torch.rand(batch, generator=g)] if low else [])


@pytest.mark.parametrize("efficient", [False, True])
@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (4, 16)])
def test_shapes(efficient, low, size):
    network = awake(ImagenUNet(**TINY, memory_efficient=efficient, lowres_cond=low, num_resnet_blocks=[1, 2],
                               attend_at_middle=True))
    y = network(*inputs(size, low=low))
    assert y.shape == (3, 3, *size) and y.std() > 0.01
    assert network.factor == (4 if efficient else 2)


def test_predicts_nothing_at_first():
    assert not ImagenUNet(**TINY)(*inputs()).any()


def test_a_residual_network_begins_with_the_smaller_picture():
    network = ImagenUNet(**TINY, lowres_cond=True, residual_std=0.1, schedule_shift=-1.4)
    schedule = diffusion.Schedule("cosine", -1.4)
    _, _, tokens, mask, pooled, _, _ = inputs(low=True)
    plain = torch.tensor([-0.5, 0.2, 0.9])[:, None, None, None].expand(3, 3, 8, 8)  # smoothing changes nothing
    eps = torch.randn(plain.shape, generator=torch.Generator().manual_seed(1))
    low = diffusion.q_sample(plain, torch.full((3,), 0.3), torch.zeros_like(plain))
    for t, tolerance in ((torch.full((3,), 0.999), 1e-4), (torch.full((3,), 1e-4), 1e-2)):
        x_t = diffusion.q_sample(plain, t, eps, schedule=schedule)
        v = network(x_t, t, tokens, mask, pooled, low, torch.full((3,), 0.3))
        x_0, _ = diffusion.to_x0_eps(x_t, t, v, schedule=schedule)
        torch.testing.assert_close(x_0, plain, atol=tolerance, rtol=0)
    half = torch.full((3,), 0.5)
    x_t = diffusion.q_sample(plain, half, eps, schedule=schedule)
    v = awake(network)(x_t, half, tokens, mask, pooled, low, torch.full((3,), 0.3))
    x_0, _ = diffusion.to_x0_eps(x_t, half, v, schedule=schedule)
    assert (x_0 - plain).abs().max() > 0.01  # what the network adds


@pytest.mark.parametrize("change", [dict(final_resnet_block=False), dict(init_kernels=[3]), dict(cond_dim=8),
                                    dict(layer_attns=[False, True], layer_cross_attns=False), dict(channels_out=6)])
def test_options_change_the_network(change):
    network = awake(ImagenUNet(**TINY, **change))
    assert network(*inputs()).shape[1] == change.get("channels_out", 3)
    count = [sum(p.numel() for p in n.parameters()) for n in (network, ImagenUNet(**TINY))]
    assert count[0] != count[1]


def test_every_parameter_learns():
    network = awake(ImagenUNet(**TINY, lowres_cond=True, attend_at_middle=True))
    arguments = inputs(low=True)
    arguments[2:5] = network.without_text(*arguments[2:5], torch.tensor([True, False, False]))
    network(*arguments).square().mean().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_text_counts_up_to_its_true_length():
    network, (x, t, tokens, mask, pooled) = awake(ImagenUNet(**TINY)), inputs()
    y = network(x, t, tokens, mask, pooled)
    padded = tokens.clone()
    padded[~mask] = 100.0
    torch.testing.assert_close(network(x, t, padded, mask, pooled), y)
    torch.testing.assert_close(network(x[1:2], t[1:2], tokens[1:2, :2], mask[1:2, :2], pooled[1:2]), y[1:2])
    changed = tokens.clone()
    changed[:, 0] += 1
    assert ((network(x, t, changed, mask, pooled) - y).abs().amax(dim=(1, 2, 3)) > 1e-3).all()


def test_without_text():
    network, (x, t, tokens, mask, pooled) = awake(ImagenUNet(**TINY)), inputs()
    drop = torch.tensor([True, False, True])
    arguments = network.without_text(tokens, mask, pooled, drop)
    y, kept = network(x, t, *arguments), network(x, t, tokens, mask, pooled)
    torch.testing.assert_close(y[1], kept[1])
    assert arguments[1].sum(1).tolist() == [1, 2, 1]
    other = network.without_text(tokens.flip(0), mask.flip(0), pooled.flip(0), drop)
    torch.testing.assert_close(network(x, t, *other)[0], y[0])  # nothing of the text is left
    assert (y[0] - kept[0]).abs().max() > 1e-3


def test_checkpointing_changes_no_gradient():
    plain, again = (awake(ImagenUNet(**TINY, attend_at_middle=True, checkpointing=c)) for c in (False, True))
    again.load_state_dict(plain.state_dict())
    for network in (plain, again):
        network(*inputs()).square().mean().backward()
    for a, b in zip(plain.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_configuration_of_the_public_package(tmp_path):
    file = tmp_path / "unet_0_params.json"
    file.write_text(json.dumps({**PACKAGE, "dim": 16, "attn_heads": 2}))
    network = ImagenUNet.from_json(file, text_embed_dim=12)
    assert network.config["dim_mults"] == [1, 2, 4] and network.config["text_embed_dim"] == 12
    assert network(*inputs()).shape == (3, 3, 8, 8)
    file.write_text(json.dumps({**PACKAGE, "attn_head": 8}))
    with pytest.raises(UnknownName, match="attn_heads"):
        ImagenUNet.from_json(file)
    file.write_text(json.dumps(PACKAGE))
    with pytest.raises(UnknownName, match="dim_mults"):
        ImagenUNet.from_json(file, dim_mult=[1])
    file.write_text("[1, 2]")
    with pytest.raises(BadParameter, match="object"):
        ImagenUNet.from_json(file)
    file.write_text("{dim: 3")
    with pytest.raises(BadParameter, match="no valid JSON"):
        ImagenUNet.from_json(file)


def test_size_of_the_originals_base():
    with torch.device("meta"):
        network = ImagenUNet(**PACKAGE)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(56.6e6, rel=0.01)


def test_saved_and_loaded(tmp_path):
    network = awake(ImagenUNet(**TINY, lowres_cond=True, num_resnet_blocks=(1, 2)))
    save_model(tmp_path, network)
    arguments = inputs(low=True)
    assert torch.equal(load_model(ImagenUNet, tmp_path)(*arguments), network(*arguments))


def test_a_checkpoint_with_the_older_names_loads(tmp_path):
    network = awake(ImagenUNet(**TINY, lowres_cond=True, memory_efficient=True, num_resnet_blocks=(1, 2)))
    older = {}
    for key, tensor in network.state_dict().items():
        older[key.replace("downsamples.", "enter.").replace("upsamples.", "leave.")] = tensor
    assert {"enter.0.conv.weight", "leave.1.conv.bias"} <= older.keys() and not older.keys() <= {*network.state_dict()}
    save_state(tmp_path, older, kind="ImagenUNet", kwargs=network.config)
    batch = inputs(low=True)
    assert torch.equal(load_model(ImagenUNet, tmp_path)(*batch), network(*batch))


@pytest.mark.parametrize("stage, has_older_names", [("base", True), ("sr64", False), ("sr128", False)])
def test_shipped_checkpoints_load_under_older_names_too(stage, has_older_names):
    folder = checkpoints_dir() / f"emoji-minimagen-{stage}"
    state, _ = load_state(folder)
    loaded = load_model(ImagenUNet, folder).state_dict()
    assert any(key.startswith("enter.") for key in state) == has_older_names and len(state) == len(loaded)
    for old, tensor in state.items():
        torch.testing.assert_close(loaded[ImagenUNet.current_key(old)], tensor, rtol=0, atol=0)


def test_bad_input():
    network, arguments = ImagenUNet(**TINY), inputs()
    with pytest.raises(BadParameter, match="multiples of 2"):
        network(*inputs(size=(8, 7)))
    with pytest.raises(BadParameter, match="lowres_cond=False"):
        network(*inputs(low=True))
    enlarge = ImagenUNet(**TINY, lowres_cond=True)
    with pytest.raises(BadParameter, match="lowres_cond=True"):
        enlarge(*arguments)
    with pytest.raises(BadParameter, match="enlarged"):
        enlarge(*arguments, arguments[0][..., :4, :4], arguments[1])
    for wrong, match in ((dict(dim=12), "multiples of 8"), (dict(layer_attns=[True]), "2 levels"),
                         (dict(dim_mults=[]), "dim_mults"), (dict(init_kernels=[4]), "odd"),
                         (dict(residual_std=0.1), "with lowres_cond"), (dict(residual_std=-0.1), "with lowres_cond")):
        with pytest.raises(BadParameter, match=match):
            ImagenUNet(**{**TINY, **wrong})

import pytest
import torch

from t2ilib.checkpoint import load_model, load_state, save_model
from t2ilib.diffusion import q_sample, stratified_times, training_target
from t2ilib.errors import BadParameter
from t2ilib.layers.unet_blocks import timestep_embedding
from t2ilib.models.latent_prior import LatentPrior
from t2ilib.paths import checkpoints_dir

TINY = dict(latent_channels=4, channels=16, channel_mults=(1, 2), attention=(False, True), num_res_blocks=1,
            text_dim=6, heads=2, dropout=0.0)


def tiny(*, blank=False, **changes):
    """A small prior; its zero-initialised layers are filled unless `blank`, so that every path has an effect."""
    torch.manual_seed(0)
    model = LatentPrior(**{**TINY, **changes})
    if not blank:
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.05 * torch.randn_like(p))
    return model.eval()


def inputs(batch=3, tokens=5, size=(8, 8), text_dim=6, channels=4):
    g = torch.Generator().manual_seed(1)
    mask = torch.arange(tokens) < torch.tensor([tokens, 3, 1] * batch)[:batch, None]
    return dict(x_t=torch.randn(batch, channels, *size, generator=g), t=torch.rand(batch, generator=g),
                tokens=torch.randn(batch, tokens, text_dim, generator=g), mask=mask,
                pooled=torch.randn(batch, text_dim, generator=g))


@pytest.mark.parametrize("size", [(8, 8), (4, 12), (6, 2), (7, 5), (1, 9)])
def test_shapes_of_any_size(size):
    arguments = inputs(size=size)
    v = tiny()(**arguments)
    assert v.shape == arguments["x_t"].shape and v.isfinite().all() and v.std() > 0


def test_three_levels_with_odd_sizes():
    model = tiny(channel_mults=(1, 2, 2), attention=(False, True, True))
    assert model(**inputs(size=(9, 14))).shape == (3, 4, 9, 14)


def test_it_begins_at_zero():
    assert not tiny(blank=True)(**inputs()).any()


def test_text_time_and_mask_have_their_effect():
    model, arguments = tiny(), inputs()
    v = model(**arguments)
    masked = {**arguments, "tokens": torch.where(arguments["mask"][..., None], arguments["tokens"], 9.0)}
    torch.testing.assert_close(model(**masked), v, rtol=0, atol=0)  # tokens behind the mask are not seen
    longer = {**arguments, "tokens": torch.nn.functional.pad(arguments["tokens"], (0, 0, 0, 4), value=5.0),
              "mask": torch.nn.functional.pad(arguments["mask"], (0, 4))}
    torch.testing.assert_close(model(**longer), v, rtol=1e-4, atol=1e-5)
    for name in ("t", "tokens", "pooled"):
        changed = model(**{**arguments, name: arguments[name] * 0.5 + 0.1})
        assert (changed - v).abs().amax((1, 2, 3)).min() > 1e-4, name
    for i in range(3):  # rows do not mix
        alone = model(**{k: x[i:i + 1] for k, x in arguments.items()})
        torch.testing.assert_close(alone, v[i:i + 1], rtol=1e-4, atol=1e-5)


def test_no_text_is_one_learned_token():
    model, arguments = tiny(), inputs()
    drop = torch.tensor([True, False, True])
    text = arguments["tokens"], arguments["mask"], arguments["pooled"]
    tokens, mask, pooled = model.without_text(*text, drop)
    for row in (0, 2):
        assert mask[row].tolist() == [True, False, False, False, False]
        torch.testing.assert_close(tokens[row, 0], model.null_token.detach())
        torch.testing.assert_close(pooled[row], model.null_pooled.detach())
    for found, own in zip((tokens, mask, pooled), text, strict=True):
        torch.testing.assert_close(found[1], own[1], rtol=0, atol=0)
    x_t, t = arguments["x_t"][:1].expand(3, -1, -1, -1), arguments["t"][:1].expand(3)
    v = model(x_t, t, tokens, mask, pooled)
    torch.testing.assert_close(v[0], v[2])  # without text, the text is forgotten
    assert (v[0] - v[1]).abs().max() > 1e-3
    v.square().mean().backward()
    assert model.null_token.grad.abs().sum() > 0 and model.null_pooled.grad.abs().sum() > 0


def test_normalise_round_trip():
    z = 3 * torch.randn(64, 4, 4, 4) + torch.arange(4.0).view(4, 1, 1)
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    model = tiny(latent_mean=mean.tolist(), latent_std=std.tolist())
    x = model.normalize(z)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(model.denormalize(x), z, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tiny().normalize(z), z, rtol=0, atol=0)


def test_training_lowers_the_loss():
    model, arguments = tiny(blank=True).train(), inputs(batch=6)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    t, eps = stratified_times(6, generator), torch.randn(arguments["x_t"].shape, generator=generator)
    x_0 = arguments.pop("x_t")
    arguments["t"] = t
    losses = []
    for _ in range(12):
        loss = (model(q_sample(x_0, t, eps), **arguments) - training_target(x_0, t, eps)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0] and losses[-1] < 0.9 * losses[0]
    assert all(p.grad is not None for n, p in model.named_parameters() if not n.startswith("null"))


def test_timestep_features():
    features = timestep_embedding(torch.tensor([0.0, 0.001, 1.0]), 8)
    assert features.shape == (3, 8)
    torch.testing.assert_close(features[0], torch.tensor([1.0] * 4 + [0.0] * 4))
    torch.testing.assert_close(features[1, 0], torch.tensor(1.0).cos())
    torch.testing.assert_close(features.square().sum(1), torch.full((3,), 4.0))


def test_save_and_load(tmp_path):
    model = tiny(latent_mean=[1.0, 2.0, 3.0, 4.0], latent_std=[0.5, 1.0, 1.5, 2.0])
    loaded = load_model(LatentPrior, save_model(tmp_path / "prior", model))
    assert loaded.config == model.config and loaded.config["channel_mults"] == [1, 2]
    arguments = inputs()
    torch.testing.assert_close(loaded(**arguments), model(**arguments), rtol=0, atol=0)
    torch.testing.assert_close(loaded.mean, model.mean, rtol=0, atol=0)


@pytest.mark.parametrize(("old", "new"), [
    ("down.0.0.norm1.weight", "down.0.stages.0.resnet.norm1.weight"),
    ("down.1.0.conv2.bias", "down.0.stages.1.resnet.conv2.bias"),
    ("down.2.0.weight", "down.0.downsample.conv.weight"),
    ("down.3.0.skip.bias", "down.1.stages.0.resnet.shortcut.bias"),
    ("down.4.1.qkv.weight", "down.1.stages.1.attention.qkv.weight"),
    ("up.2.0.skip.weight", "up.0.stages.2.resnet.shortcut.weight"),
    ("up.3.0.bias", "up.0.upsample.conv.bias"),
    ("up.4.0.condition.weight", "up.1.stages.0.resnet.condition.weight"),
    ("middle.1.qkv.weight", "middle.1.qkv.weight"),
    ("conv_in.weight", "conv_in.weight")])
def test_names_of_older_checkpoints(old, new):
    model = tiny(num_res_blocks=2)
    assert model.current_key(old) == new and new in model.state_dict()
    assert model.current_key(new) == new


def test_the_shipped_checkpoint_has_the_older_names_and_loads():
    folder = checkpoints_dir() / "emoji-prior"
    state, _ = load_state(folder)
    loaded = load_model(LatentPrior, folder)
    assert "down.1.0.weight" in state and "down.0.downsample.conv.weight" in loaded.state_dict()
    assert len(state) == len(loaded.state_dict())
    for old, tensor in state.items():
        torch.testing.assert_close(loaded.state_dict()[loaded.current_key(old)], tensor, rtol=0, atol=0)


def test_bf16_autocast_stays_close():
    model, arguments = tiny(), inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        v = model(**arguments).float()
    torch.testing.assert_close(v, model(**arguments), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("changes", [{"channels": 24}, {"heads": 3}, {"attention": (True,)}])
def test_widths_that_cannot_work_are_refused(changes):
    with pytest.raises(BadParameter, match="channels must be a multiple of 16"):
        tiny(**changes)

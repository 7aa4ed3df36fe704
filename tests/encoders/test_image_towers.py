"""Image towers in plain torch: equal to timm's networks of the same shape, in drawing and in training."""

import pytest
import torch

from t2ilib.encoders import EmojiClip
from t2ilib.encoders.image_towers import TOWERS
from t2ilib.encoders.open_clip_form import register_tower

SHAPES = {**{name: {"tower": name} for name in TOWERS},
          "group norm": {"tower": "resnet", "channels": [8, 16, 16, 24], "layers": [1, 2, 1, 1], "norm": "group"},
          "wide stem": {"tower": "convnext", "channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1], "stem": 4}}


def pair(shape, drop_path=0.0):
    """Return a tower with lively weights and timm's with the same ones."""
    from open_clip.timm_model import TimmModel

    torch.manual_seed(0)
    clip = EmojiClip(**shape, embed_dim=12, drop_path=drop_path)
    generator = torch.Generator().manual_seed(1)
    state = clip.visual.state_dict()
    for name, tensor in state.items():
        if name.endswith("gamma") or "bn" in name or "norm" in name:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    theirs = TimmModel(register_tower(clip.tower_spec), 12, image_size=64, pool="avg", proj="linear",
                       drop_path=drop_path)
    theirs.load_state_dict(state)
    return clip.visual, theirs


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_a_tower_equals_timms(name):
    ours, theirs = pair(SHAPES[name])
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    for tower in (ours, theirs):
        tower.eval()
    found = ours(x)
    expected = theirs(x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    gradient, = torch.autograd.grad(found.square().sum(), x)
    expected_gradient, = torch.autograd.grad(expected.square().sum(), x)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-5, rtol=1e-4)
    maps = ours.feature_maps(x)
    expected_maps = theirs.trunk.forward_intermediates(x, intermediates_only=True)
    torch.testing.assert_close(maps, expected_maps, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["resnet_fast", "group norm", "convnext"])
def test_a_training_step_equals_timms(name):
    ours, theirs = pair(SHAPES[name], drop_path=0.3)
    x = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    for tower in (ours, theirs):
        torch.manual_seed(5)  # of the blocks that are left out
        tower.train()(x).square().sum().backward()
    expected = dict(theirs.named_parameters())
    for key, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key].grad, atol=1e-4, rtol=1e-3, msg=key)
    buffers = dict(theirs.named_buffers())
    for key, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, buffers[key], msg=key)


@pytest.mark.parametrize("name", ["resnet", "convnext"])
def test_weights_start_as_timms_do(name):
    from open_clip.timm_model import TimmModel

    torch.manual_seed(0)
    clip = EmojiClip(tower=name, embed_dim=64)
    theirs = TimmModel(register_tower(clip.tower_spec), 64, image_size=64, pool="avg", proj="linear")
    expected = theirs.state_dict()
    for key, tensor in clip.visual.state_dict().items():
        if tensor.numel() > 1:
            ours = tensor.float()
            timms = expected[key].float()
            torch.testing.assert_close(ours.std(), timms.std(), rtol=0.25, atol=1e-9, msg=key)
            torch.testing.assert_close(ours.mean(), timms.mean(), rtol=0, atol=0.02, msg=key)

import pytest
import torch
import torch.nn.functional as F

from t2ilib.errors import BadParameter
from t2ilib.layers.conv_blocks import AttnBlock, Downsample, ResnetBlock, Upsample, use_explicit_attention
from t2ilib.layers.patch_critic import PatchCritic


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (7, 5), (8, 8)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_upsample_equals_repeating_pixels_and_convolving(height, width, layout):
    torch.manual_seed(0)
    block = Upsample(channels=6).to(memory_format=layout)
    x = torch.randn(2, 6, height, width).contiguous(memory_format=layout).requires_grad_()
    upstream = torch.randn(2, 6, 2 * height, 2 * width)
    parameters = (x, block.conv.weight, block.conv.bias)
    expected = block.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    found = block(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for a, b in zip(*(torch.autograd.grad(y, parameters, upstream) for y in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_resampling_without_convolution():
    x = torch.randn(1, 2, 4, 6)
    up, down = Upsample(channels=2, with_conv=False), Downsample(channels=2, with_conv=False)
    assert not list(up.parameters()) and not list(down.parameters())
    torch.testing.assert_close(down(up(x)), x)


def test_downsample_pads_right_and_bottom_only():
    block = Downsample(channels=1)
    torch.nn.init.zeros_(block.conv.weight)
    torch.nn.init.zeros_(block.conv.bias)
    with torch.no_grad():
        block.conv.weight[..., 0, 0] = 1  # picks the upper left pixel of each window
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    torch.testing.assert_close(block(x), x[..., ::2, ::2])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_fused_and_explicit_attention_agree_and_explicit_has_a_second_derivative(layout):
    torch.manual_seed(0)
    block = AttnBlock(channels=8, norm_groups=4).to(memory_format=layout)
    x = torch.randn(2, 8, 5, 3).contiguous(memory_format=layout).requires_grad_()
    upstream = torch.randn(2, 8, 5, 3)
    fused = block(x)
    fused_grad = torch.autograd.grad(fused, x, upstream)[0]
    use_explicit_attention(block)
    explicit = block(x)
    torch.testing.assert_close(fused, explicit, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fused_grad, torch.autograd.grad(explicit, x, upstream)[0], rtol=1e-4, atol=1e-5)
    block = block.double()

    def score(x):
        return block(x).square().sum()

    assert torch.autograd.gradgradcheck(score, torch.randn(1, 8, 2, 1, dtype=torch.float64, requires_grad=True))
    use_explicit_attention(block, False)
    assert not block.explicit


def test_resnet_block_has_a_shortcut_only_where_widths_differ():
    assert ResnetBlock(in_channels=8, out_channels=8, norm_groups=4).nin_shortcut is None
    block = ResnetBlock(in_channels=8, out_channels=4, norm_groups=4)
    assert block(torch.randn(1, 8, 3, 3)).shape == (1, 4, 3, 3)
    with pytest.raises(BadParameter, match="multiple of norm_groups=32, got 24"):
        ResnetBlock(in_channels=24, out_channels=32)


@pytest.mark.parametrize(("num_layers", "side"), [(1, 31), (2, 15), (3, 7)])
def test_patch_critic_scores_each_patch_and_sees_only_its_patch(num_layers, side):
    torch.manual_seed(0)
    critic = PatchCritic(ch=8, num_layers=num_layers, norm_groups=0)
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    scores = critic(x)
    assert scores.shape == (1, 1, side - 1, side - 1)
    (gradient,) = torch.autograd.grad(scores[0, 0, side // 2, side // 2], x)
    rows = gradient.abs().sum(dim=(0, 1, 3)).nonzero()
    assert rows.max() - rows.min() < {1: 16, 2: 34, 3: 70}[num_layers]


def test_patch_critic_treats_each_picture_by_itself():
    torch.manual_seed(0)
    critic, x = PatchCritic(ch=8, num_layers=2), torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(critic(x)[:1], critic(x[:1]))
    with pytest.raises(BadParameter, match="num_layers"):
        PatchCritic(num_layers=0)

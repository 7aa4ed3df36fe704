"""Filter banks: three forms of one convolution; attention by distance: two forms of one attention."""

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from t2ilib.errors import BadParameter, UnknownName
from t2ilib.layers.filter_bank import (
    CONVOLUTIONS,
    DistanceSelfAttention,
    FilterBankConv,
    choose_form,
    distance_attention,
    distance_attention_by_products,
    mixed_kernels,
)


def arguments(kernel=3, filters=4, dtype=torch.float64):
    torch.manual_seed(0)
    x = torch.randn(3, 5, 6, 7, dtype=dtype, requires_grad=True)
    bank = torch.randn(filters, 8, 5, kernel, kernel, dtype=dtype, requires_grad=True)
    selection = torch.randn(3, filters, dtype=dtype).softmax(1).requires_grad_()
    scale = (1 + torch.randn(3, 5, dtype=dtype)).requires_grad_()
    return x, bank, selection, scale


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("form", ["grouped", "shared"])
def test_forms_agree_with_the_definition_and_so_do_their_gradients(form, demodulate, kernel):
    inputs = arguments(kernel)
    expected = CONVOLUTIONS["one_by_one"](*inputs, demodulate=demodulate)
    found = CONVOLUTIONS[form](*inputs, demodulate=demodulate)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    weights = torch.randn_like(expected)
    of_expected = torch.autograd.grad((expected * weights).sum(), inputs)
    of_found = torch.autograd.grad((found * weights).sum(), inputs)
    for one, other in zip(of_found, of_expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_a_demodulated_kernel_has_length_one_and_one_filter_is_stylegan2s():
    x, bank, _, scale = arguments(filters=1)
    kernels = mixed_kernels(bank, torch.ones(3, 1, dtype=x.dtype), scale)
    lengths = kernels.flatten(2).norm(dim=2)  # (B, O)
    torch.testing.assert_close(lengths, torch.ones_like(lengths), atol=1e-6, rtol=0)


def test_each_picture_has_its_own_kernel():
    x, bank, _, _ = arguments(filters=2)
    x = x[:1].expand(2, -1, -1, -1)
    selection = torch.eye(2, dtype=x.dtype)
    y = CONVOLUTIONS["grouped"](x, bank, selection, torch.ones(2, 5, dtype=x.dtype), demodulate=False)
    for i in range(2):
        torch.testing.assert_close(y[i], F.conv2d(x[0], bank[i], padding=1))


def test_the_layer_in_bf16_is_near_to_float32_also_for_extreme_styles():
    torch.manual_seed(0)
    layer = FilterBankConv(in_channels=8, out_channels=8, style_dim=16)
    x = torch.randn(2, 8, 8, 8)
    style = 1e4 * torch.randn(2, 16)
    exact = layer(x, style)
    with torch.autocast("cpu", torch.bfloat16):
        rough = layer(x.bfloat16(), style)
    assert rough.isfinite().all()
    assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_bad_arguments_are_refused():
    with pytest.raises(BadParameter, match="odd kernel"):
        FilterBankConv(in_channels=1, out_channels=1, style_dim=1, kernel=2)
    with pytest.raises(UnknownName, match="grouped"):
        FilterBankConv(in_channels=1, out_channels=1, style_dim=1, form="groupd")
    with pytest.raises(BadParameter, match="multiple of heads"):
        DistanceSelfAttention(dim=6, heads=4)


def test_the_form_depends_on_the_size_only_on_a_gpu():
    assert choose_form(8 * 8, "cuda") == "grouped"
    assert choose_form(64 * 64, "cuda") == "shared"
    assert choose_form(64 * 64, "cpu") == "grouped"


def test_attention_by_distance_is_the_softmax_of_distances():
    torch.manual_seed(0)
    q, v = (torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    k = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    expected = distance_attention(q, k, v)
    found = distance_attention_by_products(q, k, v)
    torch.testing.assert_close(found, expected)
    of_expected = torch.autograd.grad(expected.square().sum(), (q, k, v))
    of_found = torch.autograd.grad(found.square().sum(), (q, k, v))
    for one, other in zip(of_found, of_expected, strict=True):
        torch.testing.assert_close(one, other)


def test_self_attention_begins_as_nothing_and_has_a_second_derivative():
    torch.manual_seed(0)
    layer = DistanceSelfAttention(dim=8, heads=2).double()
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.equal(layer(x), x)
    torch.nn.init.normal_(layer.out.weight)
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradgradcheck(lambda x: layer(x).sum(), (x,))


def test_attention_by_distance_keeps_long_keys_apart_in_half_precision():
    torch.manual_seed(0)
    direction = F.normalize(torch.randn(1, 1, 1, 24), dim=-1)
    lengths = torch.linspace(20.0, 21.0, 9)[:, None]  # |k|^2 from 400 to 441: bfloat16 has steps of 2 there
    k = (direction * lengths).bfloat16()
    q = (direction * 20.5).bfloat16()
    v = torch.eye(9)[:, :8].expand(1, 1, 9, 8)
    v = F.pad(v, (0, 16)).bfloat16()
    found = distance_attention_by_products(q, k, v)
    expected = distance_attention(q.double(), k.double(), v.double())
    torch.testing.assert_close(found.double(), expected, atol=0.01, rtol=0)

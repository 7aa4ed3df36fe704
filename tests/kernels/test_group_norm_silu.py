import sys

import pytest
import torch

from t2ilib.errors import BadParameter
from t2ilib.kernels import group_norm_silu

EPS = 1e-6


def plain(x, weight, bias, groups, eps=EPS):
    """The definition, in the dtype of x."""
    grouped = x.reshape(x.shape[0], groups, -1)
    mean = grouped.mean(dim=2, keepdim=True)
    variance = (grouped - mean).square().mean(dim=2, keepdim=True)
    y = ((grouped - mean) / (variance + eps).sqrt()).reshape(x.shape)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    y = y * weight.reshape(shape) + bias.reshape(shape)
    return y * torch.sigmoid(y)


def inputs(shape, layout="contiguous", dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) * 2 + 1
    if layout == "channels_last":  # of any number of dimensions
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "strided":
        x = x.repeat_interleave(2, dim=-1)[..., ::2]
    weight = torch.rand(shape[1], generator=generator) + 0.5
    bias = torch.randn(shape[1], generator=generator)
    return x.to(dtype).requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


CASES = [
    ((1, 4, 1, 1), 1), ((3, 6, 5), 3), ((2, 8), 2), ((2, 8, 7, 3), 8), ((5, 32, 9, 9), 32), ((3, 64, 33, 31), 32),
    ((2, 12, 3, 5, 7), 4),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "groups"), CASES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_values_and_every_gradient(shape, groups, layout):
    x, weight, bias = inputs(shape, layout)
    y = group_norm_silu(x, weight, bias, groups, EPS)
    exact = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    expected = plain(*exact, groups)
    torch.testing.assert_close(y, expected.float(), rtol=1e-4, atol=1e-5)
    upstream = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(y, (x, weight, bias), upstream)
    reference = torch.autograd.grad(expected, exact, upstream.double())
    for a, b in zip(found, reference, strict=True):
        torch.testing.assert_close(a, b.float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(9, 32, 8, 8), (2, 32, 64, 64), (2, 64, 40, 40)])
def test_channels_last_keeps_its_format_and_agrees_in_bf16(shape):
    x, weight, bias = inputs(shape, "channels_last", torch.bfloat16)
    y = group_norm_silu(x, weight, bias, 32, EPS)
    assert y.is_contiguous(memory_format=torch.channels_last) and y.dtype == torch.bfloat16
    upstream = torch.randn(shape).bfloat16()
    found = torch.autograd.grad(y, (x, weight, bias), upstream)
    exact = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    expected = plain(*exact, 32)
    reference = torch.autograd.grad(expected, exact, upstream.double())
    torch.testing.assert_close(y.double(), expected, rtol=2e-2, atol=2e-2)
    for a, b in zip(found, reference, strict=True):
        assert (a.double() - b).norm() / b.norm() < 1e-2


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_form_that_keeps_its_input_alone_agrees(layout, dtype):
    function = sys.modules["t2ilib.kernels.group_norm_silu"]._InputKept.apply  # what CUDA tensors take
    x, weight, bias = inputs((3, 32, 9, 7), layout, dtype)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = function(x, weight, bias, 8, EPS)
    assert y.dtype == dtype and y.stride() == x.stride()
    assert sum(t.nbytes for t in kept) < 1.2 * x.nbytes
    exact = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    found = [y, *torch.autograd.grad(y, (x, weight, bias), upstream, retain_graph=True)]
    expected = plain(*exact, 8)
    for a, b in zip(found, [expected, *torch.autograd.grad(expected, exact, upstream.double())], strict=True):
        assert (a.double() - b).norm() / b.norm() < (1e-5 if dtype == torch.float32 else 1e-2)
    (gradient,) = torch.autograd.grad(y.float().square().sum(), x, create_graph=True)
    assert torch.autograd.grad(gradient.float().square().sum(), x)[0].abs().sum() > 0


def test_large_mean_does_not_destroy_the_variance():
    for layout in ("contiguous", "channels_last"):
        x, weight, bias = inputs((2, 8, 6, 6), layout)
        shifted = x.detach() + 1000
        expected = plain(shifted.double(), weight.detach().double(), bias.detach().double(), 4).float()
        torch.testing.assert_close(group_norm_silu(shifted, weight, bias, 4, EPS), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("head", ["sum of squares", "parametrised"])
def test_double_backward_equals_the_definition(layout, head):
    results = []
    for function in (group_norm_silu, plain):
        x, weight, bias = inputs((3, 8, 5, 4), layout)
        v = torch.linspace(-1, 1, x.numel()).reshape(x.shape).requires_grad_()
        y = function(x, weight, bias, 4, EPS)
        score = y.square().sum() if head == "sum of squares" else (y * v).sum()
        (gradient,) = torch.autograd.grad(score, x, create_graph=True)
        penalty = (gradient.flatten(1).norm(dim=1) - 1).square().sum()
        results.append(torch.autograd.grad(penalty, (x, weight, bias, v), allow_unused=head != "parametrised"))
    for a, b in zip(*results, strict=True):
        if b is not None:
            assert b.abs().max() > 1e-3
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_gradcheck_in_float64():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *t: group_norm_silu(*t, 2, EPS), (x, weight, bias))
    assert torch.autograd.gradgradcheck(lambda *t: group_norm_silu(*t, 2, EPS), (x, weight, bias))


def test_only_the_gradients_asked_for_and_no_parameters():
    x, weight, bias = inputs((2, 8, 4, 4), "channels_last")
    y = group_norm_silu(x, weight.detach(), bias.detach(), 4, EPS)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    expected = torch.autograd.grad(plain(x, weight.detach(), bias.detach(), 4).sum(), x)[0]
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(group_norm_silu(x, None, None, 4), plain(x, torch.ones(8), torch.zeros(8), 4))


@pytest.mark.parametrize(
    ("x", "weight", "groups", "message"),
    [
        (torch.randn(2, 6, 3), None, 4, "multiple of groups"),
        (torch.randn(2, 6, 3), None, 0, "multiple of groups"),
        (torch.randn(2, 6, 3), torch.ones(5), 3, r"weight must be \(6,\)"),
        (torch.randn(6), None, 2, r"\(B, C"),
        (torch.ones(2, 6, dtype=torch.int64), None, 2, "floating-point"),
    ],
)
def test_bad_input_is_refused(x, weight, groups, message):
    with pytest.raises(BadParameter, match=message):
        group_norm_silu(x, weight, None, groups)

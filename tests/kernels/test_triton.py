"""Every Triton kernel against its reference: values, all gradients, second derivatives, in odd sizes and layouts.

On a CPU the kernels run in Triton's interpreter, which sees no races and no limits of shared memory: run this file on a
GPU as well, with TRITON_INTERPRET=0.
"""

import pytest
import torch

from t2ilib.errors import KernelUnavailable
from t2ilib.kernels import cutouts, group_norm_silu, nearest_code
from t2ilib.kernels._dispatch import HAS_TRITON, INTERPRETED

pytestmark = pytest.mark.skipif(not HAS_TRITON, reason="Triton has no wheel for this system")
DEVICE = "cpu" if INTERPRETED or not torch.cuda.is_available() else "cuda"
LAYOUTS = ("contiguous", "channels_last", "strided", "expanded")  # expanded: the gradient from above, as of a sum


def noise(*shape, seed=0, layout="contiguous", dtype=torch.float32):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        x = x.repeat_interleave(2, dim=-1)[..., ::2]
    elif layout == "expanded":
        x = x[..., :1].expand(shape)
    return x.to(DEVICE, dtype)


@pytest.mark.parametrize(("n", "k", "d"), [(0, 4, 3), (1, 1, 1), (3, 129, 5), (63, 7, 33), (129, 300, 64),
                                           (70, 65, 256)])
def test_nearest_code(n, k, d):
    z, codebook = noise(n, d), noise(k, d, seed=1)
    codes = nearest_code(z, codebook, backend="triton")
    assert codes.dtype == torch.int64 and codes.shape == (n,)
    exact = torch.cdist(z.double(), codebook.double(), compute_mode="donot_use_mm_for_euclid_dist")
    chosen = exact.gather(1, codes[:, None])[:, 0]
    torch.testing.assert_close(chosen, exact.amin(1), rtol=1e-5, atol=1e-6)
    assert (codes != exact.argmin(1)).sum() <= 1e-4 * n  # near ties in float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_nearest_code_of_any_layout_and_dtype(dtype):
    z, codebook = noise(2, 8, 5, 3, dtype=dtype).movedim(1, -1), noise(8, 50, seed=1).t()
    torch.testing.assert_close(nearest_code(z, codebook, backend="triton"), nearest_code(z, codebook, backend="torch"))


@pytest.mark.parametrize("k", [38, 2100])  # within a part of the codebook, and across parts
def test_nearest_code_takes_the_first_of_equal_rows_and_none_out_of_range(k):
    # Whole numbers around a mean of zero: every product and sum is exact, in whichever order a processor adds them.
    whole = (noise(k // 2, 8) * 100).round()
    half = torch.cat([whole, -whole])
    z = half[:40].clone()
    codes = nearest_code(z, torch.cat([half, half]), backend="triton")
    torch.testing.assert_close(codes, torch.arange(len(z), device=DEVICE))
    z[0] = float("nan")
    assert nearest_code(z, half, backend="triton")[0] == 0


def test_nearest_code_far_from_zero():
    z, codebook = noise(50, 4) + 1000, noise(30, 4, seed=1) + 1000
    torch.testing.assert_close(nearest_code(z, codebook, backend="triton"), nearest_code(z, codebook, backend="torch"))


CASES = [((1, 4, 1, 1), 1), ((3, 6, 5), 3), ((2, 8), 2), ((2, 8, 7, 3), 8), ((2, 32, 9, 9), 32), ((1, 160, 33, 3), 32),
         ((2, 12, 3, 5, 7), 4), ((1, 2, 63, 129), 1)]  # fmt: skip


def _norm_inputs(shape, layout, dtype):
    x = (noise(*shape, layout="contiguous" if layout == "expanded" else layout) * 2 + 1).to(dtype)
    weight, bias = noise(shape[1], seed=1) + 2, noise(shape[1], seed=2)
    return [t.detach().requires_grad_() for t in (x, weight, bias)]


@pytest.mark.parametrize(("shape", "groups", "layout"), [
    (*case, layout) for case in CASES for layout in LAYOUTS if len(case[0]) == 4 or layout != "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_group_norm_silu(shape, groups, layout, dtype):
    inputs = _norm_inputs(shape, layout, dtype)
    upstream = noise(*shape, seed=3, layout=layout).to(dtype)
    y = group_norm_silu(*inputs, groups, backend="triton")
    assert y.dtype == dtype and y.shape == inputs[0].shape
    assert y.is_contiguous(memory_format=torch.channels_last if layout == "channels_last" else torch.contiguous_format)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected = group_norm_silu(*exact, groups, backend="torch")
    found = [y, *torch.autograd.grad(y, inputs, upstream)]
    for a, b in zip(found, [expected, *torch.autograd.grad(expected, exact, upstream.double())], strict=True):
        assert a.dtype in (dtype, torch.float32)
        error = (a.double() - b).norm() / b.norm().clamp(min=1e-3)
        assert error < (1e-4 if dtype == torch.float32 else 1e-2), error


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("head", ["linear", "parametrised"])
def test_group_norm_silu_under_a_gradient_penalty(layout, head):
    results = []
    for backend in ("triton", "torch"):
        x, weight, bias = _norm_inputs((3, 8, 5, 4), layout, torch.float32)
        v = noise(*x.shape, seed=5).requires_grad_()
        y = group_norm_silu(x, weight, bias, 4, backend=backend)
        score = y.sum() if head == "linear" else (y * v).sum()
        (gradient,) = torch.autograd.grad(score, x, create_graph=True)
        penalty = (gradient.flatten(1).norm(dim=1) - 1).square().sum()
        results.append(torch.autograd.grad(penalty, (x, weight, bias, v), allow_unused=head == "linear"))
    for a, b in zip(*results, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            assert b.abs().max() > 1e-3
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # of the sigmoid, in the interpreter
def test_group_norm_silu_without_parameters_and_with_a_large_mean():
    x = noise(2, 8, 6, 6) + 1000
    expected = group_norm_silu(x.double(), None, None, 4, backend="torch").float()
    torch.testing.assert_close(group_norm_silu(x, None, None, 4, backend="triton"), expected, rtol=1e-3, atol=1e-3)


def windows(batch, n, seed=0, spread=0.4):
    moved = torch.randn(batch, n, 2, 3, generator=torch.Generator().manual_seed(seed))
    return torch.eye(2, 3) * 0.7 + spread * moved  # turned, sheared, partly outside


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize(("shape", "size", "spread", "antialias", "layout"), [
    ((2, 3, 13, 18), 4, 0.4, True, "strided"), ((1, 1, 3, 4), 6, 0.4, True, "channels_last"),
    ((1, 5, 17, 7), 4, 1.0, False, "contiguous"), ((1, 3, 8, 8), 8, 0.0, True, "expanded")])
def test_cutouts(padding, shape, size, spread, antialias, layout):
    images = noise(*shape, layout="contiguous" if layout == "expanded" else layout).requires_grad_()
    theta = windows(shape[0], 2, spread=spread)
    found, expected = (cutouts(images, theta, size, padding=padding, antialias=antialias, backend=backend)
                       for backend in ("triton", "torch"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    upstream = noise(*expected.shape, seed=3, layout="contiguous" if layout == "channels_last" else layout)
    a, b = (torch.autograd.grad(y, images, upstream)[0] for y in (found, expected))
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * b.abs().max().item())


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize(("shape", "size", "tilt", "antialias"), [
    ((2, 3, 13, 18), 4, 0.2, True), ((1, 1, 3, 4), 6, 0.1, True), ((1, 5, 9, 7), 5, 0.25, False)])
def test_cutouts_in_perspective(padding, shape, size, tilt, antialias):
    images = noise(*shape).requires_grad_()
    theta = torch.eye(3).repeat(shape[0], 3, 1, 1)
    theta[..., :2, :] = windows(shape[0], 3)
    theta[..., 2, :2] = tilt * torch.rand(shape[0], 3, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor(
        [1.0, -1.0])
    theta *= torch.tensor([1.0, -2.0, 0.5])[:, None, None]  # the same perspectives
    found, expected = (cutouts(images, theta, size, padding=padding, antialias=antialias, backend=backend)
                       for backend in ("triton", "torch"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    upstream = noise(*expected.shape, seed=3)
    a, b = (torch.autograd.grad(y, images, upstream)[0] for y in (found, expected))
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * b.abs().max().item())


def test_cutouts_that_see_the_horizon():
    """Its points lie infinitely far away: outside of the picture, and a drawn-out edge would never end."""
    images = noise(1, 2, 7, 6).requires_grad_()
    theta = torch.tensor([[[0.3, 0, 0], [0, 0.3, 0], [1.7, 0.3, 0.6]], [[0.5, 0, 0.1], [0, 0.5, 0], [0.2, 1.3, -0.9]]])
    found, expected = (cutouts(images, theta, 8, backend=backend) for backend in ("triton", "torch"))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    upstream = noise(*expected.shape, seed=3)
    a, b = (torch.autograd.grad(y, images, upstream)[0] for y in (found, expected))
    assert b.abs().max() > 0.1
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * b.abs().max().item())
    with pytest.raises(KernelUnavailable, match="horizon"):
        cutouts(images, theta, 8, padding="border", backend="triton")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cutouts_of_half_precision(dtype):
    images, theta = noise(2, 3, 12, 9).to(dtype).requires_grad_(), windows(2, 4)
    found, expected = (cutouts(images, theta, 6, backend=backend) for backend in ("triton", "torch"))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected.float(), rtol=2e-2, atol=2e-2)
    a, b = (torch.autograd.grad(y.float().square().sum(), images)[0].float() for y in (found, expected))
    assert (a - b).norm() < 2e-2 * b.norm()


def test_cutouts_that_lie_on_a_line_or_a_point():
    images = noise(1, 2, 6, 6).requires_grad_()
    theta = torch.tensor([[[0.0, 0, 0.1], [0, 0, -0.2]], [[1.0, 1, 0], [1, 1, 0]]])
    a, b = (cutouts(images, theta, 5, antialias=False, backend=backend) for backend in ("triton", "torch"))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    upstream = noise(*a.shape, seed=3)
    torch.testing.assert_close(*(torch.autograd.grad(y, images, upstream)[0] for y in (a, b)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_cutouts_under_a_gradient_penalty_and_with_gradients_of_the_windows(padding):
    results = []
    for backend in ("triton", "torch"):
        images, theta = noise(1, 2, 7, 6).requires_grad_(), windows(1, 3).requires_grad_()
        y = cutouts(images, theta, 4, padding=padding, backend=backend)
        first = torch.autograd.grad(y.square().sum(), (images, theta), retain_graph=True)
        (gradient,) = torch.autograd.grad(y.square().sum(), images, create_graph=True)
        results.append([*first, *torch.autograd.grad((gradient.norm() - 1).square(), (images, theta))])
    for a, b in zip(*results, strict=True):
        assert b.abs().max() > 1e-2
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from t2ilib.errors import BadParameter, KernelUnavailable, UnknownName
from t2ilib.kernels import _cutouts_torch, cutouts
from t2ilib.kernels.cutouts import PADDINGS, centre_jacobian, warp_reference


def window(scale, x=0.0, y=0.0, angle=0.0):
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    return torch.tensor([[c, -s, x], [s, c, y]])


def random_theta(*leading, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.eye(2, 3) * 0.6 + 0.4 * torch.randn(*leading, 2, 3, generator=generator)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("height", "width", "size"), [(8, 8, 5), (7, 13, 4), (1, 3, 6), (16, 9, 1)])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_without_antialiasing_it_equals_one_grid_sample_for_each_cutout(padding, height, width, size, layout):
    torch.manual_seed(0)
    images = torch.rand(2, 3, height, width)
    if layout == "channels_last":
        images = images.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        images = images.repeat_interleave(2, dim=2)[:, :, ::2]
    theta = random_theta(2, 5)
    found = cutouts(images, theta, size, padding=padding, antialias=False)
    assert found.shape == (2, 5, 3, size, size)
    for b in range(2):
        for i in range(5):
            grid = F.affine_grid(theta[b, i : i + 1], (1, 3, size, size), align_corners=False)
            expected = F.grid_sample(images[b : b + 1], grid, padding_mode=padding, align_corners=False)
            torch.testing.assert_close(found[b, i], expected[0])


@pytest.mark.parametrize("padding", PADDINGS)
def test_reference_warp_equals_grid_sample_far_outside_too(padding):
    torch.manual_seed(0)
    images = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    grid = torch.rand(2, 40, 6, 2, dtype=torch.float64) * 10 - 5
    expected = F.grid_sample(images, grid, padding_mode=padding, align_corners=False)
    torch.testing.assert_close(warp_reference(images, grid, padding), expected)


def test_identity_at_the_same_size_returns_the_picture():
    images = torch.rand(2, 3, 9, 9)
    torch.testing.assert_close(cutouts(images, torch.eye(2, 3)[None], 9)[:, 0], images)


def test_shrinking_by_two_averages_blocks_and_loses_no_pixel():
    images = torch.rand(1, 3, 16, 16, requires_grad=True)
    theta = torch.eye(2, 3)[None]
    small = cutouts(images, theta, 8, padding="border")
    torch.testing.assert_close(small[:, 0], F.avg_pool2d(images, 2))
    for size, side in ((4, 16), (5, 16), (7, 33)):
        images = torch.rand(1, 1, side, side, requires_grad=True)
        cutouts(images, theta, size, padding="border").sum().backward()
        assert images.grad.min() > 0  # with plain bilinear sampling most pixels would get none
        assert images.grad.sum() == pytest.approx(size * size, rel=1e-5)


def test_antialiasing_removes_false_texture():
    stripes = torch.arange(64).remainder(2).float().expand(1, 1, 64, 64)
    theta = window(1.0, x=1 / 64)[None]  # every sample falls on a stripe of the same colour
    torch.testing.assert_close(cutouts(stripes, theta, 16, padding="border"), torch.full((1, 1, 1, 16, 16), 0.5))
    plain = cutouts(stripes, theta, 16, padding="border", antialias=False)
    assert (plain - 0.5).abs().max() > 0.4


def test_enlarging_does_not_blur():
    images, theta = torch.rand(1, 3, 16, 16), window(0.3)[None]
    torch.testing.assert_close(cutouts(images, theta, 16), cutouts(images, theta, 16, antialias=False))


def test_cutouts_of_different_depth_in_one_call_equal_separate_calls():
    images = torch.rand(2, 3, 48, 40)
    theta = torch.stack([window(0.2, 0.3), window(0.6, -0.2, 0.1), window(1.0, angle=0.4), window(2.5)])
    together = cutouts(images, theta, 8, padding="reflection")
    for i in range(4):
        torch.testing.assert_close(together[:, i : i + 1], cutouts(images, theta[i : i + 1], 8, padding="reflection"))


def test_half_precision_pictures_and_shared_cutouts():
    images = torch.rand(3, 3, 12, 12)
    theta = random_theta(4)
    expected = cutouts(images, theta, 6)
    torch.testing.assert_close(expected, cutouts(images, theta.expand(3, 4, 2, 3), 6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = cutouts(images.bfloat16(), theta, 6)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("antialias", [False, True])
def test_gradients_of_pictures_and_matrices(padding, antialias):
    torch.manual_seed(0)
    images = torch.rand(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    theta = random_theta(1, 2).double().requires_grad_()

    def call(a, t):
        return cutouts(a, t, 3, padding=padding, antialias=antialias)

    assert torch.autograd.gradcheck(lambda a: call(a, theta.detach()), images)
    if not antialias:  # the mip level is chosen without gradient, which a numeric derivative would see
        assert torch.autograd.gradcheck(call, (images, theta))


def views(*leading, seed=0, tilt=0.2):
    """Random windows, seen askance: (*leading, 3, 3), of any scale, since a matrix is one of a perspective up to it."""
    generator = torch.Generator().manual_seed(seed)
    row = torch.cat([tilt * torch.randn(*leading, 1, 2, generator=generator), torch.ones(*leading, 1, 1)], -1)
    scale = 1 + torch.rand(*leading, 1, 1, generator=generator)
    return scale * torch.cat([random_theta(*leading, seed=seed), row], -2)


def places(theta, size):
    """Where output pixels lie, one matrix and one pixel at a time."""
    found = torch.empty(*theta.shape[:2], size, size, 2, dtype=theta.dtype)
    for b, i, row, column in itertools.product(*(range(k) for k in found.shape[:4])):
        point = torch.tensor([(2 * column + 1) / size - 1, (2 * row + 1) / size - 1, 1], dtype=theta.dtype)
        x, y, w = theta[b, i] @ point
        found[b, i, row, column] = torch.stack([x / w, y / w])
    return found


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("batch", "n"), [(2, 5), (1, 4)])
def test_a_perspective_equals_one_grid_sample_at_its_places(padding, batch, n):
    images, theta = torch.rand(batch, 3, 9, 12), views(batch, n)
    found = cutouts(images, theta, 5, padding=padding, antialias=False)
    for b, i in itertools.product(range(batch), range(n)):
        grid = places(theta[b:b + 1, i:i + 1], 5)[0]
        expected = F.grid_sample(images[b:b + 1], grid, padding_mode=padding, align_corners=False)
        torch.testing.assert_close(found[b, i], expected[0], rtol=1e-4, atol=1e-5)


def test_a_third_row_of_a_window_changes_nothing():
    images, theta = torch.rand(2, 3, 20, 16), random_theta(2, 4)
    row = torch.tensor([0.0, 0, 1]).expand(2, 4, 1, 3)
    assert torch.equal(cutouts(images, theta, 6), cutouts(images, torch.cat([theta, row], 2), 6))
    torch.testing.assert_close(cutouts(images, theta, 6), cutouts(images, 3 * torch.cat([theta, row], 2), 6))


@pytest.mark.parametrize("batch", [1, 2])
def test_cutouts_at_given_positions(batch):
    """They go where they are told, and theta decides the filter alone."""
    images, theta = torch.rand(batch, 3, 40, 30, requires_grad=True), 1.5 * views(batch, 4)
    expected = cutouts(images, theta, 6, padding="border")
    found = cutouts(images, theta, 6, padding="border", positions=places(theta, 6))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    a, b = (torch.autograd.grad(y.square().sum(), images)[0] for y in (found, expected))
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    elsewhere = torch.rand(batch, 4, 6, 6, 2) - 0.5
    sharp = cutouts(images, torch.eye(2, 3).repeat(4, 1, 1) / 100, 6, positions=elsewhere)
    for b in range(batch):
        seen = F.grid_sample(images[b:b + 1], elsewhere[b].flatten(0, 1)[None], align_corners=False)
        torch.testing.assert_close(sharp[b].transpose(0, 1).flatten(1), seen[0].flatten(1))
    with pytest.raises(BadParameter, match=r"positions must be \(\d, 4, 6, 6, 2\), got \(1, 4, 5"):
        cutouts(images, theta, 6, positions=torch.rand(1, 4, 5, 6, 2))
    with pytest.raises(KernelUnavailable, match="no Triton kernel"):
        cutouts(images, theta, 6, positions=elsewhere, backend="triton")


def test_some_cutouts_of_a_perspective_are_those_of_all(monkeypatch):
    images, theta = torch.rand(2, 3, 33, 20), views(2, 7)
    theta[:, 3, 2] = torch.tensor([0.0, 0, 1])  # one of them straight
    whole = cutouts(images, theta, 8)
    assert torch.equal(whole[:, 2:4], cutouts(images, theta[:, 2:4], 8))
    monkeypatch.setattr(_cutouts_torch, "_CHUNK_VALUES", 1)  # one at a time
    assert torch.equal(whole, cutouts(images, theta, 8))


def test_the_filter_of_a_perspective_is_that_of_its_centre():
    theta = views(1, 6, tilt=0.3).double()
    tiny = 1e-4
    ahead = theta @ torch.tensor([[tiny, 0, -tiny, 0], [0, tiny, 0, -tiny], [1, 1, 1, 1]]).double()
    ahead = ahead[..., :2, :] / ahead[..., 2:, :]  # (1, 6, 2, 4)
    found = centre_jacobian(theta, (20, 50), 8)
    # an output pixel is 2 / 8 wide, the picture 2 wide in its coordinates
    expected = (ahead[..., :2] - ahead[..., 2:]) / (2 * tiny) * (2 / 8) / torch.tensor([[2 / 50], [2 / 20]])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("padding", PADDINGS)
def test_gradients_of_a_perspective(padding):
    images = torch.rand(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    theta, elsewhere = views(1, 2).double().requires_grad_(), torch.rand(1, 2, 3, 3, 2).double().requires_grad_()

    def call(images, theta, **how):
        return cutouts(images, theta, 3, padding=padding, antialias=False, **how)

    assert torch.autograd.gradcheck(lambda a: cutouts(a, 2 * theta.detach(), 3, padding=padding), images)
    assert torch.autograd.gradcheck(call, (images, theta))
    assert torch.autograd.gradcheck(lambda a, p: call(a, theta.detach(), positions=p), (images, elsewhere))
    assert torch.autograd.gradgradcheck(call, (images, theta))


@pytest.mark.parametrize("head", ["sum of squares", "parametrised"])
def test_double_backward(head):
    torch.manual_seed(0)
    images = torch.rand(1, 2, 6, 5, dtype=torch.float64, requires_grad=True)
    theta = random_theta(1, 3).double().requires_grad_()
    v = torch.randn(1, 3, 2, 4, 4, dtype=torch.float64, requires_grad=True)

    def penalty(images, theta, v):
        y = cutouts(images, theta, 4, antialias=False)
        score = y.square().sum() if head == "sum of squares" else (y * v).sum()
        return torch.autograd.grad(score, (images, theta), create_graph=True)

    assert torch.autograd.gradcheck(penalty, (images, theta, v))


@pytest.mark.parametrize(
    ("images", "theta", "size", "message"),
    [
        (torch.rand(3, 8, 8), torch.eye(2, 3)[None], 4, r"images must be a non-empty \(B, C, H, W\)"),
        (torch.rand(2, 3, 8, 8), torch.eye(2, 3).expand(3, 1, 2, 3), 4, r"theta must be \(2, n, 2, 3\)"),
        (torch.rand(2, 3, 8, 8), torch.eye(4, 3)[None], 4, "theta must be"),
        (torch.rand(2, 3, 8, 8), torch.eye(2, 3)[None], 0, "size must be at least 1"),
    ],
)
def test_bad_input_is_refused(images, theta, size, message):
    with pytest.raises(BadParameter, match=message):
        cutouts(images, theta, size)


def test_misspelt_padding():
    with pytest.raises(UnknownName, match="reflection"):
        cutouts(torch.rand(1, 3, 4, 4), torch.eye(2, 3)[None], 4, padding="reflect")

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from t2ilib.errors import BadParameter
from t2ilib.metrics import (
    encode_pictures,
    frechet_distance,
    gaussian_frechet,
    kid,
    mean_kernel,
    mmd2,
    mmd2_without_each,
    nearest_distances,
    nearest_neighbour,
    precision_recall,
    psnr,
    ssim,
)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_psnr_equals_its_closed_form():
    x = rand(3, 3, 8, 8) * 0.5
    y = torch.stack([x[0] + 0.1, x[1], x[2] + 0.5])
    assert_close(psnr(y, x), torch.tensor([20.0, math.inf, -20 * math.log10(0.5)]).double(), rtol=1e-5, atol=0)
    with pytest.raises(BadParameter, match="two equal shapes"):
        psnr(x, x[:2])


def ssim_by_hand(x, y):
    """Wang et al. 2004, one window after another; the mean over all positions and channels."""
    axis = np.arange(11) - 5
    window = np.exp(-axis**2 / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    values = []
    for a, b in zip(x, y, strict=True):
        height, width = a.shape
        for i in range(height - 10):
            for j in range(width - 10):
                p, q = a[i:i + 11, j:j + 11], b[i:i + 11, j:j + 11]
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * p * p).sum() - mp**2, (window * q * q).sum() - mq**2
                c = (window * p * q).sum() - mp * mq
                values.append((2 * mp * mq + 1e-4) * (2 * c + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return np.mean(values)


def test_ssim_equals_the_definition():
    x = rand(2, 3, 14, 16)
    y = (x + 0.2 * randn(2, 3, 14, 16)).clamp(0, 1)
    expected = [ssim_by_hand(a.double().numpy(), b.double().numpy()) for a, b in zip(x, y, strict=True)]
    assert_close(ssim(y, x), torch.tensor(expected), rtol=1e-9, atol=1e-9)
    assert_close(ssim(x, x), torch.ones(2).double())
    assert ssim(x[:1], y[:1]).shape == (1,)
    with pytest.raises(BadParameter, match="11 x 11"):
        ssim(x[..., :10], y[..., :10])


def mmd2_by_hand(x, y):
    def k(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    m, n = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    yy = sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (m * n)


def test_pictures_are_encoded_in_batches_without_gradients():
    class Means:
        batches = []

        def encode_image(self, x):
            self.batches.append(len(x))
            return x.mean((2, 3)).half()

    x = rand(5, 3, 4, 4).requires_grad_()
    found = encode_pictures(Means(), x, batch_size=2)
    assert Means.batches == [2, 2, 1] and found.dtype == torch.float32 and not found.requires_grad
    assert_close(found, x.detach().mean((2, 3)), atol=1e-3, rtol=0)


def test_mmd2_equals_the_sums_over_pairs():
    x, y = randn(7, 5).double(), randn(9, 5, seed=1).double() + 0.3
    assert mmd2(x, y).item() == pytest.approx(mmd2_by_hand(x, y), rel=1e-12)
    assert torch.equal(mmd2(x, y, within_y=mean_kernel(y)), mmd2(x, y))
    with pytest.raises(BadParameter, match="at least 2"):
        mmd2(x[:1], y)


def precision_by_hand(real, fake, k):
    """The share of fakes that lie within some real one's distance to its k-th neighbour, pair by pair."""
    inside = 0
    for x in fake:
        for i, centre in enumerate(real):
            radius = sorted(float((centre - other).norm()) for j, other in enumerate(real) if j != i)[k - 1]
            if float((x - centre).norm()) <= radius:
                inside += 1
                break
    return inside / len(fake)


def test_precision_and_recall_equal_the_definition():
    real, fake = randn(60, 3), 1.5 * randn(45, 3, seed=1) + 0.5
    for k in (1, 5):
        precise, recalled = precision_recall(real, fake, k=k)
        assert precise.shape == (45,) and recalled.shape == (60,)
        assert 0 < precise.mean() < 1 and precise.mean().item() == pytest.approx(precision_by_hand(real, fake, k))
        assert recalled.mean().item() == pytest.approx(precision_by_hand(fake, real, k))
        kept = precision_recall(real, fake, k=k, real_radii=nearest_distances(real, k=k))
        assert torch.equal(kept[0], precise) and torch.equal(kept[1], recalled)
    precise, recalled = precision_recall(real, real[:20])
    assert precise.all() and recalled[:20].all()  # copies
    assert not precision_recall(real, fake + 100)[0].any()
    with pytest.raises(BadParameter, match="more than k = 5"):
        precision_recall(real, fake[:5])
    with pytest.raises(BadParameter, match="features"):
        precision_recall(real, fake[:, :2])


def test_mmd2_without_each_group_is_mmd2_of_what_is_left():
    x, y = randn(7, 4, seed=0), randn(9, 4, seed=1)
    group = torch.tensor([0, 1, 2, 0, 1, 2, 2])
    found = mmd2_without_each(x, y, group=group, groups=3, within_y=mean_kernel(y))
    expected = torch.stack([mmd2(x[group != number], y) for number in range(3)])
    torch.testing.assert_close(found, expected)
    assert mmd2_without_each(x, y, group=torch.zeros(7), groups=1, within_y=mean_kernel(y)).isnan().all()


def test_mmd2_is_unbiased_zero_for_equal_distributions():
    values = torch.stack([mmd2(randn(20, 4, seed=2 * s), randn(20, 4, seed=2 * s + 1)) for s in range(400)])
    assert abs(values.mean()) < 3 * values.std() / 20
    assert (values < 0).any()


def test_kid_separates_and_reports_its_spread():
    real, same, other = randn(300, 8), randn(300, 8, seed=1), randn(300, 8, seed=2) + 0.5
    mean, spread = kid(real, same, subsets=30, subset_size=80)
    assert abs(mean) < 0.05 and spread > 0
    assert kid(real, other, subsets=30, subset_size=80)[0] > 0.3
    full, none = kid(real, other, subsets=3)  # every subset is the whole set
    assert full == pytest.approx(mmd2(real, other).item()) and none == pytest.approx(0, abs=1e-12)
    assert kid(real, other, subsets=5, subset_size=50, seed=1) == kid(real, other, subsets=5, subset_size=50, seed=1)
    with pytest.raises(BadParameter, match="features"):
        kid(real, other[:, :4])
    with pytest.raises(BadParameter, match="subset_size"):
        kid(real, other, subset_size=1)


def test_kid_agrees_with_torchmetrics_kernel():
    from torchmetrics.image.kid import poly_mmd

    x, y = randn(30, 6), randn(30, 6, seed=1) + 0.2
    assert mmd2(x, y).item() == pytest.approx(poly_mmd(x, y, degree=3, gamma=None, coef=1.0).item(), rel=1e-4)


def test_nearest_neighbour_finds_the_copy():
    bank = randn(50, 6)
    query = torch.cat([bank[[7, 30]] * 2, randn(5, 6, seed=1)])
    similarity, index = nearest_neighbour(query, bank, chunk=3)
    assert index[:2].tolist() == [7, 30]
    assert_close(similarity[:2], torch.ones(2))
    cosines = torch.nn.functional.cosine_similarity(query[:, None], bank[None], dim=-1)
    assert_close(similarity, cosines.max(1).values)
    assert torch.equal(index, cosines.argmax(1))
    with pytest.raises(BadParameter, match="bank"):
        nearest_neighbour(query, bank[:0])


def test_many_pictures_are_worked_on_in_parts_with_the_same_result():
    reference = torch.rand(70, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images = (reference * 0.9).clamp(0, 1)
    for measure in (psnr, ssim):
        one_by_one = torch.cat([measure(a[None], b[None]) for a, b in zip(images, reference, strict=True)])
        torch.testing.assert_close(measure(images, reference), one_by_one, rtol=1e-12, atol=0)


def test_frechet_distance_of_gaussians_equals_the_closed_forms():
    zero, one = torch.zeros(3).double(), torch.ones(3).double()
    a, b = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 4.0, 0.0]).double()
    # covariances that commute: the squared difference of the deviations, also where one is singular
    expected = 3 + (1 - 2) ** 2 + 0 + (3 - 0) ** 2
    assert gaussian_frechet(zero, a.diag(), one, b.diag()) == pytest.approx(expected, rel=1e-12)
    turn, _ = torch.linalg.qr(randn(3, 3).double())
    turned = [turn @ c.diag() @ turn.T for c in (a, b)]
    assert gaussian_frechet(zero, turned[0], turn @ one, turned[1]) == pytest.approx(expected, rel=1e-9)
    assert gaussian_frechet(zero, turned[0], zero, turned[0]) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_equals_the_matrix_root():
    from scipy.linalg import sqrtm

    real, fake = randn(60, 7), randn(40, 7, seed=1) @ randn(7, 7, seed=2) + 0.5
    x, y = real.double().numpy(), fake.double().numpy()
    cx, cy = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cx + cy - 2 * sqrtm(cx @ cy).real)
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(fake, real) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(real[:4], fake[:3]) > 0  # fewer than dimensions: singular, and finite
    assert frechet_distance(real[:, :1], fake[:, :1]) == pytest.approx(
        (x[:, 0].mean() - y[:, 0].mean()) ** 2 + (x[:, 0].std(ddof=1) - y[:, 0].std(ddof=1)) ** 2)
    with pytest.raises(BadParameter, match="at least 2"):
        frechet_distance(real, fake[:1])
    with pytest.raises(BadParameter, match="features"):
        frechet_distance(real, fake[:, :4])

import math

import pytest
import torch

from t2ilib.errors import BadParameter
from t2ilib.metrics import (
    class_histogram,
    duplicate_rate,
    entropy,
    kl_to_data,
    modes_covered,
    nearest_distances,
    stacked_modes,
)


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_histogram_counts_and_refuses_what_is_no_class():
    assert class_histogram(torch.tensor([0, 2, 2, 3]), 5).tolist() == [1, 0, 2, 1, 0]
    for labels in ([5], [-1], []):
        with pytest.raises(BadParameter, match=r"0\.\.4, got"):
            class_histogram(torch.tensor(labels, dtype=torch.int64), 5)


def test_entropy_and_divergence_equal_the_formulas():
    counts, data = torch.tensor([6, 3, 1, 0]), torch.tensor([1, 1, 1, 1])
    p = [0.6, 0.3, 0.1]
    assert entropy(counts) == pytest.approx(-sum(v * math.log(v) for v in p))
    assert kl_to_data(counts, data) == pytest.approx(sum(v * math.log(4 * v) for v in p))
    assert kl_to_data(counts, data) == pytest.approx(math.log(4) - entropy(counts))
    assert entropy(data) == pytest.approx(math.log(4)) and kl_to_data(2 * counts, counts) == pytest.approx(0, abs=1e-12)
    assert kl_to_data(data, counts) == math.inf  # draws what the data does not hold
    assert entropy(torch.tensor([0, 7, 0])) == 0
    with pytest.raises(BadParameter, match="same classes"):
        kl_to_data(counts, data[:3])
    with pytest.raises(BadParameter, match="not all zero"):
        entropy(torch.zeros(3))


def test_modes_are_counted_from_a_share_on():
    counts = torch.tensor([980, 10, 9, 1, 0])
    assert [modes_covered(counts, share=share) for share in (0.0, 0.01, 1.0)] == [4, 2, 0]


def test_nearest_distances_equal_brute_force():
    x = rand(30, 2, 3)
    flat = x.flatten(1).tolist()
    expected = [min(math.dist(a, b) for j, b in enumerate(flat) if i != j) for i, a in enumerate(flat)]
    for chunk in (7, 100):
        torch.testing.assert_close(nearest_distances(x, chunk=chunk).double(), torch.tensor(expected).double(),
                                   rtol=1e-5, atol=1e-6)
    third = [sorted(math.dist(a, b) for j, b in enumerate(flat) if i != j)[2] for i, a in enumerate(flat)]
    torch.testing.assert_close(nearest_distances(x, k=3).double(), torch.tensor(third).double(), rtol=1e-5, atol=1e-6)
    with pytest.raises(BadParameter, match="got 1"):
        nearest_distances(x[:1])
    with pytest.raises(BadParameter, match="needs 4 for neighbour k = 3"):
        nearest_distances(x[:3], k=3)


def test_duplicates_are_found_and_the_data_has_as_many_as_asked():
    data, pictures = rand(200, 8), rand(200, 8, seed=1)
    assert duplicate_rate(data, data, quantile=0.05) == pytest.approx(0.05, abs=0.011)
    pictures[100:150] = pictures[:50]
    assert duplicate_rate(pictures, data, quantile=0.01) == pytest.approx(0.5, abs=0.03)
    assert duplicate_rate(data[:1].repeat(200, 1), data) == 1  # one picture is all it can draw
    with pytest.raises(BadParameter, match="as many"):
        duplicate_rate(pictures[:100], data)


def test_stacked_modes_read_red_green_blue_as_hundreds_tens_ones():
    def classify(x):  # grey value 0.0 to 0.9 is the digit
        assert x.shape[1:] == (1, 4, 4)
        return torch.nn.functional.one_hot((10 * x.mean((1, 2, 3))).round().long(), 10).float()

    digits = torch.tensor([[1, 2, 3], [0, 0, 7], [9, 9, 9]])
    images = (digits / 10)[:, :, None, None].expand(-1, -1, 4, 4)
    for chunk in (2, 100):
        assert stacked_modes(classify, images, chunk=chunk).tolist() == [123, 7, 999]
    with pytest.raises(BadParameter, match="3, H, W"):
        stacked_modes(classify, images[:, :1])

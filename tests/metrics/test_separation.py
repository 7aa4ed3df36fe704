"""Separation of distances: equal to scikit-learn's area, with an interval that covers the truth."""

import pytest
import torch

from t2ilib.errors import BadParameter
from t2ilib.metrics import auc, separation
from t2ilib.runtime import generator


def test_auc_equals_scikit_learns_with_ties():
    from sklearn.metrics import roc_auc_score

    g = generator(0, "auc")
    near = torch.randint(0, 8, (40,), generator=g).double()
    far = torch.randint(2, 10, (55,), generator=g).double()
    labels = [0] * len(near) + [1] * len(far)
    expected = roc_auc_score(labels, torch.cat([near, far]).numpy())
    assert auc(near, far) == pytest.approx(expected, abs=1e-12)
    assert auc(far, near) == pytest.approx(1 - expected, abs=1e-12)


def test_separation_of_pairs_that_are_apart_and_of_equal_ones():
    near = torch.arange(20.0)
    assert separation(near, near + 100) == (1.0, 1.0, 1.0)
    assert separation(near, near).auc == 0.5


def test_the_interval_is_that_of_rows_drawn_anew():
    g = generator(1, "rows")
    near = torch.randn(30, generator=g)
    far = near + torch.randn(30, generator=g) + 0.5
    found = separation(near, far, resamples=500, seed=3)
    rows = torch.randint(30, (500, 30), generator=torch.Generator().manual_seed(3))
    areas = torch.tensor([auc(near[row], far[row]) for row in rows], dtype=torch.float64)
    expected = torch.quantile(areas, torch.tensor([0.025, 0.975], dtype=torch.float64))
    assert (found.low, found.high) == pytest.approx(expected.tolist(), abs=1e-12)
    assert found.low < found.auc < found.high


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    truth = 0.7602  # of normal distances whose means are one deviation apart
    g = generator(2, "coverage")
    covered = 0
    for _ in range(200):
        found = separation(torch.randn(60, generator=g), torch.randn(60, generator=g) + 1, resamples=300)
        covered += found.low <= truth <= found.high
    assert 0.89 <= covered / 200 <= 0.99


def test_bad_input():
    near = torch.rand(5)
    with pytest.raises(BadParameter, match="row by row"):
        separation(near, torch.rand(6))
    with pytest.raises(BadParameter, match="level"):
        separation(near, near, level=1.0)
    with pytest.raises(BadParameter, match="distances"):
        auc(near, torch.rand(0))

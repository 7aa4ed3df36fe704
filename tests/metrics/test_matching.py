"""Matching as yes or no: right counts, and what pairs of one kind alone are worth."""

import math

import pytest
import torch

from t2ilib.errors import BadParameter
from t2ilib.metrics.matching import best_threshold, matching


def test_counts_by_hand():
    matched = torch.tensor([0.9, 0.8, 0.4, 0.5])  # three are accepted
    mismatched = torch.tensor([0.1, 0.7, 0.2, 0.3])  # one is
    found = matching(matched, mismatched)
    assert found.accuracy == 6 / 8
    assert found.precision == 3 / 4 and found.recall == 3 / 4 and found.f1 == pytest.approx(3 / 4)
    assert found.ordered == pytest.approx(14 / 16)
    assert found.matched == pytest.approx((0.65, 0.5, matched.double().std().item()))
    assert found.n == (4, 4)
    assert list(found.row()) == ["accuracy", "precision", "recall", "F1", "ordered"]


def test_always_yes_is_perfect_on_pairs_that_match_and_a_coin_on_both():
    yes = torch.ones(20)
    alone = matching(yes, torch.zeros(0))
    assert (alone.accuracy, alone.precision, alone.recall, alone.f1) == (1, 1, 1, 1)
    assert math.isnan(alone.ordered) and math.isnan(alone.mismatched[0])
    both = matching(yes, yes)
    assert both.accuracy == 0.5 and both.precision == 0.5 and both.recall == 1 and both.ordered == 0.5


def test_always_no():
    found = matching(torch.zeros(3), torch.zeros(3))
    assert (found.accuracy, found.precision, found.recall, found.f1) == (0.5, 0, 0, 0)


def test_f1_lies_between_precision_and_recall():
    rng = torch.Generator().manual_seed(0)
    for _ in range(20):
        found = matching(torch.rand(30, generator=rng), torch.rand(30, generator=rng))
        assert min(found.precision, found.recall) <= found.f1 + 1e-12
        assert found.f1 <= max(found.precision, found.recall) + 1e-12


def test_best_threshold():
    matched = torch.tensor([0.3, 0.5, 0.6])
    mismatched = torch.tensor([0.1, 0.2, 0.5])
    threshold = best_threshold(matched, mismatched)
    assert matching(matched, mismatched, threshold=threshold).accuracy == 5 / 6
    assert threshold == pytest.approx(0.3)


def test_bad_input():
    with pytest.raises(BadParameter, match="no matched"):
        matching(torch.zeros(0), torch.zeros(3))
    with pytest.raises(BadParameter, match="finite"):
        matching(torch.tensor([float("nan")]), torch.zeros(3))

"""Paired comparisons: known p-values, concepts as the unit, few concepts, and many pairs."""

import pytest
import torch

from t2ilib.errors import BadParameter
from t2ilib.metrics.pairing import Paired, compare_paired, group_means, holm, sign_flip_p


def test_p_is_the_sign_tests_where_all_differences_are_equal():
    for count in (1, 4, 6, 10, 14):
        assert sign_flip_p(torch.ones(count)) == pytest.approx(2 / 2 ** count)


def test_random_signs_agree_with_all_signs():
    differences = torch.randn(14, generator=torch.Generator().manual_seed(0)) + 0.5
    exact = sign_flip_p(differences)
    padded = torch.cat([differences, torch.zeros(4)])  # zeros change no sum, and make random signs necessary
    assert sign_flip_p(padded) == pytest.approx(exact, abs=0.01)


def test_no_difference_has_p_1():
    assert sign_flip_p(torch.zeros(5)) == 1
    assert sign_flip_p(torch.zeros(50)) == 1


def test_few_concepts_tell_nothing_although_the_interval_is_above_0():
    found = compare_paired(torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert found.low > 0
    assert found.verdict() == "not to be told from 0"


def test_equal_rows_are_rarely_called_different():
    rng = torch.Generator().manual_seed(1)
    wrong = 0
    for _ in range(200):
        differences = torch.randint(-1, 2, (10,), generator=rng).double()
        wrong += sign_flip_p(differences) <= 0.05
    assert wrong <= 16  # 10 are expected at most; 16 or fewer in 97 of 100 such tests


def test_several_pictures_of_a_concept_count_once():
    once = compare_paired(torch.ones(5))
    thrice = compare_paired(torch.ones(15), ["a", "b", "c", "d", "e"] * 3)
    assert thrice == once
    assert thrice.groups == 5


def test_verdicts():
    assert Paired(0.2, 0.1, 0.3, 0.01, 9).verdict("better", "worse", "tie") == "better"
    assert Paired(-0.2, -0.3, -0.1, 0.01, 9).verdict("better", "worse", "tie") == "worse"
    assert Paired(-0.2, -0.3, -0.1, 0.06, 9).verdict("better", "worse", "tie") == "tie"


def test_no_p_is_shown_as_zero():
    assert str(Paired(0.2, 0.1, 0.3, 0.00005, 9)) == "+0.200 [+0.100, +0.300], p < 0.001"
    assert str(Paired(0.2, 0.1, 0.3, 0.001, 9)) == "+0.200 [+0.100, +0.300], p = 0.001"


def test_holm_raises_p_in_order_and_never_above_1():
    found = holm([Paired(1, 0, 0, p, 9) for p in (0.01, 0.04, 0.03, 0.9)])
    assert [one.p for one in found] == pytest.approx([0.04, 0.09, 0.09, 0.9])


def test_group_means_average_seeds():
    means = group_means(torch.tensor([1.0, 0.0, 0.0, 0.0]), ["a", "b", "a", "b"])
    assert means.tolist() == [0.5, 0.0]


def test_wrong_input_is_refused():
    with pytest.raises(BadParameter, match="a value for each of 2 pictures"):
        group_means(torch.zeros(3), ["a", "b"])
    with pytest.raises(BadParameter, match="need values"):
        compare_paired(torch.zeros(0))

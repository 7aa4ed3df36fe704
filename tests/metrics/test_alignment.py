import math

import pytest
import torch
from torch.testing import assert_close

from t2ilib.errors import BadParameter
from t2ilib.metrics import (
    bootstrap_interval,
    chance_level,
    crossed_interval,
    jackknife_interval,
    paired_similarity,
    retrieval_ranks,
    synonym_mask,
    top_k,
    wilson_interval,
)


def features(n, d=6, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def cosine(a, b):
    return float(a.double() @ b.double() / (a.double().norm() * b.double().norm()))


def test_ranks_equal_a_count_by_hand():
    images, texts = features(20), features(15, seed=1)
    targets = [i % 15 for i in range(20)]
    exclude = synonym_mask(texts, threshold=0.3)
    assert exclude.any()
    ranks, strict = retrieval_ranks(images, texts, targets), retrieval_ranks(images, texts, targets, exclude=exclude)
    for i, t in enumerate(targets):
        rivals = [j for j in range(15) if j != t and cosine(images[i], texts[j]) >= cosine(images[i], texts[t])]
        assert ranks[i] == len(rivals) + 1
        assert strict[i] == len([j for j in rivals if cosine(texts[j], texts[t]) <= 0.3]) + 1
    per_picture = exclude[torch.tensor(targets)]
    assert torch.equal(retrieval_ranks(images, texts, targets, exclude=per_picture), strict)


def test_a_perfect_tower_is_first_and_a_constant_one_is_last():
    texts = features(12)
    assert retrieval_ranks(texts * 3, texts, range(12)).tolist() == [1] * 12
    copies = texts[:1].expand(12, -1)
    assert retrieval_ranks(copies, copies, range(12)).tolist() == [12] * 12  # every score ties
    broken = texts.clone()
    broken[3] = math.nan
    assert retrieval_ranks(broken, texts, range(12))[3] == 12


def test_excluded_synonyms_do_not_compete_but_the_target_stays():
    texts = torch.eye(4)
    images = torch.tensor([[0.9, 1.0, 0.0, 0.0]])
    assert retrieval_ranks(images, texts, [0]).tolist() == [2]
    assert retrieval_ranks(images, texts, [0], exclude=synonym_mask(texts, families="aabc")).tolist() == [1]
    everything = torch.ones(4, 4, dtype=torch.bool)
    assert retrieval_ranks(images, texts, [3], exclude=everything).tolist() == [1]


def test_synonyms_by_cosine_and_family():
    texts = torch.tensor([[1.0, 0.0], [0.99, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    assert synonym_mask(texts).nonzero().tolist() == [[0, 1], [1, 0]]
    assert synonym_mask(texts, threshold=None, families=["x", None, "x", None]).nonzero().tolist() == [[0, 2], [2, 0]]
    both = synonym_mask(texts, families=["x", "y", "x", "z"])
    assert both.sum() == 4 and torch.equal(both, both.T)
    with pytest.raises(BadParameter, match="2 entries for 4"):
        synonym_mask(texts, families=["x", "y"])


def test_summaries_of_ranks():
    ranks = torch.tensor([1, 2, 10, 11])
    assert (top_k(ranks, 1), top_k(ranks, 10)) == (0.25, 0.75)


def test_chance_is_what_random_scores_reach():
    exclude = synonym_mask(features(30), threshold=None, families=[i % 10 for i in range(30)])
    assert chance_level([0], 30, 10) == pytest.approx(10 / 30)
    expected = chance_level(range(30), 30, 5, exclude=exclude)
    assert expected == pytest.approx(5 / 28)
    targets = torch.arange(30).repeat(200)
    ranks = retrieval_ranks(features(6000, 40, 1), features(30, 40, 2), targets, exclude=exclude)
    assert top_k(ranks, 5) == pytest.approx(expected, abs=0.02)
    assert chance_level([0], 3, 10) == 1


def test_bad_targets_and_masks_are_named():
    with pytest.raises(BadParameter, match="need 3 targets"):
        retrieval_ranks(features(3), features(5), [0, 1])
    with pytest.raises(BadParameter, match="indices of 5 texts"):
        retrieval_ranks(features(3), features(5), [0, 1, 5])
    with pytest.raises(BadParameter, match="exclude has shape"):
        retrieval_ranks(features(3), features(5), [0, 1, 2], exclude=torch.zeros(2, 5))
    assert retrieval_ranks(features(0), features(5), []).shape == (0,)


def test_paired_similarity():
    a, b = features(4), features(4, seed=1)
    expected = torch.tensor([cosine(x, y) for x, y in zip(a, b, strict=True)])
    assert_close(paired_similarity(a, b), expected)


def test_bootstrap_interval_covers_the_mean_as_often_as_it_says():
    g = torch.Generator().manual_seed(0)
    samples = torch.randn(200, 60, generator=g) + 1
    hits = 0
    for i, x in enumerate(samples):
        estimate, low, high = bootstrap_interval(x, resamples=300, seed=i)
        assert low < estimate < high and estimate == pytest.approx(x.mean().item(), rel=1e-5)
        hits += low <= 1 <= high
    assert 0.89 <= hits / 200 <= 0.98
    _, low, high = bootstrap_interval(samples[0])
    assert high - low == pytest.approx(2 * 1.96 * samples[0].std().item() / 60**0.5, rel=0.1)
    assert bootstrap_interval(samples[0], seed=3) == bootstrap_interval(samples[0], seed=3)


def test_groups_are_drawn_whole():
    x = torch.randn(40, generator=torch.Generator().manual_seed(0))
    copies, labels = x.repeat_interleave(5), [i // 5 for i in range(200)]
    plain, grouped, naive = (bootstrap_interval(*a, **k) for a, k in [((x,), {}), ((copies,), {"groups": labels}),
                                                                    ((copies,), {})])
    assert grouped == pytest.approx(plain, rel=1e-6)  # five copies of each value tell nothing new
    assert naive[2] - naive[1] < 0.6 * (plain[2] - plain[1])
    median = bootstrap_interval(x, statistic=torch.median, resamples=200)
    assert median[0] == pytest.approx(x.median().item()) and median[1] <= median[0] <= median[2]
    with pytest.raises(BadParameter, match="groups has 1"):
        bootstrap_interval(x, groups=["a"])
    with pytest.raises(BadParameter, match="need values"):
        bootstrap_interval(x[:0])


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = torch.randn(12, generator=torch.Generator().manual_seed(0)).double()
    without_each = (values.sum() - values) / 11
    low, high = jackknife_interval(values.mean().item(), without_each)
    reach = 1.959964 * values.std().item() / math.sqrt(12)
    assert (low, high) == pytest.approx((values.mean().item() - reach, values.mean().item() + reach))


def test_wilson_interval_has_published_values():
    """Newcombe 1998, table I, method 3 (score without continuity correction)."""
    for hits, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
                               (1, 29, 0.0061, 0.1718)):
        assert wilson_interval(hits / n, n) == pytest.approx((low, high), abs=1e-4)
    low, high = wilson_interval(1.0, 20)
    assert (low, high) == pytest.approx((1 - 0.1611, 1.0), abs=1e-4)
    for share, n, level in ((1.5, 3, 0.95), (0.5, 0, 0.95), (0.5, 3, 1.0)):
        with pytest.raises(BadParameter, match="need a share"):
            wilson_interval(share, n, level=level)


def test_an_interval_over_rows_and_columns_sees_the_spread_of_both():
    rng = torch.Generator().manual_seed(0)
    of_rows, of_columns = torch.randn(20, 1, generator=rng), torch.randn(1, 30, generator=rng)
    mean, low, high = crossed_interval(of_rows + of_columns)
    assert mean == pytest.approx((of_rows.mean() + of_columns.mean()).item(), abs=1e-6)
    spread = math.hypot(of_rows.std() / 20**0.5, of_columns.std() / 30**0.5)
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.15)
    _, low, high = crossed_interval(of_rows.expand(20, 30))  # the columns are copies: they must not count as more rows
    assert high - low == pytest.approx(2 * 1.96 * of_rows.std().item() / 20**0.5, rel=0.15)


def test_with_one_row_only_columns_are_drawn():
    values = torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0]])
    mean, low, high = crossed_interval(values)
    assert (mean, low, high) == pytest.approx(bootstrap_interval(values[0]), abs=0.21)
    assert low < mean < high
    assert crossed_interval(torch.ones(3, 4)) == (1.0, 1.0, 1.0)
    for bad in (values[0], torch.zeros(0, 3)):
        with pytest.raises(BadParameter, match=r"need values \(R, C\)"):
            crossed_interval(bad)

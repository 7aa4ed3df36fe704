"""The drawings that the judge never sees."""

import torch

from t2ilib.data.captioned import CaptionedImages
from t2ilib.data.left_out import left_out_rows


def make(names):
    return CaptionedImages(torch.zeros(len(names), 4, 8, 8, dtype=torch.uint8), names, {"name": names})


def test_one_row_of_each_concept_that_has_two():
    names = ["cat", "dog", "cat", "sun", "dog", "cat", "moon", "moon"]
    rows = left_out_rows(make(names))
    assert sorted(names[i] for i in rows.tolist()) == ["cat", "dog", "moon"]  # one artist drew the sun: it stays


def test_the_choice_is_a_hash_of_seed_and_name():
    names = [f"concept {i}" for i in range(200) for _ in range(4)]
    first = left_out_rows(make(names))
    torch.testing.assert_close(first, left_out_rows(make(names)))
    assert (first % 4).unique().numel() == 4  # every artist is left out now and then
    assert (first != left_out_rows(make(names), seed=3)).float().mean() > 0.5
    fewer = left_out_rows(make(names[40:]))  # other concepts do not change it
    torch.testing.assert_close(first[10:] - 40, fewer)

"""Partners that are hard to tell apart."""

import pytest
import torch

from t2ilib.data import CaptionedImages, load_captioned
from t2ilib.data.hard_pairs import draw_partners, partner_rows
from t2ilib.errors import BadParameter


def pictures(captions, **columns):
    images = torch.zeros(len(captions), 3, 8, 8, dtype=torch.uint8)
    return CaptionedImages(images, captions, columns)


def test_partners_share_the_most_that_they_can():
    data = pictures(["cat", "dog", "cat", "cow", "car", "ship"], name=["cat", "dog", "cat", "cow", "car", "ship"],
                    artist=["a", "a", "b", "b", "a", "a"], group=["animal"] * 4 + ["thing", "thing"],
                    subgroup=["pet", "pet", "pet", "farm", "road", "sea"])
    found = [rows.tolist() for rows in partner_rows(data)]
    assert found[0] == [1]  # the pet by the same artist, never the other cat
    assert found[1] == [0]
    assert found[2] == [1]  # no other pet by this artist
    assert found[3] == [2]  # alone in its subgroup: the same artist and group
    assert found[4] == [5] and found[5] == [4]


def test_a_set_without_columns_takes_any_other_caption():
    found = partner_rows(pictures(["a", "a", "b"]))
    assert [rows.tolist() for rows in found] == [[2], [2], [0, 1]]
    with pytest.raises(BadParameter, match="same caption"):
        partner_rows(pictures(["a", "a"]))


def test_partners_are_drawn_from_their_lists_and_repeat():
    partners = partner_rows(load_captioned("emoji", split="validation", image_size=16, limit=200))
    rows = torch.arange(200)
    drawn = draw_partners(partners, rows, torch.Generator().manual_seed(1))
    assert all(other in partners[row].tolist() for row, other in enumerate(drawn.tolist()))
    assert torch.equal(drawn, draw_partners(partners, rows, torch.Generator().manual_seed(1)))

"""Guides choose among candidates, and the colour that a text asks for counts."""

import pytest
import torch

from t2ilib.methods.drawing import ColorScore

RED = torch.tensor([0.87, 0.18, 0.27]).view(3, 1, 1)
BLUE = torch.tensor([0.18, 0.5, 0.88]).view(3, 1, 1)


def square(colour):
    """A square on white: (3, 32, 32) in [0, 1]."""
    picture = torch.ones(3, 32, 32)
    picture[:, 8:24, 8:24] = colour
    return picture


class Guides:
    """Likes the candidates in the order that it was given."""

    def __init__(self, *similarity):
        self.similarity = torch.tensor(similarity)

    def __call__(self, pictures, texts):
        assert len(pictures) == len(texts) == len(self.similarity)
        return self.similarity


@pytest.mark.parametrize(("text", "weight", "chosen"), [
    ("a car", 3.0, 0),  # asks for no colour
    ("a red car", 3.0, 0),  # both agree
    ("a blue car", 3.0, 2),  # of the blue ones the better
    ("a blue car", 0.0, 0),  # the colour does not count
    ("a blue car", 1.0, 0),  # it counts for less than the guides' difference
])
def test_the_colour_is_weighed_against_the_guides(text, weight, chosen):
    score = ColorScore(Guides(0.5, 0.1, 0.2), 3, weight)
    pictures = torch.stack([square(RED), square(BLUE), square(BLUE)])
    scores = score(pictures, [text] * 3)
    assert scores.argmax() == chosen and score.choice.chosen.tolist() == [chosen]
    assert score.choice.similarity.tolist() == [pytest.approx([0.5, 0.1, 0.2])]


def test_candidates_of_another_picture_do_not_matter():
    pictures = torch.stack([square(RED), square(BLUE)])
    alone = ColorScore(Guides(0.5, 0.1), 2, 1.5)(pictures, ["a blue car"] * 2)
    beside = ColorScore(Guides(0.5, 0.1, 9.0, -9.0), 2, 1.5)(pictures.repeat(2, 1, 1, 1), ["a blue car"] * 4)
    torch.testing.assert_close(beside[:2], alone)

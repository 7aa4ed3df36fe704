"""The panel of CLIPs on stand-ins that see mean colours: ranks and agreement by hand, the guide never judges."""

import math

import pytest
import torch
from scipy.stats import spearmanr
from torch.nn import functional as F

from t2ilib.errors import BadParameter, UnknownName
from t2ilib.metrics import PanelTable, panel
from t2ilib.metrics.panel import COLUMNS, squared

COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0), "yellow": (1.0, 1.0, 0.0),
           "orange": (1.0, 0.6, 0.0)}
OTHERS = ["red", "green", "blue", "yellow", "orange"]


class ColourClip:
    """A picture's vector is its mean colour, a text's is the colour it names, seen through a matrix of its own."""

    def __init__(self, matrix=None, sha256=""):
        self.matrix = torch.eye(3) if matrix is None else matrix
        self.sha256, self.read, self.sizes = sha256, [], []

    def encode_image(self, x):
        assert x.ndim == 4 and x.min() >= 0 and x.max() <= 1
        self.sizes.append(tuple(x.shape))
        return F.normalize(x.mean((2, 3)) @ self.matrix, dim=-1)

    def encode_text(self, texts):
        self.read.append(list(texts))
        return F.normalize(torch.tensor([COLOURS[t.strip().lower()] for t in texts]), dim=-1)


class Constant(ColourClip):
    def encode_image(self, x):
        return torch.full((len(x), 3), 3**-0.5)

    def encode_text(self, texts):
        return torch.full((len(texts), 3), 3**-0.5)


def plain(*names, size=(8, 8)):
    return torch.stack([torch.tensor(COLOURS[n])[:, None, None].expand(3, *size) for n in names])


def test_cosines_and_ranks_by_hand():
    swapped = ColourClip(torch.eye(3)[[1, 0, 2]])  # takes red for green
    table = panel(plain("red", "blue"), ["red", "blue"], {"a": ColourClip(), "b": swapped}, distractors=OTHERS)
    rows = {(r["picture"], r["member"]): r for r in table.rows()}
    assert list(rows) == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
    assert {r["of"] for r in rows.values()} == {5} and {r["role"] for r in rows.values()} == {"judge"}
    assert [rows[k]["rank"] for k in rows] == [1, 5, 1, 1]  # seen as green, red ties with blue: the tie counts
    assert [rows[k]["cosine"] for k in rows] == pytest.approx([1, 0, 1, 1])
    s = table.summary()
    assert (s["median_rank"], s["chance_rank"], s["n"], s["judges"], s["guides"]) == (1.0, 3.0, 4, ["a", "b"], [])
    assert table.rows()[0] == {"picture": 0, "prompt": "red", "member": "a", "role": "judge", "cosine": 1.0, "rank": 1,
                               "of": 5, "weights": ""}


def test_a_constant_judge_ranks_last_and_agrees_with_nobody():
    table = panel(plain("red"), ["red"], {"a": ColourClip(), "same": Constant()}, distractors=OTHERS)
    assert [r["rank"] for r in table.rows()] == [1, 5]
    assert (table.agreement, table.agreement_n) == (0.0, 1)


def test_the_guide_is_shown_and_never_judges():
    members = {"guide": ColourClip(), "a": ColourClip(torch.eye(3)[[1, 0, 2]]),
               "b": ColourClip(torch.eye(3)[[1, 2, 0]])}
    images, prompts = plain("red", "orange"), ["red", "orange"]
    with_guide = panel(images, prompts, members, distractors=OTHERS, guides=["guide"])
    without = panel(images, prompts, {k: members[k] for k in "ab"}, distractors=OTHERS)
    assert [r["role"] for r in with_guide.rows()] == ["guide", "judge", "judge"] * 2
    assert with_guide.summary() == without.summary() | {"guides": ["guide"]}
    assert with_guide.summary()["median_rank"] > 1  # the guide's two first ranks would have pulled it down
    assert "never judges: guide" in with_guide.to_text()


def test_the_guides_weights_under_another_name_do_not_judge():
    same = ColourClip()
    members = {"guide": same, "alias": same, "copy": ColourClip(sha256="ab" * 32), "own": ColourClip(sha256="ab" * 32),
               "free": ColourClip()}
    roles = {r["member"]: r["role"] for r in
             panel(plain("red"), ["red"], members, distractors=OTHERS, guides=("guide", "copy")).rows()}
    assert [name for name, role in roles.items() if role == "judge"] == ["free"]
    with pytest.raises(UnknownName, match="did you mean guide"):
        panel(plain("red"), ["red"], members, distractors=OTHERS, guides=["giude"])
    assert panel(plain("red"), ["red"], members, distractors=OTHERS, guides="own").rows()[2]["role"] == "guide"
    assert panel(plain("red"), ["red"], members, distractors=OTHERS).rows()[2]["weights"] == "ab" * 6


def test_nobody_left_to_judge():
    table = panel(plain("red"), ["red"], {"a": ColourClip()}, distractors=OTHERS, guides=["a"])
    s = table.summary()
    assert (s["n"], s["median_rank"], s["chance_rank"], s["agreement"], s["agreement_n"]) == (0, None, None, None, 0)
    assert "no judge" in table.to_text()
    alone = panel(plain("red"), ["red"], {"a": ColourClip()}, distractors=OTHERS)
    assert alone.agreement is None and "takes two" in alone.to_text()


def test_texts_equal_to_the_prompt_do_not_compete():
    member = ColourClip()
    listed = ["RED ", "red", "Green", "green", "blue"]
    table = panel(plain("red", "green"), ["Red", "green"], {"a": member}, distractors=listed)
    assert [(r["rank"], r["of"]) for r in table.rows()] == [(1, 3), (1, 3)]  # green, blue; red, blue
    assert len(member.read) == 1 and len(member.read[0]) == len(set(member.read[0]))  # each text is read once
    with pytest.raises(BadParameter, match="none is left for 'Red'"):
        panel(plain("red"), ["Red"], {"a": member}, distractors=["red"])


def test_as_many_pictures_as_texts_and_a_prompt_twice():
    prompts = ["green", "red", "red"]
    table = panel(plain("green", "green", "red"), prompts, {"a": ColourClip()}, distractors=["green", "red", "blue"])
    assert [r["rank"] for r in table.rows()] == [1, 3, 1]


def test_agreement_equals_scipys_spearman():
    g = torch.Generator().manual_seed(0)
    members = {name: ColourClip(torch.randn(3, 3, generator=g)) for name in "abc"}
    images = torch.rand(4, 3, 6, 6, generator=g) * torch.rand(4, 3, 1, 1, generator=g)
    prompts = ["red", "blue", "orange", "red"]
    table = panel(images, prompts, members, distractors=OTHERS)
    scores = {k: m.encode_image(images) @ m.encode_text(OTHERS).T for k, m in members.items()}
    expected = [spearmanr(scores[p][i], scores[q][i]).statistic for p, q in ("ab", "ac", "bc") for i in range(4)]
    assert table.agreement_n == 12 and table.agreement == pytest.approx(sum(expected) / 12)
    assert -1 < table.agreement < 1 and max(expected) > min(expected)


def test_agreement_with_ties_and_at_its_ends():
    same = panel(plain("blue", "orange"), ["blue", "orange"], {"a": ColourClip(), "b": ColourClip()},
                 distractors=OTHERS)  # a blue picture ties red, green, yellow and orange
    assert same.agreement == pytest.approx(1.0) and same.agreement_n == 2
    against = panel(plain("orange"), ["orange"], {"a": ColourClip(), "b": ColourClip(-torch.eye(3))},
                    distractors=OTHERS)
    assert against.agreement == pytest.approx(-1.0)
    a, b = ColourClip(), ColourClip(torch.eye(3)[[1, 0, 2]])
    tied = panel(plain("red"), ["red"], {"a": a, "b": b}, distractors=OTHERS)
    x, y = (m.encode_image(plain("red"))[0] @ m.encode_text(OTHERS).T for m in (a, b))
    assert tied.agreement == pytest.approx(spearmanr(x, y).statistic)


def test_features_that_are_no_numbers_rank_last():
    class Broken(ColourClip):
        def encode_image(self, x):
            return super().encode_image(x) * torch.tensor([1.0, math.nan])[:len(x), None]

    table = panel(plain("red", "red"), ["red", "red"], {"a": Broken(), "b": ColourClip()}, distractors=OTHERS)
    ranks = {(r["picture"], r["member"]): r["rank"] for r in table.rows()}
    assert (ranks[0, "a"], ranks[1, "a"], ranks[1, "b"]) == (1, 5, 1)
    assert table.agreement == pytest.approx(0.5)  # one picture agrees, the broken one is no order at all


def test_a_text_without_a_score_is_the_last_of_the_order():
    class BlindToBlue(ColourClip):
        def encode_text(self, texts):
            return super().encode_text(texts).where(torch.tensor([t != "blue" for t in texts])[:, None], math.nan)

    table = panel(plain("red"), ["red"], {"a": BlindToBlue(), "b": ColourClip()}, distractors=OTHERS)
    # best last: blue, green, yellow, orange, red beside the same order in which blue and green tie
    assert table.agreement == pytest.approx(spearmanr([5, 2, 1, 3, 4], [5, 1.5, 1.5, 3, 4]).statistic)


def test_pictures_are_shown_whole_on_their_borders_colour():
    tall = torch.rand(2, 3, 9, 4, generator=torch.Generator().manual_seed(1))
    tall[:, :, [0, -1]] = tall[:, :, :, [0, -1]] = torch.tensor([0.2, 0.5, 0.7])[:, None, None]
    shown = squared(tall)
    assert shown.shape == (2, 3, 9, 9) and torch.equal(shown[..., 2:6], tall)
    outside = torch.cat([shown[..., :2], shown[..., 6:]], dim=-1)
    assert torch.equal(outside, torch.tensor([0.2, 0.5, 0.7])[:, None, None].expand(2, 3, 9, 5))
    assert torch.equal(squared(tall.mT), shown.mT) and squared(shown) is shown
    member = ColourClip()
    panel(tall, ["red", "blue"], {"a": member}, distractors=OTHERS, batch_size=1)
    assert member.sizes == [(1, 3, 9, 9)] * 2


def test_published_numbers_stand_beside_ours_and_count_for_nothing():
    table = panel(plain("red"), ["red"], {"a": ColourClip(), "b": ColourClip()}, distractors=OTHERS)
    beside = table.with_reported("a paper, 500 steps", {"red": 0.418, "a bird, flying": 0.124})
    assert beside.summary() == table.summary() and len(table.rows()) == 2
    assert [(r["role"], r["cosine"], r["rank"], r["picture"]) for r in beside.rows()[2:]] == [
        ("reported", 0.418, None, None), ("reported", 0.124, None, None)]
    rows = beside.rows()
    assert len(rows) == 4 and rows[3]["prompt"] == "a bird, flying" and rows[0]["rank"] == 1
    assert all(tuple(row) == COLUMNS for row in rows)


def test_the_text_table_is_aligned_and_says_what_its_numbers_are():
    long = "a very long prompt that goes on and on, beyond what a table has room for"
    table = panel(plain("red"), ["red"], {"a": ColourClip(), "b": ColourClip()}, distractors=OTHERS)
    lines = table.with_reported("elsewhere", {long: 0.5}).to_text(width=20).splitlines()
    assert lines[0].split() == ["picture", "prompt", "member", "role", "cosine", "rank", "of", "weights"]
    assert "a very long prompt …" in lines[3] and long not in lines[3]
    ends = {line.index(number) + len(number) for line, number in
            ((lines[0], "cosine"), (lines[1], "1.000"), (lines[3], "0.500"))}
    assert len(ends) == 1 and lines[3].split()[-2:] == ["-", "-"]
    text = "\n".join(lines)
    assert "median rank of the judges 1 (chance 3, n = 2 ranks)" in text and "1.00 (mean Spearman" in text
    assert "one member only" in text and isinstance(PanelTable(()).to_text(), str)


def test_rows_are_a_copy():
    table = panel(plain("red"), ["red"], {"a": ColourClip()}, distractors=OTHERS)
    table.rows()[0]["rank"] = 99
    assert table.rows()[0]["rank"] == 1


def test_wrong_arguments_are_refused_before_work():
    member = ColourClip()
    ask = {"members": {"a": member}, "distractors": OTHERS}
    with pytest.raises(BadParameter, match=r"\(x \+ 1\) / 2"):
        panel(plain("red") * 2 - 1, ["red"], **ask)
    with pytest.raises(BadParameter, match="expected .B, 3, H, W."):
        panel(plain("red")[0], ["red"], **ask)
    with pytest.raises(BadParameter, match="uint8"):
        panel(plain("red").byte(), ["red"], **ask)
    with pytest.raises(BadParameter, match="2 pictures need 2 prompts, got 1"):
        panel(plain("red", "red"), ["red"], **ask)
    with pytest.raises(BadParameter, match="lists of texts"):
        panel(plain("red"), "red", **ask)
    with pytest.raises(BadParameter, match="lists of texts"):
        panel(plain("red"), ["red"], {"a": member}, distractors="blue")
    with pytest.raises(BadParameter, match="give at least one"):
        panel(plain("red"), ["red"], {}, distractors=OTHERS)
    assert member.read == [] and member.sizes == []

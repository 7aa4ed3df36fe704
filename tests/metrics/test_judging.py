"""The judge's questions: strict and easy ranks, synonyms, baselines, against a stand-in judge with known answers."""

import pytest
import torch
from torch.nn import functional as F

from t2ilib.data import CaptionedImages
from t2ilib.data.left_out import left_out_rows
from t2ilib.errors import UnknownName
from t2ilib.metrics.judging import Judgement

NAMES = ["red heart", "fire", "dolphin", "flag: France", "black cat", "cat"]
FAMILIES = ["red heart", "fire", "dolphin", "flag: France", "cat", "cat"]
SPLITS = ["train", "train", "held_out", "held_out", "train", "train"]


class ColourJudge:
    """Pictures are recognised by their mean red and green; the text features of NAMES lie on a circle."""

    def __init__(self):
        angle = torch.linspace(0.0, 1.4, len(NAMES))
        self.table = torch.stack([angle.cos(), angle.sin()], 1)
        self.order = ["red heart", "fire", "dolphin", "flag of France", "black cat", "cat"]

    def encode_text(self, texts):
        return self.table[[self.order.index(t) for t in texts]]

    def encode_image(self, x):
        return F.normalize(x.mean((2, 3))[:, :2] + 1e-6, dim=-1)


def picture_of(name):
    judge = ColourJudge()
    red, green = judge.encode_text([name])[0]
    return torch.stack([red, green, torch.zeros(())]).view(1, 3, 1, 1).expand(1, 3, 8, 8)


@pytest.fixture
def judgement():
    judge = ColourJudge()
    images = torch.cat([picture_of(n) for n in judge.order]).mul(255).round().byte()
    columns = {"name": NAMES, "family": FAMILIES, "split": SPLITS}
    return Judgement(judge, CaptionedImages(images, judge.order, columns), synonyms_above=0.9999)


def test_right_pictures_have_rank_one(judgement):
    names = ["dolphin", "red heart", "flag of France"]
    features = judgement.features(torch.cat([picture_of(n) for n in names]))
    assert judgement.ranks(features, names).tolist() == [1, 1, 1]
    row = judgement.report(features, names, real=judgement.data_features(range(6)))
    assert row["top1"] == row["top10"] == row["high"] == 1.0 and row["n"] == 3
    assert row["chance10"] == 1.0  # six names: every rank is among the first ten


def test_wrong_pictures_rank_by_how_many_names_fit_better(judgement):
    features = judgement.features(picture_of("cat"))  # at the end of the circle: the others fit in order of angle
    assert judgement.ranks(features, ["flag of France"]).tolist() == [3]
    assert judgement.ranks(features, ["red heart"]).tolist() == [6]


def test_concepts_are_taken_evenly_from_a_split(judgement):
    everyone = ["black cat", "cat", "fire", "red heart"]
    assert judgement.concepts("train") == judgement.concepts("train", 9) == everyone
    assert judgement.concepts("train", 2) == ["black cat", "fire"]
    assert judgement.concepts("held_out", 1) == ["dolphin"]


def test_names_of_one_family_do_not_compete(judgement):
    features = judgement.features(picture_of("cat"))
    assert judgement.ranks(features, ["black cat"]).tolist() == [1]  # "cat" is nearer, but the same family


def test_the_easy_question_asks_only_a_split(judgement):
    features = judgement.features(picture_of("red heart"))
    assert judgement.ranks(features, ["dolphin"], among="held_out").tolist() == [1]
    assert judgement.ranks(features, ["dolphin"]).tolist() == [3]
    with pytest.raises(UnknownName, match="split 'train'"):
        judgement.ranks(features, ["fire"], among="held_out")


def test_unknown_concepts_are_answered_with_near_ones(judgement):
    with pytest.raises(UnknownName, match="did you mean red heart"):
        judgement.targets(["red hart"])


def test_a_constant_picture_gains_nothing(judgement):
    features = torch.ones(6, 2)
    ranks = judgement.ranks(features, judgement.names)
    assert ranks.float().mean() > 2


def test_novelty_finds_the_copy(judgement):
    bank = judgement.data_features(range(6))
    cosine, index = judgement.novelty(judgement.features(picture_of("dolphin")), bank)
    assert index.tolist() == [2] and cosine.item() == pytest.approx(1.0, abs=1e-4)


def test_kid_is_zero_for_itself_and_grows_with_distance(judgement):
    bank = judgement.data_features([0, 1, 2, 3, 4, 5])
    names = ["red heart"] * 6
    same = judgement.report(bank, names, real=bank)["kid"]
    far = judgement.report(judgement.features(picture_of("cat").expand(6, 3, 8, 8)), names, real=bank)["kid"]
    assert far > same + 0.05


def test_one_row_of_each_concept_with_the_artists_in_turn(judgement):
    judgement.rows_of = {"fire": [1, 4], "cat": [5, 7], "dolphin": [2]}
    assert judgement.one_row_each(["fire", "cat", "dolphin", "fire"]) == [1, 7, 2, 4]


def test_unseen_rows_are_those_the_judge_did_not_train_on():
    judge = ColourJudge()
    names = ["fire", "fire", "flag: France", "flag: France", "cat"]
    images = torch.zeros(5, 3, 8, 8, dtype=torch.uint8)
    data = CaptionedImages(images, ["x"] * 5, {"name": names, "family": names, "split": ["train"] * 5})
    found = Judgement(judge, data).unseen_rows(["flag of France", "fire", "cat", "fire"])
    fire, flag = left_out_rows(data).tolist()
    assert found == [flag, fire, 4, fire]  # one artist drew the cat


def test_a_measured_row_says_what_its_parts_say(judgement):
    names = ["dolphin", "dolphin", "cat", "cat"]
    pictures = torch.cat([picture_of(name) for name in ("dolphin", "fire", "cat", "cat")])
    training = judgement.training_features(every=True)
    row, ranks = judgement.measured(pictures, names, training=training)
    features = judgement.features(pictures)
    assert ranks.tolist() == judgement.ranks(features, names).tolist()
    assert row.items() >= judgement.report(features, names, real=training).items()
    nearest = (features @ training.T).amax(1)
    assert row["top10"] == row["shuffled"] == 1  # of six names all are among the first ten
    assert row["copy"] == pytest.approx(nearest.mean().item())
    cosine = (features[0] @ features[1]).item()
    assert row["within"] == pytest.approx((1 - cosine) / 2, abs=1e-6)  # the two of "cat" are equal
    one_concept, _ = judgement.measured(pictures[:2], names[:2], training=training, real=features[2:])
    assert "between" not in one_concept
    assert one_concept["kid"] == judgement.kid(features[:2], features[2:])


def test_the_eyes_see_the_pictures(judgement):
    class Eyes:
        def features(self, images):
            return images.mean((2, 3))

        def row(self, features, names):
            return {"KID-lite2": features.sum().item(), "precision": float(len(names))}

        def name_ranks(self, features, targets, *, exclude):
            assert torch.equal(exclude, judgement.synonyms[targets])
            return torch.tensor([1, 11])

    pictures = torch.cat([picture_of(name) for name in ("dolphin", "cat")])
    row, _ = judgement.measured(pictures, ["dolphin", "cat"], training=judgement.training_features(every=True),
                                eyes=Eyes())
    assert row["KID-lite2"] == pytest.approx(pictures.mean((2, 3)).sum().item()) and row["precision"] == 2
    assert (row["photo10"], row["photo1"], row["photo_low"], row["photo_high"]) == (0.5, 0.5, 0.0, 1.0)


def test_shuffled_asks_for_the_names_of_the_other_half(judgement, monkeypatch):
    swapped = ["cat", "cat", "dolphin", "dolphin"]
    ranks = judgement.ranks
    monkeypatch.setattr(judgement, "ranks", lambda features, names: ranks(features, names) + 50 * (names == swapped))
    pictures = torch.cat([picture_of(name) for name in swapped])
    row, _ = judgement.measured(pictures, swapped[2:] + swapped[:2], training=judgement.training_features(every=True))
    assert row["top10"] == 1 and row["shuffled"] == 0


class KnownJudge(ColourJudge):
    """One whose weights have a hash; it says what it is asked."""

    device = torch.device("cpu")

    def __init__(self, sha256="abc"):
        super().__init__()
        self.sha256 = sha256
        self.asked = []

    def encode_text(self, texts):
        self.asked.append(len(texts))
        return super().encode_text(texts)

    def encode_image(self, x):
        self.asked.append(tuple(x.shape))
        return super().encode_image(x)


def test_features_are_kept_by_the_hash_of_weights_names_and_pictures(judgement, tmp_path, monkeypatch):
    monkeypatch.setenv("T2I_CACHE", str(tmp_path / "cache"))

    def ask(judge, data=judgement.data):
        made = Judgement(judge, data)
        return made.text, made.training_features(every=True), made.training_features(every=False)

    first, again, other = KnownJudge(), KnownJudge(), KnownJudge("of other weights")
    found = ask(first)
    assert first.asked == [6, (4, 3, 8, 8), (4, 3, 8, 8)]
    assert torch.equal(found[0], judgement.text)
    assert torch.equal(found[1], judgement.training_features(every=True))
    assert torch.equal(judgement.training_features(every=True, count=2), found[1][::2])
    for kept, made in zip(ask(again), found, strict=True):
        assert torch.equal(kept, made)
    assert again.asked == []
    ask(other)
    assert other.asked == first.asked
    darker = CaptionedImages(judgement.data.images // 2, judgement.data.captions, judgement.data.columns)
    ask(again, darker)
    assert again.asked == [(4, 3, 8, 8)] * 2  # the names are the same


def test_where_nothing_can_be_kept_they_are_made_anew(judgement, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("T2I_CACHE", str(tmp_path / "cache"))
    judge = KnownJudge()
    with pytest.warns(UserWarning, match="the judge's features are not kept"):
        made = Judgement(judge, judgement.data)
    assert judge.asked == [6] and torch.equal(made.text, judgement.text)

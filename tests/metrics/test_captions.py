"""BLEU, METEOR and ROUGE of captions: right values, one word list for all, and baselines that are baselines."""

import math

import pytest
import torch
from torchmetrics.functional.text import bleu_score

from t2ilib.data.captioned import CaptionedImages
from t2ilib.errors import BadParameter, MissingAsset
from t2ilib.metrics import captions
from t2ilib.metrics.captions import (
    NEAREST_DRAWING,
    SHUFFLED_CAPTIONS,
    caption_score_rows,
    caption_scores,
    mean_scores,
    nearest_captions,
    shuffled_scores,
    words,
)

CAPTIONS = ["a red heart on a white wall", "the flag of France in the wind", "two dogs that run on the grass"]
REFERENCES = [["a red heart on a wall"], ["the flag of Italy in the wind", "the flag of France"],
              ["two dogs run on grass", "two dogs that run on a meadow"]]


def test_words_are_the_same_for_all_scores():
    assert words("Åland's FLAG, 12 o'clock!") == ["aland", "s", "flag", "12", "o", "clock"]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_bleu_without_empty_counts_is_that_of_torchmetrics(order):
    found = caption_scores(CAPTIONS, REFERENCES).bleu[order - 1]
    lower = [text.lower() for text in CAPTIONS]
    references = [[text.lower() for text in texts] for texts in REFERENCES]
    assert found == pytest.approx(float(bleu_score(lower, references, n_gram=order)), abs=1e-6)


def test_smoothing_is_what_it_says():
    # two words: both unigrams and the bigram are right, there is no trigram: 0.1 / 1 takes its place
    assert caption_scores(["a cat"], ["a cat"]).bleu == pytest.approx((1, 1, 0.1 ** (1 / 3), 0.1 ** (2 / 4)))


def test_meteor_by_hand():
    # 3 matches in 2 chunks; precision 3/4, recall 3/5: F = 10 P R / (R + 9 P), penalty 0.5 (2/3)^3
    found = caption_scores(["a red big heart"], ["a red heart in flames"], wordnet=False)
    precision, recall = 3 / 4, 3 / 5
    mean = 10 * precision * recall / (recall + 9 * precision)
    assert found.meteor == pytest.approx(mean * (1 - 0.5 * (2 / 3) ** 3))
    assert found.meteor_variant == "exact, stem"
    stems = caption_scores(["two dogs running"], ["two dog run"], wordnet=False)
    assert stems.meteor == pytest.approx(1 - 0.5 * (1 / 3) ** 3)


def test_a_perfect_caption_of_one_word_has_half_a_meteor():
    assert caption_scores(["soap"], ["soap"], wordnet=False).meteor == pytest.approx(0.5)


def test_rouge_by_hand():
    found = caption_scores(["a red heart"], ["a heart that is red"])
    precision, recall = 3 / 3, 3 / 5
    assert found.rouge1 == pytest.approx(2 * precision * recall / (precision + recall))
    assert found.rouge2 == 0
    longest = 2  # "a red", or "a heart"
    assert found.rouge_l == pytest.approx(2 * (longest / 3) * (longest / 5) / (longest / 3 + longest / 5))


def test_wordnet_is_used_where_it_is_and_never_fetched(monkeypatch):
    class Corpus:
        def synsets(self, word):
            return []

    monkeypatch.setattr(captions, "wordnet_corpus", Corpus)
    assert caption_scores(["a cat"], ["a cat"]).meteor_variant == "exact, stem, WordNet"
    assert caption_scores(["a cat"], ["a cat"], wordnet=False).meteor_variant == "exact, stem"
    monkeypatch.setattr(captions, "wordnet_corpus", lambda: None)
    assert caption_scores(["a cat"], ["a cat"]).meteor_variant == "exact, stem"
    with pytest.raises(MissingAsset, match="nltk.downloader"):
        caption_scores(["a cat"], ["a cat"], wordnet=True)


def test_shuffled_captions_meet_the_references_of_others():
    texts = ["one", "two", "three", "four"]
    found = shuffled_scores(texts, texts, generator=torch.Generator().manual_seed(0))
    assert found.rouge1 == 0 and found.meteor == 0 and found.n == 4
    one_form = [f"a picture of a {text}" for text in texts]
    found = shuffled_scores(one_form, one_form, generator=torch.Generator().manual_seed(0))
    assert found.bleu[0] == pytest.approx(4 / 5)  # all words but one, whatever they are about


def test_pictures_of_one_concept_never_meet_their_own_name():
    names = ["one", "one", "one", "two", "two", "two"]
    found = shuffled_scores(names, names, generator=torch.Generator().manual_seed(0), shuffles=5)
    assert found.rouge1 == 0 and found.n == 6


def test_a_table_has_the_captions_and_both_baselines():
    names = ["one", "two", "three", "four"]
    rng = torch.Generator().manual_seed(0)
    rows = caption_score_rows(names, names, ["one", "two", "five", "five"], generator=rng, label="drawn")
    assert list(rows) == ["drawn", SHUFFLED_CAPTIONS, NEAREST_DRAWING]
    assert rows["drawn"]["ROUGE-1"] == 1
    assert rows[SHUFFLED_CAPTIONS]["ROUGE-1"] == 0
    assert rows[NEAREST_DRAWING]["ROUGE-1"] == 0.5
    assert list(rows["drawn"]) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-1", "ROUGE-2", "ROUGE-L"]


def test_the_nearest_drawing_lends_its_name():
    class MeanColour:
        def encode_image(self, x):
            return x.mean((2, 3))

    red = torch.zeros(4, 8, 8, dtype=torch.uint8)
    red[0] = 255
    red[3] = 255
    blue = red[[2, 1, 0, 3]]
    data = CaptionedImages(torch.stack([red, blue]), ["apple", "blue square"], {})
    pictures = torch.tensor([[0.1, 0.1, 0.9], [0.8, 0.2, 0.1], [0.0, 0.1, 0.7]])[:, :, None, None].expand(-1, -1, 8, 8)
    found = nearest_captions(MeanColour(), pictures, data, batch_size=1)
    assert found == ["a blue square", "an apple", "a blue square"]


def test_mean_of_scores():
    a = caption_scores(["one"], ["one"], wordnet=False)
    b = caption_scores(["one"], ["two"], wordnet=False)
    assert mean_scores([a, b]).rouge1 == pytest.approx(0.5)
    assert mean_scores([a, b]).bleu[0] == pytest.approx((a.bleu[0] + b.bleu[0]) / 2)


def test_an_empty_caption_scores_nothing():
    found = caption_scores(["", "a cat"], ["a cat", "a cat"], wordnet=False)
    assert 0 < found.rouge1 < 1 and all(math.isfinite(value) for value in found.row().values())


@pytest.mark.parametrize(("said", "wanted"), [([], []), (["a"], []), (["a"], [[]])])
def test_bad_input(said, wanted):
    with pytest.raises(BadParameter):
        caption_scores(said, wanted)


def test_one_caption_cannot_be_shuffled():
    with pytest.raises(BadParameter, match="two or more"):
        shuffled_scores(["a"], ["a"], generator=torch.Generator())

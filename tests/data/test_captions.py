"""Captions are correct English, the same in every run, and few enough to encode once."""

import pytest
import torch

from t2ilib.data import CaptionedImages, load_captioned
from t2ilib.data.captions import (
    VARIANTS,
    caption_table,
    caption_variants,
    captions_for,
    colored,
    first_captions,
    row_variants,
)
from t2ilib.data.phrases import listed, plain_name, with_article

ROW = {
    "text": "red heart",
    "id": "twemoji/2764",
    "keywords": ["love", "emotion", "romance", "card"],
    "artist": "twemoji",
    "colors": ["red", "pink"],
    "group": "Smileys & Emotion",
    "subgroup": "heart",
}


@pytest.fixture(scope="module")
def data():
    return load_captioned("emoji", split="validation", image_size=8)


@pytest.mark.parametrize(
    "name, plain",
    [
        ("red heart", "red heart"),
        ("flag: France", "flag of France"),
        ("flag: United States", "flag of the United States"),
        ("flag: Congo - Kinshasa", "flag of Congo (Kinshasa)"),
        ("flag: Trinidad & Tobago", "flag of Trinidad and Tobago"),
        ("flag: St. Vincent & Grenadines", "flag of St. Vincent and the Grenadines"),
        ("keycap: 7", "keycap 7"),
        ("man: red hair", "man with red hair"),
        ("person: beard", "person with a beard"),
        ("woman: bald", "bald woman"),
        ("kiss: man, man", "kiss between two men"),
        ("couple with heart: woman, man", "couple of a woman and a man with a heart"),
        ("family: man, woman, girl, girl", "family of a man, a woman and two girls"),
        ("waving hand: light skin tone", "waving hand with light skin tone"),
        (
            "kiss: woman, man, light skin tone, dark skin tone",
            "kiss between a woman and a man with light and dark skin tones",
        ),
        ("woman’s hat", "woman's hat"),
        ("Japanese “here” button", 'Japanese "here" button'),
    ],
)
def test_plain_name(name, plain):
    assert plain_name(name) == plain


@pytest.mark.parametrize(
    "phrase, expected",
    [
        ("red heart", "a red heart"),
        ("eye", "an eye"),
        ("orange heart", "an orange heart"),
        ("OK hand", "an OK hand"),
        ("unicorn", "a unicorn"),
        ("one-piece swimsuit", "a one-piece swimsuit"),
        ("hourglass done", "an hourglass done"),
        ("SOS button", "an SOS button"),
        ("NG button", "an NG button"),
        ("NEW button", "a NEW button"),
        ("x-ray", "an x-ray"),
        ("T-Rex", "a T-Rex"),
        ("t-shirt", "a t-shirt"),
        ("A button (blood type)", "an A button (blood type)"),
        ("glasses", "glasses"),
        ("bus", "a bus"),
        ("cocktail glass", "a cocktail glass"),
        ("hibiscus", "a hibiscus"),
        ("men wrestling", "men wrestling"),
        ("person lifting weights", "a person lifting weights"),
        ("grinning face with big eyes", "a grinning face with big eyes"),
        ("face savoring food", "a face savoring food"),
        ("sheaf of rice", "a sheaf of rice"),
        ("cooked rice", "cooked rice"),
        ("skis", "skis"),
        ("mango", "a mango"),
        ("flag of France", "the flag of France"),
        ("two hearts", "two hearts"),
        ("Santa Claus", "Santa Claus"),
        ("twelve o'clock", "twelve o'clock"),
        ("princess", "a princess"),
        ("rhinoceros", "a rhinoceros"),
    ],
)
def test_articles(phrase, expected):
    assert with_article(phrase) == expected


def test_listed():
    assert [listed(words) for words in ([], ["red"], ["red", "blue"], ["red", "blue", "pink"])] == [
        "",
        "red",
        "red and blue",
        "red, blue and pink",
    ]


def test_colored():
    assert colored("fish", ["yellow", "black"]) == "a yellow fish"
    assert colored("apple", ["orange"]) == "an orange apple"
    assert colored("red heart", ["red", "pink"]) == "a red heart in pink"
    assert colored("red heart", ["red"]) == "a red heart"
    assert colored("farmer", ["blue", "yellow"], adjective=False) == "a farmer in blue and yellow"
    assert colored("flag of France", ["blue", "white", "red"]) == "the flag of France in blue, white and red"
    assert colored("glasses", ["black"]) == "black glasses"


def test_row_variants():
    texts = row_variants(ROW)
    assert len(texts) == VARIANTS and texts[:4] == [
        "red heart",
        "a red heart",
        "an emoji of a red heart",
        "a red heart in the style of twemoji",
    ]
    assert texts[4] == "a red heart in pink"
    assert texts[5].startswith("red heart: ") and set(texts[5][11:].split(", ")) < set(ROW["keywords"])
    assert len(texts[6].split(", ")) == 3
    assert texts[7] == "a twemoji emoji of a red heart in pink"
    assert row_variants(ROW) == texts and row_variants(ROW | {"id": "noto/2764"})[6] != texts[6]


def test_variants_of_the_set(data):
    variants = caption_variants(data)
    assert len(variants) == len(data) and {len(texts) for texts in variants} == {VARIANTS}
    assert [texts[0] for texts in variants] == data.captions
    for texts in variants:
        for text in texts:
            assert text and text == text.strip() and "  " not in text and not text.endswith((":", ","))


def test_caption_table_finds_every_caption(data):
    texts, where = caption_table(data)
    assert len(texts) == len(set(texts)) and where.shape == (len(data), VARIANTS)
    assert [[texts[i] for i in row] for row in where.tolist()] == caption_variants(data)


def test_captions_for_draws_among_the_variants(data):
    indices = torch.arange(len(data))
    first = captions_for(data, indices, torch.Generator().manual_seed(3))
    second = captions_for(data, indices, torch.Generator().manual_seed(3))
    assert first == second != captions_for(data, indices, torch.Generator().manual_seed(4))
    assert all(text in texts for text, texts in zip(first, caption_variants(data), strict=True))
    assert captions_for(data, []) == []


def test_default_captions_are_the_plain_names(data):
    assert data.captions == [plain_name(name) for name in data.columns["name"]]
    assert len(set(data.captions)) == len(set(data.columns["name"]))


def test_a_users_own_captions_are_left_alone():
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    own = CaptionedImages(images, ["a dog", "two cats"], {"captions": [["a dog", "my dog"], ["two cats"]]})
    assert caption_variants(own) == [["a dog", "my dog"] * 4, ["two cats"] * 8]
    assert set(captions_for(own, [1] * 9)) == {"two cats"}


def test_the_caption_of_an_emoji_is_its_plain_name(data):
    assert data.captions == [plain_name(name) for name in data.columns["name"]]


def test_first_captions_are_distinct_until_there_are_no_more():
    pictures = CaptionedImages(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), ["a", "b", "a", "c"], {})
    assert first_captions(pictures, 2) == ["a", "b"]
    assert first_captions(pictures, 5) == ["a", "b", "c", "a", "b"]

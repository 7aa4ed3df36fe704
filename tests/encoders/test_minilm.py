"""MiniLM in plain torch: tokens and features equal to transformers', for any text."""

import pytest
import torch

from t2ilib.data import load_captioned
from t2ilib.encoders import load_text_encoder
from t2ilib.encoders.minilm import MAX_LENGTH, minilm_folder

UNUSUAL = [
    "", " ", "a", "Ünïcödé naïve CAFÉ", "日本語のテキスト", "привет мир", "مرحبا", "❤️ red heart 👩‍🚀",
    "tab\tand\nline", "[CLS] [SEP] [PAD] [MASK]", "it's a don't-care; 3.14% (of) \"this\"", "x" * 300,
    "heart " * 400, "antidisestablishmentarianism", "\u200bzero\u00adwidth", "e\u0301 and é", "ﬁ ligature",
    "A" * 99, "a" * 101,
]


@pytest.fixture(scope="module")
def encoder():
    return load_text_encoder("minilm")


@pytest.fixture(scope="module")
def texts():
    captions = list(dict.fromkeys(load_captioned("emoji", split="all").captions))
    return [*UNUSUAL, *captions[:200 - len(UNUSUAL)]]


@pytest.fixture(scope="module")
def reference():
    from transformers import AutoTokenizer, BertModel

    folder = minilm_folder(check=False)
    model = BertModel.from_pretrained(folder, add_pooling_layer=False, local_files_only=True).eval()
    return AutoTokenizer.from_pretrained(folder, local_files_only=True), model


def test_tokens_equal_those_of_transformers(encoder, texts, reference):
    tokenizer, _ = reference
    assert len(texts) == 200
    assert encoder.tokenizer(texts) == tokenizer(texts, verbose=False)["input_ids"]
    cut = tokenizer(texts, truncation=True, max_length=16)["input_ids"]
    assert encoder.tokenizer(texts, 16) == cut and max(map(len, cut)) == 16
    for text in texts[:30]:
        assert encoder.tokenizer.pieces(text) == tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


@pytest.mark.slow
def test_features_equal_those_of_transformers(encoder, texts, reference):
    tokenizer, model = reference
    with pytest.warns(UserWarning, match=f"at most {MAX_LENGTH} tokens"):
        features = encoder.encode(texts)
    for start in range(0, len(texts), 40):
        part = texts[start:start + 40]
        batch = tokenizer(part, truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="pt")
        with torch.no_grad():
            expected = model(**batch).last_hidden_state
        for row, (tokens, mask) in enumerate(zip(expected, batch["attention_mask"].bool(), strict=True), start=start):
            torch.testing.assert_close(features.tokens[row, features.mask[row]], tokens[mask], atol=1e-5, rtol=1e-5)


def test_its_state_is_that_of_the_package(encoder, reference):
    _, model = reference
    expected = model.state_dict()
    state = encoder.model.state_dict()
    assert state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in expected)


def test_loading_leaves_the_random_state_alone():
    torch.manual_seed(3)
    load_text_encoder("minilm")
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))

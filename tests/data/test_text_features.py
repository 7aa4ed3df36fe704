"""Encoded texts: true lengths, no text twice, and a cache that is never stale."""

import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from t2ilib.data.text_features import EncodedTexts, encode_texts, pool_texts
from t2ilib.errors import BadParameter

TEXTS = ["a red heart", "cat", "a very long line about a cat", "cat", "", "blue fish"]


class Words:
    """A text encoder: a vector for each word and one for the start, padded to the longest text of the call."""

    device, max_length = torch.device("cpu"), 256

    def __init__(self, name="words", scale=1.0, dim=6):
        self.name, self.model, self.seen = name, nn.Linear(1, 1, bias=False), []
        self.dim = dim
        with torch.no_grad():
            self.model.weight.fill_(scale)

    def pooled(self, texts, *, batch_size):
        return self.encode(texts)[2]

    def encode(self, texts):
        self.seen += texts

        def word(w):
            return torch.randn(self.dim, generator=torch.Generator().manual_seed(sum(map(ord, w))))

        rows = [self.model.weight[0] * torch.stack([word(w) for w in ("start " + text).split()]) for text in texts]
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.arange(tokens.shape[1]) < torch.tensor([[len(r)] for r in rows])
        return tokens, mask, torch.stack([r.mean(0) for r in rows])


@pytest.fixture(params=[False, True], ids=["memory", "disk"])
def cache(request, tmp_path):
    return tmp_path / "deep" / "cache" if request.param else None


def test_a_batch_is_what_the_encoder_says(cache):
    features, encoder = encode_texts(Words(), TEXTS, cache=cache, batch_size=2), Words()
    assert (len(features), features.dim, features.longest, features.cut) == (6, 6, 8, 0)
    for indices in ([0, 1, 2, 3, 4, 5], [4], [5, 1, 5], torch.tensor([-1, 0])):
        tokens, mask, pooled = features.batch(indices)
        expected = encoder.encode([TEXTS[i] for i in indices])
        assert tokens.shape == expected[0].shape and tokens.dtype == pooled.dtype == torch.float32
        torch.testing.assert_close(tokens, expected[0], atol=2e-3, rtol=1e-3)  # stored in half precision
        assert torch.equal(mask, expected[1]) and tokens[~mask].abs().sum() == 0
        torch.testing.assert_close(pooled, expected[2])
    assert features.batch([0], dtype=torch.float16)[0].dtype == torch.float16
    assert features.batch([])[0].shape == (0, 0, 6)


def test_a_batch_of_features_is_kept_row_by_row():
    tokens, mask, pooled = Words().encode(TEXTS)
    tokens[3] += 1.0  # the second "cat", read beside another picture
    features = EncodedTexts.of_batch(tokens, mask, pooled)
    assert (len(features), features.dim, features.longest, features.cut) == (6, 6, 8, 0)
    for rows in ([0, 1, 2, 3, 4, 5], [3, 1], [4]):
        found_tokens, found_mask, found_pooled = features.batch(rows)
        longest = int(mask[rows].sum(1).max())
        expected = tokens[rows] * mask[rows][..., None]
        torch.testing.assert_close(found_tokens, expected[:, :longest], atol=2e-3, rtol=1e-3)
        assert torch.equal(found_mask, mask[rows][:, :longest]) and torch.equal(found_pooled, pooled[rows])


def test_each_distinct_text_is_encoded_and_stored_once(cache):
    encoder = Words()
    features = encode_texts(encoder, TEXTS * 3, cache=cache)
    assert sorted(encoder.seen) == sorted(set(TEXTS)) and len(features) == 18
    assert len(features.tokens) == sum(len(t.split()) + 1 for t in set(TEXTS))  # no padding anywhere
    assert torch.equal(features.batch([1])[0], features.batch([3])[0])


def test_the_limit_cuts_tokens_with_a_warning_also_from_the_cache(cache):
    for _ in range(2):
        with pytest.warns(UserWarning, match="3 of 7 texts are longer than longest=3"):
            features = encode_texts(Words(), [*TEXTS, TEXTS[2]], cache=cache, longest=3)
        tokens, mask, pooled = features.batch(range(7))
        assert tokens.shape == (7, 3, 6) and mask.sum(1).tolist() == [3, 2, 3, 2, 1, 3, 3] and features.cut == 3
        torch.testing.assert_close(pooled, Words().encode([*TEXTS, TEXTS[2]])[2])  # of the whole text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode_texts(Words(), TEXTS, longest=8)


def test_a_second_call_reads_the_file(tmp_path):
    first, encoder = encode_texts(Words(), TEXTS, cache=tmp_path), Words()
    again = encode_texts(encoder, [TEXTS[i] for i in (0, 1, 2, 4, 5, 0)], cache=tmp_path)  # the same distinct texts
    assert encoder.seen == [] and torch.equal(again.tokens, first.tokens) and len(list(tmp_path.iterdir())) == 1
    assert torch.equal(again.batch([5])[0], first.batch([0])[0])
    (folder,) = tmp_path.iterdir()
    assert np.load(folder / "tokens.npy").shape == tuple(first.tokens.shape)  # a plain file that others can read
    again.tokens[:] = 0  # what is mapped is private
    assert torch.equal(encode_texts(encoder, TEXTS, cache=tmp_path).batch([0])[0], first.batch([0])[0])


@pytest.mark.parametrize("other", [
    dict(texts=[*TEXTS, "dog"]), dict(texts=TEXTS[::-1]), dict(encoder=Words("others")),
    dict(encoder=Words(scale=2.0)), dict(longest=2), dict(dtype=torch.bfloat16)],
    ids=["a text more", "another order", "another name", "other weights", "cut", "another precision"])
def test_another_encoder_or_list_never_reads_a_stale_file(tmp_path, other):
    encode_texts(Words(), TEXTS, cache=tmp_path)
    encoder, texts = other.pop("encoder", Words()), other.pop("texts", TEXTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        features = encode_texts(encoder, texts, cache=tmp_path, **other)
        expected = encode_texts(encoder, texts, **other)
    assert len(list(tmp_path.iterdir())) == 2 and set(encoder.seen) == set(texts)
    for got, want in zip(features.batch(range(len(texts))), expected.batch(range(len(texts))), strict=True):
        assert torch.equal(got, want)


def flip(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)


def foreign(folder):
    info = json.loads((folder / "info.json").read_text())
    (folder / "info.json").write_text(json.dumps(info | {"key": "another"}))


@pytest.mark.parametrize("harm", [
    lambda f: flip(f, "tokens.npy"), lambda f: flip(f, "rows.safetensors"), lambda f: (f / "tokens.npy").unlink(),
    lambda f: (f / "info.json").write_text("{"), lambda f: (f / "info.json").write_text("[]"), foreign,
    lambda f: (f / "tokens.npy").write_bytes((f / "tokens.npy").read_bytes()[:200])],
    ids=["tokens", "rows", "absent", "half", "list", "foreign", "short"])
def test_a_damaged_or_foreign_file_is_encoded_again(tmp_path, harm):
    want = encode_texts(Words(), TEXTS, cache=tmp_path).batch([0, 2])[0]
    (folder,) = tmp_path.iterdir()
    harm(folder)
    encoder = Words()
    with pytest.warns(UserWarning, match="made again"):
        features = encode_texts(encoder, TEXTS, cache=tmp_path)
    assert torch.equal(features.batch([0, 2])[0], want) and set(encoder.seen) == set(TEXTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode_texts(Words(), TEXTS, cache=tmp_path)  # and is whole now
    assert list(tmp_path.iterdir()) == [folder]


def test_an_interrupted_or_outrun_call_leaves_nothing_half(tmp_path):
    class Stops(Words):
        def encode(self, texts):
            if self.seen:
                raise KeyboardInterrupt
            return super().encode(texts)

    with pytest.raises(KeyboardInterrupt):
        encode_texts(Stops(), TEXTS, cache=tmp_path, batch_size=2)
    assert list(tmp_path.iterdir()) == []

    class Slow(Words):  # while this process encodes, another one finishes
        def encode(self, texts):
            encode_texts(Words(), TEXTS, cache=tmp_path)
            return super().encode(texts)

    Slow.__name__ = Slow.__qualname__ = "Words"
    features = encode_texts(Slow(), TEXTS, cache=tmp_path)
    assert len(features) == 6 and len(list(tmp_path.iterdir())) == 1


def test_errors():
    class Loud(Words):
        def encode(self, texts):
            tokens, mask, pooled = super().encode(texts)
            return tokens * 1e6, mask, pooled

    for texts in ("cat", [], ["cat", 3]):
        with pytest.raises(BadParameter, match="list of one or more strings"):
            encode_texts(Words(), texts)
    with pytest.raises(BadParameter, match="longest >= 1"):
        encode_texts(Words(), TEXTS, longest=0)
    with pytest.raises(BadParameter, match="words do not fit in half"):
        encode_texts(Loud(), TEXTS)
    with pytest.raises(BadParameter, match="outside the 6 texts"):
        encode_texts(Words(), TEXTS).batch([6])


def test_an_encoder_without_identity_is_not_cached(tmp_path):
    encoder = Words(name=None)
    del encoder.model
    encoder.encode = lambda texts: Words().encode(texts)
    with pytest.raises(BadParameter, match="cache=None"):
        encode_texts(encoder, TEXTS, cache=tmp_path)
    assert len(encode_texts(encoder, TEXTS)) == 6


def test_the_real_encoder(tmp_path):
    from t2ilib.encoders import load_text_encoder

    encoder = load_text_encoder("minilm")
    features = encode_texts(encoder, TEXTS, cache=tmp_path)
    tokens, mask, pooled = encoder.encode(TEXTS)
    got = features.batch(range(6))
    torch.testing.assert_close(got[0], tokens, atol=2e-3, rtol=1e-3)
    assert torch.equal(got[1], mask)
    torch.testing.assert_close(got[2], pooled, atol=1e-6, rtol=1e-5)
    pooled = pool_texts(encoder, TEXTS, cache=tmp_path)
    assert torch.equal(pooled, encoder.pooled(TEXTS)) and torch.equal(pool_texts(encoder, TEXTS), pooled)


def test_pooled_vectors_are_kept_too(tmp_path):
    encoder = Words()
    pooled = pool_texts(encoder, TEXTS, cache=tmp_path)
    torch.testing.assert_close(pooled, Words().encode(TEXTS)[2])
    assert encoder.seen == list(dict.fromkeys(TEXTS))
    assert torch.equal(pool_texts(encoder, TEXTS, cache=tmp_path), pooled) and len(encoder.seen) == 5
    pool_texts(encoder, TEXTS, cache=tmp_path, dtype=torch.bfloat16)
    pool_texts(Words(scale=2.0), TEXTS, cache=tmp_path)
    assert len(encoder.seen) == 10 and len(list(tmp_path.iterdir())) == 3
    (folder, *_) = sorted(tmp_path.iterdir())
    flip(folder, "rows.safetensors")
    for dtype in (torch.float32, torch.bfloat16):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pool_texts(encoder, TEXTS, cache=tmp_path, dtype=dtype)
    with pytest.raises(BadParameter, match="list of one or more strings"):
        pool_texts(encoder, [])

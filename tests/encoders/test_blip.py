"""BLIP: the hub's layout, the embedded form, and one interface for both."""

import copy
import json

import pytest
import torch
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipForQuestionAnswering,
)

from t2ilib.checkpoint import save_model
from t2ilib.encoders import load_blip, load_text_encoder
from t2ilib.encoders.blip import is_blip
from t2ilib.encoders.emoji_blip import (
    BEGIN_CAPTION,
    BlipPieces,
    EmojiBlip,
    Ids,
    pad_rows,
    prompt_rows,
    tokens_of,
)
from t2ilib.errors import BadParameter, CheckpointMismatch, MissingAsset

TEXTS = ["a red heart", "the flag of France", "a cat with a hat"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "heart", "picture", "of", "cat", "blue", "flag", "the", "with"]
MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]


def save_as_on_the_hub(folder, kind):
    """Write a tiny random BLIP in the files of Salesforce's repositories."""
    torch.manual_seed(0)
    text = {"vocab_size": len(WORDS) + 2, "hidden_size": 32, "encoder_hidden_size": 32, "intermediate_size": 64,
            "projection_dim": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 40,
            "bos_token_id": len(WORDS), "eos_token_id": 2, "sep_token_id": 3, "pad_token_id": 0, "is_decoder": True}
    vision = {"hidden_size": 32, "intermediate_size": 64, "projection_dim": 16, "num_hidden_layers": 2,
              "num_attention_heads": 4, "image_size": 32, "patch_size": 8, "initializer_range": 0.02}
    model = kind(BlipConfig(text_config=text, vision_config=vision, projection_dim=16, image_text_hidden_size=16))
    model.eval().save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    BertTokenizer(vocab=str(folder / "vocab.txt"), do_lower_case=True).save_pretrained(folder)
    pictures = {"do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": MEAN, "image_std": STD,
                "image_processor_type": "BlipImageProcessor", "processor_class": "BlipProcessor", "resample": 3,
                "rescale_factor": 1 / 255, "size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    return model


@pytest.fixture(scope="module")
def small():
    """A small network of both halves, with a table for these texts."""
    torch.manual_seed(0)
    tokens = tokens_of(TEXTS)
    network = EmojiBlip(vocabulary=len(tokens) + 5, width=32, heads=2, vision_layers=1, text_layers=2,
                        channels=[8, 8, 16], positions=40, image_size=32)
    network.tokens.copy_(torch.tensor(tokens))
    return network.eval()


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("blip") / "emoji-blip", small)


def test_a_matching_blip_of_the_hub_gives_what_transformers_gives(tmp_path):
    model = save_as_on_the_hub(tmp_path, BlipForImageTextRetrieval)
    assert is_blip(str(tmp_path))
    blip = load_blip(str(tmp_path))
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    normalised = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    ids = torch.tensor([[2, 4, 5, 6, 3], [2, 12, 11, 3, 0]])
    mask = (ids != 0).long()
    texts = ["a red heart", "the flag"]
    with torch.no_grad():
        itm = model(input_ids=ids, pixel_values=normalised, attention_mask=mask).itm_score
        cosine = model(input_ids=ids, pixel_values=normalised, attention_mask=mask, use_itm_head=False).itm_score
    torch.testing.assert_close(blip.match(x, texts), itm.softmax(-1)[:, 1])
    torch.testing.assert_close(blip.encode_image(x) @ blip.encode_text(texts).T, cosine)
    with pytest.raises(BadParameter, match="does not write captions"):
        blip.caption(x)


def test_a_writing_blip_of_the_hub_gives_what_transformers_gives(tmp_path):
    model = save_as_on_the_hub(tmp_path, BlipForConditionalGeneration)
    blip = load_blip(str(tmp_path))
    x = torch.rand(2, 3, 40, 24, generator=torch.Generator().manual_seed(1))
    written = model.generate(pixel_values=blip.preprocess(x), input_ids=torch.tensor([[2, 4, 7, 8, 3]] * 2),
                             max_new_tokens=6, do_sample=False)
    tokenizer = BertTokenizer.from_pretrained(tmp_path)
    expected = [tokenizer.decode(row[1:], skip_special_tokens=True) for row in written]
    found = blip.caption(x, most_tokens=6)
    assert [f"a picture of {caption}".strip() for caption in found] == [text.strip() for text in expected]
    with pytest.raises(BadParameter, match="does not match"):
        blip.match(x, ["a", "b"])


def test_the_text_encoder_of_a_blip(tmp_path):
    save_as_on_the_hub(tmp_path, BlipForImageTextRetrieval)
    encoder = load_text_encoder(str(tmp_path))
    tokens, mask, pooled = encoder.encode(["a red heart", "cat"])
    assert tokens.shape == (2, 5, 32) and mask.sum(1).tolist() == [5, 3]
    torch.testing.assert_close(pooled, torch.nn.functional.normalize(tokens[:, 0], dim=-1))
    assert str(tmp_path) in encoder.fingerprint
    assert load_text_encoder(str(tmp_path), max_length=4).encode(["cat"]).tokens.shape[1] == 3
    with pytest.raises(BadParameter, match="max_length"):
        load_text_encoder(str(tmp_path), max_length=41)


def test_other_kinds_and_absent_ones_are_refused(tmp_path, monkeypatch):
    save_as_on_the_hub(tmp_path, BlipForQuestionAnswering)
    with pytest.raises(CheckpointMismatch, match="BlipForQuestionAnswering; expected"):
        load_blip(str(tmp_path))
    with pytest.raises(MissingAsset, match="Hugging Face"):
        load_blip("Salesforce/blip-itm-base-coco", local_only=True)
    assert not is_blip("minilm") and not is_blip(str(tmp_path / "nothing"))


def test_the_halves_share_what_they_can(small):
    for network in (small, copy.deepcopy(small)):
        reading, writing = network.retrieval, network.captioning
        assert writing.vision_model is reading.vision_model
        layers = zip(writing.text_decoder.bert.encoder.layer, reading.text_encoder.encoder.layer, strict=True)
        for writes, reads in layers:
            assert writes.crossattention is reads.crossattention and writes.output is reads.output
            assert writes.attention is not reads.attention
        table = reading.text_encoder.embeddings.word_embeddings.weight
        assert writing.text_decoder.cls.predictions.decoder.weight is table
        of_halves = {id(p) for half in (reading, writing) for p in half.parameters()}
        assert of_halves | {id(network.logit_scale)} == {id(p) for p in network.parameters()}


def test_the_writing_half_sees_only_the_past(small):
    states = small.image_states(torch.randn(1, 3, 32, 32))
    ids = torch.tensor([[BEGIN_CAPTION, 5, 6, 7, 8]])
    other = ids.clone()
    other[0, 3] = 9
    mask = torch.ones_like(ids, dtype=torch.bool)
    before = small.caption_logits(Ids(ids, mask), states)
    after = small.caption_logits(Ids(other, mask), states)
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:])


def test_a_checkpoint_gives_the_same_again(small, folder):
    blip = load_blip(str(folder))
    x = torch.rand(3, 3, 32, 32)
    rows = BlipPieces(small.tokens.tolist())(TEXTS)
    with torch.no_grad():
        fused = small.text_states(pad_rows(rows), small.image_states(blip.preprocess(x)))
        expected = small.match_logits(fused).softmax(-1)[:, 1]
    torch.testing.assert_close(blip.match(x, TEXTS), expected)
    assert len(blip.caption(x, most_tokens=5)) == 3
    features = blip.fused(x, TEXTS)
    torch.testing.assert_close(features.tokens[features.mask], fused[features.mask])
    encoder = load_text_encoder(str(folder))
    assert encoder.encode(TEXTS).pooled.shape == (3, 32)
    assert encoder.tokenizer.pieces("a red heart") == ["[CLS]", "a", "red", "heart", "[SEP]"]


def test_pairs_are_checked(folder):
    blip = load_blip(str(folder))
    with pytest.raises(BadParameter, match="2 pictures and 1 texts"):
        blip.match(torch.rand(2, 3, 32, 32), ["a cat"])
    with pytest.raises(BadParameter, match=r"floats in \[0, 1\]"):
        blip.encode_image(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))


def test_the_table_is_cut_to_the_captions():
    tokens = tokens_of(TEXTS)
    pieces = BlipPieces(tokens)
    rows = pieces([*TEXTS, "a zebra"])
    assert [pieces.decode(row) for row in rows[:3]] == [text.lower() for text in TEXTS]
    assert rows[3][2] == 1  # unknown
    assert max(max(row) for row in rows) < len(tokens) + 5
    captions = prompt_rows(rows[:1], pieces(["a picture of"])[0])
    assert captions[0][0] == BEGIN_CAPTION and pieces.decode(captions[0]) == "a picture of a red heart"


def test_odd_sizes_are_refused():
    with pytest.raises(BadParameter, match="whole heads"):
        EmojiBlip(vocabulary=20, width=30, heads=4)
    with pytest.raises(BadParameter, match="steps of 8"):
        EmojiBlip(vocabulary=20, image_size=60)

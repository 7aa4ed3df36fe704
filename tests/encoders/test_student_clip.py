"""Students: small towers behind the interface of a CLIP, and a tokenizer that is theirs."""

import pytest
import torch

from t2ilib.checkpoint import save_model
from t2ilib.encoders import load_clip
from t2ilib.encoders.cut_pieces import SPECIAL, CutPieces, cut_table, words_of
from t2ilib.encoders.student_clip import StudentClip
from t2ilib.encoders.student_towers import (
    IMAGE_TOWERS,
    TEXT_TOWERS,
    fold_batch_norm,
    image_tower,
    text_tower,
)
from t2ilib.errors import BadParameter, CheckpointMismatch, UnknownName
from t2ilib.guidance import GuidanceConfig, vqgan_clip
from t2ilib.models.vqgan import load_vqgan

VOCABULARY = ["[PAD]", "[unused0]", "[UNK]", "a", "b", "c", "##a", "##b", "##c", "##s", "red", "heart", "cat", "é",
              "of", "fish"]


@pytest.fixture
def table():
    return cut_table(VOCABULARY, ["a red heart"], 64)


@pytest.mark.parametrize("name", IMAGE_TOWERS)
def test_image_towers(name):
    tower = image_tower(name, 24).eval()
    x = torch.rand(3, 3, 64, 64, requires_grad=True)
    features = tower(x)
    assert features.shape == (3, 24)
    features.sum().backward()
    assert x.grad.abs().sum() > 0
    assert sum(p.numel() for p in tower.parameters()) < 2 * 2**20


def test_folded_batch_norm_changes_nothing():
    torch.manual_seed(0)
    tower = image_tower("separable", 24)
    x = torch.rand(4, 3, 64, 64)
    tower(x)  # moves the statistics
    tower.eval()
    with torch.no_grad():
        torch.testing.assert_close(fold_batch_norm(tower)(x), tower(x))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fold_batch_norm(tower).modules())


@pytest.mark.parametrize("name", TEXT_TOWERS)
def test_padding_changes_nothing(name):
    torch.manual_seed(0)
    tower = text_tower(name, 24, pieces=50).eval()
    ids = torch.tensor([[5, 6, 7], [8, 9, 0]])
    alone = tower(ids[1:, :2], ids[1:, :2] != 0)
    torch.testing.assert_close(tower(ids, ids != 0)[1:], alone)
    turned = tower(ids[:1].flip(1), ids[:1] != 0)
    assert torch.allclose(turned, tower(ids, ids != 0)[:1], atol=1e-5) == (name == "bag")


def test_towers_that_do_not_exist():
    with pytest.raises(UnknownName, match="did you mean plain"):
        image_tower("plane", 8)
    with pytest.raises(BadParameter, match="blocks"):
        image_tower("plain", 8, blocks=(1,))


def test_words():
    assert words_of("A Côte-d'Ivoire,\tÉtoile!\x00") == ["a", "cote", "-", "d", "'", "ivoire", ",", "etoile", "!"]
    assert words_of(" \n") == []


def test_the_longest_piece_first(table):
    assert table.pieces("Red hearts, cat") == ["red", "heart", "##s", "[UNK]", "cat"]
    assert table.pieces("abc") == ["a", "##b", "##c"] and table.pieces("xyz") == ["[UNK]"]
    assert table([""]) == [[1]] and table(["a " * 200], 7) == [[table.table.index("a")] * 7]
    assert table.pieces("a" * 101) == ["[UNK]"]


def test_a_table_holds_what_its_texts_need(table):
    assert table.table[:2] == list(SPECIAL) and "é" not in table.table and "[unused0]" not in table.table
    assert set(cut_table(VOCABULARY, ["a red heart"], 11).table) == {*SPECIAL, "a", "b", "c", "##a", "##b", "##c",
                                                                     "##s", "red", "heart"}
    with pytest.raises(BadParameter, match="too small"):
        cut_table(VOCABULARY, ["a red heart"], 8)
    with pytest.raises(BadParameter, match="each piece once"):
        CutPieces([*SPECIAL, "a", "a"])


def test_a_table_as_bytes(table):
    assert CutPieces.from_bytes(table.to_bytes()).table == table.table
    with pytest.raises(CheckpointMismatch, match="word pieces"):
        CutPieces.from_bytes(torch.full((9,), 255, dtype=torch.uint8))


@pytest.fixture
def student(table):
    torch.manual_seed(0)
    return StudentClip.with_pieces(table, embed_dim=32, teacher="emoji-clip").eval()


def test_a_student_loads_as_a_clip(student, tmp_path):
    folder = save_model(tmp_path / "student", student, dtype=torch.int8, role="guide")
    clip = load_clip(str(folder))
    pictures = torch.rand(2, 3, 80, 64)
    vectors = clip.encode_image(pictures)
    assert vectors.shape == (2, 32) and clip.dim == 32 and clip.image_size == 64
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    texts = clip.encode_text(["a red heart", "cat of the month"])
    torch.testing.assert_close(texts[:1], clip.encode_text(["a red heart"]))
    assert clip.count_tokens("red hearts") == 3 and clip.context_length == 77
    with pytest.warns(UserWarning, match="at most 77 tokens"):
        clip.encode_text(["a cat " * 60])


def test_a_student_guides(student, tmp_path):
    folder = save_model(tmp_path / "student", student, dtype=torch.int8)
    config = GuidanceConfig("a red heart", model="emoji-vqgan-128", clip=[str(folder)], steps=2, num_cutouts=2,
                            width=64, height=64, init="random")
    result = vqgan_clip(config, vqgan=load_vqgan("emoji-vqgan-128"), clips=[load_clip(str(folder))])
    assert result.images.shape == (1, 3, 64, 64) and result.images.isfinite().all()


def test_bad_students(table):
    with pytest.raises(BadParameter, match="image_size"):
        StudentClip.with_pieces(table, image_size=32)

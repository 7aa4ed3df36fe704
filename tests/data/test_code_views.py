"""Views of drawings as codes: written once, gone on with, read by row and view, refused for another network."""

import pytest
import torch

from t2ilib.data import load_captioned
from t2ilib.data.code_store import CodesHeader, CodeWriter
from t2ilib.data.code_views import CodeViews, view_names, write_views
from t2ilib.errors import BadParameter, CheckpointMismatch

HEADER = CodesHeader(shapes=[(8, 8), (16, 16)], codes=256, data_sha256="d", checkpoint_sha256="c")


@pytest.fixture(scope="module")
def data():
    return load_captioned("emoji", split="train", image_size=64, limit=40)


class Encoder:
    """Mean brightness of squares as codes of two grids; counts its calls, and may break off."""

    def __init__(self, most=99):
        self.calls = 0
        self.most = most

    def __call__(self, x):
        self.calls += 1
        if self.calls > self.most:
            raise KeyboardInterrupt
        grids = []
        for side in (8, 16):
            mean = torch.nn.functional.adaptive_avg_pool2d(x, side).mean(1)  # (B, side, side)
            grids.append(((mean + 1) * 127).round().long())
        return grids


def test_views_are_written_once_and_read_by_row(tmp_path, data):
    encode = Encoder()
    path = write_views(tmp_path / "codes.lmdb", HEADER, data, encode, views=3)
    assert encode.calls == 6
    store = CodeViews(path, HEADER, data, views=3)
    assert len(store.reader) == 120 and view_names(data, [0], 2) == ["noto/1f600/2"]
    rows = torch.tensor([39, 0, 7])
    plain = Encoder()(data.batch(rows))
    assert torch.equal(store.batch(rows), plain[1]) and torch.equal(store.batch(rows, level=0), plain[0])
    mixed = store.batch(rows, torch.tensor([0, 2, 1]))
    assert torch.equal(mixed[0], plain[1][0]) and not torch.equal(mixed[1], plain[1][1])
    write_views(path, HEADER, data, encode, views=3)  # also while it is read
    assert encode.calls == 6
    with pytest.raises(BadParameter, match="views=4"):
        CodeViews(path, HEADER, data, views=4)
    with pytest.raises(BadParameter, match="views must be"):
        write_views(path, HEADER, data, encode, views=0)


def test_an_interrupted_writer_goes_on_to_the_same_codes(tmp_path, data):
    whole = CodeViews(write_views(tmp_path / "whole.lmdb", HEADER, data, Encoder(), views=2), HEADER, data, views=2)
    path = tmp_path / "codes.lmdb"
    with pytest.raises(KeyboardInterrupt):
        write_views(path, HEADER, data, Encoder(most=2), views=2)
    with pytest.raises(CheckpointMismatch, match="not finished, it holds 64"):
        CodeViews(path, HEADER, data, views=2)
    rest = Encoder()
    store = CodeViews(write_views(path, HEADER, data, rest, views=2), HEADER, data, views=2)
    assert rest.calls == 2
    rows = torch.arange(40)
    for view in (0, 1):
        assert torch.equal(store.batch(rows, view), whole.batch(rows, view))


def test_a_store_of_another_network_is_refused(tmp_path, data):
    path = write_views(tmp_path / "codes.lmdb", HEADER, data, Encoder())
    other = CodesHeader(shapes=HEADER.shapes, codes=256, data_sha256="d", checkpoint_sha256="another")
    with pytest.raises(CheckpointMismatch, match="checkpoint_sha256 is 'c' instead of 'another'"):
        CodeViews(path, other, data)
    with pytest.raises(CheckpointMismatch, match="another model"):
        write_views(path, other, data, Encoder())
    with CodeWriter(tmp_path / "one.lmdb", HEADER), pytest.raises(BadParameter):
        write_views(tmp_path / "two.lmdb", CodesHeader(shapes=[(16, 16)], codes=256, data_sha256="",
                                                        checkpoint_sha256=""), data, Encoder())

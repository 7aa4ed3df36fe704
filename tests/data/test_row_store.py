"""Rows on disk: computed once, gone on with, refused where they belong to something else."""

import json

import numpy as np
import pytest

from t2ilib.data.row_store import INFO, RowsHeader, kept_rows
from t2ilib.errors import BadParameter, CheckpointMismatch

HEADER = RowsHeader(rows=10, arrays={"a": ((3,), "<f2"), "b": ((), "<i4")}, data_sha256="d", checkpoint_sha256="c")


def make(asked=None, stop_at=None):
    def fill(first, end):
        if stop_at is not None and first >= stop_at:
            raise KeyboardInterrupt
        if asked is not None:
            asked.append(first)
        rows = np.arange(first, end)
        return {"a": np.stack([rows, 2 * rows, 3 * rows], axis=1), "b": rows}
    return fill


def test_rows_are_computed_once(tmp_path):
    asked = []
    for _ in range(2):
        stored = kept_rows(tmp_path / "s", HEADER, make(asked), part=4)
        np.testing.assert_array_equal(stored["b"], np.arange(10))
        np.testing.assert_array_equal(stored["a"][9], [9, 18, 27])
        assert stored["a"].dtype == np.float16
    assert asked == [0, 4, 8]


def test_an_interrupted_store_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        kept_rows(tmp_path / "s", HEADER, make(stop_at=8), part=4)
    asked = []
    stored = kept_rows(tmp_path / "s", HEADER, make(asked), part=4)
    assert asked == [8]
    np.testing.assert_array_equal(stored["b"], np.arange(10))


@pytest.mark.filterwarnings("ignore")
def test_damaged_rows_are_computed_again(tmp_path):
    kept_rows(tmp_path / "s", HEADER, make(), part=4)
    array = np.load(tmp_path / "s" / "a.npy", mmap_mode="r+")
    array[5] = 7
    array.flush()
    asked = []
    stored = kept_rows(tmp_path / "s", HEADER, make(asked), part=4)
    assert asked == [4] and stored["a"][5, 0] == 5
    path = tmp_path / "s" / "b.npy"
    path.write_bytes(path.read_bytes()[:100])
    assert kept_rows(tmp_path / "s", HEADER, make(), part=4)["b"][9] == 9
    for text in ("{", "[]", json.dumps({"header": 3})):
        (tmp_path / "s" / INFO).write_text(text)
        assert kept_rows(tmp_path / "s", HEADER, make(), part=4)["b"][9] == 9


def test_rows_of_something_else_are_refused(tmp_path):
    kept_rows(tmp_path / "s", HEADER, make(), part=4)
    other = RowsHeader(rows=10, arrays=HEADER.arrays, data_sha256="d", checkpoint_sha256="another")
    with pytest.raises(CheckpointMismatch, match="checkpoint_sha256"):
        kept_rows(tmp_path / "s", other, make(), part=4)
    with pytest.raises(BadParameter, match="rows and arrays"):
        RowsHeader(rows=0, arrays={}, data_sha256="", checkpoint_sha256="")
    with pytest.raises(BadParameter, match="expected"):
        kept_rows(tmp_path / "t", HEADER, lambda first, end: {"a": np.zeros(2), "b": np.zeros(2)}, part=4)

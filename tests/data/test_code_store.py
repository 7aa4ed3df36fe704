"""Codes on disk: what was written is read, whoever was killed, by several processes, and never from a damaged file."""

import os
import pickle
import random
import resource
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from t2ilib.data.code_reader import CodeReader
from t2ilib.data.code_store import CodesHeader, CodeWriter
from t2ilib.errors import BadParameter, CheckpointMismatch, MissingAsset, RunFailed
from t2ilib.locks import release_all

HEADER = CodesHeader(shapes=((4, 4), (8, 6)), codes=512, data_sha256="d" * 64, checkpoint_sha256="c" * 64)
COUNT = 300
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


def names(count=COUNT):
    return [f"group {i % 7}/drawing {i}{'é' * (i % 3)}.png" for i in range(count)]


def grids(name, header=HEADER):
    """Return the codes of a picture, which depend on its name alone."""
    stream = np.random.default_rng(sum(name.encode()))
    return [stream.integers(header.codes, size=shape) for shape in header.shapes]


def write(path, *, count=COUNT, header=HEADER, batch=7, commit_every=10, finish=True, pause=0.0):
    with CodeWriter(path, header, commit_every=commit_every) as store:
        left = [name for name in names(count) if name not in store]
        for first in range(0, len(left), batch):
            part = left[first:first + batch]
            columns = zip(*[grids(name, header) for name in part], strict=True)
            store.add(part, *[torch.from_numpy(np.stack(column)) for column in columns])
            time.sleep(pause)
        if finish:
            store.finish()
    return path


def content(path):
    store = CodeReader(path)
    store.check()
    return store.header, {name: [grid.tolist() for grid in store[name]] for name in store.names()}


def in_a_child(work):
    """Run the work in a forked process; return its number."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            release_all()
            os._exit(code)
    return child


def ended_well(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_was_written_is_read(tmp_path):
    store = CodeReader(write(tmp_path / "new" / "codes.lmdb"), HEADER)
    assert len(store) == COUNT and sorted(store.names()) == sorted(names())
    for name in names():
        for found, expected in zip(store[name], grids(name), strict=True):
            assert found.dtype == np.dtype("<u2") and np.array_equal(found, expected)
    assert "other.png" not in store and names()[5] in store
    batch = store.batch(names()[:3], level=1)
    assert batch.dtype == torch.int64 and batch.shape == (3, 8, 6)
    assert np.array_equal(batch[2], grids(names()[2])[1])
    assert os.listdir(tmp_path / "new") == ["codes.lmdb"]  # neither locks nor temporary files stay
    assert store._map.env.info()["last_pgno"] * 4096 < 4 * COUNT * HEADER.picture_bytes + 2**16


def test_arrays_lie_in_the_file_and_outlive_the_reader(tmp_path):
    store = CodeReader(write(tmp_path / "codes.lmdb"))
    array = store[names()[0]][1]
    again = store[names()[0]][1]
    assert array.__array_interface__["data"][0] == again.__array_interface__["data"][0]
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1
    row = array[3]
    del store, array, again
    assert row.tolist() == grids(names()[0])[1][3].tolist()
    assert CodeReader(tmp_path / "codes.lmdb")[names()[0]][1][3].tolist() == row.tolist()


@pytest.mark.parametrize("codes, dtype", [(1, "u1"), (256, "u1"), (257, "<u2"), (65536, "<u2"), (65537, "<i4")])
def test_codes_take_as_few_bytes_as_they_can(tmp_path, codes, dtype):
    header = CodesHeader(shapes=[(2, 2)], codes=codes, data_sha256="", checkpoint_sha256="")
    with CodeWriter(tmp_path / "codes.lmdb", header) as store:
        store.add(["a"], torch.full((1, 2, 2), codes - 1))
        store.finish()
    (found,) = CodeReader(tmp_path / "codes.lmdb")["a"]
    assert found.dtype == np.dtype(dtype) and (found == codes - 1).all()
    assert header.picture_bytes == 4 * np.dtype(dtype).itemsize


def test_the_map_grows(tmp_path, monkeypatch):
    monkeypatch.setattr("t2ilib.data.code_store.FIRST_MAP", 2**15)
    write(tmp_path / "grown.lmdb", commit_every=100)
    assert os.path.getsize(tmp_path / "grown.lmdb") > 2**15
    assert content(tmp_path / "grown.lmdb") == content(write(tmp_path / "other.lmdb", batch=1, commit_every=1))


@forks
def test_killed_at_random_moments_and_resumed(tmp_path):
    expected = content(write(tmp_path / "whole.lmdb"))
    chance = random.Random(0)
    kills = 0
    for number in range(3):
        path = tmp_path / f"killed {number}.lmdb"
        for _ in range(8):
            child = in_a_child(lambda path=path: write(path, pause=0.01))
            time.sleep(chance.uniform(0, 0.2))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if not os.WIFSIGNALED(status):
                break
            kills += 1
            if path.exists():
                try:
                    CodeReader(path)
                except CheckpointMismatch as error:
                    assert "not finished" in str(error)
        write(path)
        assert content(path) == expected
        left = [name for name in os.listdir(tmp_path) if name.startswith(f"killed {number}.lmdb.")]
        assert left == []
    assert kills > 10


@forks
def test_several_processes_read_at_once_and_after_a_fork(tmp_path):
    store = CodeReader(write(tmp_path / "codes.lmdb"))
    before = store[names()[0]][0]

    def read(part):
        again = CodeReader(store.path)
        for name in names()[part::3]:
            for reader in (store, again):
                if not all(map(np.array_equal, reader[name], grids(name))):
                    raise ValueError(name)
        if not np.array_equal(before, grids(names()[0])[0]):
            raise ValueError("an array from before the fork")

    children = [in_a_child(lambda part=part: read(part)) for part in range(3)]
    read(0)
    assert list(map(ended_well, children)) == [True] * 3
    read(1)


def test_a_worker_that_is_spawned_opens_it_itself(tmp_path):
    data = pickle.dumps(CodeReader(write(tmp_path / "codes.lmdb"), HEADER))
    assert len(data) < 1000
    store = pickle.loads(data)
    assert store.batch(names()[:2]).tolist() == [grids(name)[0].tolist() for name in names()[:2]]


@pytest.mark.parametrize("change, message", [
    (dict(checkpoint_sha256="e" * 64), "checkpoint_sha256 is 'ccc"), (dict(data_sha256="e"), "data_sha256"),
    (dict(codes=256), "codes is 512 instead of 256"), (dict(shapes=[(4, 4)]), r"shapes is \(\(4, 4\), \(8, 6\)\)")])
def test_codes_of_another_model_are_refused(tmp_path, change, message):
    path = write(tmp_path / "codes.lmdb", count=3)
    for opens in (CodeReader, CodeWriter):
        with pytest.raises(CheckpointMismatch, match=f"another model.*{message}"):
            opens(path, replace(HEADER, **change))
    assert len(CodeReader(path, HEADER)) == 3


@forks
@pytest.mark.parametrize("readonly", [True, False])
def test_a_file_that_was_cut_short_is_refused(tmp_path, readonly):
    whole = write(tmp_path / "codes.lmdb").read_bytes()
    sizes = [0, 1, 100, 4096, 5000, 8192, 10_000, len(whole) // 2, len(whole) - 4096, len(whole) - 1]

    def read():
        for size in sizes:
            path = tmp_path / f"{readonly} {size}.lmdb"
            path.write_bytes(whole[:size])
            with pytest.raises(CheckpointMismatch, match="damaged"):
                CodeReader(path) if readonly else CodeWriter(path, HEADER)
            assert path.stat().st_size == size

    assert ended_well(in_a_child(read))  # reading behind the end would end the process


def test_what_is_no_store_is_refused(tmp_path):
    import lmdb

    with pytest.raises(MissingAsset, match="CodeWriter"):
        CodeReader(tmp_path / "codes.lmdb")
    (tmp_path / "codes.lmdb").write_bytes(random.Random(0).randbytes(20_000))
    for opens in (CodeReader, CodeWriter):
        with pytest.raises(CheckpointMismatch, match="no store of codes"):
            opens(tmp_path / "codes.lmdb", HEADER)
    for name, value in {"empty": None, "no JSON": b"{", "no object": b"3", "another format": b'{"format": 9}',
                        "half a header": b'{"format": 1, "finished": true, "codes": 3}'}.items():
        env = lmdb.open(str(tmp_path / name), subdir=False, lock=False)
        if value is not None:
            with env.begin(write=True) as transaction:
                transaction.put(b"\0header", value)
        env.close()
        with pytest.raises(CheckpointMismatch, match="no store of codes of this version"):
            CodeReader(tmp_path / name)


def test_pictures_that_are_damaged_are_found(tmp_path):
    import lmdb

    for name, value in {"short": b"12", "large": b"\xff" * HEADER.picture_bytes}.items():
        path = write(tmp_path / f"{name}.lmdb", count=3)
        env = lmdb.open(str(path), subdir=False, lock=False)
        with env.begin(write=True) as transaction:
            transaction.put(names()[1].encode(), value)
        env.close()
        with pytest.raises(CheckpointMismatch, match="damaged"):
            CodeReader(path).check()


def test_a_store_that_is_not_finished_is_refused_and_goes_on(tmp_path):
    path = write(tmp_path / "codes.lmdb", count=20, finish=False)
    with pytest.raises(CheckpointMismatch, match="not finished, it holds 20 pictures"):
        CodeReader(path)
    with pytest.raises(KeyboardInterrupt):
        with CodeWriter(path, HEADER) as store:
            store.add(names()[20:21], *[grid[None] for grid in grids(names()[20])])
            raise KeyboardInterrupt
    with CodeWriter(path, HEADER) as store:
        assert len(store) == 21 and names()[20] in store and names()[21] not in store
    assert content(write(path)) == content(write(tmp_path / "whole.lmdb"))
    assert content(write(path)) == content(path)  # once more changes nothing
    with CodeWriter(path, HEADER) as store:
        with pytest.raises(BadParameter, match="is finished, and has no 'late.png'"):
            store.add(["late.png"], *[grid[None] for grid in grids("late.png")])


def test_bad_pictures(tmp_path):
    good = [torch.zeros(2, *shape).long() for shape in HEADER.shapes]
    with CodeWriter(tmp_path / "codes.lmdb", HEADER) as store:
        for wrong, message in [
            ([good[0]], "need codes of shapes"), ([good[0], good[1][:1]], "need codes of shapes"),
            ([good[0], good[1] + 512], "from 0 to 511"), ([good[0] - 1, good[1]], "from 0 to 511"),
            ([good[0], good[1].float()], "in float32"),
        ]:
            with pytest.raises(BadParameter, match=message):
                store.add(["a", "b"], *wrong)
        for name in ("", "x" * 512, "a\0b"):
            with pytest.raises(BadParameter, match="1 to 511 bytes"):
                store.add([name, "b"], *good)
        store.add(["a", "a"], *good)
        with pytest.raises(BadParameter, match="other codes of 'a'"):
            store.add(["a", "b"], *[grid + 1 for grid in good])
        assert len(store) == 1
        with pytest.raises(BadParameter, match="commit_every"):
            CodeWriter(tmp_path / "other.lmdb", HEADER, commit_every=0)
        store.finish()
    with pytest.raises(BadParameter, match="has no codes of 'c'"):
        CodeReader(tmp_path / "codes.lmdb")["c"]
    for wrong in (dict(shapes=[]), dict(shapes=[(0, 4)]), dict(codes=0)):
        with pytest.raises(BadParameter, match="a store needs grids"):
            replace(HEADER, **wrong)


@forks
def test_two_writers_and_a_full_disk(tmp_path):
    def second():
        with pytest.raises(BadParameter, match="in use by another run"):
            CodeWriter(tmp_path / "codes.lmdb", HEADER)

    def full():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
        with pytest.raises(RunFailed, match="what was committed before is there"):
            write(tmp_path / "full.lmdb")

    with CodeWriter(tmp_path / "codes.lmdb", HEADER):
        child = os.fork()
        if child == 0:
            from t2ilib import locks

            locks._held.clear()  # what a process of its own would begin with
            code = 1
            try:
                second()
                code = 0
            finally:
                os._exit(code)
        assert ended_well(child)
    assert ended_well(in_a_child(full))
    with CodeWriter(tmp_path / "full.lmdb", HEADER) as store:
        assert 0 < len(store) < COUNT
    assert content(write(tmp_path / "full.lmdb")) == content(write(tmp_path / "codes.lmdb"))

"""What is timed reads what was written, and rows say pictures a second and bytes a picture."""

import pytest
import torch

from t2ilib.bench.code_store import LMDB, MEMORY_MAP, PNG, Material, code_store_rows, readers

CPU = torch.device("cpu")


def test_all_read_what_was_written(tmp_path):
    material = Material(40)
    places = {PNG: tmp_path / "png", LMDB: tmp_path / "codes.lmdb", MEMORY_MAP: tmp_path / "codes.bin"}
    for write, path in zip((material.write_png, material.write_lmdb, material.write_memory_map), places.values(),
                           strict=True):
        write(path)
    rows = torch.tensor([3, 39, 0])
    found = {name: read(rows) for name, read in readers(material, places).items()}
    assert torch.equal(found[PNG], torch.from_numpy(material.pictures)[rows])
    for name in (LMDB, MEMORY_MAP):
        assert found[name].dtype == torch.int64 and torch.equal(found[name], material.codes[rows])


def test_rows():
    rows = list(code_store_rows(CPU, 0.0, pictures=64))
    assert [(row.mode, row.metric) for row in rows] == [
        (mode, metric) for mode, metric in [("write", "pictures/s"), ("size on disk", "bytes/picture"),
                                            ("random read", "pictures/s")] for _ in range(3)]
    for row in rows:
        assert row.p20 <= row.p50 <= row.p80
        if row.provider == PNG:
            assert row.ratio == 1
    sizes = {row.provider: row.p50 for row in rows if row.mode == "size on disk"}
    assert sizes[MEMORY_MAP] == pytest.approx(512, abs=64) and sizes[MEMORY_MAP] < sizes[LMDB] < sizes[PNG]

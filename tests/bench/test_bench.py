"""Benchmarks run, compare equal work, and keep what other devices measured."""

import csv
import importlib.util

import pytest
import torch

from t2ilib.bench import COLUMNS, kernels, measure, run_benchmark, write_rows
from t2ilib.errors import UnknownName


def test_the_kernels_write_their_table(tmp_path, monkeypatch):
    for name, sizes in {"NEAREST": ((70, 50, 8),), "NORMS": ((2, 8, 6, 5, 4),), "CUTS": ((32, 4, 16),)}.items():
        monkeypatch.setitem(getattr(kernels, name), "cpu", sizes)
    rows, path = run_benchmark("kernels", device="cpu", seconds=0.0, folder=tmp_path)
    with path.open(newline="") as f:
        table = list(csv.DictReader(f))
    assert len(table) == len(rows) and list(table[0]) == COLUMNS
    assert all(0 <= row.p20 <= row.p50 <= row.p80 for row in rows)
    assert all(row.p50 > 0 for row in rows if row.metric not in ("MiB", "of roofline"))  # these may round to nothing
    assert {row.metric for row in rows} == {"GB/s", "GFLOP/s", "ms", "MiB", "of roofline"}
    assert {row.kernel for row in rows} == {"machine", *kernels.CASES}
    shares = [row for row in rows if row.kernel == "nearest_code" and row.metric == "of roofline"]
    peer = ["vector-quantize-pytorch"] if importlib.util.find_spec("vector_quantize_pytorch") else []
    assert [row.provider for row in shares] == ["eager", "cdist", *peer, "t2ilib"]


def test_a_roof_is_the_slower_of_moving_and_calculating():
    case = kernels.Case("x", "", (), {}, moved=(1000, 3000), flop=10)
    assert kernels.Rates(copy=1e6, matmul=1e6).ideal_ms(case, "full") == pytest.approx(4.0)
    assert kernels.Rates(copy=1e9, matmul=1e3).ideal_ms(case, "forward") == pytest.approx(10.0)


def test_ratio_is_the_baseline_over_the_provider():
    work = torch.ones(200, 200)
    providers = {"once": lambda: work @ work, "often": lambda: [work @ work for _ in range(50)]}
    rows = {r.provider: r for r in measure("x", providers, baseline="often", mode="forward", shape="200", seconds=0.0)}
    ratio = rows["often"].p50 / rows["once"].p50
    assert rows["often"].ratio == 1.0 and rows["once"].ratio == pytest.approx(ratio, rel=0.05)


def test_rows_of_another_device_stay(tmp_path):
    rows = measure("x", {"a": lambda: None}, baseline="a", mode="forward", shape="", seconds=0.0)
    other = [type(rows[0])(**{**vars(rows[0]), "device": "Other GPU", "p50": 7.0})]
    path = write_rows(write_rows(tmp_path / "x.csv", other), rows)
    with path.open(newline="") as f:
        assert [r["device"] for r in csv.DictReader(f)] == ["Other GPU", rows[0].device]


def test_unknown_benchmark():
    with pytest.raises(UnknownName, match="did you mean kernels"):
        run_benchmark("kernel")

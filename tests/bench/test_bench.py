"""Benchmarks run, compare equal work, and keep what other devices measured."""

import csv

import pytest
import torch

from t2ilib.bench import BENCHMARKS, COLUMNS, measure, run_benchmark, write_rows
from t2ilib.errors import UnknownName


# their networks take seconds a call
LARGE = {"vqgan", "vqgan_clip", "vqgan_clip_score", "vqgan_clip_quality", "minimagen", "gan_step"}


@pytest.mark.parametrize("name", sorted(set(BENCHMARKS) - LARGE))
def test_a_benchmark_writes_its_table(name, tmp_path):
    rows, path = run_benchmark(name, device="cpu", seconds=0.0, folder=tmp_path)
    with path.open(newline="") as f:
        table = list(csv.DictReader(f))
    assert len(table) == len(rows) and list(table[0]) == COLUMNS
    assert all(row.p20 <= row.p50 <= row.p80 and row.p50 > 0 for row in rows)


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

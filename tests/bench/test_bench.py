"""Benchmarks run, compare equal work, and keep what other devices measured."""

import csv
import importlib.util

import pytest
import torch

from t2ilib.bench import COLUMNS, Clock, Contest, kernels, measure, row, run_benchmark, write_rows
from t2ilib.bench.measure import time_in_turns
from t2ilib.bench.memory import held_mib, peak_mib, resident_mib
from t2ilib.errors import UnknownName
from t2ilib.paths import repo_root

CPU = torch.device("cpu")


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


@pytest.fixture
def ticks(monkeypatch):
    """A clock that goes on by what is appended, one after another; it goes back to the real one after the test."""
    pending, now = [], [100.0]

    def clock():
        now[0] += pending.pop(0) if pending else 0.0
        return now[0]

    monkeypatch.setattr("time.perf_counter", clock)
    return pending


def test_the_clock_stands_still_while_others_work(ticks):
    clock = Clock(CPU)
    ticks += [2.0]
    assert clock() == 2.0
    ticks += [0.5, 7.0]  # until the pause, and in it
    assert clock.pause(lambda: "score") == "score"
    ticks += [1.0]
    assert clock() == 3.5


def test_turns_go_on_until_everybody_had_enough(ticks):
    calls = []
    ticks += [0, 1.0, 0, 4.0] * 3  # the first takes a second, the other four
    found = time_in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, CPU, 3.0, 2)
    assert "".join(calls) == "ababab"
    assert found["a"].tolist() == [1000.0] * 3 and found["b"].tolist() == [4000.0] * 3


def test_a_row_says_what_and_where():
    found = row("x", "a", "ms", (2.0, 1.0, 4.0), mode="step", shape="3", device=CPU, dtype="bfloat16", ratio=1.23456)
    assert (found.p50, found.p20, found.p80, found.ratio, found.threads) == (2, 1, 4, 1.235, torch.get_num_threads())
    rate = found.per_second(10, "pictures")
    assert rate.metric == "pictures/s" and (rate.p50, rate.p20, rate.p80) == (5000, 2500, 10000)
    assert row("x", "a", "s", 2, mode="", shape="", device=CPU).p20 == 2


def test_a_contest_tells_time_memory_and_precision_of_each():
    contest = Contest("x", "100", CPU)
    contest.add("classic", lambda: torch.ones(2**18), held=3.0)  # 1 MiB
    contest.add("ours", lambda: torch.ones(2**17), dtype="bfloat16", held=1.0, compiled=1)
    times = contest.time_rows("step", 0.0, 1)
    assert [(r.provider, r.dtype, r.metric, r.mode) for r in times] == [
        ("classic", "float32", "ms", "step"), ("ours", "bfloat16", "ms", "step")]
    assert [(r.provider, r.p50, r.ratio) for r in contest.memory_rows()] == [
        ("classic", 4.0, 1.0), ("ours", 1.5, 2.667)]
    assert [(r.provider, r.metric) for r in contest.compilation_rows()] == [("ours", "s")]


@pytest.mark.slow
def test_memory_is_that_of_tensors_or_of_a_process():
    layer = torch.nn.Linear(1024, 1024, bias=False)
    assert held_mib(layer, layer, device=CPU) == 4.0
    assert peak_mib(lambda: torch.ones(2**18).add(1), CPU) == 2.0
    small, large = resident_mib(torch.ones, 1), resident_mib(torch.ones, 200 * 2**18)
    assert 190 < large - small < 260  # 200 MiB more, in processes that have nothing else


def test_benchmarks_are_not_in_the_wheel():
    setuptools = pytest.importorskip("setuptools")
    tomllib = pytest.importorskip("tomllib")
    options = tomllib.loads((repo_root() / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    packages = setuptools.find_packages(str(repo_root()), **options)
    assert {"t2ilib", "t2ilib.training", "t2ilib.training.losses", "t2ilib.cli"} <= set(packages)
    assert not [name for name in packages if not name.startswith("t2ilib") or name.startswith("t2ilib.bench")]


def test_rows_of_another_device_stay(tmp_path):
    rows = measure("x", {"a": lambda: None}, baseline="a", mode="forward", shape="", seconds=0.0)
    other = [type(rows[0])(**{**vars(rows[0]), "device": "Other GPU", "p50": 7.0})]
    path = write_rows(write_rows(tmp_path / "x.csv", other), rows)
    with path.open(newline="") as f:
        assert [r["device"] for r in csv.DictReader(f)] == ["Other GPU", rows[0].device]


def test_unknown_benchmark():
    with pytest.raises(UnknownName, match="did you mean kernels"):
        run_benchmark("kernel")

import builtins
import io
import random
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from t2ilib import runtime
from t2ilib.errors import BadParameter, UnknownName
from t2ilib.paths import repo_root


def test_device_names(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert runtime.pick_device() == runtime.pick_device("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:1", "mps"):
        with pytest.raises(BadParameter, match=f"'{name}' is not available here; use device='auto' or 'cpu'"):
            runtime.pick_device(name)
    with pytest.raises(UnknownName, match="did you mean cuda"):
        runtime.pick_device("cud")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert runtime.pick_device() == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert runtime.pick_device() == torch.device("cuda") and runtime.pick_device("cuda:1") == torch.device("cuda:1")
    for name in ("cuda:2", "cuda:x", "cpu:1"):
        with pytest.raises(BadParameter, match="numbered from 0"):
            runtime.pick_device(name)


def test_precision(monkeypatch):
    assert runtime.pick_dtype("cpu", "bfloat16") == torch.bfloat16
    with pytest.raises(UnknownName, match="did you mean bfloat16"):
        runtime.pick_dtype("cpu", "bfloat")
    for flags, fast in (("avx2 avx512_bf16", True), ("amx_bf16", True), ("avx2", False)):
        text = f"processor : 0\nflags : {flags}\n"
        monkeypatch.setattr(builtins, "open", lambda *_, text=text: io.StringIO(text))
        assert runtime.pick_dtype("cpu") == (torch.bfloat16 if fast else torch.float32)
    monkeypatch.undo()
    for capability, expected in (((8, 0), torch.bfloat16), ((7, 5), torch.float32)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        assert runtime.pick_dtype("cuda") == expected
    assert runtime.pick_dtype("mps") == torch.float32


def test_autocast_is_off_for_full_precision():
    x = torch.randn(2, 2)
    for full in (torch.float32, torch.float64):
        with runtime.autocast("cpu", full):
            assert (x.to(full) @ x.to(full)).dtype == full
    with runtime.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16


def test_streams_are_the_same_everywhere():
    """Numbers that a picture made on any machine depends on: they must never change."""
    assert runtime.derived_seed(0, "noise") == 5127903134280592399
    assert runtime.derived_seed(7, "a", 3) == 7586947831408271327
    drawn = torch.randint(0, 2**31, (4,), generator=runtime.generator(0, "noise"))
    assert drawn.tolist() == [2090493081, 1682757264, 383226060, 347740457]
    torch.testing.assert_close(torch.randn(4, generator=runtime.generator(0, "noise")),
                               torch.tensor([-0.77649522, 1.56846631, -0.22600085, -1.86712492]))


def test_streams_are_independent():
    def draw(*key):
        return torch.randn(2000, generator=runtime.generator(*key))

    torch.testing.assert_close(draw(0, "a"), draw(0, "a"), rtol=0, atol=0)
    keys = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 0), (0, "a", 1), (0,), (1,), (10, "a"), (-1, "a")]
    correlation = torch.corrcoef(torch.stack([draw(*key) for key in keys])) - torch.eye(len(keys))
    assert correlation.abs().max() < 0.1
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    draw(0, "a")
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)  # the global state is not touched


def test_seed_everything():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    runtime.seed_everything(5)
    first = draw()
    runtime.seed_everything(5)
    assert draw() == first
    for seed in (-1, 2**32):
        with pytest.raises(BadParameter, match="seed must be in"):
            runtime.seed_everything(seed)


def test_nobody_watches_a_test(monkeypatch):
    assert not runtime.is_interactive()
    monkeypatch.setenv("T2I_INTERACTIVE", "1")
    assert runtime.is_interactive()
    monkeypatch.setenv("T2I_INTERACTIVE", "0")
    assert not runtime.is_interactive()


def test_who_watches_outside_of_tests(monkeypatch):
    def alone(**main):
        monkeypatch.setitem(sys.modules, "__main__", types.SimpleNamespace(**main))
        return runtime.is_interactive()

    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.delenv("T2I_RUN_DIR", raising=False)
    monkeypatch.setattr(runtime, "_parent_is", lambda *words: False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert not alone()  # a script
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    assert alone()
    assert not alone(PAPERMILL_INPUT_PATH="a.ipynb")
    monkeypatch.setenv("T2I_RUN_DIR", "somewhere")
    assert not alone()
    monkeypatch.delenv("T2I_RUN_DIR")
    monkeypatch.setattr(runtime, "_parent_is", lambda *words: "papermill" in words)
    assert not alone()


def test_progress_prints_lines_where_nobody_watches(capsys, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(runtime.time, "monotonic", lambda: next(clock))
    assert list(runtime.progress(range(6), desc="steps", every=10)) == list(range(6))
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["steps 3/6  0.25 it/s, 12 s left", "steps 6/6  0.25 it/s, 0 s left"]
    assert list(runtime.progress(iter("abc"), every=8)) == ["a", "b", "c"]
    assert capsys.readouterr().out.splitlines() == ["step 2/?  0.25 it/s"]


def test_progress_is_silent_for_quick_loops_and_other_ranks(capsys, monkeypatch):
    assert list(runtime.progress([1, 2, 3])) == [1, 2, 3]
    monkeypatch.setenv("RANK", "1")
    assert not runtime.rank_zero()
    assert list(runtime.progress([1, 2, 3], every=0)) == [1, 2, 3]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("threads, words", [(1, "CPU, 1 thread"), (2, "CPU, 2 threads")])
def test_threads_are_counted_in_good_english(threads, words, monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    assert runtime.device_name("cpu") == words


def test_describe_versions_and_memory():
    line = runtime.describe(torch.device("cpu"), torch.bfloat16, "quick", 3)
    assert "\n" not in line and line.startswith("device CPU, ")
    for part in ("bfloat16 ", "profile quick", "seed 3", f"torch {torch.__version__}", "commit "):
        assert part in line
    assert runtime.versions()["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(runtime.versions()) >= {"python", "platform", "numpy"}
    assert runtime.peak_memory("cpu") > 50 or sys.platform == "win32"


def test_commit_outside_git(monkeypatch, tmp_path):
    monkeypatch.setattr(runtime, "repo_root", lambda: tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert runtime.commit() == "unknown"

    def no_git(*args, **kwargs):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", no_git)
    assert runtime.commit() == "unknown"


def test_fallbacks_warn_at_the_callers_line():
    with pytest.warns(UserWarning, match="slower path"):
        runtime.warn_fallback("took the slower path")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux keeps the peak of each program")
def test_peak_memory_is_that_of_this_program_and_not_of_its_parent():
    code = "from t2ilib import runtime; print(runtime.peak_memory('cpu'))"
    held = torch.zeros(2**27 * 3)  # 1.5 GiB, written to
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repo_root())
    assert float(child.stdout) < held.nbytes / 2**20


def test_a_text_has_the_same_streams_whatever_is_drawn_beside_it():
    repeated, streams = runtime.texts_and_streams(["a heart", "a car"], 2, seed=3)
    assert repeated == ["a heart", "a heart", "a car", "a car"]
    seeds = [stream.initial_seed() for stream in streams]
    assert len(set(seeds)) == 4
    assert seeds[3] == runtime.derived_seed(3, "draw", "a car", 1)
    _, later = runtime.texts_and_streams(["a car"], 1, seed=3, first=1)
    assert later[0].initial_seed() == seeds[3]

"""What is done on a GPU for some minutes: shares of the time, results kept, and going on."""

import json
import subprocess
import sys
import time

import pytest

from t2ilib.__main__ import main
from t2ilib.bench import on_a_gpu
from t2ilib.bench.on_a_gpu import PARTS, Part, find_parts, page, run_parts, wait_for
from t2ilib.errors import BadParameter


def part(name, code, share=1.0):
    return Part(name, f"about {name}", share, lambda device, seconds, out: ["-c", code])


def test_parts_keep_their_results_and_a_later_call_takes_what_is_missing(tmp_path):
    counter = tmp_path / "count"
    count = f"open({str(counter)!r}, 'a').write('x')"
    parts = (part("first", count), part("broken", "raise SystemExit(3)"),
             part("last", f"import pathlib; pathlib.Path({str(tmp_path / 'out' / 'a.csv')!r}).write_text('x')"))
    for call in (1, 2):
        known = run_parts(tmp_path / "out", minutes=1, device="cpu", parts=parts)
        assert [known[name]["status"] for name in ("first", "broken", "last")] == ["ok", "failed with code 3", "ok"]
        assert counter.read_text() == "x", f"call {call} did again what was done"
    assert json.loads((tmp_path / "out" / "done.json").read_text()) == known
    text = (tmp_path / "out" / "gpu.md").read_text()
    assert "| broken | about broken | failed with code 3 |" in text and "a.csv (0.00 MiB)" in text
    assert "python -m t2ilib gpu --minutes 1 --out out" in text


def test_a_training_goes_on_with_every_call(tmp_path):
    counter = tmp_path / "count"
    training = Part("train", "about train", 1.0,
                    lambda device, seconds, out: ["-c", f"open({str(counter)!r}, 'a').write('x')"], goes_on=True)
    for calls in (1, 2):
        known = run_parts(tmp_path / "out", minutes=1, device="cpu", parts=[training])
        assert known["train"]["status"] == "saved, to go on"
        assert counter.read_text() == "x" * calls
    assert "goes on with trainings" in (tmp_path / "out" / "gpu.md").read_text()


def test_time_is_shared_and_what_it_does_not_suffice_for_is_named(tmp_path, monkeypatch):
    given = {}

    def run_part(part, out, *, device, seconds):
        given[part.name] = seconds
        clock[0] += seconds
        return {"status": "out of time", "seconds": seconds}

    clock = [0.0]
    monkeypatch.setattr(on_a_gpu, "run_part", run_part)
    monkeypatch.setattr(on_a_gpu.time, "monotonic", lambda: clock[0])
    parts = (part("a", "", 1), part("b", "", 3))
    run_parts(tmp_path, minutes=1, device="cpu", parts=parts)
    assert given == {"a": 15.0, "b": 45.0}
    given.clear()
    run_parts(tmp_path / "other", minutes=0.1, device="cpu", parts=parts)
    assert given == {}
    assert "| a | about a | not begun | 0 |" in (tmp_path / "other" / "gpu.md").read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="there a child cannot be interrupted")
def test_a_part_whose_time_is_up_may_save():
    code = "import time, sys\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('saved', flush=True)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    began = time.monotonic()
    assert wait_for(child, 1.0) == "out of time"
    assert child.stdout.read() == "saved\n" and time.monotonic() - began < 15


def test_bad_calls(tmp_path, capsys):
    with pytest.raises(BadParameter, match="unknown parts benches; known are kernel_tests"):
        find_parts(["benches"])
    with pytest.raises(BadParameter, match="minutes must be above 0"):
        run_parts(tmp_path, minutes=0, device="cpu")
    assert [p.name for p in find_parts(["train_base", "kernel_tests"])] == ["kernel_tests", "train_base"]
    assert "not begun" in page({}, PARTS, tmp_path, on_a_gpu.pick_device("cpu"), 9)


@pytest.mark.long
def test_a_dry_run_goes_through_all_of_it(tmp_path, capsys):
    began = time.monotonic()
    assert main(["gpu", "--dry-run", "--minutes", "2", "--out", str(tmp_path / "out")]) == 0
    assert time.monotonic() - began < 120 + 15 * len(PARTS)
    known = json.loads((tmp_path / "out" / "done.json").read_text())
    begun = [part.name for part in PARTS][:len(known)]
    assert list(known) == begun and len(begun) >= 5  # on a busy machine the time does not suffice for all
    assert {entry["status"] for entry in known.values()} <= {"ok", "out of time", "saved, to go on"}, known

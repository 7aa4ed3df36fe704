import json

import pytest
import torch

from t2ilib.errors import BadParameter, UnknownName
from t2ilib.lesson import start

PROFILES = dict(smoke=dict(steps=2), quick=dict(steps=10, rate=0.1), full=dict(steps=1000))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("T2I_RUN_DIR", str(tmp_path))
    return tmp_path


def test_one_call_resolves_everything(folder, capsys):
    run, cfg, device, dtype = start("08_x", profile="quick", seed=3, device="cpu", dtype="float32", steps=7, rate=None,
                                    prompt="a heart", **PROFILES)
    assert (cfg.steps, cfg.rate) == (7, 0.1) and device == torch.device("cpu") and dtype == torch.float32
    drawn = torch.rand(2)
    record = json.loads((folder / "run.json").read_text())
    assert record["name"] == "08_x" and record["parameters"]["given"]["prompt"] == "a heart"
    assert record["parameters"]["resolved"] == {"steps": 7, "rate": 0.1} and run.dir == folder
    line = capsys.readouterr().out
    assert "profile quick | seed 3" in line and line.count("\n") == 1
    start("08_x", profile="smoke", seed=3, device="cpu", **PROFILES)
    assert torch.equal(torch.rand(2), drawn)  # the seed is set


def test_threads_are_set_and_other_ranks_say_nothing(monkeypatch, capsys):
    before = torch.get_num_threads()
    try:
        start("08_x", profile="smoke", threads=1, **PROFILES)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    monkeypatch.setenv("RANK", "1")
    capsys.readouterr()
    start("08_x", profile="smoke", **PROFILES)
    assert capsys.readouterr().out == ""


def test_what_cannot_be_is_refused():
    with pytest.raises(UnknownName, match="did you mean quick"):
        start("08_x", profile="quik", **PROFILES)
    with pytest.raises(UnknownName, match="device"):
        start("08_x", profile="quick", device="gpu", **PROFILES)
    with pytest.raises(BadParameter, match="steps must be int"):
        start("08_x", profile="quick", steps="many", **PROFILES)


def test_double_precision_is_for_notebooks_that_take_it():
    with pytest.raises(UnknownName, match="dtype 'float64'"):
        start("08_x", profile="quick", dtype="float64", **PROFILES)
    lesson = start("02_x", profile="quick", dtype="float64", dtypes=("float32", "float64"), **PROFILES)
    assert lesson.dtype == torch.float64 and lesson.run.data["parameters"]["given"]["dtype"] == "float64"
    with pytest.raises(UnknownName, match="dtype 'float16'"):
        start("02_x", profile="quick", dtype="float16", dtypes=("float32", "float64"), **PROFILES)

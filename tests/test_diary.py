import types

import torch

from t2ilib import show
from t2ilib.diary import Diary
from t2ilib.training import load_training, save_training


def train(steps, path=None, stop=None):
    """A training whose value at each step is its number squared."""
    diary = Diary()
    first = load_training(path, diary=diary) if path and path.exists() else 0
    for step in diary.timed(range(first, steps)):
        if step == stop:
            return diary
        diary.note(step, square=torch.tensor(step ** 2), half=step / 2)
        if step % 2 == 0:
            diary.pictures[f"step {step}"] = torch.full((1, 3, 2, 2), step / 10)
        if path:
            save_training(path, step=step + 1, diary=diary)
    return diary


def test_a_resumed_training_shows_what_a_whole_one_shows(tmp_path):
    whole = train(5)
    assert whole.curves == {"square": ([0, 1, 2, 3, 4], [0.0, 1.0, 4.0, 9.0, 16.0]),
                            "half": ([0, 1, 2, 3, 4], [0.0, 0.5, 1.0, 1.5, 2.0])}
    train(5, tmp_path / "state.pt", stop=3)
    resumed = train(5, tmp_path / "state.pt")
    assert resumed.curves == whole.curves
    assert list(resumed.pictures) == ["step 0", "step 2", "step 4"]
    assert all(torch.equal(resumed.pictures[k], whole.pictures[k]) for k in whole.pictures)
    done = train(5, tmp_path / "state.pt")  # nothing left to do
    assert done.curves == whole.curves and list(done.pictures) == list(whole.pictures)


def test_what_is_saved_is_not_changed_by_what_comes_after():
    diary = Diary()
    diary.note(0, loss=1.0)
    saved = diary.state_dict()
    diary.note(1, loss=0.5)
    diary.pictures["late"] = torch.zeros(1, 3, 2, 2)
    other = Diary()
    other.load_state_dict(saved)
    other.note(7, loss=0.1)
    assert saved["curves"] == {"loss": [[0], [1.0]]} and saved["pictures"] == {}
    assert other.curves == {"loss": ([0, 7], [1.0, 0.1])} and diary.curves == {"loss": ([0, 1], [1.0, 0.5])}


def test_seconds_are_those_of_the_steps_of_all_its_parts(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("t2ilib.diary.time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    diary = Diary()
    for _ in diary.timed(range(2)):
        now[0] += 3
    now[0] += 50  # between the parts nothing counts
    later = Diary()
    later.load_state_dict(diary.state_dict())
    assert later.seconds == diary.seconds == 6
    for _ in later.timed(range(1)):
        now[0] += 3
    assert later.seconds == 9 and diary.seconds == 6


def test_its_curves_are_drawn_as_they_are():
    assert show.curves(train(3).curves).axes

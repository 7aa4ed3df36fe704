import types

import torch

from t2ilib import show
from t2ilib.training import load_training, save_training
from t2ilib.training.history import History


def train(steps, path=None, stop=None):
    """A training whose value at each step is its number squared."""
    history = History()
    first = load_training(path, settings={}, history=history) if path and path.exists() else 0
    for step in history.timed(range(first, steps)):
        if step == stop:
            return history
        history.add(step, square=torch.tensor(step ** 2), half=step / 2)
        if step % 2 == 0:
            history.pictures[f"step {step}"] = torch.full((1, 3, 2, 2), step / 10)
        if path:
            save_training(path, step=step + 1, settings={}, history=history)
    return history


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
    history = History()
    history.add(0, loss=1.0)
    saved = history.state_dict()
    history.add(1, loss=0.5)
    history.pictures["late"] = torch.zeros(1, 3, 2, 2)
    other = History()
    other.load_state_dict(saved)
    other.add(7, loss=0.1)
    assert saved["curves"] == {"loss": [[0], [1.0]]} and saved["pictures"] == {}
    assert other.curves == {"loss": ([0, 7], [1.0, 0.1])} and history.curves == {"loss": ([0, 1], [1.0, 0.5])}


def test_seconds_are_those_of_the_steps_of_all_its_parts(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("t2ilib.training.history.time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    history = History()
    for _ in history.timed(range(2)):
        now[0] += 3
    now[0] += 50  # between the parts nothing counts
    later = History()
    later.load_state_dict(history.state_dict())
    assert later.seconds == history.seconds == 6
    for _ in later.timed(range(1)):
        now[0] += 3
    assert later.seconds == 9 and history.seconds == 6


def test_its_curves_are_drawn_as_they_are():
    assert show.curves(train(3).curves).axes

"""A training's loop: its length in steps or minutes, its states, and how it is stopped."""

import os
import signal
import types

import pytest
import torch
from torch import nn

from t2ilib.errors import BadParameter, CheckpointMismatch
from t2ilib.training import TrainingLoop, cosine_lr
from t2ilib.training import loop as loop_module

SETTINGS = {"seed": 0}


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(loop_module, "time", types.SimpleNamespace(perf_counter=lambda: self.now))


def parts():
    torch.manual_seed(0)
    return {"network": nn.Linear(1, 1)}


def test_by_steps_position_is_the_step():
    loop = TrainingLoop(steps=5)
    seen = [(step, loop.position, loop.is_last) for step in loop]
    assert seen == [(0, 0, False), (1, 1, False), (2, 2, False), (3, 3, False), (4, 4, True)]
    assert list(TrainingLoop(steps=0)) == []


def test_marks_are_passed_once_by_steps_and_by_minutes(monkeypatch):
    loop = TrainingLoop(steps=8)
    assert [step for step in loop if loop.passes((1, 4, 8))] == [0, 3, 7]
    clock = Clock(monkeypatch)
    timed, reached = TrainingLoop(steps=8, minutes=1), []
    for step in timed:
        clock.now += 10
        if timed.passes((2, 8)):
            reached.append(step)
    assert reached == [2, 5]  # of six steps of ten seconds


def test_by_minutes_schedules_follow_the_share_of_time(monkeypatch):
    clock, rates, positions = Clock(monkeypatch), [], []
    loop = TrainingLoop(steps=100, minutes=1)
    for _ in loop:
        positions.append(loop.position)
        rates.append(cosine_lr(loop.position, 100, peak=1.0, floor=0.0))
        clock.now += 6
    assert positions == pytest.approx([0, 10, 20, 30, 40, 50, 60, 70, 80, 90]) and loop.is_last
    assert rates[0] == 1 and rates[5] == pytest.approx(0.5)


def test_a_slow_step_ends_the_time_with_one_last_step(monkeypatch):
    clock, last = Clock(monkeypatch), []
    loop = TrainingLoop(steps=100, minutes=1)
    for step in loop:
        last.append(loop.is_last)
        clock.now += 50 * step
    assert last == [False, False, True] and loop.seconds == 150


def test_minutes_are_counted_over_interruptions_and_can_be_added_to(monkeypatch, tmp_path):
    clock, state = Clock(monkeypatch), tmp_path / "state.pt"

    def go_on(minutes, stop_after=None):
        made = parts()
        loop = TrainingLoop(steps=10, minutes=minutes, state=state, settings=SETTINGS, parts=made)
        steps = []
        for step in loop:
            clock.now += 10
            steps.append((step, round(loop.position, 3)))
            made["network"].weight.data += 1
            if step == stop_after:
                os.kill(os.getpid(), signal.SIGINT)
        return steps, made["network"].weight.item()

    before = parts()["network"].weight.item()
    with pytest.raises(KeyboardInterrupt, match="stopped after step 3, which is saved in .*state.pt"):
        go_on(1, stop_after=2)
    steps, weight = go_on(1)
    assert steps == [(3, 5.0), (4, 6.667), (5, 8.333)] and weight == pytest.approx(before + 6)
    assert go_on(1)[0] == []
    assert [step for step, _ in go_on(2)[0]] == [6, 7, 8, 9, 10, 11]
    with pytest.raises(CheckpointMismatch, match="timed was True and is None"):
        TrainingLoop(steps=10, state=state, settings=SETTINGS, parts=parts())
    with pytest.raises(BadParameter, match="minutes must be above 0"):
        TrainingLoop(steps=10, minutes=0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_the_step(tmp_path, number):
    state, finished, handler = tmp_path / "state.pt", [], signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        for step in TrainingLoop(steps=9, state=state, settings=SETTINGS, parts=parts()):
            if step == 4:
                os.kill(os.getpid(), number)
            finished.append(step)
    assert finished == [0, 1, 2, 3, 4] and signal.getsignal(number) is handler
    assert TrainingLoop(steps=9, state=state, settings=SETTINGS, parts=parts()).first == 5


def test_a_second_signal_does_not_wait(tmp_path):
    finished = []
    with pytest.raises(KeyboardInterrupt):
        for step in TrainingLoop(steps=9, state=tmp_path / "state.pt", settings=SETTINGS, parts=parts()):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            finished.append(step)
    assert finished == [] and not (tmp_path / "state.pt").exists()


def test_an_error_in_a_step_is_not_saved(tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError):
        for step in TrainingLoop(steps=9, state=tmp_path / "state.pt", settings=SETTINGS, parts=parts()):
            step / 0
    assert not (tmp_path / "state.pt").exists() and signal.getsignal(signal.SIGINT) is handler


def test_all_processes_follow_the_clock_of_the_first(monkeypatch):
    clock = Clock(monkeypatch)
    fabric = types.SimpleNamespace(world_size=2, broadcast=lambda seconds: 2 * seconds)  # the first one is slower
    loop = TrainingLoop(steps=10, minutes=1, fabric=fabric)
    for _ in loop:
        clock.now += 10
    assert loop.seconds == 60 and clock.now == 30

import importlib.metadata
import json
import math
import os
import random
import runpy
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import torch
from torch import nn

from t2ilib import training
from t2ilib.errors import BadParameter, CheckpointMismatch, MissingAsset, UnknownName
from t2ilib.paths import repo_root
from t2ilib.runtime import generator
from t2ilib.training import (
    EMA,
    Batches,
    Every,
    average_gradients,
    cosine_lr,
    load_training,
    make_tracker,
    recalibrate_batch_norm,
    save_training,
    set_lr,
)
from t2ilib.training import fabric as fabric_module

# --- batches ----------------------------------------------------------------------------------------------------------

SETTINGS = {"seed": 0, "steps": 12}


def batches(n=10, size=4, seed=0, **options):
    return Batches(n, size, generator(seed, "batches"), **options)


def test_each_epoch_shows_every_item_once_and_batches_are_full():
    stream = batches()
    drawn = torch.cat([stream.next() for _ in range(10)])  # 40 draws: 4 epochs
    assert drawn.shape == (40,) and drawn.dtype == torch.int64
    epochs = drawn.view(4, 10)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(10))
    assert not torch.equal(epochs[0], epochs[1]) and stream.epoch == 4
    assert len(batches(n=3, size=8).next()) == 8  # more than an epoch


def test_processes_together_see_what_one_would():
    one, two = batches(size=6), [batches(size=6, rank=r, world_size=3) for r in range(3)]
    for _ in range(7):
        parts = torch.stack([b.next() for b in two])  # (3, 2)
        torch.testing.assert_close(parts.t().flatten(), one.next())


@pytest.mark.parametrize("after", [0, 1, 5])
def test_position_is_restored(after):
    stream = batches()
    for _ in range(after):
        stream.next()
    state = stream.state_dict()
    expected = [stream.next() for _ in range(6)]
    other = batches(seed=99)
    other.next()
    other.load_state_dict(state)
    assert all(torch.equal(other.next(), batch) for batch in expected)


def test_wrong_batches_are_refused():
    for n, size in ((0, 4), (4, 0)):
        with pytest.raises(BadParameter, match="at least one"):
            batches(n, size)
    with pytest.raises(BadParameter, match="batch_size 5 must be a multiple of the number of processes, 2"):
        batches(size=5, world_size=2)
    with pytest.raises(CheckpointMismatch, match="of 10 items, these are of 9"):
        batches(n=9).load_state_dict(batches().state_dict())


# --- moving average, schedule -----------------------------------------------------------------------------------------


def test_ema_values_warm_up_and_buffers():
    net = nn.BatchNorm1d(2)
    ema = EMA(net, 0.5)
    expected = net.weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            net.weight.add_(1.0)
            net.running_mean.fill_(step)
        ema.update(net)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * net.weight.detach()
        torch.testing.assert_close(ema.model.weight.detach(), expected)
    assert (1 + 1) / (10 + 1) < 0.5 == decay  # it did warm up, and did reach its decay
    assert ema.model.running_mean.tolist() == [29, 29] and not ema.model.training
    assert net.training and net.weight.requires_grad and not ema.model.weight.requires_grad
    other = EMA(nn.BatchNorm1d(2), 0.5)
    other.load_state_dict(ema.state_dict())
    assert other.step == 29
    torch.testing.assert_close(other.model.weight, ema.model.weight, rtol=0, atol=0)
    for decay in (1.0, -0.1):
        with pytest.raises(BadParameter, match="decay"):
            EMA(net, decay)


def test_cosine_schedule():
    def rates(n):
        return [cosine_lr(i, 100, peak=2.0, warmup=10, floor=0.1) for i in range(n)]

    values = rates(151)
    assert values[0] == pytest.approx(0.2) and values[9] == values[10] == pytest.approx(2.0)
    assert values[55] == pytest.approx(2 * (0.1 + 0.9 * 0.5)) and values[100] == values[150] == pytest.approx(0.2)
    assert all(a > b for a, b in zip(values[10:100], values[11:101], strict=True))
    assert cosine_lr(0, 10, peak=1.0) == 1.0 and cosine_lr(10, 10, peak=1.0) == pytest.approx(0.0)
    assert math.isfinite(cosine_lr(5, 5, peak=1.0, warmup=5))
    net = nn.Linear(2, 2)
    optimizer = torch.optim.SGD([{"params": [net.weight]}, {"params": [net.bias], "lr_scale": 0.1}], lr=1.0)
    set_lr(optimizer, 0.5)
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.05]


def test_every(monkeypatch):
    now = [100.0]
    clock = types.SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("t2ilib.training.schedule.time", clock)
    due = Every(10)
    assert not due()
    now[0] += 9.9
    assert not due() and due(force=True)
    now[0] += 9.9
    assert not due()
    now[0] += 0.2
    assert due() and not due()


# --- resume -----------------------------------------------------------------------------------------------------------


class Job:
    """A small training that uses every source of chance: global torch, Python and NumPy, own streams, dropout."""

    def __init__(self):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        self.model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Dropout(0.3),
                                   nn.Conv2d(8, 3, 3, padding=1))
        self.ema = EMA(self.model, 0.9)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.stream = generator(0, "noise")
        self.batches = Batches(12, 5, generator(0, "batches"))
        self.data = torch.rand(12, 3, 6, 6, generator=generator(0, "data"))

    def parts(self):
        return dict(model=self.model, ema=self.ema, optimizer=self.optimizer, stream=self.stream, batches=self.batches)

    def run(self, first, last):
        losses = []
        for step in range(first, last):
            set_lr(self.optimizer, cosine_lr(step, 12, peak=1e-2, warmup=3))
            x = self.data[self.batches.next()]
            x = x * random.uniform(0.9, 1.1) + 0.01 * float(np.random.randn()) + 0.01 * torch.randn_like(x)
            noise = torch.randn(x.shape, generator=self.stream)
            loss = (self.model(x + 0.1 * noise) - x).square().mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.ema.update(self.model)
            losses.append(loss.item())
        return losses


@pytest.mark.parametrize("stop", [1, 7])
def test_interrupted_equals_uninterrupted_bit_for_bit(tmp_path, stop):
    whole = Job()
    losses = whole.run(0, 12)
    cut = Job()
    assert cut.run(0, stop) == losses[:stop]
    save_training(tmp_path / "deep" / "state.pt", step=stop, settings=SETTINGS, **cut.parts())
    cut.run(stop, 12)  # what happens after the save must not leak into it
    resumed = Job()
    torch.manual_seed(77)
    random.seed(77)
    np.random.seed(77)
    first = load_training(tmp_path / "deep" / "state.pt", settings=SETTINGS, **resumed.parts())
    assert first == stop and resumed.run(first, 12) == losses[stop:]
    for net, other in ((resumed.model, whole.model), (resumed.ema.model, whole.ema.model)):
        for key, value in other.state_dict().items():
            assert torch.equal(net.state_dict()[key], value), key
    assert losses[-1] < losses[0]


def test_training_state_is_whole_or_absent(tmp_path, monkeypatch):
    job, path = Job(), tmp_path / "state.pt"
    save_training(path, step=1, settings=SETTINGS, **job.parts())
    before = path.read_bytes()

    def broken(state, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        save_training(path, step=2, settings=SETTINGS, **job.parts())
    monkeypatch.undo()
    assert path.read_bytes() == before and load_training(path, settings=SETTINGS, **job.parts()) == 1


def cut_in_half(data):
    return data[: len(data) // 2]


def flip_a_weight(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x55]) + data[middle + 1:]


@pytest.mark.parametrize("damage", [cut_in_half, flip_a_weight, lambda data: b"", lambda data: b"not a state"])
def test_a_damaged_state_gives_way_to_the_one_before_and_says_so(tmp_path, damage):
    job, path, run = Job(), tmp_path / "state.pt", FakeRun(tmp_path)
    for step in (1, 2, 3):
        job.run(step - 1, step)
        save_training(path, step=step, settings=SETTINGS, **job.parts())
        if step == 2:
            kept = {k: v.clone() for k, v in job.model.state_dict().items()}
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".lock") == ["state.pt", "state.pt.previous"]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="state.pt is damaged .* going on from the state before it, step 2"):
        assert load_training(path, settings=SETTINGS, run=run, **job.parts()) == 2
    assert all(torch.equal(v, kept[k]) for k, v in job.model.state_dict().items())
    assert len(run.said) == 1 and "step 2" in run.said[0]
    # and it goes on from there, with a sound state behind it
    save_training(path, step=4, settings=SETTINGS, **job.parts())
    assert load_training(path, settings=SETTINGS, **job.parts()) == 4
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="step 2"):
        assert load_training(path, settings=SETTINGS, **job.parts()) == 2
    save_training(path, step=5, settings=SETTINGS, **job.parts())
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".lock") == ["state.pt", "state.pt.previous"]
    (tmp_path / "state.pt.previous").unlink()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointMismatch, match="state.pt cannot be read as a training state"):
        load_training(path, settings=SETTINGS, **job.parts())
    (tmp_path / "state.pt.previous").write_bytes(b"")
    with pytest.raises(CheckpointMismatch, match="state.pt.previous cannot be read as a training state"):
        load_training(path, settings=SETTINGS, **job.parts())


def test_the_state_before_is_kept_where_files_have_one_name_only(tmp_path, monkeypatch):
    job, path = Job(), tmp_path / "state.pt"

    def no_links(*_):
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", no_links)
    for step in (1, 2):
        save_training(path, step=step, settings=SETTINGS, **job.parts())
    path.write_bytes(b"")
    with pytest.warns(UserWarning, match="step 1"):
        assert load_training(path, settings=SETTINGS, **job.parts()) == 1


KILLED = """
import importlib.util, json, pathlib, sys, time
spec = importlib.util.spec_from_file_location("jobs", sys.argv[1])
jobs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(jobs)
state, job = pathlib.Path(sys.argv[2]), jobs.Job()
first = jobs.load_training(state, settings={}, **job.parts()) if state.exists() else 0
print("from", first, flush=True)
for step in range(first, 60):
    job.run(step, step + 1)
    jobs.save_training(state, step=step + 1, settings={}, **job.parts())
    print(step + 1, flush=True)
pathlib.Path(sys.argv[3]).write_text(json.dumps({k: v.tolist() for k, v in job.model.state_dict().items()}))
"""


@pytest.mark.slow
def test_killed_in_the_middle_ends_with_the_same_weights_bit_for_bit(tmp_path):
    command = [sys.executable, "-c", KILLED, __file__, str(tmp_path / "state.pt"), str(tmp_path / "out.json")]
    environment = os.environ | {"PYTHONPATH": str(repo_root()), "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
    for line in first.stdout:  # it saves after every step: the kill falls into a step or into a save
        if line.strip() == "20":
            time.sleep(0.013)
            first.send_signal(signal.SIGKILL)
            break
    assert first.wait() == -signal.SIGKILL and not (tmp_path / "out.json").exists()
    again = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=240)
    assert again.returncode == 0, again.stderr[-3000:]
    assert 20 <= int(again.stdout.split()[1]) < 60
    whole = Job()
    whole.run(0, 60)
    weights = json.loads((tmp_path / "out.json").read_text())
    assert all(torch.equal(torch.tensor(weights[k]), v) for k, v in whole.model.state_dict().items())


def test_a_training_goes_on_with_the_settings_it_was_begun_with(tmp_path):
    path, job = tmp_path / "state.pt", Job()
    settings = {"seed": 0, "steps": 6, "size": (8, 8), "data": "abc", "rate": 1e-3}
    save_training(path, step=1, settings=settings, **job.parts())
    assert load_training(path, settings=settings, **job.parts()) == 1
    before = {name: value.clone() for name, value in job.model.state_dict().items()}
    others = {**settings, "seed": 1, "steps": 2, "extra": None}
    with pytest.raises(CheckpointMismatch, match="seed was 0 and is 1; steps was 6 and is 2. Go on with .* work_dir"):
        load_training(path, settings=others, **Job().parts())
    assert all(torch.equal(value, before[name]) for name, value in job.model.state_dict().items())


def test_a_state_of_the_form_before_is_taken_once_with_a_warning(tmp_path):
    path, job = tmp_path / "state.pt", Job()
    save_training(path, step=1, settings=SETTINGS, **job.parts())
    saved = torch.load(path, weights_only=True)
    del saved["settings"]
    torch.save(saved, path)
    with pytest.warns(UserWarning, match="of the form before"):
        assert load_training(path, settings={"seed": 5}, **job.parts()) == 1
    save_training(path, step=2, settings={"seed": 5}, **job.parts())
    with pytest.raises(CheckpointMismatch, match="seed was 5 and is 6"):
        load_training(path, settings={"seed": 6}, **job.parts())


def test_only_rank_zero_saves(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    save_training(tmp_path / "state.pt", step=1, settings=SETTINGS, **Job().parts())
    assert not (tmp_path / "state.pt").exists()


def test_wrong_training_states(tmp_path):
    job, path = Job(), tmp_path / "state.pt"
    with pytest.raises(MissingAsset, match="no training state at .*state.pt; start from step 0"):
        load_training(path, settings=SETTINGS, **job.parts())
    save_training(path, step=1, settings=SETTINGS, model=job.model)
    with pytest.raises(CheckpointMismatch, match=r"holds \['model'\], expected \['batches', 'ema'"):
        load_training(path, settings=SETTINGS, **job.parts())
    path.write_bytes(b"not a state")
    with pytest.raises(CheckpointMismatch, match="cannot be read as a training state"):
        load_training(path, settings=SETTINGS, model=job.model)


# --- trackers ---------------------------------------------------------------------------------------------------------


class FakeRun:
    def __init__(self, folder):
        self.dir, self.data, self.rows, self.said = folder, {"parameters": {"given": {"seed": 1}}}, [], []

    def log(self, step, **values):
        self.rows.append((step, values))

    def fallback(self, text):
        self.said.append(text)


def test_trackers(tmp_path, monkeypatch):
    run = FakeRun(tmp_path)
    make_tracker("csv", run)(3, loss=1.0)
    assert run.rows == [(3, {"loss": 1.0})]
    with pytest.raises(UnknownName, match="did you mean tensorboard"):
        make_tracker("tensorbord", run)
    for name, module in (("wandb", "wandb"), ("wandb-offline", "wandb"), ("tensorboard", "torch.utils.tensorboard")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingAsset, match=f"'{name}' needs the package .*: pip install {name.split('-')[0]}"):
            make_tracker(name, run)


def test_other_trackers_write_the_csv_too(tmp_path, monkeypatch):
    run, seen = FakeRun(tmp_path), []
    writer = types.SimpleNamespace(log=lambda values, step: seen.append((step, values)),
                                   add_scalar=lambda key, value, step: seen.append((step, {key: value})),
                                   flush=lambda: seen.append("flushed"))
    wandb = types.SimpleNamespace(init=lambda **options: seen.append(options) or writer)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    make_tracker("wandb-offline", run, project="p")(4, loss=2.0)
    assert seen[0]["mode"] == "offline" and seen[0]["project"] == "p" and seen[0]["dir"] == tmp_path
    assert seen[1:] == [(4, {"loss": 2.0})] == run.rows
    board = types.ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = lambda folder: seen.append(folder) or writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    make_tracker("tensorboard", run)(5, loss=3.0)
    assert seen[2:] == [tmp_path / "tensorboard", (5, {"loss": 3.0}), "flushed"] and run.rows[1] == (5, {"loss": 3.0})
    monkeypatch.setenv("RANK", "1")
    make_tracker("wandb", run)(6, loss=4.0)
    assert len(seen) == 5


def test_a_resumed_run_keeps_its_id_at_weights_and_biases(tmp_path, monkeypatch):
    begun, rows = [], []

    def init(*, project, dir, name, config, mode, id, resume):  # what wandb.init is given, and nothing else
        begun.append((mode, id, resume))
        return types.SimpleNamespace(log=lambda values, step: rows.append((id, step, values)))

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    training_folder = tmp_path / "training"
    for mode, first in (("wandb-offline", 0), ("wandb", 2)):
        log = make_tracker(mode, FakeRun(tmp_path), folder=training_folder)
        log(first, loss=1.0)
        log(first + 1, loss=0.5)
    (mode, kept, resume), again = begun
    assert (mode, resume) == ("offline", "allow") and again == ("online", kept, "allow")
    assert (training_folder / "wandb_id.txt").read_text().strip() == kept and len(kept) == 8
    assert [row[:2] for row in rows] == [(kept, step) for step in range(4)]
    make_tracker("wandb", FakeRun(tmp_path), folder=tmp_path / "another")
    make_tracker("wandb", FakeRun(tmp_path))
    assert len({entry[1] for entry in begun}) == 3


@pytest.mark.slow
def test_the_real_wandb_writes_offline_runs_of_one_id(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    for step in (0, 1):
        (run := FakeRun(tmp_path / f"run{step}")).dir.mkdir()
        make_tracker("wandb-offline", run, folder=tmp_path)(step, loss=1.0)
        wandb.finish()
        assert run.rows == [(step, {"loss": 1.0})]
    kept = (tmp_path / "wandb_id.txt").read_text().strip()
    assert all(list((tmp_path / f"run{i}" / "wandb").glob(f"offline-run-*-{kept}")) for i in (0, 1))


def test_tensorboard_reads_what_was_logged(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = make_tracker("tensorboard", FakeRun(tmp_path))
    for step, loss in ((0, 2.0), (5, 1.5)):
        log(step, loss=loss)
    seen = EventAccumulator(str(tmp_path / "tensorboard"))
    seen.Reload()
    assert [(event.step, event.value) for event in seen.Scalars("loss")] == [(0, 2.0), (5, 1.5)]


# --- Fabric -----------------------------------------------------------------------------------------------------------

SCRIPT = """
import atexit, json, os, pathlib, sys
import torch
from torch import nn
from t2ilib.runtime import generator
from t2ilib.training import Batches, make_fabric

def write_threads():
    names = [path.read_text() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
    pathlib.Path(sys.argv[1] + ".threads" + os.environ["RANK"]).write_text(" ".join(names))


if "RANK" in os.environ:
    atexit.register(write_threads)  # before make_fabric, so that it is called after what that registers
torch.set_num_threads(1)
fabric = make_fabric("cpu")
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 3, 3, padding=1))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
model, optimizer = fabric.setup(net, optimizer)
batches = Batches(10, 4, generator(0, "b"), rank=fabric.global_rank, world_size=fabric.world_size)
data = torch.rand(10, 3, 5, 5, generator=generator(0, "d"))
losses = []
for _ in range(5):
    x = data[batches.next()]
    loss = (model(x) - x).square().mean()
    optimizer.zero_grad()
    fabric.backward(loss)
    optimizer.step()
    losses.append(fabric.all_reduce(loss.detach(), reduce_op="mean").item())
if fabric.global_rank == 0:
    weights = {k: v.tolist() for k, v in net.state_dict().items()}
    heavy = sorted({"torchmetrics", "torchvision", "transformers", "scipy.signal"} & set(sys.modules))
    open(sys.argv[1], "w").write(json.dumps({"world": fabric.world_size, "losses": losses, "weights": weights,
                                             "heavy": heavy}))
"""


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(tmp_path, monkeypatch, run_python):
    script = tmp_path / "job.py"
    script.write_text(SCRIPT)
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / "one")])
    runpy.run_path(str(script))
    run_python(script, tmp_path / "two", processes=2)
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one", "two"))
    assert (one["world"], two["world"]) == (1, 2)
    assert two["heavy"] == []  # what Fabric does not need takes seconds to import
    left = [(tmp_path / f"two.threads{rank}").read_text() for rank in range(2)]
    assert not any("gloo" in names for names in left), left  # one that runs while Python ends may abort the process
    torch.testing.assert_close(torch.tensor(two["losses"]), torch.tensor(one["losses"]), rtol=1e-5, atol=1e-7)
    for key, value in one["weights"].items():
        torch.testing.assert_close(torch.tensor(two["weights"][key]), torch.tensor(value), rtol=1e-4, atol=1e-6)
    assert one["losses"][-1] < one["losses"][0]


def test_torchmetrics_is_itself_after_fabric_was_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", types)  # as if it had been imported before
    with fabric_module._version_of_torchmetrics():
        assert sys.modules["torchmetrics"] is types
    monkeypatch.delitem(sys.modules, "torchmetrics")
    with pytest.raises(KeyboardInterrupt), fabric_module._version_of_torchmetrics():
        assert sys.modules["torchmetrics"].__version__ == importlib.metadata.version("torchmetrics")
        raise KeyboardInterrupt
    assert "torchmetrics" not in sys.modules


class TwoProcesses:
    """What `average_gradients` asks of Fabric, where the other process has three times our gradients."""

    def __init__(self, world_size):
        self.world_size = world_size

    def all_reduce(self, value, reduce_op):
        assert reduce_op == "mean" and value.ndim == 1
        return (value + 3 * value) / 2


def test_gradients_are_averaged_over_processes_in_their_places():
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1, bias=False), nn.Linear(4, 4))
    net[1](net[0](torch.randn(5, 3, generator=generator(0, "x")))).sum().backward()  # the last layer has no gradient
    before = [p.grad.clone() for p in net[:2].parameters()]
    average_gradients(TwoProcesses(1), net)
    assert all(torch.equal(p.grad, b) for p, b in zip(net[:2].parameters(), before, strict=True))
    average_gradients(TwoProcesses(2), net)
    for p, b in zip(net[:2].parameters(), before, strict=True):
        torch.testing.assert_close(p.grad, 2 * b)
    assert all(p.grad is None for p in net[2].parameters())


def test_fabric_of_one_process():
    fabric = training.make_fabric(torch.device("cpu"), torch.bfloat16)
    assert fabric.world_size == 1 and fabric.is_global_zero and fabric.device == torch.device("cpu")
    model, optimizer = fabric.setup(net := nn.Linear(2, 2), torch.optim.SGD(net.parameters(), lr=0.1))
    before = net.weight.detach().clone()
    fabric.backward(model(torch.ones(3, 2)).square().mean())
    optimizer.step()
    assert net.weight.dtype == torch.float32 and not torch.equal(net.weight, before)
    ema = EMA(model, 0.5)  # what fabric.setup returns can be averaged and saved like the network itself
    ema.update(model)
    assert set(model.state_dict()) == set(net.state_dict())


# --- batch norm of averaged weights -----------------------------------------------------------------------------------


def test_recalibration_replaces_the_running_statistics_by_plain_averages_and_leaves_the_mode_alone():
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, momentum=0.5), nn.Dropout(0.5)).eval()
    frozen = nn.BatchNorm1d(2, track_running_stats=False)
    net.append(frozen)
    with torch.no_grad():
        net[1].running_mean.fill_(99.0)
    rng = generator(0, "batch norm")
    data = [torch.randn(16, 3, generator=rng) for _ in range(3)]
    assert recalibrate_batch_norm(net, data, net) == 1
    with torch.no_grad():
        inner = [net[0](x) for x in data]
    torch.testing.assert_close(net[1].running_mean, torch.stack([x.mean(0) for x in inner]).mean(0))
    torch.testing.assert_close(net[1].running_var, torch.stack([x.var(0) for x in inner]).mean(0))
    assert net[1].momentum == 0.5 and not net[1].training and not net[2].training


def test_recalibration_restores_the_mode_when_a_batch_fails_and_skips_networks_without_batch_norm():
    net = nn.Sequential(nn.BatchNorm1d(2)).eval()
    with pytest.raises(RuntimeError):
        recalibrate_batch_norm(net, [torch.zeros(4, 5)], net)
    assert not net[0].training and net[0].momentum == 0.1
    assert recalibrate_batch_norm(nn.Linear(2, 2), [1.0], lambda x: pytest.fail("no need to run it")) == 0

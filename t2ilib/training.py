"""Helpers around a training loop that stays visible: Fabric, batches, EMA, schedule, resume, trackers."""

import atexit
import gc
import math
import os
import random
import secrets
import shutil
import time
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .errors import BadParameter, CheckpointMismatch, MissingAsset, unknown_name
from .runtime import rank_zero, warn_fallback

PRECISION = {torch.float32: "32-true", torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}


def make_fabric(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
    """Return a launched Lightning Fabric for this process, or for all processes that torchrun started.

    Under `torchrun` (WORLD_SIZE > 1) it joins the group: NCCL on GPUs, gloo on CPUs. `fabric.setup` wraps networks
    and optimisers, `fabric.backward` replaces `loss.backward`; nothing else of the loop changes.
    """
    from lightning_fabric import Fabric

    world, nodes = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("GROUP_WORLD_SIZE", "1"))
    kind, index = torch.device(device).type, torch.device(device).index
    devices = [index] if kind == "cuda" and index is not None and world == 1 else world // nodes or 1
    fabric = Fabric(accelerator={"cuda": "cuda", "mps": "mps"}.get(kind, "cpu"), devices=devices,
                    num_nodes=nodes, strategy="ddp" if world > 1 else "auto", precision=PRECISION[dtype])
    fabric.launch()
    if world > 1:
        atexit.register(_leave_group)
    return fabric


def _leave_group() -> None:
    """Leave the process group and end its threads, before the interpreter ends: one that still runs may abort it.

    Threads of gloo end with the last reference to their group, and DDP keeps one. Fabric leaves NCCL's groups only.
    """
    if torch.distributed.is_initialized():
        for module in [x for x in gc.get_objects() if type(x) is nn.parallel.DistributedDataParallel]:
            for name in ("logger", "reducer", "process_group"):
                vars(module).pop(name, None)
        torch.distributed.destroy_process_group()


class Batches:
    """Endless shuffled batches of indices into `n` items; its position is part of a checkpoint.

    Each epoch is a new permutation; a batch may span two epochs, so that every batch is full. With several
    processes each takes its own slice of one common batch, so that N processes see what one process would.

    Args:
        n: number of items. batch_size: of all processes together.
        generator: own random stream. rank, world_size: this process, and how many there are.
    """

    def __init__(self, n: int, batch_size: int, generator: torch.Generator, *, rank: int = 0, world_size: int = 1):
        if n < 1 or batch_size < 1:
            raise BadParameter(f"need at least one item and a batch of at least one, got {n} and {batch_size}")
        if batch_size % world_size:
            raise BadParameter(f"batch_size {batch_size} must be a multiple of the number of processes, {world_size}")
        self.n, self.batch_size, self.generator, self.rank, self.world_size = n, batch_size, generator, rank, world_size
        self.left = torch.empty(0, dtype=torch.int64)
        self.epoch = 0

    def next(self) -> Tensor:
        """Return the indices (batch_size / world_size,) of the next batch of this process."""
        while len(self.left) < self.batch_size:
            self.left = torch.cat([self.left, torch.randperm(self.n, generator=self.generator)])
            self.epoch += 1
        batch, self.left = self.left[: self.batch_size], self.left[self.batch_size:]
        return batch[self.rank:: self.world_size]

    def state_dict(self) -> dict[str, Any]:
        return {"n": self.n, "left": self.left.clone(), "epoch": self.epoch, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state.get("n", self.n) != self.n:
            raise CheckpointMismatch(f"the saved batches are of {state['n']} items, these are of {self.n}; "
                                     "resume with the same data set")
        self.left, self.epoch = state["left"], state["epoch"]
        self.generator.set_state(state["generator"])


class EMA:
    """Exponential moving average of a network's weights, with a warm-up (decay grows as (1 + t) / (10 + t)).

    `ema.model` is the averaged copy, in eval mode; buffers are copied, not averaged.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999):
        import copy

        if not 0 <= decay < 1:
            raise BadParameter(f"EMA decay must be in [0, 1), got {decay}")
        self.decay, self.step = decay, 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the weights of `model`."""
        self.step += 1
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        own, new = list(self.model.parameters()), [p.detach() for p in model.parameters()]
        torch._foreach_lerp_(own, new, 1 - decay)
        for a, b in zip(self.model.buffers(), model.buffers(), strict=True):
            a.copy_(b)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.model.load_state_dict(state["model"])


@torch.no_grad()
def recalibrate_batch_norm(model: nn.Module, batches: Iterable[Any], forward: Callable[[Any], Any]) -> int:
    """Collect the running statistics of batch norm anew, as plain averages over `batches`.

    An average of weights (EMA) has other activations than the weights it was averaged from, so the statistics that
    `EMA` copies do not belong to it. All other layers stay in the mode they are in.

    Args:
        model: the network whose statistics are replaced.
        batches: what `forward` takes, e.g. training pictures; 512 pictures are enough.
        forward: runs `model` on one batch.

    Returns:
        How many layers were recalibrated; 0 if the network has no batch norm, and then `batches` is not touched.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        return 0
    before = [(norm.momentum, norm.training) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's way to ask for a plain average
        norm.train()
    try:
        for batch in batches:
            forward(batch)
    finally:
        for norm, (momentum, training) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.train(training)
    return len(norms)


def cosine_lr(step: int, steps: int, *, peak: float, warmup: int = 0, floor: float = 0.0) -> float:
    """Return the learning rate at `step` of `steps`: linear warm-up to `peak`, then a half cosine to `floor * peak`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give all parameter groups the learning rate `lr`, each times its own `lr_scale` if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def save_training(path: str | Path, *, step: int, **parts: Any) -> None:
    """Write everything that a run needs to go on bit for bit: step, parts, and the global random states.

    Args:
        path: file; written under a temporary name and renamed. Only rank 0 writes. What was there before stays beside
            it as `<name>.previous`, for `load_training` to fall back on.
        step: number of finished steps.
        parts: objects with `state_dict`, or `torch.Generator`s, by name.
    """
    if not rank_zero():
        return
    state = {name: part.get_state() if isinstance(part, torch.Generator) else part.state_dict()
             for name, part in parts.items()}
    python = random.getstate()
    numpy = np.random.get_state()
    rng = {"torch": torch.get_rng_state(), "python": [python[0], list(python[1]), python[2]],
           "numpy": [numpy[0], torch.from_numpy(numpy[1].astype(np.int64)), *numpy[2:]]}
    if torch.cuda.is_available():
        rng["cuda"] = torch.cuda.get_rng_state_all()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    torch.save({"step": step, "parts": state, "rng": rng}, temporary)
    if path.is_file():
        _keep_as(path, _previous(path))
    os.replace(temporary, path)


def _previous(path: Path) -> Path:
    return path.with_name(path.name + ".previous")


def _keep_as(path: Path, name: Path) -> None:
    """Give the file a second name, so that at any moment both names are files."""
    spare = name.with_name(name.name + ".tmp")
    spare.unlink(missing_ok=True)
    try:
        os.link(path, spare)
    except OSError:  # a file system without links
        shutil.copyfile(path, spare)
    os.replace(spare, name)
    spare.unlink(missing_ok=True)  # a rename between two names of one file does nothing


def _read_training(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not compare the checksums that it writes
            if (bad := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {bad} is wrong")
        saved = torch.load(path, map_location="cpu", weights_only=True)
        return {key: saved[key] for key in ("step", "parts", "rng")}
    except Exception as error:  # a damaged file can fail in any way
        raise CheckpointMismatch(f"{path} cannot be read as a training state ({type(error).__name__}); delete it and "
                                 "start from step 0") from error


def load_training(path: str | Path, *, run: Any = None, **parts: Any) -> int:
    """Restore what `save_training` wrote into the same parts, and return the number of finished steps.

    A damaged or truncated file gives way to the one saved before it, with a warning, and is replaced by it.

    Args:
        path: file that `save_training` wrote.
        run: the `Run` whose record says so too.
        parts: as they were saved.

    Raises:
        MissingAsset: no such file. CheckpointMismatch: other parts than were saved, or no readable file.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingAsset(f"no training state at {path}; start from step 0, or name the folder of the run to resume")
    try:
        saved = _read_training(path)
    except CheckpointMismatch as error:
        if not _previous(path).is_file():
            raise
        saved = _read_training(_previous(path))
        said = (f"{path.name} is damaged ({type(error.__cause__).__name__}): going on from the state before it, "
                f"step {saved['step']}")
        warn_fallback(said)
        if run is not None:
            run.fallback(said)
        if rank_zero():
            _keep_as(_previous(path), path)  # else the next save would keep the damaged one and drop this
    if saved["parts"].keys() != parts.keys():
        raise CheckpointMismatch(f"{path} holds {sorted(saved['parts'])}, expected {sorted(parts)}; "
                                 "resume with the notebook that wrote it")
    for name, part in parts.items():
        if isinstance(part, torch.Generator):
            part.set_state(saved["parts"][name])
        else:
            part.load_state_dict(saved["parts"][name])
    rng = saved["rng"]
    torch.set_rng_state(rng["torch"])
    random.setstate((rng["python"][0], tuple(rng["python"][1]), rng["python"][2]))
    numpy = rng["numpy"]
    np.random.set_state((numpy[0], numpy[1].numpy().astype(np.uint32), *numpy[2:]))
    if "cuda" in rng and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(rng["cuda"])
    return saved["step"]


def average_gradients(fabric: Any, network: nn.Module) -> None:
    """Give every process the mean of all processes' gradients; with one process it does nothing.

    For losses that contain a gradient, whose second backward pass a wrapped network (`fabric.setup`) does not survive.
    With equal shares of one batch the result is the gradient of that batch.
    """
    if fabric.world_size == 1:
        return
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    mean = fabric.all_reduce(torch.cat([g.flatten() for g in gradients]), reduce_op="mean")
    for g, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
        g.copy_(part.view_as(g))


class Every:
    """Say "now" at most once in `seconds`, and at the end: for saving and drawing inside a loop of any speed."""

    def __init__(self, seconds: float):
        self.seconds, self.last = seconds, time.monotonic()

    def __call__(self, *, force: bool = False) -> bool:
        due = force or time.monotonic() - self.last >= self.seconds
        if due:
            self.last = time.monotonic()
        return due


def make_tracker(name: str, run: Any, *, project: str = "t2ilib", folder: str | Path | None = None):
    """Return `log(step, **values)` for "csv" (always in the run folder), "tensorboard", "wandb" or "wandb-offline".

    Whatever the tracker, metrics.csv of the run is written too: no account is needed to read a run.

    Args:
        name: which tracker. run: the `Run` that is logged. project: name of the project at Weights & Biases.
        folder: where the training's state lives. The run's id at Weights & Biases is kept there, so that a training
            that goes on there goes on in the same run (`wandb sync --append` for an offline one).

    Raises:
        UnknownName: no such tracker. MissingAsset: its package is not installed.
    """
    known = ("csv", "tensorboard", "wandb", "wandb-offline")
    if name not in known:
        raise unknown_name("tracker", name, known)
    if name == "csv" or not rank_zero():
        return run.log
    package = {"tensorboard": "tensorboard"}.get(name, "wandb")
    try:
        if name == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(run.dir / "tensorboard")
        else:
            import wandb

            writer = wandb.init(project=project, dir=run.dir, name=run.dir.name, config=run.data["parameters"],
                                mode="offline" if name.endswith("offline") else "online", id=_wandb_id(folder),
                                resume="allow")
    except ImportError as error:
        raise MissingAsset(f"tracker {name!r} needs the package {package}: pip install {package}") from error

    def log(step: int, **values: float) -> None:
        run.log(step, **values)
        if name == "tensorboard":
            for key, value in values.items():
                writer.add_scalar(key, value, step)
            writer.flush()  # else what was said last is lost with the process
        else:
            writer.log(values, step=step)

    return log


def _wandb_id(folder: str | Path | None) -> str:
    """Return the id that lies in the folder, or a new one, which is put there."""
    if folder is None:
        return secrets.token_hex(4)
    path = Path(folder) / "wandb_id.txt"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(secrets.token_hex(4) + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()

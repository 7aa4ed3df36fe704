"""Time functions side by side, in turns, and keep the results as rows of one CSV layout."""

import csv
import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .memory import Work, peak_mib, resident_mib
from .. import runtime
from ..files import replacing

QUANTILES = (0.5, 0.2, 0.8)


@dataclass
class Row:
    """One line of a benchmark's CSV: its metric at the median, and at the 20th and 80th percentile."""

    kernel: str
    provider: str
    mode: str
    shape: str
    dtype: str
    metric: str
    p50: float
    p20: float
    p80: float
    ratio: float  # the baseline's median over this one's: above 1 is faster, or smaller
    device: str
    threads: int
    torch: str
    commit: str
    date: str

    def inverse(self, numerator: float, metric: str) -> "Row":
        """Return a row of `numerator` over each value, such as a rate; the percentiles change places."""
        p50, p20, p80 = (round(numerator / value, 4) for value in (self.p50, self.p80, self.p20))
        return replace(self, metric=metric, p50=p50, p20=p20, p80=p80)

    def per_second(self, count: float, unit: str) -> "Row":
        """Return a row in milliseconds as `unit`/s, where one call does `count` of them."""
        return self.inverse(1e3 * count, f"{unit}/s")


COLUMNS = [field.name for field in fields(Row)]


def row(kernel: str, provider: str, metric: str, values: float | Sequence[float], *, mode: str, shape: str,
        device: torch.device, dtype: str = "float32", ratio: float = 1.0) -> Row:
    """Return a row about this machine, now.

    Args:
        values: one number, or the median and the 20th and 80th percentile.
    """
    if isinstance(values, (int, float)):
        values = (values, values, values)
    p50, p20, p80 = (round(value, 4) for value in values)
    name = runtime.device_name(device) if device.type == "cuda" else _cpu_name()
    return Row(kernel, provider, mode, shape, dtype, metric, p50, p20, p80, round(ratio, 3), name,
               torch.get_num_threads(), torch.__version__, runtime.commit(), datetime.date.today().isoformat())


# --- time -------------------------------------------------------------------------------------------------------------


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Work, device: torch.device) -> float:
    """Return the seconds of one call; on CUDA by events, without the CPU's share in starting and waiting."""
    wait(device)
    if device.type == "cuda":
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        wait(device)
        return start.elapsed_time(end) / 1e3
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Clock:
    """Seconds since it was made, without those spent in `pause`, such as a judge's, who is no part of a run."""

    def __init__(self, device: torch.device):
        self.device = device
        self.paused = 0.0
        wait(device)
        self.start = time.perf_counter()

    def __call__(self) -> float:
        wait(self.device)
        return time.perf_counter() - self.start - self.paused

    def pause(self, work: Callable[[], Any]) -> Any:
        """Return work() while the clock stands still."""
        before = self()
        result = work()
        self.paused += self() - before
        return result


def time_in_turns(providers: Mapping[str, Work], device: torch.device, at_least: float, least: int
                  ) -> dict[str, Tensor]:
    """Return the median, 20th and 80th percentile in milliseconds of each provider, timed in turns.

    Turns spread whatever else the machine does over all providers alike.

    Args:
        at_least: seconds for each provider. least: timed calls of each, even if they take longer.
    """
    times: dict[str, list[float]] = {name: [] for name in providers}
    while min(map(len, times.values())) < least or min(map(sum, times.values())) < at_least:
        for name, work in providers.items():
            times[name].append(seconds(work, device))
    q = torch.tensor(QUANTILES, dtype=torch.float64)
    return {name: 1e3 * torch.tensor(values, dtype=torch.float64).quantile(q) for name, values in times.items()}


# --- tables -----------------------------------------------------------------------------------------------------------


def measure(kernel: str, providers: Mapping[str, Work], *, baseline: str, mode: str, shape: str,
            dtype: str = "float32", device: torch.device | str = "cpu", seconds: float = 2.0, least: int = 5,
            memory: bool | None = None) -> list[Row]:
    """Time each provider in turns for about `seconds` each, and return a row for each.

    Args:
        providers: name -> function of no arguments. baseline: the one whose median the ratios divide.
        least: timed calls of each provider even if they take longer than `seconds`.
        memory: measure the peak of memory above the inputs too, in rows of their own. None is on CUDA alone.
    """
    device = torch.device(device)
    for work in providers.values():  # warm up: allocations, autotuning, compilation
        for _ in range(min(2, least)):
            work()
    about = dict(mode=mode, shape=shape, dtype=dtype, device=device)
    times = time_in_turns(providers, device, seconds, least)
    base = float(times[baseline][0])
    rows = [row(kernel, name, "ms", ms.tolist(), ratio=base / float(ms[0]), **about) for name, ms in times.items()]
    if memory is None:
        memory = device.type == "cuda"
    if memory:
        peaks = {name: peak_mib(work, device) for name, work in providers.items()}
        for name, peak in peaks.items():
            rows.append(row(kernel, name, "MiB", peak, ratio=peaks[baseline] / max(peak, 1e-9), **about))
    return rows


class Contest:
    """Providers that do the same work at one shape: timed in turns, then the memory of each.

    Args:
        kernel, shape: as in the rows. baseline: the provider whose median the ratios divide.

    Attributes:
        steps: name -> function of no arguments. dtypes: the precision of each, as the rows say it.
        held: MiB that each holds between its steps.
        compilation: seconds of the first calls of what is compiled.
    """

    def __init__(self, kernel: str, shape: str, device: torch.device, *, baseline: str = "classic"):
        self.kernel = kernel
        self.shape = shape
        self.device = device
        self.baseline = baseline
        self.steps: dict[str, Work] = {}
        self.dtypes: dict[str, str] = {}
        self.held: dict[str, float] = {}
        self.compilation: dict[str, float] = {}

    def add(self, name: str, step: Work, *, dtype: str = "float32", held: float = 0.0, compiled: int = 0) -> None:
        """Add a provider.

        Args:
            compiled: how many first calls compile; they are timed by themselves.
        """
        self.steps[name] = step
        self.dtypes[name] = dtype
        self.held[name] = held
        if compiled:
            self.compilation[name] = sum(seconds(step, self.device) for _ in range(compiled))

    def row(self, provider: str, metric: str, values: float | Sequence[float], *, mode: str, ratio: float = 1.0) -> Row:
        """Return a row about a provider of this contest."""
        return row(self.kernel, provider, metric, values, mode=mode, shape=self.shape, device=self.device,
                   dtype=self.dtypes[provider], ratio=ratio)

    def time_rows(self, mode: str, seconds: float, least: int) -> list[Row]:
        """Return the milliseconds of each provider's step."""
        rows = measure(self.kernel, self.steps, baseline=self.baseline, mode=mode, shape=self.shape,
                       device=self.device, seconds=seconds, least=least, memory=False)
        return [replace(row, dtype=self.dtypes[row.provider]) for row in rows]

    def memory_rows(self) -> list[Row]:
        """Return MiB of each provider at the peak of a step, with what it holds anyway."""
        mode = "peak allocated" if self.device.type == "cuda" else "peak of tensors"
        peaks = {name: self.held[name] + peak_mib(step, self.device) for name, step in self.steps.items()}
        return [self.row(name, "MiB", peak, mode=mode, ratio=peaks[self.baseline] / peak)
                for name, peak in peaks.items()]

    def resident_rows(self, processes: Mapping[str, tuple[Callable[..., object], tuple]]) -> list[Row]:
        """Return MiB of a process that makes steps of one provider and nothing else, see `resident_mib`.

        Args:
            processes: provider -> (function, arguments), the baseline among them.
        """
        peaks = {name: resident_mib(work, *arguments) for name, (work, arguments) in processes.items()}
        return [self.row(name, "MiB", peak, mode="peak of the process", ratio=peaks[self.baseline] / peak)
                for name, peak in peaks.items()]

    def compilation_rows(self, mode: str = "compilation") -> list[Row]:
        """Return how long what is compiled took before it was fast."""
        return [self.row(name, "s", value, mode=mode) for name, value in self.compilation.items()]


def write_rows(path: str | Path, rows: Sequence[Row]) -> Path:
    """Write rows as CSV, keeping rows of the same file that were measured on another device."""
    path = Path(path)
    kept: list[dict] = []
    if path.exists():
        devices = {row.device for row in rows}
        with path.open(newline="") as f:
            kept = [row for row in csv.DictReader(f) if row.get("device") not in devices]
    with replacing(path) as temporary, open(temporary, "w", newline="") as f:
        table = csv.DictWriter(f, COLUMNS)
        table.writeheader()
        table.writerows([*kept, *map(asdict, rows)])
    return path


# --- what rows say ----------------------------------------------------------------------------------------------------


def precision(dtype: torch.dtype, device: torch.device) -> str:
    """Return a precision as rows say it, with where float32 products may be rounded to TF32 on CUDA."""
    name = str(dtype).removeprefix("torch.")
    if device.type != "cuda":
        return name
    conv = "on" if torch.backends.cudnn.allow_tf32 else "off"
    matmul = "on" if torch.backends.cuda.matmul.allow_tf32 else "off"
    return f"{name}; TF32 conv {conv}, matmul {matmul}"


def short_name(dtype: torch.dtype) -> str:
    """Return "bfloat16" of torch.bfloat16."""
    return str(dtype).removeprefix("torch.")


def noise(*shape: int, device: torch.device, name: str) -> Tensor:
    """Return normal numbers that depend on the name alone, not on the device."""
    return torch.randn(shape, generator=runtime.generator(0, "bench", name)).to(device)


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as f:
            return next(line.split(":", 1)[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return "CPU"

"""Time functions side by side, in turns, and keep the result as rows of one CSV layout."""

import csv
import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from .. import runtime
from ..memory import LiveBytes


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

    def per_second(self, count: int, unit: str) -> "Row":
        """Return a row in milliseconds as `unit`/s, where one call does `count` of them; slow calls are low rates."""
        p50, p20, p80 = (round(1e3 * count / value, 4) for value in (self.p50, self.p80, self.p20))
        return replace(self, metric=f"{unit}/s", p50=p50, p20=p20, p80=p80)


COLUMNS = [field.name for field in fields(Row)]


def measure(kernel: str, providers: dict[str, Callable[[], object]], *, baseline: str, mode: str, shape: str,
            dtype: str = "float32", device: torch.device | str = "cpu", seconds: float = 2.0, least: int = 5,
            memory: bool | None = None) -> list[Row]:
    """Time each provider in turns for about `seconds` each, and return a row for each.

    Turns spread whatever else the machine does over all providers alike.

    Args:
        providers: name -> function of no arguments. baseline: the one whose median the ratios divide.
        least: timed calls of each provider even if they take longer than `seconds`.
        memory: measure the peak of memory above the inputs too, in rows of their own: on CUDA what torch allocates,
            elsewhere what tensors hold. None is on CUDA alone.
    """
    device = torch.device(device)
    for work in providers.values():  # warm up: allocations, autotuning, compilation
        for _ in range(min(2, least)):
            work()
    times: dict[str, list[float]] = {name: [] for name in providers}
    while min(sum(t) for t in times.values()) < seconds or min(map(len, times.values())) < least:
        for name, work in providers.items():
            times[name].append(_seconds(work, device))
    quantiles = {n: torch.quantile(torch.tensor(t, dtype=torch.float64) * 1e3, torch.tensor([0.5, 0.2, 0.8]).double())
                 for n, t in times.items()}
    base = quantiles[baseline][0].item()
    rows = [_row(kernel, name, mode, shape, dtype, "ms", q.tolist(), base / q[0].item(), device)
            for name, q in quantiles.items()]
    if device.type == "cuda" if memory is None else memory:
        peaks = {name: _peak(work, device) for name, work in providers.items()}
        rows += [_row(kernel, name, mode, shape, dtype, "MiB", [peak] * 3, peaks[baseline] / max(peak, 1e-9), device)
                 for name, peak in peaks.items()]
    return rows


def tf32(device: torch.device) -> str:
    """Say, after a "; ", where float32 products may be rounded to TF32 on CUDA; elsewhere nothing."""
    if device.type != "cuda":
        return ""
    state = {"conv": torch.backends.cudnn.allow_tf32, "matmul": torch.backends.cuda.matmul.allow_tf32}
    return "; TF32 " + ", ".join(f"{name} {'on' if allowed else 'off'}" for name, allowed in state.items())


def noise(*shape: int, device: torch.device, name: str) -> Tensor:
    """Return normal numbers that depend on the name alone, not on the device."""
    return torch.randn(shape, generator=runtime.generator(0, "bench", name)).to(device)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time one call; on CUDA by events, which the CPU's share in starting and waiting does not enter."""
    _wait(device)
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        _wait(device)
        return start.elapsed_time(end) / 1e3
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _peak(work: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        with LiveBytes() as live:
            work()
        return live.peak / 2**20
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    _wait(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def _row(kernel: str, provider: str, mode: str, shape: str, dtype: str, metric: str, values: Sequence[float],
         ratio: float, device: torch.device) -> Row:
    name = runtime.device_name(device) if device.type == "cuda" else _cpu_name()
    return Row(kernel, provider, mode, shape, dtype, metric, *[round(v, 4) for v in values], round(ratio, 3), name,
               torch.get_num_threads(), torch.__version__, runtime.commit(), datetime.date.today().isoformat())


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as f:
            return next(line.split(":", 1)[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return "CPU"


def write_rows(path: str | Path, rows: Sequence[Row]) -> Path:
    """Write rows as CSV, keeping rows of the same file that were measured on another device."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    kept: list[dict] = []
    if path.exists():
        with path.open(newline="") as f:
            devices = {row.device for row in rows}
            kept = [row for row in csv.DictReader(f) if row.get("device") not in devices]
    with path.open("w", newline="") as f:
        table = csv.DictWriter(f, COLUMNS)
        table.writeheader()
        table.writerows([*kept, *map(asdict, rows)])
    return path

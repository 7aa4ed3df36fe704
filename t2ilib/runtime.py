"""The machine under a notebook: device, precision, seeds, progress bars, versions, memory."""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from .assets import bundled_in_place
from .errors import BadParameter, unknown_name
from .paths import repo_root

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
COMMIT_FILE = "COMMIT"  # in a bundle


def pick_device(name: str = "auto") -> torch.device:
    """Return the device for `name`: "auto" (cuda, then mps, then cpu), "cpu", "cuda", "cuda:1" or "mps".

    Raises:
        UnknownName: not a device name.
        BadParameter: the device is not there; the message says which is.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind = name.split(":")[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise unknown_name("device", name, ["auto", "cpu", "cuda", "mps"])
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present[kind]:
        raise BadParameter(f"device {name!r} is not available here; use device='auto' or 'cpu'")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    index = name.removeprefix(kind).removeprefix(":") or "0"
    if not (index.isdecimal() and int(index) < count):
        raise BadParameter(f"device {name!r} is not one of the {count} {kind} device(s) here, numbered from 0")
    return torch.device(name)


def cpu_has_fast_bf16() -> bool:
    """Return whether this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX); elsewhere bf16 is slower."""
    try:
        with open("/proc/cpuinfo") as f:
            flags = next((line for line in f if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def pick_dtype(device: torch.device | str, name: str = "auto") -> torch.dtype:
    """Return the precision for autocast on `device`: "auto", "float32", "bfloat16" or "float16".

    "auto" means bfloat16 where the hardware multiplies it (CUDA >= 8.0, CPU with AVX512-BF16 or AMX), else float32.
    """
    if name != "auto":
        if name not in DTYPES:
            raise unknown_name("dtype", name, ["auto", *DTYPES])
        return DTYPES[name]
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float32
    return torch.bfloat16 if kind == "cpu" and cpu_has_fast_bf16() else torch.float32


def autocast(device: torch.device | str, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """Return an autocast context for `dtype` on `device`; float32 and float64 mean no autocast at all."""
    if dtype in (torch.float32, torch.float64):
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=dtype)


def derived_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for the stream called `names` under `seed`; equal on every platform and Python."""
    digest = hashlib.sha256("/".join([str(seed), *map(str, names)]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return an own random stream, independent of the global state and of streams with other names.

    Example:
        noise = torch.randn(4, generator=generator(0, "noise"))
    """
    return torch.Generator(device=device).manual_seed(derived_seed(seed, *names))


def texts_and_streams(texts: Sequence[str], num: int, seed: int, *, first: int = 0
                      ) -> tuple[list[str], list[torch.Generator]]:
    """Return each text `num` times, equal ones next to one another, and an own random stream for each of them.

    The j-th stream of a text depends on the text, the seed and j alone: a picture is the same whatever is drawn beside.

    Args:
        first: the number j of each text's first stream.

    Example:
        repeated, streams = texts_and_streams(["a heart", "a car"], 4, seed)
        pictures = painter.sample(repeated, generators=streams)
    """
    repeated = []
    streams = []
    for text in texts:
        for j in range(first, first + num):
            repeated.append(text)
            streams.append(generator(seed, "draw", text, j))
    return repeated, streams


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch, for libraries that take no generator."""
    import random

    import numpy as np

    if not 0 <= seed < 2**32:
        raise BadParameter(f"seed must be in [0, 2**32), got {seed}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def is_interactive() -> bool:
    """Return whether a person watches: a Jupyter or Colab kernel that neither papermill, nbmake nor a test drives."""
    if os.environ.get("T2I_INTERACTIVE"):
        return os.environ["T2I_INTERACTIVE"] == "1"
    if os.environ.get("T2I_RUN_DIR") or os.environ.get("PYTEST_CURRENT_TEST") or "ipykernel" not in sys.modules:
        return False
    # papermill and nbmake start a kernel like a person does; what they inject, or their parent process, gives them away
    main = sys.modules.get("__main__")
    injected = any(hasattr(main, name) for name in ("PAPERMILL_INPUT_PATH", "PAPERMILL_OUTPUT_PATH"))
    return not injected and not _parent_is("papermill", "pytest", "nbconvert")


def _parent_is(*words: str) -> bool:
    try:
        with open(f"/proc/{os.getppid()}/cmdline", "rb") as f:
            line = f.read().decode(errors="replace")
    except OSError:
        return False
    return any(word in line for word in words)


def in_notebook() -> bool:
    """Return whether this process is a Jupyter kernel, whoever drives it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def process_rank() -> int:
    """Return the number of this process among those that torchrun started, 0 where it is the only one."""
    return int(os.environ.get("RANK", "0"))


def rank_zero() -> bool:
    """Return whether this process is the one that prints, records and plots (rank 0, or the only one)."""
    return process_rank() == 0


def progress(iterable: Iterable, *, total: int | None = None, desc: str = "", every: float = 10.0) -> Iterator:
    """Iterate with a progress bar where a person watches, and a line of text every `every` seconds elsewhere.

    Executed notebooks and logs stay short: no bar is redrawn into them. The text lines show step, rate and the
    time left; an iteration that ends sooner prints nothing.
    """
    total = total if total is not None else (len(iterable) if hasattr(iterable, "__len__") else None)
    if not rank_zero():
        yield from iterable
    elif is_interactive():
        from tqdm.auto import tqdm

        yield from tqdm(iterable, total=total, desc=desc)
    else:
        start = last = time.monotonic()
        for i, item in enumerate(iterable):
            yield item
            now = time.monotonic()
            if now - last >= every:
                last = now
                rate = (i + 1) / (now - start)
                left = f", {(total - i - 1) / rate:.0f} s left" if total else ""
                print(f"{desc or 'step'} {i + 1}/{total or '?'}  {rate:.2f} it/s{left}", flush=True)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result, and weights that replace others here."""
    found = {"python": platform.python_version(), "platform": platform.system()}
    for package in ("torch", "torchvision", "open_clip_torch", "transformers", "timm", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    found |= bundled_in_place()
    return found


def commit() -> str:
    """Return the short commit of the repository, with "+" if the work tree differs, or "unknown" outside git.

    A bundle is no work tree: a file in it names the commit that it was made of.
    """
    bundled = repo_root() / COMMIT_FILE
    if bundled.is_file():
        return bundled.read_text(encoding="utf-8").strip()

    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", str(repo_root()), *args], capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "--short", "HEAD").strip() + ("+" if git("status", "--porcelain").strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def device_name(device: torch.device | str) -> str:
    """Return the hardware's own name, such as "NVIDIA H200", or "CPU, 2 threads"."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    if torch.device(device).type == "mps":
        return "Apple MPS"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def limit_gpu_memory(device: str, gib: float) -> None:
    """Let this process allocate no more than so many GiB of a GPU, as if it had no more.

    Raises:
        BadParameter: the device is no CUDA device, or has not so much.
    """
    chosen = pick_device(device)
    if chosen.type != "cuda":
        raise BadParameter(f"memory can be limited on a CUDA device, got {chosen}")
    total = torch.cuda.get_device_properties(chosen).total_memory / 2**30
    if not 0 < gib <= total:
        raise BadParameter(f"this GPU has {total:.1f} GiB, cannot be limited to {gib:g}")
    torch.cuda.set_per_process_memory_fraction(gib / total, chosen)


def peak_memory(device: torch.device | str) -> float:
    """Return the peak memory so far in MiB: allocated by torch on CUDA, resident of this process elsewhere."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource  # not on Windows
    except ImportError:
        return float("nan")
    status = Path("/proc/self/status")
    if status.exists():
        # on Linux the usage of a process begins with that of its parent, and this does not
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def describe(device: torch.device, dtype: torch.dtype, profile: str, seed: int) -> str:
    """Return the one line that every notebook prints once its settings are resolved."""
    return (f"device {device_name(device)} | {str(dtype).removeprefix('torch.')} | profile {profile} | seed {seed} "
            f"| torch {torch.__version__} | commit {commit()}")


def warn_fallback(text: str) -> None:
    """Warn that something was done otherwise than asked; the caller also records it with `Run.fallback`."""
    warnings.warn(text, stacklevel=3)

"""All that only a GPU can tell, in parts that keep their results and go on where a call before them ended.

Time on a GPU is often lent by the minute. Each part is a process of its own with a share of the time; what it has
measured until then is kept, and the next call takes what is missing.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import BadParameter
from ..files import read_json, write_json, write_text
from ..paths import python_path, repo_root
from ..runtime import commit, device_name, pick_device

DONE = "done.json"
PAGE = "gpu.md"
LEAST_SECONDS = 5.0  # with less than this a part is not begun
GRACE_SECONDS = 15.0  # that a part has to save, once its time is up
PREPARING_SECONDS = 45.0  # of a training's time, for imports, data and captions, and at the end for its checkpoint


@dataclass(frozen=True)
class Part:
    """One thing to do.

    Attributes:
        name: of the part. about: what it tells. share: of the time, relative to the others.
        command: (device, seconds, out) -> arguments of Python. environment: variables.
        goes_on: it is never finished, such as a training whose length is its time: every call goes on with it.
    """

    name: str
    about: str
    share: float
    command: Callable[[str, float, Path], list[str]]
    environment: tuple[tuple[str, str], ...] = ()
    goes_on: bool = False


def _bench(name: str, about: str, share: float) -> Part:
    def command(device: str, seconds: float, out: Path) -> list[str]:
        return _bench_command(name, device=device, out=out)

    return Part(f"bench_{name}", about, share, command)


def _bench_command(*names: str, device: str, out: Path) -> list[str]:
    each = "0.01" if device == "cpu" else "1"
    return ["-m", "t2ilib", "bench", *names, "--device", device, "--seconds", each, "--out", str(out)]


def _memory(device: str, seconds: float, out: Path) -> list[str]:
    command = _bench_command("vqgan_clip", "minimagen", device=device, out=out / "12gb")
    return command if device == "cpu" else [*command, "--memory", "12"]


def _kernel_tests(device: str, seconds: float, out: Path) -> list[str]:
    return ["-m", "pytest", str(repo_root() / "tests" / "kernels"), "-q", "-x", "-p", "no:cacheprovider"]


def _train(recipe: str, share: float) -> Part:
    def command(device: str, seconds: float, out: Path) -> list[str]:
        small = device == "cpu"
        training_seconds = max(3.0, seconds - GRACE_SECONDS - PREPARING_SECONDS)
        values = {"device": device, "start_from": "shipped", "minutes": training_seconds / 60,
                  "checkpoint": out / "checkpoints", "work_dir": out / "training",
                  "batch_size": 4 if small else 512}
        if small:
            values["threads"] = 1
        arguments = ["-m", "t2ilib", "train", recipe, "--minutes", f"{max(1.0, seconds - GRACE_SECONDS) / 60:.3f}"]
        for name, value in values.items():
            arguments += ["-p", name, str(value)]
        return arguments

    return Part(f"train_{recipe}", f"goes on with the recipe {recipe}", share, command, goes_on=True)


PARTS = (
    Part("kernel_tests", "whether the Triton kernels compile and agree with their references", 1, _kernel_tests,
         (("TRITON_INTERPRET", "0"),)),
    _bench("kernels", "speed and memory of each kernel beside eager and compiled torch", 1),
    _bench("vqgan_clip", "a step of guidance beside the classic loop", 1.5),
    _bench("minimagen", "training and sampling beside the public package's", 1.5),
    _bench("gan_step", "a GAN's step beside the plain loop", 0.7),
    _bench("profile", "where the time of a step goes", 0.7),
    Part("memory", "what fits into 12 GB, and its peaks", 1, _memory),
    _train("base", 6),
    _train("sr64", 2),
    _train("sr128", 2),
)


def find_parts(names: Sequence[str]) -> list[Part]:
    """Return the parts of these names, all of them if there are none, in their order."""
    known = [part.name for part in PARTS]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise BadParameter(f"unknown parts {', '.join(unknown)}; known are {', '.join(known)}")
    return [part for part in PARTS if not names or part.name in names]


def run_parts(out: Path, *, minutes: float, device: str = "cuda", parts: Sequence[Part] = PARTS) -> dict[str, Any]:
    """Do what is not done yet, and return what is known of each part, which also stands in `done.json` and `gpu.md`.

    Args:
        out: folder for CSV files, logs, checkpoints; a folder of a call before goes on.
        minutes: in all. device: "cuda", or "cpu" to try all of it with little.

    Raises:
        BadParameter: minutes are not above 0, or there is no such device.
    """
    if not minutes > 0:
        raise BadParameter(f"minutes must be above 0, got {minutes:g}")
    chosen = pick_device(device)
    out.mkdir(parents=True, exist_ok=True)
    known = read_json(out / DONE) if (out / DONE).is_file() else {}
    ends = time.monotonic() + 60 * minutes
    missing = _missing(parts, known)
    for number, part in enumerate(missing):
        left = ends - time.monotonic()
        shares = sum(later.share for later in missing[number:])
        seconds = left * part.share / shares
        if seconds < LEAST_SECONDS:
            break
        ended = run_part(part, out, device=str(chosen), seconds=seconds)
        if part.goes_on:
            ended["seconds"] += known.get(part.name, {}).get("seconds", 0)
        known[part.name] = ended
        write_json(out / DONE, known)
        write_text(out / PAGE, page(known, parts, out, chosen, minutes))
        print(f"{part.name}: {ended['status']}, {ended['seconds']:.0f} s", flush=True)
    write_text(out / PAGE, page(known, parts, out, chosen, minutes))
    return known


def _missing(parts: Sequence[Part], known: dict[str, Any]) -> list[Part]:
    """Return the parts that are not done, and those that every call goes on with."""
    return [part for part in parts if part.goes_on or known.get(part.name, {}).get("status") != "ok"]


def run_part(part: Part, out: Path, *, device: str, seconds: float) -> dict[str, Any]:
    """Run one part for at most so many seconds, with a log of its own, and return how it ended."""
    began = time.monotonic()
    command = [sys.executable, *part.command(device, seconds, out)]
    environment = {**os.environ, **dict(part.environment), "PYTHONPATH": python_path()}
    with open(out / f"{part.name}.log", "a", encoding="utf-8") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=repo_root(),
                                 start_new_session=os.name == "posix")
        status = wait_for(child, seconds)
    if part.goes_on and status == "ok":
        status = "saved, to go on"
    return {"status": status, "seconds": round(time.monotonic() - began, 1), "commit": commit()}


def wait_for(child: subprocess.Popen, seconds: float) -> str:
    """Wait for a child; when its time is up, ask it to stop, and then end it. Return how it ended."""
    try:
        code = child.wait(seconds)
        return "ok" if code == 0 else f"failed with code {code}"
    except subprocess.TimeoutExpired:
        if os.name == "posix":
            child.send_signal(signal.SIGINT)
        else:
            child.terminate()
        try:
            child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        return "out of time"
    except BaseException:
        child.kill()
        child.wait()
        raise


def page(known: dict[str, Any], parts: Sequence[Part], out: Path, device: torch.device, minutes: float) -> str:
    """Return a page in Markdown: what was done, what was not, and the command that goes on."""
    lines = [f"# On {device_name(device)}", "", "| part | tells | how it ended | seconds |", "|---|---|---|---|"]
    for part in parts:
        entry = known.get(part.name, {"status": "not begun", "seconds": 0})
        lines.append(f"| {part.name} | {part.about} | {entry['status']} | {entry['seconds']:.0f} |")
    lines += ["", "Files: " + (", ".join(files_of(out)) or "none")]
    if _missing(parts, known):
        lines += ["", "Next, which takes what is missing and goes on with trainings:", "",
                  f"    python -m t2ilib gpu --minutes {minutes:g} --out {out.name}"]
    return "\n".join(lines) + "\n"


def files_of(out: Path) -> Iterator[str]:
    """Yield the results in a folder: tables and checkpoints, no logs and states."""
    for path in sorted(out.rglob("*")):
        if path.suffix in (".csv", ".safetensors"):
            yield f"{path.relative_to(out).as_posix()} ({path.stat().st_size / 2**20:.2f} MiB)"

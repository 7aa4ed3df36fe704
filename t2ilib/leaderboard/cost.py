"""What a picture costs: seconds, peak memory and networks of a method, measured in a process of its own.

python -m t2ilib.leaderboard.cost '{"method": "minimagen", "options": {}, "prompt": "a red heart", "threads": 2}'
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from .entries import Entry
from .. import runtime
from ..checkpoint import WEIGHTS, read_config
from ..errors import RunFailed
from ..files import reason
from ..methods import generate_with_record
from ..paths import checkpoints_dir, python_path


@dataclass(frozen=True)
class Cost:
    """What the second picture of a process costs; the first one also loads the networks.

    Attributes:
        seconds: of the second call. first_seconds: of the first one, which loads the networks.
        memory_mib: the most that the process held, its libraries included, or that torch allocated on a GPU.
        steps: passes of the networks that the record counts. parameters, bytes: of the checkpoints that drew.
    """

    seconds: float
    first_seconds: float
    memory_mib: float
    steps: int
    parameters: int
    bytes: int


def measure_cost(entry: Entry, prompt: str = "a red heart", *, timeout: float = 1800) -> Cost:
    """Return the cost of one picture of an entry, measured in a fresh process, so that no other method counts.

    It draws with as many CPU threads as this process has.

    Raises:
        RunFailed: the process ended with an error, or took longer than `timeout` seconds.
    """
    options = {**entry.options, **entry.machine}
    job = json.dumps({"method": entry.method, "options": options, "prompt": prompt,
                      "threads": torch.get_num_threads()})
    command = [sys.executable, "-m", "t2ilib.leaderboard.cost", job]
    env = {**os.environ, "PYTHONPATH": python_path()}
    try:
        ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=True)
    except subprocess.TimeoutExpired as error:
        raise RunFailed(f"{entry.label} took longer than {timeout:.0f} s for two pictures; measure it with a larger "
                        "timeout") from error
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().splitlines()[-1:] or [reason(error)]
        raise RunFailed(f"{entry.label} could not be measured: {last[0]}") from error
    return Cost(**json.loads(ended.stdout.splitlines()[-1]))


def _measured(method: str, options: dict[str, Any], prompt: str, threads: int) -> Cost:
    """Draw two pictures one after the other in this process, and return what the second one cost."""
    torch.set_num_threads(threads)
    seconds = []
    record: dict[str, Any] = {}
    for seed in (0, 1):
        began = time.perf_counter()
        _, record = generate_with_record(prompt, method=method, num_images=1, seed=seed, **options)
        seconds.append(time.perf_counter() - began)
    parameters = 0
    size = 0
    for name in record["checkpoints"]:
        folder = checkpoints_dir() / name
        parameters += read_config(folder).get("parameters", 0)
        size += (folder / WEIGHTS).stat().st_size
    device = runtime.pick_device(options.get("device", "auto"))
    return Cost(round(seconds[1], 3), round(seconds[0], 3), round(runtime.peak_memory(device), 1),
                record.get("steps_done", 0), parameters, size)


if __name__ == "__main__":
    print(json.dumps(asdict(_measured(**json.loads(sys.argv[1])))))

"""How the threads of torch wait for one another, chosen before torch is imported: asleep where cores are taken.

The OpenMP library under torch lets a thread that waits turn in circles for milliseconds. That is fast as long as each
thread has a core. Where another program takes one, a thread waits for one that does not run, and both runs take ten to
a hundred times as long. A thread that sleeps gives its core to the other run, but is woken more slowly. How threads
wait changes no result; how many there are may change the last digits of sums.
"""

import contextlib
import math
import os
import sys
from collections.abc import MutableMapping

CHOSEN_BY_USER = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
SHORT_SPIN = "5000"  # turns, about 0.2 ms; libgomp's own 300,000 are 14 ms, for which a later run would have to pay


def choose_waiting(environment: MutableMapping[str, str] | None = None) -> None:
    """Set the variables of OpenMP in `environment` (default: this process's) by what is free now.

    Nothing is set where the user has set one of CHOSEN_BY_USER, or runs one thread alone. It has no effect on a torch
    that is imported already, only on the processes that this one starts.
    """
    environment = os.environ if environment is None else environment
    if any(name in environment for name in CHOSEN_BY_USER):
        return
    threads = thread_count(environment.get("OMP_NUM_THREADS", ""), usable_cores())
    if threads == 1:
        return
    if threads > free_cores(os.cpu_count() or 1, others_running(), cpu_quota()):
        environment["OMP_WAIT_POLICY"] = "passive"
    else:
        environment["GOMP_SPINCOUNT"] = SHORT_SPIN


def thread_count(setting: str, cores: int) -> int:
    """Return how many threads OpenMP takes: the first number of OMP_NUM_THREADS, else one for each core."""
    first = setting.partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else cores


def free_cores(cores: int, others: float, quota: float = math.inf) -> int:
    """Return how many cores nobody uses, at least one.

    Args:
        cores: of the machine. others: threads of other processes that run now. quota: cores that a container may use.
    """
    return max(1, int(min(cores - math.ceil(others), quota)))


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def others_running() -> float:
    """Return how many threads of other processes run or want to; 0 where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return read_running(_read("/proc/loadavg"))
    if hasattr(os, "getloadavg") and sys.platform != "linux":
        return os.getloadavg()[0]  # over the last minute: the moment is not told there
    return 0


def read_running(loadavg: str) -> int:
    """Return the threads that run now beside this one, from the text "0.52 0.58 0.59 3/467 1234"."""
    return max(0, int(loadavg.split()[3].partition("/")[0]) - 1)


def cpu_quota() -> float:
    """Return the cores that the control group of a container allows, infinity where there is no such limit."""
    with contextlib.suppress(OSError, ValueError):
        return read_quota(_read("/sys/fs/cgroup/cpu.max"))
    return math.inf


def read_quota(cpu_max: str) -> float:
    """Return the cores in the text "200000 100000" (microseconds in each period), infinity for "max 100000"."""
    allowed, period = cpu_max.split()
    return math.inf if allowed == "max" else int(allowed) / int(period)


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()

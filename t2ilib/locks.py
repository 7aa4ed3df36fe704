"""Locks: one process writes a file at a time, and the system ends what a dead one held."""

import atexit
import contextlib
import sys
from pathlib import Path
from typing import IO

from .errors import BadParameter
from .files import remove_leftovers

_held: dict[Path, IO[bytes]] = {}  # locked files, by what they stand for


def hold(path: str | Path) -> None:
    """Keep other processes from writing `path`, until `release` or the end of this process, however it ends.

    What a killed process left half-written beside it is removed.

    Raises:
        BadParameter: another process holds it.
    """
    path = Path(path).absolute()
    if path in _held:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path.with_name(path.name + ".lock"), "a+b")  # noqa: SIM115 - it stays open: closing it ends the lock
    try:
        lock(file)
    except OSError as error:
        file.close()
        raise BadParameter(f"{path} is in use by another run; wait until that has ended, or name another file"
                           ) from error
    _held[path] = file
    remove_leftovers(path)


@atexit.register
def release_all() -> None:
    """End every lock of this process."""
    for path in list(_held):
        release(path)


def lock(file: IO[bytes], *, wait: bool = False) -> None:
    """Lock a file until it is closed; the system ends the lock with the process, too.

    Args:
        wait: until another process has ended its lock, instead of raising OSError at once.
    """
    if sys.platform == "win32":
        import msvcrt

        while wait:
            file.seek(0)
            with contextlib.suppress(OSError):  # it gives up after ten seconds
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                return
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def was_left(path: str | Path) -> bool:
    """Return whether a process that held `path` has ended without releasing it: it was killed."""
    lock_file = Path(path).with_name(Path(path).name + ".lock")
    if Path(path).absolute() in _held or not lock_file.is_file():
        return False
    with open(lock_file, "a+b") as file:
        try:
            lock(file)
        except OSError:
            return False
    return True


def release(path: str | Path, *, finished: bool = True) -> None:
    """End what `hold` began; nothing where it did not.

    Args:
        finished: False lets `was_left` say that what was held is not as it should be.
    """
    path = Path(path).absolute()
    file = _held.pop(path, None)
    if file is not None:
        if finished:
            path.with_name(path.name + ".lock").unlink(missing_ok=True)
        file.close()

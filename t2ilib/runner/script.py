"""One process of `launch.run_script`: `python -m t2ilib.runner.script SCRIPT` runs a script as Python itself would.

It ends with the command that began it: a training whose command was killed would go on unseen, and keep others from its
state.
"""

import os
import runpy
import sys
import threading
from pathlib import Path

from .execute import end_with

LAUNCHER = "T2I_LAUNCHER"  # environment variable: the number of the command's process


def main(script: str) -> None:
    """Run the script as `__main__`."""
    parent = os.getppid()
    launcher = int(os.environ.get(LAUNCHER, parent))
    threading.Thread(target=end_with, args=(parent, launcher), daemon=True).start()
    sys.argv = [script]
    sys.path[0] = str(Path(script).parent)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1])

"""The other side of `launch.run_notebook`: `python -m t2ilib.runner.execute job.json` runs one notebook here.

Progress goes to standard output as lines "cells done/cells in all". The executed copy and its HTML stay in the run
folder also when the notebook fails. Exit code 0 only if every cell ran.
"""

import json
import os
import re
import signal
import site
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import paths_in, process_runs, replacing, write_text
from ..paths import repo_root

BASE64 = re.compile(r"(;base64,[A-Za-z0-9+/=]+)")  # in a page, such as a film's
STARTUP_FAILURES = ("before replying to kernel_info", "didn't respond in", "Address already in use")


class _Cells:
    """The file that papermill's progress bar writes to; passes on "done/total" lines."""

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text.replace("/", "").isdigit():
            print(text, flush=True)

    def flush(self) -> None:
        """Nothing is held back."""


def execute(job: dict[str, Any]) -> str:
    """Run the notebook of `job` and return the error that stopped it, or "".

    Args:
        job: `notebook` (path of the percent script), `overrides` (parameters to inject), `run_dir`, `timeout` (seconds
            for each cell, or None).
    """
    import jupytext
    from papermill.exceptions import PapermillExecutionError

    script = Path(job["notebook"])
    out = Path(job["run_dir"]) / "notebook.ipynb"
    for attempt in (1, 2):
        try:
            _papermill(jupytext.read(script), out, script.parent, job)
        except PapermillExecutionError as error:
            return f"{error.ename}: {error.evalue} (cell {error.cell_index + 1})"
        except Exception as error:  # whatever stopped it, the runner has to be told
            if attempt == 1 and any(text in str(error) for text in STARTUP_FAILURES):
                continue  # the kernel never came up: its port was taken, or the machine was busy
            traceback.print_exc()
            return f"{type(error).__name__}: {error}"
        finally:
            if out.exists():
                _finish(out, script, job["overrides"])
        return ""
    raise AssertionError("unreachable")


def _papermill(notebook: Any, out: Path, cwd: Path, job: dict[str, Any]) -> None:
    import papermill

    bar = {"file": _Cells(), "bar_format": "{n_fmt}/{total_fmt}", "mininterval": 0, "miniters": 1}
    papermill.execute_notebook(notebook, str(out), parameters=job["overrides"], kernel_name="python3",
                               language="python", cwd=str(cwd), progress_bar=bar, start_timeout=120,
                               execution_timeout=job["timeout"])


def _finish(out: Path, script: Path, overrides: dict[str, Any]) -> None:
    import nbformat
    from nbconvert import HTMLExporter

    notebook = nbformat.read(out, as_version=4)
    papermill = notebook.metadata.get("papermill", {})
    papermill.update(input_path=script.name, output_path=out.name)
    papermill.pop("parameters", None)  # they stand in the injected cell; here they may repeat a path
    scrub(notebook, inputs=paths_in(overrides))
    with replacing(out) as temporary:
        nbformat.write(notebook, temporary)
    notebook.metadata["title"] = script.stem
    page, _ = HTMLExporter(embed_images=True).from_notebook_node(notebook)
    write_text(out.with_suffix(".html"), page)


def scrub(notebook: Any, *, inputs: Sequence[Path] = ()) -> None:
    """Replace the absolute paths of this machine in outputs and metadata, in place: an executed copy may be shared.

    Args:
        inputs: files and folders that parameters name; of these the name stays, in the parameters' cell too.
    """
    known = {site.getsitepackages()[0]: "<packages>", sys.prefix: "<python>", sys.base_prefix: "<python>",
             str(repo_root()): ".", str(Path.home()): "~", tempfile.gettempdir(): "<tmp>",
             os.environ.get("T2I_RUN_DIR", ""): "<run>"}
    known |= {str(Path(path).resolve()): short for path, short in known.items() if path}
    known |= {str(path): path.name for path in inputs if path.is_absolute()}
    known = {path: known[path] for path in sorted(known, key=len, reverse=True) if len(path) > 3}
    _replace_paths(notebook.metadata, known)
    for cell in notebook.cells:
        _replace_paths(cell.metadata, known)
        _replace_paths(cell.get("outputs", []), known)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = _replace_paths(cell.source, known)


def _replace_paths(value: Any, known: Mapping[str, str]) -> Any:
    """Return a value of plain JSON types with other names for the known paths; dicts and lists are changed in place.

    What is written in base64 stays as it is: "/tmp" is four letters of it, too.
    """
    if isinstance(value, str):
        pieces = BASE64.split(value)  # every second one is base64
        for i in range(0, len(pieces), 2):
            for path, short in known.items():
                pieces[i] = pieces[i].replace(path, short)
        return "".join(pieces)
    if isinstance(value, dict):
        for key in value:
            is_picture = key.startswith("image/") and key != "image/svg+xml"
            is_buffer = key == "data" and value.get("encoding") == "base64"  # of a widget
            if not is_picture and not is_buffer:
                value[key] = _replace_paths(value[key], known)
    elif isinstance(value, list):
        value[:] = [_replace_paths(item, known) for item in value]
    return value


def end_with(parent: int, launcher: int) -> None:
    """End this process and its kernel, which are a group of their own, once the process that began them has ended.

    Args:
        parent: the number of this process's parent. launcher: of the command behind it, often the same.
    """
    while os.getppid() == parent and process_runs(launcher):
        time.sleep(1)
    if os.name == "posix":
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def serve(job_path: str, work: Callable[[dict[str, Any]], str]) -> int:
    """Do the work of the job in a file, and return the exit code; this process ends with the one that began it.

    Args:
        work: takes the job and returns the error that stopped it, or ""; that text goes to the file which the job
            names as `error`.
    """
    threading.Thread(target=end_with, args=(os.getppid(), os.getppid()), daemon=True).start()
    job = json.loads(Path(job_path).read_text(encoding="utf-8"))
    error = work(job)
    if error:
        Path(job["error"]).write_text(error, encoding="utf-8")
    return 1 if error else 0


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1], execute))

"""The record of a run: one folder with what was asked, what happened, and what came out.

reports/runs/<notebook>/<time>_<profile>_s<seed>_<id>/
run.json  metrics.csv  figures/*.png  (and notebook.ipynb, notebook.html when the runner executed it)
"""

import csv
import io
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

from .errors import BadParameter
from .files import append_text, hashes_of_inputs, replacing, sha256_of, utc_now, without_folders, write_json, write_text
from .paths import new_run_dir
from .runtime import commit, device_name, in_notebook, peak_memory, rank_zero, versions
from .show import Table


class Run:
    """Collect parameters, metrics, figures and artefacts of one run, safely on disk at every moment.

    Args:
        name: notebook name such as "03_vqgan_clip".
        given: parameters as they stood in the parameters cell.
        resolved: settings after the profile was applied (a dict, or any object with attributes).
        device: the device used; its name is recorded, and its peak memory at the end.

    The folder is the one that the runner prepared (`T2I_RUN_DIR`), else a new one under `reports/runs/`. Of a file that
    a parameter names, its name and hash are recorded, without the folder that it lies in; of a folder, its name.
    In a process of rank > 0 all methods do nothing.
    """

    def __init__(self, name: str, *, given: dict[str, Any], resolved: Any = None, device: Any = "cpu"):
        self.active = rank_zero()
        self.device = device
        profile = given.get("profile", "quick")
        seed = int(given.get("seed", 0))
        self.dir = Path(os.environ.get("T2I_RUN_DIR") or new_run_dir(name, profile=profile, seed=seed))
        self._start = time.time()
        if resolved is None:
            resolved = {}
        elif not isinstance(resolved, dict):
            resolved = vars(resolved)
        self.data: dict[str, Any] = {
            "name": name, "status": "running", "started": utc_now(), "finished": None, "seconds": None,
            "profile": profile, "seed": seed, "device": device_name(device),
            "parameters": without_folders({"given": _plain(given), "resolved": _plain(resolved)}),
            "inputs": hashes_of_inputs(given, folders=False), "versions": versions(),
            "commit": commit(), "peak_memory_mib": None, "metrics": {}, "artefacts": [], "figures": [], "fallbacks": []}
        if self.active:
            (self.dir / "figures").mkdir(parents=True, exist_ok=True)
            self._write()

    def log(self, step: int, **values: float) -> None:
        """Append values at `step` to metrics.csv (columns step, name, value), at once, so that a kill loses nothing."""
        if not self.active:
            return
        path = self.dir / "metrics.csv"
        text = io.StringIO(newline="")
        rows = csv.writer(text)
        if not path.exists():
            rows.writerow(["step", "name", "value"])
        rows.writerows([step, name, f"{float(value):.8g}"] for name, value in values.items())
        append_text(path, text.getvalue())

    def figure(self, name: str, figure: Any, *, thumbnail: bool = False) -> Path:
        """Save a matplotlib figure or a PIL picture as figures/<name>.png; `thumbnail` makes it the run's face."""
        path = self.dir / "figures" / f"{name}.png"
        if self.active:
            if not (hasattr(figure, "savefig") or hasattr(figure, "save")):
                raise BadParameter(f"figure {name!r} must be a matplotlib figure or a PIL image, got {type(figure)}")
            with replacing(path) as temporary:
                if hasattr(figure, "savefig"):
                    figure.savefig(temporary, dpi=110, bbox_inches="tight", format="png")
                else:
                    figure.save(temporary, format="PNG")
            entry = f"figures/{name}.png"
            if entry not in self.data["figures"]:
                self.data["figures"].append(entry)
            if thumbnail:
                self.data["thumbnail"] = entry
            self._write()
        return path

    def keep(self, name: str, shown: Any, *, thumbnail: bool = False) -> None:
        """Save a figure, a picture or a table, show it here, and close it.

        It is shown exactly once, wherever in a cell this is called: in a branch, in a loop, before other lines. Outside
        a notebook a table is printed and a figure only saved.

        Args:
            shown: matplotlib figure or PIL picture, saved as figures/<name>.png; or a `Table`, as tables/<name>.csv.
            thumbnail: make the figure the run's face.
        """
        if not self.active:
            return
        if isinstance(shown, Table):
            write_text(self.dir / "tables" / f"{name}.csv", shown.csv())
            show_table(shown)
            return
        path = self.figure(name, shown, thumbnail=thumbnail)
        if in_notebook():
            from IPython.display import Image, display

            display(Image(filename=str(path)))  # what is shown is what was kept
        close_figure(shown)

    def metric(self, **values: float | str | dict[str, float]) -> None:
        """Record final values, shown in the report; the last value under a name counts.

        A value with its n is `{"value": value, "n": n}`.
        """
        self.data["metrics"].update(_plain(values))
        self._write()

    def artefact(self, path: str | Path) -> None:
        """Record a file that the run made, with its hash."""
        if not self.active:
            return
        path = Path(path)
        inside = path.resolve().is_relative_to(self.dir.resolve())
        name = path.resolve().relative_to(self.dir.resolve()).as_posix() if inside else path.name
        self.data["artefacts"].append({"file": name, "sha256": sha256_of(path), "bytes": path.stat().st_size})
        self._write()

    def fallback(self, text: str) -> None:
        """Record that something was done otherwise than asked."""
        self.data["fallbacks"].append(text)
        self._write()

    def finish(self, status: str = "ok") -> None:
        """Close the record with its status, duration and peak memory."""
        self.data.update(status=status, finished=utc_now(), seconds=round(time.time() - self._start, 2),
                         peak_memory_mib=_plain(round(peak_memory(self.device), 1)))
        self._write()

    def _write(self) -> None:
        if self.active:
            write_json(self.dir / "run.json", self.data)


def show_table(table: Table) -> None:
    """Show a table where this is called in a notebook; print it elsewhere."""
    if in_notebook():
        from IPython.display import display

        display(table)
    else:
        print(table, flush=True)


def close_figure(figure: Any) -> None:
    """Give back the memory of a matplotlib figure; of anything else nothing is to be given back."""
    if hasattr(figure, "savefig"):
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is not None:
            pyplot.close(figure)
        figure.clear()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "item") and (value.numel() if hasattr(value, "numel") else getattr(value, "size", 1)) == 1:
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)  # JSON knows no NaN
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)

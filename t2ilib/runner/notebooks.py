"""The notebooks: find them, read their titles and parameters, and the public address of the repository.

A notebook is its percent script `NN_name.py`; the `.ipynb` beside it is made from that.
"""

import re
import tomllib
from pathlib import Path

from .parameters import Parameter, parse_cell
from .percent import parameters_cells
from ..errors import BadParameter, unknown_name
from ..paths import notebooks_dir, repo_root


def list_notebooks(folder: Path | None = None) -> list[Path]:
    """Return the percent scripts of all notebooks, in the order of their numbers."""
    return sorted((folder or notebooks_dir()).glob("[0-9][0-9]_*.py"))


def find_notebook(name: str, folder: Path | None = None) -> Path:
    """Return the percent script of the notebook called `name`: "3", "03", "vqgan_clip", "03_vqgan_clip", or a path.

    Raises:
        UnknownName: there is no such notebook; the message gives the nearest.
    """
    notebooks = {path.stem: path for path in list_notebooks(folder)}
    asked = Path(name).stem if name.endswith((".py", ".ipynb")) else name
    for stem, path in notebooks.items():
        number, rest = stem.split("_", 1)
        same_number = asked.isdecimal() and int(asked) == int(number)
        if asked in (stem, rest) or same_number:
            return path
    raise unknown_name("notebook", name, notebooks)


def title(path: Path) -> str:
    """Return the first heading of a notebook, or ""."""
    found = re.search(r"(?m)^# # (.+)$", path.read_text(encoding="utf-8"))
    return found[1].strip() if found else ""


def read_parameters(path: Path) -> dict[str, Parameter]:
    """Return the parameters of a notebook by name, from its one cell tagged `parameters`.

    Raises:
        BadParameter: there is no such cell, more than one, or it holds more than typed literals.
    """
    cells = parameters_cells(path.read_text(encoding="utf-8"))
    if len(cells) != 1:
        raise BadParameter(f"{path.name} must have one cell tagged 'parameters', it has {len(cells)}")
    return parse_cell(cells[0].source, path.stem)


def repository_url(root: Path | None = None) -> str:
    """Return the public address of the repository: the one line of `pyproject.toml` that holds it."""
    root = root or repo_root()
    with open(root / "pyproject.toml", "rb") as f:
        project = tomllib.load(f)["project"]
    return project["urls"]["Repository"].removesuffix("/").removesuffix(".git")

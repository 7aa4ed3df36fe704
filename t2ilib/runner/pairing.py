"""What must agree about the notebooks: each `.ipynb` with its `.py`, and all of them with the public address."""

import json
import re
from pathlib import Path

from .notebooks import list_notebooks, repository_url
from ..errors import BadParameter
from ..paths import repo_root

BADGE = re.compile(r"(colab\.research\.google\.com/github/)([\w.-]+/[\w.-]+)(/blob/main/notebooks/)([\w.-]+)")
ADDRESS = re.compile(r"https://github\.com/[\w.-]+/[\w-]+(?:\.(?!git\b)[\w-]+)*")
SETUP = re.compile(r'(?ms)^# %%[^\n]*tags=\[[^\n]*"setup".*?(?=^# %%|\Z)')


def sync_pairs(folder: Path | None = None) -> list[Path]:
    """Make every `.ipynb` from its `.py`, keep the ids of unchanged cells, drop outputs; return those that changed."""
    import nbformat
    from jupytext.cli import jupytext

    scripts = list_notebooks(folder)
    paths = [script.with_suffix(".ipynb") for script in scripts]
    before = {path: path.read_bytes() for path in paths if path.exists()}
    for path, content in before.items():
        if not _is_json(content):  # as a merge leaves it
            path.unlink()
    if scripts:
        jupytext(["--quiet", "--update", "--to", "ipynb", *map(str, scripts)])
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = []
                cell.execution_count = None
        notebook.metadata.pop("language_info", None)  # the kernel's patch version, which differs between machines
        nbformat.write(notebook, path)
    return [path for path in paths if before.get(path) != path.read_bytes()]


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True


def pair_problems(script: Path) -> list[str]:
    """Return what is wrong with one notebook's pair: not equal, outputs kept, another kernel. Empty if all is well."""
    import jupytext
    from jupytext.compare import NotebookDifference, compare_notebooks

    path = script.with_suffix(".ipynb")
    if not path.exists():
        return [f"{path.name} is missing; run: python -m t2ilib notebooks --sync"]
    if not _is_json(path.read_bytes()):
        return [f"{path.name} is no notebook, perhaps after a merge; run: python -m t2ilib notebooks --sync"]
    notebook = jupytext.read(path)
    problems = []
    try:
        compare_notebooks(notebook, jupytext.read(script), fmt="py:percent")
    except NotebookDifference:
        problems.append(f"{path.name} differs from {script.name}; run: python -m t2ilib notebooks --sync")
    code_cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if any(cell.get("outputs") or cell.get("execution_count") for cell in code_cells):
        problems.append(f"{path.name} has outputs; run: python -m t2ilib notebooks --sync")
    kernel = notebook.metadata.get("kernelspec", {})
    if (kernel.get("name"), kernel.get("display_name")) != ("python3", "Python 3 (ipykernel)"):
        problems.append(f"{path.name} must name the kernel python3, 'Python 3 (ipykernel)', got {dict(kernel)}")
    return problems


def address_problems(root: Path | None = None) -> list[str]:
    """Return where a Colab badge or set-up cell, or the README, disagrees with `repository_url`."""
    url = repository_url(root)
    problems = []
    for path in _addressed_files(root or repo_root()):
        text = path.read_text(encoding="utf-8")
        if _with_address(text, url) != text:
            problems.append(f"{path.name} names another address than {url}; "
                            "run: python -m t2ilib notebooks --set-address URL")
        if path.suffix != ".py":
            continue
        if f"{_slug(url)}/blob/main/notebooks/{path.stem}.ipynb" not in text:
            problems.append(f"{path.name} has no Colab badge that opens notebooks/{path.stem}.ipynb of {url}")
        if not any(url in cell for cell in SETUP.findall(text)):
            problems.append(f"{path.name} has no cell tagged 'setup' that clones {url} on Colab")
    return problems


def set_repository_url(url: str, root: Path | None = None) -> list[Path]:
    """Write the public address to `pyproject.toml`, and from there to badges, set-up cells and the README.

    Returns:
        The files that changed.

    Raises:
        BadParameter: not an address of the form https://github.com/OWNER/REPO, which is what Colab opens.
    """
    root = root or repo_root()
    url = url.removesuffix("/").removesuffix(".git")
    if not ADDRESS.fullmatch(url):
        raise BadParameter(f"the address must look like https://github.com/OWNER/REPO, got {url!r}")
    project = root / "pyproject.toml"
    line = re.compile(r'(?m)^(Repository = ")[^"]*"')
    edits = {project: line.sub(rf'\g<1>{url}"', project.read_text(encoding="utf-8"))}
    for path in _addressed_files(root):
        edits[path] = _with_address(path.read_text(encoding="utf-8"), url)
    changed = []
    for path, text in edits.items():
        if text != path.read_text(encoding="utf-8"):
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed + sync_pairs(root / "notebooks")


def _slug(url: str) -> str:
    return url.removeprefix("https://github.com/")


def _addressed_files(root: Path) -> list[Path]:
    return [p for p in (root / "README.md", *list_notebooks(root / "notebooks")) if p.exists()]


def _with_address(text: str, url: str) -> str:
    """Return `text` with our badges, clone commands and addresses in set-up cells on `url`; other links stay."""
    text = BADGE.sub(rf"\g<1>{_slug(url)}\g<3>\g<4>", text)
    text = SETUP.sub(lambda cell: ADDRESS.sub(url, cell[0]), text)
    return re.sub(r"(?m)^.*\bgit clone .*$", lambda line: ADDRESS.sub(url, line[0]), text)

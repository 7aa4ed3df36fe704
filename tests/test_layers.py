"""Imports point down: the layers are drawn here, and every import in the library is checked against them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from t2ilib.paths import repo_root

ROOT = repo_root() / "t2ilib"
# From the bottom up. A unit is a module or a package directly under t2ilib; it may import units of lower boxes.
BOXES = [
    {"errors"},
    {"files", "options", "paths", "waiting"},
    {"locks"},
    {"assets"},
    {"memory", "profiles", "runtime"},
    {"checkpoint", "media", "state_dicts"},
    {"compression", "kernels", "show"},
    {"diffusion", "layers", "record"},
    {"data", "encoders", "lesson", "models"},
    {"cascade", "guidance", "metrics", "sampling", "training"},
    {"methods"},
    {"bench", "leaderboard", "packing", "playground", "runner"},
    {"sweep"},
    {"cli"},
    {"__main__"},
]
# Lines inside one box that are drawn on purpose: (who, imports whom).
ALLOWED: set[tuple[str, str]] = set()
# Packages whose files are alternatives and independent of one another; `__init__` and `_private` files join them.
PEERS = {"models", "methods"}
# What such alternatives have in common.
SHARED = {("methods", "bank"), ("methods", "code_checkpoints"), ("methods", "code_drawing"), ("methods", "drawing"),
          ("methods", "limits"), ("methods", "networks"), ("methods", "one_pass"), ("methods", "pipeline_folders"),
          ("methods", "registry")}
ALLOWED_PEERS = {
    ("models.vqgan", "models.taming_format"),  # the names that the original code gives to configurations and weights
    ("models.pixelsnail_levels", "models.pixelsnail"),  # one network of two
    ("models.joint_vqvae", "models.vqvae2"),  # the same network with one more input
    ("models.pixelsnail_port", "models.pixelsnail"),  # the names that the public port gives to weights
    ("models.vqgan_growth", "models.vqgan"),  # makes a larger one from a smaller one
}
# Heavy packages: imported inside functions, in the unit that owns them.
HEAVY = {"open_clip": {"encoders"}, "transformers": {"encoders"}, "timm": {"encoders"}, "datasets": {"data"},
         "lpips": {"metrics", "training"}, "taming": {"bench", "layers"}, "papermill": {"runner"},
         "jupytext": {"runner"}, "nbconvert": {"runner"}, "ray": {"sweep"}, "wandb": {"training"},
         "lmdb": {"data"}, "pyarrow": {"data"}, "lightning_fabric": {"training"}, "torchmetrics": {"metrics"},
         "nltk": {"metrics"}, "diffusers": {"methods"}, "voila": {"runner"}, "anywidget": {"playground"}}
LIGHT = {"typing.Any", "t2ilib.waiting.choose_waiting"}  # what t2ilib/__init__.py may import
LEVEL = {unit: level for level, box in enumerate(BOXES) for unit in box}
FILES = sorted(ROOT.rglob("*.py"))


def module_of(path: Path) -> list[str]:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports(path: Path) -> list[tuple[list[str], bool]]:
    """Return (dotted name inside t2ilib or of another package, whether at module level) for every import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef))
              for n in ast.walk(f)}
    package = ["t2ilib", *module_of(path)][:None if path.name == "__init__.py" else -1]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name.split("."), id(node) not in inside) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            found += [([*base, alias.name], id(node) not in inside) for alias in node.names]
    return found


def violations(path: Path) -> list[str]:
    """Return what is wrong with the imports of a file."""
    module = module_of(path)
    if not module:
        at_top = [".".join(name) for name, at_top in imports(path) if at_top]
        return [f"t2ilib/__init__.py imports {name}" for name in at_top if name not in LIGHT]
    problems = [] if module[0] in LEVEL else [f"{module[0]} stands in no box of this test"]
    for name, at_top in imports(path):
        if name[0] == "t2ilib" and len(name) > 1:
            problems += _inside(module, name[1:])
        elif name[0] in HEAVY:
            problems += _heavy(module, name[0], at_top)
    return problems


def _inside(module: list[str], other: list[str]) -> list[str]:
    """Return what is wrong with the import of another file of the library."""
    if other[0] not in LEVEL:
        return []  # a value of t2ilib/__init__.py, such as __version__
    if other[0] != module[0]:
        down = LEVEL[other[0]] < LEVEL.get(module[0], 0)
        if down or (module[0], other[0]) in ALLOWED:
            return []
        return [f"{'.'.join(module)} imports {'.'.join(other)}: not below it"]
    among_peers = module[0] in PEERS and len(module) > 1 and len(other) > 1 and other[1] != module[1]
    if not among_peers or tuple(other[:2]) in SHARED:
        return []
    is_file = (ROOT / other[0] / f"{other[1]}.py").exists()
    if is_file and (".".join(module), ".".join(other[:2])) not in ALLOWED_PEERS:
        return [f"{'.'.join(module)} imports its peer {'.'.join(other[:2])}"]
    return []


def _heavy(module: list[str], package: str, at_top: bool) -> list[str]:
    """Return what is wrong with the import of a heavy package."""
    problems = []
    if module[0] not in HEAVY[package]:
        problems.append(f"{'.'.join(module)} imports {package}, which belongs to {sorted(HEAVY[package])}")
    if at_top:
        problems.append(f"{'.'.join(module)} imports {package} at module level, not in the function that needs it")
    return problems


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_down(path):
    assert violations(path) == []


def test_the_check_sees_violations(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "b.py").write_text("")
    bad = tmp_path / "models" / "a.py"
    bad.write_text("from ..metrics import x\nfrom .. import training\nfrom t2ilib.data.emoji import y\n"
                   "from . import b\nimport open_clip\nfrom ..errors import T2IError\n"
                   "def f():\n    from t2ilib import methods\n")
    found = "\n".join(violations(bad))
    for name in ("metrics", "training", "data.emoji", "peer models.b", "open_clip, which", "module level", "methods"):
        assert name in found
    assert "errors" not in found and len(violations(bad)) == 7


def test_lines_in_the_allow_table_are_used():
    used = {(module_of(path)[0], name[1]) for path in FILES if module_of(path)
            for name, _ in imports(path) if name[0] == "t2ilib" and len(name) > 1}
    assert used >= ALLOWED


@pytest.mark.parametrize("module", ["t2ilib", "t2ilib.__main__", "t2ilib.cli", "t2ilib.runner.launch",
                                    "t2ilib.runner.pairing", "t2ilib.runner.report"])
def test_light_modules_stay_light(module):
    """What starts with the command line must not pull in the packages that take seconds."""
    code = f"import sys, {module}; print(sorted({{'torch', 'numpy', 'matplotlib', 'papermill'}} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repo_root(), check=True)
    assert out.stdout.strip() == "[]"


def test_the_picture_of_the_layers_is_current_and_has_no_circle():
    sys.path.insert(0, str(Path(__file__).parent))
    from draw_layers import OUT, draw, import_graph, reachable

    graph = import_graph()
    assert not [room for room in graph if room in reachable(graph, room)]
    assert OUT.read_text(encoding="utf-8") == draw(), "run: python tests/draw_layers.py"


def test_no_file_of_a_package_hides_what_the_package_exports_from_another_file():
    """A file that is imported later takes the name; what it exports under its own name is bound after it."""
    for path in ROOT.rglob("__init__.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        source_of = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                source_of |= {alias.asname or alias.name: node.module for alias in node.names}
        files = {file.stem for file in path.parent.glob("*.py")} - {"__init__"}
        hidden = {name for name in files & source_of.keys() if source_of[name] not in (name, None)}
        assert not hidden, f"{path.relative_to(ROOT)} exports {hidden}, and there are files of these names"

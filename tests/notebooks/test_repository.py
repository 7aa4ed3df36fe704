"""What holds for every notebook of the repository; nbmake runs them in profile smoke beside these tests."""

import ast
import os
import re
import shutil
import sys
import time
from pathlib import Path

import jupytext
import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from t2ilib.errors import BadParameter
from t2ilib.paths import notebooks_dir, repo_root
from t2ilib.runner.notebooks import list_notebooks, read_parameters, repository_url
from t2ilib.runner.pairing import address_problems, pair_problems

NOTEBOOKS = list_notebooks()
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
ABSOLUTE = re.compile(r"(?<![\w.:/])(/(home|root|Users|tmp|work|mnt|opt|content/drive)/[\w.-]+|[A-Z]:\\\\)")


def test_every_ipynb_has_its_script():
    assert {p.stem for p in notebooks_dir().glob("*.ipynb")} == {p.stem for p in NOTEBOOKS}


@each
def test_pair(path):
    assert pair_problems(path) == []


@pytest.mark.parametrize("newer", [".py", ".ipynb"])
@each
def test_jupytext_leaves_a_pair_in_step_as_it_is(path, newer, tmp_path):
    from jupytext.cli import jupytext as command

    shutil.copy(path.with_name("jupytext.toml"), tmp_path)
    pair = [shutil.copy(path.with_suffix(suffix), tmp_path / f"{path.stem}{suffix}") for suffix in (".py", ".ipynb")]
    before = [copy.read_bytes() for copy in pair]
    for copy in pair:
        age = 0 if copy.suffix == newer else 60
        os.utime(copy, (time.time() - age, time.time() - age))
    command(["--quiet", "--sync", str(pair[1])])
    assert [copy.read_bytes() for copy in pair] == before


@each
def test_parameters_cell(path):
    known = read_parameters(path)
    assert known["profile"].default == "quick" and isinstance(known["seed"].default, int)
    notebook = jupytext.read(path.with_suffix(".ipynb"))
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    assert cell.metadata.get("nbmake") == {"mock": {"profile": "smoke"}}
    for line in cell.source.splitlines():
        assert re.match(r"\w+: [^=]+ = |[#\s\])}]|$", line), f"no type: {line}"


@each
def test_papermill_reads_every_parameter(path):
    inspected = papermill.inspect_notebook(str(path.with_suffix(".ipynb")))
    own = read_parameters(path)
    assert {name: parameter["default"] for name, parameter in inspected.items()}.keys() == own.keys()
    for name, parameter in own.items():
        assert ast.literal_eval(inspected[name]["default"]) == parameter.default


def test_a_notebook_finds_the_repository_or_names_cwd(tmp_path):
    """Papermill starts a kernel in the current folder, and a notebook does not know where its file lies."""
    source = nbformat.read(NOTEBOOKS[0].with_suffix(".ipynb"), as_version=4)
    source.cells = [cell for cell in source.cells if "setup" in cell.metadata.get("tags", [])]
    source.cells.append(nbformat.v4.new_code_cell("import t2ilib\nprint(t2ilib.__file__)"))
    path = tmp_path / "setup.ipynb"
    nbformat.write(source, path)
    with pytest.raises(PapermillExecutionError, match="papermill --cwd"):
        papermill.execute_notebook(path, tmp_path / "out.ipynb", cwd=tmp_path, progress_bar=False)
    executed = papermill.execute_notebook(path, tmp_path / "out.ipynb", cwd=repo_root(), progress_bar=False)
    assert executed.cells[-1].outputs[0].text.strip() == str(repo_root() / "t2ilib" / "__init__.py")


@each
def test_every_setup_cell_names_cwd(path):
    setup = [cell.source for cell in jupytext.read(path).cells if "setup" in cell.metadata.get("tags", [])]
    assert len(setup) == 1 and "papermill --cwd" in setup[0]


def test_public_address():
    assert repository_url().startswith("https://github.com/")
    assert address_problems() == []


@each
def test_one_process_of_a_training_goes_on_alone(path):
    """Where several processes share a batch, all but the first end behind the training: they would save and measure."""
    cells = [cell for cell in jupytext.read(path).cells if cell.cell_type == "code"]
    if not any("fabric.world_size" in cell.source for cell in cells):
        return
    (end,) = [cell.source for cell in cells if "trained" in cell.metadata.get("tags", [])]
    assert re.match(r"if fabric\.global_rank:.*\n    raise SystemExit", end), end


@each
def test_a_card_counts_what_its_first_weights_had_seen(path):
    source = path.read_text(encoding="utf-8")
    if "take_weights(" not in source:
        return
    assert "pictures_seen" in source
    assert "seen_before(start_from" in source, "weights that ship have seen pictures, too"


@each
def test_profiles_give_fractions_to_parameters_that_take_fractions(path):
    source = path.read_text(encoding="utf-8")
    fractions = set(re.findall(r"(?m)^(\w+): Optional\[float\]", source))
    values = {}
    for node in ast.walk(ast.parse(source)):
        is_profile = isinstance(node, ast.keyword) and node.arg in {"smoke", "quick", "full"}
        if is_profile and isinstance(node.value, ast.Call):
            values |= {(node.arg, word.arg): word.value for word in node.value.keywords}
    for (profile, name), value in values.items():
        if name in fractions and isinstance(value, ast.Constant) and value.value is not None:
            assert isinstance(value.value, float), f"{profile}: {name}={value.value} would refuse {name}=0.5"


@each
def test_no_magic_and_no_absolute_path(path):
    for cell in jupytext.read(path).cells:
        if cell.cell_type == "code":
            assert not re.search(r"(?m)^\s*[!%]", cell.source), cell.source
        assert not ABSOLUTE.search(cell.source), ABSOLUTE.search(cell.source)


@pytest.mark.parametrize("path", sorted((repo_root() / "reports" / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_executed_copies_have_no_path_of_a_machine(path):
    text = path.read_text(encoding="utf-8")
    for known in {str(repo_root()), str(Path.home()), sys.prefix}:
        assert len(known) < 5 or known not in text
    assert not re.search(r'"(input|output)_path": "/', text)


def test_a_parameters_cell_is_demanded(tiny):
    path = tiny() / "90_tiny.py"
    path.write_text("# %%\n1\n")
    with pytest.raises(BadParameter, match="one cell tagged"):
        read_parameters(path)

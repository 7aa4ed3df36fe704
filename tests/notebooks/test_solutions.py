"""The solutions of the exercises: each runs, and passes the check that its notebook puts to a student."""

import ast
import contextlib
import runpy

import jupytext
import pytest

from t2ilib.paths import notebooks_dir
from t2ilib.runner.notebooks import list_notebooks

FOLDER = notebooks_dir() / "solutions"
WITHOUT_EXERCISE = ["00_playground"]  # it has no code to write
NAMES = [path.stem for path in list_notebooks() if path.stem not in WITHOUT_EXERCISE]
each = pytest.mark.parametrize("name", NAMES)


def exercise_of(name):
    """Return the code of the exercise's cell, the function that it asks for, and that which checks it."""
    cells = jupytext.read(notebooks_dir() / f"{name}.py").cells
    source = next(cell.source for cell in cells if "exercise" in cell.metadata.get("tags", []))
    functions = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    asked = functions[0]
    check = next(function for function in functions if function.startswith("check_"))
    return source, asked, check


def names_of(name):
    """Return what the notebook imports and defines, without running anything else of it."""
    names = {"seed": 0, "__name__": "notebook"}
    for cell in jupytext.read(notebooks_dir() / f"{name}.py").cells:
        if cell.cell_type != "code" or "setup" in cell.metadata.get("tags", []):
            continue
        for node in ast.parse(cell.source).body:
            if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef)):
                with contextlib.suppress(NameError):  # a function whose defaults are settings of a run
                    exec(compile(ast.Module([node], []), name, "exec"), names)
    return names


@each
def test_a_solution_passes_its_own_assertions_and_the_check_of_its_notebook(name, monkeypatch):
    monkeypatch.setattr("sys.argv", [name])
    solved = runpy.run_path(str(FOLDER / f"{name}.py"))
    _, asked, check = exercise_of(name)
    names = names_of(name)
    names[check](solved[asked])
    with pytest.raises(NotImplementedError, match="write these lines"):
        names[check](names[asked])


@each
def test_an_exercise_has_a_hint_and_links_its_solution(name):
    text = (notebooks_dir() / f"{name}.py").read_text()
    exercise = text[text.index("# ## Exercise: "):]
    assert f"[solutions/{name}.py](solutions/{name}.py)" in exercise
    assert "<details><summary>Hint" in exercise and "Write these lines" in exercise and "xpected" in exercise


def test_every_solution_belongs_to_a_notebook():
    assert [path.stem for path in sorted(FOLDER.glob("*.py"))] == NAMES

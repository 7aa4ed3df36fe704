"""Percent scripts read as text: the same cells that jupytext finds."""

import jupytext
import pytest

from t2ilib.runner.notebooks import list_notebooks
from t2ilib.runner.percent import parameters_cells, percent_cells, with_parameters


@pytest.mark.parametrize("path", list_notebooks(), ids=lambda path: path.stem)
def test_cells_are_those_of_jupytext(path):
    found = percent_cells(path.read_text(encoding="utf-8"))
    expected = jupytext.read(path).cells
    assert [list(cell.tags) for cell in found] == [cell.metadata.get("tags", []) for cell in expected]
    for cell, true in zip(found, expected, strict=True):
        if true.cell_type == "code":
            assert cell.source == true.source


def test_values_follow_the_cell_of_parameters():
    text = '# %% tags=["parameters"]\nsteps: int = 1\nname = "a"\n\n# %%\nprint(steps, name)\n'
    changed = with_parameters(text, {"steps": 3, "name": "it's"})
    cells = jupytext.reads(changed, fmt="py:percent").cells
    assert [cell.metadata.get("tags") for cell in cells] == [["parameters"], ["injected-parameters"], None]
    assert cells[1].source == "steps = 3\nname = \"it's\"" and cells[2].source == "print(steps, name)"
    assert with_parameters(text, {}) == text and len(parameters_cells(text)) == 1

import json
import tomllib

import nbformat
import pytest

from t2ilib.errors import BadParameter
from t2ilib.runner import pairing
from t2ilib.runner.notebooks import repository_url


def test_sync_makes_a_pair_without_outputs_and_keeps_ids(tiny):
    folder = tiny()
    script, path = folder / "90_tiny.py", folder / "90_tiny.ipynb"
    assert pairing.pair_problems(script) == ["90_tiny.ipynb is missing; run: python -m t2ilib notebooks --sync"]
    assert pairing.sync_pairs(folder) == [path] and pairing.pair_problems(script) == []
    first = nbformat.read(path, as_version=4)
    nbformat.validate(first)
    assert pairing.sync_pairs(folder) == []
    first.cells[-1].outputs = [nbformat.v4.new_output("stream", text="2.0\n")]
    first.cells[-1].execution_count = 1
    nbformat.write(first, path)
    assert "has outputs" in pairing.pair_problems(script)[0]
    script.write_text(script.read_text() + "\n# %% [markdown]\n# More.\n")
    assert "differs from 90_tiny.py" in pairing.pair_problems(script)[0]
    assert pairing.sync_pairs(folder) == [path] and pairing.pair_problems(script) == []
    second = nbformat.read(path, as_version=4)
    assert [c.id for c in second.cells[:-1]] == [c.id for c in first.cells]
    parameters = [c for c in second.cells if "parameters" in c.metadata.get("tags", [])]
    assert len(parameters) == 1 and parameters[0].metadata["nbmake"] == {"mock": {"profile": "smoke"}}


def test_what_a_merge_broke_is_made_anew(tiny):
    folder = tiny()
    script, path = folder / "90_tiny.py", folder / "90_tiny.ipynb"
    pairing.sync_pairs(folder)
    path.write_text("<<<<<<< HEAD\n" + path.read_text())
    assert "is no notebook, perhaps after a merge" in pairing.pair_problems(script)[0]
    assert pairing.sync_pairs(folder) == [path] and pairing.pair_problems(script) == []


def test_another_kernel_is_a_problem(tiny):
    folder = tiny()
    pairing.sync_pairs(folder)
    path = folder / "90_tiny.ipynb"
    data = json.loads(path.read_text())
    data["metadata"]["kernelspec"]["name"] = "conda-env"
    path.write_text(json.dumps(data))
    assert any("must name the kernel python3" in text for text in pairing.pair_problems(folder / "90_tiny.py"))


def test_the_address_changes_everywhere_from_one_line(tiny):
    folder = tiny()
    root = folder.parent
    (root / "README.md").write_text("[run](https://colab.research.google.com/github/OWNER/REPO/blob/main/notebooks/90_tiny.ipynb)\n"
                                    "    git clone https://github.com/OWNER/REPO.git\nhttps://github.com/other/project\n")
    assert pairing.address_problems(root) == []
    url = "https://github.com/a-lab/t2i.lab"
    changed = pairing.set_repository_url(url + ".git/", root)
    assert {p.name for p in changed} == {"pyproject.toml", "README.md", "90_tiny.py", "90_tiny.ipynb"}
    assert repository_url(root) == url and pairing.address_problems(root) == []
    readme, script = (root / "README.md").read_text(), (folder / "90_tiny.py").read_text()
    assert "git clone https://github.com/a-lab/t2i.lab.git\n" in readme and "OWNER" not in readme + script
    assert "github/a-lab/t2i.lab/blob/main/notebooks/90_tiny.ipynb" in readme
    assert f'REPOSITORY = "{url}"' in script
    assert "https://github.com/other/project" in readme and "https://github.com/other/project" in script
    assert pairing.set_repository_url(url, root) == []
    assert tomllib.loads((root / "pyproject.toml").read_text())["project"]["urls"]["Repository"] == url


@pytest.mark.parametrize("url", ["https://gitlab.com/a/b", "github.com/a/b", "https://github.com/a", "https://github.com/a/b/c"])
def test_an_address_that_colab_cannot_open_is_refused(tiny, url):
    with pytest.raises(BadParameter, match="https://github.com/OWNER/REPO"):
        pairing.set_repository_url(url, tiny().parent)


def test_disagreement_is_found(tiny):
    folder = tiny()
    script = folder / "90_tiny.py"
    text = script.read_text()
    script.write_text(text.replace("github/OWNER/REPO/blob", "github/OLD/REPO/blob"))
    assert any("another address" in p for p in pairing.address_problems(folder.parent))
    script.write_text(text.replace("notebooks/90_tiny.ipynb", "notebooks/91_tiny.ipynb"))
    problems = pairing.address_problems(folder.parent)
    assert any("no Colab badge that opens notebooks/90_tiny.ipynb" in p for p in problems)
    script.write_text(text.replace('"https://github.com/OWNER/REPO"', '""'))
    assert any("'setup' that clones" in p for p in pairing.address_problems(folder.parent))

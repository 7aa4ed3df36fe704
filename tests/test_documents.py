"""The pages that say where things are name files and functions that exist."""

import re

import pytest

from t2ilib.paths import repo_root

LINK = re.compile(r"\]\(([^)#\s]+)(?:#([^)\s]+))?\)")
PAGES = ("README.md", "GLOSSARY.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "data/README.md", "notebooks/README.md",
         "reports/RESULTS.md", "t2ilib/methods/README.md", "t2ilib/training/README.md")
PLACEHOLDERS = ("NN_name", "NAME")
NAMED = re.compile(r"`([\w./]+\.(?:py|svg|md|html|toml|txt))(?:: ([\w.]+))?(?:\([\w]*\))?`")


def named_places(page):
    text = (repo_root() / page).read_text(encoding="utf-8")
    places = [place for place in NAMED.findall(text) if not any(word in place[0] for word in PLACEHOLDERS)]
    assert len(places) > 5
    return places


def file_called(name):
    for folder in ("t2ilib", "t2ilib/kernels", "."):
        path = repo_root() / folder / name
        if path.is_file():
            return path
    raise AssertionError(f"there is no file {name}")


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_files_and_functions_exist(page):
    for name, function in named_places(page):
        text = file_called(name).read_text(encoding="utf-8")
        if function:
            defined = function.rpartition(".")[2]
            assert re.search(rf"(def|class) {defined}\b", text), f"{page}: {name} has no {function}"


def headings(notebook):
    """Return the anchors of a notebook's headings, as Jupyter makes them."""
    source = notebook.with_suffix(".py").read_text(encoding="utf-8")
    return {title.replace(" ", "-") for title in re.findall(r"^# #{1,3} (.+)$", source, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    path = repo_root() / page
    links = LINK.findall(path.read_text(encoding="utf-8"))
    assert links, f"{page} links to nothing"
    for name, anchor in links:
        if name.startswith("http"):
            continue
        target = path.parent / name
        assert target.exists(), f"{page}: there is no {name}"
        if anchor and target.suffix == ".ipynb":
            assert anchor in headings(target), f"{page}: {name} has no heading {anchor}"


def test_every_notebook_is_on_the_route():
    text = (repo_root() / "notebooks" / "README.md").read_text(encoding="utf-8")
    for notebook in (repo_root() / "notebooks").glob("*.ipynb"):
        assert f"({notebook.name})" in text, f"notebooks/README.md does not name {notebook.name}"


def test_every_executed_copy_is_on_the_route_and_small():
    text = (repo_root() / "notebooks" / "README.md").read_text(encoding="utf-8")
    for copy in (repo_root() / "reports" / "notebooks").glob("*.ipynb"):
        assert f"(../reports/notebooks/{copy.name})" in text, f"notebooks/README.md does not link {copy.name}"
        assert copy.stat().st_size < 1.5 * 2**20, copy.name

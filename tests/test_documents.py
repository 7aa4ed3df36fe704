"""The pages that say where things are name files and functions that exist."""

import re

import pytest

from t2ilib.paths import repo_root

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

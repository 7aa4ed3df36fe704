"""The Makefile and the requirement files, without installing anything."""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from t2ilib.paths import repo_root

FILES = ("requirements.txt", "requirements-dev.txt", "constraints.txt")
MISSION = ("jupyterlab jupytext papermill torch torchvision open_clip_torch taming-transformers matplotlib ipywidgets "
           "lpips scikit-learn nbmake").split()


def requirements(name):
    lines = (repo_root() / name).read_text().splitlines()
    return {canonicalize_name(r.name): r for r in (Requirement(line) for line in lines if line and line[0] != "#")}


def test_constraints_pin_every_requirement_within_its_bound():
    pins = requirements("constraints.txt")
    assert all(str(pin.specifier).startswith("==") for pin in pins.values())
    wanted = {**requirements("requirements.txt"), **requirements("requirements-dev.txt")}
    assert {canonicalize_name(name) for name in MISSION} <= set(wanted)
    for name, requirement in wanted.items():
        assert [s.operator for s in requirement.specifier] == [">="], f"{name} must have a lower bound and nothing else"
        assert requirement.specifier.contains(next(iter(pins[name].specifier)).version), name


def test_packages_that_other_systems_lack_are_marked():
    for name, pin in requirements("constraints.txt").items():
        if name.startswith(("nvidia-", "cuda-", "triton")):
            assert str(pin.marker) == 'platform_system == "Linux"', name


def test_no_registry_is_named():
    for name in (*FILES, "Makefile", ".ci/run", "pyproject.toml"):
        text = (repo_root() / name).read_text()
        hosts = set(re.findall(r"https?://([\w.-]+)", text)) - {"github.com"}
        assert not hosts and not re.search(r"^\s*--(extra-)?index-url|find-links", text, re.MULTILINE), name


@pytest.fixture
def make(tmp_path):
    """Run make in a folder where Python only prints what it was called with."""
    if not (shutil.which("make") and shutil.which("cksum")):
        pytest.skip("make is not installed")
    for name in ("Makefile", *FILES):
        shutil.copy(repo_root() / name, tmp_path)
    fake = tmp_path / ".venv" / "bin" / "python"
    fake.parent.mkdir(parents=True)
    fake.write_text('#!/bin/sh\nfor a in "$@"; do echo "<$a>"; done\n')
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)

    def run(*args):
        env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        command = ["make", "-s", "PYTHON=true", *args]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout

    run.folder = tmp_path
    return run


@pytest.mark.parametrize("prompt", ["a red heart", "it's \"big\"; `echo x` $HOME $(PATH) & | \\ *", "-n", "ein Ä 三"])
def test_the_prompt_arrives_as_it_was_typed(make, prompt):
    assert make("image", f"PROMPT={prompt}").endswith(f"<-->\n<{prompt}>\n")


def test_an_unchanged_requirement_costs_nothing_and_a_changed_one_installs(make):
    install = "<pip>\n<install>\n<-r>\n<requirements.txt>"
    assert install in make("lab") and install not in make("lab")
    (make.folder / "requirements.txt").touch()
    assert install not in make("lab")
    with open(make.folder / "constraints.txt", "a") as f:
        f.write("# changed\n")
    assert install in make("lab") and install not in make("lab")


def test_the_tests_install_their_own_requirements_once(make):
    first, second = make("test"), make("test")
    assert "<requirements-dev.txt>" in first and "<requirements-dev.txt>" not in second
    assert "<pytest>\n<notebooks>\n<tests>\n<--nbmake>" in second


@pytest.mark.parametrize(("target", "text"), [
    ("run", "<t2ilib>\n<run>\n<03>\n<--profile>\n<smoke>"), ("bench", "<t2ilib>\n<bench>"), ("lab", "<jupyterlab>")])
def test_targets_call_the_command_line(make, target, text):
    assert text in make(target, "NB=03", "PROFILE=smoke")


def test_only_the_page_installs_voila(make):
    assert "voila" not in make("run") and "voila" not in make("image") and "voila" not in make("lab")
    first = make("app", "ARGS=--port 8000")
    assert "<install>\n<voila>=0.5>\n<-c>\n<constraints.txt>" in first
    assert first.endswith("<t2ilib>\n<app>\n<--port>\n<8000>\n") and "<install>" not in make("app")
    assert "voila" not in (make.folder / "requirements.txt").read_text()


def test_help_names_every_target(make):
    assert all(f"make {target}" in make() for target in ("image", "run", "test", "lab", "app", "bench"))


class Item:
    def __init__(self, name, suffix=".py", is_slow=False):
        self.name = name
        self.path = Path(f"x{suffix}")
        self.is_slow = is_slow

    def get_closest_marker(self, name):
        return self.is_slow or None


def test_each_process_begins_with_what_takes_longest(pytestconfig):
    items = [Item("a"), Item("b"), Item("s", is_slow=True), Item("c"), Item("t", is_slow=True), Item("d"),
             Item("n", ".ipynb"), Item("m", ".ipynb"), Item("e")]
    plugin = pytestconfig.pluginmanager.get_plugin("longest first")
    order = "".join(item.name for item in plugin.ordered(items, 2))
    assert order == "nsab" + "mtcde"
    assert "".join(item.name for item in plugin.ordered(items, 1)) == "nmstabcde"
    assert sorted(item.name for item in plugin.ordered(items[2:5], 2)) == ["c", "s", "t"]

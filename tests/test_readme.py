"""Every command and every import that the README and its pages show is understood by the program as it is."""

import ast
import re
import shlex

import pytest

from t2ilib.cli import parse_arguments
from t2ilib.cli.generate import read_call
from t2ilib.methods import METHODS
from t2ilib.paths import repo_root
from t2ilib.runner.plan import plan_run
from t2ilib.runner.recipes import RECIPES, find_recipes, is_queue

PAGES = ("README.md", "t2ilib/methods/README.md", "t2ilib/training/README.md")
TEXT = "\n".join((repo_root() / page).read_text(encoding="utf-8") for page in PAGES)
TEXT = TEXT.replace("\\\n", "")  # long lines joined
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines() if "-m t2ilib" in line]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_pages_is_understood(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "prompts.txt").write_text("a red heart\n")
    words = shlex.split(line, comments=True)
    argv = words[words.index("t2ilib") + 1:]
    arguments = parse_arguments(argv)
    if argv[0] == "generate" and "--from" not in argv and not arguments.list_options:
        call = read_call(arguments)
        METHODS[call.method].read(call.option_texts)
    for number, parameters in runs_of(arguments, argv[0]):
        plan_run(number, parameters, getattr(arguments, "profile", None))


def runs_of(arguments, command):
    """Return the notebooks that a command runs, with their parameters."""
    parameters = dict(getattr(arguments, "parameters", []))
    if command == "run":
        return [(name, parameters) for name in arguments.names]
    if command != "train" or arguments.list:
        return []
    if not is_queue(arguments.name):
        return [(arguments.name, parameters)]
    recipes = [RECIPES[name] for name in find_recipes(arguments.name)]
    return [(recipe.notebook, recipe.parameters | parameters) for recipe in recipes]


def test_there_are_commands_and_python():
    assert len(COMMANDS) > 15
    for kind, block in BLOCKS:
        if kind == "python":
            ast.parse(block)


def test_names_that_the_python_of_the_pages_imports_exist():
    for kind, block in BLOCKS:
        if kind != "python":
            continue
        for node in ast.parse(block).body:
            if isinstance(node, ast.ImportFrom):
                module = __import__(node.module, fromlist=[name.name for name in node.names])
                assert all(hasattr(module, name.name) for name in node.names), ast.unparse(node)

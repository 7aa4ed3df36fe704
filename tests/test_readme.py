"""What the README and its pages show: every command and import is understood as it stands, every example draws."""

import ast
import re
import shlex
import shutil
import subprocess

import pytest
from PIL import Image

from t2ilib.cli import main, parse_arguments
from t2ilib.cli.generate import read_call
from t2ilib.methods import METHODS
from t2ilib.methods.gigagan import CHECKPOINT as GIGAGAN
from t2ilib.methods.minimagen import STAGES
from t2ilib.paths import checkpoints_dir, repo_root
from t2ilib.runner.plan import plan_run
from t2ilib.runner.recipes import RECIPES, find_recipes, is_queue

PAGES = ("README.md", "t2ilib/methods/README.md", "t2ilib/training/README.md")  # in the order of reading
TEXT = "\n".join((repo_root() / page).read_text(encoding="utf-8") for page in PAGES)
TEXT = TEXT.replace("\\\n", "")  # long lines joined
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines() if "-m t2ilib" in line]
OUTSIDE = "# Needs "  # begins a block of Python that downloads, or reads files of the reader's
TRAINED = {"outputs/mine": STAGES, "outputs/gan": (GIGAGAN,)}  # what trainings of hours would leave there
WRITES = re.compile(r"(?:--out|--film|-p checkpoint) (\S+)|> (\S+)|papermill \S+ (\S+)|"
                    r"(?:save|FilmWriter|write_text|Path)\(f?\"([^\"]+)\"")


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


def examples():
    """Return the commands that draw, the lines of the shell between them, and the Python, in the order of the pages."""
    found = []
    for kind, block in BLOCKS:
        if kind == "python" and not block.startswith(OUTSIDE):
            found.append((kind, block))
        if kind == "sh":
            lines = block.splitlines()
            found += [(kind, line) for line in lines if " -m t2ilib generate " in line or line.startswith("printf ")]
    return found


def places():
    """Return the files and folders that the examples write by name."""
    text = "\n".join(block for kind, block in BLOCKS if not block.startswith(OUTSIDE))
    return sorted({name for names in WRITES.findall(text) for name in names if name})


def test_examples_write_to_an_ignored_folder():
    assert len(places()) > 5
    assert [name for name in places() if not name.startswith("outputs/") and name != "replace"] == []


def test_examples_read_what_an_earlier_one_has_written():
    text = "\n".join(block for kind, block in BLOCKS if not block.startswith(OUTSIDE))
    for name in re.findall(r"(?:init_image=|--prompts |o checkpoint=)(outputs\S*)", text):
        first = text.index(name)
        before = text[max(0, first - 12):first]
        assert re.search(r"(--out |> |Path\(\"|checkpoint )$", before), f"{name} is read before it is written"


@pytest.mark.long
def test_each_example_draws_and_git_sees_nothing_new(tmp_path, monkeypatch):
    for name in (".gitignore", "outputs/.gitignore"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(repo_root() / name, tmp_path / name)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=reader", "-c", "user.email=reader@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "A clone"], check=True)
    for folder, names in TRAINED.items():
        for name in names:
            shutil.copytree(checkpoints_dir() / name, tmp_path / folder / name)
    monkeypatch.chdir(tmp_path)
    for kind, text in examples():
        if kind == "python":
            exec(compile(text, "an example", "exec"), {})
        elif text.startswith("printf "):
            subprocess.run(text, shell=True, check=True)
        else:
            words = shlex.split(text, comments=True)
            assert main(words[words.index("t2ilib") + 1:]) == 0, text
    status = subprocess.run([*git, "status", "--porcelain"], check=True, capture_output=True, text=True).stdout
    assert status == ""
    pictures = list(tmp_path.rglob("*.png"))
    assert len(pictures) >= 10
    for path in pictures:
        with Image.open(path) as picture:
            low, high = picture.convert("L").getextrema()
        assert high - low > 50, f"{path.name} shows nothing"

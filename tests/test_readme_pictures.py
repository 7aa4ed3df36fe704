"""The examples of the README and its pages, drawn as a reader would: nothing is missing, and git sees nothing new."""

import re
import shlex
import shutil
import subprocess

import pytest
from PIL import Image

from t2ilib.cli import main
from t2ilib.methods.minimagen import STAGES
from t2ilib.paths import checkpoints_dir, repo_root

PAGES = ("README.md", "t2ilib/methods/README.md", "t2ilib/training/README.md")  # in the order of reading
TEXT = "\n".join((repo_root() / page).read_text(encoding="utf-8") for page in PAGES)
TEXT = TEXT.replace("\\\n", "")  # long lines joined
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
OUTSIDE = "# Needs "  # begins a block of Python that downloads, or reads files of the reader's
TRAINED = "outputs/mine"  # what a training of hours would leave there
WRITES = re.compile(r"(?:--out|--film|-p checkpoint) (\S+)|> (\S+)|papermill \S+ (\S+)|"
                    r"(?:save|FilmWriter|write_text|Path)\(f?\"([^\"]+)\"")


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
    for stage in STAGES:
        shutil.copytree(checkpoints_dir() / stage, tmp_path / TRAINED / stage)
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
    pictures = [path for path in tmp_path.rglob("*.png") if path.parent != tmp_path / TRAINED]
    assert len(pictures) >= 10
    for path in pictures:
        with Image.open(path) as picture:
            low, high = picture.convert("L").getextrema()
        assert high - low > 50, f"{path.name} shows nothing"

"""A notebook as a page, without a browser: what is shown, and what is refused before anything is served."""

import socket
import sys

import pytest

from t2ilib.cli import main
from t2ilib.errors import BadParameter, MissingAsset
from t2ilib.paths import notebooks_dir, repo_root
from t2ilib.runner import page

SCRIPT = """# %% [markdown] tags=["page"]
# # 00 · Pictures
# Look at them.

# %% [markdown]
# Run all cells.

# %% tags=["parameters"]
profile: str = "quick"

# %%
print(profile)

# %% [markdown] tags=["page"]
# What you see.

# %% [markdown]
# Exercises.
"""


@pytest.fixture
def served(monkeypatch):
    """Stand in for Voila; returns the command lines with which it was started, and the environment then."""
    calls = []

    class Voila:
        @staticmethod
        def launch_instance(arguments):
            calls.append(arguments)

    monkeypatch.setattr(page, "import_voila", lambda: Voila)
    for name in ("JUPYTER_PATH", "JUPYTER_PREFER_ENV_PATH", "PYTHONPATH", "T2I_INTERACTIVE"):
        monkeypatch.setenv(name, "")  # put back what the command sets
    return calls


def test_the_page_has_the_code_unseen_and_the_words_that_are_tagged(tmp_path):
    script = tmp_path / "00_pictures.py"
    script.write_text(SCRIPT, encoding="utf-8")
    notebook = page.page_notebook(script, {"profile": "smoke"}, tmp_path)
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds == ["markdown", "code", "code", "code", "code", "markdown"]
    title, place, parameters, given, code, words = [cell.source for cell in notebook.cells]
    assert title == "# Pictures\nLook at them." and words == "What you see."
    assert str(script) in place and repr(str(tmp_path)) in place
    assert parameters == 'profile: str = "quick"' and given == "profile = 'smoke'" and code == "print(profile)"
    assert notebook.metadata.title == "Pictures"


def test_the_playgrounds_page_speaks_of_no_cells_and_no_exercises():
    notebook = page.page_notebook(notebooks_dir() / "00_playground.py", {}, repo_root())
    words = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert words.startswith("# Playground") and "Guide" in words and "Side by side" in words
    for word in ("cell", "papermill", "Exercise", "colab", "notebook 0"):
        assert word not in words, word


def test_the_command_starts_voila_on_this_machine_alone(served, capsys):
    assert main(["app", "--port", "0", "--no-browser", "--profile", "smoke", "-p", "method", "generator"]) == 0
    arguments, = served
    assert "--no-browser" in arguments and "--Voila.ip=127.0.0.1" in arguments and "--template=t2ilib" in arguments
    port = next(text for text in arguments if text.startswith("--port=")).removeprefix("--port=")
    assert 0 < int(port) <= 65535 and f"http://localhost:{port}/" in capsys.readouterr().out
    assert arguments[0].endswith("00_playground.ipynb")
    assert (page.TEMPLATES / "voila" / "templates" / "t2ilib" / "index.html.j2").is_file()


def test_a_browser_is_opened_unless_that_is_left_out(served):
    assert main(["app", "--port", "0"]) == 0
    assert "--no-browser" not in served[0]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--port", "70000"], "from 0 to 65535, got 70000"), (["--port", "x"], "--port"),
    (["--profile", "fast"], "unknown profile 'fast'"), (["-p", "methd", "x"], "did you mean method"),
    (["-p", "seed", "x"], "seed"), (["--prt", "1"], "did you mean --port")])
def test_bad_arguments_are_refused_in_one_line(served, arguments, message, capsys):
    assert main(["app", *arguments]) == 2
    assert message in capsys.readouterr().err and served == []


def test_a_taken_port_is_said_with_another(served, capsys):
    with socket.socket() as taken:
        taken.bind((page.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["app", "--port", str(port)]) == 2
        message = capsys.readouterr().err
        assert f"port {port} cannot be used" in message and "--port 0" in message and served == []
        with pytest.raises(BadParameter, match="cannot be used"):
            page.free_port(port)
    assert page.free_port(port) == port


def test_without_voila_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "voila", None)
    monkeypatch.setitem(sys.modules, "voila.app", None)
    with pytest.raises(MissingAsset):
        page.import_voila()
    assert main(["app", "--no-browser"]) == 1
    message = capsys.readouterr().err
    assert "pip install" in message and "voila" in message and "make app" in message and "make lab" in message

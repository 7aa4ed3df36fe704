"""What an executed notebook says of the machine that it ran on: nothing. What it shows: all."""

import base64
from pathlib import Path

import nbformat
import pytest

from t2ilib.runner.execute import scrub

LETTERS = f"iVBORw0KGgo/tmp/{Path.home()}AAAA"  # base64, which spells the names of folders by chance


@pytest.fixture
def notebook(monkeypatch):
    """A notebook of one cell with these outputs; folders of temporary files are in /tmp."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/tmp")

    def make(**data):
        output = nbformat.v4.new_output("display_data", data={name.replace("__", "/"): x for name, x in data.items()})
        return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[output])])

    return make


def data_of(notebook):
    return notebook.cells[0].outputs[0].data


def test_paths_are_replaced_in_what_is_text(notebook):
    made = notebook(text__plain=f"saved in {Path.home()}/x and '/tmp/y'", text__html="<a href='/tmp/z'>z</a>")
    made.cells[0].outputs[0].data["image/svg+xml"] = "<svg><!-- /tmp/w --></svg>"
    scrub(made)
    assert data_of(made)["text/plain"] == "saved in ~/x and '<tmp>/y'"
    assert data_of(made)["text/html"] == "<a href='<tmp>/z'>z</a>"
    assert data_of(made)["image/svg+xml"] == "<svg><!-- <tmp>/w --></svg>"


def test_pictures_stay_as_they_are(notebook):
    page = f"<p>/tmp/a</p><img src='data:image/webp;base64,{LETTERS}'><p>/tmp/b</p>"
    made = notebook(image__png=LETTERS, image__jpeg=LETTERS, text__html=page)
    scrub(made)
    assert data_of(made)["image/png"] == data_of(made)["image/jpeg"] == LETTERS
    assert data_of(made)["text/html"] == page.replace("/tmp/a", "<tmp>/a").replace("/tmp/b", "<tmp>/b")


def test_buffers_of_widgets_stay_as_they_are(notebook):
    made = notebook(text__plain="a slider")
    content = base64.b64encode(b"\xff" + LETTERS.encode()).decode()
    buffer = {"encoding": "base64", "data": content + "/tmp", "path": ["/tmp"]}
    made.metadata["widgets"] = {"state": {"buffers": [buffer]}}
    scrub(made)
    [kept] = made.metadata["widgets"]["state"]["buffers"]
    assert kept["data"] == content + "/tmp" and kept["path"] == ["<tmp>"]

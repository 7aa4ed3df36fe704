"""What a visitor of the repository's page meets: issue forms, the workflow, the preview picture."""

import json
import re

import pytest
import yaml
from PIL import Image

from t2ilib.cli import COMMANDS, main
from t2ilib.media import png
from t2ilib.methods import METHODS
from t2ilib.paths import repo_root
from tests.draw_gallery import (
    GALLERY,
    PREVIEW,
    PREVIEW_BYTES,
    PREVIEW_METHODS,
    PREVIEW_PROMPTS,
    PREVIEW_SIZE,
    PROMPTS,
    SHEET_SIZE,
    preview,
    sheet_file,
    sheet_hashes,
)

GITHUB = repo_root() / ".github"
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
KINDS = {"markdown", "textarea", "input", "dropdown", "checkboxes"}
COMMAND = re.compile(r"python -m t2ilib (\w+)")


def read_yaml(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_there_is_a_form_for_each_kind_of_issue():
    assert [path.stem for path in FORMS] == ["bug", "method", "picture"]
    assert isinstance(read_yaml(GITHUB / "ISSUE_TEMPLATE" / "config.yml")["blank_issues_enabled"], bool)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_is_one_that_github_accepts(path):
    form = read_yaml(path)
    assert {"name", "description", "body"} <= set(form) <= {"name", "description", "title", "labels", "body"}
    names = [field.get("id") for field in form["body"] if field["type"] != "markdown"]
    assert None not in names and len(set(names)) == len(names)
    for field in form["body"]:
        assert field["type"] in KINDS
        if field["type"] == "markdown":
            assert field["attributes"]["value"]
            continue
        assert field["attributes"]["label"]
        if field["type"] in ("dropdown", "checkboxes"):
            assert field["attributes"]["options"]


@pytest.mark.parametrize("name", ["bug", "picture"])
def test_faults_come_with_versions_and_device(name):
    form = read_yaml(GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml")
    field = next(field for field in form["body"] if field.get("id") == "info")
    assert "python -m t2ilib info" in field["attributes"]["description"]
    assert field["validations"]["required"] is True


@pytest.mark.parametrize("path", sorted(GITHUB.rglob("*.*")), ids=lambda path: path.name)
def test_commands_that_are_named_exist(path):
    for name in COMMAND.findall(path.read_text(encoding="utf-8")):
        assert name in COMMANDS


def test_the_workflow_runs_on_three_systems():
    workflow = read_yaml(GITHUB / "workflows" / "ci.yml")
    job = workflow["jobs"]["tests"]
    matrix = job["strategy"]["matrix"]
    assert matrix["os"] == ["ubuntu-latest", "macos-latest", "windows-latest"]
    assert job["runs-on"] == "${{ matrix.os }}"
    assert all(isinstance(version, str) for version in matrix["python"])  # 3.10 without quotes would be 3.1
    assert {"push", "pull_request"} <= set(workflow[True])  # YAML reads the key `on` as true


def test_each_system_has_steps_that_test():
    steps = read_yaml(GITHUB / "workflows" / "ci.yml")["jobs"]["tests"]["steps"]
    unix = [step["run"] for step in steps if step.get("if") == "runner.os != 'Windows'"]
    windows = "\n".join(step["run"] for step in steps if step.get("if") == "runner.os == 'Windows'")
    assert unix == [".ci/run"]
    assert (repo_root() / ".ci" / "run").is_file()
    for file in ("requirements.txt", "requirements-dev.txt", "constraints.txt"):
        assert file in windows
        assert (repo_root() / file).is_file()
    check = (repo_root() / "Makefile").read_text(encoding="utf-8")
    marker = re.search(r'-m "([^"]+)"', windows)[1]
    assert f'tests -q -m "{marker}"' in check  # the same as `make check`


@pytest.mark.parametrize("path", [PREVIEW, GALLERY / "methods.png"], ids=lambda path: path.name)
def test_what_is_made_of_the_sheets_is_made_of_those_that_are_there(path):
    record = png.read_record(path)
    assert record["sheets"] == sheet_hashes(record["methods"]), "run: python tests/draw_gallery.py none"


def test_every_method_that_can_draw_has_a_sheet_with_its_record():
    drawn = png.read_record(GALLERY / "methods.png")["methods"]
    assert drawn == [name for name, method in METHODS.items() if not method.missing()]
    for method in drawn:
        call = png.read_record(sheet_file(method))["call"]
        assert (call["method"], call["prompt"], call["seed"]) == (method, list(PROMPTS), 0)
        with Image.open(sheet_file(method)) as sheet:
            assert sheet.size == SHEET_SIZE


def test_the_preview_is_what_github_takes():
    with Image.open(PREVIEW) as image:
        assert image.size == PREVIEW_SIZE == (1280, 640)
    assert PREVIEW.stat().st_size <= PREVIEW_BYTES


def test_the_preview_keeps_every_picture_inside():
    shades = [[Image.new("RGB", (128, 128), (250, 10 * j, 100 * i)) for j in range(len(PREVIEW_PROMPTS))]
              for i in range(len(PREVIEW_METHODS))]
    page = preview(shades)
    width, height = page.size
    colours = {colour for _, colour in page.getcolors(width * height)}
    for row in shades:
        for picture in row:
            assert picture.getpixel((0, 0)) in colours
    edge = [page.getpixel((x, y)) for x in (0, width - 1) for y in range(height)]
    assert set(edge) == {(255, 255, 255)}


def test_info_tells_versions_and_device_and_no_paths(capsys):
    assert main(["info", "--json"]) == 0
    text = capsys.readouterr().out
    found = json.loads(text)
    assert {"t2ilib", "system", "device", "versions", "checkpoints"} <= set(found)
    assert found["versions"]["torch"]
    assert found["checkpoints"]["emoji-clip"] == "here"
    assert str(repo_root()) not in text
    assert main(["info"]) == 0
    assert f"all {len(found['checkpoints'])} here" in capsys.readouterr().out


def test_info_names_a_checkpoint_without_its_weights(tmp_path, monkeypatch, capsys):
    for name, config in (("a", '{"class": "A"}'), ("b", "{")):
        folder = tmp_path / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(config)
    monkeypatch.setenv("T2I_EMBEDDED", str(tmp_path))
    assert main(["info"]) == 0
    assert "0 of 2 here; a absent, b unreadable" in capsys.readouterr().out

"""The parts of a bundle: sizes, what fits, the archive, wheels and the script that runs it."""

import os
import random
import subprocess
import sys
import tarfile
import zipfile

import pytest

from t2ilib.cli import main
from t2ilib.errors import BadParameter, MissingAsset, UnknownName
from t2ilib.packing import parts, unpack_wheels
from t2ilib.packing.archive import choose, pack, read_size, write
from t2ilib.packing.parts import Part, code_part, drawings_part, list_parts, wheels_part
from t2ilib.packing.wheels import build_wheel
from t2ilib.paths import repo_root

RUN = repo_root() / "t2ilib" / "packing" / "run.sh"


def part(name, size, *, required=False):
    return Part(name, {f"{name}.bin": random.Random(name).randbytes(size)}, required)


@pytest.fixture
def some():
    """Parts whose content cannot be compressed."""
    return [part("code", 30_000, required=True), part("text", 50_000, required=True), part("first", 40_000),
            part("second", 60_000), part("third", 10_000)]


@pytest.mark.parametrize(("text", "size"), [
    ("60MB", 60_000_000), ("64MiB", 64 * 2**20), ("1.5 gb", 1_500_000_000), ("1000", 1000), ("2KiB", 2048)])
def test_a_size_is_read(text, size):
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "60XB", "-1MB", "1e3MB", "nan"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(BadParameter, match="such as 60MB"):
        read_size(text)


def test_parts_are_taken_in_their_order_while_they_fit(some):
    bundle = choose([pack(each) for each in some], 140_000)
    assert [piece.part.name for piece in bundle.taken] == ["text", "first", "code", "third"]
    assert [piece.part.name for piece in bundle.left_out] == ["second"]
    everything = choose([pack(each) for each in some], 10**6)
    assert everything.left_out == [] and everything.size > bundle.size


def test_required_parts_that_do_not_fit_are_named_the_largest_first(some):
    with pytest.raises(BadParameter, match=r"at least 0.1 MB, more than the limit of 0.1 MB: text 0.1 MB, code 0.0 MB; "
                                           "raise --limit"):
        choose([pack(each) for each in some], 60_000)


def test_the_archive_holds_the_parts_and_has_the_size_that_was_told(some, tmp_path):
    bundle = choose([pack(each) for each in some], 140_000)
    path = tmp_path / "lab.tar"
    write(bundle, path)
    assert path.stat().st_size == bundle.size <= 140_000
    with tarfile.open(path) as file:
        found = {entry.name: file.extractfile(entry).read() for entry in file}
    expected = {}
    for piece in bundle.taken:
        expected |= piece.part.files
    assert found == expected
    first = path.read_bytes()
    write(choose([pack(each) for each in some], 140_000), path)
    assert path.read_bytes() == first
    subprocess.run(["tar", "-xf", path, "-C", tmp_path], check=True)
    assert (tmp_path / "third.bin").read_bytes() == some[4].files["third.bin"]


def test_code_holds_what_runs_and_no_caches():
    files = code_part().files
    for name in ("run.sh", "COMMIT", "t2ilib/__main__.py", "t2ilib/packing/unpack_wheels.py",
                 "notebooks/08_minimagen.py", "t2ilib/playground/panel.css", "pyproject.toml", "requirements.txt"):
        assert name in files
    assert not [name for name in files if "__pycache__" in name or name.endswith(".pyc")]


@pytest.mark.slow
def test_parts_of_the_repository(tmp_path):
    found = list_parts(None, tmp_path)
    names = [each.name for each in found]
    required = [each.name for each in found if each.required]
    assert required == names[:5] == ["code", "tests", "drawings of 64 pixels", "text encoder: MiniLM in half precision",
                                     "wheels for training"]
    assert names[5:9] == [*parts.TRAINED, "wheels for tests"] and names[-1] == "drawings of 128 pixels"
    every_file = [name for each in found for name in each.files]
    assert len(set(every_file)) == len(every_file)
    named = list_parts(["emoji-judge"], tmp_path)
    assert [each.name for each in named if each.name.startswith("emoji")] == ["emoji-judge"]
    assert next(each for each in named if each.name == "emoji-judge").required


def test_a_checkpoint_that_does_not_ship_is_refused(tmp_path):
    with pytest.raises(UnknownName, match="did you mean emoji-judge"):
        list_parts(["emoji-juge"], tmp_path)


def test_drawings_of_64_pixels_bring_what_tells_of_the_set():
    small = drawings_part(64)
    assert small.required and {"data/emoji/emoji_64.parquet", "data/emoji/info.json"} < set(small.files)
    large = drawings_part(128)
    assert not large.required and len(large.files) == 2 and drawings_part(256).files == {}


def test_a_wheel_holds_an_installed_distribution(tmp_path):
    name, content = build_wheel("iniconfig")
    assert name.startswith("iniconfig-") and name.endswith("-py3-none-any.whl")
    assert build_wheel("iniconfig") == (name, content)
    (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / name) as wheel:
        info = name.removesuffix("-py3-none-any.whl") + ".dist-info"
        listed = [line.split(",") for line in wheel.read(f"{info}/RECORD").decode().splitlines()]
        assert {line[0] for line in listed} == set(wheel.namelist())
        for path, digest, size in listed[:-1]:
            assert len(wheel.read(path)) == int(size) and digest.startswith("sha256=")
        assert not [path for path in wheel.namelist() if path.endswith((".pyc", "INSTALLER"))]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target",
                    tmp_path / "there", tmp_path / name], check=True)
    assert (tmp_path / "there" / "iniconfig" / "__init__.py").is_file()


def test_compiled_and_absent_distributions_are_refused(monkeypatch):
    with pytest.raises(BadParameter, match="numpy is no pure Python"):
        build_wheel("numpy")
    with pytest.raises(MissingAsset, match="pip install no-such-thing"):
        build_wheel("no-such-thing")
    assert wheels_part("wheels", ["iniconfig", "no-such-thing"], required=False).files == {}
    with pytest.raises(MissingAsset):
        wheels_part("wheels", ["no-such-thing"])
    _, content = build_wheel("wcwidth")  # works without its compiled file
    assert b".so" not in content


def test_only_wheels_that_are_missing_are_unpacked(tmp_path, monkeypatch):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for module in ("t2i_absent", "json"):
        with zipfile.ZipFile(wheels / f"{module}-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{module}/__init__.py", f"NAME = {module!r}\n")
            wheel.writestr(f"{module}-1.dist-info/METADATA", f"Name: {module}\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    for _ in range(2):
        unpack_wheels.main(str(wheels), str(tmp_path / "packages"))
        names = sorted(path.name for path in (tmp_path / "packages").iterdir())
        assert names == ["t2i_absent", "t2i_absent-1.dist-info"]


@pytest.mark.skipif(sys.platform == "win32", reason="it is a script of sh")
@pytest.mark.parametrize(("arguments", "expected"), [
    ([], "-m t2ilib gpu --minutes 9"), (["generate", "a red  heart"], "-m t2ilib generate a red  heart"),
    (["python", "-m", "pytest", "tests"], "-m pytest tests")])
def test_the_script_runs_commands_of_t2ilib_and_of_python(arguments, expected, tmp_path):
    here = tmp_path / "a lab"
    here.mkdir()
    (here / "run.sh").write_bytes(RUN.read_bytes())
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$* [$PYTHONPATH] [$T2I_CACHE] [$HF_HUB_OFFLINE]"\n')
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python), "PYTHONPATH": "mine"}
    environment.pop("T2I_CACHE", None)
    out = subprocess.run(["sh", here / "run.sh", *arguments], env=environment, cwd=tmp_path, capture_output=True,
                         text=True, check=True).stdout
    first, last = out.splitlines()
    assert first.startswith(f"{here}/t2ilib/packing/unpack_wheels.py {here}/wheels {here}/packages ")
    assert last == f"{expected} [{here}:{here}/packages:mine] [{here}/cache] [1]"


def test_the_command_tells_what_is_in_and_what_is_not(some, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(parts, "list_parts", lambda checkpoints, scratch: asked.append(checkpoints) or some)
    out = tmp_path / "lab.tar"
    assert main(["bundle", "--out", str(out), "--limit", "140KB", "--checkpoints", "none"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[1:]] == ["text", "first", "code", "third", "fit", "second"]
    assert out.is_file() and asked == [[]]
    assert main(["bundle", "--out", str(tmp_path / "other.tar"), "--limit", "10KB"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "raise --limit" in error and not (tmp_path / "other.tar").exists()


@pytest.mark.parametrize(("argv", "text"), [
    (["--limit", "many"], "such as 60MB"), (["--checkpoints", ","], "--checkpoints is empty"),
    (["--checkpoints", "emoji-klip"], "did you mean emoji-clip"), (["--out", "."], "is a folder")])
def test_bad_input_is_answered_in_one_line(argv, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["bundle", *argv]) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1 and list(tmp_path.iterdir()) == []

"""An archive of what is large, and a clone that fetches what it lacks: from a file, by download, and when damaged."""

import json
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler

import pytest
import torch

from t2ilib.assets import download, released
from t2ilib.assets.released import fetch_lacking, lacking, read_release
from t2ilib.checkpoint import load_state, save_state
from t2ilib.cli import main
from t2ilib.errors import BadParameter, CheckpointMismatch, MissingAsset
from t2ilib.files import sha256_of, write_json
from t2ilib.packing import release as packing

WEIGHTS = "data/checkpoints/tiny/model.safetensors"
NOTEBOOK = "reports/notebooks/01_tiny.ipynb"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone with one checkpoint and one executed notebook, and a fresh cache; returns its folder."""
    root = tmp_path / "clone"
    save_state(root / "data" / "checkpoints" / "tiny", {"w": torch.arange(3000.0)}, kind="Tiny", kwargs={})
    notebook = root / NOTEBOOK
    notebook.parent.mkdir(parents=True)
    notebook.write_text(json.dumps({"cells": ["x" * 3000]}))
    (notebook.parent / "small.ipynb").write_text("{}")
    monkeypatch.setattr(released, "repo_root", lambda: root)
    monkeypatch.setattr(packing, "repo_root", lambda: root)
    monkeypatch.setenv("T2I_EMBEDDED", str(root / "data"))
    monkeypatch.setenv("T2I_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("T2I_DATA", "T2I_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "WAIT", 0.0)
    return root


@pytest.fixture
def archive(clone, tmp_path):
    """The archive of that clone, made by the command; its manifest lies beside it."""
    path = tmp_path / "release" / "files.tar.gz"
    assert main(["release", "--out", str(path), "--at-least", "1000"]) == 0
    return path


@pytest.fixture
def server(archive, serve):
    """The address of a server of the archive's folder."""
    return serve(partial(Quiet, directory=str(archive.parent))).url


def manifest_of(archive):
    return archive.with_name("files.json")


def change_manifest(archive, /, **values):
    """Write other values into the manifest, and return its path."""
    path = manifest_of(archive)
    write_json(path, {**json.loads(path.read_text()), **values})
    return path


def make_slim(clone):
    """Remove what a slim clone lacks, and return what it was."""
    kept = {}
    for name in (WEIGHTS, NOTEBOOK):
        kept[name] = (clone / name).read_bytes()
        (clone / name).unlink()
    return kept


def test_the_archive_holds_what_is_large_and_its_hashes(clone, archive, tmp_path):
    with tarfile.open(archive) as content:
        content.extractall(tmp_path / "unpacked", filter="data")
    names = {path.relative_to(tmp_path / "unpacked").as_posix() for path in (tmp_path / "unpacked").rglob("*.*")}
    assert names == {WEIGHTS, NOTEBOOK}
    sums = (tmp_path / "unpacked" / "SHA256SUMS").read_text().splitlines()
    assert sums == [f"{sha256_of(clone / name)}  {name}" for name in (WEIGHTS, NOTEBOOK)]
    content = json.loads(manifest_of(archive).read_text())
    assert content["sha256"] == sha256_of(archive)
    assert content["bytes"] == archive.stat().st_size
    assert content["files"] == {name: sha256_of(clone / name) for name in (WEIGHTS, NOTEBOOK)}


def test_equal_files_give_an_equal_archive(archive, tmp_path):
    again = tmp_path / "again" / "files.tar.gz"
    assert main(["release", "--out", str(again), "--at-least", "1000"]) == 0
    assert again.read_bytes() == archive.read_bytes()


def test_a_slim_clone_fetches_from_a_file_what_it_lacks(clone, archive, capsys):
    kept = make_slim(clone)
    with pytest.raises(MissingAsset, match="release --fetch"):
        load_state(clone / "data" / "checkpoints" / "tiny")
    command = ["release", "--fetch", str(archive), "--manifest", str(manifest_of(archive))]
    assert main(command) == 0
    assert "2 of 2 files were not here" in capsys.readouterr().out
    assert {name: (clone / name).read_bytes() for name in kept} == kept
    state, _ = load_state(clone / "data" / "checkpoints" / "tiny")
    assert state["w"].tolist() == list(range(3000))
    assert main(command) == 0
    assert "0 of 2 files were not here" in capsys.readouterr().out


def test_a_slim_clone_downloads_what_it_lacks_by_its_own_manifest(clone, archive, server):
    kept = make_slim(clone)
    change_manifest(archive, urls=[f"{server}/absent.tar.gz", f"{server}/files.tar.gz"])
    manifest_of(archive).rename(clone / "data" / "release.json")
    assert main(["release", "--fetch"]) == 0
    assert {name: (clone / name).read_bytes() for name in kept} == kept


def test_what_is_here_stays_even_if_it_differs(clone, archive):
    (clone / NOTEBOOK).write_text("mine")
    (clone / WEIGHTS).unlink()
    release = read_release(manifest_of(archive))
    assert lacking(release) == [WEIGHTS]
    assert fetch_lacking(release, archive=archive) == [WEIGHTS]
    assert (clone / NOTEBOOK).read_text() == "mine"


def test_an_exchanged_archive_is_refused(clone, archive):
    make_slim(clone)
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 255
    archive.write_bytes(data)
    with pytest.raises(CheckpointMismatch, match="SHA-256 is .* expected .* download it again"):
        fetch_lacking(read_release(manifest_of(archive)), archive=archive)
    assert not (clone / WEIGHTS).exists()


def test_an_exchanged_archive_of_a_server_is_refused_and_not_kept(clone, archive, server, tmp_path):
    make_slim(clone)
    change_manifest(archive, urls=[f"{server}/files.tar.gz"], sha256="0" * 64)
    with pytest.raises(MissingAsset, match="SHA-256 is .* expected 000000000000"):
        fetch_lacking(read_release(manifest_of(archive)))
    assert not list((tmp_path / "cache").rglob("files.tar.gz"))


@pytest.mark.parametrize("damage", ["cut", "no gzip"])
def test_an_archive_that_cannot_be_read_is_refused(clone, archive, damage):
    make_slim(clone)
    data = archive.read_bytes()
    archive.write_bytes(data[:len(data) // 3] if damage == "cut" else b"<html>not found</html>" * 100)
    change_manifest(archive, sha256=sha256_of(archive))
    with pytest.raises(CheckpointMismatch, match="is damaged .* download it again|lacks .* of the same release"):
        fetch_lacking(read_release(manifest_of(archive)), archive=archive)
    assert not list(clone.rglob("*.tmp"))


def test_a_file_with_another_hash_is_refused(clone, archive):
    make_slim(clone)
    files = json.loads(manifest_of(archive).read_text())["files"]
    change_manifest(archive, files={**files, WEIGHTS: "1" * 64})
    with pytest.raises(CheckpointMismatch, match=f"{WEIGHTS} in the archive: SHA-256 is .* expected 111111111111"):
        fetch_lacking(read_release(manifest_of(archive)), archive=archive)
    assert not (clone / WEIGHTS).exists()
    assert not list(clone.rglob("*.tmp"))


def test_an_archive_without_a_named_file_is_refused(clone, archive):
    files = json.loads(manifest_of(archive).read_text())["files"]
    change_manifest(archive, files={**files, "data/checkpoints/more/model.safetensors": "1" * 64})
    with pytest.raises(CheckpointMismatch, match="lacks data/checkpoints/more/model.safetensors"):
        fetch_lacking(read_release(manifest_of(archive)), archive=archive)


@pytest.mark.parametrize("name", ["t2ilib/files.py", "data/checkpoints/../../t2ilib/files.py", "/etc/passwd",
                                  "data/checkpoints/a\\..\\b", "data/checkpoints//b", "data/checkpoints/"])
def test_a_manifest_that_reaches_elsewhere_is_refused(archive, name):
    change_manifest(archive, files={name: "1" * 64})
    with pytest.raises(BadParameter, match="files of a release lie in"):
        read_release(manifest_of(archive))


@pytest.mark.parametrize("values, says", [
    ({"format": 2}, "format 2, expected 1"), ({"files": []}, "as its 'files'"), ({"urls": ["file:///a"]}, "https://"),
    ({"archive": "../a.tar.gz"}, "name of a .tar.gz file"), ({"sha256": "abc"}, "64 hexadecimal digits"),
    ({"files": {WEIGHTS: 3}}, "64 hexadecimal digits")])
def test_a_manifest_of_another_form_is_refused(archive, values, says):
    with pytest.raises(BadParameter, match=says):
        read_release(change_manifest(archive, **values))


def test_what_cannot_be_had_says_what_to_do(clone, archive, tmp_path):
    make_slim(clone)
    with pytest.raises(MissingAsset, match="--manifest FILE"):
        read_release()
    with pytest.raises(MissingAsset, match="--fetch ARCHIVE"):
        fetch_lacking(read_release(manifest_of(archive)))
    with pytest.raises(MissingAsset, match="there is no archive"):
        fetch_lacking(read_release(manifest_of(archive)), archive=tmp_path / "absent.tar.gz")
    with pytest.raises(MissingAsset, match="release --fetch"):
        packing.release_parts()


def test_wrong_calls_are_refused(clone, tmp_path, capsys):
    assert main(["release"]) == 2
    assert "--out ARCHIVE" in capsys.readouterr().err
    assert main(["release", "--out", str(tmp_path / "a.zip"), "--at-least", "1"]) == 2
    assert ".tar.gz" in capsys.readouterr().err
    assert main(["release", "--out", str(tmp_path / "a.tar.gz"), "--at-least", "1GB"]) == 1
    assert "nothing to release" in capsys.readouterr().err


def test_the_hashes_of_the_archive_are_those_of_the_cards(clone, archive):
    card = json.loads((clone / "data/checkpoints/tiny/config.json").read_text())
    assert read_release(manifest_of(archive)).files[WEIGHTS] == card["sha256"]

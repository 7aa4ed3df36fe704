"""Downloads against a server of this machine that can break off, lie, change its mind and be absent."""

import contextlib
import hashlib
import io
import json
import socket
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler

import pytest

from t2ilib import assets
from t2ilib.assets import Asset, AssetFile, download
from t2ilib.errors import CheckpointMismatch, MissingAsset

DATA = bytes(range(256)) * 8000  # 2 MB: two chunks
SHA = hashlib.sha256(DATA).hexdigest()


class Page:
    """What the server has under one path; `cuts` are the numbers of bytes after which the next answers break off."""

    def __init__(self, data=DATA, *, cuts=(), statuses=(), ranges=True, etag='"one"', kind="application/octet-stream",
                 length=True, shift=0):
        self.data, self.cuts, self.statuses, self.ranges = data, list(cuts), list(statuses), ranges
        self.etag, self.kind, self.length, self.shift, self.requests = etag, kind, length, shift, []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        page = self.server.pages.get(self.path)
        if page is None:
            return self.send_error(404)
        page.requests.append(dict(self.headers))
        if page.statuses and (status := page.statuses.pop(0)) != 200:
            return self.send_error(status)
        start, span = 0, self.headers.get("Range")
        if span and page.ranges and self.headers.get("If-Range") in (None, page.etag):
            start = int(span.removeprefix("bytes=").rstrip("-"))
            if start >= len(page.data):
                return self.send_error(416)
        body = page.data[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start + page.shift}-{len(page.data) - 1}/{len(page.data)}")
        if page.length:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", page.kind)
        if page.etag:
            self.send_header("ETag", page.etag)
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body[: page.cuts.pop(0)] if page.cuts else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(fresh_cache, serve, monkeypatch):
    """A server whose `pages` a test fills; the cache is fresh, nothing waits, no proxy interferes."""
    monkeypatch.setattr(download, "WAIT", 0.0)
    server = serve(Handler)
    server.pages = {}
    return server


def asset_at(server, *paths, name="a.ckpt", **known):
    """An asset of one file whose mirrors are these paths."""
    return Asset("thing", "vqgan", "a thing", "MIT", "https://example.org",
                 (AssetFile(name, tuple(server.url + p for p in paths), **known),))


def leftovers(folder):
    return sorted(p.name for p in folder.iterdir() if p.name != ".lock")


def test_download_records_the_hash_and_the_second_time_asks_nobody(server, tmp_path):
    server.pages["/a"] = page = Page()
    asset = asset_at(server, "/a")
    assert assets.find(asset) is None
    folder = assets.fetch(asset)
    assert folder == tmp_path / "cache" / "vqgan" / "thing" and assets.find(asset) == folder
    assert (folder / "a.ckpt").read_bytes() == DATA
    assert leftovers(folder) == ["a.ckpt", "asset.json"]
    entry = json.loads((folder / "asset.json").read_text())["a.ckpt"]
    assert entry["sha256"] == SHA and entry["bytes"] == len(DATA) and entry["url"] == server.url + "/a"
    assert "first download" in entry["checked_against"]
    assert assets.fetch(asset) == folder and len(page.requests) == 1


def test_recorded_hash_is_checked_from_then_on(server):
    server.pages["/a"] = Page()
    asset = asset_at(server, "/a")
    path = assets.fetch(asset) / "a.ckpt"
    path.write_bytes(DATA[:-1] + b"x")
    with pytest.raises(CheckpointMismatch, match=f"a.ckpt.*expected {SHA[:12]}.*delete it"):
        assets.fetch(asset)
    path.unlink()
    server.pages["/a"].data = DATA[::-1]  # the file behind the address was exchanged meanwhile
    with pytest.raises(MissingAsset, match="asset.json at an earlier download"):
        assets.fetch(asset)
    server.pages["/a"].data = DATA
    assert assets.fetch(asset).joinpath("a.ckpt").read_bytes() == DATA


def test_broken_connection_is_resumed_where_it_stopped(server):
    server.pages["/a"] = page = Page(cuts=[700_000, 600_000])
    path = assets.fetch(asset_at(server, "/a", sha256=SHA)) / "a.ckpt"
    assert path.read_bytes() == DATA
    assert [r.get("Range") for r in page.requests] == [None, "bytes=700000-", "bytes=1300000-"]
    assert page.requests[1]["If-Range"] == '"one"'
    assert json.loads(path.with_name("asset.json").read_text())["a.ckpt"]["checked_against"] == "the published hash"


def test_resumes_in_a_later_run(server, tmp_path):
    server.pages["/a"] = page = Page(cuts=[500_000] + [0] * (download.TRIES - 1))
    asset = asset_at(server, "/a")
    with pytest.raises(MissingAsset, match="connection ended after 500,000 of 2,048,000 bytes"):
        assets.fetch(asset)
    assert assets.find(asset) is None and len(page.requests) == download.TRIES
    folder = assets.fetch(asset)
    assert page.requests[-1]["Range"] == "bytes=500000-"
    assert (folder / "a.ckpt").read_bytes() == DATA and leftovers(folder) == ["a.ckpt", "asset.json"]


def test_a_server_without_ranges_starts_again(server):
    server.pages["/a"] = Page(cuts=[500_000], ranges=False)
    assert assets.fetch(asset_at(server, "/a")).joinpath("a.ckpt").read_bytes() == DATA


@pytest.mark.parametrize("etag", ['"two"', None])
@pytest.mark.parametrize("size", [len(DATA) + 9, 400_000])
def test_bytes_of_two_versions_are_never_joined(server, etag, size):
    page = server.pages["/a"] = Page(cuts=[500_000] + [0] * (download.TRIES - 1), etag=etag and '"one"')
    asset = asset_at(server, "/a")
    with pytest.raises(MissingAsset):
        assets.fetch(asset)
    page.etag, page.data = etag, b"n" * size
    assert assets.fetch(asset).joinpath("a.ckpt").read_bytes() == b"n" * size


def test_a_server_that_answers_ranges_wrongly_is_given_up(server, tmp_path):
    server.pages["/a"] = page = Page(cuts=[500_000] * 1000, shift=1)
    with pytest.raises(MissingAsset, match="HTTP|range|file has changed|connection ended"):
        assets.fetch(asset_at(server, "/a"))
    assert download.TRIES <= len(page.requests) <= 3 * download.TRIES
    assert not list(tmp_path.rglob("*.json"))


def test_unknown_length(server):
    server.pages["/a"] = Page(length=False)
    assert assets.fetch(asset_at(server, "/a", sha256=SHA)).joinpath("a.ckpt").read_bytes() == DATA


def test_server_errors_are_tried_again_and_refusals_are_not(server):
    server.pages["/a"] = page = Page(statuses=[503, 429, 200])
    assets.fetch(asset_at(server, "/a"))
    assert len(page.requests) == 3
    server.pages["/b"] = page = Page(statuses=[403] * 9)
    with pytest.raises(MissingAsset, match="HTTP 403"):
        assets.fetch(replace(asset_at(server, "/b"), name="other"))
    assert len(page.requests) == 1


def test_mirrors_are_asked_in_turn(server):
    server.pages["/page"] = Page(b"<html>gone</html>", kind="text/html; charset=utf-8")
    server.pages["/wrong"] = Page(DATA[::-1])
    server.pages["/right"] = Page()
    asset = asset_at(server, "/none", "/page", "/wrong", "/right", sha256=SHA)
    folder = assets.fetch(asset)
    assert (folder / "a.ckpt").read_bytes() == DATA and leftovers(folder) == ["a.ckpt", "asset.json"]
    assert json.loads((folder / "asset.json").read_text())["a.ckpt"]["url"].endswith("/right")


def test_nothing_usable_names_every_reason_and_the_way_by_hand(server, tmp_path, monkeypatch):
    server.pages["/page"] = Page(b"<html>gone</html>", kind="text/html")
    server.pages["/wrong"] = Page(DATA[::-1])
    asset = asset_at(server, "/none", "/page", "/wrong", sha256=SHA)
    with pytest.raises(MissingAsset) as caught:
        assets.fetch(asset)
    text = str(caught.value)
    for part in ("HTTP 404", "web page", "SHA-256 is", "put its .ckpt", str(tmp_path / "cache" / "vqgan" / "thing"),
                 "T2I_DATA", server.url + "/none"):
        assert part in text
    folder = tmp_path / "cache" / "vqgan" / "thing"
    assert not [p for p in leftovers(folder) if not p.endswith(".part.json")]  # a file that was refused is not kept
    monkeypatch.setenv("T2I_DATA", str(tmp_path / "mine"))
    with pytest.raises(MissingAsset, match=str(tmp_path / "mine")):
        assets.fetch(asset)


def test_a_torso_is_not_recorded_as_the_file(server):
    server.pages["/a"] = Page(b"quota exceeded")
    with pytest.raises(MissingAsset, match="got 14 bytes, expected about 2 MB"):
        assets.fetch(asset_at(server, "/a", about_mb=2.0))
    server.pages["/b"] = Page(b"")
    with pytest.raises(MissingAsset, match="got 0 bytes"):
        assets.fetch(asset_at(server, "/b"))
    assert assets.find(asset_at(server, "/a")) is None


@pytest.mark.parametrize("name", ["T2I_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_by_wish_asks_nobody(server, monkeypatch, name):
    server.pages["/a"] = page = Page()
    monkeypatch.setenv(name, "1")
    with pytest.raises(MissingAsset, match=r"thing is not here: downloads are switched off.*a\.ckpt, about 2 MB"):
        assets.fetch(asset_at(server, "/a", about_mb=2))
    assert not page.requests


def test_offline_in_fact_fails_at_once(server, monkeypatch):
    asked = []

    def nowhere(*args, **kwargs):
        asked.append(args)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    with pytest.raises(MissingAsset, match="name resolution"):
        assets.fetch(asset_at(server, "/a", "/b"))
    assert len(asked) == 1  # the server of both mirrors once


def test_users_folder_comes_first_and_names_are_free(server, tmp_path, monkeypatch):
    monkeypatch.setenv("T2I_DATA", str(tmp_path / "mine"))
    mine = tmp_path / "mine" / "vqgan" / "thing"
    mine.mkdir(parents=True)
    asset = asset_at(server, "/a")
    assert assets.find(asset) is None
    (mine / "my_model.safetensors").write_bytes(b"x")
    assert assets.find(asset) == mine == assets.fetch(asset)
    assert leftovers(mine) == ["my_model.safetensors"]  # nothing is written into it
    known = asset_at(server, "/a", sha256=SHA)
    (mine / "a.ckpt").write_bytes(b"y")
    with pytest.raises(CheckpointMismatch, match=str(mine)):
        assets.fetch(known)
    (mine / "a.ckpt").write_bytes(DATA)
    assert assets.fetch(known) == mine


def test_optional_file_warns_when_it_cannot_be_had(server):
    server.pages["/a"] = Page()
    asset = asset_at(server, "/a")
    asset = replace(asset, files=(AssetFile("a.yaml", (server.url + "/none",), optional=True), *asset.files))
    with pytest.warns(UserWarning, match="a.yaml could not be downloaded.*404.*works without"):
        folder = assets.fetch(asset)
    assert leftovers(folder) == ["a.ckpt", "asset.json"] and assets.find(asset) == folder


def test_progress_sees_the_chunks_of_what_is_left(server):
    server.pages["/a"] = Page(cuts=[2**20 + 5])
    seen = []

    def progress(chunks, *, total, desc):
        count = 0
        for chunk in chunks:
            count += 1
            yield chunk
        seen.append((count, total, desc))

    assets.fetch(asset_at(server, "/a"), progress=progress)
    assert seen == [(2, 2, "thing/a.ckpt [MiB]"), (1, 1, "thing/a.ckpt [MiB]")]


def test_of_several_at_once_one_downloads(server):
    server.pages["/a"] = page = Page()
    asset, folders = asset_at(server, "/a"), []
    workers = [threading.Thread(target=lambda: folders.append(assets.fetch(asset))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(folders) == 3 and len(set(folders)) == 1 and len(page.requests) == 1


def zipped(**members):
    """The bytes of a zip archive; names with `__` lie in a folder."""
    with io.BytesIO() as out:
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name.replace("__", "/") + ".ckpt", data)
        return out.getvalue()


@pytest.mark.parametrize("member", ["model", "vq-f8__model"])
def test_member_of_a_zip_archive_is_taken_out_and_recorded(server, member):
    archive = zipped(other=b"x", **{member: DATA})
    server.pages["/a.zip"] = page = Page(archive, cuts=[len(archive) // 2])
    asset = asset_at(server, "/a.zip", name="model.ckpt", member="model.ckpt", about_mb=2.0)
    folder = assets.fetch(asset)
    assert (folder / "model.ckpt").read_bytes() == DATA and leftovers(folder) == ["asset.json", "model.ckpt"]
    assert json.loads((folder / "asset.json").read_text())["model.ckpt"]["sha256"] == SHA
    assert len(page.requests) == 2  # it broke off once
    assert assets.fetch(asset) == folder and len(page.requests) == 2
    (folder / "model.ckpt").unlink()
    page.data, page.etag = zipped(model=DATA[::-1]), '"two"'
    with pytest.raises(MissingAsset, match="asset.json at an earlier download"):
        assets.fetch(asset)


@pytest.mark.parametrize(("damage", "said"), [
    (lambda z: z[:900] + bytes([z[900] ^ 255]) + z[901:], "no usable zip archive"),
    (lambda z: z[: len(z) // 2], "no usable zip archive: File is not a zip file"),
    (lambda z: zipped(other=b"x"), "it must hold one model.ckpt, and holds other.ckpt"),
    (lambda z: zipped(model=DATA[::-1]), "SHA-256 is"),
], ids=["damaged", "cut", "other", "exchanged"])
def test_unusable_archive_is_refused_and_the_next_mirror_asked(server, damage, said):
    sound = zipped(model=DATA)
    server.pages["/bad.zip"], server.pages["/a.zip"] = Page(damage(sound)), Page(sound)
    known = {"name": "model.ckpt", "member": "model.ckpt", "sha256": SHA}
    with pytest.raises(MissingAsset, match=said) as caught:
        assets.fetch(asset_at(server, "/bad.zip", **known))
    assert "model.ckpt out of the zip archive" in str(caught.value)
    folder = assets.fetch(asset_at(server, "/bad.zip", "/a.zip", **known))
    assert (folder / "model.ckpt").read_bytes() == DATA and leftovers(folder) == ["asset.json", "model.ckpt"]


def test_without_an_address_it_says_how_to_do_it_by_hand(server, tmp_path):
    asset = asset_at(server)
    with pytest.raises(MissingAsset, match=r"a\.ckpt could not be downloaded \(no address is known\).*put its \.ckpt"):
        assets.fetch(asset)
    folder = tmp_path / "cache" / "vqgan" / "thing"
    (folder / "mine.pt").write_bytes(b"x")
    assert assets.fetch(asset) == folder


def test_a_mirror_is_asked_with_the_headers_that_it_wants(server):
    server.pages["/plain"], server.pages["/share"] = plain, share = Page(DATA[::-1]), Page()
    headers = {server.url + "/share": {"Referer": "https://here/links/12ab"}}
    assets.fetch(asset_at(server, "/plain", "/share", sha256=SHA, headers=headers))
    assert share.requests[0]["Referer"] == "https://here/links/12ab" and "Referer" not in plain.requests[0]


def write_taming_files(folder, model, arguments):
    """Write a checkpoint as Lightning does, and the yaml that belongs to it."""
    import torch
    import yaml

    state = {**model.state_dict(), "loss.discriminator.main.0.weight": torch.zeros(4, 3, 4, 4)}
    torch.save({"epoch": 1, "global_step": 2, "state_dict": state, "optimizer_states": []}, folder / "last.ckpt")
    ours = ("embed_dim", "n_embed", "quantizer", "mid_attention")
    ddconfig = {k: v for k, v in arguments.items() if k not in ours}
    params = {"embed_dim": arguments["embed_dim"], "n_embed": arguments["n_embed"],
              "ddconfig": {**ddconfig, "double_z": False, "dropout": 0.0},
              "lossconfig": {"target": "taming.modules.losses.vqperceptual.DummyLoss"}}
    (folder / "model.yaml").write_text(yaml.safe_dump({"model": {"base_learning_rate": 4.5e-6, "params": params,
                                                                 "target": "taming.models.vqgan.VQModel"}}))


def test_load_vqgan_downloads_by_name(server, tmp_path, monkeypatch):
    """The real names and the real file format, with a small network behind them."""
    import torch

    from t2ilib.models import vqgan

    name = "vqgan-imagenet-f16-16384"
    arguments = {**vqgan.VQGAN_MODELS[name], "ch": 32, "z_channels": 8, "embed_dim": 8, "n_embed": 24,
                 "num_res_blocks": 1, "resolution": 64, "attn_resolutions": [4]}
    torch.manual_seed(0)
    model = vqgan.VQGAN(**arguments).eval()
    write_taming_files(tmp_path, model, arguments)
    for path in ("last.ckpt", "model.yaml"):
        server.pages[f"/{path}"] = Page((tmp_path / path).read_bytes())
    entry = assets.CATALOGUE[name]
    files = tuple(replace(f, urls=(server.url + "/gone", f"{server.url}/{f.name}"), about_mb=None, sha256=None)
                  for f in entry.files)
    monkeypatch.setitem(assets.CATALOGUE, name, replace(entry, files=files))
    monkeypatch.setitem(vqgan.VQGAN_MODELS, name, arguments)
    loaded = vqgan.load_vqgan(name)
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(loaded(x)[0], model(x)[0], rtol=0, atol=0)
    assert leftovers(assets.find(name)) == ["asset.json", "last.ckpt", "model.yaml"]
    vqgan.load_vqgan(name)
    assert len(server.pages["/last.ckpt"].requests) == 1
    (assets.find(name) / "last.ckpt").write_bytes(b"damaged")
    with pytest.raises(CheckpointMismatch, match="delete it"):
        vqgan.load_vqgan(name)

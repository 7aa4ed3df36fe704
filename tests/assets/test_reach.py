"""Servers that answer, refuse and never answer: what loads by name says so within seconds, or takes its cache."""

import contextlib
import shutil
import socket
import time
from http.server import BaseHTTPRequestHandler

import pytest

from t2ilib import assets
from t2ilib.assets import Asset, AssetFile, reach
from t2ilib.assets.reach import unreachable
from t2ilib.data import load_captioned
from t2ilib.encoders import load_clip, load_text_encoder
from t2ilib.errors import MissingAsset


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.server.asked.append(self.path)
        time.sleep(self.server.delay)
        if self.server.status == 302:
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:9/")
            self.end_headers()
        else:
            self.send_error(self.server.status)

    def do_GET(self):
        self.do_HEAD()

    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(serve):
    server = serve(Handler)
    server.asked, server.status, server.delay = [], 404, 0.0
    return server


@pytest.fixture
def silent():
    """The address of a server that takes connections and never answers."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def closed():
    """An address at which nobody listens."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A function that puts the hub at an address, with an empty cache and a second's patience."""
    import datasets
    import open_clip  # noqa: F401 - not a part of the time that is measured
    import transformers  # noqa: F401
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))

    def put(url):
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", url)

    return put


@pytest.mark.parametrize("status", [200, 302, 403, 404, 500])
def test_any_answer_is_an_answer(server, status):
    server.status = status
    assert unreachable([f"{server.url}/a/b?c"]) == {} and server.asked == ["/"]


def test_servers_are_asked_at_once_and_not_for_long(server, silent, closed, monkeypatch):
    monkeypatch.setattr(reach, "PATIENCE", 0.8)
    server.delay = 0.4  # slow, but there
    began = time.monotonic()
    problems = unreachable([f"{silent}/a", f"{silent}/b", closed, server.url])
    assert time.monotonic() - began < 2
    assert problems == {silent: problems[silent], closed: "Connection refused"}
    assert problems[silent] in ("no answer within 0.8 s", "timed out")


def test_a_name_that_nobody_looks_up_takes_no_longer(monkeypatch):
    def look_up(*_, **__):
        time.sleep(3)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0.3")
    began = time.monotonic()
    assert unreachable(["https://example.org/x"]) == {"https://example.org": "no answer within 0.3 s"}
    assert time.monotonic() - began < 1.5


def test_the_proxy_is_asked(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    assert unreachable(["http://hub.invalid/x"]) == {} and server.asked == ["http://hub.invalid/"]
    monkeypatch.setenv("http_proxy", "socks5h://127.0.0.1:9")  # cannot be asked: the libraries may know how
    assert unreachable(["http://hub.invalid/x"]) == {}


@pytest.mark.parametrize("load", [
    lambda: load_captioned("hub:owner/name"),
    lambda: load_text_encoder("t5-small"),
    lambda: load_clip("ViT-B-32/openai"),
    lambda: load_clip("hf-hub:owner/name"),
], ids=["captions", "text encoder", "clip", "clip of the hub"])
@pytest.mark.parametrize("kind", ["silent", "closed"])
def test_what_is_on_the_hub_alone_fails_within_seconds(hub, load, kind, request):
    url = request.getfixturevalue(kind)
    hub(url)
    began = time.monotonic()
    with pytest.raises(MissingAsset) as caught:
        load()
    assert time.monotonic() - began < 10
    text = str(caught.value)
    for words in (f"the Hugging Face hub cannot be reached at {url} (", "HF_HOME", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        assert words in text
    assert "\n" not in text


def test_a_hub_that_is_there_is_asked_by_its_own_library(hub, server):
    hub(server.url)
    with pytest.raises(MissingAsset) as caught:
        load_text_encoder("t5-small")
    assert "cannot be reached" not in str(caught.value)
    assert any("t5-small" in path for path in server.asked)


def test_without_a_hub_the_cache_is_enough(hub, silent, tmp_path):
    from huggingface_hub import constants
    from transformers import BertConfig, BertModel, BertTokenizerFast

    snapshot = tmp_path / "hub" / "models--owner--tiny" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nfish\n")
    BertTokenizerFast(vocab_file=str(snapshot / "vocab.txt")).save_pretrained(snapshot)
    BertModel(BertConfig(vocab_size=8, hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                         max_position_embeddings=10)).save_pretrained(snapshot)
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    hub(silent)
    began = time.monotonic()
    encoder = load_text_encoder("owner/tiny")
    assert time.monotonic() - began < 10 and encoder.dim == 12
    assert not constants.HF_HUB_OFFLINE  # as it was before
    shutil.rmtree(snapshot)
    with pytest.raises(MissingAsset, match="the cache does not hold it"):
        load_text_encoder("owner/tiny")


def test_a_switched_off_hub_says_so(hub, silent, monkeypatch):
    from huggingface_hub import constants

    hub(silent)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingAsset, match="HF_HUB_OFFLINE forbids"):
        load_text_encoder("t5-small")


def test_mirrors_that_do_not_answer_are_left_out(server, silent, tmp_path, monkeypatch):
    for name in ("T2I_DATA", "T2I_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("T2I_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0.5")
    urls = (f"{silent}/a", f"{silent}/b", f"{server.url}/c")
    asset = Asset("thing", "vqgan", "a thing", "MIT", "https://example.org", (AssetFile("a.ckpt", urls),))
    began = time.monotonic()
    with pytest.raises(MissingAsset) as caught:
        assets.fetch(asset)
    assert time.monotonic() - began < 3
    assert "HTTP 404" in str(caught.value) and str(caught.value).count(f"{silent} cannot be reached") == 1

"""MUSTI in exactly its own format: a JSON list whose pictures are addresses, some of which are broken."""

import io
import json
from http.server import BaseHTTPRequestHandler

import pytest
import torch
from PIL import Image

from t2ilib.assets import download
from t2ilib.data.musti import load_musti, musti_rows, over_white
from t2ilib.errors import BadParameter, MissingAsset, UnknownName


def row(number, url, **fields):
    return {"id": f"{number}", "image": url, "language": "en", "text": f"The smell of text {number}.",
            "title": f"Ship in a storm {number}", "subtask1_label": "YES", "subtask2_labels": ["smoke"], **fields}


def picture(color, size=(40, 30), kind="JPEG"):
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, kind)
    return file.getvalue()


def write(path, rows):
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path):
    """A file of four rows and a folder in which one picture is broken and one is missing."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a one.jpg").write_bytes(picture("red"))
    (pictures / "2.png").write_bytes(picture("blue", kind="PNG"))  # named by its id
    (pictures / "broken.jpg").write_bytes(b"no picture")
    rows = [row(1, "https://museum.example/x/a%20one.jpg?full=1"), row(2, "https://museum.example/iiif/22/full"),
            row(3, "https://museum.example/broken.jpg", language="fr"), row(4, "https://museum.example/gone.jpg")]
    return write(tmp_path / "musti.json", rows)


def test_a_folder_of_pictures_is_read_and_the_broken_ones_are_listed(folder):
    with pytest.warns(UserWarning, match="2 of 4 pictures are left out"):
        found = load_musti(folder, pictures=folder.parent / "pictures", image_size=16)
    assert found.data.images.shape == (2, 3, 16, 16)
    assert found.data.images[0, :, 8, 8].tolist() == [254, 0, 0]  # JPEG's red
    assert found.data.images[1, :, 8, 8].tolist() == [0, 0, 255]
    assert found.data.captions == ["Ship in a storm 1", "Ship in a storm 2"]
    assert found.data.columns["subtask1_label"] == ["YES", "YES"]
    assert found.data.columns["subtask2_labels"] == [["smoke"], ["smoke"]]
    assert found.data.columns["image"][1] == "https://museum.example/iiif/22/full"
    assert [number for number, _ in found.left_out] == ["4", "3"]
    assert "no gone.jpg" in found.left_out[0][1]


def test_captions_languages_and_limit(folder):
    pictures = folder.parent / "pictures"
    found = load_musti(folder, pictures=pictures, image_size=16, caption="text", languages=["en"], limit=2)
    assert found.data.captions == ["The smell of text 1.", "The smell of text 2."]
    assert found.left_out == []
    with pytest.raises(UnknownName, match="title"):
        load_musti(folder, pictures=pictures, caption="titel")
    with pytest.warns(UserWarning), pytest.raises(MissingAsset, match="none of the 1 pictures"):
        load_musti(folder, pictures=pictures, languages=["fr"])
    with pytest.raises(MissingAsset, match="no folder"):
        load_musti(folder, pictures=folder.parent / "elsewhere")


def test_an_empty_title_gives_way_to_the_text(tmp_path):
    (tmp_path / "1.png").write_bytes(picture("white", kind="PNG"))
    path = write(tmp_path / "musti.json", [row(1, "https://museum.example/1.png", title="")])
    assert load_musti(path, pictures=tmp_path, image_size=8).data.captions == ["The smell of text 1."]


@pytest.mark.parametrize(("content", "message"), [
    ("[1]", "row 0: it is int"), ("[]", "no rows"), ("[{", "no valid JSON"),
    ('[{"id": 1, "text": "x"}]', "image missing"), ('[{"id": 1, "image": "u", "text": " "}]', "neither title nor text"),
])
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "musti.json").write_text(content)
    with pytest.raises(BadParameter, match=message):
        musti_rows(tmp_path / "musti.json")


def test_one_object_a_line_is_read_too(tmp_path):
    path = tmp_path / "musti.jsonl"
    path.write_text("\n".join(json.dumps(row(i, "https://museum.example/x.jpg")) for i in range(3)))
    assert [r["id"] for r in musti_rows(path)] == ["0", "1", "2"]


def test_transparent_parts_become_white():
    rgba = torch.tensor([[[0, 0, 0, 0], [10, 20, 30, 255]]], dtype=torch.uint8)  # (1, 2, 4)
    assert over_white(rgba)[:, 0].T.tolist() == [[255, 255, 255], [10, 20, 30]]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        body = self.server.pages.get(self.path)
        if body is None:
            return self.send_error(404)
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("ETag", '"1"')
        self.end_headers()
        end = self.server.cuts.pop(self.path, len(body))
        self.wfile.write(body[start:end])

    def log_message(self, *_):
        pass


@pytest.fixture
def museum(fresh_cache, serve, monkeypatch):
    """A server with pictures; the cache is fresh, nothing waits."""
    monkeypatch.setattr(download, "WAIT", 0.0)
    server = serve(Handler)
    server.asked = []
    server.pages = {"/one.jpg": picture("red", (200, 200)), "/two.jpg": picture("blue", (200, 200))}
    server.cuts = {"/two.jpg": 100}  # breaks off after so many bytes, once
    return server


def test_pictures_are_downloaded_once_resumed_and_checked(tmp_path, museum, monkeypatch):
    rows = [row(1, museum.url + "/one.jpg"), row(2, museum.url + "/two.jpg"), row(3, museum.url + "/gone.jpg")]
    path = write(tmp_path / "musti.json", rows)
    with pytest.warns(UserWarning, match="1 of 3 pictures are left out"):
        found = load_musti(path, image_size=16)
    assert found.data.images[:, :, 8, 8].tolist() == [[254, 0, 0], [0, 0, 254]]
    assert museum.asked.count("/two.jpg") == 2  # went on after 100 bytes
    assert [number for number, _ in found.left_out] == ["3"] and "HTTP 404" in found.left_out[0][1]

    museum.asked.clear()
    again = load_musti(path, image_size=16, limit=2)
    assert torch.equal(again.data.images, found.data.images) and museum.asked == []

    kept = sorted((tmp_path / "cache" / "musti").glob("*/picture.jpg"))
    kept[0].write_bytes(b"exchanged")
    with pytest.warns(UserWarning, match="1 of 2 pictures are left out .*SHA-256"):
        load_musti(path, image_size=16, limit=2)
    assert museum.asked == []


def test_a_silent_server_is_asked_once(tmp_path, museum, monkeypatch):
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0.5")
    closed = "http://127.0.0.1:9"  # nothing listens there
    path = write(tmp_path / "musti.json", [row(1, museum.url + "/one.jpg"), *[row(i, f"{closed}/{i}.jpg")
                                                                             for i in range(2, 40)]])
    with pytest.warns(UserWarning, match="38 of 39 pictures are left out .*cannot be reached"):
        found = load_musti(path, image_size=16)
    assert len(found.data) == 1

"""Random, damaged and hostile files, with fixed seeds: a reader answers rightly, or by one of the project's errors."""

import dataclasses
import io
import json
import os
import pickle
import random
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from t2ilib.checkpoint import load_state, save_state
from t2ilib.cli.generate import read_prompts_file
from t2ilib.data import load_captioned
from t2ilib.encoders import load_clip
from t2ilib.errors import BadParameter, CheckpointMismatch, MissingAsset, T2IError
from t2ilib.guidance import GuidanceConfig
from t2ilib.guidance.prompts import parse_prompts
from t2ilib.media import load_picture
from t2ilib.media.png import read_record, save_png
from t2ilib.methods import METHODS, generate_with_record
from t2ilib.models.taming_format import read_checkpoint, read_config
from t2ilib.runner.report import load_runs, render
from t2ilib.training import load_training, save_training

pytestmark = pytest.mark.filterwarnings("ignore")
WORDS = ("a red heart", ":", "|", "^", "\\", "0.5", "-1", "nan", "1e999", "\u2028", "\x00", "\ud800", "🫠", "−1",
         "16:9", "  ", "(0,0,1,1)", "text:", "[", "{", '"', "'")
JSON_VALUES = (None, True, 3, -1.5, "text", "../x.png", "/etc/passwd", "x" * 5000, [], [1], {}, {"a": [None]}, "\u2028",
               float("nan"), "a\x00b.png")


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Return the bytes with some flipped, cut off, repeated or put in."""
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        place = chance.randrange(len(data))
        action = chance.randrange(4)
        if action == 0:
            data[place] ^= 1 << chance.randrange(8)
        elif action == 1:
            del data[place:place + chance.randrange(1, 1 + len(data) // 2)]
        elif action == 2:
            data[place:place] = data[place:place + 16]
        else:
            data[place:place] = chance.randbytes(4)
        if not data:
            data = bytearray(b"\x00")
    return bytes(data)


def fuzz(read, original: bytes, path: Path, count: int, seed: int = 0) -> None:
    """Give `read` damaged versions of a file; it may succeed, or raise one of the project's errors."""
    chance = random.Random(seed)
    for _ in range(count):
        path.write_bytes(damaged(original, chance))
        try:
            read(path)
        except T2IError as error:
            assert str(error)


class Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, victim: Path):
        self.victim = victim

    def __reduce__(self):
        return os.system, (f"touch {self.victim}",)


def test_prompts():
    chance = random.Random(1)
    for _ in range(5000):
        text = "".join(chance.choice(WORDS) for _ in range(chance.randrange(8)))
        with np.errstate(all="ignore"):
            try:
                parse_prompts(text)
            except BadParameter:
                pass


@pytest.mark.parametrize("name", list(METHODS))
def test_options(name):
    chance = random.Random(2)
    method = METHODS[name]
    values = (None, True, -1, 0, 3, 10**30, -10**30, 1.5, float("nan"), float("inf"), "", "text", "3", [], [1, 2],
              ["a"], {}, {"a": (0, 0, 1, 1)}, (0, 0, 1, 1), object(), b"x", torch.zeros(2))
    for _ in range(4000):
        option = chance.choice(method.options)
        try:
            option.check(chance.choice(values))
        except BadParameter:
            pass
        try:
            option.read("".join(chance.choice(WORDS) for _ in range(chance.randrange(4))))
        except BadParameter:
            pass


def test_files_of_prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    for encoding in ("utf-16", "latin-1"):
        path.write_bytes("ein schönes Herz\n".encode(encoding))
        with pytest.raises(BadParameter, match="no UTF-8 text"):
            read_prompts_file(path)
    path.write_bytes("\ufeffa red\u2028heart\r\n".encode())
    assert read_prompts_file(path) == ["a red\u2028heart"]
    fuzz(read_prompts_file, "a red heart\n# no\nein schönes Herz\n".encode(), path, 500)


def picture_bytes(side: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(buffer, "PNG")
    return buffer.getvalue()


def test_captions_of_a_folder(tmp_path):
    (tmp_path / "a.png").write_bytes(picture_bytes())
    path = tmp_path / "metadata.jsonl"
    path.write_text(json.dumps({"file_name": "a.png", "text": "a\u2028red heart\u0085"}, ensure_ascii=False) + "\n")
    assert load_captioned(tmp_path, image_size=8).captions == ["a\u2028red heart\u0085"]
    fuzz(lambda _: load_captioned(tmp_path, image_size=8), path.read_bytes(), path, 300)
    chance = random.Random(3)
    for _ in range(500):
        row = {name: chance.choice(JSON_VALUES) for name in ("file_name", "text", "split", "captions")
               if chance.random() < 0.8}
        path.write_text(json.dumps(row) + "\n" + '{"file_name": "a.png", "text": "x"}\n')
        try:
            load_captioned(tmp_path, image_size=8, split=chance.choice(("train", "all", "test")))
        except T2IError as error:
            assert str(error)
    path.write_text("[" * 100_000)
    with pytest.raises(BadParameter, match="line 1 is no valid JSON"):
        load_captioned(tmp_path, image_size=8)
    path.write_text('{"file_name": "a.png", "text": "half \\ud800"}\n')
    with pytest.raises(BadParameter, match="line 1 holds half a character"):
        load_captioned(tmp_path, image_size=8)


def test_pictures_outside_the_folder_are_read_only_when_asked_for(tmp_path, monkeypatch):
    folder = tmp_path / "set"
    folder.mkdir()
    outside = tmp_path / "secret.png"
    outside.write_bytes(picture_bytes())
    (folder / "link.png").symlink_to(outside)
    for name in ("../secret.png", str(outside), "link.png"):
        (folder / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "x"}))
        with pytest.raises(BadParameter, match="line 1: .* lies outside .*T2I_OUTSIDE=1"):
            load_captioned(folder, image_size=8)
        with monkeypatch.context() as patch:
            patch.setenv("T2I_OUTSIDE", "1")
            assert len(load_captioned(folder, image_size=8)) == 1


def test_parquet(tmp_path):
    path = tmp_path / "set.parquet"
    rows = {"image": [{"bytes": picture_bytes(), "path": None}] * 3, "text": ["a", "b", "c"]}
    pq.write_table(pa.table(rows), path)
    fuzz(lambda p: load_captioned(p, image_size=8), path.read_bytes(), path, 300)


def test_pictures(tmp_path):
    path = tmp_path / "a.png"
    fuzz(load_picture, picture_bytes(16), path, 500)
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(BadParameter, match="cannot be read as a picture"):
        load_picture(path)
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = b"".join(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
                      for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    with pytest.raises(BadParameter, match="100,000,000"):
        load_picture(path)


@pytest.mark.parametrize("largest", [200, 65535])
def test_greys_of_16_bits_are_that_whatever_their_maximum(tmp_path, largest):
    path = tmp_path / "grey.png"
    Image.fromarray(np.full((4, 4), largest, dtype=np.uint16)).save(path)
    torch.testing.assert_close(load_picture(path), torch.full((3, 4, 4), largest / 65535), rtol=0, atol=1 / 255)


def test_records_in_pngs(tmp_path):
    path = save_png(Image.new("RGB", (8, 8)), tmp_path / "a.png", {"call": {"prompt": "x"}, "index": 0})
    fuzz(read_record, path.read_bytes(), path, 500)


def test_checkpoints(tmp_path):
    folder = save_state(tmp_path / "net", {"weight": torch.randn(4, 4)}, kind="Net", kwargs={"width": 4})
    for name in ("config.json", "model.safetensors"):
        original = (folder / name).read_bytes()
        fuzz(lambda _: load_state(folder), original, folder / name, 500)
        (folder / name).write_bytes(original)
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(CheckpointMismatch):
        load_state(folder)


def test_states_of_trainings(tmp_path):
    network = torch.nn.Linear(2, 2)
    path = tmp_path / "state.pt"
    save_training(path, step=1, settings={"seed": 0}, network=network)
    original = path.read_bytes()
    fuzz(lambda p: load_training(p, settings={"seed": 0}, network=network), original, path, 300)


def test_reports(tmp_path):
    chance = random.Random(4)
    run = {"name": "03_x", "status": "ok", "started": "2026-01-01T00:00:00+00:00", "profile": "smoke", "seconds": 3.0,
           "metrics": {"a": 1.0}, "parameters": {"given": {}, "resolved": {}}, "figures": ["figures/a.png"],
           "artefacts": [{"file": "x", "bytes": 3}], "fallbacks": ["x"], "overrides": {"steps": 2}, "versions": {}}
    values = (*JSON_VALUES, {"value": 1, "n": "x"}, [[1]], {"given": 3})
    for number in range(150):
        folder = tmp_path / "runs" / f"{number % 7:02}_x" / str(number)
        folder.mkdir(parents=True)
        odd = {name: chance.choice(values) for name in run if chance.random() < 0.3}
        text = json.dumps({**run, **odd})
        if number % 10 == 0:
            text = chance.choice(("", "[]", "{", "3", "\x00"))
        (folder / "run.json").write_text(text)
        (folder / "metrics.csv").write_bytes(damaged(b"step,name,value\n1,loss,2\n2,loss,1\n3,loss,0\n", chance))
    page = render(load_runs(tmp_path / "runs"), base=tmp_path)
    assert page.count("<article") == 150 and "unreadable run.json" in page


@pytest.mark.parametrize("form", ["zip", "legacy", "tar", "pickle", "npy", "safetensors named pt"])
def test_no_weights_run_code(tmp_path, form):
    victim = tmp_path / "victim"
    path = tmp_path / "weights.pt"
    state = {"state_dict": {"weight": torch.zeros(2)}, "attack": Attack(victim)}
    if form == "zip":
        torch.save(state, path)
    elif form == "legacy":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif form == "pickle":
        path.write_bytes(pickle.dumps(state))
    elif form == "npy":
        path = tmp_path / "weights.npy"
        np.save(path, np.array([Attack(victim)], dtype=object), allow_pickle=True)
    elif form == "tar":
        with tarfile.open(path, "w") as archive:
            for name in ("sys_info", "pickle", "storages", "tensors"):
                data = pickle.dumps(Attack(victim))
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    else:
        save_file({"weight": torch.zeros(2)}, path)
    for name in (str(path), f"ViT-B-32:{path}"):
        with pytest.raises((CheckpointMismatch, BadParameter, MissingAsset)):
            load_clip(name)
    try:
        tensors = read_checkpoint(path)
    except CheckpointMismatch:
        pass
    else:
        assert all(isinstance(value, torch.Tensor) for value in tensors.values())
    assert not victim.exists()


def test_yaml_runs_no_code_and_says_what_is_missing(tmp_path):
    victim = tmp_path / "victim"
    path = tmp_path / "model.yaml"
    good = "model: {target: taming.VQModel, params: {embed_dim: 4, n_embed: 8, ddconfig: {ch: 8, resolution: 16}}}\n"
    code = f'!!python/object/apply:os.system ["touch {victim}"]\n'
    for text in (code, good.replace("n_embed: 8, ", ""), good.replace("resolution: 16", "resolution: [16]"),
                 good.replace("embed_dim: 4", "embed_dim: x"), "", "[]"):
        path.write_text(text)
        with pytest.raises(BadParameter):
            read_config(path)
    path.write_bytes("größe: 1".encode("latin-1"))
    with pytest.raises(BadParameter, match="no UTF-8"):
        read_config(path)
    path.write_text(good)
    fuzz(read_config, good.encode(), path, 500)
    assert not victim.exists()


def test_configurations_of_vqgan_clip():
    chance = random.Random(5)
    names = [field.name for field in dataclasses.fields(GuidanceConfig)]
    values = (None, True, -1, 0, 3, 10**30, 1.5, float("nan"), float("inf"), "", "a red heart", "x:1:2", [], [1, 2],
              ["a", "b"], [[0.1, 0.2]], {}, {"a": (0, 0, 1, 1)}, {"a": 3}, (0, 0, 1, 1), object(), b"x", "16:9", (8, 8))
    for _ in range(6000):
        changes = {chance.choice(names): chance.choice(values) for _ in range(chance.randrange(1, 4))}
        prompt = changes.pop("prompt", "a red heart")
        try:
            GuidanceConfig.from_options(prompt, **changes)
        except T2IError as error:
            assert str(error)


def test_calls_are_refused_before_anything_is_drawn(monkeypatch):
    monkeypatch.setattr("t2ilib.methods.networks.CACHE.get", lambda *_: pytest.fail("a network was loaded"))
    bad = ({"seed": None}, {"num_images": 0}, {"num_images": 1.5}, {"method": 5}, {"steps": []},
           {"steps": float("nan")}, {"prompt": []}, {"prompt": ""}, {"prompt": 3}, {"seed": -1},
           {"num_images": 10**9}, {"nonsense": 1})
    for change in bad:
        for method in METHODS:
            call = {"prompt": "a red heart", "method": method, "num_images": 1, "seed": 0, **change}
            with pytest.raises(BadParameter):
                generate_with_record(**call)

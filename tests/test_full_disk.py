"""Disks that are full or read-only: what was there stays whole, what is new is named, and the error is one line.

A limit on the size of files stands for a full disk everywhere; a small file system in memory is one where the system
allows to mount it.
"""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from t2ilib.assets import Asset, AssetFile, fetch
from t2ilib.checkpoint import configurable, load_model, save_model
from t2ilib.cli import main
from t2ilib.data.kept_files import kept_folder
from t2ilib.errors import MissingAsset
from t2ilib.files import append_text, read_json, replacing, write_json
from t2ilib.media.png import read_record, save_png
from t2ilib.paths import repo_root
from t2ilib.record import Run
from t2ilib.show import curves, read_metrics, save
from t2ilib.training import load_training, save_training

resource = pytest.importorskip("resource", reason="limits on the size of files are those of POSIX")
LIMIT = 8192  # bytes


@contextlib.contextmanager
def full_disk(limit=LIMIT):
    """Let no file grow beyond the limit."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@configurable
class Net(nn.Module):
    def __init__(self, *, width: int = 100):
        super().__init__()
        self.layer = nn.Linear(width, width)


def test_an_old_training_state_stays(tmp_path):
    network, path = Net(), tmp_path / "state.pt"
    save_training(path, step=1, settings={}, network=network)
    before = contents(tmp_path)
    nn.init.zeros_(network.layer.weight)
    with full_disk(), pytest.raises(OSError) as caught:
        save_training(path, step=2, settings={}, network=network)
    assert caught.value.filename == str(path) and "too large" in caught.value.strerror
    assert contents(tmp_path) == before
    assert load_training(path, settings={}, network=network) == 1 and network.layer.weight.any()


def test_an_old_checkpoint_stays(tmp_path):
    old = Net()
    folder = save_model(tmp_path / "net", old, seed=1)
    before = contents(folder)
    with full_disk(), pytest.raises(OSError) as caught:
        save_model(folder, Net(), seed=2)
    assert caught.value.filename == str(folder / "model.safetensors") and "too large" in caught.value.strerror
    assert contents(folder) == before
    assert torch.equal(load_model(Net, folder).layer.weight, old.layer.weight)


def test_an_old_record_stays_and_curves_lose_no_row(tmp_path, monkeypatch):
    monkeypatch.setenv("T2I_RUN_DIR", str(tmp_path))
    run = Run("03_x", given={})
    run.log(1, loss=1.0)
    picture = run.figure("a", Image.new("RGB", (8, 8)))
    before = contents(tmp_path)
    with full_disk(len(before[Path("metrics.csv")]) + 5), pytest.raises(OSError):
        run.log(2, loss=0.5, other=3.0)
    noise = Image.effect_noise((200, 200), 90)
    for shown in (noise, curves({"loss": ([1, 2], [1.0, 2.0])})):
        with full_disk(), pytest.raises(OSError) as caught:
            run.figure("a", shown)
        assert caught.value.filename == str(picture)
    with full_disk(), pytest.raises(OSError):
        save(curves({"loss": ([1, 2], [1.0, 2.0])}), picture)
    with full_disk(), pytest.raises(OSError):
        run.metric(long="x" * 2 * LIMIT)
    assert contents(tmp_path) == before and read_json(tmp_path / "run.json")["status"] == "running"
    run.log(3, loss=0.25)
    assert read_metrics(tmp_path) == {"loss": ([1.0, 3.0], [1.0, 0.25])}


def test_a_row_that_a_kill_cut_short_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,name,value\r\n1,loss,1\r\n2,lo")
    append_text(path, "3,loss,0.5\r\n")
    assert path.read_text().splitlines()[2:] == ["2,lo", "3,loss,0.5"]


def test_an_old_picture_stays_and_the_error_names_its_file(tmp_path):
    path = save_png(Image.new("RGB", (8, 8), "red"), tmp_path / "out.png", {"call": {}})
    before = contents(tmp_path)
    with full_disk(), pytest.raises(OSError) as caught:
        save_png(Image.effect_noise((200, 200), 90), path, {"call": {}})
    assert caught.value.filename == str(path) and contents(tmp_path) == before and read_record(path)


def test_an_old_report_stays_and_the_command_says_so_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("T2I_REPORTS", str(tmp_path))
    write_json(tmp_path / "runs" / "03_x" / "1" / "run.json", {"name": "03_x", "status": "ok"})
    assert main(["report"]) == 0
    before = contents(tmp_path)
    capsys.readouterr()
    with full_disk(1024):
        assert main(["report"]) == 1
    error = capsys.readouterr().err
    assert "index.html" in error and "too large" in error and error.count("\n") == 1
    assert contents(tmp_path) == before


def test_a_download_without_room_ends_at_once_and_goes_on_later(tmp_path, monkeypatch):
    for name in ("T2I_DATA", "T2I_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("T2I_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("t2ilib.assets.download.unreachable", lambda urls: {})
    source = tmp_path / "weights.ckpt"
    source.write_bytes(bytes(range(256)) * 200)
    asset = Asset("thing", "vqgan", "a thing", "MIT", "https://example.org",
                  (AssetFile("a.ckpt", (source.as_uri(),)),))
    with full_disk(), pytest.raises(MissingAsset, match="File too large"):
        fetch(asset)
    folder = tmp_path / "cache" / "vqgan" / "thing"
    assert not (folder / "a.ckpt").exists()
    assert (fetch(asset) / "a.ckpt").read_bytes() == source.read_bytes()


def test_computed_files_are_there_whole_or_not_at_all(tmp_path):
    def write(folder):
        (folder / "a.bin").write_bytes(bytes(2 * LIMIT))

    with full_disk(), pytest.raises(OSError):
        kept_folder(tmp_path / "features", "key", write)
    assert not list(tmp_path.iterdir())
    assert (kept_folder(tmp_path / "features", "key", write) / "a.bin").stat().st_size == 2 * LIMIT


def test_a_data_set_that_is_built_anew_keeps_the_old_file(tmp_path):
    from t2ilib.data.build_emoji import COLUMNS, LISTS, write_parquet

    row = {name: ["x"] if name in LISTS else "x" for name in COLUMNS[1:]}
    path = tmp_path / "emoji_64.parquet"
    write_parquet(path, [row], [b"picture"])
    before = contents(tmp_path)
    with full_disk(), pytest.raises(OSError):
        write_parquet(path, [row], [torch.randint(256, (9 * LIMIT,), dtype=torch.uint8).numpy().tobytes()])
    assert contents(tmp_path) == before


def test_an_error_that_has_no_number_keeps_its_words(tmp_path):
    with pytest.raises(MissingAsset, match="^what is absent$"), replacing(tmp_path / "a"):
        raise MissingAsset("what is absent")


INSIDE = Path(__file__).with_name("small_disk.py")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a file system of Linux")
@pytest.mark.parametrize("case", ["generate", "read_only", "run"])
def test_on_a_small_disk(tmp_path, case):
    mount = 'mount -t tmpfs -o size=3m small "$1" && exec "${@:2}"'
    own_mounts = ["unshare", "--map-root-user", "--mount", "bash", "-c", mount, "bash", str(tmp_path)]
    try:
        subprocess.run([*own_mounts, "true"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this system mounts no file system for its users: {getattr(error, 'stderr', error)}")
    done = subprocess.run([*own_mounts, sys.executable, str(INSIDE), case, str(tmp_path)], cwd=repo_root(),
                          capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

"""Digits: always there, MNIST where it is, and no download unless asked for."""

import gzip
import struct

import pytest
import torch

from t2ilib.data import load_digits
from t2ilib.errors import BadParameter, MissingAsset, UnknownName


def write_mnist(folder, *, zipped=False, counts=(6, 4)):
    """Write files in MNIST's format; picture i is filled with 10 * i."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in zip(("train", "t10k"), counts, strict=True):
        images = struct.pack(">IIII", 2051, count, 28, 28) + b"".join(bytes([10 * i]) * 784 for i in range(count))
        labels = struct.pack(">II", 2049, count) + bytes(i % 10 for i in range(count))
        for name, data in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            (raw / name).write_bytes(data)
            if zipped:
                (raw / f"{name}.gz").write_bytes(gzip.compress(data))
    return folder


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch, tmp_path):
    monkeypatch.delenv("T2I_DATA", raising=False)
    monkeypatch.setenv("T2I_CACHE", str(tmp_path / "cache"))


def test_embedded_digits():
    train, test, both = (load_digits("digits", split=split) for split in ("train", "test", "all"))
    assert (len(train), len(test), len(both)) == (1500, 297, 1797) and train.name == "digits"
    assert (
        train.images.shape == (1500, 1, 8, 8)
        and train.images.dtype == torch.uint8
        and train.labels.dtype == torch.int64
    )
    assert train.images.min() == 0 and train.images.max() == 255
    torch.testing.assert_close(torch.cat([train.images, test.images]), both.images)
    assert set(test.labels.tolist()) == set(range(10))
    zero = both.images[0, 0].float()
    assert both.labels[0] == 0 and zero[3:5, 3:5].mean() < 64 < zero[1, 2:6].mean()  # dark inside, bright above


def test_resize_and_batch():
    data = load_digits("digits", split="test", image_size=32)
    assert data.images.shape == (297, 1, 32, 32)
    x = data.batch(torch.tensor([1, 2]))
    assert x.shape == (2, 1, 32, 32) and x.min() == -1 and 0.5 < x.max() <= 1
    assert len(data.select(torch.tensor([0, 5]))) == 2 and data.to("cpu").images.device.type == "cpu"


def test_stacked_digits_are_three_digits_and_say_which():
    data = load_digits("digits", split="test")
    images, modes = data.stacked(40, torch.Generator().manual_seed(0))
    assert images.shape == (40, 3, 8, 8) and images.min() == -1 and images.max() <= 1 and len(set(modes.tolist())) > 30
    known = data.batch(torch.arange(len(data)))[:, 0]
    for image, mode in zip(images[:5], modes[:5].tolist(), strict=True):
        rows = [(known == channel).all(dim=(1, 2)).nonzero()[0, 0] for channel in image]
        assert "".join(str(data.labels[row].item()) for row in rows) == f"{mode:03}"
    again, _ = data.stacked(40, torch.Generator().manual_seed(0))
    assert torch.equal(again, images)


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_from_the_data_folder(tmp_path, monkeypatch, zipped):
    monkeypatch.setenv("T2I_DATA", str(write_mnist(tmp_path / "data", zipped=zipped)))
    data = load_digits("mnist", split="all")
    assert data.name == "mnist" and data.images.shape == (10, 1, 28, 28)
    assert data.images[3].unique().tolist() == [30] and data.labels.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert load_digits(split="test").name == "mnist" and len(load_digits(split="test")) == 4
    assert load_digits("digits").name == "digits"


def test_auto_without_mnist_takes_the_embedded_set(tmp_path, monkeypatch):
    assert load_digits().name == "digits"
    monkeypatch.setenv("T2I_DATA", str(tmp_path))
    assert load_digits().name == "digits" and not (tmp_path / "cache").exists()


def test_mnist_that_cannot_be_had(monkeypatch):
    from torchvision.datasets import MNIST

    def refuse(self):
        raise RuntimeError("no network")

    monkeypatch.setattr(MNIST, "download", refuse)
    with pytest.raises(MissingAsset, match="T2I_DATA.*no network.*name='digits'"):
        load_digits("mnist")


def test_bad_names_and_sizes():
    with pytest.raises(UnknownName, match="mnist"):
        load_digits("mnsit")
    with pytest.raises(UnknownName, match="train"):
        load_digits(split="training")
    with pytest.raises(BadParameter, match="image_size"):
        load_digits(image_size=4)

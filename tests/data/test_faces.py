"""Faces: those of the emoji set, and CelebA in the exact layout that torchvision reads."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CelebA

from t2ilib.data import faces, load_captioned, load_faces
from t2ilib.errors import BadParameter, MissingAsset, UnknownName

ATTRIBUTES = ["5_o_Clock_Shadow", "Bald", "Smiling"]
PARTS = [0, 0, 2, 1, 0, 2, 1]  # not in order, unlike the real list: the order of the file must stay


def write_celeba(root):
    """Write seven pictures of 178 x 218: a colour of their own, a darker band above and below the middle square."""
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i + 1:06d}.jpg" for i in range(len(PARTS))]
    for i, name in enumerate(names):
        pixels = np.full((218, 178, 3), 20, np.uint8)
        pixels[20:198] = (30 * i + 40, 128, 220 - 30 * i)
        Image.fromarray(pixels).save(folder / "img_align_celeba" / name, quality=95)
    rows = {"list_eval_partition.txt": [f"{n} {p}" for n, p in zip(names, PARTS, strict=True)],
            "identity_CelebA.txt": [f"{n} {100 + i}" for i, n in enumerate(names)],
            "list_attr_celeba.txt": [str(len(names)), " ".join(ATTRIBUTES) + " ",
                                     *(f"{n} {'-1' if i % 2 else ' 1'} -1 {' 1' if i < 3 else '-1'}"
                                       for i, n in enumerate(names))],
            "list_bbox_celeba.txt": [str(len(names)), "image_id x_1 y_1 width height",
                                     *(f"{n}    1  2  3  4" for n in names)],
            "list_landmarks_align_celeba.txt": [str(len(names)), "lefteye_x lefteye_y", *(f"{n} 1  2" for n in names)]}
    for name, lines in rows.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def celeba(tmp_path, monkeypatch):
    monkeypatch.setenv("T2I_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("T2I_DATA", str(tmp_path / "data"))
    return write_celeba(tmp_path / "data")


def test_emoji_faces_are_faces_on_white_and_keep_their_split():
    found = {split: load_faces(split=split, image_size=32) for split in ("train", "validation", "held_out", "all")}
    assert len(found["all"]) == sum(len(found[s]) for s in ("train", "validation", "held_out")) > 1000
    assert len(found["train"]) > 800 and min(len(data) for data in found.values()) > 100
    families = [set(found[s].columns["family"]) for s in ("train", "validation", "held_out")]
    assert not families[0] & families[1] and not families[0] & families[2] and not families[1] & families[2]
    assert set(found["all"].columns["group"]) == {"Smileys & Emotion", "People & Body"}
    names = set(found["all"].columns["name"])
    assert {"grinning face", "cat with tears of joy", "person", "Santa Claus"} <= names
    assert not names & {"red heart", "thumbs up", "person running", "brain"}
    x = found["train"].batch(torch.arange(64))
    assert x.shape == (64, 3, 32, 32) and x.min() >= -1 and x.max() == 1
    assert (x[:, :, 0, 0] == 1).float().mean() > 0.9  # white corners
    whole = load_captioned("emoji", split="validation", image_size=32).where(
        subgroup=sorted(set(found["validation"].columns["subgroup"])))
    assert torch.equal(found["validation"].images, whole.images) and found["validation"].captions == whole.captions
    assert found["validation"].columns == whole.columns


@pytest.mark.parametrize("split, theirs", [("train", "train"), ("validation", "valid"), ("held_out", "test"),
                                           ("all", "all")])
def test_celeba_has_the_order_and_split_of_torchvision(celeba, monkeypatch, split, theirs):
    monkeypatch.setattr(CelebA, "_check_integrity", lambda self: True)  # the hashes are those of the real files
    reference = CelebA(str(celeba), split=theirs, target_type=["attr", "identity"])
    data = load_faces("celeba", split=split, image_size=64)
    assert data.columns["file"] == list(reference.filename) and len(data) == len(reference)
    for i, (picture, (attributes, identity)) in enumerate(reference):
        assert data.columns["identity"][i] == identity
        assert data.columns["attributes"][i] == [a for a, on in zip(ATTRIBUTES, attributes, strict=True) if on]
        middle = torch.from_numpy(np.asarray(picture)[30:188, 10:168].copy()).float().mean((0, 1))
        torch.testing.assert_close(data.images[i].float().mean((1, 2)), middle, rtol=0, atol=3)
    assert data.images.shape == (len(data), 3, 64, 64) and data.images.min() > 30  # the dark bands are cut off
    x = data.batch([0, 1])
    assert x.shape == (2, 3, 64, 64) and -1 <= x.min() <= x.max() <= 1


def test_captions_say_the_attributes(celeba):
    data = load_faces("celeba", split="all", image_size=16)
    assert data.captions[:4] == ["5 o clock shadow, smiling", "smiling", "5 o clock shadow, smiling", "a face"]
    assert data.where(attributes="Smiling").columns["file"] == ["000001.jpg", "000002.jpg", "000003.jpg"]


def test_pictures_are_decoded_once_into_a_memory_map(celeba, tmp_path, monkeypatch):
    first = load_faces("celeba", image_size=128)
    files = list((tmp_path / "cache" / "faces").iterdir())
    assert len(files) == 1 and files[0].stat().st_size >= 3 * 3 * 128 * 128

    def no_more(*_):
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr(faces, "decode_all", no_more)
        again = load_faces("celeba", image_size=128)
        assert torch.equal(first.images, again.images)
        again.images[0] = 0  # copy on write: the file stays
        assert torch.equal(load_faces("celeba", image_size=128).images, first.images)
        with pytest.raises(AssertionError, match="again"):
            load_faces("celeba", image_size=64)
        assert list((tmp_path / "cache" / "faces").iterdir()) == files  # nothing half-written stays
    Image.new("RGB", (178, 218), "red").save(celeba / "celeba" / "img_align_celeba" / "000001.jpg", quality=60)
    red = load_faces("celeba", image_size=128).images[0].float().mean((1, 2))
    assert red[0] > 240 and red[1:].max() < 20


def test_only_one_chunk_stands_in_memory(celeba, monkeypatch):
    whole = load_faces("celeba", split="all", image_size=32).images.clone()
    for path in (faces.paths.cache_dir() / "faces").iterdir():
        path.unlink()
    monkeypatch.setattr(faces, "_CHUNK", 3)
    assert torch.equal(load_faces("celeba", split="all", image_size=32).images, whole)


def test_missing_and_broken_files_are_named(celeba, tmp_path, monkeypatch):
    folder = celeba / "celeba"
    with pytest.raises(UnknownName, match="did you mean celeba"):
        load_faces("celebs")
    with pytest.raises(UnknownName, match="split of the faces 'test'"):
        load_faces("celeba", split="test")
    with pytest.raises(BadParameter, match="image_size"):
        load_faces(image_size=1)
    with pytest.raises(MissingAsset, match=r"nowhere.celeba lacks list_eval_partition.txt.*T2I_DATA.*download=True"):
        load_faces("celeba", root=tmp_path / "nowhere")
    (folder / "img_align_celeba" / "000005.jpg").unlink()
    with pytest.raises(MissingAsset, match="lacks 1 of 3 pictures, such as 000005.jpg"):
        load_faces("celeba")
    (folder / "img_align_celeba" / "000005.jpg").write_bytes(b"no picture")
    with pytest.raises(BadParameter, match="000005.jpg: the picture cannot be read"):
        load_faces("celeba")
    with open(folder / "identity_CelebA.txt", newline="") as f:
        rows = list(csv.reader(f, delimiter=" "))
    (folder / "identity_CelebA.txt").write_text("\n".join(" ".join(row) for row in rows[1:]))
    with pytest.raises(BadParameter, match="says nothing of 1 pictures .* such as 000001.jpg"):
        load_faces("celeba")
    (folder / "list_attr_celeba.txt").write_text("1\nBald\n000001.jpg 1 1\n")
    with pytest.raises(BadParameter, match="the line of 000001.jpg has 2 values, expected 1"):
        load_faces("celeba")

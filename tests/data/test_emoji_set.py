"""The embedded set: readable by everybody, divided without leaks, small enough, described correctly."""

import hashlib
import json
from collections import Counter

import pytest

from t2ilib import paths
from t2ilib.data import load_captioned

EMOJI = paths.embedded_data_dir() / "emoji"
SPLITS = ("train", "validation", "held_out")


@pytest.fixture(scope="module")
def whole():
    return load_captioned("emoji", split="all", image_size=64)


@pytest.fixture(scope="module")
def info():
    return json.loads((EMOJI / "info.json").read_text(encoding="utf-8"))


def test_counts_and_hash_agree_with_the_record(whole, info):
    assert len(whole) == info["counts"]["pictures"] > 6000
    assert dict(Counter(whole.columns["artist"])) == info["counts"]["artist"]
    assert set(whole.columns["artist"]) == {"noto", "twemoji", "fluent", "fluent-flat"}
    assert whole.fingerprint() == info["sizes"]["64"]["sha256"]
    assert len(set(whole.columns["id"])) == len(whole)


def test_large_size_has_the_same_rows(whole, info):
    assert sum(file["rows"] for file in info["sizes"]["128"]["files"]) == len(whole)
    large = load_captioned("emoji", split="all", image_size=128, limit=40)
    assert large.images.shape == (40, 4, 128, 128)
    assert large.captions == whole.captions[:40] and large.columns["id"] == whole.columns["id"][:40]


def test_files_are_small_and_listed(info):
    files = sorted(EMOJI.glob("*.parquet"))
    assert {file.name for file in files} == {f["name"] for size in info["sizes"].values() for f in size["files"]}
    assert all(file.stat().st_size <= 16 * 2**20 for file in files)
    shipped = [file for file in files if file.name.startswith(("emoji_64", "emoji_128"))]
    assert len(shipped) == 3 and sum(file.stat().st_size for file in shipped) <= 35 * 2**20


def test_families_are_on_one_side(whole):
    sides = {}
    for family, split in zip(whole.columns["family"], whole.columns["split"], strict=True):
        assert sides.setdefault(family, split) == split
    lists = {split: (EMOJI / "splits" / f"{split}.txt").read_text(encoding="utf-8").splitlines() for split in SPLITS}
    for split in SPLITS:
        assert set(lists[split]) == {family for family, side in sides.items() if side == split}
    for held in ("validation", "held_out"):
        assert len(lists[held]) / len(sides) == pytest.approx(0.1, abs=0.01)
        assert 0.08 < sum(1 for s in whole.columns["split"] if s == held) / len(whole) < 0.12


def test_each_group_is_divided_alike(whole):
    families = {(g, f, s) for g, f, s in zip(*(whole.columns[c] for c in ("group", "family", "split")), strict=True)}
    for group in set(whole.columns["group"]):
        inside = Counter(split for g, _, split in families if g == group)
        assert inside["held_out"] == inside["validation"] == pytest.approx(sum(inside.values()) / 10, abs=1)


def test_names_of_one_side_are_not_on_another(whole):
    names = {split: set(whole.where(split=split).captions) for split in SPLITS}
    assert not names["train"] & names["held_out"] and not names["train"] & names["validation"]
    assert "red heart" in names["train"]
    for members in (
        {"farmer", "man farmer", "woman farmer"},
        {"one o'clock", "six-thirty"},
        {"cat", "black cat"},
        {"man with red hair", "bald woman", "person with a beard"},
    ):
        assert any(members <= side for side in names.values()), members


def test_drawings_of_an_artist_differ_pairwise(whole):
    seen = {}
    pixels = whole.images.numpy()
    for i, artist in enumerate(whole.columns["artist"]):
        key = artist, hashlib.sha256(pixels[i].tobytes()).digest()
        assert key not in seen, (whole.columns["id"][i], whole.columns["id"][seen[key]])
        seen[key] = i
    names = set(whole.columns["name"])
    assert "flag: France" in names and "flag: Clipperton Island" not in names


@pytest.mark.parametrize(
    "name, color",
    [
        ("red heart", "red"),
        ("green heart", "green"),
        ("blue heart", "blue"),
        ("yellow heart", "yellow"),
        ("purple heart", "purple"),
        ("tangerine", "orange"),
        ("brown circle", "brown"),
        ("black heart", "black"),
        ("grinning face", "yellow"),
        ("pink heart", "pink"),
        ("grey heart", "grey"),
        ("white heart", "white"),
    ],
)
def test_colors_say_what_the_eye_sees(whole, name, color):
    rows = whole.where(name=name)
    assert len(rows) == 4
    assert all(color in colors for colors in rows.columns["colors"])
    assert sum(colors[0] == color for colors in rows.columns["colors"]) >= 3


def test_no_picture_is_empty_and_transparent_pixels_are_black(whole):
    alpha = whole.images[:, 3]
    assert int((alpha > 127).flatten(1).sum(1).min()) > 10
    assert int((whole.images[:, :3] * (alpha == 0)[:, None]).max()) == 0


def test_datasets_reads_it(tmp_path):
    import datasets

    part = datasets.load_dataset(
        "parquet", data_files=str(EMOJI / "emoji_64.parquet"), split="train", cache_dir=str(tmp_path)
    )
    assert isinstance(part.features["image"], datasets.Image)
    row = part[0]
    assert row["image"].size == (64, 64) and row["image"].mode == "RGBA"
    assert row["text"] == "grinning face" and row["keywords"] == ["face", "grin"]


def test_licences_ship():
    folder = paths.embedded_data_dir() / "licenses"
    marks = {
        "Apache-2.0.txt": "Apache License",
        "OFL-1.1.txt": "SIL OPEN FONT LICENSE",
        "MIT-fluent-emoji.txt": "Microsoft",
        "Unicode-DFS-2016.txt": "Unicode, Inc.",
        "NOTICE.txt": "creativecommons.org/licenses/by/4.0",
    }
    for name, mark in marks.items():
        assert mark in (folder / name).read_text(encoding="utf-8"), name
    readme = (paths.embedded_data_dir() / "README.md").read_text(encoding="utf-8")
    for word in ("Apache-2.0", "CC-BY-4.0", "MIT", "OFL-1.1", "Unicode", "t2ilib.data.build_emoji"):
        assert word in readme


def test_versions_of_the_sources_are_recorded(info):
    for source in (
        "@iconify-json/noto",
        "@iconify-json/twemoji",
        "@iconify-json/fluent-emoji",
        "@iconify-json/fluent-emoji-flat",
        "emoji-test.txt",
        "NotoColorEmoji.ttf",
    ):
        assert info["sources"][source]["version"] and len(info["sources"][source]["sha256"]) == 64
    assert info["tools"]["resvg-py"]

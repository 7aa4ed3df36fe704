"""The build: matching by code points, identical drawings, families, split, colours, and the same result every time."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from t2ilib.data import build_emoji, colors
from t2ilib.data.emoji_families import families, family_key, split_of_families
from t2ilib.data.emoji_sources import ARTISTS, NotoFlags, plain_codes, read_concepts, read_icons
from t2ilib.data.records import emoji_records
from t2ilib.errors import BadParameter, MissingAsset

LINES = """# Version: 15.0
# group: Smileys & Emotion
# subgroup: heart
2764 FE0F ; fully-qualified # X E0.6 red heart
2764 ; unqualified # X E0.6 red heart
# group: Symbols
# subgroup: arrow
27A1 FE0F ; fully-qualified # X E0.6 right arrow
2B05 FE0F ; fully-qualified # X E0.6 left arrow
1F44B 1F3FB ; fully-qualified # X E1.0 waving hand: light skin tone
# group: Flags
# subgroup: country-flag
1F1E8 1F1F5 ; fully-qualified # X E2.0 flag: Clipperton Island
1F1EB 1F1F7 ; fully-qualified # X E2.0 flag: France
"""
FLAG = '<path fill="#00f" d="M0 4h8v8H0z"/><path fill="#fff" d="M8 4h4v8H8z"/><path fill="#f00" d="M12 4h4v8h-4z"/>'
ICONS = {
    "red-heart": {"body": '<path fill="#d22" d="M2 2h12v12H2z"/>'},
    "left-arrow": {"body": '<path fill="#36c" d="M0 8L8 0v16z"/>'},
    "tall-flag": {"body": FLAG, "height": 20},
    "flag-france": {"body": FLAG, "height": 20},
    "wave": {"body": '<circle cx="8" cy="8" r="6" fill="#fc3"/>'},
}
NAMES = {
    "2764": "red-heart",
    "2b05-fe0f": "left-arrow",
    "1f1e8-1f1f5": "tall-flag",
    "1f1eb-1f1f7": "flag-france",
    "1f44b-1f3fb": "wave",
}


@pytest.fixture
def sources(tmp_path):
    """A small world: Unicode's files, and four artists who draw alike."""
    for package in {name for pair in ARTISTS.values() for name in pair}:
        folder = tmp_path / "node_modules" / "@iconify-json" / package
        folder.mkdir(parents=True)
        aliases = {"right-arrow": {"parent": "left-arrow", "hFlip": True}}
        icons = {"icons": ICONS, "aliases": aliases, "width": 16, "height": 16}
        info = {"license": {"spdx": "MIT"}, "author": {"name": "someone", "url": ""}}
        for name, content in {"icons": icons, "chars": NAMES, "info": info, "package": {"version": "1.0"}}.items():
            (folder / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "emoji").mkdir()
    (tmp_path / "emoji" / "emoji-test.txt").write_text(LINES)
    for name in ("annotations", "annotationsDerived"):
        folder = tmp_path / "cldr" / "common" / name
        folder.mkdir(parents=True)
        (folder / "en.xml").write_text(
            '<ldml><annotation cp="❤">heart | love | red heart</annotation>'
            '<annotation cp="❤" type="tts">red heart</annotation></ldml>'
        )
    return tmp_path


def make(sources, out, **options):
    return build_emoji.build(sources, out, unicode_dir=sources, noto_font=None, **options)


def test_build_gives_the_same_hash_twice(sources, tmp_path):
    first = make(sources, tmp_path / "a", sizes=[16, 32])
    second = make(sources, tmp_path / "b", sizes=[32, 16], threads=1)
    assert first == second
    assert first["sizes"]["16"]["sha256"] != first["sizes"]["32"]["sha256"]
    for name in ("emoji_16.parquet", "emoji_32.parquet", "info.json", "splits/train.txt"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_build_describes_and_keeps_pixels(sources, tmp_path):
    info = make(sources, tmp_path / "out", sizes=[32])
    records = emoji_records("all", 32, folder=tmp_path / "out")
    assert [record.text for record in records[::4]] == ["red heart", "right arrow", "left arrow", "flag of France"]
    assert info["counts"]["pictures"] == 16 and info["counts"]["with_skin_tone"] == 0
    heart = records[0].columns
    assert (
        heart["keywords"] == ["heart", "love"] and heart["colors"] == ["red"] and heart["group"] == "Smileys & Emotion"
    )
    package = read_icons(sources, "noto")
    concept = read_concepts(sources)[0][0]
    expected = build_emoji.render(build_emoji.Drawing(concept, "noto", package.svg(concept)), 32)
    with Image.open(io.BytesIO(records[0].picture)) as stored:
        np.testing.assert_array_equal(np.array(stored), expected)


def test_a_size_can_be_added_but_not_from_other_sources(sources, tmp_path):
    make(sources, tmp_path / "out", sizes=[16])
    both = make(sources, tmp_path / "out", sizes=[32])
    assert list(both["sizes"]) == ["16", "32"] and both == make(sources, tmp_path / "other", sizes=[16, 32])
    with pytest.raises(BadParameter, match="sizes 16 from other sources"):
        make(sources, tmp_path / "out", sizes=[32], skin_tones=True)


def test_skin_tones_are_an_option(sources, tmp_path):
    info = make(sources, tmp_path / "out", sizes=[16], skin_tones=True)
    assert info["counts"]["with_skin_tone"] == 4
    record = [r for r in emoji_records("all", 16, folder=tmp_path / "out") if r.columns["skin_tone"]][0]
    assert record.text == "waving hand with light skin tone" and record.columns["skin_tone"] == "light"


def test_mirrored_alias_and_tall_icon(sources):
    package = read_icons(sources, "noto")
    concepts = {concept.name: concept for concept in read_concepts(sources)[0]}

    def draw(name):
        return build_emoji.render(build_emoji.Drawing(concepts[name], "noto", package.svg(concepts[name])), 32)

    right, left = draw("right arrow").astype(int), draw("left arrow").astype(int)
    assert abs(right - left[:, ::-1]).mean() < 1 < abs(right - left).mean()  # edges are smoothed in one direction
    flag = draw("flag: France")  # 16 x 20 in a square of 20: empty bands left and right
    assert flag[:, :2, 3].max() == 0 and flag[12, 16, 3] == 255


@pytest.mark.parametrize("sizes", [[], [4], [0, 64]])
def test_bad_sizes_are_refused(sources, tmp_path, sizes):
    with pytest.raises(BadParameter, match="sizes"):
        make(sources, tmp_path / "out", sizes=sizes)


def test_missing_sources_name_the_remedy(sources, tmp_path, capsys):
    with pytest.raises(MissingAsset, match="npm install"):
        read_icons(tmp_path / "nothing", "noto")
    with pytest.raises(MissingAsset, match="unicode-"):
        read_concepts(tmp_path / "nothing")
    with pytest.raises(MissingAsset, match="fonts-noto-color-emoji"):
        NotoFlags(tmp_path / "no.ttf")
    arguments = ["--sources", str(tmp_path / "nothing"), "--out", str(tmp_path / "o"), "--unicode", str(sources)]
    assert build_emoji.main(arguments) == 2
    assert "npm install" in capsys.readouterr().err


@pytest.mark.parametrize(
    "one, other",
    [
        ("1F468 200D 1F33E", "1F469 1F3FD 200D 1F33E"),  # man farmer, woman farmer with skin tone
        ("1F3C3", "1F3C3 200D 2640 FE0F"),  # person running, woman running
        ("1F468", "1F9D1 200D 1F9B0"),  # man, person with red hair
        ("1F471", "1F469 200D 1F9B2"),  # blond hair, bald woman
        ("1F550", "1F567"),  # clock faces
        ("2764", "2764 FE0F 200D 1F525"),  # red heart, heart on fire
        ("1F408", "1F408 200D 2B1B"),  # cat, black cat
        ("1F48F", "1F468 200D 2764 FE0F 200D 1F468"),  # kiss, couple of two men with a heart
        ("1F46A", "1F469 200D 1F467 200D 1F466"),  # family, family of three
        ("1F46B", "1F9D1 200D 1F91D 200D 1F9D1"),  # holding hands
        ("1F385", "1F9D1 200D 1F384"),  # Santa Claus, mx claus
        ("27A1", "2196"),  # arrows
    ],
)
def test_same_family(one, other):
    assert family_key(plain_codes(one)) == family_key(plain_codes(other))


@pytest.mark.parametrize(
    "one, other",
    [
        ("1F468 200D 1F33E", "1F468 200D 1F373"),
        ("1F468 200D 1F33E", "1F33E"),
        ("2764", "1F49A"),
        ("1F1EB 1F1F7", "1F1E9 1F1EA"),
        ("1F9D1", "1F9D2"),
        ("31 20E3", "32 20E3"),
    ],
)
def test_different_families(one, other):
    assert family_key(plain_codes(one)) != family_key(plain_codes(other))


def test_family_is_named_after_its_simplest_member():
    named = [
        (plain_codes("2764 200D 1F525"), "heart on fire"),
        (plain_codes("2764"), "red heart"),
        (plain_codes("1F550"), "one o’clock"),
    ]
    assert families(named) == ["red heart", "red heart", "clock face"]


def test_split_has_the_right_shares_and_ignores_order():
    members = [(f"thing {i}", "A") for i in range(200)] + [(f"other {i}", "B") for i in range(31)]
    split = split_of_families(members)
    assert split == split_of_families(members[::-1] + members)
    for group, size in (("thing", 200), ("other", 31)):
        sides = [side for family, side in split.items() if family.startswith(group)]
        assert sides.count("held_out") == sides.count("validation") == round(size / 10)
    assert split["thing 0"] == split_of_families([("thing 0", "A")] + members[1:])["thing 0"]


def test_color_words_by_area():
    picture = np.zeros((10, 10, 4), np.uint8)
    assert colors.color_words(picture) == []
    picture[:6] = (221, 46, 68, 255)
    picture[6:9] = (255, 255, 255, 255)
    picture[9:] = (0, 0, 0, 255)
    assert colors.color_words(picture) == ["red", "white"]
    assert colors.color_shares(picture)["red"] == pytest.approx(0.6)
    with pytest.raises(BadParameter, match="uint8"):
        colors.color_words(picture[..., :3])


def test_oklab_of_white_and_grey():
    lab = colors.oklab(np.array([[1.0, 1, 1], [0.5, 0.5, 0.5], [0, 0, 0]]))
    np.testing.assert_allclose(lab[:, 1:], 0, atol=1e-6)
    np.testing.assert_allclose(lab[:, 0], [1, 0.5982, 0], atol=1e-3)

"""Read what the emoji set is made of: Unicode's lists, four icon packages, and the flags of Noto's font.

Only `python -m t2ilib.data.build_emoji` needs this module; using the finished set does not.
"""

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .emoji_families import EMOJI_SELECTOR
from ..errors import MissingAsset
from ..files import sha256_of

# artist -> (package that holds the drawings, package whose chars.json names them): fluent-emoji has no list of its own.
ARTISTS = {
    "noto": ("noto", "noto"),
    "twemoji": ("twemoji", "twemoji"),
    "fluent": ("fluent-emoji", "fluent-emoji-flat"),
    "fluent-flat": ("fluent-emoji-flat", "fluent-emoji-flat"),
}
SKIN_TONES = {0x1F3FB: "light", 0x1F3FC: "medium-light", 0x1F3FD: "medium", 0x1F3FE: "medium-dark", 0x1F3FF: "dark"}
LIGATURE_SUBSTITUTION = 4  # this kind of lookup in an OpenType font
NOTO_FONT = "NotoColorEmoji.ttf"


@dataclass(frozen=True)
class Concept:
    """One line of `emoji-test.txt`.

    Attributes:
        codes: Code points without the emoji presentation selector U+FE0F.
        name: Unicode's short name, such as "flag: France".
        group, subgroup: Headings of the list, such as "Food & Drink" and "food-fruit".
        keywords: CLDR's English keywords other than the name itself.
    """

    codes: tuple[int, ...]
    name: str
    group: str
    subgroup: str
    keywords: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Return the code points as the icon packages write them, `1f468-200d-1f33e`."""
        return code_key(self.codes)

    @property
    def skin_tone(self) -> str:
        """Return the skin tones as words, "" if the drawing has none, "light, dark" if two people differ."""
        return ", ".join(SKIN_TONES[code] for code in self.codes if code in SKIN_TONES)


@dataclass
class IconPackage:
    """The drawings of one artist: `svg(concept)` gives the picture as SVG text, or None where it was not drawn."""

    icons: dict
    names: dict[str, str]
    record: dict = field(default_factory=dict)

    def svg(self, concept: Concept) -> str | None:
        """Return the drawing of `concept` in a square view box, or None."""
        slug = re.sub("[^a-z0-9]+", "-", concept.name.lower()).strip("-")
        for name in (self.names.get(concept.key), slug):
            if name in self.icons["icons"] or name in self.icons.get("aliases", {}):
                return self._square(name)
        return None

    def _square(self, name: str) -> str:
        flips: list[str] = []
        while name not in self.icons["icons"]:
            alias = self.icons["aliases"][name]
            flips += [flip for flip in ("hFlip", "vFlip") if alias.get(flip)]
            name = alias["parent"]
        icon = {"left": 0, "top": 0, "width": self.icons["width"], "height": self.icons["height"]}
        icon.update(self.icons["icons"][name])
        left = icon["left"]
        top = icon["top"]
        width = icon["width"]
        height = icon["height"]
        side = max(width, height)
        box = f"{left - (side - width) / 2:g} {top - (side - height) / 2:g} {side:g} {side:g}"
        body = icon["body"]
        for flip in flips:
            if flip == "hFlip":
                transform = f"translate({2 * left + width:g} 0) scale(-1 1)"
            else:
                transform = f"translate(0 {2 * top + height:g}) scale(1 -1)"
            body = f'<g transform="{transform}">{body}</g>'
        space = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        return f'<svg {space} viewBox="{box}">{body}</svg>'


def plain_codes(text: str) -> tuple[int, ...]:
    """Parse "1F468 200D 1F33E" or "1f468-200d-1f33e"; the presentation selector is left out."""
    codes = [int(part, 16) for part in re.split("[- ]+", text.strip())]
    return tuple(code for code in codes if code != EMOJI_SELECTOR)


def code_key(codes: Sequence[int]) -> str:
    """Write code points as the icon packages do, `1f468-200d-1f33e`."""
    return "-".join(f"{code:x}" for code in codes)


def read_concepts(unicode_dir: Path, *, skin_tones: bool = False) -> tuple[list[Concept], dict]:
    """Read the fully qualified emoji in Unicode's order, with CLDR keywords.

    Args:
        unicode_dir: Folder with `emoji/emoji-test.txt` and `cldr/common/annotations*/en.xml`
            (the layout of Debian's packages `unicode-data` and `unicode-cldr-core`).
        skin_tones: Keep the variants with skin tone modifiers.

    Returns:
        The concepts, and a record of versions and hashes for `info.json`.

    Raises:
        MissingAsset: If a file is not there.
    """
    path = _existing(unicode_dir / "emoji" / "emoji-test.txt", "Unicode's list of emoji (Debian: unicode-data)")
    keywords, record = _read_keywords(unicode_dir)
    text = path.read_text(encoding="utf-8")
    record["emoji-test.txt"] = {"version": _first(r"# Version: (\S+)", text), "sha256": sha256_of(path)}
    concepts = []
    group = ""
    subgroup = ""
    for line in text.splitlines():
        if line.startswith("# group:"):
            group = line.split(":", 1)[1].strip()
        elif line.startswith("# subgroup:"):
            subgroup = line.split(":", 1)[1].strip()
        match = re.match(r"([0-9A-F ]+); fully-qualified\s+# \S+ E[\d.]+ (.+)", line)
        if match:
            codes = plain_codes(match[1])
            name = match[2].strip()
            words = [word for word in keywords.get(codes, ()) if word.lower() != name.lower()]
            concept = Concept(codes, name, group, subgroup, tuple(words))
            if skin_tones or not concept.skin_tone:
                concepts.append(concept)
    return concepts, record


def _read_keywords(unicode_dir: Path) -> tuple[dict[tuple[int, ...], list[str]], dict]:
    """Read CLDR's English annotations: code points -> keywords."""
    keywords: dict[tuple[int, ...], list[str]] = {}
    record = {}
    for folder in ("annotations", "annotationsDerived"):
        path = _existing(unicode_dir / "cldr" / "common" / folder / "en.xml", "CLDR's annotations (unicode-cldr-core)")
        for node in ElementTree.parse(path).getroot().iter("annotation"):
            if node.get("type") is None and node.text:
                codes = [ord(char) for char in node.get("cp")]
                words = [word.strip() for word in node.text.split("|")]
                key = tuple(code for code in codes if code != EMOJI_SELECTOR)
                keywords[key] = [word for word in words if word]
        record[f"CLDR {folder}/en.xml"] = {"version": _cldr_version(unicode_dir), "sha256": sha256_of(path)}
    return keywords, record


def _cldr_version(unicode_dir: Path) -> str:
    path = unicode_dir / "cldr" / "common" / "dtd" / "ldml.dtd"
    if not path.exists():
        return ""
    return _first(r'cldrVersion CDATA #FIXED "([\d.]+)"', path.read_text(encoding="utf-8"))


def read_icons(sources: Path, artist: str) -> IconPackage:
    """Open the icon package of `artist` below `sources` (as unpacked by npm, with or without `node_modules`).

    Raises:
        MissingAsset: If the package is not there; the message names the npm command that brings it.
    """
    package, namer = ARTISTS[artist]
    folder = _package_folder(sources, package)
    icons = _read_json(folder / "icons.json")
    names = {}
    for codes, name in _read_json(_package_folder(sources, namer) / "chars.json").items():
        names[code_key(plain_codes(codes))] = name
    info = _read_json(folder / "info.json")
    version = _read_json(folder / "package.json")["version"]
    record = {"package": f"@iconify-json/{package}", "version": version, "license": info["license"]["spdx"],
              "author": info["author"]["name"], "url": info["author"]["url"],
              "sha256": sha256_of(folder / "icons.json")}
    return IconPackage(icons, names, record)


def _package_folder(sources: Path, name: str) -> Path:
    places = [sources / middle / name for middle in ("node_modules/@iconify-json", "@iconify-json", ".")]
    for place in places:
        if (place / "icons.json").exists():
            return place
    raise MissingAsset(f"no icon package {name!r} below {sources}; expected {places[0]} with icons.json in it. "
                       f"Fetch it with: npm install --prefix {sources} @iconify-json/{name}")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


class NotoFlags:
    """Bitmaps of Noto's font, for the flags that its icon package leaves out.

    The font stores one picture of 136 x 128 pixels for each glyph, and finds the glyph of a
    sequence of code points by ligature.
    """

    def __init__(self, path: Path):
        """Open the font at `path`.

        Raises:
            MissingAsset: If the font or the package `fonttools` is missing.
        """
        _existing(path, "Noto's colour font (Debian: fonts-noto-color-emoji)")
        try:
            from fontTools.ttLib import TTFont
        except ImportError as error:
            raise MissingAsset("reading Noto's font needs fonttools; install it with: pip install fonttools") from error
        font = TTFont(path)
        self._glyphs = font.getBestCmap()
        self._ligatures = _ligatures(font)
        self._pictures = font["CBDT"].strikeData[0]
        self.record = {"version": font["name"].getDebugName(5), "license": "OFL-1.1", "author": "Google Inc",
                       "url": "https://github.com/googlefonts/noto-emoji", "sha256": sha256_of(path)}

    def png(self, concept: Concept) -> bytes | None:
        """Return the picture of `concept` as PNG bytes, or None."""
        glyphs = tuple(self._glyphs.get(code) for code in concept.codes)
        glyph = self._ligatures.get(glyphs) if len(glyphs) > 1 else glyphs[0]
        picture = self._pictures.get(glyph)
        return bytes(picture.imageData) if picture is not None else None


def _ligatures(font: Any) -> dict[tuple[str, ...], str]:
    """Return the glyph that stands for each sequence of glyphs."""
    ligature_glyphs: dict[tuple[str, ...], str] = {}
    for lookup in font["GSUB"].table.LookupList.Lookup:
        if lookup.LookupType != LIGATURE_SUBSTITUTION:
            continue
        for table in lookup.SubTable:
            for first, ligatures in table.ligatures.items():
                for ligature in ligatures:
                    sequence = (first, *ligature.Component)
                    ligature_glyphs.setdefault(sequence, ligature.LigGlyph)
    return ligature_glyphs


def _existing(path: Path, what: str) -> Path:
    if not path.exists():
        raise MissingAsset(f"{what} not found: expected {path}; give its folder with --unicode or --noto-font.")
    return path


def _first(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""

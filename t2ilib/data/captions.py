"""Words for pictures: captions made of names, colours, styles and keywords.

A text-to-image model that has only seen "red heart" fails on "an emoji of a heart, red". So every picture has eight
captions: the name, with an article, in a sentence, with its colours, its artist's style, or some of its keywords. They
are the same in every run, so that a text encoder can encode them all once (`caption_table`) and training only picks.
"""

import hashlib
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from .captioned import CaptionedImages
from .colors import COLOR_WORDS
from .phrases import listed, with_article

VARIANTS = 8
STYLES = {"noto": "noto", "twemoji": "twemoji", "fluent": "fluent", "fluent-flat": "flat fluent"}
_COLOR = re.compile(rf"\b({'|'.join(COLOR_WORDS)}|gray|golden|blond)\b", re.IGNORECASE)


def colored(name: str, colors: Sequence[str], *, adjective: bool = True) -> str:
    """Put colours into words: "a yellow fish", or "the flag of France in blue, red and white".

    The main colour becomes an adjective where the name can carry one; a name that has a colour already gets no second.

    Args:
        adjective: False for what an adjective would misdescribe: "a farmer in blue and yellow", no "yellow farmer".
    """
    phrase = with_article(name)
    colors = _unmentioned(name, colors)
    if not colors:
        return phrase
    takes_no_adjective = _COLOR.search(name) or phrase.startswith(("the ", "two ", "hundred ", "no "))
    if takes_no_adjective or not adjective:
        return f"{phrase} in {listed(colors)}"
    colored_name = f"{colors[0]} {name}"
    has_article = phrase != name
    return with_article(colored_name) if has_article else colored_name


def _unmentioned(name: str, colors: Sequence[str]) -> list[str]:
    """Return the colours that the name does not say already: no "red heart in red"."""
    return [color for color in colors if color not in name.lower()]


def _takes_adjective(row: dict) -> bool:
    return row.get("group") not in ("People & Body", "Flags")


def row_variants(row: dict) -> list[str]:
    """Return the eight captions of one picture; the first is its plain name.

    Args:
        row: `CaptionedImages.row(i)`. Without the emoji set's columns, its own captions in turn.
    """
    text = row["text"]
    if not {"keywords", "artist", "colors"} <= row.keys():
        own_captions = list(dict.fromkeys([text, *(row.get("captions") or [])]))
        return [own_captions[i % len(own_captions)] for i in range(VARIANTS)]
    phrase = with_article(text)
    style = STYLES.get(row["artist"], row["artist"])
    keywords = _some_keywords(row, 3)
    colors = _unmentioned(text, row["colors"])
    variants = [text, phrase, f"an emoji of {phrase}", f"{phrase} in the style of {style}"]
    if colors:
        variants.append(colored(text, colors, adjective=_takes_adjective(row)))
    else:
        variants.append(f"a picture of {phrase}")
    variants.append(f"{text}: {', '.join(keywords[:2])}" if keywords else f"{text} emoji")
    if len(keywords) == 3:
        variants.append(", ".join(keywords))
    else:
        variants.append(f"{phrase}, {row['subgroup'].replace('-', ' ')}")
    styled = f"{with_article(f'{style} emoji')} of {phrase}"
    variants.append(f"{styled} in {listed(colors)}" if colors else styled)
    return variants


def _some_keywords(row: dict, count: int) -> list[str]:
    """Choose keywords by hash: another few for each artist's drawing, the same in every run."""
    name = row["text"].lower()
    words = [word for word in row["keywords"] if word.lower() not in name]
    words.sort(key=lambda word: hashlib.sha256(f"{row.get('id')}/{word}".encode()).digest())
    return words[:count]


def caption_variants(data: CaptionedImages) -> list[list[str]]:
    """Return `VARIANTS` captions for each picture, the same in every run; the first is the plain name."""
    return [row_variants(data.row(i)) for i in range(len(data))]


def caption_table(data: CaptionedImages) -> tuple[list[str], Tensor]:
    """Return all distinct captions of a set and where each picture's are, so that every text is encoded only once.

    Shapes:
        second result: (N, VARIANTS) int64, positions in the list.

    Example:
        texts, where = caption_table(data)
        embedded = encode(texts)                                     # (len(texts), D), once
        batch = embedded[where[indices, torch.randint(VARIANTS, (len(indices),))]]
    """
    position_of: dict[str, int] = {}
    positions = []
    for variants in caption_variants(data):
        for text in variants:
            positions.append(position_of.setdefault(text, len(position_of)))
    table = torch.tensor(positions, dtype=torch.long).reshape(len(data), VARIANTS)
    return list(position_of), table


def first_captions(data: CaptionedImages, count: int) -> list[str]:
    """Return `count` captions of a set to draw: each distinct one once, in order, and then from the beginning again."""
    distinct = list(dict.fromkeys(data.captions))
    return [distinct[i % len(distinct)] for i in range(count)]


def captions_for(data: CaptionedImages, indices: Tensor | Sequence[int],
                 generator: torch.Generator | None = None) -> list[str]:
    """Draw one of the eight captions, each as likely as the others, for each of the pictures at `indices`."""
    rows = torch.as_tensor(indices).reshape(-1).tolist()
    if not rows:
        return []
    variants = torch.multinomial(torch.ones(VARIANTS), len(rows), replacement=True, generator=generator).tolist()
    captions = []
    for row, variant in zip(rows, variants, strict=True):
        captions.append(row_variants(data.row(row))[variant])
    return captions

"""Words for pictures: readable names, templates for training, and the list of all concepts.

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
from .phrases import listed, plain_name, with_article
from ..errors import BadParameter

VARIANTS = 8
STYLES = {"noto": "noto", "twemoji": "twemoji", "fluent": "fluent", "fluent-flat": "flat fluent"}
_COLOR = re.compile(rf"\b({'|'.join(COLOR_WORDS)}|gray|golden|blond)\b", re.IGNORECASE)


def concept_names(data: CaptionedImages) -> list[str]:
    """Return the distinct readable names in `data`, in order of first appearance ("red heart", "flag of France")."""
    names = data.columns.get("name")
    return list(dict.fromkeys(map(plain_name, names) if names else data.captions))


def colored(name: str, colors: Sequence[str], *, adjective: bool = True) -> str:
    """Put colours into words: "a yellow fish", or "the flag of France in blue, red and white".

    The main colour becomes an adjective where the name can carry one; a name that has a colour already gets no second.

    Args:
        adjective: False for what an adjective would misdescribe: "a farmer in blue and yellow", no "yellow farmer".
    """
    named, colors = with_article(name), _unsaid(name, colors)
    if not colors:
        return named
    if not adjective or _COLOR.search(name) or named.startswith(("the ", "two ", "hundred ", "no ")):
        return f"{named} in {listed(colors)}"
    return with_article(f"{colors[0]} {name}") if named != name else f"{colors[0]} {name}"


def _unsaid(name: str, colors: Sequence[str]) -> list[str]:
    """Return the colours that the name does not say already: no "red heart in red"."""
    return [color for color in colors if color not in name.lower()]


def _takes_adjective(row: dict) -> bool:
    return row.get("group") not in ("People & Body", "Flags")


def row_variants(row: dict) -> list[str]:
    """Return the eight captions of one picture; the first is its plain name.

    Args:
        row: `CaptionedImages.row(i)`. Without the emoji set's columns the captions are the given ones in turn.
    """
    text = row["text"]
    if not {"keywords", "artist", "colors"} <= row.keys():
        given = list(dict.fromkeys([text, *(row.get("captions") or [])]))
        return [given[i % len(given)] for i in range(VARIANTS)]
    named, words = with_article(text), _some_keywords(row, 3)
    style, colors = STYLES.get(row["artist"], row["artist"]), _unsaid(text, row["colors"])
    in_colors = f" in {listed(colors)}" if colors else ""
    return [
        text,
        named,
        f"an emoji of {named}",
        f"{named} in the style of {style}",
        colored(text, colors, adjective=_takes_adjective(row)) if colors else f"a picture of {named}",
        f"{text}: {', '.join(words[:2])}" if words else f"{text} emoji",
        ", ".join(words) if len(words) == 3 else f"{named}, {row['subgroup'].replace('-', ' ')}",
        f"{with_article(f'{style} emoji')} of {named}{in_colors}",
    ]


def _some_keywords(row: dict, count: int) -> list[str]:
    """Choose keywords by hash: another few for each artist's drawing, the same in every run."""
    words = [word for word in row["keywords"] if word.lower() not in row["text"].lower()]
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
    position: dict[str, int] = {}
    rows = [[position.setdefault(text, len(position)) for text in texts] for texts in caption_variants(data)]
    return list(position), torch.tensor(rows, dtype=torch.long).reshape(len(data), VARIANTS)


def captions_for(data: CaptionedImages, indices: Tensor | Sequence[int], generator: torch.Generator | None = None, *,
                 weights: Sequence[float] | None = None) -> list[str]:
    """Draw one of the eight captions for each of the pictures at `indices`.

    Args:
        weights: How often each of the eight is drawn; equally by default.

    Raises:
        BadParameter: If `weights` has another length, is negative or all zero.
    """
    weights_ = torch.ones(VARIANTS) if weights is None else torch.as_tensor(weights, dtype=torch.float32)
    if weights_.shape != (VARIANTS,) or bool((weights_ < 0).any()) or float(weights_.sum()) <= 0:
        raise BadParameter(f"weights must be {VARIANTS} numbers, none negative and not all zero, got {weights!r}.")
    indices = torch.as_tensor(indices).reshape(-1).tolist()
    if not indices:
        return []
    drawn = torch.multinomial(weights_, len(indices), replacement=True, generator=generator).tolist()
    return [row_variants(data.row(i))[variant] for i, variant in zip(indices, drawn, strict=True)]


def caption(row: dict, generator: torch.Generator | None = None, *, keep: float = 0.5) -> str:
    """Make one free caption: a template, then colours, style and each keyword with a probability that `keep` sets.

    Finer than `captions_for`, whose eight variants are fixed; use it where texts are encoded as they come.

    Example:
        "red heart", "an emoji of a red heart, red", "a red heart in the style of twemoji: love"
    """
    if not {"keywords", "artist", "colors"} <= row.keys():
        return row_variants(row)[int(torch.randint(VARIANTS, (), generator=generator))]
    words = row["keywords"]
    chance = torch.rand(4 + len(words), generator=generator).tolist()
    named = with_article(row["text"])
    text = [row["text"], named, f"an emoji of {named}", f"a picture of {named}"][int(chance[0] * 4) % 4]
    if chance[1] < keep * 0.5:
        text = colored(row["text"], row["colors"], adjective=_takes_adjective(row))
    elif chance[1] < keep and _unsaid(text, row["colors"]):
        text += f", {listed(_unsaid(text, row['colors']))}"
    if chance[2] < keep * 0.5:
        text += f" in the style of {STYLES.get(row['artist'], row['artist'])}"
    kept = [word for word, c in zip(words, chance[4:], strict=True) if c < keep and word not in text]
    return f"{text}: {', '.join(kept[:4])}" if kept and chance[3] < keep else text

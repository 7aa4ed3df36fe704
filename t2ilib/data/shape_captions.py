"""What a caption says of a scene of shapes, in words and back: a small grammar with eight phrasings of everything.

The categories are those of GenEval (Ghosh et al. 2023, "GenEval: an object-focused framework for evaluating
text-to-image alignment", section 3): one object, two objects, count, colour, position, and binding (its "attribute
binding": two colours, each with its own object).
"""

import re
from dataclasses import dataclass

from .phrases import with_article
from .shapes import COLORS, SHAPES
from ..errors import BadParameter

CATEGORIES = ("one object", "two objects", "count", "colour", "position", "binding")
RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
NUMBERS = {"two": 2, "three": 3, "four": 4}


@dataclass(frozen=True)
class Description:
    """What a caption says.

    Attributes:
        category: one of `CATEGORIES`.
        objects: (shape, colour or None) of each kind that is named, in the caption's order.
        count: how many there are of the only kind; 1 in all other categories.
        relation: where the first object is, seen from the second; None unless the category is "position".
    """

    category: str
    objects: tuple[tuple[str, str | None], ...]
    count: int = 1
    relation: str | None = None

    def __str__(self) -> str:
        return phrasings(self)[0]


def plural(shape: str) -> str:
    """Return a shape's plural: "circles", "crosses"."""
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def _noun_phrase(shape: str, color: str | None) -> str:
    """Return "a circle", or "an orange circle"."""
    return with_article(f"{color} {shape}" if color else shape)


def phrasings(description: Description) -> list[str]:
    """Return the eight captions of a description; the first is the plainest.

    Example:
        Description("position", (("circle", None), ("star", None)), relation="left of") ->
        "a circle left of a star", "a star right of a circle", ...
    """
    shape, color = description.objects[0]
    if description.category == "count":
        return _of_count(description.count, shape)
    if description.category == "position":
        return _of_position(description)
    first = _noun_phrase(shape, color)
    if len(description.objects) == 1:
        return _of_one(shape, color, first)
    return _of_two(description, first)


def _of_count(count: int, shape: str) -> list[str]:
    word = {number: word for word, number in NUMBERS.items()}[count]
    counted = f"{word} {plural(shape)}"
    return [counted, f"a picture of {counted}", f"{count} {plural(shape)}", f"a drawing of {counted}",
            f"there are {counted}", f"{counted} on white", f"exactly {counted}", f"a group of {counted}"]


def _of_one(shape: str, color: str | None, phrase: str) -> list[str]:
    captions = [phrase, f"a picture of {phrase}", f"a drawing of {phrase}", f"there is {phrase}", f"{phrase} on white"]
    if color is None:
        return [*captions, shape, f"one {shape}", f"exactly one {shape}"]
    plain = with_article(shape)
    return [*captions, f"{color} {shape}", f"{plain} in {color}", f"{plain} that is {color}"]


def _of_two(description: Description, first: str) -> list[str]:
    second = _noun_phrase(*description.objects[1])
    captions = [f"{first} and {second}", f"{second} and {first}", f"a picture of {first} and {second}",
                f"a drawing of {second} and {first}", f"{first} together with {second}",
                f"{second} together with {first}"]
    if description.category == "two objects":
        return [*captions, f"both {first} and {second}", f"there is {second}, and there is {first}"]
    adjectives_last = [f"{with_article(shape)} in {color}" for shape, color in description.objects]
    clauses = [f"{with_article(shape)} that is {color}" for shape, color in description.objects]
    return [*captions, " and ".join(adjectives_last), " and ".join(reversed(clauses))]


def _of_position(description: Description) -> list[str]:
    relation = description.relation
    first, second = (with_article(shape) for shape, _ in description.objects)
    other = OPPOSITE[relation]
    if relation in ("left of", "right of"):
        side = relation.removesuffix(" of")
        other_side = other.removesuffix(" of")
        long, other_long = f"to the {relation}", f"to the {other}"
        places = [f"{first} on the {side} and {second} on the {other_side}",
                  f"on the {other_side} {second}, on the {side} {first}"]
    else:
        long = {"above": "over", "below": "under"}[relation]
        other_long = {"above": "over", "below": "under"}[other]
        place, other_place = ("top", "bottom") if relation == "above" else ("bottom", "top")
        places = [f"{first} at the {place} and {second} at the {other_place}",
                  f"at the {other_place} {second}, at the {place} {first}"]
    return [f"{first} {relation} {second}", f"{second} {other} {first}", f"a picture of {first} {relation} {second}",
            f"a drawing of {second} {other} {first}", f"{first} {long} {second}", f"{second} {other_long} {first}",
            *places]


_FRAME = re.compile(r"^(a (picture|drawing|group) of|there (is|are)|exactly|both|one|an?|the)\s+")
_END = re.compile(r"\s+on (a )?white( ground| background)?$")
# Words between two objects, and where the first then is, seen from the second; longer ones before their parts.
_BETWEEN = {
    "to the left of": "left of", "to the right of": "right of", "left of": "left of", "right of": "right of",
    "above": "above", "over": "above", "below": "below", "under": "below",
    "together with": None, ", and": None, "and": None, ",": None,
}
_PLACE = {"on the left": "left of", "on the right": "right of", "at the top": "above", "at the bottom": "below"}
_PLACES = re.compile("|".join(_PLACE))
_SHAPE_OF = {name: shape for shape in SHAPES for name in (shape, plural(shape))}


def describe(caption: str) -> Description:
    """Return what a caption says; every caption of `phrasings` is understood, and others of the same grammar.

    Raises:
        BadParameter: If it says anything else.
    """
    text = " ".join(caption.lower().split()).rstrip(".")
    place = _PLACES.search(text)
    text = _PLACES.sub("", text)
    text = _END.sub("", " ".join(text.split()))
    parts, relation = _split_in_two(text)
    objects = []
    counts = []
    for part in parts:
        count, shape, color = _read_object(part, caption)
        counts.append(count)
        objects.append((shape, color))
    if place:
        # what is named first stands at the place that is named first, whether the place comes before or after it
        relation = _PLACE[place.group()]
    description = _categorized(objects, counts, relation)
    if description is None:
        raise _not_understood(caption)
    return description


def _split_in_two(text: str) -> tuple[list[str], str | None]:
    """Return the parts of a caption that name one object each, and the relation between them."""
    for words, relation in _BETWEEN.items():
        first, found, second = text.partition(words if words.startswith(",") else f" {words} ")
        if found:
            return [first.strip(" ,"), second.strip(" ,")], relation
    return [text], None


def _read_object(text: str, caption: str) -> tuple[int, str, str | None]:
    """Read "a picture of three circles", "an orange star" or "a star in orange": count, shape, colour or None."""
    while _FRAME.match(text):
        text = _FRAME.sub("", text, count=1)
    text = re.sub(r"^(\S+) (?:in|that is) (\S+)$", r"\2 \1", text)  # the colour first
    words = text.split()
    count = 1
    if len(words) == 2 and (words[0] in NUMBERS or words[0] in ("2", "3", "4")):
        count = NUMBERS.get(words[0]) or int(words[0])
        words = words[1:]
    color = words[0] if len(words) == 2 else None
    is_known = 1 <= len(words) <= 2 and words[-1] in _SHAPE_OF and (color is None or color in COLORS)
    if not is_known:
        raise _not_understood(caption)
    return count, _SHAPE_OF[words[-1]], color


def _categorized(objects: list[tuple[str, str | None]], counts: list[int], relation: str | None) -> Description | None:
    """Return the description that these parts make, or None if the grammar has no such category."""
    has_colors = [color is not None for _, color in objects]
    if len(objects) == 1:
        if counts[0] > 1:
            return None if has_colors[0] else Description("count", tuple(objects), counts[0])
        return Description("colour" if has_colors[0] else "one object", tuple(objects)) if not relation else None
    if max(counts) > 1 or objects[0][0] == objects[1][0]:
        return None
    if relation:
        return None if any(has_colors) else Description("position", tuple(objects), relation=relation)
    if all(has_colors):
        return Description("binding", tuple(objects))
    return None if any(has_colors) else Description("two objects", tuple(objects))


def _not_understood(caption: str) -> BadParameter:
    return BadParameter(f"the caption {caption!r} is not of the grammar of shapes; say such as 'a red circle', 'three "
                        f"stars', 'a heart left of a ring' or 'a red circle and a blue star', with the shapes "
                        f"{', '.join(SHAPES)} and the colours {', '.join(COLORS)}.")

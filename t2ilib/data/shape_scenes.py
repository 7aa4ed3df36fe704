"""The set "shapes": scenes of coloured shapes with captions, drawn by chance from a seed, some never for training.

A *fact* is what a scene can show: a shape in a colour, a number of shapes of a kind, a pair of shapes in one picture,
or a shape left of or above another. Every fact belongs to one split, by a fixed rule (`split_of`). Scenes for training
show facts of training alone. Each scene of `validation` and `held_out` shows one fact of its own split, the one that
its category is about, and otherwise facts of training. So a model that draws a held-out scene right has put together
what it never saw together.
"""

import functools
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

from .records import Record
from .shape_captions import CATEGORIES, OPPOSITE, RELATIONS, Description, phrasings
from .shapes import COLORS, SHAPES, UNITS, Thing, draw_scene, relations_between
from ..errors import check_name
from ..runtime import derived_seed

SPLITS = {"train": 6000, "validation": 600, "held_out": 600}  # and how many pictures each has
GAP = 12  # units between two shapes at least
MARGIN = 6  # units to the border at least
_SIZES = {1: (36, 80), 2: (32, 52), 3: (28, 40), 4: (28, 40)}  # of shapes in units, by how many there are
_STEP = 4  # units between two sizes

Fact = tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """Shapes at their places, and what a caption says of them."""

    description: Description
    things: tuple[Thing, ...]


def color_fact(shape: str, color: str) -> Fact:
    """Return the fact that a shape has a colour."""
    return ("colour", shape, color)


def count_fact(count: int, shape: str) -> Fact:
    """Return the fact that there are so many shapes of a kind."""
    return ("count", str(count), shape)


def pair_fact(first: str, second: str) -> Fact:
    """Return the fact that two shapes are in one picture."""
    return ("pair", *sorted((first, second)))


def relation_fact(first: str, relation: str, second: str) -> Fact:
    """Return the fact that `first` is there, seen from `second`; "right of" and "below" are turned round."""
    if relation in ("right of", "below"):
        return ("relation", second, OPPOSITE[relation], first)
    return ("relation", first, relation, second)


@functools.cache
def split_of(fact: Fact) -> str:
    """Return the split that a fact belongs to: "train", "validation" or "held_out".

    With the places i, j of shapes in `SHAPES` and c of a colour in `COLORS`, counted from 0, these are held out
    (and for validation):

    - colour: (c - i) mod 10 is 0 or 5: 16 of 80 (2: 8)
    - count n: (n + i) mod 5 is 0: 5 of 24 (1: 4)
    - pair, i < j: (i + 2 j) mod 7 is 0: 4 of 28 (1: 4)
    - relation of i to j: (i + 2 j) mod 7 is 0 for "left of", 4 for "above": 9 of 80 (1 and 5: 10), and all relations of
      a pair that is not for training
    """
    kind, *parts = fact
    shapes = list(SHAPES)
    if kind == "colour":
        rest = (list(COLORS).index(parts[1]) - shapes.index(parts[0])) % 10
        return {0: "held_out", 5: "held_out", 2: "validation"}.get(rest, "train")
    if kind == "count":
        rest = (int(parts[0]) + shapes.index(parts[1])) % 5
    elif kind == "pair":
        i, j = sorted((shapes.index(parts[0]), shapes.index(parts[1])))
        rest = (i + 2 * j) % 7
    else:
        of_pair = split_of(pair_fact(parts[0], parts[2]))
        if of_pair != "train":
            return of_pair
        turn = 3 if parts[1] == "above" else 0
        rest = (shapes.index(parts[0]) + 2 * shapes.index(parts[2]) + turn) % 7
    return {0: "held_out", 1: "validation"}.get(rest, "train")


def facts_of(things: Sequence[Thing]) -> set[Fact]:
    """Return all facts that a scene shows, whatever its caption says of them."""
    facts = {color_fact(thing.shape, thing.color) for thing in things}
    for first, second in combinations(things, 2):
        if first.shape == second.shape:
            facts.add(count_fact(len(things), first.shape))
            continue
        facts.add(pair_fact(first.shape, second.shape))
        for relation in relations_between(first, second):
            facts.add(relation_fact(first.shape, relation, second.shape))
    return facts


# Which kinds of fact a scene of a category tests, and how many of them are not for training in the other splits.
_TESTED = {"one object": ("colour",), "colour": ("colour",), "binding": ("colour",), "count": ("count",),
           "two objects": ("pair", "relation"), "position": ("relation",)}


def _belongs_to(facts: set[Fact], category: str, split: str) -> bool:
    """Return whether a scene of a category that shows these facts may stand in a split."""
    untrained = [fact for fact in facts if split_of(fact) != "train"]
    if split == "train" or not untrained:
        return split == "train" and not untrained
    kinds = [fact[0] for fact in untrained]
    tested = _TESTED[category]
    is_one = kinds.count(tested[0]) == 1 and set(kinds) <= set(tested)
    return is_one and all(split_of(fact) == split for fact in untrained)


def scene_at(index: int, split: str, *, seed: int = 0) -> Scene:
    """Return one scene of a split; each index has its own random numbers, so any part of the set can be made alone.

    Six scenes in turn, beginning with a multiple of six, are of the six categories in random order.

    Raises:
        UnknownName: If the split is not one of train, validation, held_out.
    """
    check_name("split of the shapes", split, SPLITS)
    block, place = divmod(index, len(CATEGORIES))
    order = random.Random(derived_seed(seed, "shapes", split, "block", block)).sample(CATEGORIES, len(CATEGORIES))
    category = order[place]
    rng = random.Random(derived_seed(seed, "shapes", split, index))
    while True:
        description, painted = _draw_description(category, rng)
        things = _place(painted, description.relation, rng)
        if things and _belongs_to(facts_of(things), category, split):
            return Scene(description, things)


def _draw_description(category: str, rng: random.Random) -> tuple[Description, list[tuple[str, str]]]:
    """Return what a caption of a category says, and shape and colour of all that is to be drawn for it."""
    shapes = rng.sample(list(SHAPES), 2)
    colors = rng.sample(list(COLORS), 2)
    if category == "count":
        count = rng.randint(2, 4)
        return Description(category, ((shapes[0], None),), count), [(shapes[0], colors[0])] * count
    number = 1 if category in ("one object", "colour") else 2
    painted = list(zip(shapes, colors, strict=True))[:number]
    if category in ("colour", "binding"):
        objects = tuple(painted)
    else:
        objects = tuple((shape, None) for shape, _ in painted)
    relation = rng.choice(RELATIONS) if category == "position" else None
    return Description(category, objects, relation=relation), painted


def _place(painted: Sequence[tuple[str, str]], relation: str | None, rng: random.Random) -> tuple[Thing, ...]:
    """Return things of random size at random places with gaps between them, or none where they found no room.

    Args:
        relation: of the first to the second, and no other one; None is any.
    """
    smallest, largest = _SIZES[len(painted)]
    things: list[Thing] = []
    for shape, color in painted:
        for _ in range(20):
            size = rng.randrange(smallest, largest + 1, _STEP)
            nearest = MARGIN + size // 2
            x = rng.randint(nearest, UNITS - nearest)
            y = rng.randint(nearest, UNITS - nearest)
            thing = Thing(shape, color, x, y, size)
            if all(_gap(thing, other) >= GAP for other in things):
                things.append(thing)
                break
        else:
            return ()
    if relation and relations_between(*things) != [relation]:
        return ()
    return tuple(things)


def _gap(first: Thing, second: Thing) -> float:
    """Return the distance between the squares of two things, in units, along the axis on which it is larger."""
    apart = max(abs(first.x - second.x), abs(first.y - second.y))
    return apart - (first.size + second.size) / 2


def shape_records(split: str, *, count: int | None = None, seed: int = 0) -> Iterator[Record]:
    """Yield the set's records one by one; a picture is drawn when it is decoded, at the size that is asked for.

    Args:
        split: one of `SPLITS`, or "all" for one after another.
        count: how many of each split, of which there is no end; None is as many as `SPLITS` says.

    Raises:
        UnknownName: If the split is not one of train, validation, held_out, all.
    """
    check_name("split of the shapes", split, [*SPLITS, "all"])
    for part in SPLITS if split == "all" else [split]:
        for index in range(SPLITS[part] if count is None else count):
            yield _record(scene_at(index, part, seed=seed), part, index)


def _record(scene: Scene, split: str, index: int) -> Record:
    captions = phrasings(scene.description)
    name = f"{split}/{index:06d}"
    columns = {"id": name, "name": captions[0], "family": captions[0], "group": scene.description.category,
               "captions": captions, "split": split, "things": [asdict(thing) for thing in scene.things]}
    return Record(f"shapes, {name}", functools.partial(draw_scene, scene.things), captions[0], columns)

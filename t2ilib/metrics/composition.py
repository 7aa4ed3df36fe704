"""Does a picture of shapes show what its caption says? Shares by category, without a network.

The categories and the questions are those of GenEval (Ghosh et al. 2023), whose detector and colour classifier are
replaced by an exact parser. Beside each share stands that of exact pictures, which show nothing else either.
"""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from .alignment import bootstrap_interval, wilson_interval
from .shape_parser import Found, parse_shapes
from ..data.shape_captions import CATEGORIES, Description, describe
from ..data.shapes import relations_between
from ..errors import BadParameter

OVERALL = "all categories"


def is_shown(caption: str | Description, picture: Tensor | Sequence[Found]) -> dict[str, bool]:
    """Return whether a picture shows what a caption says, by category.

    Args:
        caption: of the grammar of shapes, or what it says.
        picture: (3, S, S) in [0, 1], or what `parse_shapes` found in one.

    Returns:
        The caption's own category and those that it contains: "colour" contains "one object", "position" and "binding"
        contain "two objects". As in GenEval, further objects do no harm there, except to "count". Last comes "exact":
        the caption's own category holds, and there is nothing else, known or unknown.

    Raises:
        BadParameter: If the caption is not of the grammar, or the picture has a wrong shape or range.
    """
    description = describe(caption) if isinstance(caption, str) else caption
    found = parse_shapes(picture) if isinstance(picture, Tensor) else list(picture)
    shapes = Counter(thing.shape for thing in found)
    painted = Counter((thing.shape, thing.color) for thing in found)
    category = description.category
    answers = {}
    if category == "count":
        answers[category] = shapes[description.objects[0][0]] == description.count
    else:
        number = "one object" if len(description.objects) == 1 else "two objects"
        answers[number] = all(shapes[shape] > 0 for shape, _ in description.objects)
    if category in ("colour", "binding"):
        answers[category] = all(painted[kind] > 0 for kind in description.objects)
    if category == "position":
        answers[category] = _is_in_place(description, found)
    expected = description.count * len(description.objects)
    answers["exact"] = answers[category] and len(found) == expected
    return answers


def _is_in_place(description: Description, found: Sequence[Found]) -> bool:
    """Return whether any pair of the two shapes stands in the relation."""
    (first_shape, _), (second_shape, _) = description.objects
    for first in found:
        for second in found:
            if first.shape == first_shape and second.shape == second_shape:
                if description.relation in relations_between(first, second):
                    return True
    return False


def composition(captions: Sequence[str], pictures: Tensor | Sequence[Tensor], *, level: float = 0.95, seed: int = 0,
                groups: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Return how many pictures show what their captions say, by category.

    Args:
        captions: one for each picture, of the grammar of shapes.
        pictures: each (3, S, S) in [0, 1].
        level: coverage of the intervals: by bootstrap, and where all pictures agree, Wilson's for as many as there are
            groups.
        seed: of the bootstrap.
        groups: a label for each picture; whole groups are drawn for the intervals. None: pictures whose captions say
            the same are one group.

    Returns:
        Category -> n, the number of pictures; shown, the share in which the caption's category holds, and its interval
        low, high; exact, the share that shows nothing else either, with exact_low, exact_high; shuffled, the share
        shown of each caption by the other pictures of its category, the mean over all such pairs (not a number where
        there is one picture). Only categories that occur; last "all categories", the mean over these, GenEval's
        overall score.

    Raises:
        BadParameter: If the numbers differ or are 0, a caption is not of the grammar, or a picture is bad.
    """
    if len(captions) != len(pictures) or not len(captions) or (groups is not None and len(groups) != len(captions)):
        raise BadParameter(f"need one caption and one group for each picture, got {len(captions)} captions and "
                           f"{len(pictures)} pictures.")
    descriptions = [describe(caption) for caption in captions]
    found = [parse_shapes(picture) for picture in pictures]
    labels = [str(description) for description in descriptions] if groups is None else list(groups)
    answers = [is_shown(*pair) for pair in zip(descriptions, found, strict=True)]
    shown = torch.tensor([float(answer[of.category]) for of, answer in zip(descriptions, answers, strict=True)])
    exact = torch.tensor([float(answer["exact"]) for answer in answers])
    of_row = torch.tensor([CATEGORIES.index(description.category) for description in descriptions])
    table = {}
    for index in of_row.unique().tolist():  # in the order of CATEGORIES
        rows = (of_row == index).nonzero().flatten().tolist()
        row = _shares(shown[rows], exact[rows], [labels[i] for i in rows], of_row[rows], level, seed)
        row["shuffled"] = _shuffled([descriptions[i] for i in rows], [found[i] for i in rows])
        table[CATEGORIES[index]] = row
    overall = _shares(shown, exact, labels, of_row, level, seed)
    overall["shuffled"] = sum(row["shuffled"] for row in table.values()) / len(table)
    table[OVERALL] = overall
    return table


def _shares(shown: Tensor, exact: Tensor, labels: list[str], of_row: Tensor, level: float,
            seed: int) -> dict[str, float]:
    """Return the shares of pictures of one or several categories, all categories counting alike, with intervals."""
    row: dict[str, float] = {"n": len(shown)}
    for name, values in {"shown": shown, "exact": exact}.items():
        with_category = torch.stack([values, of_row.float()], dim=1)  # (N, 2)
        if (values == values[0]).all():  # whatever is drawn anew agrees, too
            share = values[0].item()
            low, high = wilson_interval(share, len(set(labels)), level=level)
        else:
            share, low, high = bootstrap_interval(with_category, level=level, seed=seed, groups=labels,
                                                  statistic=_mean_of_categories)
        prefix = "" if name == "shown" else f"{name}_"
        row |= {name: share, f"{prefix}low": low, f"{prefix}high": high}
    return row


def _mean_of_categories(values: Tensor) -> Tensor:
    """Return the mean of the categories' means, given values with the number of their category (n, 2)."""
    category = values[:, 1].long()
    counts = torch.bincount(category)
    sums = torch.bincount(category, weights=values[:, 0])
    present = counts > 0
    return (sums[present] / counts[present]).mean()


def _shuffled(descriptions: list[Description], found: list[list[Found]]) -> float:
    """Return the share of pairs of a caption and another picture of its category that fit."""
    category = descriptions[0].category
    fitting = 0
    for i, description in enumerate(descriptions):
        for j, things in enumerate(found):
            if i != j:
                fitting += is_shown(description, things)[category]
    pairs = len(found) * (len(found) - 1)
    return fitting / pairs if pairs else math.nan

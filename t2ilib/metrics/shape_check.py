"""What a method that was trained on the shapes puts together: one table, of seen and of unseen combinations.

Every notebook that trains on the shapes ends with `keep_composition`, so that its rows mean the same everywhere. The
categories are those of GenEval (Ghosh et al. 2023).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from .composition import OVERALL, composition, is_shown
from .shape_parser import parse_shapes
from ..data import CaptionedImages, load_captioned
from ..data.shape_captions import CATEGORIES, describe
from ..data.shape_scenes import SPLITS, shape_records
from ..errors import BadParameter
from ..media import to_unit
from ..record import Run
from ..show import Table, grid

COMPOSITION = "composition"  # the table's name in the folder of a run
COLUMNS = ("n", "shown", "exact", "shuffled", "real", "through codes")
BOUNDS = {"shown": ("low", "high"), "exact": ("exact_low", "exact_high")}
SCENES = min(SPLITS.values())  # so many from the beginning of each split are looked at
MOST = SCENES // len(CATEGORIES)  # of these are of each category
_AT_ONCE = 32  # captions that a method draws in one call

Draw = Callable[[list[str]], Tensor]


def composition_rows(asked: Mapping[str, CaptionedImages], drawn: Mapping[str, Tensor], *,
                     through: Callable[[Tensor], Tensor] | None = None, seed: int = 0) -> dict[str, dict[str, float]]:
    """Return the rows of the table: how many drawn pictures show what their captions say, and what to compare it with.

    Args:
        asked: split -> pictures of the shapes with their captions, at the size that was drawn (`asked_shapes`).
        drawn: split -> one picture for each of these captions, (N, 3, S, S) in [0, 1].
        through: what a method's codes leave of pictures (B, 3, S, S) in [0, 1], in the same form: the most that it can
            reach. None where there are no codes.
        seed: of the intervals.

    Returns:
        "split: category" -> what `composition` says of the drawn pictures; real, the share of the real pictures of
        the same captions that show them; "through codes", the same for what the codes leave of them.

    Raises:
        BadParameter: the splits or the numbers of captions and pictures differ. What `composition` raises.
    """
    if set(asked) != set(drawn):
        raise BadParameter(f"need drawn pictures of the splits that are asked for, {', '.join(asked)}; got "
                           f"{', '.join(drawn) or 'none'}")
    rows = {}
    for split, data in asked.items():
        real = to_unit(data.batch(torch.arange(len(data)))).cpu()
        baselines = {"real": shown_shares(data.captions, real)}
        if through is not None:
            parts = [through(part) for part in real.split(_AT_ONCE)]
            baselines["through codes"] = shown_shares(data.captions, torch.cat(parts))
        table = composition(data.captions, drawn[split], seed=seed, groups=data.columns["name"])
        for category, row in table.items():
            for name, shares in baselines.items():
                row[name] = shares[category]
            rows[f"{split}: {category}"] = row
    return rows


def shown_shares(captions: Sequence[str], pictures: Tensor) -> dict[str, float]:
    """Return the share of pictures (N, 3, S, S) in [0, 1] that show their captions, by category, and the mean of these.

    The same shares as those of `composition`, without intervals.
    """
    answers: dict[str, list[bool]] = {}
    for caption, picture in zip(captions, pictures, strict=True):
        description = describe(caption)
        answer = is_shown(description, parse_shapes(picture))[description.category]
        answers.setdefault(description.category, []).append(answer)
    shares = {category: sum(found) / len(found) for category, found in answers.items()}
    return shares | {OVERALL: sum(shares.values()) / len(shares)}


def keep_composition(run: Run, draw: Draw, *, count: int, held_out: bool = False,
                     through: Callable[[Tensor], Tensor] | None = None, seed: int = 0) -> dict[str, dict[str, float]]:
    """Let a method draw captions of the shapes, and keep the table and a row of pictures for each split in its run.

    Captions of `train` are scenes of training. Those of `validation` and `held_out` name what no training picture
    shows: choices are made on `validation`, and `held_out` is for what is published.

    Args:
        run: gets tables/composition.csv, figures/composition_SPLIT.png, and the mean of all categories as a metric.
        draw: at most 32 captions -> one picture of each, (B, 3, S, S) in [0, 1].
        count: captions of each category and split, as many of them as there are; 0 is 100.
        held_out: whether `held_out` is asked as well.
        through, seed: as for `composition_rows`; the seed is named below the table.

    Returns:
        The rows, as of `composition_rows`.

    Raises:
        BadParameter: a count below 0. What `composition` raises.
    """
    if count < 0:
        raise BadParameter(f"count must be 0 or more captions of each category, got {count}")
    count = min(count or MOST, MOST)
    splits = ["train", "validation"]
    if held_out:
        splits.append("held_out")
    asked = {}
    drawn = {}
    for split in splits:
        captions = list(different_captions(split, count).values())
        parts = [draw(captions[i:i + _AT_ONCE]).cpu() for i in range(0, len(captions), _AT_ONCE)]
        drawn[split] = torch.cat(parts)
        asked[split] = asked_shapes(split, count, image_size=drawn[split].shape[-1])
        few = slice(len(CATEGORIES))  # one of each
        run.keep(f"{COMPOSITION}_{split}", grid(drawn[split][few], captions[few], columns=len(CATEGORIES)))
    rows = composition_rows(asked, drawn, through=through, seed=seed)
    run.keep(COMPOSITION, composition_table(rows, seed=seed))
    for split in splits:
        run.metric(**{f"{split}_shown": rows[f"{split}: {OVERALL}"]["shown"]})
    return rows


def different_captions(split: str, count: int) -> dict[int, str]:
    """Return what a split is asked for, no caption twice: number of the scene -> one of its eight phrasings.

    Few facts are for validation alone (four numbers of a shape, say), and a method answers equal captions with equal
    pictures. So a fact that comes again is asked in other words, and a category may have fewer than `count` captions.
    """
    captions: dict[int, str] = {}
    used: set[str] = set()
    of_category: Counter[str] = Counter()
    for number, record in enumerate(shape_records(split, count=SCENES)):
        category = record.columns["group"]
        unused = [text for text in record.columns["captions"] if text not in used]
        if unused and of_category[category] < count:
            captions[number] = unused[0]
            used.add(unused[0])
            of_category[category] += 1
        if len(captions) == count * len(CATEGORIES):
            break
    return captions


def asked_shapes(split: str, count: int, *, image_size: int = 64) -> CaptionedImages:
    """Return the real pictures of `different_captions`, with these captions; the column `name` is the same for captions
    that say the same.
    """
    captions = different_captions(split, count)
    scenes = load_captioned("shapes", split=split, image_size=image_size, limit=max(captions) + 1)
    chosen = scenes.select(list(captions))
    return CaptionedImages(chosen.images, list(captions.values()), chosen.columns, name=chosen.name)


def composition_table(rows: Mapping[str, Mapping[str, float]], *, seed: int) -> Table:
    """Return the rows of `composition_rows` as a table to look at and to keep."""
    columns = [name for name in COLUMNS if any(name in row for row in rows.values())]
    note = (f"one picture of each caption, seed {seed}; 95 % intervals over what captions say; shuffled: by pictures "
            "of other captions of the category; real: by real pictures of the same size")
    if "through codes" in columns:
        note += "; through codes: by real pictures, encoded and decoded"
    return Table(rows, columns=columns, note=note, digits=2, intervals=BOUNDS)

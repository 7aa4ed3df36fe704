"""Coloured shapes are what their captions say, and training never sees what is held out."""

from collections import Counter
from itertools import combinations, islice, permutations

import numpy as np
import pytest
import torch

from t2ilib.data import load_captioned
from t2ilib.data.augment import mirror_chances
from t2ilib.data.captions import caption_table
from t2ilib.data.colors import oklab
from t2ilib.data.shape_captions import (
    CATEGORIES,
    OPPOSITE,
    RELATIONS,
    Description,
    describe,
    phrasings,
)
from t2ilib.data.shape_scenes import (
    GAP,
    MARGIN,
    SPLITS,
    color_fact,
    count_fact,
    facts_of,
    pair_fact,
    relation_fact,
    scene_at,
    shape_records,
    split_of,
)
from t2ilib.data.shapes import COLORS, SHAPES, UNITS, Thing, color_table, coverage, draw_scene, relations_between
from t2ilib.errors import BadParameter, UnknownName

FINGERPRINT = "d6a36fc87ecbb1f3540c8f9d8497dd1bec7834923ca49eedde1bb6e4749465d2"


def scenes(split, count):
    return [scene_at(index, split) for index in range(count)]


def told_one_way(description):
    """Return a description in which the order of two objects no longer matters."""
    if description.relation in ("right of", "below"):
        return Description("position", description.objects[::-1], relation=OPPOSITE[description.relation])
    if description.category in ("two objects", "binding"):
        return Description(description.category, tuple(sorted(description.objects, key=str)))
    return description


def all_descriptions():
    for shape in SHAPES:
        yield Description("one object", ((shape, None),))
        for count in (2, 3, 4):
            yield Description("count", ((shape, None),), count)
        for color in COLORS:
            yield Description("colour", ((shape, color),))
    for first, second in permutations(SHAPES, 2):
        yield Description("two objects", ((first, None), (second, None)))
        yield Description("binding", ((first, "orange"), (second, "blue")))
        for relation in RELATIONS:
            yield Description("position", ((first, None), (second, None)), relation=relation)


def test_colors_are_well_apart():
    colors = torch.from_numpy(np.concatenate([color_table(), oklab(np.ones((1, 3)))]))  # white, too
    distances = torch.pdist(colors)
    assert distances.min() > 0.17


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_fill_their_square_and_stay_inside(shape):
    inner = coverage(shape, 80, 80, 128, 160)  # the square is 16 .. 144
    assert inner[16:144, 16:144].sum() == inner.sum()
    assert inner.any(1).sum() >= 0.88 * 128
    assert inner.any(0).sum() >= 0.8 * 128
    assert 0.3 < inner.sum() / 128 ** 2 < 0.85


def test_a_circle_has_its_area_and_no_two_shapes_are_alike():
    masks = {shape: coverage(shape, 64, 64, 128, 128) for shape in SHAPES}
    assert masks["circle"].mean() == pytest.approx(np.pi / 4, abs=1e-3)
    for first, second in combinations(SHAPES, 2):
        overlap = np.minimum(masks[first], masks[second]).sum() / np.maximum(masks[first], masks[second]).sum()
        assert overlap < 0.85


@pytest.mark.parametrize("image_size", [16, 32, 64, 96, 128, 300])
def test_a_scene_is_the_same_picture_at_every_size(image_size):
    things = [Thing("heart", "red", 37, 41, 50), Thing("star", "blue", 91, 80, 45)]
    picture = draw_scene(things, image_size)
    assert picture.shape == (image_size, image_size, 3)
    large = torch.from_numpy(draw_scene(things, 4 * image_size)).float().permute(2, 0, 1)
    averaged = torch.nn.functional.avg_pool2d(large, 4).permute(1, 2, 0)
    assert (averaged - torch.from_numpy(picture).float()).abs().max() <= 16  # one of eight rows of samples, and half
    assert tuple(picture[0, 0]) == (255, 255, 255)


def test_unknown_shapes_and_colors_are_refused():
    with pytest.raises(UnknownName, match="hart.*heart"):
        draw_scene([Thing("hart", "red", 64, 64, 40)], 64)
    with pytest.raises(UnknownName, match="reed.*red"):
        draw_scene([Thing("heart", "reed", 64, 64, 40)], 64)


def test_relations_follow_the_larger_offset():
    middle = Thing("circle", "red", 64, 64, 20)

    def seen(x, y):
        return relations_between(Thing("star", "blue", x, y, 20), middle)

    assert seen(20, 64) == ["left of"]
    assert seen(100, 70) == ["right of"]
    assert seen(64, 20) == ["above"]
    assert seen(30, 100) == ["left of", "below"]
    assert seen(66, 62) == []  # closer than a tenth of both sizes


def test_every_caption_is_understood():
    for description in all_descriptions():
        captions = phrasings(description)
        assert len(set(captions)) == 8
        for caption in captions:
            assert told_one_way(describe(caption)) == told_one_way(description), caption
    assert describe("An orange star.") == Description("colour", (("star", "orange"),))
    assert describe("one circle, a ring") == Description("two objects", (("circle", None), ("ring", None)))


@pytest.mark.parametrize("caption", ["", "a", "red", "a cat", "a red red circle", "three red circles", "five circles",
                                     "a circle and a circle", "a circle left of", "a circle and a square and a ring",
                                     "two circles and a ring", "a circle on the left", "a red circle and a ring"])
def test_other_captions_are_refused(caption):
    with pytest.raises(BadParameter, match="grammar of shapes"):
        describe(caption)


def test_splits_of_facts():
    colors = Counter(split_of(color_fact(shape, color)) for shape in SHAPES for color in COLORS)
    counts = Counter(split_of(count_fact(count, shape)) for shape in SHAPES for count in (2, 3, 4))
    pairs = Counter(split_of(pair_fact(*pair)) for pair in combinations(SHAPES, 2))
    relations = Counter(split_of(relation_fact(first, relation, second)) for first, second in permutations(SHAPES, 2)
                        for relation in ("left of", "above") if split_of(pair_fact(first, second)) == "train")
    assert colors == {"train": 56, "validation": 8, "held_out": 16}
    assert counts == {"train": 15, "validation": 4, "held_out": 5}
    assert pairs == {"train": 20, "validation": 4, "held_out": 4}
    assert relations == {"train": 61, "validation": 10, "held_out": 9}
    assert relation_fact("star", "right of", "ring") == relation_fact("ring", "left of", "star")
    # a trained shape is seen in every place and in most colours
    for shape in SHAPES:
        for relation in RELATIONS:
            trained = [other for other in SHAPES if other != shape
                       and split_of(relation_fact(shape, relation, other)) == "train"]
            assert len(trained) >= 2
        assert sum(split_of(color_fact(shape, color)) == "train" for color in COLORS) == 7


@pytest.mark.parametrize("split", SPLITS)
def test_scenes_show_what_their_split_may_show(split):
    tested = {"one object": "colour", "colour": "colour", "binding": "colour", "count": "count",
              "two objects": "pair", "position": "relation"}
    for scene in scenes(split, 300):
        facts = facts_of(scene.things)
        untrained = {fact for fact in facts if split_of(fact) != "train"}
        if split == "train":
            assert not untrained
            continue
        assert {split_of(fact) for fact in untrained} == {split}
        kind = tested[scene.description.category]
        assert sum(fact[0] == kind for fact in untrained) == 1


def test_scenes_are_as_described_and_keep_their_distance():
    for scene in scenes("train", 600):
        description = scene.description
        assert len(scene.things) == description.count * len(description.objects)
        for thing, (shape, color) in zip(scene.things, description.objects * description.count, strict=True):
            assert thing.shape == shape
            assert color in (None, thing.color)
            assert MARGIN <= min(thing.x, thing.y) - thing.size / 2
            assert max(thing.x, thing.y) + thing.size / 2 <= UNITS - MARGIN
        if description.relation:
            assert relations_between(*scene.things) == [description.relation]
        for first, second in combinations(scene.things, 2):
            apart = max(abs(first.x - second.x), abs(first.y - second.y))
            assert apart - (first.size + second.size) / 2 >= GAP
    assert Counter(scene.description.category for scene in scenes("train", 60)) == dict.fromkeys(CATEGORIES, 10)


def test_the_set_is_deterministic_and_other_seeds_differ():
    assert scene_at(17, "train") == scene_at(17, "train")
    assert scene_at(17, "train") != scene_at(17, "train", seed=1)
    records = list(shape_records("train", count=40))
    assert [record.text for record in records[:10]] == [record.text for record in islice(shape_records("train"), 10)]
    # fixed, so that a trained network's training data stays what it was
    data = load_captioned("shapes", split="held_out", image_size=32, limit=100)
    assert data.fingerprint() == FINGERPRINT


def test_it_loads_like_other_sets():
    data = load_captioned("shapes", split="validation", image_size=64)
    assert len(data) == 600
    assert data.images.shape == (600, 3, 64, 64)
    assert set(data.columns["split"]) == {"validation"}
    assert mirror_chances(data).tolist() == [0.0] * 600  # left and right mean something
    texts, where = caption_table(data)
    assert where.shape == (600, 8)
    assert [texts[i] for i in where[0]] == data.columns["captions"][0]
    assert len(data.spread(60).where(group="binding")) > 3
    batch = data.batch([0, 1])
    assert batch.shape == (2, 3, 64, 64)
    assert batch[0, :, 0, 0].tolist() == [1, 1, 1]
    with pytest.raises(UnknownName, match="split of the shapes"):
        load_captioned("shapes", split="test")

"""The parser reads every scene without a mistake, and does not see shapes where there are none."""

from collections import Counter

import pytest
import torch

from t2ilib.bench.shapes import (
    blur,
    draw,
    fade,
    foreign_pictures,
    jpeg,
    noise,
    recognized,
    reconstructed,
    shift,
    shrink,
    shrink_and_enlarge,
)
from t2ilib.data.shape_scenes import scene_at
from t2ilib.data.shapes import COLORS, SHAPES, Thing, draw_scene
from t2ilib.errors import BadParameter
from t2ilib.metrics.shape_parser import parse_shapes

CPU = torch.device("cpu")


def kinds(things):
    return Counter((thing.shape, thing.color) for thing in things)


def exact_share(pictures, scenes):
    exact = 0
    for picture, scene in zip(pictures, scenes, strict=True):
        exact += kinds(parse_shapes(picture)) == kinds(scene.things)
    return exact / len(scenes)


def picture_of(*things, side=64):
    return torch.from_numpy(draw_scene(things, side)).permute(2, 0, 1) / 255


@pytest.fixture(scope="module")
def scenes():
    """Scenes of another seed than those that the thresholds were chosen on."""
    return [scene_at(index, "held_out", seed=11) for index in range(40)]


@pytest.mark.parametrize("side", [32, 64, 128])
def test_scenes_are_read_without_a_mistake(scenes, side):
    assert exact_share(draw(scenes, side), scenes) == 1


@pytest.mark.slow
@pytest.mark.parametrize("side", [32, 64, pytest.param(128, marks=pytest.mark.long)])
def test_a_thousand_scenes_are_read_without_a_mistake(side):
    scenes = [scene_at(index, "train", seed=12) for index in range(1000)]
    assert exact_share(draw(scenes, side), scenes) == 1


def test_places_and_sizes_are_those_of_the_scene(scenes):
    for picture, scene in zip(draw(scenes, 64), scenes, strict=True):
        found = parse_shapes(picture)
        for thing in scene.things:
            nearest = min(found, key=lambda other: abs(other.x - thing.x) + abs(other.y - thing.y))
            assert abs(nearest.x - thing.x) < 0.5
            assert abs(nearest.y - thing.y) < 0.5
            assert nearest.size == pytest.approx(thing.size, rel=0.05)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_in_every_color(shape):
    for color in COLORS:
        found = parse_shapes(picture_of(Thing(shape, color, 60, 70, 48)))
        assert kinds(found) == {(shape, color): 1}


@pytest.mark.parametrize("perturb, strength", [
    (noise, 0.1), (blur, 2), (shift, 0.06), (fade, 0.05), (jpeg, 20), (shrink, 32), (shrink, 24),
    (shrink_and_enlarge, 32),
], ids=lambda value: getattr(value, "__name__", str(value)))
def test_slightly_worse_pictures_are_read_without_a_mistake(scenes, perturb, strength):
    assert exact_share(perturb(draw(scenes[:24], 128), strength), scenes[:24]) == 1


def test_what_a_vqgan_makes_of_scenes_is_read(scenes):
    assert exact_share(reconstructed("emoji-vqgan-128", draw(scenes[:12], 128), CPU), scenes[:12]) == 1


def test_what_is_no_shape_is_not_taken_for_one():
    foreign = foreign_pictures(24)
    for kind in ("white", "black", "uniform noise", "noise on white", "coarse noise"):
        assert not any(recognized(parse_shapes(picture)) for picture in foreign[kind]), kind
    assert parse_shapes(foreign["white"][0]) == []
    believed = [bool(recognized(parse_shapes(picture))) for picture in foreign["emoji"]]
    assert sum(believed) <= 2  # some emoji are plain circles, hearts or crosses


def test_unknown_things_are_reported_as_unknown():
    bar = torch.ones(3, 64, 64)
    bar[:, 30:34, 8:56] = 0  # a long black bar
    found = parse_shapes(bar)
    assert [(thing.shape, thing.color) for thing in found] == [(None, None)]
    circle = picture_of(Thing("circle", "red", 64, 64, 60))
    turquoise = circle[[1, 0, 0]]
    assert [(thing.shape, thing.color) for thing in parse_shapes(turquoise)] == [("circle", None)]
    halves = torch.where(torch.arange(64) < 32, circle, picture_of(Thing("circle", "blue", 64, 64, 60)))
    assert recognized(parse_shapes(halves)) == []


def test_a_dark_ground_is_no_scene():
    inverted = 1 - picture_of(Thing("circle", "red", 64, 64, 60))
    assert [thing.shape for thing in parse_shapes(inverted)] == [None]


@pytest.mark.parametrize("bad", [torch.zeros(1, 3, 64, 64), torch.zeros(3, 64, 32), torch.full((3, 64, 64), -1.0),
                                 torch.full((3, 64, 64), float("nan")), "a.png"])
def test_bad_pictures_are_refused(bad):
    with pytest.raises(BadParameter, match="picture of shapes"):
        parse_shapes(bad)

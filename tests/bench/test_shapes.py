"""The benchmark of the parser runs from end to end, and its perturbations do what they say."""

import pytest
import torch

from t2ilib.bench.shapes import PERTURBATIONS, blur, draw, fade, noise, scene_rows, shapes_rows, shift, shrink
from t2ilib.data.shape_scenes import scene_at

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scenes():
    return [scene_at(index, "train", seed=3) for index in range(2)]


def test_perturbations(scenes):
    pictures = draw(scenes, 64)
    assert (noise(pictures[:, :, 20:30] * 0 + 0.5, 0.1) - 0.5).std().item() == pytest.approx(0.1, rel=0.1)
    assert fade(torch.zeros(1), 0.3).item() == pytest.approx(0.3)
    moved = shift(torch.full((2, 3, 4, 4), 0.5), 0.1) - 0.5
    assert moved.abs().max() <= 0.1
    assert torch.equal(moved, moved[..., :1, :1].expand_as(moved))
    torch.testing.assert_close(blur(pictures, 2).mean((2, 3)), pictures.mean((2, 3)), rtol=0, atol=1e-3)
    assert shrink(pictures, 16).shape == (2, 3, 16, 16)
    for perturb, strengths in PERTURBATIONS.items():
        worse = perturb(pictures, strengths[0])
        assert 0 <= worse.min() and worse.max() <= 1


def test_rows_tell_mistakes_from_what_is_unknown(scenes):
    one, other = scenes
    drawn = draw([one, one, one], 64)
    drawn[2] = 0  # all black: nothing is recognized, and nothing mistaken
    rows = {row.metric: row.p50 for row in scene_rows("three", drawn, [one, other, one], CPU)}
    assert rows["exact"] == pytest.approx(1 / 3, abs=1e-3)
    assert rows["mistaken"] == pytest.approx(1 / 3, abs=1e-3)


@pytest.mark.slow
def test_the_benchmark_runs():
    rows = list(shapes_rows(CPU, 0, scenes=1, others=1))
    assert {row.metric for row in rows} == {"exact", "mistaken", "share with a shape"}
    assert all(0 <= row.p50 <= 1 for row in rows)

"""KID, precision and recall on features of photographs: what they see, and what is kept of the reference."""

import pytest
import torch
from torch.nn import functional as F

from t2ilib.data import load_captioned
from t2ilib.errors import BadParameter
from t2ilib.media import to_unit
from t2ilib.metrics import eyes as module
from t2ilib.metrics.eyes import Eyes, lite_features, load_eyes


@pytest.fixture(scope="module")
def drawings():
    data = load_captioned("emoji", split="train", image_size=128, limit=250)
    order = torch.randperm(250, generator=torch.Generator().manual_seed(0))
    return data.select(order[:200]), data.select(order[200:])


@pytest.fixture(scope="module")
def eyes(drawings, tmp_path_factory) -> Eyes:
    return load_eyes(drawings[0], cache=tmp_path_factory.mktemp("cache"))


def pictures_of(data):
    return to_unit(data.batch(torch.arange(len(data))))


def test_other_drawings_look_real_and_damaged_ones_do_not(eyes, drawings):
    x = pictures_of(drawings[1])
    stream = torch.Generator().manual_seed(0)
    grain = x + 0.02 * torch.randn(x.shape, generator=stream)
    small = F.interpolate(x, (32, 32), mode="area")
    soft = F.interpolate(small, (128, 128), mode="bicubic").clamp(0, 1)
    real, *damaged = (eyes.report(eyes.features(images)) for images in (x, grain, soft))
    assert real["n"] == 50 and real["low"] <= real["precision"] <= real["high"] and 0 < real["recall"] <= 1
    assert real["precision"] > 0.75 and real["kid"] < 0.1 and real["kid_low"] < real["kid"] < real["kid_high"]
    for row in damaged:
        assert row["precision"] < real["precision"] - 0.1 and row["kid"] > real["kid"] + 0.1


def test_a_row_of_a_table_is_the_report_under_its_names(eyes, drawings):
    features = eyes.features(pictures_of(drawings[1])[:6])
    names = list("abcdef")
    report = eyes.report(features, groups=names)
    assert eyes.row(features, names) == {"KID-lite2": report["kid"], "precision": report["precision"],
                                         "recall": report["recall"], "KID_low": report["kid_low"],
                                         "KID_high": report["kid_high"], "precision_low": report["low"],
                                         "precision_high": report["high"]}


def test_each_seed_is_compared_by_itself(eyes, drawings):
    features = eyes.features(pictures_of(drawings[1])[:24])
    names = list("abcdefgh")
    once = eyes.report(features[:8], groups=names)
    thrice = eyes.report(features[:8].repeat(3, 1), groups=names * 3, seeds=[s for s in range(3) for _ in names])
    assert thrice["n"] == 24
    for name in ("kid", "kid_low", "kid_high", "precision", "recall"):
        assert thrice[name] == pytest.approx(once[name])
    assert eyes.report(features[:8].repeat(3, 1))["kid"] > once["kid"] + 0.1  # copies are no other pictures
    parts = [eyes.report(part, groups=names) for part in features.split(8)]
    report = eyes.report(features, groups=names * 3, seeds=[s for s in range(3) for _ in names])
    for name in ("kid", "precision", "recall"):
        assert report[name] == pytest.approx(sum(part[name] for part in parts) / 3)


def test_a_row_finds_the_seeds_whatever_the_order(eyes, drawings):
    x = eyes.features(pictures_of(drawings[1])[:16])
    names = list("abcdefgh")
    by_seed = eyes.row(x, names * 2)
    by_name = eyes.row(x.unflatten(0, (2, 8)).transpose(0, 1).flatten(0, 1), [name for name in names for _ in range(2)])
    assert by_name == pytest.approx(by_seed)


def test_the_reference_is_kept_by_the_hash_of_its_pictures(eyes, drawings, tmp_path, monkeypatch):
    few = drawings[0].select(range(12))
    first = load_eyes(few, cache=tmp_path)
    assert first.reference.features.shape == (12, 1280) and first.reference.radii.shape == (12,)
    assert not eyes.features(pictures_of(few)).requires_grad
    torch.testing.assert_close(first.reference.features, eyes.reference.features[:12], atol=1e-3, rtol=1e-3)

    def fail(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(module, "_reference", fail)
    again = load_eyes(few, cache=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again.reference, first.reference, strict=True))
    with pytest.raises(AssertionError, match="computed again"):
        load_eyes(few.select(range(11)), cache=tmp_path)


def test_pictures_of_any_size_are_looked_at_as_they_are_saved(eyes):
    class Means:
        def features(self, x):
            assert x.shape[1:] == (3, 128, 128)
            torch.testing.assert_close(x * 255, (x * 255).round(), atol=1e-4, rtol=0)
            return x.mean((2, 3))

    plain = torch.tensor([0.2, 0.4, 1.0]).view(1, 3, 1, 1)
    for height, width in ((128, 128), (64, 64), (200, 120), (40, 256)):
        found = lite_features(Means(), plain.expand(3, 3, height, width) + 0.0005)
        torch.testing.assert_close(found, torch.tensor([0.2, 0.4, 1.0]).expand(3, 3))


def test_too_few_pictures_are_refused(eyes):
    with pytest.raises(BadParameter, match="more than k = 5"):
        eyes.report(torch.zeros(5, 1280))
    with pytest.raises(BadParameter, match="more than k = 5"):
        eyes.report(torch.zeros(10, 1280), seeds=[0] * 5 + [1] * 5)

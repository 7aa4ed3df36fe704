"""The standard metrics follow their papers, and load the format in which Inception's weights are published."""

import math

import pytest
import torch
from torch.nn import functional as F

from t2ilib.encoders import load_clip
from t2ilib.errors import BadParameter, CheckpointMismatch, MissingAsset
from t2ilib.metrics import standard
from t2ilib.metrics.standard import cmmd, inception_score, load_inception, standard_report


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file in the published format, with random weights."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Untrained(FeatureExtractorInceptionV3):
        def load_state_dict(self, state, strict=True):
            return None

    path = tmp_path_factory.mktemp("inception") / standard.INCEPTION.files[0].name
    torch.manual_seed(0)
    empty = path.with_name("empty.pth")
    torch.save({}, empty)
    network = Untrained("inception", standard.LAYERS, feature_extractor_weights_path=str(empty))
    torch.save(network.state_dict(), path)
    return path


def pictures(count, seed=0):
    return torch.rand(count, 3, 20, 20, generator=torch.Generator().manual_seed(seed))


def test_inception_score_of_sure_and_different_classes_is_their_number():
    logits = 50 * torch.eye(4).repeat(3, 1)  # (12, 4)
    mean, deviation = inception_score(logits, splits=1)
    assert mean == pytest.approx(4, rel=1e-6) and deviation == 0
    assert inception_score(torch.zeros(12, 4), splits=3)[0] == pytest.approx(1)
    with pytest.raises(BadParameter, match="each of 10 splits"):
        inception_score(torch.zeros(4, 4))


def test_cmmd_is_the_papers_formula_one_pair_at_a_time():
    generator = torch.Generator().manual_seed(0)
    a = F.normalize(torch.randn(5, 8, generator=generator), dim=1)
    b = F.normalize(torch.randn(7, 8, generator=generator), dim=1)

    def mean_kernel(x, y):
        values = [math.exp(-(p - q).square().sum().item() / 200) for p in x for q in y]
        return sum(values) / len(values)

    expected = 1000 * (mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b))
    assert cmmd(a, b) == pytest.approx(expected, rel=1e-4)
    assert cmmd(a, a) == pytest.approx(0, abs=1e-9)


def test_weights_load_and_pictures_are_read_in_eight_bits(weights):
    inception = load_inception(weights)
    fake, real = pictures(2), pictures(2, seed=1)
    report = standard_report(fake, real, inception=inception, batch_size=1)
    assert report["n"] == 2 and report["n_real"] == 2
    assert {"FID", "KID", "KID_deviation", "IS", "IS_deviation"} < set(report)
    with torch.no_grad():
        pooled, logits = inception.network((fake * 255).round().byte())
    found = inception.features(fake)
    torch.testing.assert_close(found.pooled, pooled)
    torch.testing.assert_close(found.logits, logits)
    assert found.pooled.shape == (2, 2048) and found.logits.shape == (2, 1008)


def test_clip_metrics_need_a_prompt_for_each_picture():
    clip = load_clip("emoji-clip-student")
    fake = pictures(3)
    report = standard_report(fake, pictures(4, seed=1), ["a heart", "a car", "a fish"], clip=clip, cmmd_clip=clip)
    expected = 100 * clip.similarity(fake, ["a heart", "a car", "a fish"]).clamp(min=0).mean().item()
    assert report["CLIP_score"] == pytest.approx(expected)
    assert report["CMMD"] > 0 and report["n_real"] == 4 and "FID" not in report
    with pytest.raises(BadParameter, match="for each of 3 pictures, got 1"):
        standard_report(fake, fake, ["a heart"], clip=clip)


def test_what_is_missing_or_wrong_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MissingAsset, match="weights-inception-2015-12-05"):
        load_inception()
    other = tmp_path / "other.pth"
    torch.save({"conv.weight": torch.zeros(1)}, other)
    with pytest.raises(CheckpointMismatch, match="is not weights-inception"):
        load_inception(other)
    other.write_bytes(b"no weights")
    with pytest.raises(CheckpointMismatch, match="cannot be read"):
        load_inception(other)

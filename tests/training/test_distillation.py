"""Losses of distillation, by loops and by known values, and what a step and a report say."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from t2ilib.errors import BadParameter, UnknownName
from t2ilib.training import make_fabric
from t2ilib.training.distillation import TowerBatch, TowerTraining, embedding_report
from t2ilib.training.losses import (
    affinity_loss,
    contrastive_loss,
    cosine_loss,
    distillation_loss,
    embedding_mse,
)


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_a_perfect_student_pays_nothing():
    targets = unit(6, 16)
    assert embedding_mse(targets, targets) == 0
    assert cosine_loss(3 * targets, targets).item() == pytest.approx(0, abs=1e-6)
    assert affinity_loss(3 * targets, targets, unit(9, 16, seed=1)).item() == pytest.approx(0, abs=1e-6)


def test_mse_of_unit_vectors_is_cosine():
    features, targets = unit(5, 64), unit(5, 64, seed=1)
    cosine = (features * targets).sum(1).mean()
    assert embedding_mse(features, targets).item() == pytest.approx((2 - 2 * cosine.item()) / 64, rel=1e-5)
    assert cosine_loss(features, targets).item() == pytest.approx(1 - cosine.item(), rel=1e-5)


def test_affinity_by_loops():
    features, targets, bank = torch.randn(4, 8), unit(4, 8), unit(5, 8, seed=2)
    total = 0.0
    for s, t in zip(features, targets, strict=True):
        p = (7 * bank @ t).softmax(0)
        q = (7 * bank @ F.normalize(s, dim=0)).softmax(0)
        total += (p * (p / q).log()).sum()
    torch.testing.assert_close(affinity_loss(features, targets, bank, 7.0), total / 4)


def test_contrastive_by_loops_and_equal_answers_do_not_compete():
    features, targets, bank = torch.randn(4, 8), unit(4, 8), unit(5, 8, seed=2)
    candidates = torch.cat([targets, bank])
    expected = F.cross_entropy(7 * F.normalize(features, dim=1) @ candidates.T, torch.arange(4))
    torch.testing.assert_close(contrastive_loss(features, targets, bank, 7.0), expected)
    with_copy = torch.cat([bank, targets[:1]])
    torch.testing.assert_close(contrastive_loss(features[:1], targets[:1], with_copy, 7.0),
                               contrastive_loss(features[:1], targets[:1], bank, 7.0))


def test_weighted_sum():
    features, targets, bank = torch.randn(4, 8), unit(4, 8), unit(5, 8, seed=2)
    total = distillation_loss(features, targets, {"mse": 2.0, "affinity": 0.5}, bank)
    expected = 2 * embedding_mse(features, targets) + 0.5 * affinity_loss(features, targets, bank)
    torch.testing.assert_close(total, expected)
    with pytest.raises(UnknownName, match="distillation loss"):
        distillation_loss(features, targets, {"msee": 1.0})
    with pytest.raises(BadParameter, match="bank"):
        distillation_loss(features, targets, {"affinity": 1.0})
    with pytest.raises(BadParameter, match="at least one"):
        distillation_loss(features, targets, {})


def test_steps_bring_a_student_to_its_teacher():
    torch.manual_seed(0)
    training = TowerTraining(nn.Linear(12, 8), make_fabric(), weights={"cosine": 1.0, "affinity": 1.0},
                             bank=unit(6, 8), learning_rate=0.03, ema_decay=0.5)
    x = torch.randn(64, 12)
    targets = F.normalize(x @ torch.randn(12, 8), dim=1)
    losses = [training.step(TowerBatch((x,), targets)).item() for _ in range(60)]
    assert losses[-1] < 0.2 * losses[0]


def test_a_step_says_how_long_its_gradient_was():
    torch.manual_seed(0)
    tower = nn.Linear(12, 8)
    training = TowerTraining(tower, make_fabric(), weights={"mse": 500.0}, learning_rate=0.0)
    batch = TowerBatch((torch.randn(4, 12),), unit(4, 8))
    gradients = torch.autograd.grad(training.loss(batch), tower.parameters())
    expected = torch.stack([gradient.norm() for gradient in gradients]).norm()
    training.step(batch)
    clipped = torch.stack([p.grad.norm() for p in tower.parameters()]).norm()
    torch.testing.assert_close(training.gradient_norm, expected)
    assert expected > 2 and clipped < 1.01


def test_report_of_a_constant_is_zero_and_of_the_teacher_one():
    targets = F.normalize(unit(200, 16) + 1, dim=1)
    mean = targets.mean(0)
    constant = embedding_report(mean.expand_as(targets), targets, mean)
    assert constant["r2"] == pytest.approx(0, abs=1e-6) and constant["mse"] == constant["constant mse"]
    expected = (1 - mean.square().sum().item()) / 16
    assert constant["constant mse"] == pytest.approx(expected, rel=1e-4)
    perfect = embedding_report(targets, targets, mean)
    assert perfect["r2"] == 1 and perfect["centred cosine"] == pytest.approx(1, abs=1e-5)

import math

import pytest
import torch

from t2ilib.errors import BadParameter
from t2ilib.training import losses


def test_critic_losses_equal_hand_computed_values():
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 0.5])
    assert losses.hinge_critic_loss(real, fake).item() == pytest.approx(0.5 * (0.5 + 0.75))
    on_real = (math.log1p(math.exp(-2)) + math.log(2)) / 2
    on_fake = (math.log1p(math.exp(-3)) + math.log1p(math.exp(0.5))) / 2
    expected = 0.5 * (on_real + on_fake)
    assert losses.logistic_critic_loss(real, fake).item() == pytest.approx(expected)
    assert losses.generator_score_loss(fake).item() == pytest.approx(1.25)
    assert losses.hinge_critic_loss(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3)).item() == pytest.approx(1)


def test_critic_losses_equal_taming():
    from taming.modules.losses.vqperceptual import hinge_d_loss, vanilla_d_loss

    real, fake = torch.randn(2, 4, 1, 6, 6).unbind()
    torch.testing.assert_close(losses.hinge_critic_loss(real, fake), hinge_d_loss(real, fake))
    torch.testing.assert_close(losses.logistic_critic_loss(real, fake), vanilla_d_loss(real, fake))


def test_adaptive_weight_balances_the_gradients_and_keeps_the_graph():
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 3)
    y = layer(torch.randn(5, 4))
    reconstruction, score = y.square().mean(), 7 * y.mean()
    weight = losses.adaptive_weight(reconstruction, score, layer.weight, eps=0.0)
    assert not weight.requires_grad
    pulls = (torch.autograd.grad(v, layer.weight, retain_graph=True)[0] for v in (reconstruction, weight * score))
    norms = [pull.norm() for pull in pulls]
    torch.testing.assert_close(*norms)
    (reconstruction + weight * score).backward()
    assert losses.adaptive_weight(layer.weight.sum(), 0 * layer.weight.sum(), layer.weight, maximum=10.0) == 10


def test_feature_loss_ignores_contrast_and_measures_directions():
    a = torch.randn(2, 8, 5, 5, requires_grad=True)
    assert losses.feature_loss([a], [3 * a.detach()]).item() == pytest.approx(0, abs=1e-6)
    assert losses.feature_loss([a], [-a.detach()]).item() == pytest.approx(4, rel=1e-5)
    orthogonal = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])]
    assert losses.feature_loss(orthogonal[:1], orthogonal[1:]).item() == pytest.approx(2)
    mixed = losses.feature_loss([a, orthogonal[0]], [-a.detach(), orthogonal[1]])
    assert mixed.item() == pytest.approx(3, rel=1e-5)  # the mean over layers
    target = torch.randn(2, 8, 5, 5, requires_grad=True)
    losses.feature_loss([a], [target]).backward()
    assert a.grad.abs().sum() > 0 and target.grad is None
    with pytest.raises(BadParameter, match="got 1 and 0"):
        losses.feature_loss([a], [])


def test_generator_losses_at_a_discriminator_that_is_sure():
    logit = torch.tensor([-10.0], dtype=torch.float64)

    def slope(loss):
        return torch.autograd.functional.jacobian(loss, logit).item()

    assert slope(losses.saturating_generator_loss) == pytest.approx(-1 / (1 + math.exp(10)))  # 4.5e-5
    assert slope(losses.nonsaturating_generator_loss) == pytest.approx(-1 / (1 + math.exp(-10)))  # 0.99995
    assert losses.saturating_generator_loss(logit).item() == pytest.approx(math.log(1 - 1 / (1 + math.exp(10))))


def test_smoothed_relativistic_and_wasserstein_losses_equal_hand_computed_values():
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 0.5])
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    expected = 0.5 * (bce(real, torch.full_like(real, 0.9)) + bce(fake, torch.zeros_like(fake)))
    torch.testing.assert_close(losses.logistic_critic_loss(real, fake, real_label=0.9), expected)
    pairs = (math.log1p(math.exp(-5)) + math.log1p(math.exp(0.5))) / 2
    assert losses.relativistic_loss(real, fake).item() == pytest.approx(pairs)
    assert losses.relativistic_loss(fake, real) > losses.relativistic_loss(real, fake)
    assert losses.wasserstein_critic_loss(real, fake).item() == pytest.approx(-1.25 - 1)


def test_gradient_penalty_is_exact_on_a_linear_critic():
    w = torch.randn(3, 4, 4, dtype=torch.float64, requires_grad=True)
    real, fake = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64)
    penalty = losses.gradient_penalty(lambda x: (x * w).sum((1, 2, 3)), real, fake, torch.rand(5))
    norm = w.detach().norm()
    torch.testing.assert_close(penalty.detach(), (norm - 1) ** 2)
    penalty.backward()
    torch.testing.assert_close(w.grad, 2 * (norm - 1) * w.detach() / norm)
    r1 = losses.zero_centred_penalty(lambda x: (x * w).sum((1, 2, 3)), real)
    torch.testing.assert_close(r1.detach(), 0.5 * norm**2)


def test_gradient_penalty_is_none_of_the_famous_wrong_ones():
    torch.manual_seed(0)
    critic = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(16, 1))
    real, fake, alpha = 3 * torch.randn(6, 3, 4, 4), 3 * torch.randn(6, 3, 4, 4), torch.rand(6)

    def naive(alpha, dims):
        x = (alpha * real + (1 - alpha) * fake).requires_grad_()
        gradient, = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        return (torch.linalg.vector_norm(gradient, dim=dims) - 1).square().mean()

    one_each = alpha.view(-1, 1, 1, 1)
    right = losses.gradient_penalty(critic, real, fake, alpha)
    torch.testing.assert_close(right, naive(one_each, (1, 2, 3)))
    assert (right - naive(one_each, 1)).abs() > 0.01  # a norm for each pixel
    assert (right - naive(torch.rand(6, 3, 4, 4), (1, 2, 3))).abs() > 1e-4  # an alpha for each pixel


def test_gradient_penalty_is_safe_at_zero_in_any_precision_and_leaves_the_generator_alone():
    critic, fake = torch.nn.Linear(4, 1), torch.randn(3, 4, requires_grad=True)
    torch.nn.init.zeros_(critic.weight)
    with torch.autocast("cpu", torch.bfloat16):
        penalty = losses.gradient_penalty(critic, torch.randn(3, 4), fake, torch.rand(3))
    assert penalty.item() == pytest.approx(1, abs=1e-5) and penalty.dtype == torch.float32
    penalty.backward()
    assert critic.weight.grad.isfinite().all() and fake.grad is None
    for wrong in (torch.rand(2), torch.rand(3, 1)):
        with pytest.raises(BadParameter, match="an alpha for each pair"):
            losses.gradient_penalty(critic, torch.randn(3, 4), fake, wrong)

"""Steps of generator and critic: each is its formula, leaves the other side alone, and waits for no number."""

import copy

import pytest
import torch
from torch.testing import assert_close

from t2ilib.errors import BadParameter, UnknownName
from t2ilib.models.digit_gans import ConvCritic, ConvGenerator, LinearDiscriminator, LinearGenerator
from t2ilib.training import GanRule, critic_step, gan_step, generator_step, gradient_norm, losses
from t2ilib.training.adversarial import CRITIC_LOSSES, critic_loss, generator_loss

RULES = {"saturating": GanRule("saturating"), "smooth": GanRule(real_label=0.9), "hinge": GanRule("hinge"),
         "r1, r2": GanRule("relativistic", r1=0.5, r2=0.5), "penalty": GanRule("wasserstein", penalty=10.0),
         "lazy": GanRule("wasserstein", penalty=10.0, penalty_every=4, one_pass=True)}
READS = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__")


def pair(kind="convolutional"):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "linear":
            return (LinearGenerator(latent_dim=8, widths=(16, 24), image_size=8),
                    LinearDiscriminator(widths=(16,), image_size=8))
        return ConvGenerator(latent_dim=8, ch=8, image_size=8), ConvCritic(ch=8, image_size=8)


def sgd(network, lr=0.1):
    return torch.optim.SGD(network.parameters(), lr=lr)


@pytest.fixture
def real():
    return torch.rand(6, 1, 8, 8) * 2 - 1


@pytest.mark.parametrize("kind", ["linear", "convolutional"])
@pytest.mark.parametrize("name", RULES)
def test_a_step_reads_no_number_and_trains_both(real, monkeypatch, name, kind):
    generator, critic = pair(kind)
    before = [[p.clone() for p in network.parameters()] for network in (generator, critic)]
    optimizers = [torch.optim.Adam(network.parameters(), lr=1e-3, fused=True) for network in (generator, critic)]
    z, alpha = torch.randn(6, 8), torch.rand(6) if RULES[name].penalty else None
    with monkeypatch.context() as patch:
        for reads in READS:
            patch.setattr(torch.Tensor, reads, lambda self, *a, **kw: pytest.fail("waits for the device"))
        step = gan_step(RULES[name], generator, critic, *optimizers, real, z, alpha=alpha)
    values = [step.critic.loss, step.critic.on_real, step.critic.on_fake, step.generator.loss,
              step.generator.at_pictures]
    assert all(value.isfinite().all() and not value.requires_grad for value in values)
    for old, network in zip(before, (generator, critic), strict=True):  # differences of scores need no last bias
        assert all(p.ndim == 1 or not torch.equal(p, q) for p, q in zip(old, network.parameters(), strict=True))


@pytest.mark.parametrize("name", RULES)
def test_a_step_is_its_formula(real, name):
    rule, z, alpha = RULES[name], torch.randn(6, 8), torch.rand(6)
    generator, critic = pair()
    other_generator, other_critic = copy.deepcopy(generator), copy.deepcopy(critic)
    step = gan_step(rule, generator, critic, sgd(generator), sgd(critic), real, z,
                    alpha=alpha if rule.penalty else None)

    fake = other_generator(z)
    on_real, on_fake = other_critic(real), other_critic(fake.detach())
    loss = critic_loss(rule, on_real, on_fake)
    if rule.penalty:
        loss = loss + rule.penalty * rule.penalty_every * losses.gradient_penalty(other_critic, real, fake, alpha)
    for weight, x in ((rule.r1, real), (rule.r2, fake)):
        loss = loss + weight * losses.zero_centred_penalty(other_critic, x)
    optimizer = sgd(other_critic)
    loss.backward(inputs=list(other_critic.parameters()))
    optimizer.step()
    optimizer = sgd(other_generator)
    learned = generator_loss(rule, other_critic(fake), on_real)
    learned.backward(inputs=list(other_generator.parameters()))
    optimizer.step()

    assert_close(step.critic.loss, loss.detach())
    assert_close(step.generator.loss, learned.detach())
    assert (step.critic.penalty is not None) == (rule.penalty > 0)
    for ours, formula in ((generator, other_generator), (critic, other_critic)):
        for a, b in zip(ours.state_dict().values(), formula.state_dict().values(), strict=True):
            assert_close(a, b)
        assert_close(gradient_norm(ours), torch.cat([p.grad.flatten() for p in formula.parameters()]).norm())


def test_the_critic_s_step_does_not_reach_the_generator(real):
    generator, critic = pair()
    fake = generator(torch.randn(6, 8))
    critic_step(GanRule(), critic, sgd(critic), real, fake)
    assert all(p.grad is None for p in generator.parameters())
    kept = [p.grad.clone() for p in critic.parameters()]
    generator_step(GanRule(), generator, critic, sgd(generator), fake)
    assert all(torch.equal(p.grad, old) for p, old in zip(critic.parameters(), kept, strict=True))


def test_one_pass_and_two_give_equal_scores(real):
    fake = torch.rand(6, 1, 8, 8)
    steps = []
    for one_pass in (False, True):
        _, critic = pair()
        steps.append(critic_step(GanRule("wasserstein", one_pass=one_pass), critic, sgd(critic), real, fake))
    assert_close(steps[0].on_real, steps[1].on_real)
    assert_close(steps[0].on_fake, steps[1].on_fake)


def test_losses_are_computed_in_full_precision(real):
    generator, critic = pair()
    step = gan_step(GanRule("wasserstein", penalty=1.0), generator, critic, sgd(generator), sgd(critic), real,
                    torch.randn(6, 8), alpha=torch.rand(6), dtype=torch.bfloat16)
    assert {step.critic.loss.dtype, step.critic.on_fake.dtype, step.critic.penalty.dtype} == {torch.float32}
    generator, critic = (network.double() for network in pair())
    step = gan_step(GanRule(), generator, critic, sgd(generator), sgd(critic), real.double(),
                    torch.randn(6, 8).double())
    assert step.critic.loss.dtype == step.generator.loss.dtype == torch.float64


def test_rules_are_checked():
    assert [GanRule(penalty=1.0, penalty_every=3).penalty_due(k) for k in range(4)] == [True, False, False, True]
    assert not GanRule().penalty_due(0)
    with pytest.raises(UnknownName, match="did you mean hinge"):
        GanRule("hinges")
    for wrong in (dict(r1=-1.0), dict(penalty_every=0), dict(loss="hinge", real_label=0.9)):
        with pytest.raises(BadParameter):
            GanRule(**wrong)
    with pytest.raises(BadParameter, match="on_real"):
        generator_loss(GanRule("relativistic"), torch.zeros(2))
    assert {generator_loss(GanRule(name), torch.zeros(2), torch.zeros(2)).ndim for name in CRITIC_LOSSES} == {0}

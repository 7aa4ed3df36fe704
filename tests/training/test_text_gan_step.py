"""A step of a text-conditional GAN: which pairs are right, who gets gradients, and what the terms cost."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from t2ilib.errors import BadParameter
from t2ilib.models.gigagan import GigaDiscriminator, GigaGenerator
from t2ilib.training import load_training, save_training
from t2ilib.training.gan_augment import MOST, AdaptiveProbability, draw_augmentation
from t2ilib.training.text_gan_step import (
    TextGanBatch,
    TextGanRule,
    TextGanTraining,
    contrastive_gradient,
    contrastive_loss,
    mismatch,
    says_generated,
    says_real,
)

SMALL = dict(image_size=16, widths=(16, 16, 8), attention=(8,), heads=2, text_dim=12)


@pytest.mark.parametrize("concepts", [[0, 1, 2, 3], [5, 5, 1, 2], [7, 7, 8, 8], [0, 0, 0, 1, 2, 3], list(range(33))])
def test_every_picture_has_the_text_of_another_concept(concepts):
    concepts = torch.tensor(concepts)
    found = set()
    for seed in range(20):
        others = mismatch(concepts, torch.Generator().manual_seed(seed))
        assert sorted(others.tolist()) == list(range(len(concepts)))
        assert (concepts[others] != concepts).all()
        found.add(tuple(others.tolist()))
    assert len(found) > 1


def test_a_batch_of_one_concept_cannot_be_mismatched():
    with pytest.raises(BadParameter, match="of 3 texts 2 name one concept"):
        mismatch(torch.tensor([4, 4, 5]), torch.Generator())


def batch(count=4, **changes):
    torch.manual_seed(2)
    text = (torch.randn(count, 5, 12), torch.ones(count, 5, dtype=torch.bool), torch.randn(count, 12))
    others = mismatch(torch.arange(count), torch.Generator().manual_seed(0))
    clip_text = F.normalize(torch.randn(count, 7), dim=1)
    values = dict(real=torch.randn(count, 3, 16, 16).clamp(-1, 1), text=text, z=torch.randn(count, 6),
                  wrong=text[2][others], clip_text=clip_text)
    return TextGanBatch(**{**values, **changes})


def training(rule=None, **changes):
    torch.manual_seed(0)
    generator = GigaGenerator(**SMALL, latent_dim=6, style_dim=20, filters=2)
    discriminator = GigaDiscriminator(**SMALL, reads=(16, 8), scores=(4, 8), hidden=10)
    encoder = nn.Linear(3 * 16 * 16, 7)
    changes.setdefault("encode", lambda x: F.normalize(encoder(x.flatten(1)), dim=1))
    return TextGanTraining(generator, discriminator, rule or TextGanRule(r1_every=1), **changes)


def test_pairs_of_the_matching_aware_loss():
    """(real, its text) is real; (drawn, its text), (real, another's) and (drawn, another's) are generated."""
    seen = []

    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def pyramid(self, x):
            return [x]

        def forward(self, pictures, pooled):
            return self.scores(pictures, [pooled])[0]

        def scores(self, pictures, texts):
            for pooled in texts:
                seen.append((pictures[0].mean().item(), pooled.detach().clone()))
            return [(self.weight + pictures[0].mean((1, 2, 3)) * 0)[None]] * len(texts)

    torch.manual_seed(0)
    generator = GigaGenerator(**SMALL, latent_dim=6, style_dim=20)
    game = TextGanTraining(generator, Recorder(), TextGanRule(clip=0.0, r1=0.0))
    data = batch(real=torch.full((4, 3, 16, 16), 0.5))
    losses = game.step(data).losses
    assert list(losses) == ["real", "real, wrong text", "drawn", "drawn, wrong text", "generator"]
    pooled = data.text[2]
    is_real = [abs(mean - 0.5) < 1e-6 for mean, _ in seen]
    assert is_real == [True, True, False, False, False]
    expected = [pooled, data.wrong, pooled, data.wrong, pooled]
    for (_, found), right in zip(seen, expected, strict=True):
        assert torch.equal(found, right)
    assert (data.wrong != pooled).any(1).all()


def test_augmentation_does_not_tell_real_pictures_from_drawn_ones():
    """A generator that draws the real pictures, augmented alike, shows the discriminator the same at every size."""
    seen = []
    game = training(TextGanRule(clip=0.0, r1=0.0))
    scores = game.discriminator.scores

    def recorded(pictures, texts):
        seen.append([x.detach().clone() for x in pictures])
        return scores(pictures, texts)

    game.discriminator.scores = recorded
    alike = draw_augmentation(4, 0.8, torch.Generator().manual_seed(1))
    data = batch(augmentation=(alike, alike))
    game._judge(data, game.discriminator.pyramid(data.real))
    of_real, of_drawn = seen
    for x, y in zip(of_real, of_drawn, strict=True):
        torch.testing.assert_close(x, y)


def test_the_discriminator_learns_what_is_real_and_the_generator_gets_no_gradient_from_it():
    game = training(TextGanRule(clip=0.0, r1=0.0, matching=0.0), learning_rate=2e-3)
    before = [p.clone() for p in game.generator.parameters()]
    game.generator_optimizer.step = lambda: None
    first = game.step(batch()).losses
    for _ in range(30):
        last = game.step(batch()).losses
    assert last["real"] + last["drawn"] < first["real"] + first["drawn"] - 0.2
    assert all(torch.equal(p, q) for p, q in zip(game.generator.parameters(), before, strict=True))


def test_the_discriminator_gets_no_gradient_in_the_generators_step():
    game = training(TextGanRule(r1=0.0))
    game.discriminator_optimizer.zero_grad(set_to_none=True)
    drawn = game.generator(torch.randn(4, 6), *batch().text)
    game._draw(batch(), drawn)
    assert all(p.grad is None for p in game.discriminator.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in game.generator.parameters())


def test_the_generators_gradient_is_that_of_the_whole_loss():
    """Cut at the pictures and chunked, it equals one plain backward pass."""
    game = training(TextGanRule(r1=0.0, clip=0.7), chunk=3)
    data = batch()
    pictures = game.generator(data.z, *data.text)
    features = game.encode((pictures[0].clamp(-1, 1) + 1) / 2)
    loss = says_real(game.discriminator(pictures, data.text[2]))
    loss = loss + 0.7 * contrastive_loss(features, data.clip_text, game.rule.clip_scale)
    weights = [p for p in game.generator.parameters() if p.requires_grad]
    expected = torch.autograd.grad(loss, weights, allow_unused=True)
    game.discriminator_optimizer.step = lambda: None
    game.generator_optimizer.step = lambda: None
    game.step(data)
    for weight, gradient in zip(weights, expected, strict=True):
        if gradient is not None:
            torch.testing.assert_close(weight.grad, gradient, atol=1e-6, rtol=1e-4)


def by_pixels(pictures, targets):
    return (pictures - targets).abs().mean((1, 2, 3))


def test_the_generators_gradient_is_that_of_the_game_and_of_the_paired_distance():
    targets = torch.rand(4, 3, 16, 16)
    rule = TextGanRule(clip=0.0, r1=0.0, paired=0.3)
    game = training(rule, distance=by_pixels)
    data = batch(targets=targets)
    pictures = game.generator(data.z, *data.text)
    losses = game._draw(data, pictures)
    found = {name: p.grad for name, p in game.generator.named_parameters() if p.grad is not None}
    again = training(rule, distance=by_pixels)
    pictures = again.generator(data.z, *data.text)
    apart = by_pixels(pictures[0], targets).mean()
    (says_real(again.discriminator(pictures, data.text[2])) + 0.3 * apart).backward()
    torch.testing.assert_close(losses["paired"], apart.detach())
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, again.generator.get_parameter(name).grad, atol=1e-6, rtol=1e-4)


def test_steps_of_pairs_draw_the_targets_and_leave_the_discriminator_alone():
    torch.manual_seed(4)
    data = batch(targets=torch.rand(4, 3, 16, 16))
    game = training(TextGanRule(paired=1.0), distance=by_pixels, learning_rate=3e-3)
    judges = {name: p.clone() for name, p in game.discriminator.named_parameters()}
    first = game.step_pairs(data)["paired"]
    for _ in range(30):
        last = game.step_pairs(data)["paired"]
    assert last < 0.8 * first
    assert all(torch.equal(judges[name], p) for name, p in game.discriminator.named_parameters())
    assert not torch.equal(game.ema.model.first, training().generator.first)  # the average follows


@pytest.mark.parametrize("chunk", [1, 3, 5])
def test_the_cached_gradient_is_the_direct_one(chunk):
    torch.manual_seed(0)
    encoder = nn.Linear(48, 6).double()

    def encode(x):
        return F.normalize(encoder(x.flatten(1)), dim=1)

    pictures = torch.randn(5, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    text = F.normalize(torch.randn(5, 6, dtype=torch.float64), dim=1)
    direct = contrastive_loss(encode(pictures), text, 20.0)
    expected, = torch.autograd.grad(direct, pictures)
    value, gradient = contrastive_gradient(pictures, text, encode, 20.0, chunk=chunk)
    torch.testing.assert_close(value, direct.detach())
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)


def test_extreme_scores_keep_losses_and_gradients_finite():
    for dtype in (torch.float16, torch.bfloat16):
        scores = torch.tensor([-6e4, -100.0, 0.0, 100.0, 6e4], dtype=dtype, requires_grad=True)
        for loss in (says_real(scores), says_generated(scores)):
            gradient, = torch.autograd.grad(loss, scores)
            assert loss.isfinite() and gradient.isfinite().all()


def test_another_text_of_the_same_concept_does_not_compete():
    text = F.normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    concepts = torch.tensor([7, 7, 8, 9])
    found = contrastive_loss(text, text.clone(), 20.0, concepts)
    rows = 20.0 * text @ text.T
    losses = []
    for own, rivals in ((0, [0, 2, 3]), (1, [1, 2, 3]), (2, [0, 1, 2, 3]), (3, [0, 1, 2, 3])):
        losses.append(rows[own, rivals].logsumexp(0) - rows[own, own])
    torch.testing.assert_close(found, torch.stack(losses).mean())


def test_r1_does_not_grow_with_the_number_of_scores():
    """R1 is that of the mean score: with every score twice it is the same."""
    game = training(TextGanRule(clip=0.0, r1_every=1))
    once = game.step(batch()).losses["r1"]
    game = training(TextGanRule(clip=0.0, r1_every=1))
    scores = game.discriminator.forward
    game.discriminator.forward = lambda *inputs: scores(*inputs).repeat(2, 1)
    assert game.step(batch()).losses["r1"] == pytest.approx(once.item(), rel=1e-4)


@pytest.mark.parametrize("matching", [0.0, 1.0])
def test_a_guess_is_the_constant_score_that_loses_least(matching):
    rule = TextGanRule(matching=matching)

    def loss(score):
        score = torch.tensor(score)
        return says_real(score) + (1 + 2 * matching) * says_generated(score)

    assert loss(rule.guess) < min(loss(rule.guess - 0.1), loss(rule.guess + 0.1))
    game = training(TextGanRule(clip=0.0, matching=matching))
    for weight in game.discriminator.parameters():
        nn.init.zeros_(weight)
    on_real = game.step(batch()).on_real
    torch.testing.assert_close(on_real, torch.full_like(on_real, -rule.guess), rtol=0, atol=1e-5)


def test_lazy_r1_is_due_once_in_so_many_steps():
    game = training(TextGanRule(clip=0.0, r1_every=3))
    due = ["r1" in game.step(batch()).losses for _ in range(6)]
    assert due == [True, False, False, True, False, False]


def test_going_on_equals_not_having_stopped(tmp_path):
    game = training()
    for _ in range(2):
        game.step(batch())
    save_training(tmp_path / "s.pt", step=2, settings={}, **game.parts())
    game.step(batch())
    other = training()
    assert load_training(tmp_path / "s.pt", settings={}, **other.parts()) == 2
    other.encode = game.encode
    other.step(batch())
    for one, two in zip(game.ema.model.parameters(), other.ema.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_gan_that_grows_learns_from_small_pictures_and_then_from_large_ones():
    game = training(TextGanRule(clip=0.0))
    generator = game.generator
    start = {name: p.clone() for name, p in generator.named_parameters()}

    def moved(block):
        names = [name for name in start if name.startswith(f"blocks.{block}.")]
        return any(not torch.equal(start[name], generator.get_parameter(name)) for name in names)

    small = F.adaptive_avg_pool2d(batch().real, 8)
    game.step(batch(real=small))
    assert moved(1) and not moved(2)
    report = game.step(batch())
    assert moved(2)
    assert report.on_real.shape[0] == 3  # the same rows as if it had never grown


def test_a_term_without_its_network_is_refused():
    with pytest.raises(BadParameter, match="needs encode"):
        training(encode=None)
    with pytest.raises(BadParameter, match="needs features"):
        training(TextGanRule(features=1.0))
    with pytest.raises(BadParameter, match="network: clip needs encode=..., paired needs distance"):
        training(TextGanRule(paired=1.0), encode=None)
    with pytest.raises(BadParameter, match="batches with targets"):
        training(TextGanRule(clip=0.0, paired=1.0), distance=by_pixels).step_pairs(batch())
    with pytest.raises(BadParameter, match="paired above 0"):
        training().step_pairs(batch(targets=batch().real))
    with pytest.raises(BadParameter, match="weighs less than 0"):
        TextGanRule(clip=-1.0)


# --- augmentation -----------------------------------------------------------------------------------------------------

def test_probability_zero_changes_nothing_and_one_draw_is_the_same_at_every_size():
    x = torch.rand(6, 3, 32, 32) * 2 - 1
    nothing = draw_augmentation(6, 0.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(nothing(x), x, atol=1e-5, rtol=0)
    drawn = draw_augmentation(6, 0.8, torch.Generator().manual_seed(1))
    smooth = F.interpolate(torch.rand(6, 3, 3, 3), size=32, mode="bicubic").clamp(0, 1)
    large = F.avg_pool2d(drawn(smooth), 2)
    small = drawn(F.avg_pool2d(smooth, 2))
    assert (large - small).abs().mean() < 0.03


def test_what_enters_from_outside_is_white():
    white = torch.ones(8, 3, 16, 16)
    drawn = draw_augmentation(8, MOST, torch.Generator().manual_seed(3))
    plain = type(drawn)(drawn.affine, torch.zeros(8), torch.ones(8), torch.ones(8), torch.zeros(8, 4))
    torch.testing.assert_close(plain(white), white)


def test_a_probability_that_leaks_is_refused():
    with pytest.raises(BadParameter, match="learns to draw augmented"):
        draw_augmentation(2, 0.9, torch.Generator())


def test_augmentation_does_not_leak():
    """Two sets that differ are still told apart when augmented: an inverse exists as long as pictures are left alone.

    The most frequent brightness of augmented pictures is that of the pictures themselves, since a share of
    (1 - p) of them is not changed in it.
    """
    for value in (-0.5, 0.25):
        x = torch.full((4000, 3, 4, 4), value)
        drawn = draw_augmentation(4000, MOST, torch.Generator().manual_seed(0))
        middle = type(drawn)(drawn.affine, drawn.brightness, drawn.contrast, drawn.saturation, torch.zeros(4000, 4))
        values = middle(x)[:, 0, 1:3, 1:3].mean((1, 2))
        counts = torch.histc(values, bins=41, min=value - 1.025, max=value + 1.025)
        assert counts.argmax() == 20, "the middle bin holds the value itself"


def test_gradients_pass_through():
    x = torch.rand(4, 3, 16, 16, requires_grad=True)
    draw_augmentation(4, 0.5, torch.Generator().manual_seed(0))(x).square().sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0


def test_the_probability_follows_how_sure_the_discriminator_is():
    probability = AdaptiveProbability(pictures=100)
    for _ in range(200):
        probability.update(torch.ones(1, 10))
    assert probability.value == MOST
    for _ in range(400):
        probability.update(-torch.ones(1, 10))
    assert probability.value == 0.0
    probability.value = 0.3
    other = AdaptiveProbability()
    other.load_state_dict(probability.state_dict())
    assert other.value == 0.3


def test_a_batch_that_processes_cannot_share():
    with pytest.raises(BadParameter, match="4 pictures cannot be shared among 3"):
        batch().share(0, 3)


def test_each_process_gets_the_targets_of_its_pictures():
    targets = torch.rand(4, 3, 16, 16)
    data = batch(targets=targets)
    for rank in range(2):
        share = data.share(rank, 2)
        assert torch.equal(share.targets, targets[rank::2]) and torch.equal(share.z, data.z[rank::2])

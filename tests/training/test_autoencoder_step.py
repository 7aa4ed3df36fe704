"""A step of a VQ-VAE is its formula, its codebooks stay alive, and it goes on where it stopped."""

import copy

import pytest
import torch
from torch.testing import assert_close

from t2ilib.layers.quantize import EMACodebook
from t2ilib.models.vqvae2 import VQVAE2
from t2ilib.runtime import generator
from t2ilib.training import VQVAETraining, make_fabric

SMALL = dict(ch=8, ch_mult=[1, 2, 2], norm_groups=4, n_embed=16, embed_dim=4)


def network(levels=1):
    torch.manual_seed(0)
    return VQVAE2(**SMALL, levels=levels).train()


def pictures(count=8, seed=0):
    """Squares of one colour each, in which the corner is another's: (B, 3, 16, 16)."""
    stream = generator(seed, "pictures")
    x = (torch.rand(count, 3, 1, 1, generator=stream) * 2 - 1).expand(-1, -1, 16, 16).clone()
    x[:, :, :8, :8] = torch.rand(count, 3, 1, 1, generator=stream) * 2 - 1
    return x


@pytest.mark.parametrize("levels", [1, 2])
def test_a_step_is_its_formula(levels):
    net = network(levels)
    other = copy.deepcopy(net)
    books = [EMACodebook(quantizer) for quantizer in other.quantizers]
    x = pictures()
    training = VQVAETraining(net, make_fabric(), commitment=0.5, l1_weight=0.3, mse_weight=0.7)
    loss = training.step(x, 1e-3)

    fake, found = other(x)
    expected = 0.3 * (fake - x).abs().mean() + 0.7 * (fake - x).square().mean()
    for level in found:
        expected = expected + 0.5 * (level.z_e - level.quantized.z_q.detach()).square().mean()
    assert_close(loss, expected.detach())
    for book, level in zip(books, found, strict=True):
        book.update(level.z_e, level.quantized.codes)
    for ours, formula in zip(net.quantizers, other.quantizers, strict=True):
        assert_close(ours.table, formula.table)
    assert all(not quantizer.embedding.weight.requires_grad for quantizer in net.quantizers)


@pytest.mark.parametrize("levels", [1, 2])
def test_it_learns_and_uses_its_codes(levels):
    training = VQVAETraining(network(levels), make_fabric(), learning_rate=3e-3, ema_decay=0.9)
    losses = [training.step(pictures(8)).item() for _ in range(100)]  # of 16 colours
    assert sum(losses[-4:]) < 0.6 * sum(losses[:4])
    codes = training.ema.model.encode_codes(pictures(8))
    assert all(len(grid.unique()) >= 8 for grid in codes)


@pytest.mark.parametrize("levels", [1, 2])
def test_a_restored_training_goes_on_bit_for_bit(resumed_training, levels):
    fabric = make_fabric()

    def step(training, number, stream):
        training.step(torch.rand(4, 3, 16, 16, generator=stream) * 2 - 1)

    resumed_training(lambda: VQVAETraining(network(levels), fabric), step)

"""A step of diffusion training is its formula, draws the same for one process and two, and goes on where it stopped."""

import copy

import pytest
import torch
from torch.testing import assert_close

from t2ilib import diffusion
from t2ilib.data.text_features import EncodedTexts
from t2ilib.errors import BadParameter
from t2ilib.models.imagen_unet import ImagenUNet
from t2ilib.runtime import generator
from t2ilib.training import DiffusionTraining, draw_diffusion_batch, make_fabric

LINEAR = diffusion.Schedule("linear")


def tiny(**changes):
    """A network with two channels in each group of its norms: with one, the biases before them have no gradient."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ImagenUNet(dim=16, dim_mults=[1, 2], text_embed_dim=12, attn_heads=2, attn_dim_head=8,
                             init_kernels=[3], layer_attns=[False, True], layer_cross_attns=[False, True], **changes)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)  # layers that start at zero would hide what reaches them
    return network


def texts(count=6):
    """Texts of 1, 2, ... tokens."""
    lengths = torch.arange(1, count + 1)
    starts = lengths.cumsum(0) - lengths
    tokens = torch.randn(int(lengths.sum()), 12).half()
    return EncodedTexts(tokens, starts, lengths, torch.randn(count, 12), torch.arange(count))


def draw(texts, *, n=4, low=(), seed=0, **options):
    captions = torch.arange(6).view(2, 3)[torch.arange(n) % 2]
    return draw_diffusion_batch(torch.randn(n, 3, 8, 8, generator=generator(seed, "x_0")), captions, texts,
                                generator(seed, "batch"), low=low, **options)


@pytest.mark.parametrize("low", [False, True], ids=["base", "super-resolution"])
@pytest.mark.parametrize("target, weighting, schedule", [("v", "none", diffusion.COSINE), ("eps", "min_snr", LINEAR)])
def test_a_step_is_its_formula(low, target, weighting, schedule):
    network = tiny(lowres_cond=low)
    other, average = copy.deepcopy(network), copy.deepcopy(network)
    batch = draw(texts(), drop_text=0.5, low=(torch.randn(4, 3, 8, 8), torch.rand(4)) if low else ())
    assert batch.drop.any() and not batch.drop.all()
    training = DiffusionTraining(network, make_fabric(), ema_decay=0.9, target=target, weighting=weighting,
                                 schedule=schedule)
    loss = training.step(batch, 1e-3)

    x_t = diffusion.q_sample(batch.x_0, batch.t, batch.eps, schedule=schedule)
    wanted = diffusion.training_target(batch.x_0, batch.t, batch.eps, target=target, schedule=schedule)
    prediction = other(x_t, batch.t, *other.without_text(*batch.text, batch.drop), *batch.low)
    weight = diffusion.loss_weight(batch.t, weighting=weighting, target=target, schedule=schedule)
    expected = (weight * (prediction - wanted).square().mean((1, 2, 3))).mean()
    expected.backward()
    torch.nn.utils.clip_grad_norm_(other.parameters(), 1.0)
    torch.optim.AdamW(other.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01).step()
    assert_close(loss, expected.detach())
    for found, formula, before, averaged in zip(network.parameters(), other.parameters(), average.parameters(),
                                                training.ema.model.parameters(), strict=True):
        assert_close(found, formula)
        assert_close(averaged, torch.lerp(before, formula, 1 - 2 / 11))  # the decay of the first step


def test_a_batch_has_a_caption_for_each_picture_and_times_in_strata():
    features = texts()
    batch = draw(features, n=64, drop_text=0.25)
    assert batch.x_0.shape == batch.eps.shape == (64, 3, 8, 8) and batch.low == ()
    assert (batch.t.mul(64).long().sort().values == torch.arange(64)).all()
    assert 4 < batch.drop.sum() < 30
    tokens = batch.text[1].sum(1)
    assert set(tokens[::2].tolist()) == {1, 2, 3} and set(tokens[1::2].tolist()) == {4, 5, 6}
    assert not torch.equal(batch.t, draw(features, n=64, seed=1).t)
    with pytest.raises(BadParameter, match="row for each of the 4"):
        draw_diffusion_batch(torch.zeros(4, 3, 8, 8), torch.zeros(3, 2).long(), features, generator(0))


def test_processes_together_draw_what_one_would():
    features = texts()
    low = (torch.randn(4, 3, 8, 8), torch.rand(4))
    whole = draw(features, low=low)
    parts = [draw(features, low=low, rank=rank, world_size=2) for rank in range(2)]
    for name in ("x_0", "drop", "t", "eps"):
        interleaved = torch.stack([getattr(part, name) for part in parts], dim=1).flatten(0, 1)
        assert torch.equal(interleaved, getattr(whole, name))
    for k in range(2):
        assert torch.equal(torch.stack([part.low[k] for part in parts], dim=1).flatten(0, 1), whole.low[k])
    pooled = torch.stack([part.text[2] for part in parts], dim=1).flatten(0, 1)
    assert torch.equal(pooled, whole.text[2])


@pytest.mark.parametrize("fused", [None, True])
def test_a_restored_training_goes_on_bit_for_bit(resumed_training, fused):
    features, fabric = texts(), make_fabric()

    def step(training, number, stream):
        x_0 = torch.randn(4, 3, 8, 8, generator=stream)
        batch = draw_diffusion_batch(x_0, torch.arange(4)[:, None], features, stream)
        training.step(batch, 1e-3 * (number + 1))

    resumed = resumed_training(lambda: DiffusionTraining(tiny(), fabric, fused=fused), step)
    assert resumed.optimizer.param_groups[0]["lr"] == pytest.approx(4e-3)


@pytest.mark.long  # in `make test` the text transformer does the same
def test_a_compiled_network_learns_the_same():
    features = texts()
    trained = []
    for compile in (False, "aot_eager"):  # traced like on a GPU, without a C++ compiler
        training = DiffusionTraining(tiny(), make_fabric(), compile=compile)
        for seed in range(3):
            training.step(draw(features, seed=seed, drop_text=0.5), 1e-3)
        trained.append(training.network.state_dict())
    for name, value in trained[0].items():
        assert_close(trained[1][name], value, rtol=1e-4, atol=1e-5)

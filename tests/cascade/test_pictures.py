"""Pairs of two sizes: aligned crops, and the same statistics in training as in sampling."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from t2ilib import diffusion
from t2ilib.cascade import downsample, enlarge, low_resolution_condition, random_crop_pairs
from t2ilib.cascade.pictures import core_details, predict_with_margin
from t2ilib.errors import BadParameter, UnknownName


def drawings(n=64, size=16):
    """Pictures in [-1, 1], white with a dark shape: mean and deviation far from those of noise."""
    g = torch.Generator().manual_seed(0)
    x = torch.ones(n, 3, size, size)
    x[:, :, size // 4:-size // 4, size // 4:-size // 4] = torch.rand(n, 3, 1, 1, generator=g) * 2 - 1
    return x


def stats(x):
    return x.mean().item(), x.std().item()


def test_the_condition_is_q_sample_of_the_enlarged_picture():
    low, eps, level = drawings(3, 4), torch.randn(3, 3, 8, 8), torch.tensor([0.0, 0.3, 1.0])
    found = low_resolution_condition(low, 8, level, eps)
    torch.testing.assert_close(found, diffusion.q_sample(enlarge(low, 8), level, eps))
    torch.testing.assert_close(found[0], enlarge(low, 8)[0], atol=3e-3, rtol=0)
    torch.testing.assert_close(low_resolution_condition(low, 8, 0.3, eps)[1], found[1])
    assert enlarge(low, 8).abs().max() <= 1 and enlarge(low, 4) is low


def test_training_and_sampling_see_the_same_statistics(make):
    """The published package noises the picture in [0, 1] and normalises it afterwards when it samples."""
    high, level = drawings(), 0.2
    low, g = downsample(high, 8), torch.Generator().manual_seed(1)
    in_training = low_resolution_condition(low, 16, level, torch.randn(high.shape, generator=g))
    cascade = make((8, 16))
    cascade.stages[1] = dataclasses.replace(cascade.stages[1], level=level)
    cascade.sample(["red"] * len(low), low=low, generators=[torch.Generator().manual_seed(i) for i in range(len(low))],
                   steps=1, guidance_scale=1)
    calls = cascade.stages[1].network.calls
    in_sampling = torch.cat([c["low"] for c in calls])
    assert not torch.equal(in_sampling, in_training)
    assert stats(in_sampling) == pytest.approx(stats(in_training), abs=0.01)
    assert all((c["low_t"] == level).all() for c in calls)
    wrong = low_resolution_condition(low * 0.5 + 0.5, 16, level, torch.randn(high.shape, generator=g)) * 2 - 1
    mean, std = stats(wrong)
    assert abs(mean - stats(in_training)[0]) > 0.04 and std > 1.2 * stats(in_training)[1]  # it would not pass


def test_downsample():
    x = torch.rand(2, 3, 12, 12) * 2 - 1
    torch.testing.assert_close(downsample(x, 4), x.unflatten(-1, (4, 3)).unflatten(2, (4, 3)).mean((3, 5)))
    stripes = torch.ones(1, 1, 15, 15)
    stripes[..., ::2] = -1
    assert downsample(stripes, 6).std() < 0.35 < F.interpolate(stripes, (6, 6)).std()  # no aliasing
    assert downsample(torch.ones(1, 3, 15, 15), 6).max() <= 1
    with pytest.raises(BadParameter, match="use enlarge"):
        downsample(x, 16)


def test_a_margin_takes_the_marks_of_zero_padding_off_the_edge():
    average = torch.ones(3, 1, 3, 3) / 9
    def blurred(x_t, t, *, low):
        return F.conv2d(F.conv2d(x_t + low, average, padding=1, groups=3), average, padding=1, groups=3)
    white, t = torch.ones(2, 3, 8, 8), torch.zeros(2)
    assert blurred(white, t, low=white)[..., 0].max() < 1.6  # two are right, zeros beyond the edge make it less
    torch.testing.assert_close(predict_with_margin(blurred, white, t, 2, low=white), 2 * white)
    x, low = torch.rand(2, 2, 3, 8, 8)
    found, plain = predict_with_margin(blurred, x, t, 4, low=low), blurred(x, t, low=low)
    torch.testing.assert_close(found[..., 2:-2, 2:-2], plain[..., 2:-2, 2:-2])  # only the edge differs
    assert (found - plain).abs().max() > 0.1


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_crops_are_aligned(factor):
    low = torch.arange(5 * 6 * 4.0).view(5, 1, 6, 4)  # every pixel has its own value
    high = low.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    places = set()
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        a, b = random_crop_pairs(high, low, 2 * factor, g)
        assert a.shape == (5, 1, 2 * factor, 2 * factor) and b.shape == (5, 1, 2, 2)
        assert torch.equal(a, b.repeat_interleave(factor, 2).repeat_interleave(factor, 3))
        assert torch.equal(b[:, 0, 1, 1] - b[:, 0, 0, 0], torch.full((5,), 5.0))  # neighbours of the same picture
        assert (b[:, 0, 0, 0].int() // 24).tolist() == list(range(5))
        places |= set((b[:, 0, 0, 0].int() % 24).tolist())
    assert len(places) == 15  # of 5 x 3, all
    whole = random_crop_pairs(high[..., :4 * factor, :], low[..., :4, :], 4 * factor, g)
    assert torch.equal(whole[1], low[..., :4, :])


def test_faint_details_go_and_strong_ones_stay():
    smaller = torch.zeros(1, 3, 8, 8)
    grain = 0.02 * torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    edge = torch.zeros(1, 3, 16, 16)
    edge[..., 8:] = 0.8
    made = edge + grain
    cored = core_details(made, smaller, 0.04)
    plain, far = cored[..., :6], (made - cored)[..., 10:]
    assert plain.square().mean() < 0.1 * grain[..., :6].square().mean() and far.abs().max() < 0.01
    assert core_details(made, smaller, 0.0) is made
    even = torch.full((1, 3, 16, 16), 0.04)  # of exactly this difference a quarter stays
    torch.testing.assert_close(core_details(even, smaller, 0.04), 0.25 * even)
    white = torch.ones(1, 3, 8, 8)  # a plain ground stays what it is
    torch.testing.assert_close(core_details(torch.ones(1, 3, 16, 16), white, 0.04), torch.ones(1, 3, 16, 16))


def test_crops_follow_the_generator_alone():
    high, low = torch.rand(4, 3, 16, 16), torch.rand(4, 3, 8, 8)
    a, b = (random_crop_pairs(high, low, 8, torch.Generator().manual_seed(5))[0] for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize("high, low, crop", [((2, 3, 16, 16), (2, 3, 8, 8), 7), ((2, 3, 16, 16), (2, 3, 8, 8), 18),
                                             ((2, 3, 16, 16), (2, 3, 6, 6), 4), ((2, 3, 16, 16), (1, 3, 8, 8), 4),
                                             ((2, 3, 8, 8), (2, 3, 16, 16), 4), ((2, 3, 8, 8), (2, 3, 4, 4), 0)])
def test_crops_refuse_what_does_not_fit(high, low, crop):
    with pytest.raises(BadParameter):
        random_crop_pairs(torch.zeros(high), torch.zeros(low), crop, torch.Generator())


def test_unknown_schedule():
    with pytest.raises(UnknownName, match="schedule"):
        low_resolution_condition(drawings(1, 4), 8, 0.1, torch.zeros(1, 3, 8, 8), schedule="cosin")

"""Decoding draws what the network says, the same with a cache and without, and keeps what is known."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from t2ilib.errors import BadParameter
from t2ilib.models.pixelsnail import PixelSNAIL
from t2ilib.models.text_transformer import TEXT_FORMS, TextTransformer
from t2ilib.runtime import generator
from t2ilib.sampling import LogitSampling, draw_codes, sample_autoregressive, sample_masked

SMALL = dict(codes=20, height=3, width=4, dim=16, depth=2, heads=2, text_dim=6)


SNAIL = dict(codes=20, height=3, width=4, channels=8, hidden=8, blocks=2, res_blocks=1, heads=2, text_dim=6)


def network(causal, **changes):
    snail = changes.get("text") == "snail"
    net = PixelSNAIL(**SNAIL) if snail else TextTransformer(**SMALL, causal=causal, **changes)
    g = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3, generator=g)
    return net.eval()


def conditions(net, batch=3):
    g = torch.Generator().manual_seed(1)
    mask = torch.arange(4) < torch.tensor([4, 2, 3])[:batch, None]
    text = (torch.randn(batch, 4, 6, generator=g), mask, torch.randn(batch, 6, generator=g))
    names = ("tokens", "mask", "pooled")
    nothing = net.without_text(*text, torch.ones(batch, dtype=torch.bool))
    return dict(zip(names, text, strict=True)), dict(zip(names, nothing, strict=True))


def streams(count=3, seed=0):
    return [generator(seed, "picture", i) for i in range(count)]


@pytest.mark.parametrize("text", [*TEXT_FORMS, "snail"])
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("count", [0, 5, 12])
def test_a_cache_gives_the_same_codes(text, guided, count):
    net = network(True, text=text)
    condition, unconditional = conditions(net)
    known = torch.randint(20, (3, count), generator=torch.Generator().manual_seed(2))
    options = dict(sampling=LogitSampling(top_p=0.9, guidance_schedule="linear"), known=known)
    both = [sample_autoregressive(net, condition, unconditional if guided else None, generators=streams(),
                                  cached=cached, **options) for cached in (True, False)]
    assert torch.equal(*both)
    assert torch.equal(both[0][:, :count], known)
    if count < 12:
        other = sample_autoregressive(net, condition, generators=streams(seed=1), **options)
        assert not torch.equal(other, both[0])


@pytest.mark.parametrize("schedule, scales", [("constant", torch.full((12,), 2.0)),
                                              ("linear", torch.linspace(1, 2, 12))])
def test_codes_are_drawn_in_order_from_guided_logits(schedule, scales):
    net = network(True)
    condition, unconditional = conditions(net)
    sampling = LogitSampling(guidance_scale=2.0, guidance_schedule=schedule, temperature=0.7)
    codes = sample_autoregressive(net, condition, unconditional, generators=streams(), sampling=sampling)
    uniform = torch.stack([torch.rand(12, generator=g) for g in streams()])
    with torch.no_grad():
        with_text, without = net(codes, **condition), net(codes, **unconditional)
    logits = without + scales[:, None] * (with_text - without)
    assert torch.equal(draw_codes(logits / 0.7, uniform), codes)


def test_masked_decoding_is_its_algorithm():
    """Written out for one picture, with lists; guidance grows from 1 to 3 over the passes."""
    net = network(False)
    condition, unconditional = conditions(net, 1)
    passes, n = 4, 12
    sampling = LogitSampling(guidance_scale=3.0, guidance_schedule="linear")
    found = sample_masked(net, condition, unconditional, generators=streams(1), passes=passes, sampling=sampling,
                          choice_temperature=2.0)
    numbers = torch.rand((passes, 2, n), generator=streams(1)[0])
    codes = [net.mask_token] * n
    for i in range(passes):
        with torch.no_grad():
            with_text, without = [net(torch.tensor([codes]), **text)[0] for text in (condition, unconditional)]
        logits = without + (1, 5 / 3, 7 / 3, 3)[i] * (with_text - without)
        sure = {}
        proposed = draw_codes(logits, numbers[i, 0]).tolist()
        for place in range(n):
            if codes[place] == net.mask_token:
                gumbel = -torch.log(-torch.log(numbers[i, 1, place]))
                log_p = F.log_softmax(logits[place], -1)[proposed[place]]
                sure[place] = (log_p + 2.0 * (1 - (i + 1) / passes) * gumbel).item()
        stay = int(torch.cos(torch.tensor((i + 1) / passes) * torch.pi / 2).clamp(min=0) * n)
        for place in sorted(sure, key=sure.get)[stay:]:
            codes[place] = proposed[place]
    assert found[0].tolist() == codes


@pytest.mark.parametrize("causal, text", [(True, "prefix"), (False, "prefix"), (True, "snail")])
def test_a_picture_does_not_depend_on_its_neighbours(causal, text):
    net = network(causal, text=text)
    condition, unconditional = conditions(net)
    sample = sample_autoregressive if causal else sample_masked
    together = sample(net, condition, unconditional, generators=streams())
    alone = [sample(net, {name: x[i:i + 1] for name, x in condition.items()},
                    {name: x[i:i + 1] for name, x in unconditional.items()}, generators=streams()[i:i + 1])
             for i in range(3)]
    assert torch.equal(torch.cat(alone), together)


def test_known_codes_stay_in_any_place():
    net = network(False)
    condition, unconditional = conditions(net)
    known = torch.randint(20, (3, 12))
    keep = torch.rand(3, 12) < torch.tensor([0.3, 0.9, 0.0])[:, None]
    seen = []
    codes = sample_masked(net, condition, unconditional, generators=streams(), known=known, keep=keep, passes=5,
                          callback=lambda so_far: seen.append(so_far))
    assert torch.equal(codes[keep], known[keep]) and (codes < 20).all()
    assert [s.step for s in seen] == [0, 1, 2, 3, 4]
    for before, after in zip(seen, seen[1:], strict=False):
        assert (after.decided | ~before.decided).all()
        assert torch.equal(after.codes[before.decided], before.codes[before.decided])
    assert seen[-1].decided.all() and torch.equal(seen[-1].codes, codes)
    assert keep.logical_or(~seen[0].decided)[0].sum() > 0
    everything = sample_masked(net, condition, generators=streams(), known=known, keep=torch.ones_like(keep))
    assert torch.equal(everything, known)


@pytest.mark.parametrize("causal", [True, False])
def test_a_callback_may_stop(causal):
    net = network(causal)
    condition, _ = conditions(net)
    calls = []
    sample = sample_autoregressive if causal else sample_masked
    codes = sample(net, condition, generators=streams(), callback=lambda s: calls.append(s) or s.step == 2)
    assert [s.step for s in calls] == [0, 1, 2]
    assert codes.shape == (3, 12) and (not causal or not codes[:, 3:].any())


def test_bad_input():
    net, causal = network(False), network(True)
    condition, unconditional = conditions(net)
    with pytest.raises(BadParameter, match="generator of its own"):
        sample_masked(net, condition, generators=[generator(0)] * 3)
    with pytest.raises(BadParameter, match="at least one pass"):
        sample_masked(net, condition, generators=streams(), passes=0)
    with pytest.raises(BadParameter, match="keep="):
        sample_masked(net, condition, generators=streams(), known=torch.zeros(3, 12).long())
    with pytest.raises(BadParameter, match="known codes must be"):
        sample_autoregressive(causal, condition, generators=streams(), known=torch.zeros(2, 4).long())
    shorter = {name: x[:, :2] if name != "pooled" else x for name, x in unconditional.items()}
    with pytest.raises(BadParameter, match="same names and shapes"):
        sample_masked(net, condition, shorter, generators=streams())

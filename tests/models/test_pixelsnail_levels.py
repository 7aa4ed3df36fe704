"""Two PixelSNAILs, coarse codes and fine ones, are one causal network, with a cache and without."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from t2ilib.errors import BadParameter
from t2ilib.models.pixelsnail import PixelSNAIL
from t2ilib.models.pixelsnail_levels import CoarseToFine
from t2ilib.runtime import generator
from t2ilib.sampling import sample_autoregressive

SMALL = dict(codes=20, channels=8, hidden=6, blocks=1, res_blocks=1, heads=2, text_dim=6)


def network():
    net = CoarseToFine(PixelSNAIL(**SMALL, height=2, width=3),
                       PixelSNAIL(**SMALL, height=4, width=6, coarse_blocks=1))
    g = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3, generator=g)
    return net.eval()


def text(batch=2):
    g = torch.Generator().manual_seed(1)
    mask = torch.arange(4) < torch.tensor([4, 2])[:batch, None]
    return dict(tokens=torch.randn(batch, 4, 6, generator=g), mask=mask, pooled=torch.randn(batch, 6, generator=g))


def test_it_is_causal_over_both_grids():
    net = network().double()
    condition = {name: x.double() if x.is_floating_point() else x for name, x in text().items()}
    codes = torch.randint(20, (2, net.places))
    before = net(codes, **condition)
    assert before.shape == (2, 30, 20) and net.places == 30
    for place in range(net.places):
        other = codes.clone()
        other[:, place] = (other[:, place] + 3) % 20
        moved = (net(other, **condition) - before).abs().amax((0, 2))
        assert not moved[:place + 1].any()
        if place < 6:
            assert (moved[6:] > 1e-12).any()  # a coarse code is seen by the fine ones
        elif place + 1 < net.places and (place - 5) % 6:
            assert moved[place + 1] > 1e-12


@pytest.mark.parametrize("count", [0, 4, 5, 6, 7, 20])
def test_one_code_after_another_gives_the_same_logits(count):
    net = network()
    codes = torch.randint(20, (2, net.places))
    whole = net(codes, **text())
    decoding = net.start(**text())
    found = [net.next_logits(codes[:, :count], decoding)]
    for i in range(count, net.places - 1):
        found.append(net.next_logits(codes[:, i:i + 1], decoding))
    assert_close(torch.stack(found, 1), whole[:, count:], rtol=1e-5, atol=1e-5)
    assert_close(net(codes[:, :count + 1], **text()), whole[:, :count + 1], rtol=1e-5, atol=1e-5)


def test_each_network_has_its_own_no_text():
    net = network()
    codes = torch.randint(20, (2, net.places))
    condition = tuple(text().values())
    nothing = net.without_text(*condition, torch.tensor([True, False]))
    logits = net(codes, *nothing)
    drop = torch.tensor([True, False])
    assert_close(logits[:, :6], net.coarse(codes[:, :6], *net.coarse.without_text(*condition, drop)))
    grid = codes[:, :6].view(2, 2, 3)
    assert_close(logits[:, 6:], net.fine(codes[:, 6:], *net.fine.without_text(*condition, drop), coarse=grid))
    assert_close(logits[1], net(codes, *condition)[1])


def test_sampling_keeps_the_upper_part_of_both_grids():
    net = network()
    condition = text()
    nothing = dict(zip(condition, net.without_text(*condition.values(), torch.tensor([True, True])), strict=True))
    known = torch.randint(20, (2, 30))
    keep = torch.cat([torch.arange(6) < 3, torch.arange(24) < 12])
    drawn = {}
    for cached in (True, False):
        streams = [generator(0, "picture", i) for i in range(2)]
        drawn[cached] = sample_autoregressive(net, condition, nothing, generators=streams, known=known, keep=keep,
                                              cached=cached)
    assert torch.equal(drawn[True], drawn[False])
    assert torch.equal(drawn[True][:, keep], known[:, keep]) and not torch.equal(drawn[True], known)
    with pytest.raises(BadParameter, match="keep must be"):
        sample_autoregressive(net, condition, generators=streams, known=known, keep=keep[:-1])


def test_networks_that_do_not_fit():
    fine = PixelSNAIL(**SMALL, height=4, width=6, coarse_blocks=1)
    for coarse in (PixelSNAIL(**SMALL, height=3, width=3), PixelSNAIL(**{**SMALL, "codes": 21}, height=2, width=3)):
        with pytest.raises(BadParameter, match="2 x 3 coarse codes"):
            CoarseToFine(coarse, fine)
    with pytest.raises(BadParameter, match="coarse codes"):
        CoarseToFine(PixelSNAIL(**SMALL, height=2, width=3), PixelSNAIL(**SMALL, height=4, width=6))

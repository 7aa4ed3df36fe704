"""Both sides train on the same shapes; what a step of ours holds grows little with the sides that are read."""

import importlib.util

import pytest
import torch

from t2ilib.bench import gigagan
from t2ilib.bench.gigagan import ClassicGigaGan, OurGigaGan, Shape, gigagan_rows
from t2ilib.bench.memory import peak_mib
from t2ilib.errors import MissingAsset

CPU = torch.device("cpu")
SMALL = Shape(16, 2, (16, 8))
HAS_PEER = importlib.util.find_spec("gigagan_pytorch") is not None


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setattr(gigagan, "WIDEST", 16)
    monkeypatch.setattr(gigagan, "NARROWEST", 8)
    monkeypatch.setattr(gigagan, "ATTENTION", (8,))
    monkeypatch.setattr(gigagan, "JUDGE_ATTENTION", (8,))


def test_widths_double_from_the_largest_side_down():
    assert Shape(64, 8, (64,)).widths == [16, 16, 16, 16, 8]


def test_our_step_trains_both_networks():
    game = OurGigaGan(SMALL, CPU)
    networks = (game.training.generator, game.training.discriminator)
    before = [[p.clone() for p in network.parameters()] for network in networks]
    game.step()
    for network, old in zip(networks, before, strict=True):
        assert any(not torch.equal(p, q) for p, q in zip(network.parameters(), old, strict=True))
    assert game.draw().shape == (2, 3, 16, 16)
    assert game.held_mib() > 0


def test_a_step_holds_little_more_for_each_further_side():
    peaks = []
    for reads in ((32,), (32, 16), (32, 16, 8)):
        game = OurGigaGan(Shape(32, 2, reads), CPU)
        game.step()  # the optimisers allocate their moments
        peaks.append(peak_mib(game.step, CPU))
    assert peaks[2] < 1.6 * peaks[0], peaks


@pytest.mark.skipif(HAS_PEER, reason="the package is here: the other test runs it")
def test_without_the_package_it_says_what_to_install():
    with pytest.raises(MissingAsset, match="pip install gigagan-pytorch"):
        next(gigagan_rows(CPU, 0.0, shapes=(SMALL,)))


@pytest.mark.skipif(not HAS_PEER, reason="pip install gigagan-pytorch, the package that is compared with")
def test_the_package_draws_pictures_of_the_same_size_and_trains():
    game = ClassicGigaGan(SMALL, CPU)
    before = next(game.gan.G.parameters()).clone()
    game.step()
    assert game.draw().shape == (2, 3, 16, 16)
    assert not torch.equal(next(game.gan.G.parameters()), before)


def test_rows(monkeypatch):
    monkeypatch.setattr(gigagan, "ClassicGigaGan", OurGigaGan)
    rows = list(gigagan_rows(CPU, 0.0, shapes=(SMALL,), least=1))
    assert {row.mode for row in rows} == {"training", "drawing", "peak of tensors"}
    assert {row.metric for row in rows if row.mode == "training"} == {"pictures/s"}
    for row in rows:
        assert row.p50 > 0 and row.shape == "16 px, batch 2, reads 16, 8"
        if row.provider == "classic":
            assert row.ratio == 1

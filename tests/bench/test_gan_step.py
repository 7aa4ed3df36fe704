"""Both loops make the same updates, and only one of them waits for every number and unpacks every picture."""

import pytest
import torch
from torch.testing import assert_close

from t2ilib.bench import BENCHMARKS, gan_step
from t2ilib.bench.gan_step import ClassicGan, Pair, PillowDigits, ResidentData, ResidentGan
from t2ilib.data import load_digits
from t2ilib.models.digit_gans import ConvCritic, ConvGenerator, LinearDiscriminator, LinearGenerator

CPU = torch.device("cpu")
LINEAR = Pair("linear", lambda image_size: LinearGenerator(widths=(16, 24), latent_dim=8, image_size=image_size),
              lambda image_size: LinearDiscriminator(widths=(16,), image_size=image_size), batch=8, image_size=8)
CONV = Pair("conv", lambda **kw: ConvGenerator(latent_dim=8, **kw), ConvCritic, batch=8, image_size=8,
            sizes={"ch": 8})


@pytest.fixture
def digits():
    return load_digits("digits", split="test")


@pytest.mark.parametrize("pair", [LINEAR, CONV], ids=["linear", "conv"])
def test_both_loops_make_the_same_updates(pair, digits):
    classic, ours = ClassicGan(pair, digits, CPU), ResidentGan(pair, digits, CPU)
    for network in (classic.net, classic.critic, ours.net, ours.critic):
        network.double()  # else Adam would move biases without a gradient, before batch norms, by rounding errors
    start = [p.clone() for p in ours.net.parameters()]
    for _ in range(4):
        real, z = (x.double() for x in ours.next())
        expected, found = classic.update(real, z), ours.update(real, z)
        assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-5)
    for a, b in ((ours.net, classic.net), (ours.critic, classic.critic)):
        for (name, value), other in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
            assert_close(value, other, rtol=1e-3, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}")
    assert any(not torch.allclose(p, q, atol=1e-4) for p, q in zip(start, ours.net.parameters(), strict=True))


def test_both_read_the_same_pictures(digits):
    x, label = PillowDigits(digits)[5]
    assert_close(x, digits.batch(torch.tensor([5]))[0])
    assert label == digits.labels[5] and len(PillowDigits(digits)) == 297
    real, z = ClassicGan(LINEAR, digits, CPU).next()
    assert real.shape == (8, 1, 8, 8) and z.shape == (8, 8) and z.dtype == torch.float32


def test_the_classic_loop_begins_anew_after_an_epoch(digits):
    classic = ClassicGan(LINEAR, digits.select(torch.arange(20)), CPU)
    for _ in range(5):  # two full batches an epoch
        assert len(classic.next()[0]) == 8


def test_ours_reads_no_number_in_a_step(digits, monkeypatch):
    ours, classic = ResidentGan(LINEAR, digits, CPU), ResidentData(LINEAR, digits, CPU)
    for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__float__"):
        monkeypatch.setattr(torch.Tensor, name, lambda self, *a, **kw: pytest.fail("waits for the device"))
    ours.step()
    with pytest.raises(pytest.fail.Exception, match="waits"):
        classic.step()


def test_rows_tell_steps_per_second(digits):
    rows = list(gan_step.gan_step_rows(CPU, 0.0, pairs=(LINEAR, CONV), digits=digits, steps=1, least=1))
    assert BENCHMARKS["gan_step"] is gan_step.gan_step_rows
    for pair in (LINEAR, CONV):
        mine = {r.provider: r for r in rows if r.shape.startswith(pair.name)}
        assert {"classic", "classic, resident data", "ours"} <= set(mine) and len(mine) in (3, 5)
        assert all(r.metric == "steps/s" and r.p20 <= r.p50 <= r.p80 for r in mine.values())
        assert mine["classic"].ratio == 1
        assert mine["ours"].ratio == pytest.approx(mine["ours"].p50 / mine["classic"].p50, rel=0.01)
        assert mine["ours"].shape.endswith("digits of 8 px")

"""The step and the instrument of notebook 01: nothing waits for the device, fakes are detached, digits are read."""

from types import SimpleNamespace

import pytest
import torch

from t2ilib.paths import notebooks_dir

SOURCE = (notebooks_dir() / "01_gan_basics.py").read_text(encoding="utf-8")


def notebook(reports, *, until, profile="smoke"):
    """Run the notebook on scikit-learn's digits up to a heading; return its names."""
    source = SOURCE[: SOURCE.index(until)].replace('profile: str = "quick"', f"profile: str = {profile!r}")
    names = {"__name__": "__main__", "__file__": str(notebooks_dir() / "01_gan_basics.py")}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("T2I_DATA", raising=False)
        patch.setenv("T2I_REPORTS", str(reports))
        exec(compile(source, names["__file__"], "exec"), names)
    return SimpleNamespace(**names)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    return notebook(tmp_path_factory.mktemp("reports"), until="# ## Problem 1")


def rule(smoke, name):
    changes = {"saturating": dict(loss="saturating"), "r1, r2": dict(loss="relativistic", r1=0.5, r2=0.5),
               "penalty": dict(loss="wasserstein", penalty=10.0), "smooth": dict(real_label=0.9)}
    return SimpleNamespace(**smoke.RULE | changes[name])


@pytest.mark.parametrize("kind", ["linear", "convolutional"])
def test_a_step_reads_no_number_and_trains_both(smoke, monkeypatch, kind):
    for name in ("saturating", "r1, r2", "penalty", "smooth"):
        net, critic = smoke.build(kind)
        before = [[p.clone() for p in n.parameters()] for n in (net, critic)]
        with monkeypatch.context() as patch:
            for reads in ("item", "tolist", "numpy", "cpu", "__bool__", "__float__"):
                patch.setattr(torch.Tensor, reads, lambda self, *a, **kw: pytest.fail("waits for the device"))
            stream = smoke.stream_of("test")
            seen = smoke.train_step(rule(smoke, name), net, critic, [smoke.adam(net), smoke.adam(critic)],
                                    smoke.draw_real(8, stream), stream)
        assert seen.shape == (len(smoke.SEEN),) and seen.isfinite().all() and not seen.requires_grad
        for old, n in zip(before, (net, critic), strict=True):  # differences of scores do not need the last bias
            assert all(p.ndim == 1 or not torch.equal(p, q) for p, q in zip(old, n.parameters(), strict=True))


def test_the_discriminator_s_loss_does_not_reach_the_generator(smoke):
    net, critic = smoke.build("convolutional")
    stream = smoke.stream_of("test")
    still = torch.optim.SGD(net.parameters(), lr=0.0)
    real = smoke.draw_real(8, stream)
    state = stream.get_state()
    smoke.train_step(rule(smoke, "saturating"), net, critic, [still, smoke.adam(critic)], real, stream)
    stream.set_state(state)
    fake = net(torch.randn(8, net.latent_dim, generator=stream))  # the critic is the trained one, as in the step
    expected = torch.autograd.grad(smoke.losses.saturating_generator_loss(critic(fake)), list(net.parameters()))
    for found, wanted in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(found.grad, wanted, rtol=1e-3, atol=1e-6)


def test_equal_seeds_train_alike(smoke):
    one, two = (smoke.train("x", {}, steps=3, looks=1) for _ in range(2))
    other = smoke.train("x", {}, steps=3, looks=1, repeat=1)
    assert torch.equal(one.history, two.history) and not torch.equal(one.history, other.history)
    assert one.found == two.found and torch.equal(one.shots[0], two.shots[0])


@pytest.mark.slow
def test_the_classifier_reads_digits(tmp_path):
    assert notebook(tmp_path, until="# What do these numbers say", profile="quick").accuracy > 0.98

"""The loop and the instrument of notebook 01: what it trains depends on its seeds alone, and digits are read."""

from types import SimpleNamespace

import pytest
import torch

from t2ilib.paths import notebooks_dir


def run(code, reports):
    """Run the notebook's code on scikit-learn's digits; return its names."""
    file = str(notebooks_dir() / "01_gan_basics.py")
    names = {"__name__": "__main__", "__file__": file}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("T2I_DATA", raising=False)
        patch.setenv("T2I_REPORTS", str(reports))
        exec(compile(code, file, "exec"), names)
    return SimpleNamespace(**names)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, code_until):
    return run(code_until("01_gan_basics.py", "problems"), tmp_path_factory.mktemp("reports"))


@pytest.mark.parametrize("kind, rule, minibatch_std", [
    ("linear", {}, False), ("linear", {"loss": "wasserstein", "penalty": 10.0}, False), ("convolutional", {}, True),
    ("convolutional", {"loss": "wasserstein", "penalty": 10.0}, False)])
def test_a_step_reads_no_number_from_the_device(smoke, monkeypatch, kind, rule, minibatch_std):
    rule = smoke.GanRule(**rule)
    net, critic = smoke.build(kind, minibatch_std=minibatch_std)
    optimizers = [smoke.adam(net), smoke.adam(critic)]
    with monkeypatch.context() as patch:
        for reads in ("item", "tolist", "numpy", "cpu", "__bool__", "__float__"):
            patch.setattr(torch.Tensor, reads, lambda self, *a, **kw: pytest.fail("waits for the device"))
        stream = smoke.stream_of("test")
        measured = smoke.train_step(rule, net, critic, optimizers, smoke.draw_real(8, stream), stream)
    assert measured.shape == (len(smoke.STEP_COLUMNS),) and measured.isfinite().all() and not measured.requires_grad


def test_equal_seeds_train_alike(smoke):
    one, two = (smoke.train("x", {}, steps=3, looks=1) for _ in range(2))
    other = smoke.train("x", {}, steps=3, looks=1, repeat=1)
    assert torch.equal(one.history, two.history) and not torch.equal(one.history, other.history)
    assert one.found == two.found and torch.equal(one.shots[0], two.shots[0])


@pytest.mark.slow
def test_the_classifier_reads_digits(tmp_path, code_until):
    assert run(code_until("01_gan_basics.py", "baselines", profile="quick"), tmp_path).accuracy > 0.98

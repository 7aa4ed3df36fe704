"""The training of notebook 02: two processes do what one does, and an interrupted run ends like one that was not."""

import pytest
import torch

SMALL = """
from t2ilib.models.sizes import WGAN
for pair in WGAN.values():
    pair["generator"] |= dict(ch=4, max_ch=8, norm_groups=2)
    pair["critic"] |= dict(ch=4, max_ch=8)
"""


@pytest.fixture
def training(notebook_training, monkeypatch):
    from t2ilib.models.sizes import WGAN

    for name, pair in WGAN.items():  # what SMALL changes in this process is as it was after the test
        monkeypatch.setitem(WGAN, name, {side: dict(sizes) for side, sizes in pair.items()})
    return notebook_training(
        "02_wgan_gp.py", first=SMALL,
        networks='((f"{name} {part}", network) for name, job in jobs.items()'
                 ' for part, network in (("critic", job.critic), ("ema", job.ema.model)))')


@pytest.mark.slow
def test_two_processes_train_what_one_does(training):
    one, two = training.by_one_and_by_two(dtype="float64", steps=3, batch_size=6, penalty_every=2)
    assert one.keys() == two.keys() and len(one) == 6
    for name, weights in one.items():
        for key, value in weights.items():
            torch.testing.assert_close(torch.tensor(two[name][key], dtype=torch.float64),
                                       torch.tensor(value, dtype=torch.float64), rtol=1e-8, atol=1e-8)


@pytest.mark.slow
def test_an_interrupted_training_ends_like_an_uninterrupted_one(training):
    training.check_resume("recipe.pt", steps=4, live_steps=0)

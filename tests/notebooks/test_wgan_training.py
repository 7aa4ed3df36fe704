"""The training of notebook 02: two processes do what one does, and an interrupted run ends like one that was not."""

import pytest
import torch

SMALL = """
SHIPPED = (dict(image_size=64, ch=4, max_ch=8, norm_groups=2), dict(image_size=64, ch=4, max_ch=8))
LIVE = (dict(image_size=32, ch=4, max_ch=8, norm_groups=2), dict(image_size=32, ch=4, max_ch=8))
options = dict("""


@pytest.fixture
def training(notebook_training):
    # smaller networks, without the cells before the training that only look, check or count
    return notebook_training(
        "02_wgan_gp.py", looks=('keep("', "naive_penalty", "probe = new_job(", "cfg.timed"),
        networks='((f"{name} {part}", network) for name, job in jobs.items()'
                 ' for part, network in (("critic", job.critic), ("ema", job.ema.model)))',
        changes=(("\noptions = dict(", SMALL),))


@pytest.mark.slow
def test_two_processes_train_what_one_does(training):
    one, two = training.by_one_and_by_two(dtype="float64", steps=3, batch_size=6, penalty_every=2)
    assert one.keys() == two.keys() and len(one) == 6
    for name, weights in one.items():
        for key, value in weights.items():
            torch.testing.assert_close(torch.tensor(two[name][key], dtype=torch.float64),
                                       torch.tensor(value, dtype=torch.float64), rtol=1e-8, atol=1e-8)


def test_an_interrupted_training_ends_like_an_uninterrupted_one(training):
    # every profile keeps its state here, after every step, and only of the recipe
    only = (("for number, kind in itertools.product(range(cfg.seeds), KINDS):", "for number, kind in ():"),
            ('"recipe.pt" if profile == "full" else None', '"recipe.pt"'))
    training.check_resume("recipe.pt", only, steps=4, live_steps=1)

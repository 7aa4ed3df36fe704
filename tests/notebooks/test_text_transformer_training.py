"""The training of notebook 09: two processes do what one does, and an interrupted run ends like one that was not."""

import pytest
import torch

ALONE = dict(arm_steps=0, start_from="scratch", train=True)  # the network that ships, without the three small ones


@pytest.fixture
def training(notebook_training):
    return notebook_training("09_text_transformer.py", networks='[("recipe", averaged)]')


@pytest.mark.long  # in `make test` notebook 02 does the same
def test_two_processes_train_what_one_does(training):
    one, two = training.by_one_and_by_two(words_steps=3, **ALONE)
    apart = []
    for key, value in one["recipe"].items():
        apart.append((torch.tensor(two["recipe"][key]) - torch.tensor(value)).abs())
    apart = torch.cat(apart)
    # Muon brings even the faintest directions to full length, and there rounding decides
    assert apart.median() < 1e-5 and apart.quantile(0.99) < 3e-4, apart.max()


@pytest.mark.long  # in `make test` notebooks 02 and 08 do the same
def test_an_interrupted_training_ends_like_an_uninterrupted_one(training):
    training.check_resume("recipe.pt", words_steps=4, **ALONE)

"""The training of notebook 08: two processes do what one does, and an interrupted run ends like one that was not."""

import pytest
import torch


@pytest.fixture
def training(notebook_training):
    return notebook_training("08_minimagen.py", networks="trained.items()")


@pytest.mark.long  # in `make test` notebook 02 does the same
def test_two_processes_train_what_one_does(training):
    one, two = training.by_one_and_by_two(stages="base,sr64", steps=3)
    assert one.keys() == two.keys()
    for stage, weights in one.items():
        for key, value in weights.items():
            torch.testing.assert_close(torch.tensor(two[stage][key]), torch.tensor(value), rtol=1e-3, atol=2e-5)


@pytest.mark.slow
def test_an_interrupted_training_ends_like_an_uninterrupted_one(training):
    training.check_resume("sr64.pt", stages="sr64", steps=4)

"""Copies of a network from several moments of its training."""

import torch
from torch import nn

from t2ilib.training import Copies, TrainingLoop


def trained(copies, state=None):
    network = nn.Linear(1, 1)
    nn.init.zeros_(network.weight)
    loop = TrainingLoop(steps=8, state=state, parts={"network": network, "copies": copies})
    for _ in loop:
        with torch.no_grad():
            network.weight += 1
        copies.follow(loop, network)
    return network


def test_weights_are_those_of_the_moment():
    copies = Copies(batch_size=3)
    network = trained(copies)
    with torch.no_grad():
        network.weight.zero_()  # a copy is not the network itself
    assert [row["weights"]["weight"].item() for row in copies.rows] == [2, 4, 8]
    assert [row["pictures"] for row in copies.rows] == [6, 12, 24]
    assert all(row["minutes"] >= 0 for row in copies.rows)
    assert [row["share"] for row in copies.rows] == ["12%", "38%", "88%"]  # at which the steps began


def test_copies_go_on_with_the_training(tmp_path):
    copies = Copies(batch_size=3)
    trained(copies, state=tmp_path / "state.pt")
    again = Copies(batch_size=3)
    trained(again, state=tmp_path / "state.pt")  # nothing is left to train: all copies come from the file
    assert [row["weights"]["weight"].item() for row in again.rows] == [2, 4, 8]

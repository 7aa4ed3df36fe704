"""What a text says about each place: nothing at first, then another thing here than there, and only from its words."""

import torch

from t2ilib.layers.text_plan import TextPlan


def trained_plan():
    torch.manual_seed(0)
    plan = TextPlan(grid=(3, 4), text_dim=8, out_dim=5, dim=12, depth=2, heads=3)
    for weight in plan.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return plan.double().eval()


def a_text(batch=2):
    torch.manual_seed(1)
    mask = torch.tensor([[True, True, False]] * batch)
    return torch.randn(batch, 3, 8).double(), mask, torch.randn(batch, 8).double()


def test_it_adds_nothing_before_training():
    plan = TextPlan(grid=(3, 4), text_dim=8, out_dim=5, dim=12, heads=3)
    tokens, mask, pooled = a_text()
    found = plan(tokens.float(), mask, pooled.float())
    assert found.shape == (2, 3, 4, 5)
    assert not found.any()


def test_places_and_texts_differ():
    found = trained_plan()(*a_text()).flatten(1, 2)  # (2, 12, 5)
    between_places = torch.cdist(found[0], found[0]) + torch.eye(12)
    assert between_places.min() > 1e-3
    assert (found[0] - found[1]).norm(dim=-1).min() > 1e-3


def test_the_text_acts_otherwise_at_each_place():
    first, second = trained_plan()(*a_text())
    difference = (first - second).flatten(0, 1)  # (12, 5)
    assert (difference - difference[0]).norm(dim=-1)[1:].min() > 1e-3


def test_padding_is_not_read():
    plan = trained_plan()
    tokens, mask, pooled = a_text()
    before = plan(tokens, mask, pooled)
    tokens[:, 2] = 7.0
    torch.testing.assert_close(plan(tokens, mask, pooled), before)

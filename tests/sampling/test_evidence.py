"""Drawings as evidence: Bayes' rule at each code, the drawing itself for little noise, nothing for much."""

import pytest
import torch
from torch import nn

from t2ilib.errors import BadParameter
from t2ilib.models.text_transformer import TextTransformer
from t2ilib.runtime import generator
from t2ilib.sampling import CodeEvidence, sample_autoregressive, sample_masked

TABLE = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])  # K = 3, D = 2
SAMPLERS = {True: sample_autoregressive, False: sample_masked}


def small_network(causal):
    """Return a network of random weights and what it reads of two texts."""
    net = TextTransformer(codes=20, height=3, width=4, dim=16, depth=1, heads=2, text_dim=6, causal=causal)
    g = generator(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3, generator=g)
    condition = {"tokens": torch.randn(2, 4, 6, generator=g), "mask": torch.ones(2, 4, dtype=torch.bool),
                 "pooled": torch.randn(2, 6, generator=g)}
    return net.eval(), condition


def seen(codes, noise, observed=None):
    """Return evidence for pictures whose drawings have the codes (B, 12)."""
    table = torch.randn(20, 5, generator=generator(1))
    observed = torch.ones(len(codes), dtype=torch.bool) if observed is None else torch.tensor(observed)
    return CodeEvidence([table], [table[codes.unflatten(1, (3, 4))].movedim(-1, 1)], observed, noise)


def test_it_is_the_log_density_of_a_gaussian_around_the_drawing():
    z = torch.tensor([[1.0, 1.0], [0.0, 2.0]]).T.view(1, 2, 1, 2)  # one picture, two places
    sigma2 = 0.5**2 * TABLE.var(dim=0, correction=0).mean()
    expected = torch.tensor([[2.0, 1.0, 2.0], [4.0, 5.0, 0.0]]) / (-2 * sigma2)  # squared distances by hand
    evidence = CodeEvidence([TABLE], [z], torch.tensor([True]), 0.5)
    torch.testing.assert_close(evidence.all_log_likelihoods()[0], expected)
    for place in (0, 1):
        torch.testing.assert_close(evidence.log_likelihood(place)[0], expected[place])


def test_some_pictures_keep_their_own_evidence():
    evidence = seen(torch.randint(20, (3, 12), generator=generator(2)), 1.0, observed=(True, False, True))
    rows = torch.tensor([2, 1])
    assert torch.equal(evidence.of(rows).all_log_likelihoods(), evidence.all_log_likelihoods()[rows])
    assert not evidence.of(rows[1:]).all_log_likelihoods().any()


def test_places_are_counted_through_all_grids():
    coarse, fine = torch.zeros(1, 2, 1, 1), torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(-1, -1, 2, 2)
    evidence = CodeEvidence([TABLE, 3 * TABLE], [coarse, fine], torch.tensor([True]), 1.0)
    everywhere = evidence.all_log_likelihoods()
    assert everywhere.shape == (1, 5, 3)
    each = torch.stack([evidence.log_likelihood(place) for place in range(5)], dim=1)
    torch.testing.assert_close(each, everywhere)
    assert everywhere[0].argmax(-1).tolist() == [0, 0, 0, 0, 0] and everywhere[0, 0, 0] == 0 > everywhere[0, 1, 0]


@pytest.mark.parametrize("causal", SAMPLERS)
def test_little_noise_gives_the_drawing_and_much_leaves_the_network_alone(causal):
    net, condition = small_network(causal)
    codes = torch.randint(20, (2, 12), generator=generator(2))

    def drawn(evidence):
        return SAMPLERS[causal](net, condition, generators=[generator(0), generator(1)], evidence=evidence)

    alone = drawn(None)
    assert torch.equal(drawn(seen(codes, 0.01)), codes)
    assert torch.equal(drawn(seen(codes, 1e4)), alone)
    of_second = drawn(seen(codes, 0.01, observed=(False, True)))
    assert torch.equal(of_second[0], alone[0]) and torch.equal(of_second[1], codes[1])


def test_codes_are_drawn_from_the_product():
    net, condition = small_network(causal=True)
    one = {name: x[:1] for name, x in condition.items()}
    many = {name: x.expand(4000, *x.shape[1:]) for name, x in one.items()}
    codes = torch.randint(20, (1, 12), generator=generator(2))
    log_prior = net(codes[:, :1], **one)[0, 0].log_softmax(-1)  # (K,) of the first code, from the text alone
    posterior = (log_prior + seen(codes, 1.0).log_likelihood(0)[0]).softmax(-1)
    drawn = sample_autoregressive(net, many, generators=[generator(i) for i in range(4000)],
                                  evidence=seen(codes.expand(4000, -1), 1.0), callback=lambda so_far: True)[:, 0]
    share = torch.bincount(drawn, minlength=20) / 4000
    assert (share - posterior).abs().max() < 0.03
    assert (posterior - log_prior.exp()).abs().max() > 0.1


def test_what_does_not_fit_is_refused():
    z = torch.zeros(1, 2, 1, 1)
    with pytest.raises(BadParameter, match="at least 0.01"):
        CodeEvidence([TABLE], [z], torch.tensor([True]), 0)
    with pytest.raises(BadParameter, match="a codebook for each grid"):
        CodeEvidence([TABLE, TABLE], [z], torch.tensor([True]), 1)
    with pytest.raises(BadParameter, match="2 drawings"):
        CodeEvidence([TABLE], [z], torch.tensor([True, True]), 1)

"""Feed-forward generators: sizes, shapes, what they read, what is known before training."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from t2ilib.checkpoint import load_model, save_model
from t2ilib.errors import BadParameter, CheckpointMismatch, UnknownName
from t2ilib.models.feed_forward import CodeGenerator, PixelGenerator
from t2ilib.models.sizes import GENERATOR

PUBLISHED = 4_647_963  # parameters of the system that PixelGenerator follows
TINY = dict(codes=20, code_dim=3, height=4, width=6, text_dim=12, styles=["round", "flat"], memory=5, key_dim=4,
            draft_dim=7, text_hidden=8, dim=16, depth=1, heads=2, local_dim=8)


def count(network):
    return sum(weights.numel() for weights in network.parameters())


def test_the_pixel_generator_is_as_large_as_the_published_one():
    assert abs(count(PixelGenerator()) / PUBLISHED - 1) < 0.01


def test_the_shipped_size_has_at_most_five_million_parameters():
    network = CodeGenerator(**GENERATOR["shipped"], memory=1488, styles=list("abcd"))
    assert count(network) <= 5_000_000


@pytest.mark.parametrize("changes, shape", [({}, (3, 64, 64)), (dict(widths=[16, 8]), (3, 16, 16)),
                                            (dict(upsample="nearest"), (3, 64, 64)),
                                            (dict(widths=[16], channels=8), (8, 8, 8))])
def test_pixels(changes, shape):
    network = PixelGenerator(embed_dim=6, hidden=8, dim=16, depth=1, heads=2, **{"widths": [16, 8, 8, 8], **changes})
    made = network(torch.randn(2, 6))
    assert made.shape == (2, *shape)
    if shape[0] == 3:
        assert made.abs().max() <= 1


def test_noise_of_the_pixel_generator():
    network = PixelGenerator(embed_dim=6, noise_dim=4, hidden=8, dim=16, depth=1, heads=2, widths=[8])
    embedding = torch.randn(2, 6)
    a = network(embedding, torch.zeros(2, 4))
    assert (network(embedding, torch.ones(2, 4)) - a).abs().max() > 1e-5
    for noise in (None, torch.zeros(2, 3)):
        with pytest.raises(BadParameter, match="needs noise"):
            network(embedding, noise)
    with pytest.raises(BadParameter, match="need embeddings"):
        network(torch.randn(2, 7), torch.zeros(2, 4))
    with pytest.raises(UnknownName, match="nearest"):
        PixelGenerator(upsample="neares")


def inputs(batch=2):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(batch, 12, generator=rng), torch.eye(2)[torch.arange(batch) % 2]


def test_codes_all_at_once():
    torch.manual_seed(0)
    network = CodeGenerator(**TINY)
    pooled, style = inputs()
    assert network.places == 24 and network(pooled, style).shape == (2, 24, 20)
    at = torch.rand(2, 24) < 0.5
    assert_close(network(pooled, style, at=at), network(pooled, style)[at])
    assert_close(network(pooled, style, torch.zeros(2, 12)), network(pooled, style))


def begun(**changes):
    """A network that knows 10 drawings of five things in two styles, and its material."""
    torch.manual_seed(0)
    network = CodeGenerator(**{**TINY, **changes})
    material = dict(texts=torch.randn(5, 12), codebook=torch.randn(20, 3), codes=torch.randint(20, (10, 24)),
                    things=torch.arange(10) % 5, styles=torch.arange(10) // 5)
    network.begin_with(**material)
    return network, material


def test_drawings_that_it_begins_with_come_back():
    network, material = begun(draft_dim=9)  # 10 drawings vary in 9 directions
    style = torch.eye(2)[material["styles"]]
    texts = material["texts"][material["things"]]
    network.memory.log_sharpness.data.fill_(8.0)  # each text finds its own row
    assert torch.equal(network(texts, style).argmax(-1), material["codes"])


def test_hidden_rows_are_not_seen():
    network, material = begun()
    texts = (material["texts"] - network.text_mean) * network.text_scale
    hidden = torch.eye(5, dtype=torch.bool)
    weights = network.memory.weights(texts, hidden)
    assert weights.diagonal().abs().max() == 0
    assert_close(weights.sum(1), torch.ones(5))
    own = network.memory.weights(texts)
    assert torch.equal(own.argmax(1), torch.arange(5))
    style = torch.eye(2)[torch.zeros(5, dtype=torch.long)]
    seen = network(material["texts"], style)
    assert (network(material["texts"], style, hidden=hidden) - seen).abs().amax((1, 2)).min() > 1e-4


def test_sharpness_scales_the_lookup():
    network, material = begun()
    network.memory.log_sharpness.data.fill_(1.0)
    texts = (material["texts"] - network.text_mean) * network.text_scale
    own = network.memory.weights(texts)
    assert_close(network.memory.weights(texts, sharpness=3.0), F.normalize(own**3, p=1, dim=1))
    assert_close(network.memory.weights(texts, sharpness=0.0), torch.full((5, 5), 0.2))
    style = torch.eye(2)[torch.zeros(5, dtype=torch.long)]
    mixed = network(material["texts"], style, sharpness=0.0)
    assert (mixed - network(material["texts"], style)).abs().max() > 1e-3


def test_a_missing_style_takes_the_mean_of_the_others():
    torch.manual_seed(0)
    network = CodeGenerator(**TINY)
    codes = torch.randint(20, (3, 24))
    network.begin_with(texts=torch.randn(5, 12), codebook=torch.randn(20, 3), codes=codes,
                       things=torch.tensor([0, 1, 1]), styles=torch.tensor([0, 0, 1]))
    values = network.memory.values.unflatten(1, (2, 7))
    assert_close(values[0, 1], values[0, 0])
    assert (values[1, 1] - values[1, 0]).abs().max() > 1e-3
    assert values[2].abs().max() == 0


def test_it_comes_back_from_a_checkpoint(tmp_path):
    network, _ = begun()
    save_model(tmp_path / "x", network)
    again = load_model(CodeGenerator, tmp_path / "x")
    pooled, style = inputs()
    assert torch.equal(again(pooled, style), network.eval()(pooled, style))
    with pytest.raises(CheckpointMismatch):
        load_model(PixelGenerator, tmp_path / "x")


def test_what_it_refuses():
    for wrong in (dict(height=5), dict(codes=1), dict(styles=[])):
        with pytest.raises(BadParameter):
            CodeGenerator(**{**TINY, **wrong})
    network = CodeGenerator(**TINY)
    pooled, style = inputs()
    with pytest.raises(BadParameter, match="pooled features"):
        network(pooled[:, :5], style)
    with pytest.raises(BadParameter, match="weights of the styles"):
        network(pooled, style[:1])
    with pytest.raises(UnknownName, match="round"):
        network.style_weights(["rond"])
    with pytest.raises(BadParameter, match="5 rows"):
        network.memory.begin_with(torch.randn(4, 12), torch.randn(4, 2, 7))

"""The text transformer predicts from what it may see, reads its text in two ways, and decodes as it predicts."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from t2ilib.checkpoint import load_model, save_model
from t2ilib.errors import BadParameter, UnknownName
from t2ilib.layers.transformer import Squares
from t2ilib.memory import no_memory
from t2ilib.models.sizes import TEXT_TRANSFORMER
from t2ilib.models.text_transformer import MEAN_MASK_RATIO, POSITIONS, TEXT_FORMS, TextTransformer, mask_ratio

SMALL = dict(codes=20, height=3, width=4, dim=16, depth=2, heads=2, text_dim=6)
EACH = [(causal, text) for causal in (True, False) for text in TEXT_FORMS]
SQUARES = dict(height=4, width=6, merge=2, local_dim=8)


def network(seed=0, **changes):
    net = TextTransformer(**{**SMALL, **changes})
    g = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3, generator=g)
    return net.eval()


def inputs(batch=2, tokens=5):
    g = torch.Generator().manual_seed(1)
    codes = torch.randint(20, (batch, 12), generator=g)
    mask = torch.arange(tokens) < torch.tensor([tokens, 2])[:batch, None]
    return codes, (torch.randn(batch, tokens, 6, generator=g), mask, torch.randn(batch, 6, generator=g))


@pytest.mark.parametrize("causal, text", EACH)
def test_it_sees_what_it_may(causal, text):
    net = network(causal=causal, text=text)
    codes, condition = inputs()
    before = net(codes, *condition)
    assert before.shape == (2, 12, 20)
    for changed in range(12):
        other = codes.clone()
        other[:, changed] = (other[:, changed] + 1) % 20
        moved = ((net(other, *condition) - before).abs().amax((0, 2)) > 1e-6).tolist()
        assert moved == ([i > changed for i in range(12)] if causal else [True] * 12)


@pytest.mark.parametrize("causal, text", EACH)
@pytest.mark.parametrize("positions", POSITIONS)
def test_it_reads_the_text_and_no_padding(causal, text, positions):
    net = network(causal=causal, text=text, positions=positions)
    codes, (tokens, mask, pooled) = inputs()
    before = net(codes, tokens, mask, pooled)
    for change in ((tokens + mask[..., None], mask, pooled), (tokens, mask, pooled + 1)):
        assert ((net(codes, *change) - before).abs().amax((1, 2)) > 1e-4).all()
    padded = torch.where(mask[..., None], tokens, 9.0)
    assert_close(net(codes, padded, mask, pooled), before)
    longer = nn.functional.pad(tokens, (0, 0, 0, 3)), nn.functional.pad(mask, (0, 3)), pooled
    assert_close(net(codes, *longer), before)


@pytest.mark.parametrize("text", TEXT_FORMS)
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("given", [0, 1, 7])
def test_one_code_after_another_gives_the_same_logits(text, positions, given):
    net = network(causal=True, text=text, positions=positions)
    codes, condition = inputs()
    whole = net(codes, *condition)
    decoding = net.start(*condition)
    found = [net.next_logits(codes[:, :given], decoding)]
    for i in range(given, 11):
        found.append(net.next_logits(codes[:, i:i + 1], decoding))
    assert_close(torch.stack(found, 1), whole[:, given:], rtol=1e-5, atol=1e-5)
    assert_close(net(codes[:, :given + 1], *condition), whole[:, :given + 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("text", TEXT_FORMS)
def test_squares_see_all_codes_and_the_text(text):
    net = network(text=text, **SQUARES)
    codes = torch.randint(20, (2, 24), generator=torch.Generator().manual_seed(1))
    _, condition = inputs()
    before = net(codes, *condition)
    assert before.shape == (2, 24, 20)
    for changed in range(24):
        other = codes.clone()
        other[:, changed] = (other[:, changed] + 1) % 20
        assert ((net(other, *condition) - before).abs().amax((0, 2)) > 1e-6).all()
    tokens, mask, pooled = condition
    for change in ((tokens + mask[..., None], mask, pooled), (tokens, mask, pooled + 1)):
        assert ((net(codes, *change) - before).abs().amax((1, 2)) > 1e-4).all()


def test_a_square_is_made_of_neighbours():
    squares = Squares(grid=(4, 6), merge=2, local_dim=8, dim=16)
    nn.init.zeros_(squares.before.conv2.weight)  # the block is then only its shortcut, and mixes no neighbours
    x = torch.zeros(1, 24, 8)
    _, h = squares.join(x)
    for place in range(24):
        row, column = divmod(place, 6)
        other = x.clone()
        other[0, place] = torch.randn(8)
        moved = ((squares.join(other)[1] - h).abs().amax((0, 2)) > 1e-6).nonzero()[:, 0].tolist()
        assert moved == [row // 2 * 3 + column // 2]


@pytest.mark.parametrize("merge", [1, 2])
def test_logits_of_some_places(merge):
    net = network(**SQUARES | dict(merge=merge))
    codes = torch.randint(20, (2, 24), generator=torch.Generator().manual_seed(1))
    _, condition = inputs()
    at = torch.rand(2, 24) < 0.5
    assert_close(net(codes, *condition, at), net(codes, *condition)[at])


def test_masked_codes_differ_by_their_place():
    net = network()
    _, condition = inputs()
    logits = net(torch.full((2, 12), net.mask_token), *condition)
    distances = torch.cdist(logits[0], logits[0]) + torch.eye(12)
    assert distances.min() > 1e-3


@pytest.mark.parametrize("causal, text", EACH)
def test_without_text(causal, text):
    net = network(causal=causal, text=text)
    codes, condition = inputs()
    nothing = net.without_text(*condition, torch.tensor([True, True]))
    a, b = net(codes[:1].expand(2, -1), *nothing)
    assert_close(a, b)
    same = net.without_text(*condition, torch.tensor([False, False]))
    assert_close(net(codes, *same), net(codes, *condition))


def test_it_comes_back_from_its_checkpoint(tmp_path):
    net = network(causal=True, text="prefix", positions="axial")
    codes, condition = inputs()
    other = load_model(TextTransformer, save_model(tmp_path / "net", net))
    assert other.causal and other.has_prefix
    assert_close(other(codes, *condition), net(codes, *condition))


def test_sizes_fit_in_eight_mebibytes_of_eight_bits():
    with no_memory():
        counts = {name: sum(p.numel() for p in TextTransformer(**size).parameters())
                  for name, size in TEXT_TRANSFORMER.items()}
    assert max(counts.values()) < 8e6 and counts["small"] < 2e6 < counts["medium"] < 5e6


def test_the_share_of_masked_codes():
    assert_close(mask_ratio(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([1.0, 0.5**0.5, 0.0]), atol=1e-6, rtol=0)
    assert mask_ratio(torch.linspace(0, 1, 10_001)).mean().item() == pytest.approx(MEAN_MASK_RATIO, abs=1e-3)


@pytest.mark.parametrize("wrong, message", [
    (dict(text="prefixed"), "did you mean prefix"), (dict(positions="none"), "positions"), (dict(codes=1), "codebook"),
    (dict(dim=15), "multiple of heads"), (dict(dim=12, heads=2), "multiple of 4"),
    (dict(merge=2), "do not tile a grid of 3 x 4"), (dict(merge=2, causal=True, height=4), "one code after another"),
    (dict(merge=2, height=4, local_dim=12), "multiple of norm_groups")])
def test_bad_arguments(wrong, message):
    with pytest.raises((BadParameter, UnknownName), match=message):
        TextTransformer(**{**SMALL, **wrong})


def test_bad_codes():
    codes, condition = inputs()
    with pytest.raises(BadParameter, match=r"\(B, 12\)"):
        network()(codes[:, :11], *condition)
    with pytest.raises(BadParameter, match=r"\(B, 12\)"):
        network(causal=True)(codes.view(2, 3, 4), *condition)
    with pytest.raises(BadParameter, match="only a causal network"):
        network().start(*condition)

"""The transformer is its formula; causal means causal, a cache changes nothing, and rotary positions are relative."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from t2ilib.errors import BadParameter
from t2ilib.layers.transformer import KVCache, RotarySelfAttention, Transformer, rotary_grid, rotate, rotation_by


def awake(module, seed=0):
    """Give every weight a value: branches that start at zero would hide what reaches them."""
    g = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3, generator=g)
    return module.eval()


def rotation():
    return rotation_by(rotary_grid(3, 4, 4))


def test_rotary_positions_turn_with_row_and_column():
    angles = rotary_grid(3, 4, 8, base=100.0)
    assert angles.shape == (12, 4)
    assert_close(angles[4 * 2 + 3], torch.tensor([2.0, 0.2, 3.0, 0.3]))  # row 2, column 3
    with pytest.raises(BadParameter, match="multiple of 4"):
        rotary_grid(3, 4, 6)


def test_a_rotation_turns_pairs():
    x, angle = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[0.3, 1.1]])
    a, b = x[:, :2], x[:, 2:]
    expected = torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], 1)
    assert_close(rotate(x, rotation_by(angle)), expected)


def test_rotation_keeps_lengths_and_makes_products_relative():
    q, k = torch.randn(2, 1, 1, 1, 8)
    angles = rotary_grid(6, 6, 8)

    def product(i, j):
        a, b = (rotate(x, rotation_by(angles[[p]])) for x, p in ((q, i), (k, j)))
        assert_close(a.norm(), q.norm())
        return (a * b).sum()

    assert_close(product(6 * 1 + 1, 6 * 3 + 2), product(6 * 2 + 3, 6 * 4 + 4))  # two rows and one column apart
    assert not torch.isclose(product(0, 1), product(0, 6))  # a column is not a row


def test_self_attention_is_the_formula():
    layer = awake(RotarySelfAttention(dim=16, heads=4))
    x = torch.randn(2, 12, 16)
    h = F.layer_norm(x, (16,), layer.norm.weight, layer.norm.bias)
    q, k, v = (h @ layer.qkv.weight.T).chunk(3, -1)
    out = []
    for head in range(4):
        part = slice(4 * head, 4 * head + 4)
        a, b = (rotate(y[:, None, :, part], rotation())[:, 0] for y in (q, k))
        out.append((a @ b.mT / 2).softmax(-1) @ v[..., part])
    expected = torch.cat(out, -1) @ layer.out.weight.T + layer.out.bias
    assert_close(layer(x, rotation=rotation()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("prefix", [0, 3])
def test_who_sees_whom(causal, prefix):
    """Places see the prefix and what stands before them; one that is masked is seen by nobody."""
    network = awake(Transformer(dim=16, depth=2, heads=4, causal=causal))
    x = torch.randn(1, 8, 16)
    keep = torch.ones(1, 8, dtype=torch.bool)
    keep[0, 1] = False
    before = network(x, prefix=prefix, key_keep=keep)
    for changed in range(8):
        y = x.clone()
        y[0, changed] += torch.randn(16)
        moved = (network(y, prefix=prefix, key_keep=keep) - before).abs().amax(-1)[0] > 1e-6
        expected = torch.ones(8, dtype=torch.bool)
        if causal:
            expected[:changed] = changed < prefix  # a prefix sees all of itself
            if changed < prefix:
                expected[:] = True
        if changed == 1:
            expected[:] = False
            expected[1] = True  # its own row changes, through the sum
        assert torch.equal(moved, expected), changed


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("parts", [[12], [1] * 12, [5, 1, 1, 3, 2]])
def test_a_cache_changes_nothing(prefix, parts):
    network = awake(Transformer(dim=16, depth=3, heads=4, causal=True, context=True))
    x, text = torch.randn(2, 12, 16), torch.randn(2, 5, 16)
    text_keep = torch.arange(5) < torch.tensor([[5], [2]])
    context = network.read_context(text)
    cos, sin = rotation()
    whole = network(x, rotation=(cos, sin), prefix=prefix, context=context, context_keep=text_keep)
    if prefix:
        parts = [prefix, *([12 - prefix] if len(parts) == 1 else [1] * (12 - prefix))]
    caches = network.caches(12)
    found, first = [], 0
    for n in parts:
        part = slice(first, first + n)
        found.append(network(x[:, part], rotation=(cos[part], sin[part]), prefix=prefix, caches=caches,
                             context=context, context_keep=text_keep))
        first += n
    assert_close(torch.cat(found, 1), whole, rtol=1e-5, atol=1e-5)
    with pytest.raises(BadParameter, match="holds 12 positions, got 13"):
        network(x[:, :1], caches=caches, context=context, context_keep=text_keep)


def test_a_cache_keeps_what_it_was_given():
    cache = KVCache(4)
    k, v = torch.randn(2, 1, 2, 3, 5)
    cache.extend(k[:, :, :1], v[:, :, :1])
    keys, values = cache.extend(k[:, :, 1:], v[:, :, 1:])
    assert torch.equal(keys, k) and torch.equal(values, v) and cache.length == 3


@pytest.mark.parametrize("way", ["autocast", "weights"])
def test_half_precision(way):
    network = awake(Transformer(dim=16, depth=2, heads=4, causal=True, context=True))
    x, text, keep = torch.randn(2, 12, 16), torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.bool)
    exact = network(x, rotation=rotation(), context=network.read_context(text), context_keep=keep)
    if way == "weights":
        network.bfloat16()
        x, text = x.bfloat16(), text.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        context = network.read_context(text)
        caches = network.caches(12)
        found = [network(x[:, i:i + 1], rotation=tuple(part[i:i + 1] for part in rotation()), caches=caches,
                         context=context, context_keep=keep) for i in range(12)]
    found = torch.cat(found, 1).float()
    assert found.isfinite().all()
    assert (found - exact).norm() / exact.norm() < 0.05


def test_bad_widths_are_refused():
    for sizes in (dict(dim=10, heads=4, depth=1), dict(dim=8, heads=4, depth=0)):
        with pytest.raises(BadParameter, match="multiple of heads"):
            Transformer(**sizes)

"""PixelSNAIL sees nothing at or behind a code, decodes as it predicts, and is the public port with its weights."""

import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from t2ilib.checkpoint import load_model, save_model
from t2ilib.errors import BadParameter, CheckpointMismatch
from t2ilib.layers.causal import strictly_causal
from t2ilib.memory import no_memory
from t2ilib.models.pixelsnail import PixelSNAIL
from t2ilib.models.pixelsnail_port import load_port
from t2ilib.models.sizes import PIXELSNAIL

SMALL = dict(codes=20, height=3, width=4, channels=8, hidden=6, blocks=2, res_blocks=1, heads=2, text_dim=6)
PORT = dict(text_dim=0, embedding=False, sees_itself=False)


def network(seed=0, **changes):
    net = PixelSNAIL(**{**SMALL, **changes})
    g = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3, generator=g)
    return net.eval()


def inputs(net, batch=2, tokens=5):
    """Return codes (B, N) and conditions by name, those that the network reads."""
    g = torch.Generator().manual_seed(1)
    codes = torch.randint(net.codes, (batch, net.places), generator=g)
    condition = {}
    if net.has_text:
        condition["tokens"] = torch.randn(batch, tokens, 6, generator=g)
        condition["mask"] = torch.arange(tokens) < torch.tensor([tokens, 2])[:batch, None]
        condition["pooled"] = torch.randn(batch, 6, generator=g)
    if net.coarse is not None:
        condition["coarse"] = torch.randint(net.codes, (batch, net.grid[0] // 2, net.grid[1] // 2), generator=g)
    return codes, condition


def configurations(count=10):
    """Return random arguments: with a text, with coarse codes, with both, with neither, and as the port has them."""
    chance = random.Random(0)
    found = []
    for i in range(count):
        kind = i % 5
        coarse = kind in (1, 2)
        sides = [chance.choice([2, 4, 6]) if coarse else chance.randint(2, 5) for _ in range(2)]
        heads = chance.choice([1, 2])
        arguments = dict(height=sides[0], width=sides[1], kernel=chance.choice([3, 5, 7]), heads=heads,
                         channels=2 * heads * chance.randint(1, 3), hidden=chance.randint(2, 6),
                         blocks=chance.randint(1, 3), res_blocks=chance.randint(1, 2), out_blocks=chance.randint(0, 1),
                         text_dim=6 if kind in (0, 1) else 0,
                         plan_depth=chance.randint(1, 2) if kind in (0, 1) else 0,
                         coarse_blocks=chance.randint(1, 2) if coarse else 0)
        if kind == 4:
            arguments |= PORT | dict(attention=chance.random() < 0.5)
        found.append(arguments)
    return found


@pytest.mark.parametrize("arguments", configurations(), ids=str)
def test_it_sees_nothing_at_or_behind_a_code(arguments):
    net = network(**arguments).double()
    codes, condition = inputs(net)
    condition = {name: x.double() if x.is_floating_point() else x for name, x in condition.items()}
    before = net(codes, **condition)
    assert before.shape == (2, net.places, 20)
    for place in range(net.places):
        other = codes.clone()
        other[:, place] = (other[:, place] + 1 + place % 7) % 20
        moved = (net(other, **condition) - before).abs().amax((0, 2))
        assert not moved[:place + 1].any()
        row, column = divmod(place, net.grid[1])
        moved = moved.view(net.grid)  # a code at the end of a row is not seen at the beginning of the next
        assert (moved[row, column + 1:column + 2] > 1e-12).all() and (moved[row + 1:row + 2, column] > 1e-12).all()


@pytest.mark.parametrize("arguments", configurations(), ids=str)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_one_code_after_another_gives_the_same_logits(arguments, count):
    net = network(**arguments)
    codes, condition = inputs(net)
    whole = net(codes, **condition)
    decoding = net.start(**condition)
    found = [net.next_logits(codes[:, :count], decoding)]
    for i in range(count, net.places - 1):
        found.append(net.next_logits(codes[:, i:i + 1], decoding))
    assert_close(torch.stack(found, 1), whole[:, count:], rtol=1e-5, atol=1e-5)
    assert_close(net(codes[:, :count + 1], **condition), whole[:, :count + 1], rtol=1e-5, atol=1e-5)


def test_it_reads_the_text_and_no_padding():
    net = network()
    codes, condition = inputs(net)
    tokens, mask, pooled = condition.values()
    before = net(codes, tokens, mask, pooled)
    for change in ((tokens + mask[..., None], mask, pooled), (tokens, mask, pooled + 1)):
        moved = (net(codes, *change) - before).abs().amax(2)
        assert (moved > 1e-4).all()  # of every place, the first too
    padded = torch.where(mask[..., None], tokens, 9.0)
    assert_close(net(codes, padded, mask, pooled), before)
    longer = F.pad(tokens, (0, 0, 0, 3)), F.pad(mask, (0, 3)), pooled
    assert_close(net(codes, *longer), before)


def test_coarse_codes_are_seen_in_full():
    net = network(height=4, width=4, coarse_blocks=1)
    codes, condition = inputs(net)
    before = net(codes, **condition)
    other = condition["coarse"].clone()
    other[:, -1, -1] = (other[:, -1, -1] + 1) % 20
    moved = (net(codes, **{**condition, "coarse": other}) - before).abs().amax((0, 2))
    assert moved[-1] > 1e-4 and moved[0] > 1e-6


def test_without_text():
    net = network()
    codes, condition = inputs(net)
    text = tuple(condition.values())
    nothing = net.without_text(*text, torch.tensor([True, True]))
    a, b = net(codes[:1].expand(2, -1), *nothing)
    assert_close(a, b)
    assert_close(net(codes, *net.without_text(*text, torch.tensor([False, False]))), net(codes, *text))


def test_logits_of_some_places():
    net = network()
    codes, condition = inputs(net)
    at = torch.rand(2, 12) < 0.5
    assert_close(net(codes, **condition, at=at), net(codes, **condition)[at])


@pytest.mark.parametrize("arguments", [{}, dict(height=4, coarse_blocks=1), PORT])
def test_gradients(arguments):
    net = network(**arguments, dropout=0.0).double()
    codes, condition = inputs(net)
    condition = {name: x.double() if x.is_floating_point() else x for name, x in condition.items()}
    loss = F.cross_entropy(net(codes, **condition).flatten(0, 1), codes.flatten())
    names = [name for name, _ in net.named_parameters() if not name.startswith("null_")]
    gradients = torch.autograd.grad(loss, [net.get_parameter(name) for name in names])
    for name, gradient in zip(names, gradients, strict=True):
        parameter = net.get_parameter(name)
        place = int(gradient.abs().argmax())
        assert gradient.abs().max() > 0, name
        with torch.no_grad():
            losses = []
            for step in (1e-5, -2e-5):
                parameter.view(-1)[place] += step
                losses.append(F.cross_entropy(net(codes, **condition).flatten(0, 1), codes.flatten()))
            parameter.view(-1)[place] += 1e-5
        assert_close((losses[0] - losses[1]) / 2e-5, gradient.reshape(-1)[place], rtol=1e-4, atol=1e-9)


def test_a_masked_kernel_gets_no_gradient_where_it_does_not_see():
    net = network(kernel=3)
    codes, condition = inputs(net)
    net(codes, **condition).sum().backward()
    gradient = net.blocks[0].res_blocks[0].first.weight.grad
    assert gradient[:, :, 2, 2].abs().max() == 0 and (gradient[:, :, 2, 1].abs().max() > 0).all()


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_strictly_causal_attention_is_its_definition(prefix):
    q, k, v = torch.randn(3, 2, 3, 7, 4, dtype=torch.float64).unbind()
    extra = tuple(torch.randn(2, 2, 3, prefix, 4, dtype=torch.float64).unbind()) if prefix else None
    keep = torch.tensor([[True] * prefix, [True] + [False] * (prefix - 1)]) if prefix else None
    found = strictly_causal(q, k, v, extra, keep)
    for b in range(2):
        for i in range(7):
            keys = k[b, :, :i]
            values = v[b, :, :i]
            if prefix:
                keys = torch.cat([extra[0][b][:, keep[b]], keys], dim=1)
                values = torch.cat([extra[1][b][:, keep[b]], values], dim=1)
            expected = torch.zeros(3, 4, dtype=torch.float64)
            if keys.shape[1]:
                scores = (keys @ q[b, :, i, :, None])[..., 0] / 2  # (heads, keys)
                expected = (scores.softmax(-1)[..., None] * values).sum(1)
            assert_close(found[b, :, i], expected)


# --- the public port, written out from its description ----------------------------------------------------------------


def port_state(*, codes, grid, channels, hidden, kernel, blocks, res_blocks, attention, coarse, out_blocks):  # noqa: C901
    """Return random weights under the port's names."""
    g = torch.Generator().manual_seed(3)
    state = {"background": torch.zeros(1, 2, *grid)}

    def layer(name, out, into, *kernel, bias=True):
        state[name + ".weight_v"] = torch.randn(out, into, *kernel, generator=g)
        state[name + ".weight_g"] = 0.5 + torch.rand(out, *[1] * (1 + len(kernel)), generator=g)
        if bias:
            state[name + ".bias"] = torch.randn(out, generator=g) * 0.2

    def gated(name, into, inside, k, ending, extra=0, condition=0):
        layer(f"{name}.conv1.{ending}", inside, into, k, k)
        layer(f"{name}.conv2.{ending}", 2 * into, inside, k, k)
        if extra:
            layer(f"{name}.aux_conv.conv", inside, extra, 1, 1)
        if condition:
            layer(f"{name}.condition.conv", 2 * into, condition, 1, 1, bias=False)

    layer("horizontal.conv.conv", channels, codes, kernel // 2, kernel)
    layer("vertical.conv.conv", channels, codes, (kernel + 1) // 2, kernel // 2)
    for i in range(blocks):
        for j in range(res_blocks):
            gated(f"blocks.{i}.resblocks.{j}", channels, hidden, kernel, "conv.conv",
                  condition=channels if coarse else 0)
        if attention:
            gated(f"blocks.{i}.key_resblock", 2 * channels + 2, channels, 1, "conv")
            gated(f"blocks.{i}.query_resblock", channels + 2, channels, 1, "conv")
            layer(f"blocks.{i}.causal_attention.query", channels // 2, channels + 2)
            layer(f"blocks.{i}.causal_attention.key", channels // 2, 2 * channels + 2)
            layer(f"blocks.{i}.causal_attention.value", channels // 2, 2 * channels + 2)
            gated(f"blocks.{i}.out_resblock", channels, channels, 1, "conv", extra=channels // 2)
        else:
            layer(f"blocks.{i}.out.conv", channels, channels + 2, 1, 1)
    if coarse:
        layer("cond_resnet.blocks.0.conv", channels, codes, 3, 3)
        for j in range(coarse):
            gated(f"cond_resnet.blocks.{j + 1}", channels, channels, 3, "conv")
    for j in range(out_blocks):
        gated(f"out.{j}", channels, hidden, 1, "conv")
    layer(f"out.{out_blocks + 1}.conv", codes, channels, 1, 1)
    return state


def port_logits(state, codes, coarse=None):  # noqa: C901 - in one piece, as it is described
    """Return logits (B, H, W, K) of codes (B, H, W) by the port's arithmetic, in its order, with explicit attention."""
    height, width = codes.shape[1:]
    many = state["horizontal.conv.conv.weight_v"].shape[1]
    kernel = state["horizontal.conv.conv.weight_v"].shape[3]

    def weight(name, hidden_from=None):
        v = state[name + ".weight_v"].clone()
        if hidden_from is not None:
            v[:, :, -1, hidden_from:] = 0
        norm = v.flatten(1).norm(dim=1).view(state[name + ".weight_g"].shape)
        return state[name + ".weight_g"] * v / norm

    def conv(name, x, padding=0):
        return F.conv2d(x, weight(name), state.get(name + ".bias"), padding=padding)

    def causal(name, x):
        x = F.pad(x, (kernel // 2, kernel // 2, kernel - 1, 0))
        return F.conv2d(x, weight(name, kernel // 2), state[name + ".bias"])

    def gated(name, x, apply, ending, extra=None, condition=None):
        h = apply(f"{name}.conv1.{ending}", F.elu(x))
        if extra is not None:
            h = h + conv(f"{name}.aux_conv.conv", F.elu(extra))
        h = apply(f"{name}.conv2.{ending}", F.elu(h))
        if condition is not None:
            h = h + conv(f"{name}.condition.conv", condition)
        value, gate = h.chunk(2, dim=1)
        return x + value * gate.sigmoid()

    x = F.one_hot(codes, many).permute(0, 3, 1, 2).float()
    above = conv("horizontal.conv.conv", F.pad(x, (kernel // 2, kernel // 2, kernel // 2 - 1, 0)))
    above = F.pad(above, (0, 0, 1, 0))[:, :, :height]
    left = conv("vertical.conv.conv", F.pad(x, (kernel // 2 - 1, 0, (kernel + 1) // 2 - 1, 0)))
    left = F.pad(left, (1, 0))[:, :, :, :width]
    h = above + left
    rows = (torch.arange(height).float() - height / 2) / height
    columns = (torch.arange(width).float() - width / 2) / width
    background = torch.stack([rows[:, None].expand(height, width), columns.expand(height, width)])
    background = background.expand(len(codes), -1, -1, -1)
    condition = None
    if coarse is not None:
        condition = F.one_hot(coarse, many).permute(0, 3, 1, 2).float()
        condition = conv("cond_resnet.blocks.0.conv", condition, 1)
        for j in range(1, 1 + sum(f"cond_resnet.blocks.{j}.conv1.conv.bias" in state for j in range(9))):
            condition = gated(f"cond_resnet.blocks.{j}", condition, lambda n, x: conv(n, x, 1), "conv")
        condition = F.interpolate(condition, scale_factor=2)
    for i in range(sum(f"blocks.{i}.resblocks.0.conv1.conv.conv.bias" in state for i in range(9))):
        before = h
        for j in range(sum(f"blocks.{i}.resblocks.{j}.conv1.conv.conv.bias" in state for j in range(9))):
            h = gated(f"blocks.{i}.resblocks.{j}", h, causal, "conv.conv", condition=condition)
        if f"blocks.{i}.out.conv.bias" in state:
            h = conv(f"blocks.{i}.out.conv", torch.cat([h, background], 1))
            continue
        key = gated(f"blocks.{i}.key_resblock", torch.cat([before, h, background], 1), conv, "conv")
        query = gated(f"blocks.{i}.query_resblock", torch.cat([h, background], 1), conv, "conv")
        parts = {}
        for name, source in (("query", query), ("key", key), ("value", key)):
            full = f"blocks.{i}.causal_attention.{name}"
            flat = F.linear(source.flatten(2).transpose(1, 2), weight(full), state[full + ".bias"])
            parts[name] = flat.unflatten(-1, (8, -1)).transpose(1, 2)
        scores = parts["query"] @ parts["key"].transpose(2, 3) / parts["query"].shape[-1] ** 0.5
        order = torch.ones(height * width, height * width).tril(-1)
        attention = scores.masked_fill(order == 0, -1e4).softmax(-1)
        attention = attention * (torch.arange(height * width) > 0)[:, None]  # nothing for the first place
        found = (attention @ parts["value"]).transpose(1, 2).flatten(2).transpose(1, 2).unflatten(2, (height, width))
        h = gated(f"blocks.{i}.out_resblock", h, conv, "conv", extra=found)
    for j in range(9):
        if f"out.{j}.conv1.conv.bias" in state:
            h = gated(f"out.{j}", h, conv, "conv")
        elif f"out.{j}.conv.bias" in state:
            h = conv(f"out.{j}.conv", F.elu(h))
    return h.permute(0, 2, 3, 1)


PORTS = [dict(kernel=5, attention=True, coarse=0, out_blocks=0), dict(kernel=3, attention=True, coarse=2, out_blocks=1),
         dict(kernel=5, attention=False, coarse=1, out_blocks=2)]


@pytest.mark.parametrize("kind", PORTS, ids=str)
def test_weights_of_the_port_give_its_logits(kind):
    state = port_state(codes=12, grid=(4, 6), channels=16, hidden=10, blocks=2, res_blocks=2, **kind)
    net = load_port(state)
    codes = torch.randint(12, (2, 4, 6), generator=torch.Generator().manual_seed(0))
    coarse = torch.randint(12, (2, 2, 3), generator=torch.Generator().manual_seed(1)) if kind["coarse"] else None
    expected = port_logits(state, codes, coarse)
    condition = {} if coarse is None else {"coarse": coarse}
    assert_close(net(codes.flatten(1), **condition).view_as(expected), expected, rtol=1e-4, atol=1e-5)


def test_bad_weights_of_the_port():
    state = port_state(codes=12, grid=(4, 6), channels=16, hidden=10, blocks=1, res_blocks=1, **PORTS[1])
    with pytest.raises(BadParameter, match="no weights of the port"):
        load_port({name: tensor for name, tensor in state.items() if name != "background"})
    with pytest.raises(CheckpointMismatch, match="1 missing: blocks.0.query_block.second.bias"):
        load_port({name: tensor for name, tensor in state.items() if name != "blocks.0.query_resblock.conv2.conv.bias"})
    with pytest.raises(BadParameter, match="as many channels"):
        load_port(state | {"cond_resnet.blocks.0.conv.weight_v": torch.zeros(8, 12, 3, 3)})


# --- the rest ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [{}, dict(height=4, coarse_blocks=2), PORT])
def test_it_comes_back_from_its_checkpoint(tmp_path, arguments):
    net = network(**arguments)
    codes, condition = inputs(net)
    other = load_model(PixelSNAIL, save_model(tmp_path / "net", net))
    assert torch.equal(other(codes, **condition), net(codes, **condition))


def test_a_new_network_says_nothing_wild():
    net = PixelSNAIL(**SMALL).eval()
    codes, condition = inputs(net)
    assert net(codes, **condition).std() < 1


def test_sizes_fit_in_six_mebibytes_of_eight_bits(tmp_path):
    with no_memory():
        counts = {name: sum(p.numel() for p in PixelSNAIL(**size).parameters()) for name, size in PIXELSNAIL.items()}
    assert counts["small"] < 1e6 < 3e6 < counts["shipped"] and counts["original"] > 6e7
    net = PixelSNAIL(codes=1024, text_dim=384, **PIXELSNAIL["shipped"])  # as many codes as emoji-vqvae has
    folder = save_model(tmp_path / "net", net, dtype=torch.int8)
    assert (folder / "model.safetensors").stat().st_size < 6 * 2**20


@pytest.mark.parametrize("wrong, message", [
    (dict(codes=1), "codebook"), (dict(height=0), "grid"), (dict(blocks=0), "a block"), (dict(kernel=4), "odd kernel"),
    (dict(kernel=1), "odd kernel"), (dict(channels=6), "multiple of 2"), (dict(attention=False), "reads no text"),
    (dict(sees_itself=False), "reads no text"), (dict(coarse_blocks=1), "even sides"),
    (dict(text_dim=0, plan_depth=1), "a plan is made from a text")])
def test_bad_arguments(wrong, message):
    with pytest.raises(BadParameter, match=message):
        PixelSNAIL(**{**SMALL, **wrong})


def test_bad_inputs():
    net = network()
    codes, condition = inputs(net)
    with pytest.raises(BadParameter, match="n up to 12"):
        net(F.pad(codes, (0, 1)), **condition)
    with pytest.raises(BadParameter, match="n up to 12"):
        net(codes.view(2, 3, 4), **condition)
    with pytest.raises(BadParameter, match="reads a text .* and no coarse codes"):
        net(codes)
    with pytest.raises(BadParameter, match="reads a text .* and no coarse codes"):
        net(codes, **condition, coarse=codes)
    with pytest.raises(BadParameter, match="reads no text"):
        network(text_dim=0)(codes, **condition)
    finer = network(height=4, text_dim=0, coarse_blocks=1)
    with pytest.raises(BadParameter, match=r"coarse codes must be \(B, 2, 2\)"):
        finer.start(coarse=torch.zeros(2, 2, 3).long())
    decoding = net.start(**condition)
    net.next_logits(codes[:, :11], decoding)
    with pytest.raises(BadParameter, match="n up to 0"):
        net.next_logits(codes[:, :1], decoding)

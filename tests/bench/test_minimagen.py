"""The classic loop and ours do the same work when told the same target and schedule, and both are measured alike."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from t2ilib.bench import minimagen
from t2ilib.bench.classic_imagen import STEPS, TOKENS, ClassicImagen, encode_each
from t2ilib.bench.minimagen import OurImagen, Shape, explicit_attention
from t2ilib.data.text_features import encode_texts
from t2ilib.diffusion import Schedule, posterior, threshold_x0, to_x0_eps
from t2ilib.layers import unet_blocks
from t2ilib.layers.attention import attend
from t2ilib.models.imagen_unet import ImagenUNet

CPU, LINEAR = torch.device("cpu"), Schedule("linear")
CAPTIONS = ["a red heart", "a cat", "two blue birds on a long branch", "sun"]
TINY = dict(dim=8, dim_mults=[1, 2], text_embed_dim=12, attn_heads=2, attn_dim_head=8, init_kernels=[3],
            layer_attns=[False, True], layer_cross_attns=[False, True])
LEAST = {**TINY, "dim_mults": [1], "layer_attns": True, "layer_cross_attns": True, "final_resnet_block": False}
SHAPES = (Shape("tiny", 16, 2, LEAST), Shape("larger", 16, 2, {**LEAST, "lowres_cond": True}, low_size=8))


class Words:
    """A text encoder with a token for each word, which counts its calls."""

    name, device = "words", CPU

    def __init__(self):
        self.model, self.calls = nn.Embedding(64, 12).requires_grad_(False), 0

    def encode(self, texts):
        self.calls += 1
        rows = [self.model(torch.tensor([sum(map(ord, word)) % 64 for word in text.split()])) for text in texts]
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True).half().float()  # what half precision keeps
        mask = torch.arange(tokens.shape[1]) < torch.tensor([len(r) for r in rows])[:, None]
        return tokens, mask, torch.stack([F.normalize(r.mean(0), dim=0) for r in rows])


@pytest.fixture
def words():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        yield Words()


def network(**changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = ImagenUNet(**TINY, **changes)
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.1)  # layers that start at zero would hide what they are given
    return net


@pytest.mark.parametrize("low_size", [None, 8])
def test_both_compute_the_same_loss_and_gradient(words, low_size):
    net = network(lowres_cond=low_size is not None)
    classic = ClassicImagen(net, words, low_size=low_size)
    ours = OurImagen(copy.deepcopy(net), torch.float32, low_size=low_size)
    g = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 4, 3, 16, 16, generator=g)
    steps, drop = torch.tensor([0, 17, 500, STEPS - 1]), torch.tensor([False, False, True, False])
    smaller = classic.smaller(x_0)
    assert smaller.keys() == ours.smaller(x_0).keys() == ({"low", "low_t"} if low_size else set())
    long, short = classic.encode(CAPTIONS), encode_texts(words, CAPTIONS).batch(range(4))
    assert long[0].shape == (4, TOKENS, 12) and short[0].shape == (4, 7, 12)
    expected = classic.loss(x_0, long, steps, eps, drop, smaller)
    found = ours.loss(x_0, short, steps / (STEPS - 1), eps, drop, smaller, target="eps", schedule=LINEAR,
                      weighting="none")
    assert_close(found, expected, rtol=1e-4, atol=1e-6)
    expected.backward()
    found.backward()
    for (name, a), b in zip(ours.network.named_parameters(), net.parameters(), strict=True):
        assert_close(a.grad, b.grad, rtol=1e-2, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
    other = ours.loss(x_0, short, steps / (STEPS - 1), eps, drop, smaller)
    assert not torch.allclose(other, found, rtol=1e-2)


def test_texts_are_read_one_by_one_or_once(words):
    classic, x_0 = ClassicImagen(network(), words), torch.zeros(4, 3, 16, 16)
    classic.step(x_0, CAPTIONS)
    assert words.calls == 4
    features = encode_texts(words, CAPTIONS)
    ours, before = OurImagen(network(), torch.float32), words.calls
    start = copy.deepcopy(ours.network.state_dict())
    ours.step(x_0, features.batch(range(4)))
    assert words.calls == before
    for a, b in zip(encode_each(words, CAPTIONS, CPU), features.batch(range(4)), strict=True):
        assert_close(a, b)
    moved = [name for name, value in ours.network.state_dict().items() if not torch.equal(value, start[name])]
    averaged = [n for n, value in ours.ema.model.state_dict().items() if not torch.equal(value, start[n])]
    assert moved and averaged == moved


def test_a_compiled_network_takes_the_place_of_ours(words):
    class Compiled:
        """As what torch.compile returns: it can be called, and neither counted nor asked whether it is true."""

        def __init__(self, network):
            self.network, self.calls = network, 0

        def __call__(self, *args, **more):
            self.calls += 1
            return self.network(*args, **more)

        def __len__(self):
            raise TypeError

    ours, features = OurImagen(network(), torch.float32), encode_texts(words, CAPTIONS)
    compiled, x_t = Compiled(ours.network), torch.randn(4, 3, 16, 16)
    text = features.batch(range(4))
    assert torch.equal(ours.sample(x_t, text, {}, steps=2, forward=compiled), ours.sample(x_t, text, {}, steps=2))
    ours.step(x_t, text, forward=compiled)
    assert compiled.calls == 3


def test_a_classic_walk_is_the_formula(words):
    net = network()
    classic = ClassicImagen(net, words)
    text, x_t = classic.encode(CAPTIONS), torch.randn(4, 3, 16, 16)
    state = classic.stream.get_state()
    found = classic.sample(x_t, text, {}, count=2)
    classic.stream.set_state(state)
    nothing = net.without_text(*text, torch.ones(4, dtype=torch.bool))
    for i in (STEPS - 1, STEPS - 2):
        t, s = torch.full((4,), i / (STEPS - 1)), torch.full((4,), (i - 1) / (STEPS - 1))
        with torch.no_grad():
            eps = 5 * net(x_t, t, *text) - 4 * net(x_t, t, *nothing)
        x_0, _ = to_x0_eps(x_t, t, eps, target="eps", schedule=LINEAR)
        mean, variance = posterior(threshold_x0(x_0, percentile=0.9), x_t, s, t, schedule=LINEAR)
        x_t = mean + variance.sqrt() * torch.randn(x_t.shape, generator=classic.stream)
    assert_close(found, x_t, rtol=1e-3, atol=1e-3)


def test_explicit_attention_is_the_fused_one():
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(2, 3, 5, 8, generator=g), *torch.randn(2, 2, 3, 7, 8, generator=g)
    mask = torch.rand(2, 1, 1, 7, generator=g) < 0.7
    mask[..., 0] = True
    for keep in (None, mask):
        assert_close(explicit_attention(q, k, v, keep), F.scaled_dot_product_attention(q, k, v, attn_mask=keep))
        with minimagen._fused():
            assert_close(attend(q, k[:, :1], v[:, :1], keep), explicit_attention(q, k[:, :1], v[:, :1], keep))


def test_rows_tell_speed_memory_levers_and_passes(words, monkeypatch):
    asked = []
    monkeypatch.setattr(minimagen, "explicit_attention",
                        lambda *args, **more: asked.append(1) or explicit_attention(*args, **more))
    rows = list(minimagen.minimagen_rows(CPU, 0.0, shapes=SHAPES, ablation=SHAPES[1], text_encoder=words,
                                         captions=CAPTIONS, classic_steps=2, steps=3, least=1))
    assert asked and unet_blocks.attend is attend  # explicit attention was used, and is gone
    tiny, larger = ([r for r in rows if r.shape == shape.name] for shape in SHAPES)
    both = {"classic", "classic, fused attention", "ours"}
    assert {r.provider for r in tiny} == both
    assert {r.provider for r in larger} - both - {"ours, float32", "ours, bfloat16"} == {
        "ours, texts encoded in the loop", "ours, 256 tokens", "ours, explicit attention", "ours, fused attention",
        "ours, channels last", "ours, checkpointed"}
    assert len({r.provider for r in larger}) == 10
    assert {(r.mode, r.metric) for r in rows} == {
        ("training", "pictures/s"), ("peak of tensors", "MiB"), ("sampling, 1000 steps, scaled from 2", "s a picture"),
        ("sampling, 3 steps", "s a picture"), ("network passes, 1000 steps, scaled from 2", "calls"),
        ("network passes, 1000 steps, scaled from 2", "a picture"), ("network passes, 3 steps", "calls"),
        ("network passes, 3 steps", "a picture")}
    assert all(r.p20 <= r.p50 <= r.p80 and r.p50 > 0 for r in rows)
    assert all(r.ratio == 1.0 for r in rows if r.provider == "classic")
    peak = {r.provider: r.p50 for r in larger if r.metric == "MiB"}
    assert peak["ours, checkpointed"] < peak["ours"] < peak["ours, 256 tokens"]
    passes = {(r.provider, r.metric): (r.p50, r.ratio) for r in tiny if r.mode.startswith("network")}
    assert passes == {("classic", "calls"): (2000, 1), ("classic", "a picture"): (2000, 1),
                      ("ours", "calls"): (3, pytest.approx(2000 / 3, abs=0.01)),
                      ("ours", "a picture"): (6, pytest.approx(1000 / 3, abs=0.01))}
    speed = {r.provider: r for r in tiny if r.metric == "s a picture"}
    assert speed["ours"].ratio == pytest.approx(speed["classic"].p50 / speed["ours"].p50, rel=0.1)

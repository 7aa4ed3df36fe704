"""The classic loop and ours do the same work when told the same target and schedule, and both are measured alike."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from t2ilib.bench import imagen_training, minimagen
from t2ilib.bench.classic_imagen import STEPS, TOKENS, ClassicImagen, encode_each, explicit_attention
from t2ilib.bench.imagen_variants import Material, Shape, Variant, variants
from t2ilib.cascade import Cascade, Stage
from t2ilib.data.text_features import encode_texts
from t2ilib.diffusion import Schedule, posterior, threshold_x0, to_x0_eps
from t2ilib.layers.attention import attend, fused_attention
from t2ilib.layers.unet_blocks import CrossAttention, SelfAttention, set_attention
from t2ilib.models.imagen_unet import ImagenUNet
from t2ilib.models.sizes import IMAGEN
from t2ilib.runtime import generator
from t2ilib.training import DiffusionBatch, DiffusionTraining, make_fabric

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
    other = copy.deepcopy(net)
    ours = DiffusionTraining(other, make_fabric(), target="eps", schedule=LINEAR)
    g = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 4, 3, 16, 16, generator=g)
    steps, drop = torch.tensor([0, 17, 500, STEPS - 1]), torch.tensor([False, False, True, False])
    smaller = classic.smaller(x_0)
    assert smaller.keys() == ({"low", "low_t"} if low_size else set())
    long, short = classic.encode(CAPTIONS), encode_texts(words, CAPTIONS).batch(range(4))
    assert long[0].shape == (4, TOKENS, 12) and short[0].shape == (4, 7, 12)
    expected = classic.loss(x_0, long, steps, eps, drop, smaller)
    batch = DiffusionBatch(x_0, short, drop, steps / (STEPS - 1), eps, tuple(smaller.values()))
    found = ours.loss(batch)
    assert_close(found, expected, rtol=1e-4, atol=1e-6)
    expected.backward()
    ours.fabric.backward(found)
    for (name, a), b in zip(other.named_parameters(), net.parameters(), strict=True):
        assert_close(a.grad, b.grad, rtol=1e-2, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
    recipe = DiffusionTraining(copy.deepcopy(net), make_fabric()).loss(batch)
    assert not torch.allclose(recipe, found, rtol=1e-2)


@pytest.fixture
def material(words):
    return Material(SHAPES[1], CPU, words, CAPTIONS)


def test_our_step_is_that_of_the_notebook(material, words):
    """AdamW, v, no weights, static thresholding: what `DiffusionTraining` and `Cascade` do if nothing else is asked."""
    loop = imagen_training.RecipeLoop(material, Variant("ours"))
    batch = loop.draw()
    assert batch.low and batch.x_0.shape == (2, 3, 16, 16) and torch.equal(batch.x_0, material.pictures)
    other = DiffusionTraining(copy.deepcopy(material.network), make_fabric(), fused=True)
    assert torch.equal(loop.training.step(batch), other.step(batch))
    for a, b in zip(loop.training.ema.model.parameters(), other.ema.model.parameters(), strict=True):
        assert torch.equal(a, b)
    laptop = minimagen.CPU_SHAPES[0]
    assert laptop.network == IMAGEN["base"] and laptop.batch == 32


def test_our_drawing_is_the_library_s(words):
    material = Material(SHAPES[0], CPU, words, CAPTIONS)
    net, draw = minimagen.our_sampler(material, Variant("ours"), 3)
    cascade = Cascade([Stage(net, 16)], words, precision="float32")
    expected = cascade.sample(material.captions[:4], steps=3, guidance_scale=5.0,
                              generators=[generator(0, "bench", "draw", i) for i in range(4)])
    assert_close(draw(), expected[0], rtol=1e-3, atol=1e-3)  # features are kept in half precision


def test_texts_are_read_one_by_one_or_once(material, words):
    before = words.calls
    imagen_training.ClassicLoop(material, Variant("classic", classic=True)).step()
    assert words.calls == before + 2
    ours = imagen_training.RecipeLoop(material, Variant("ours"))
    ours.step()
    assert words.calls == before + 2
    in_loop = imagen_training.RecipeLoop(material, Variant("x", encode_in_loop=True))
    padded = imagen_training.RecipeLoop(material, Variant("x", tokens=TOKENS))
    texts = [loop.draw().text for loop in (imagen_training.RecipeLoop(material, Variant("ours")), in_loop, padded)]
    assert words.calls == before + 4
    for a, b in zip(texts[0], texts[1], strict=True):
        assert_close(a, b)
    length = texts[0][1].shape[1]
    assert texts[2][0].shape[1] == TOKENS and not texts[2][1][:, length:].any()
    assert torch.equal(texts[2][0][:, :length], texts[0][0])
    for a, b in zip(encode_each(words, CAPTIONS, CPU), encode_texts(words, CAPTIONS).batch(range(4)), strict=True):
        assert_close(a, b)


def test_variants_differ_in_one_thing_and_begin_alike(material):
    found = variants(CPU, levers=True)
    names = [variant.name for variant in found]
    assert len(set(names)) == len(names) and names[:3] == ["classic", "classic, fused attention", "ours"]
    networks = [material.copy_of_network(variant) for variant in found]
    for net, variant in zip(networks, found, strict=True):
        blocks = [m for m in net.modules() if isinstance(m, (CrossAttention, SelfAttention))]
        assert blocks and {m.attend for m in blocks} == {variant.attention or attend}
        assert net.checkpointing == variant.checkpointing
        for a, b in zip(net.parameters(), networks[0].parameters(), strict=True):
            assert torch.equal(a, b)
    assert all(m.attend is attend for m in material.network.modules() if isinstance(m, SelfAttention))


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
        assert_close(fused_attention(q, k[:, :1], v[:, :1], keep), explicit_attention(q, k[:, :1], v[:, :1], keep))


def test_attention_is_exchanged_in_all_blocks_of_one_network():
    asked = []

    def counted(*args):
        asked.append(1)
        return explicit_attention(*args)

    net, other = network(), network()
    set_attention(net, counted)
    x, t = torch.randn(2, 3, 16, 16), torch.rand(2)
    text = (torch.randn(2, 4, 12), torch.ones(2, 4, dtype=torch.bool), torch.randn(2, 12))
    assert_close(net(x, t, *text), other(x, t, *text), rtol=1e-4, atol=1e-4)
    assert len(asked) == sum(isinstance(m, (CrossAttention, SelfAttention)) for m in net.modules()) > 3


@pytest.mark.slow
def test_rows_tell_speed_memory_levers_and_passes(words):
    rows = list(minimagen.minimagen_rows(CPU, 0.0, shapes=SHAPES, ablation=SHAPES[1], text_encoder=words,
                                         captions=CAPTIONS, classic_steps=2, steps=3, least=1))
    tiny, larger = ([r for r in rows if r.shape == shape.name] for shape in SHAPES)
    both = {variant.name for variant in variants(CPU, levers=False)}
    assert both - {"classic, bfloat16", "ours, float32"} == {"classic", "classic, fused attention", "ours"}
    assert {r.provider for r in tiny} == both
    assert {r.provider for r in larger} - both == {
        "ours, texts encoded in the loop", "ours, 256 tokens", "ours, explicit attention", "ours, fused attention",
        "ours, channels last", "ours, checkpointed"}
    for r in rows:  # each says its own precision
        assert r.dtype == ("bfloat16" if "bfloat16" in r.provider else "float32") or "ours" in r.provider
        assert r.dtype == "float32" or "float32" not in r.provider
    assert {(r.mode, r.metric) for r in rows} == {
        ("training", "pictures/s"), ("peak of tensors", "MiB"), ("sampling, 1000 steps, scaled from 2", "s a picture"),
        ("sampling, 3 steps", "s a picture"), ("network passes, 1000 steps, scaled from 2", "calls"),
        ("network passes, 1000 steps, scaled from 2", "a picture"), ("network passes, 3 steps", "calls"),
        ("network passes, 3 steps", "a picture")}
    assert all(r.p20 <= r.p50 <= r.p80 and r.p50 > 0 for r in rows)
    assert all(r.ratio == 1.0 for r in rows if r.provider == "classic")
    peak = {r.provider: r.p50 for r in larger if r.metric == "MiB"}
    assert peak["ours, checkpointed"] < peak["ours"] < peak["ours, 256 tokens"]
    passes = {(r.provider, r.metric): (r.p50, r.ratio) for r in tiny
              if r.mode.startswith("network") and r.provider in ("classic", "ours")}
    assert passes == {("classic", "calls"): (2000, 1), ("classic", "a picture"): (2000, 1),
                      ("ours", "calls"): (3, pytest.approx(2000 / 3, abs=0.01)),
                      ("ours", "a picture"): (6, pytest.approx(1000 / 3, abs=0.01))}
    speed = {r.provider: r for r in tiny if r.metric == "s a picture"}
    assert speed["ours"].ratio == pytest.approx(speed["classic"].p50 / speed["ours"].p50, rel=0.1)

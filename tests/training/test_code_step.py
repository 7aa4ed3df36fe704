"""A step of training on codes is its formula, draws the same for one process and two, and goes on where it stopped."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from t2ilib.data.text_features import EncodedTexts
from t2ilib.errors import BadParameter
from t2ilib.models.pixelsnail import PixelSNAIL
from t2ilib.models.text_transformer import MEAN_MASK_RATIO, TextTransformer
from t2ilib.runtime import generator
from t2ilib.training import (
    CodeTraining,
    NetworkTraining,
    bits_per_code,
    draw_code_batch,
    load_training,
    make_fabric,
    save_training,
)
from t2ilib.training.code_step import code_cross_entropies, draw_mask, expected_code_errors
from t2ilib.training.muon import KernelMuon, orthogonalized
from t2ilib.training.network_training import block_matrices
from t2ilib.training.state import draw_apart

SMALL = dict(codes=20, height=3, width=4, dim=16, depth=1, heads=2, text_dim=6, dropout=0.0)


def tiny(causal=False, seed=0):
    net = TextTransformer(**SMALL, causal=causal)
    g = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2, generator=g)
    return net


def texts(count=6):
    lengths = torch.arange(1, count + 1)
    tokens = torch.randn(int(lengths.sum()), 6).half()
    return EncodedTexts(tokens, lengths.cumsum(0) - lengths, lengths, torch.randn(count, 6), torch.arange(count))


def draw(net, features, *, n=4, seed=0, **options):
    codes = torch.randint(20, (n, 12), generator=generator(seed, "codes"))
    captions = torch.arange(6).view(2, 3)[torch.arange(n) % 2]
    return draw_code_batch(codes, captions, features, generator(seed, "batch"), network=net, **options)


def test_what_a_batch_holds():
    features = texts()
    batch = draw(tiny(), features, n=64, drop_text=0.25, exchange=0.2)
    masked = batch.inputs == 20
    assert torch.equal(masked, batch.predicted)
    assert masked.float().mean().item() == pytest.approx(MEAN_MASK_RATIO, abs=0.06) and masked.any(1).all()
    assert 0.1 < (batch.inputs != batch.codes)[~masked].float().mean() < 0.3
    assert 4 < batch.drop.sum() < 30
    causal = draw(tiny(causal=True), features, n=64, drop_text=0.25, exchange=0.2)
    assert causal.predicted.all() and (causal.inputs < 20).all()
    assert torch.equal(causal.drop, batch.drop) and torch.equal(causal.text[2], batch.text[2])
    assert torch.equal(causal.inputs[~masked], batch.inputs[~masked])
    assert torch.equal(draw(tiny(causal=True), features).inputs, draw(tiny(), features).codes)
    with pytest.raises(BadParameter, match="row for each of the 4"):
        draw_code_batch(torch.zeros(4, 12).long(), torch.zeros(3, 2).long(), features, generator(0), network=tiny())


def test_a_mask_has_its_share():
    masked = draw_mask(torch.tensor([0.0, 0.1, 0.5, 1.0]), 12, generator(0))
    assert masked.sum(1).tolist() == [1, 2, 6, 12]


def test_processes_together_draw_what_one_would():
    features, net = texts(), tiny()
    whole = draw(net, features, exchange=0.3)
    parts = [draw(net, features, exchange=0.3, rank=rank, world_size=2) for rank in range(2)]
    for name in ("codes", "inputs", "predicted", "drop"):
        interleaved = torch.stack([getattr(part, name) for part in parts], dim=1).flatten(0, 1)
        assert torch.equal(interleaved, getattr(whole, name))
    losses = [CodeTraining(copy.deepcopy(net), make_fabric()).loss(batch) for batch in (whole, *parts)]
    assert_close(sum(losses[1:]) / 2, losses[0])


@pytest.mark.parametrize("kind", ["masked", "autoregressive", "regression"])
def test_a_step_is_its_formula(kind):
    net = tiny(causal=kind == "autoregressive")
    other = copy.deepcopy(net)
    codebook = torch.randn(20, 5) if kind == "regression" else None
    smoothing = 0.1 if kind == "masked" else 0.0
    batch = draw(net, texts(), drop_text=0.5)
    training = CodeTraining(net, make_fabric(), label_smoothing=smoothing, codebook=codebook)
    loss = training.step(batch, 1e-3)

    total = 0.0
    logits = other(batch.inputs, *other.without_text(*batch.text, batch.drop))
    for i, place in batch.predicted.nonzero().tolist():
        code = batch.codes[i, place]
        log_p = logits[i, place].log_softmax(-1)
        if kind == "regression":
            total = total + ((log_p.exp() @ codebook - codebook[code]) ** 2).mean()
        else:
            total = total - (1 - smoothing) * log_p[code] - smoothing * log_p.mean()
    expected = total / (4 * 12) / (1 if kind == "autoregressive" else MEAN_MASK_RATIO)
    assert_close(loss, expected.detach())
    expected.backward()
    nn.utils.clip_grad_norm_(other.parameters(), 1.0)
    torch.optim.AdamW(other.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01).step()
    for found, formula in zip(net.parameters(), other.parameters(), strict=True):
        assert_close(found, formula, atol=1e-4, rtol=0)  # of steps of 1e-3; Adam divides by small gradients


def test_the_best_regression_is_the_mean_of_codes():
    """Two codes are equally likely: cross entropy wants half of each, and the regression accepts anything between."""
    codebook = torch.tensor([[-1.0], [1.0], [0.0]])
    codes = torch.tensor([0, 1])
    between = torch.tensor([-9.0, -9.0, 9.0]).expand(2, 3)
    halves = torch.tensor([9.0, 9.0, -9.0]).expand(2, 3)
    errors = [expected_code_errors(logits, codes, codebook).mean() for logits in (between, halves)]
    assert_close(errors[0], errors[1], atol=1e-5, rtol=0)
    losses = [code_cross_entropies(logits, codes).mean() for logits in (between, halves)]
    assert losses[0] > 10 and losses[1].item() == pytest.approx(math.log(2), abs=1e-4)


SNAIL = dict(codes=20, height=3, width=4, channels=16, hidden=16, blocks=1, res_blocks=1, heads=2, text_dim=6,
             dropout=0.0)


@pytest.mark.parametrize("kind", ["masked", "autoregressive", "snail"])
def test_it_learns(kind):
    torch.manual_seed(0)
    net = PixelSNAIL(**SNAIL) if kind == "snail" else TextTransformer(**SMALL, causal=kind == "autoregressive")
    features = texts()
    training = CodeTraining(net, make_fabric(), learning_rate=1e-2, ema_decay=0.9)
    stream = generator(0, "stream")
    codes = torch.randint(20, (6, 12), generator=stream)  # another picture for each text
    captions = torch.arange(6)[:, None]
    for _ in range(150):
        training.step(draw_code_batch(codes, captions, features, stream, network=net))
    text = features.batch(range(6))
    right = bits_per_code(training.ema.model, codes, text, generator(1))
    wrong = bits_per_code(training.ema.model, codes, tuple(part.roll(3, 0) for part in text), generator(1))
    # PixelSNAIL finds most codes from those before them, and needs the words for the first ones
    least = 1.2 if kind == "snail" else 3
    assert right.shape == (6,) and right.mean() < 1 < least < wrong.mean()


def test_fine_codes_are_learned_from_coarse_ones():
    torch.manual_seed(0)
    net = PixelSNAIL(**{**SNAIL, "height": 4}, coarse_blocks=1)
    features = texts()
    training = CodeTraining(net, make_fabric(), learning_rate=1e-2, ema_decay=0.9)
    stream = generator(0, "stream")
    coarse = torch.randint(20, (6, 2, 2), generator=stream)
    codes = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1)  # each fine code is the one above it
    captions = torch.zeros(6, 1, dtype=torch.long)  # and the words say nothing
    for _ in range(60):
        training.step(draw_code_batch(codes, captions, features, stream, network=net, coarse=coarse))
    text = tuple(part.expand(6, *part.shape[1:]) for part in features.batch([0]))
    right = bits_per_code(training.ema.model, codes, text, generator(1), coarse=coarse)
    wrong = bits_per_code(training.ema.model, codes, text, generator(1), coarse=coarse.roll(1, 0))
    assert right.mean() < 1 < 3 < wrong.mean()


def test_coarse_codes_are_exchanged_too_and_shared_out():
    net = PixelSNAIL(**{**SNAIL, "height": 4}, coarse_blocks=1)
    coarse = torch.randint(20, (64, 2, 2))
    codes = torch.randint(20, (64, 16))
    captions = torch.zeros(64, 1, dtype=torch.long)
    features = texts()

    def drawn(**options):
        return draw_code_batch(codes, captions, features, generator(0), network=net, exchange=0.2, **options)

    whole = drawn(coarse=coarse)
    assert 0.1 < (whole.coarse != coarse).float().mean() < 0.3
    assert torch.equal(whole.inputs, drawn().inputs) and drawn().coarse is None
    parts = [drawn(coarse=coarse, rank=rank, world_size=2).coarse for rank in range(2)]
    assert torch.equal(torch.stack(parts, 1).flatten(0, 1), whole.coarse)


def test_bits_of_a_network_that_knows_nothing():
    for causal in (True, False):
        net = TextTransformer(**SMALL, causal=causal).eval()
        nn.init.zeros_(net.code_embedding.weight)
        codes, text = torch.randint(20, (3, 12)), texts().batch(range(3))
        assert_close(bits_per_code(net, codes, text, generator(0)), torch.full((3,), math.log2(20)))


def test_bits_of_a_causal_network_are_its_cross_entropy():
    net = tiny(causal=True).eval()
    codes, text = torch.randint(20, (3, 12)), texts().batch(range(3))
    expected = F.cross_entropy(net(codes, *text).transpose(1, 2), codes, reduction="none").mean(1) / math.log(2)
    assert_close(bits_per_code(net, codes, text, generator(0)), expected.detach())


def test_a_restored_training_goes_on_bit_for_bit(resumed_training):
    features, fabric = texts(), make_fabric()

    def step(training, number, stream):
        codes = torch.randint(20, (4, 12), generator=stream)
        training.step(draw_code_batch(codes, torch.arange(4)[:, None], features, stream, network=training.network))

    resumed_training(lambda: CodeTraining(tiny(), fabric), step)


def test_muon_moves_the_matrices_of_blocks_and_adamw_the_rest():
    net = tiny(causal=True)
    start = copy.deepcopy(net)
    training = CodeTraining(net, make_fabric(), learning_rate=1e-2, muon=2.0)
    matrices = block_matrices(net)
    names = {name for name, p in net.named_parameters() if any(p is matrix for matrix in matrices)}
    assert "transformer.blocks.0.attention.qkv.weight" in names and "code_embedding.weight" not in names
    batch = draw(net, texts())
    gradients = dict(zip(names_of(start), torch.autograd.grad(CodeTraining(start, make_fabric()).loss(batch),
                                                             list(start.parameters()), allow_unused=True), strict=True))
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    training.step(batch, 5e-3)
    norm = torch.stack([g.norm() for g in gradients.values() if g is not None]).norm()
    name = "transformer.blocks.0.feed_forward.1.weight"
    alone = nn.Parameter(before[name].clone())
    alone.grad = gradients[name] * min(1.0, 1.0 / (norm.item() + 1e-6))
    KernelMuon([alone], lr=1e-2, weight_decay=0.01).step()
    assert_close(dict(net.named_parameters())[name].detach(), alone.detach(), atol=1e-4, rtol=1e-3)
    moved = (net.code_embedding.weight - before["code_embedding.weight"]).abs().max().item()
    assert moved <= 5.1e-3  # AdamW's first step


def test_gradients_of_every_optimiser_are_clipped():
    class Steep(NetworkTraining):
        def loss(self, batch):
            return 1e4 * self.forward(batch).square().mean()

    blocks = nn.ModuleList([nn.Linear(4, 4)])
    net = nn.ModuleDict({"blocks": blocks})
    net.forward = lambda x: blocks[0](x)
    training = Steep(net, make_fabric(), muon=1.0)
    training.step(torch.ones(2, 4))
    layer = blocks[0]
    assert layer.weight.grad.norm() == pytest.approx(1.0, rel=1e-4)  # Muon's
    assert layer.bias.grad.norm() == pytest.approx(1.0, rel=1e-4)  # AdamW's


def test_an_overflow_in_half_precision_is_left_out_and_scaled_less():
    class Overflowing(NetworkTraining):
        def loss(self, batch):
            return self.forward(batch).float().mean() * 1e30

    from lightning_fabric import Fabric
    from lightning_fabric.plugins.precision import MixedPrecision

    scaler = torch.amp.GradScaler("cpu", init_scale=1e15)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)])
    fabric.launch()
    net = nn.Linear(4, 1)
    before = net.weight.detach().clone()
    training = Overflowing(net, fabric)
    training.step(torch.ones(2, 4))
    assert torch.equal(net.weight, before)
    assert scaler.get_scale() < 1e15
    assert training.parts()["scaler"] is scaler
    with pytest.raises(BadParameter, match="float16"):
        CodeTraining(tiny(causal=True), fabric, muon=1.0)


@pytest.mark.slow
def test_a_compiled_network_learns_the_same_under_the_same_names():
    features = texts()
    trained = {}
    for compile in (False, "aot_eager"):  # traced like on a GPU, without a C++ compiler
        training = CodeTraining(tiny(), make_fabric(), compile=compile)
        assert (training.network._compiled_call_impl is not None) == bool(compile)
        for seed in range(3):
            training.step(draw(training.network, features, seed=seed, drop_text=0.5), 1e-2)
        trained[compile] = training.parts()["net"].state_dict() | {
            f"average of {name}": value for name, value in training.ema.model.state_dict().items()}
    plain, compiled = trained.values()
    assert list(plain) == list(compiled)
    for name, value in plain.items():
        assert_close(compiled[name], value, rtol=1e-4, atol=1e-5)


def test_processes_draw_apart_and_the_first_as_if_alone():
    drawn = []
    for rank in (0, 1, 2):
        torch.manual_seed(3)
        draw_apart(rank)
        drawn.append(torch.rand(2))
    torch.manual_seed(3)
    assert torch.equal(drawn[0], torch.rand(2))
    assert not torch.equal(drawn[1], drawn[0]) and not torch.equal(drawn[1], drawn[2])


def test_muon_moves_a_kernel_as_torch_moves_the_matrix_of_its_windows():
    kernel = nn.Parameter(torch.randn(4, 3, 2, 5, generator=torch.Generator().manual_seed(0)))
    matrix = nn.Parameter(kernel.detach().clone().flatten(1))
    ours = KernelMuon([kernel], lr=1e-2, weight_decay=0.01)
    plain = torch.optim.Muon([matrix], lr=1e-2, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    for number in range(3):
        gradient = torch.randn(4, 3, 2, 5, generator=torch.Generator().manual_seed(number))
        kernel.grad = gradient
        matrix.grad = gradient.flatten(1)
        ours.step()
        plain.step()
    assert_close(kernel.flatten(1), matrix, atol=3e-4, rtol=0)  # three steps of 0.011, and torch's are in bfloat16


@pytest.mark.parametrize("shape", [(6, 6), (5, 40), (40, 5)])
def test_muon_keeps_singular_vectors_and_brings_values_near_1(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    values[0] *= 30
    found = orthogonalized(u * values @ v)
    brought = (u.T @ found @ v.T).diagonal()
    assert 0.6 < brought[1:].min() and brought.max() < 1.3
    assert_close(u * brought @ v, found, atol=1e-4, rtol=0)


def test_muon_refuses_vectors_and_negative_numbers():
    with pytest.raises(BadParameter, match=r"not a parameter of shape \(3,\)"):
        KernelMuon([nn.Parameter(torch.ones(3))], lr=1.0)
    with pytest.raises(BadParameter, match="at least 0"):
        KernelMuon([nn.Parameter(torch.ones(3, 3))], lr=-1.0)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_muon_trains_the_kernels_of_blocks_wherever_they_lie_in_memory(memory_format):
    net = nn.ModuleDict({"blocks": nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)])})
    net = net.to(memory_format=memory_format)
    before = [conv.weight.detach().clone() for conv in net["blocks"]]
    training = NetworkTraining(net, make_fabric(), learning_rate=1e-2, muon=1.0)
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    training.loss = lambda batch: net["blocks"][0](batch).square().mean()
    training.step(x)
    used, unused = net["blocks"]
    assert not torch.allclose(used.weight, before[0], atol=1e-4) and torch.equal(unused.weight, before[1])


def names_of(net):
    return [name for name, _ in net.named_parameters()]


def test_muon_goes_on_where_it_stopped(tmp_path):
    def new():
        return CodeTraining(tiny(causal=True), make_fabric(), muon=2.0)

    features = texts()
    training = new()
    training.step(draw(training.network, features))
    save_training(tmp_path / "s.pt", step=1, settings={}, **training.parts())
    training.step(draw(training.network, features, seed=1))
    other = new()
    load_training(tmp_path / "s.pt", settings={}, **other.parts())
    other.step(draw(other.network, features, seed=1))
    for one, two in zip(training.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(one, two)


def test_muon_needs_blocks():
    with pytest.raises(BadParameter, match="has none; take muon=0"):
        NetworkTraining(nn.Linear(2, 2), make_fabric(), muon=1.0)

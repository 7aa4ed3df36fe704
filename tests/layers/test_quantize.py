import threading

import pytest
import torch
from taming.modules.vqvae.quantize import VectorQuantizer as TamingQuantizer

from t2ilib.errors import BadParameter, CheckpointMismatch, UnknownName
from t2ilib.layers.quantize import (
    EMACodebook,
    GumbelQuantizer,
    VectorQuantizer,
    code_perplexity,
    rotate_through,
    straight_through,
    vector_quantize,
)


@pytest.mark.parametrize(("n_embed", "embed_dim", "side"), [(16, 4, 5), (257, 8, 3), (1024, 32, 8)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_losses_and_gradients_equal_taming(n_embed, embed_dim, side, layout):
    torch.manual_seed(0)
    ours, theirs = VectorQuantizer(n_embed=n_embed, embed_dim=embed_dim), TamingQuantizer(n_embed, embed_dim, 0.25)
    torch.nn.init.normal_(ours.embedding.weight)
    theirs.load_state_dict(ours.state_dict())
    z = torch.randn(2, embed_dim, side, side).contiguous(memory_format=layout)
    upstream = torch.randn_like(z)
    z_ours, z_theirs = z.clone().requires_grad_(), z.clone().requires_grad_()
    found = ours(z_ours)
    z_q, loss, (perplexity, _, codes) = theirs(z_theirs)
    torch.testing.assert_close(found.codes.flatten(), codes.flatten())
    torch.testing.assert_close(found.z_q, z_q, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.perplexity, perplexity, rtol=1e-4, atol=1e-4)
    # taming puts beta on the codebook's term; both terms have the same value
    torch.testing.assert_close(0.25 * found.codebook_loss + found.commitment, loss)
    torch.testing.assert_close(found.loss, loss)
    (found.z_q * upstream).sum().add(0.25 * found.codebook_loss + found.commitment).backward()
    (z_q * upstream).sum().add(loss).backward()
    torch.testing.assert_close(z_ours.grad, z_theirs.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.embedding.weight.grad, theirs.embedding.weight.grad, rtol=1e-4, atol=1e-7)


def test_straight_through_returns_the_value_exactly_and_the_gradient_unchanged():
    value, source = torch.full((3,), 1e-8), torch.full((3,), 1e4, requires_grad=True)
    result = straight_through(value, source)
    assert torch.equal(result, value)  # z + (value - z) would give 0
    (result * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    torch.testing.assert_close(source.grad, torch.tensor([1.0, 2.0, 3.0]))
    half = torch.randn(3, dtype=torch.bfloat16, requires_grad=True)
    straight_through(value, half).sum().backward()
    assert half.grad.dtype == torch.bfloat16


def test_straight_through_sums_a_broadcast_gradient():
    value = torch.randn(4, 3, requires_grad=True)
    carrier = torch.zeros(3, requires_grad=True)
    out = straight_through(value, carrier)
    torch.testing.assert_close(out, value)
    weights = torch.arange(12.0).view(4, 3)
    (out * weights).sum().backward()
    assert value.grad is None
    torch.testing.assert_close(carrier.grad, weights.sum(0))


def test_rotate_through_is_a_rotation_and_a_length():
    """Gradient of (|q| / |z|) R z, with R made of its definition: it turns z to q and leaves what is orthogonal."""
    z = torch.randn(2, 5, 3, dtype=torch.double, requires_grad=True)
    value = torch.randn(2, 5, 3, dtype=torch.double)
    weights = torch.randn(2, 5, 3, dtype=torch.double)
    found = rotate_through(value, z)
    assert torch.equal(found, value)
    (found * weights).sum().backward()
    for i in range(2):
        for j in range(3):
            a, b = z.detach()[i, :, j], value[i, :, j]
            e, q = a / a.norm(), b / b.norm()
            cosine = e @ q
            aside = (q - cosine * e) / (q - cosine * e).norm()  # the plane's second axis
            sine = q @ aside
            plane = torch.stack([e, aside])  # (2, 5)
            turn = torch.stack([torch.stack([cosine, -sine]), torch.stack([sine, cosine])])
            rotation = torch.eye(5, dtype=torch.double) - plane.T @ plane + plane.T @ turn @ plane
            torch.testing.assert_close(rotation @ a * b.norm() / a.norm(), b)
            expected = rotation.T @ weights[i, :, j] * b.norm() / a.norm()
            torch.testing.assert_close(z.grad[i, :, j], expected, rtol=1e-5, atol=1e-5)


def test_rotate_through_without_a_direction():
    z = torch.tensor([[[0.0], [0.0]], [[1.0], [0.0]]], dtype=torch.bfloat16, requires_grad=True)
    value = torch.tensor([[[1.0], [2.0]], [[0.0], [0.0]]])
    (rotate_through(value, z) * torch.tensor([3.0, 4.0])[None, :, None]).sum().backward()
    assert z.grad.tolist() == [[[3.0], [4.0]], [[3.0], [4.0]]]
    with pytest.raises(UnknownName, match="rotation"):
        VectorQuantizer(n_embed=2, embed_dim=2, gradient="rotatoin")


def test_vector_quantize_takes_the_nearest_code_and_passes_the_gradient():
    g = torch.Generator().manual_seed(0)
    codebook = torch.randn(40, 5, generator=g)
    z = torch.randn(2, 5, 7, 3, generator=g).requires_grad_()
    z_q, codes = vector_quantize(z, codebook)
    flat = z.detach().movedim(1, -1).reshape(-1, 5).double()
    nearest = (flat[:, None] - codebook.double()).square().sum(-1).argmin(1)
    assert (codes.flatten() == nearest).all()
    torch.testing.assert_close(z_q, codebook[nearest].view(2, 7, 3, 5).movedim(-1, 1), rtol=0, atol=0)
    weights = torch.randn(z.shape, generator=g)
    (z_q * weights).sum().backward()
    torch.testing.assert_close(z.grad, weights, rtol=0, atol=0)


def test_a_tie_goes_to_the_lowest_index():
    codebook = torch.tensor([[3.0, 3.0], [1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    z = torch.zeros(1, 2, 1, 2)
    z[0, 0] = torch.tensor([[0.0, 2.0]])  # as far from 1 as from 3; then nearest to two equal rows
    assert vector_quantize(z, codebook)[1].tolist() == [[[1, 1]]]


def test_perplexity_counts_the_codes_in_use():
    assert code_perplexity(torch.zeros(10, dtype=torch.int64), 8) == pytest.approx(1)
    assert code_perplexity(torch.arange(8).repeat(3), 8) == pytest.approx(8)


def test_gumbel_is_deterministic_in_evaluation_and_soft_in_training():
    torch.manual_seed(0)
    layer = GumbelQuantizer(n_embed=12, embed_dim=6, num_hiddens=6, kl_weight=1.0).eval()
    z = torch.randn(2, 6, 3, 3)
    first, second = layer(z), layer(z)
    assert torch.equal(first.z_q, second.z_q)
    torch.testing.assert_close(first.codes, layer.proj(z).argmax(dim=1))
    torch.testing.assert_close(first.z_q.movedim(1, -1), layer.embed.weight[first.codes])
    layer.train()
    soft = layer(z)
    assert not torch.equal(soft.z_q, layer(z).z_q)
    (soft.z_q.sum() + soft.loss).backward()
    assert layer.proj.weight.grad.abs().sum() > 0 and layer.embed.weight.grad.abs().sum() > 0
    torch.nn.init.zeros_(layer.proj.weight)
    torch.nn.init.zeros_(layer.proj.bias)
    assert layer(z).loss.item() == pytest.approx(0, abs=1e-6)  # uniform codes have no divergence from uniform


def clusters(n, generator):
    centres = torch.tensor([[5.0, 5.0], [-5.0, 5.0], [5.0, -5.0], [-5.0, -5.0]])
    chosen = torch.randint(4, (n,), generator=generator)
    return (centres[chosen] + 0.1 * torch.randn(n, 2, generator=generator)).reshape(1, n, 1, 2).movedim(-1, 1)


def test_ema_codebook_finds_clusters_and_revives_dead_rows():
    generator = torch.Generator().manual_seed(0)
    layer = VectorQuantizer(n_embed=32, embed_dim=2)
    codebook = EMACodebook(layer, decay=0.9, seed=1)
    assert not layer.embedding.weight.requires_grad
    for _ in range(60):
        z = clusters(256, generator)
        restarted = codebook.update(z, layer(z).codes)
    found = layer(clusters(1000, generator))
    assert found.commitment < 0.01
    assert found.perplexity > 12
    with torch.no_grad():
        layer.embedding.weight[5] = 1e3  # a row that nobody chooses
        codebook.cluster_size[5] = 0
    z = clusters(256, generator)
    restarted = codebook.update(z, layer(z).codes)
    assert restarted >= 1 and layer.embedding.weight[5].abs().max() < 6


def test_ema_update_is_the_running_mean_of_the_chosen_vectors():
    layer = VectorQuantizer(n_embed=2, embed_dim=1)
    codebook = EMACodebook(layer, decay=0.5, eps=0.0, restart_below=0.0)
    codebook.started = True
    with torch.no_grad():
        layer.embedding.weight.copy_(torch.tensor([[0.0], [10.0]]))
        codebook.embed_avg.copy_(torch.tensor([[0.0], [10.0]]))
    z = torch.tensor([1.0, 2.0, 9.0]).reshape(1, 1, 1, 3)
    codebook.update(z, layer(z).codes)
    # counts 1 -> 1.5 and 1 -> 1; sums 0 -> 1.5 and 10 -> 9.5
    torch.testing.assert_close(layer.embedding.weight, torch.tensor([[1.0], [9.5]]), check_stride=False)


def published_update(size, total, table, vectors, *, decay, eps):
    """One update as van den Oord et al. 2017, appendix A.1, and the smoothed counts of its published code."""
    codes = torch.cdist(vectors, table).argmin(1)
    for k in range(len(table)):
        size[k] = size[k] * decay + (1 - decay) * (codes == k).sum()
        total[k] = total[k] * decay + (1 - decay) * vectors[codes == k].sum(0)
    smoothed = (size + eps) / (size.sum() + len(table) * eps) * size.sum()
    return size, total, total / smoothed[:, None]


@pytest.mark.parametrize("source", ["the paper", "vector-quantize-pytorch"])
def test_ema_updates_are_those_published(source):
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(9, 4, generator=generator)
    layer = VectorQuantizer(n_embed=9, embed_dim=4)
    layer.embedding.weight.data = table.clone()
    codebook = EMACodebook(layer, decay=0.8, eps=1e-5, restart_below=0.0)
    codebook.started = True
    size, total = torch.ones(9), table.clone()
    if source == "vector-quantize-pytorch":
        package = pytest.importorskip("vector_quantize_pytorch")
        theirs = package.VectorQuantize(dim=4, codebook_size=9, decay=0.8, eps=1e-5, threshold_ema_dead_code=0,
                                        kmeans_init=False, rotation_trick=False, commitment_weight=0.25)
        theirs._codebook.embed.data = table[None].clone()
        theirs._codebook.embed_avg.data = table[None].clone()
        theirs.train()
    for _ in range(6):
        vectors = torch.randn(40, 4, generator=generator)
        z = vectors.T.reshape(1, 4, 5, 8)
        found = layer(z)
        codebook.update(z, found.codes)
        if source == "the paper":
            size, total, table = published_update(size, total, table, vectors, decay=0.8, eps=1e-5)
        else:
            z_q, codes, loss = theirs(vectors[None])
            table = theirs._codebook.embed[0]
            assert torch.equal(codes[0], found.codes.flatten())
            torch.testing.assert_close(z_q[0].T, found.z_q.flatten(2)[0])
            torch.testing.assert_close(loss.sum(), 0.25 * found.commitment)
        torch.testing.assert_close(layer.embedding.weight.detach(), table.detach(), check_stride=False)


def test_ema_codebook_resumes_bit_for_bit():
    def make():
        torch.manual_seed(0)
        layer = VectorQuantizer(n_embed=16, embed_dim=2)
        return layer, EMACodebook(layer, seed=3, restart_below=0.5)

    batches = [torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(i)) for i in range(8)]
    layer, codebook = make()
    for i, z in enumerate(batches):
        if i == 4:
            saved = {"layer": {k: v.clone() for k, v in layer.state_dict().items()}, "codebook": codebook.state_dict()}
        codebook.update(z, layer(z).codes)
    resumed, resumed_codebook = make()
    resumed.load_state_dict(saved["layer"])
    resumed_codebook.load_state_dict(saved["codebook"])
    for z in batches[4:]:
        resumed_codebook.update(z, resumed(z).codes)
    assert torch.equal(layer.embedding.weight, resumed.embedding.weight)
    assert set(layer.state_dict()) == {"embedding.weight"}  # the averages do not enter the network's keys
    with pytest.raises(CheckpointMismatch, match=r"\(16, 2\), the table is \(8, 2\)"):
        EMACodebook(VectorQuantizer(n_embed=8, embed_dim=2)).load_state_dict(saved["codebook"])


def test_ema_codebook_starts_from_few_vectors_and_refuses_bad_numbers():
    layer = VectorQuantizer(n_embed=10, embed_dim=3)
    z = torch.randn(1, 3, 1, 2)
    EMACodebook(layer).update(z, layer(z).codes)
    assert layer(z).commitment < 1e-6
    with pytest.raises(BadParameter, match="decay"):
        EMACodebook(layer, decay=1.0)
    with pytest.raises(BadParameter, match="restart_below"):
        EMACodebook(layer, restart_below=-1)


class TwoThreads:
    """A process group of two threads, each a rank: enough of torch.distributed for what the codebook calls."""

    def __init__(self):
        self.barrier, self.shared, self.rank = threading.Barrier(2, timeout=30), [None, None], threading.local()

    def all_reduce(self, tensor):
        self.shared[self.rank.value] = tensor.clone()
        self.barrier.wait()
        tensor.copy_(self.shared[0] + self.shared[1])
        self.barrier.wait()

    def broadcast(self, tensor, src):
        self.shared[self.rank.value] = tensor.clone()
        self.barrier.wait()
        tensor.copy_(self.shared[src])
        self.barrier.wait()


def test_two_ranks_keep_one_codebook(monkeypatch):
    group, weights = TwoThreads(), {}
    batches = [torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    tables = [VectorQuantizer(n_embed=8, embed_dim=2) for _ in range(2)]
    tables[1].load_state_dict(tables[0].state_dict())
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", group.all_reduce)
    monkeypatch.setattr(torch.distributed, "broadcast", group.broadcast)

    def run(rank):
        group.rank.value = rank
        codebook = EMACodebook(tables[rank], restart_below=0.3, seed=rank)
        for batch in batches:
            z = batch[rank : rank + 1]
            codebook.update(z, tables[rank](z).codes)
        weights[rank] = tables[rank].embedding.weight, codebook.cluster_size

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(weights[0], weights[1], strict=True):
        assert torch.equal(a, b)


def test_a_process_that_trains_alone_waits_for_no_other(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("the other processes have ended")

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", fail)
    monkeypatch.setattr(torch.distributed, "broadcast", fail)
    table = VectorQuantizer(n_embed=8, embed_dim=2)
    z = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    EMACodebook(table, distributed=False).update(z, table(z).codes)

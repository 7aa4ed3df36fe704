"""A VQ-VAE with one grid or two: shapes, codes and back, what the fine grid sees, gradients, checkpoints."""

import pytest
import torch
from torch.testing import assert_close

from t2ilib.checkpoint import load_model, save_model
from t2ilib.errors import BadParameter, CheckpointMismatch, MissingAsset, UnknownName
from t2ilib.models import vqvae2
from t2ilib.models.sizes import VQVAE2 as SIZES
from t2ilib.models.vqvae import VQVAE
from t2ilib.models.vqvae2 import VQVAE2, load_vqvae

SMALL = dict(ch=4, ch_mult=[1, 2, 2], norm_groups=2, n_embed=12, embed_dim=3)


def network(levels=1, **changes):
    torch.manual_seed(0)
    net = VQVAE2(**{**SMALL, "levels": levels, **changes})
    for quantizer in net.quantizers:
        torch.nn.init.normal_(quantizer.embedding.weight, std=0.3)
    return net.eval()


@pytest.mark.parametrize(("levels", "shapes"), [(1, [(4, 6)]), (2, [(2, 3), (4, 6)])])
def test_shapes_and_codes(levels, shapes):
    net = network(levels)
    x = torch.rand(2, 3, 16, 24) * 2 - 1
    pictures, found = net(x)
    assert pictures.shape == x.shape and net.shapes(16, 24) == tuple(shapes)
    assert [level.z_e.shape for level in found] == [(2, 3, *shape) for shape in shapes]
    codes = net.encode_codes(x)
    assert [grid.shape for grid in codes] == [(2, *shape) for shape in shapes]
    assert_close(net.decode_codes(*codes), pictures)
    assert_close(net.embed_codes(*codes)[-1], found[-1].quantized.z_q)
    for level, grid, quantizer in zip(found, codes, net.quantizers, strict=True):
        distance = torch.cdist(level.z_e.movedim(1, -1).flatten(0, 2), quantizer.table)
        assert torch.equal(distance.argmin(1), grid.flatten())


def test_the_fine_grid_builds_on_the_coarse_codes():
    net = network(2)
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    coarse, fine = net(x)[1]
    net.quantizers[0].embedding.weight.data.add_(1.0)  # the coarse codes stay, what they mean does not
    moved_coarse, moved_fine = net(x)[1]
    assert_close(moved_coarse.z_e, coarse.z_e)
    assert (moved_fine.z_e - fine.z_e).abs().max() > 1e-3
    one, other = net.encode_codes(x)
    pictures = net.decode_codes(one, other)
    assert (net.decode_codes((one + 1) % 12, other) - pictures).abs().max() > 1e-4


def test_pixel_blocks_are_folded_and_unfolded():
    net = network(2, ch_mult=[1, 2], patch_size=2)
    x = torch.rand(1, 3, 16, 24) * 2 - 1
    assert net(x)[0].shape == x.shape and net.shapes(16, 24) == ((2, 3), (4, 6))


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("gradient", ["straight_through", "rotation"])
def test_every_weight_but_the_tables_learns(levels, gradient):
    net = network(levels, gradient=gradient).train()
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    pictures, found = net(x)
    loss = (pictures - x).square().mean() + sum(level.quantized.commitment for level in found)
    loss.backward()
    for name, parameter in net.named_parameters():
        if "quantizers" not in name:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_it_comes_back_from_its_checkpoint(tmp_path, monkeypatch):
    net = network(2)
    folder = save_model(tmp_path / "emoji-vqvae", net)
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    for loaded in (load_vqvae(folder), load_vqvae("emoji-vqvae", home=tmp_path), load_model(VQVAE2, folder)):
        assert_close(loaded(x)[0], net(x)[0])
        assert loaded.digest() == net.digest()
    assert network(2, n_embed=13).digest() != net.digest()
    save_model(tmp_path / "other", VQVAE(channels=4, n_embed=8))
    with pytest.raises(CheckpointMismatch, match="VQVAE"):
        load_vqvae(tmp_path / "other")
    monkeypatch.setattr(vqvae2, "checkpoints_dir", lambda: tmp_path / "nothing")
    with pytest.raises(MissingAsset, match="t2ilib train vqvae"):
        load_vqvae()
    with pytest.raises(UnknownName, match="emoji-vqvae"):
        load_vqvae("emoji-vqvea")


@pytest.mark.parametrize("size", SIZES)
def test_sizes_fit_in_three_mebibytes_of_eight_bits(tmp_path, size):
    folder = save_model(tmp_path / size, VQVAE2(**SIZES[size]), dtype=torch.int8)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 3 * 2**20


@pytest.mark.parametrize(("wrong", "message"), [
    (dict(levels=3), "levels"), (dict(ch=0), "ch"), (dict(n_embed=0), "n_embed"), (dict(ch=3), "norm_groups"),
])
def test_bad_arguments(wrong, message):
    with pytest.raises(BadParameter, match=message):
        VQVAE2(**{**SMALL, **wrong})


def test_bad_inputs():
    net = network(2)
    for shape in ((1, 3, 12, 16), (1, 3, 16, 20), (3, 16, 16), (1, 4, 16, 16)):
        with pytest.raises(BadParameter, match="pictures"):
            net(torch.zeros(shape))
    with pytest.raises(BadParameter, match="2 grids"):
        net.decode_codes(torch.zeros(1, 4, 4).long())

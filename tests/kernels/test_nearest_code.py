import pytest
import torch

import t2ilib.kernels.nearest_code  # noqa: F401  (the module, beside the function of the same name)
from t2ilib.errors import BadParameter
from t2ilib.kernels import nearest_code


def brute_force(z, codebook):
    distances = torch.cdist(z.double(), codebook.double(), compute_mode="donot_use_mm_for_euclid_dist")
    return distances.argmin(dim=1)


@pytest.mark.parametrize("n", [0, 1, 3, 63, 1000])
@pytest.mark.parametrize("k", [1, 3, 129, 1024])
@pytest.mark.parametrize("d", [1, 5, 64])
def test_equals_brute_force(n, k, d):
    generator = torch.Generator().manual_seed(n + k + d)
    z = torch.randn(n, d, generator=generator)
    codebook = torch.randn(k, d, generator=generator)
    codes, best = nearest_code(z, codebook), brute_force(z, codebook)
    assert codes.shape == (n,) and codes.dtype == torch.int64
    # float32 may pick the other of two rows whose distances agree to the last digits; nothing else
    distance = (z.double() - codebook.double()[codes]).square().sum(dim=1)
    smallest = (z.double() - codebook.double()[best]).square().sum(dim=1)
    torch.testing.assert_close(distance, smallest, rtol=1e-5, atol=1e-6)
    assert (codes != best).sum() <= 0.005 * n


@pytest.mark.parametrize("k", [2049, 4500])
def test_equals_brute_force_over_several_blocks_of_the_codebook(k):
    generator = torch.Generator().manual_seed(k)
    z, codebook = torch.randn(1100, 24, generator=generator), torch.randn(k, 24, generator=generator)
    torch.testing.assert_close(nearest_code(z, codebook), brute_force(z, codebook))


@pytest.mark.parametrize(("twin", "agree"), [(None, 0.9999), (1e-2, 0.9999), (1e-5, 0.98)])
def test_near_ties_are_decided_as_well_as_float32_can(twin, agree):
    """With a twin of every row, this far off, two distances differ in fewer digits than float32 has."""
    torch.manual_seed(0)
    z, codebook = torch.randn(10000, 64), torch.randn(256, 64)
    if twin is not None:
        codebook = torch.cat([codebook, codebook + twin * torch.randn(256, 64)])
    codes, best = nearest_code(z, codebook), brute_force(z, codebook)
    assert (codes == best).float().mean() >= agree
    assert (codes != best).sum() <= (torch.cdist(z, codebook).argmin(dim=1) != best).sum()
    away = [(z.double() - codebook.double()[c]).norm(dim=1) for c in (codes, best)]
    assert (away[0] / away[1]).max() < 1 + 5e-7


def test_memory_stays_bounded_because_the_work_is_cut_into_parts(monkeypatch):
    import sys

    module = sys.modules["t2ilib.kernels.nearest_code"]
    torch.manual_seed(0)
    z, codebook = torch.randn(100, 4), torch.randn(37, 4)
    whole = nearest_code(z, codebook)
    sizes = []
    original = torch.addmm

    def spy(*args, **kwargs):
        result = original(*args, **kwargs)
        sizes.append(result.numel())
        return result

    monkeypatch.setattr(module, "_CPU_BLOCK", (10, 5))
    monkeypatch.setattr(module.torch, "addmm", spy)
    torch.testing.assert_close(nearest_code(z, codebook), whole)
    assert max(sizes) == 50 and len(sizes) == 10 * 8


@pytest.mark.parametrize("d", [1, 8, 33, 256])
def test_of_equal_rows_the_lowest_index_wins(d):
    torch.manual_seed(d)
    half = torch.randn(37, d)
    codebook = torch.cat([half, half, half])
    codes = nearest_code(half, codebook)
    torch.testing.assert_close(codes, torch.arange(37))


@pytest.mark.parametrize("d", [8, 33, 256])
def test_of_equal_rows_in_different_blocks_the_lowest_index_wins(d):
    torch.manual_seed(d)
    half = torch.randn(2100, d)
    codes = nearest_code(half, torch.cat([half, half]))
    torch.testing.assert_close(codes, torch.arange(2100))


def test_a_codebook_changed_in_place_is_seen():
    torch.manual_seed(0)
    z, codebook = torch.randn(50, 8), torch.randn(40, 8)
    before = nearest_code(z, codebook)
    codebook.data.copy_(codebook.flip(0).clone())  # through `.data`, which leaves the version counter alone
    torch.testing.assert_close(nearest_code(z, codebook), 39 - before)


def test_leading_dimensions_strides_and_half_precision():
    torch.manual_seed(0)
    codebook = torch.randn(50, 8)
    z = torch.randn(2, 8, 5, 3)
    expected = brute_force(z.movedim(1, -1).reshape(-1, 8), codebook).reshape(2, 5, 3)
    torch.testing.assert_close(nearest_code(z.movedim(1, -1), codebook), expected)
    channels_last = z.contiguous(memory_format=torch.channels_last).movedim(1, -1)
    torch.testing.assert_close(nearest_code(channels_last, codebook.t().contiguous().t()), expected)
    half = z.bfloat16()
    exact = brute_force(half.movedim(1, -1).reshape(-1, 8), codebook).reshape(2, 5, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # distances are still float32
        torch.testing.assert_close(nearest_code(half.movedim(1, -1), codebook), exact)
    assert nearest_code(codebook[3], codebook).shape == ()


def test_far_offsets_do_not_spoil_the_choice():
    torch.manual_seed(0)
    z, codebook = torch.rand(200, 4), torch.rand(30, 4)
    torch.testing.assert_close(nearest_code(z + 1000, codebook + 1000), brute_force(z + 1000, codebook + 1000))


def test_no_gradient_leaks():
    z = torch.randn(4, 2, requires_grad=True)
    assert not nearest_code(z, torch.randn(3, 2, requires_grad=True)).requires_grad


@pytest.mark.parametrize(
    ("z", "codebook", "message"),
    [
        (torch.randn(4, 3), torch.randn(5, 2), "D=2"),
        (torch.randn(4, 3), torch.randn(0, 3), "codebook must be"),
        (torch.randn(4, 3), torch.randn(5), "codebook must be"),
        (torch.ones(4, 3, dtype=torch.int32), torch.randn(5, 3), "z must be a floating-point"),
    ],
)
def test_bad_input_is_refused(z, codebook, message):
    with pytest.raises(BadParameter, match=message):
        nearest_code(z, codebook)

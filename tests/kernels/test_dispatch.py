import pytest
import torch

from t2ilib.errors import BadParameter, KernelUnavailable, UnknownName
from t2ilib.kernels import _dispatch, cutouts, group_norm_silu, nearest_code, use_backend
from t2ilib.kernels._dispatch import choose, require_floating, second_order_via

CALLS = {
    "nearest_code": lambda **k: nearest_code(torch.randn(5, 3), torch.randn(4, 3), **k),
    "group_norm_silu": lambda **k: group_norm_silu(torch.randn(2, 4, 3), None, None, 2, **k),
    "cutouts": lambda **k: cutouts(torch.randn(1, 3, 8, 8), torch.eye(2, 3)[None], 4, **k),
}


@pytest.mark.parametrize("name", CALLS)
def test_triton_by_name_is_refused_on_the_cpu(name, monkeypatch):
    monkeypatch.setattr(_dispatch, "INTERPRETED", False)
    with pytest.raises(KernelUnavailable, match=f"{name}.*because.*use 'auto'"):
        CALLS[name](backend="triton")
    with use_backend("triton"), pytest.raises(KernelUnavailable):
        CALLS[name]()


@pytest.mark.parametrize("name", CALLS)
def test_misspelt_backend_is_answered_with_the_nearest(name):
    with pytest.raises(UnknownName, match="did you mean triton"):
        CALLS[name](backend="tritn")


def test_an_explicit_backend_wins_over_the_context_and_the_context_ends():
    with use_backend("triton"):
        assert choose("torch", torch.ones(1), name="x", kernel="proven") == "torch"
    assert choose("auto", torch.ones(1), name="x", kernel="proven") == "torch"


@pytest.mark.parametrize(("kernel", "capability", "interpreted", "expected"), [
    ("proven", (9, 0), False, "triton"), ("proven", (7, 5), False, "torch"), ("unproven", (9, 0), False, "torch"),
    ("none", (9, 0), False, "torch"), ("proven", (9, 0), True, "torch")])
def test_auto_takes_a_proven_kernel_on_a_new_gpu_alone(kernel, capability, interpreted, expected, monkeypatch):
    class OnGPU:
        device = torch.device("cuda")

    monkeypatch.setattr(_dispatch, "HAS_TRITON", True)
    monkeypatch.setattr(_dispatch, "INTERPRETED", interpreted)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose("auto", OnGPU(), name="x", kernel=kernel) == expected
    if kernel == "unproven":
        assert choose("triton", OnGPU(), name="x", kernel=kernel) == "triton"  # whoever asks for it gets it


def test_backend_context_ends_after_an_error():
    with pytest.raises(ZeroDivisionError), use_backend("triton"):
        1 / 0  # noqa: B018
    CALLS["nearest_code"]()


def test_require_floating_names_the_argument():
    with pytest.raises(BadParameter, match="op: z must be.*int64"):
        require_floating("op", z=torch.ones(2, dtype=torch.int64))


def _cubic(x, w, scale):
    return scale * w * x**3


class _Cubic(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, scale):
        ctx.save_for_backward(x, w)
        ctx.inputs_saved, ctx.constants = 2, {"scale": scale}
        return _cubic(x, w, scale)

    @staticmethod
    @second_order_via(_cubic)
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        with torch.no_grad():  # like a kernel: no graph
            return grad * 3 * 2.0 * w * x**2, grad * 2.0 * x**3, None


def test_second_derivatives_come_from_the_reference_for_plain_and_parametrised_heads():
    torch.manual_seed(0)
    for head in (lambda y, v: y.sum(), lambda y, v: (y * v).sum()):
        found = []
        for function in (_cubic, _Cubic.apply):
            x, w, v = (torch.arange(1.0, 4.0, dtype=torch.float64).add(i).requires_grad_() for i in range(3))
            (gradient,) = torch.autograd.grad(head(function(x, w, 2.0), v), x, create_graph=True)
            penalty = gradient.square().sum()
            found.append(torch.autograd.grad(penalty, (x, w, v), allow_unused=True))
        assert found[0][0].abs().min() > 0
        torch.testing.assert_close(found[0][:2], found[1][:2])
        assert (found[0][2] is None) == (found[1][2] is None)
        if found[0][2] is not None:
            torch.testing.assert_close(found[0][2], found[1][2])

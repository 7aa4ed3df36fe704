import pytest
import torch
from torch.nn import functional as F

from t2ilib.layers.attention import SHORT, attend


def parts(n, m, heads, dtype, shared=False):
    g = torch.Generator().manual_seed(0)
    shapes = (2, heads, n, 8), *[(2, 1 if shared else heads, m, 8)] * 2
    return [torch.randn(s, generator=g).to(dtype).requires_grad_() for s in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("n, m", [(5, 3), (1, 1), (4, SHORT), (SHORT + 1, 2)])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_attention_with_its_gradients(dtype, n, m, shared, masked):
    q, k, v = parts(n, m, 3, dtype, shared)
    keep = (torch.arange(m) < torch.tensor([m, 1])[:, None])[:, None, None] if masked else None
    y = attend(q, k, v, keep)
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    want = F.scaled_dot_product_attention(wide[0], *(x.expand(-1, 3, -1, -1) for x in wide[1:]), attn_mask=keep)
    tolerance = dict(rtol=3e-2, atol=3e-2) if dtype == torch.bfloat16 else dict(rtol=1e-5, atol=1e-5)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), want, **tolerance)
    y.float().sin().sum().backward()
    want.sin().sum().backward()
    for a, b in zip((q, k, v), wide, strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad, **dict(tolerance, atol=10 * tolerance["atol"]))


def test_a_masked_key_is_not_seen():
    q, k, v = parts(4, 6, 2, torch.bfloat16)
    keep = torch.arange(6) < 4
    changed = torch.where(keep[:, None], v, 1000.0)
    torch.testing.assert_close(attend(q, k, changed, keep), attend(q, k, v, keep), rtol=0, atol=0)

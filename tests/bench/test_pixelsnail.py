"""What is timed is what draws: the cached and the plain way draw the same codes, and rows say seconds a picture."""

import pytest
import torch

from t2ilib.bench.pixelsnail import make_material, pixelsnail_rows
from t2ilib.bench.text_transformer import cached
from t2ilib.sampling import sample_autoregressive

CPU = torch.device("cpu")


@pytest.mark.parametrize("size", ["small", "port"])
def test_both_ways_draw_the_same_codes(size):
    material = make_material(4, 2, CPU, size=size)
    plain = sample_autoregressive(material.causal, material.condition, generators=material.streams(), cached=False)
    assert torch.equal(cached(material)(), plain) and plain.shape == (2, 16)


def test_rows():
    rows = list(pixelsnail_rows(CPU, 0.0, sides=(2, 4), batches=(1, 2), sizes=("small",), columns=2, least=1))
    assert [row.shape for row in rows[::2]] == [f"small, {n} codes, batch {b}" for n in (4, 16) for b in (1, 2)]
    for plain, fast in zip(rows[::2], rows[1::2], strict=True):
        assert {plain.metric, fast.metric} == {"s a picture"}
        assert plain.ratio == 1 and plain.mode == "sampling, scaled from 2 codes"
        assert fast.ratio == pytest.approx(plain.p50 / fast.p50, rel=0.05)

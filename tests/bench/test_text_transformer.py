"""What is timed is what draws: the cached and the uncached way do the same work, and rows say seconds a picture."""

import pytest
import torch

from t2ilib.bench import text_transformer
from t2ilib.bench.text_transformer import cached, make_material, masked, text_transformer_rows, uncached
from t2ilib.sampling import sample_autoregressive

CPU = torch.device("cpu")


def test_both_ways_draw_the_same_codes():
    material = make_material(4, 2, CPU, size="small")
    slow = sample_autoregressive(material.causal, material.condition, generators=material.streams(), cached=False)
    assert torch.equal(cached(material)(), slow) and slow.shape == (2, 16)
    for network in (material.masked, material.squares):
        assert masked(network, material, torch.float32)() is None


def test_timed_columns_stand_for_all():
    material = make_material(4, 1, CPU, size="small")
    lengths = []
    material.causal.register_forward_pre_hook(lambda module, args: lengths.append(args[0].shape[1]))
    work, scale = uncached(material, 4)
    work()
    assert lengths == [3, 7, 11, 15] and scale == 4
    lengths.clear()
    work, scale = uncached(material, 99)
    work()
    assert lengths == list(range(1, 17)) and scale == 1


def test_rows():
    rows = list(text_transformer_rows(CPU, 0.0, sides=(2, 4), batches=(1, 2), size="small", columns=2, least=1))
    assert {row.shape for row in rows} == {f"{n} codes, batch {b}" for n in (4, 16) for b in (1, 2)}
    assert {row.metric for row in rows} == {"s a picture"}
    for row in rows:
        assert row.p20 <= row.p50 <= row.p80
        if row.provider == text_transformer.UNCACHED:
            assert row.ratio == 1 and row.mode == "sampling, scaled from 2 codes"
    by_provider = {row.provider: row for row in rows if row.shape == "16 codes, batch 1"}
    assert by_provider["cached"].ratio == pytest.approx(
        by_provider["uncached"].p50 / by_provider["cached"].p50, rel=0.05)

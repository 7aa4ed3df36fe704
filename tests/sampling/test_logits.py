import pytest
import torch
from torch.testing import assert_close

from t2ilib.errors import BadParameter, UnknownName
from t2ilib.sampling import LogitSampling, draw_codes, filter_logits, log_probability

LOGITS = torch.tensor([0.5, 0.2, 0.05, 0.25]).log()


def kept(**options):
    return torch.isfinite(filter_logits(LOGITS, **options)).nonzero().flatten().tolist()


def test_what_is_left_out():
    assert kept() == [0, 1, 2, 3]
    assert kept(top_k=2) == [0, 3] and kept(top_k=9) == [0, 1, 2, 3]
    assert kept(top_p=0.5) == [0] and kept(top_p=0.51) == [0, 3] and kept(top_p=0.76) == [0, 1, 3]
    assert kept(top_p=1e-9) == [0] and kept(temperature=0.0) == [0]
    assert kept(top_k=3, top_p=0.4) == [0]
    assert_close(filter_logits(LOGITS, temperature=0.5), 2 * LOGITS)
    assert_close(filter_logits(LOGITS, top_p=0.76)[[0, 1, 3]], LOGITS[[0, 1, 3]])
    for wrong in (dict(temperature=-1.0), dict(top_k=-1), dict(top_p=0.0), dict(top_p=1.1)):
        with pytest.raises(BadParameter, match="top_p"):
            filter_logits(LOGITS, **wrong)


def test_draws_follow_the_numbers_and_the_probabilities():
    uniform = torch.tensor([0.0, 0.49, 0.51, 0.69, 0.71, 0.749, 0.751, 0.99])
    logits = LOGITS.expand(8, 4)
    assert draw_codes(logits, uniform).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    many = draw_codes(LOGITS.expand(100_000, 4), torch.rand(100_000, generator=torch.Generator().manual_seed(0)))
    assert_close(many.bincount().float() / 100_000, LOGITS.exp(), atol=5e-3, rtol=0)


def test_what_is_left_out_is_never_drawn():
    """Also by numbers next to 0 and 1, where a rounded sum could fall behind the last code."""
    g = torch.Generator().manual_seed(0)
    logits = filter_logits(torch.randn(1000, 50, generator=g), top_k=5)
    for uniform in (0.0, 1 - 2**-24, 0.5):
        codes = draw_codes(logits, torch.full((1000,), uniform))
        assert torch.isfinite(logits.gather(1, codes[:, None])).all()
    assert draw_codes(logits.view(10, 100, 50), torch.rand(10, 100, generator=g)).shape == (10, 100)


def test_log_probability():
    assert_close(log_probability(LOGITS.expand(2, 4) + 3, torch.tensor([0, 2])), LOGITS[[0, 2]])


@pytest.mark.parametrize("schedule, values", [("constant", (5, 5, 5)), ("linear", (1, 3, 5)), ("cosine", (1, 3, 5))])
def test_guidance_grows(schedule, values):
    sampling = LogitSampling(guidance_scale=5.0, guidance_schedule=schedule)
    assert [sampling.scale_at(p) for p in (0.0, 0.5, 1.0)] == pytest.approx(values)
    late = LogitSampling(guidance_scale=5.0, guidance_schedule="cosine")
    assert late.scale_at(0.25) < LogitSampling(guidance_scale=5.0, guidance_schedule="linear").scale_at(0.25)


def test_settings_are_checked():
    with pytest.raises(UnknownName, match="did you mean temperature"):
        LogitSampling.of({"temperatur": 1.0})
    with pytest.raises(UnknownName, match="constant"):
        LogitSampling(guidance_schedule="constnt")
    with pytest.raises(BadParameter, match="top_p must be"):
        LogitSampling(top_p=0.0)
    assert LogitSampling.of({"top_k": 4}).filtered(LOGITS.expand(1, 4)).isfinite().all()

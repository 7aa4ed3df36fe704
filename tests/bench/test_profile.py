"""The profile names what a step is made of, and its shares are shares."""

from contextlib import nullcontext

import pytest
import torch

from t2ilib.bench import profile

CPU = torch.device("cpu")


def test_the_largest_comes_first_and_shares_are_of_the_whole():
    runs = [{"mm": 6.0, "add": 1.0 + 0.1 * k, "copy": 3.0} for k in range(5)]
    runs[2]["rare"] = 100.0  # in one run of five: its median is 0
    whole, parts = profile.largest(runs)
    assert list(parts) == ["mm", "copy", "add"]
    assert parts["mm"] == (6.0, 6.0, 6.0) and parts["add"] == pytest.approx((1.2, 1.08, 1.32))
    assert whole[0] == pytest.approx(10.3)
    del runs[2]["rare"]
    whole, parts = profile.largest(runs)
    assert sum(value[0] for value in parts.values()) == pytest.approx(whole[0])
    assert list(profile.largest(runs, 1)[1]) == ["mm"] and profile.largest([{}] * 3) == ((0, 0, 0), {})


def test_rows_tell_what_is_called_and_what_is_allocated():
    a, b = torch.randn(400, 400), torch.zeros(1000, 1000)

    def step():
        for _ in range(4):
            a @ a
        b.clone()

    rows = list(profile.profile_rows(CPU, 0.0, steps={"x": lambda device: nullcontext(("400", step))}, repeats=3))
    assert {(row.kernel, row.mode, row.shape) for row in rows} == {("profile", "x", "400")}
    time, memory = ([row for row in rows if row.metric == metric] for metric in ("ms", "MiB allocated"))
    assert time[0].provider == memory[0].provider == "whole step" and time[0].ratio == memory[0].ratio == 1
    assert {"mm", "clone"} <= {row.provider for row in time} and len(time) <= 1 + profile.TOP
    for table in (time, memory):
        assert all(row.p20 <= row.p50 <= row.p80 for row in table)
        assert all(x.p50 >= y.p50 for x, y in zip(table[1:], table[2:], strict=False))
        for row in table[1:]:
            assert row.p50 == pytest.approx(table[0].p50 / row.ratio, rel=0.01, abs=1e-4)  # four decimals are kept
    allocated = {row.provider: row.p50 for row in memory}  # equal in every run
    assert allocated["mm"] == pytest.approx(4 * a.nbytes / 2**20, rel=0.01)
    assert allocated["whole step"] == pytest.approx(4 * a.nbytes / 2**20 + b.nbytes / 2**20, rel=0.01)
    assert sum(1 / row.ratio for row in memory[1:]) == pytest.approx(1, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("build", [profile.gan_training, lambda d: profile.critic_training(d, batch=2),
                                   profile.diffusion_training], ids=["gan", "critic", "diffusion"])
def test_steps_of_the_notebooks(build):
    with build(CPU) as (shape, step):
        time, memory = profile.operations(step, CPU)
    assert shape and sum(time.values()) > 0 and sum(memory.values()) > 0
    assert any("convolution" in name for name in time) and not set(profile.ALLOCATING) & set(memory)

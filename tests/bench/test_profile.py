"""The profile names what a step is made of, and its shares are shares."""

from contextlib import nullcontext

import pytest
import torch

from t2ilib.bench import profile

CPU = torch.device("cpu")


def test_the_longest_operation_comes_first_and_shares_are_of_the_whole():
    a, b = torch.randn(400, 400), torch.zeros(1000, 1000)

    def step():
        for _ in range(4):
            a @ a
        b.clone()

    rows = list(profile.profile_rows(CPU, 0.0, steps={"x": lambda device: nullcontext(("400", step))}, repeats=3))
    assert {(row.kernel, row.mode, row.shape) for row in rows} == {("profile", "x", "400")}
    time, memory = ([row for row in rows if row.metric == metric] for metric in ("ms", "MiB allocated"))
    assert time[0].provider == memory[0].provider == "whole step" and time[0].ratio == memory[0].ratio == 1
    assert time[1].provider == "mm" and len(time) <= 1 + profile.TOP
    for table in (time, memory):
        assert all(row.p20 <= row.p50 <= row.p80 for row in table)
        assert sum(1 / row.ratio for row in table[1:]) == pytest.approx(1, abs=0.2)
    allocated = {row.provider: row.p50 for row in memory}
    assert allocated["whole step"] == pytest.approx(4 * a.nbytes / 2**20 + b.nbytes / 2**20, rel=0.01)


@pytest.mark.parametrize("build", [profile.gan_training, lambda d: profile.critic_training(d, batch=2),
                                   profile.diffusion_training], ids=["gan", "critic", "diffusion"])
def test_steps_of_the_notebooks(build):
    with build(CPU) as (shape, step):
        time, memory = profile.operations(step, CPU)
    assert shape and sum(time.values()) > 0 and sum(memory.values()) > 0
    assert any("convolution" in name for name in time) and not set(profile.ALLOCATING) & set(memory)

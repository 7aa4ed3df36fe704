import pytest
import torch
from torch.testing import assert_close

from t2ilib.errors import BadParameter, UnknownName
from t2ilib.guidance.schedule import (
    OPTIMIZERS,
    REFUSED,
    GrowthStage,
    growth_stages,
    lr_factor,
    optimizer_class,
    without_compiler,
)
from t2ilib.guidance.tiles import cut_windows, decode_tiled, draw_windows


def test_learning_rates_follow_their_course():
    def course(name):
        return [lr_factor(name, i, 8) for i in range(8)]

    assert course("constant") == [1] * 8
    assert course("linear") == pytest.approx([1 - i / 8 for i in range(8)])
    assert course("drop") == [1] * 6 + [0.1] * 2
    assert course("cosine")[0] == 1 and course("cosine")[4] == pytest.approx(0.5)


def test_every_dense_optimizer_of_torch_is_known_by_name():
    assert {"adam", "adamw", "lbfgs", "adadelta", "asgd", "rprop", "adafactor"} <= OPTIMIZERS.keys()
    assert optimizer_class("AdamW") is torch.optim.AdamW
    with pytest.raises(BadParameter, match="sparse"):
        optimizer_class("sparseadam")
    with pytest.raises(UnknownName, match="did you mean"):
        optimizer_class("adm")


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - REFUSED))
def test_without_the_compiler_an_optimizer_steps_as_torchs(name):
    ended = []
    for optimizer in (optimizer_class(name), without_compiler(optimizer_class(name))):
        z = torch.nn.Parameter(torch.arange(6.0).view(2, 3) / 6)
        steps = optimizer([z], lr=0.05)

        def closure(steps=steps, z=z):
            steps.zero_grad()
            loss = (z.sin() * z).sum()
            loss.backward()
            return loss

        for _ in range(3):
            steps.step(closure)
            steps.load_state_dict(steps.state_dict())
        ended.append(z.detach().clone())
    assert torch.equal(*ended) and not torch.equal(ended[0], torch.arange(6.0).view(2, 3) / 6)


def test_stages_share_the_steps_and_end_at_the_full_size():
    assert growth_stages(10, (8, 12)) == [GrowthStage(0, 10, (8, 12))]
    expected = [GrowthStage(0, 3, (2, 3)), GrowthStage(3, 6, (4, 6)), GrowthStage(6, 10, (8, 12))]
    assert growth_stages(10, (8, 12), (0.25, 0.5)) == expected
    assert growth_stages(0, (8, 8), (0.5,)) == [GrowthStage(0, 0, (4, 4)), GrowthStage(0, 0, (8, 8))]


def test_windows_stay_inside_and_reach_every_code():
    streams = [torch.Generator().manual_seed(s) for s in range(2)]
    seen = torch.zeros(2, 9, 7)
    for _ in range(300):
        for i, (y, x) in enumerate(draw_windows(streams, (9, 7), (4, 7))):
            assert 0 <= y <= 5 and x == 0
            seen[i, y:y + 4, x:x + 7] += 1
    assert seen.min() > 60  # the outermost rows too
    grid = torch.arange(9.0 * 7).view(1, 1, 9, 7).repeat(2, 1, 1, 1)
    part = cut_windows(grid, [(0, 1), (5, 3)], (4, 2))
    assert_close(part[1, 0], grid[1, 0, 5:9, 3:5])
    assert_close(cut_windows(grid[:1], [(1, 1), (0, 0)], (2, 2), scale=2)[0, 0], grid[0, 0, 2:6, 2:6])


@pytest.mark.parametrize("overlap", [0, 2])
def test_windows_sewn_together_are_the_whole_where_decoding_is_local(overlap):
    z = torch.randn(2, 3, 11, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def decode(part):
        assert part.shape[-2] <= 4 and part.shape[-1] <= 5
        return torch.nn.functional.interpolate(part, scale_factor=2)

    whole = torch.nn.functional.interpolate(z, scale_factor=2)
    assert_close(decode_tiled(decode, z, (4, 5), overlap), whole)

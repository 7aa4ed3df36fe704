import pytest
import torch

from t2ilib.runtime import generator
from t2ilib.training import load_training, save_training


@pytest.fixture
def resumed_training(tmp_path):
    """Return a function that asserts that four steps leave what two and, from their state, two more leave.

    `make()` gives a training, `step(training, number, stream)` makes a step of it; the resumed training is returned.
    """
    def run(make, step, steps, *, state=None, save=None):
        training, stream = make(), generator(0, "stream")
        first = load_training(state, settings={}, **training.parts(), stream=stream) if state else 0
        for number in range(first, steps):
            step(training, number, stream)
        if save:
            save_training(save, step=steps, settings={}, **training.parts(), stream=stream)
        return training

    def check(make, step):
        whole = run(make, step, 4)
        run(make, step, 2, save=tmp_path / "state.pt")
        resumed = run(make, step, 4, state=tmp_path / "state.pt")
        for a, b in ((whole.network, resumed.network), (whole.ema.model, resumed.ema.model)):
            assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
        return resumed

    return check

"""The training of notebook 06: two processes do what one does, and an interrupted run ends like one that was not."""

import pytest
import torch

from t2ilib.checkpoint import save_model
from t2ilib.layers.quantize import EMACodebook
from t2ilib.models.sizes import PIXELSNAIL
from t2ilib.models.sizes import VQVAE2 as SIZES
from t2ilib.models.vqvae2 import VQVAE2

# a codebook starts on vectors of the batch that its process has, and dropout is drawn by each process for itself
ALIKE = """
from t2ilib.layers.quantize import EMACodebook
from t2ilib.models.sizes import PIXELSNAIL
EMACodebook._place = lambda self, rows, vectors: 0
for size in PIXELSNAIL.values():
    size["dropout"] = 0.0
"""


@pytest.fixture
def alike(monkeypatch):
    """What ALIKE changes in this process is as it was after the test."""
    monkeypatch.setattr(EMACodebook, "_place", EMACodebook._place)
    for name, size in PIXELSNAIL.items():
        monkeypatch.setitem(PIXELSNAIL, name, dict(size))


def check_one_and_two(training, **parameters):
    one, two = training.by_one_and_by_two(live_steps=0, text="minilm", **parameters)
    for name, weights in one.items():
        for key, value in weights.items():
            torch.testing.assert_close(torch.tensor(two[name][key]), torch.tensor(value), rtol=1e-3, atol=1e-4)


@pytest.fixture
def shared_folder(tmp_path, monkeypatch):
    """One run folder for all processes, as in `train --devices 2`."""
    monkeypatch.setenv("T2I_RUN_DIR", str(tmp_path / "run"))
    return tmp_path / "run"


@pytest.mark.long  # in `make test` notebook 02 does the same
def test_two_processes_train_the_vqvae_that_one_does(notebook_training, shared_folder, alike):
    training = notebook_training("06_vqvae_pixelsnail.py", first=ALIKE, networks='[("vqvae", averaged)]')
    check_one_and_two(training, vqvae_steps=3, snail_steps=1)


@pytest.mark.long  # in `make test` notebook 02 does the same
def test_two_processes_train_the_pixelsnail_that_one_does(notebook_training, shared_folder, alike):
    torch.manual_seed(0)
    save_model(shared_folder / "checkpoints" / "emoji-vqvae", VQVAE2(**SIZES["small"]))
    training = notebook_training("06_vqvae_pixelsnail.py", first=ALIKE, networks='[("pixelsnail", nets[-1])]')
    check_one_and_two(training, stages="pixelsnail", snail_steps=3, muon=0.0)


@pytest.mark.long  # in `make test` notebooks 02 and 08 do the same
def test_an_interrupted_vqvae_ends_like_an_uninterrupted_one(notebook_training):
    training = notebook_training("06_vqvae_pixelsnail.py", networks='[("vqvae", averaged)]')
    training.check_resume("vqvae.pt", live_steps=0, text="minilm", stages="vqvae", vqvae_steps=4)


@pytest.mark.long  # in `make test` notebooks 02 and 08 do the same
def test_an_interrupted_pixelsnail_ends_like_an_uninterrupted_one(notebook_training):
    training = notebook_training("06_vqvae_pixelsnail.py", networks='[("pixelsnail", nets[-1])]')
    training.check_resume("emoji-pixelsnail.pt", live_steps=0, text="minilm", stages="pixelsnail", snail_steps=4)

"""Two runs with one file: the second is refused, by a lock that a dead process does not hold."""

import subprocess
import sys

import pytest
import torch

from t2ilib.cli.keeper import make
from t2ilib.errors import BadParameter
from t2ilib.locks import hold, release
from t2ilib.paths import repo_root
from t2ilib.training import load_training, save_training

HOLD = "import sys, time; from t2ilib.locks import hold; hold(sys.argv[1]); print('held', flush=True); time.sleep(600)"


@pytest.fixture
def other_run():
    """Return a function that starts a process which holds a file."""
    processes = []

    def start(path):
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, cwd=repo_root())
        processes.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_file_belongs_to_one_process_until_that_ends(tmp_path, other_run):
    path = tmp_path / "run.state"
    process = other_run(path)
    with pytest.raises(BadParameter, match="run.state is in use by another run"):
        hold(path)
    process.kill()
    process.wait()
    hold(path)
    hold(path)  # again in the same process is no second run
    release(path)
    release(path)
    assert not list(tmp_path.iterdir())
    other_run(path)


def test_a_second_run_of_the_same_picture_is_refused(tmp_path, other_run):
    other_run(tmp_path / "out.png.vqgan_clip.state")
    with pytest.raises(BadParameter, match="in use by another run"):
        make("a red heart", method="vqgan_clip", num_images=1, seed=0, options={}, out=tmp_path / "out.png")


def test_a_second_training_is_refused(tmp_path, other_run):
    path, network = tmp_path / "state.pt", torch.nn.Linear(1, 1)
    save_training(path, step=1, settings={}, network=network)
    release(path)
    process = other_run(path)
    for call in (lambda: save_training(path, step=2, settings={}, network=network),
                 lambda: load_training(path, settings={}, network=network)):
        with pytest.raises(BadParameter, match="in use by another run"):
            call()
    process.kill()
    process.wait()
    assert load_training(path, settings={}, network=network) == 1

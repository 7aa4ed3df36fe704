import warnings
import zipfile

import pytest
import torch
from torch import nn

from t2ilib.encoders import load_clip
from t2ilib.encoders.torchscript_tensors import is_torchscript, read_torchscript_tensors
from t2ilib.errors import CheckpointMismatch

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.scale = nn.Parameter(torch.randn(3).half())
        self.turned = nn.Parameter(torch.randn(4, 3).t())  # strides that are not its shape's
        self.register_buffer("steps", torch.arange(4))

    def forward(self, x):
        return self.trunk(x)


class Program(nn.Module):
    """Writes a file when `torch.jit.load` restores it."""

    def __init__(self, victim: str):
        super().__init__()
        self.victim = victim
        self.weight = nn.Parameter(torch.randn(3))

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool, str]:
        return (self.weight, self.training, self.victim)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool, str]):
        self.victim = state[2]
        self.training = state[1]
        self.weight = state[0] + torch.from_file(self.victim, True, 3).zero_()

    def forward(self, x):
        return x


@pytest.mark.parametrize("form", ["script", "trace"])
def test_tensors_are_those_that_torch_loads(tmp_path, form):
    model = Net().eval()
    program = torch.jit.script(model) if form == "script" else torch.jit.trace(model, torch.randn(1, 3, 8, 8))
    torch.jit.save(program, str(tmp_path / "net.pt"))
    tensors = read_torchscript_tensors(tmp_path / "net.pt")
    assert is_torchscript(tmp_path / "net.pt") and tensors.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(tensors[name], value) and tensors[name].dtype == value.dtype


def test_a_program_in_the_archive_does_not_run(tmp_path):
    victim = tmp_path / "victim"
    path = tmp_path / "openai.pt"
    torch.jit.save(torch.jit.script(Program(str(victim))), str(path))
    for name in (str(path), f"ViT-B-32:{path}"):
        with pytest.raises(CheckpointMismatch, match="no state dict of tensors"):
            load_clip(name)
    assert not victim.exists()
    torch.jit.load(str(path))
    assert victim.exists()  # the attack works where the program runs


def test_a_damaged_archive_is_refused(tmp_path):
    path = tmp_path / "net.pt"
    torch.jit.save(torch.jit.script(Net()), str(path))
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    for part in ("data.pkl", "data/0"):
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data[:len(data) // 2] if name.endswith(part) else data)
        with pytest.raises(CheckpointMismatch, match="cannot be read as a TorchScript archive"):
            read_torchscript_tensors(path)


def test_other_archives_are_not_torchscript(tmp_path):
    torch.save(Net().state_dict(), tmp_path / "state.pt")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a/b/constants.pkl", b"")
    (tmp_path / "text").write_text("no archive")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not any(is_torchscript(tmp_path / name) for name in ("state.pt", "other.zip", "text"))

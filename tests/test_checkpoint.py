import json
import os

import pytest
import torch
from torch import nn

from t2ilib import checkpoint
from t2ilib.checkpoint import (
    absent_checkpoint,
    absent_weights,
    configurable,
    load_model,
    load_state,
    read_config,
    save_model,
    save_state,
    short_hash,
)
from t2ilib.errors import BadParameter, CheckpointMismatch, MissingAsset


@configurable
class Net(nn.Module):
    def __init__(self, *, width: int = 4, widths: tuple[int, ...] = (3, 2), name: str = "x"):
        super().__init__()
        self.a = nn.Linear(2, width)
        self.b = nn.ModuleList(nn.Linear(n, n) for n in widths)
        self.register_buffer("count", torch.tensor(7))


@configurable
class Other(nn.Module):
    def __init__(self):
        super().__init__()


def test_configurable_keeps_arguments_with_defaults():
    assert Net().config == {"width": 4, "widths": [3, 2], "name": "x"}
    assert Net(width=5, widths=(1,)).config == {"width": 5, "widths": [1], "name": "x"}
    assert Other().config == {}
    assert Net.__init__.__name__ == "__init__" and Net.__name__ == "Net"
    with pytest.raises(TypeError, match="depth"):
        Net(depth=3)


def test_round_trip(tmp_path):
    torch.manual_seed(0)
    net = Net(width=6, widths=(2, 5)).train()
    folder = save_model(tmp_path / "deep" / "net", net, seed=3, metrics={"psnr": 26.1})
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    config = read_config(folder)
    assert config["class"] == "Net" and config["kwargs"] == net.config and config["format"] == 2
    assert config["seed"] == 3 and config["metrics"] == {"psnr": 26.1}
    assert config["parameters"] == sum(v.numel() for v in net.state_dict().values())
    assert short_hash(folder) == checkpoint.sha256_of(folder / "model.safetensors")[:12]
    assert len(short_hash(folder)) == 12
    loaded = load_model(Net, folder)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert loaded.config == net.config
    for key, value in net.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], value, rtol=0, atol=0)


def test_half_precision_is_smaller_and_loads_as_float32(tmp_path):
    net = Net(width=4000)
    save_model(tmp_path / "full", net)
    save_model(tmp_path / "half", net, dtype=torch.float16)
    sizes = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("full", "half")]
    assert sizes[1] < 0.55 * sizes[0] and read_config(tmp_path / "half")["dtype"] == "float16"
    loaded = load_model(Net, tmp_path / "half")
    assert loaded.a.weight.dtype == torch.float32 and loaded.count.dtype == torch.int64 and loaded.count == 7
    torch.testing.assert_close(loaded.a.weight, net.a.weight.half().float(), rtol=0, atol=0)
    assert net.a.weight.dtype == torch.float32  # the network itself is not changed


def test_values_that_half_precision_cannot_hold_are_refused(tmp_path):
    net = Net()
    with torch.no_grad():
        net.a.weight[0, 0] = 1e5
    with pytest.raises(BadParameter, match="a.weight.*too large for torch.float16"):
        save_model(tmp_path / "net", net, dtype=torch.float16)
    assert not (tmp_path / "net").exists()


def test_eight_bits_are_a_quarter_and_err_by_half_a_step_of_each_channel(tmp_path):
    torch.manual_seed(0)
    state = {"kernel": torch.randn(64, 8, 3, 3) * torch.logspace(-4, 3, 64)[:, None, None, None],
             "matrix": torch.randn(16, 64).t() + 5, "narrow": torch.randn(50, 2), "bias": torch.randn(64) * 100,
             "zeros": torch.zeros(3, 40), "count": torch.arange(300)}
    save_state(tmp_path / "bits", state, kind="tensors", kwargs={}, dtype=torch.int8)
    save_state(tmp_path / "full", state, kind="tensors", kwargs={})
    loaded, config = load_state(tmp_path / "bits", kind="tensors")
    assert loaded.keys() == state.keys() and config["dtype"] == "int8"
    assert config["parameters"] == read_config(tmp_path / "full")["parameters"]
    for key in ("kernel", "matrix"):
        assert loaded[key].dtype == torch.float32 and loaded[key].shape == state[key].shape
        half_step = state[key].flatten(1).abs().amax(1) / 254
        assert ((loaded[key] - state[key]).flatten(1).abs().amax(1) <= half_step * 1.001).all()
    for key in ("narrow", "bias"):
        torch.testing.assert_close(loaded[key], state[key].half().float(), rtol=0, atol=0)
    assert (loaded["zeros"] == 0).all() and loaded["count"].equal(state["count"])
    big = {"w": torch.randn(200, 500)}
    sizes = [save_state(tmp_path / "big", big, kind="t", kwargs={}, dtype=dtype).joinpath("model.safetensors").stat()
             .st_size for dtype in (torch.int8, None)]
    assert sizes[0] < 0.27 * sizes[1]
    with pytest.raises(BadParameter, match="must not end in ':scale'"):
        save_state(tmp_path / "clash", {"w:scale": torch.ones(1)}, kind="t", kwargs={})
    state["kernel"][3, 0, 0, 0] = torch.nan
    save_state(tmp_path / "nan", state, kind="tensors", kwargs={}, dtype=torch.int8)
    assert load_state(tmp_path / "nan")[0]["kernel"].isnan().sum() == 1
    state["kernel"][3, 0, 0, 0] = 1e6
    state["bias"][0] = 1e6
    with pytest.raises(BadParameter, match="bias.*too large"):
        save_state(tmp_path / "large", state, kind="tensors", kwargs={}, dtype=torch.int8)


def test_shared_and_strided_tensors(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    save_state(tmp_path / "s", {"a": base.t(), "b": base, "c": base[1:]}, kind="tensors", kwargs={})
    state, config = load_state(tmp_path / "s", kind="tensors")
    for key, expected in (("a", base.t()), ("b", base), ("c", base[1:])):
        torch.testing.assert_close(state[key], expected, rtol=0, atol=0)
    assert config["kwargs"] == {}


def test_keys_and_shapes_must_fit(tmp_path):
    net = Net()
    state = net.state_dict()
    del state["a.bias"]
    state["extra"], state["b.0.weight"] = torch.zeros(1), torch.zeros(9, 9)
    save_state(tmp_path / "s", state, kind="Net", kwargs=net.config)
    with pytest.raises(CheckpointMismatch) as caught:
        load_model(Net, tmp_path / "s")
    for part in ("1 missing: a.bias", "1 unexpected: extra", r"b.0.weight (9, 9) instead of (3, 3)", "Net"):
        assert part in str(caught.value)
    save_state(tmp_path / "old", net.state_dict(), kind="Net", kwargs={"depth": 2})
    with pytest.raises(CheckpointMismatch, match="depth.*another version"):
        load_model(Net, tmp_path / "old")


def test_other_bytes_another_class_and_missing_files(tmp_path):
    folder = save_model(tmp_path / "net", Net())
    with pytest.raises(CheckpointMismatch, match="holds a Net, not a Other"):
        load_model(Other, folder)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointMismatch, match="SHA-256 is .*damaged"):
        load_model(Net, folder)
    weights.unlink()
    with pytest.raises(MissingAsset, match="model.safetensors is missing"):
        load_model(Net, folder)
    with pytest.raises(MissingAsset, match="config.json is missing"):
        load_model(Net, tmp_path / "nowhere")


def test_what_is_absent_says_how_to_get_it(tmp_path):
    text = absent_checkpoint("emoji-x", tmp_path, "train x", option="model=FOLDER")
    assert text.startswith(f"no checkpoint emoji-x in {tmp_path}; ") and text.endswith("holds one: model=FOLDER")
    for way in ("`train x`", "`git checkout`", "release --fetch"):
        assert way in text
    assert absent_checkpoint("emoji-x", tmp_path, "train x").endswith("holds one")
    assert "model.safetensors is missing beside its config.json" in absent_weights(tmp_path / "model.safetensors")


def test_a_save_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch):
    folder = save_model(tmp_path / "net", Net(), note="first")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(BadParameter, match="plain JSON types"):
        save_model(folder, Net(), note=torch.zeros(2))
    with pytest.raises(BadParameter, match="must not set sha256"):
        save_model(folder, Net(), sha256="me")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before

    def broken(tensors, path):
        path.write_bytes(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        save_model(folder, Net(), note="second")
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".tmp"} == before
    assert load_model(Net, folder) is not None


def test_only_configurable_networks_can_be_saved(tmp_path):
    with pytest.raises(BadParameter, match="Linear keeps no constructor arguments"):
        save_model(tmp_path / "net", nn.Linear(2, 2))


def test_write_json_is_readable_and_replaces(tmp_path):
    path = tmp_path / "a.json"
    checkpoint.write_json(path, {"ä": 1})
    checkpoint.write_json(path, {"ä": 2})
    assert json.loads(path.read_text(encoding="utf-8")) == {"ä": 2} and "ä" in path.read_text(encoding="utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


class _Killed(BaseException):
    """What SIGKILL does: nothing behind it runs."""


@pytest.mark.parametrize("killed_at", range(4))
def test_a_killed_writer_leaves_the_old_checkpoint_or_the_new_one(tmp_path, monkeypatch, killed_at):
    old, new = Net(width=2), Net(width=3)
    save_model(tmp_path / "net", old, seed=1)
    renames = []
    original = os.replace

    def replace(source, target):
        renames.append(target)
        if len(renames) > killed_at:
            raise _Killed
        original(source, target)

    monkeypatch.setattr(os, "replace", replace)
    if killed_at < 3:  # the config that waits, the weights, the config
        with pytest.raises(_Killed):
            save_model(tmp_path / "net", new, seed=2)
    else:
        save_model(tmp_path / "net", new, seed=2)
    monkeypatch.undo()
    saved = new if killed_at >= 2 else old
    loaded = load_model(Net, tmp_path / "net")
    assert loaded.config == saved.config and read_config(tmp_path / "net")["seed"] == (2 if saved is new else 1)
    for name, value in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    save_model(tmp_path / "net", old, seed=3)  # and what was left does not hinder the next one
    assert load_model(Net, tmp_path / "net").config == old.config


def test_every_flipped_bit_of_a_config_is_found(tmp_path):
    folder = save_model(tmp_path / "net", Net(width=2), seed=1, note="a card")
    original = (folder / "config.json").read_bytes()
    for position in range(len(original)):
        damaged = bytearray(original)
        damaged[position] ^= 1 << position % 7
        (folder / "config.json").write_bytes(damaged)
        try:
            config = read_config(folder)
        except CheckpointMismatch:
            continue
        assert {**config, "config_sha256": ""} == {**json.loads(original), "config_sha256": ""}

import pytest
import torch

from t2ilib.errors import CheckpointMismatch
from t2ilib.models.vqgan import VQGAN, load_taming_checkpoint
from t2ilib.state_dicts import check_numbers, find_state, without_prefixes

WEIGHTS = {"a.weight": torch.ones(2), "b": torch.zeros(1)}
AVERAGES = {"a.weight": torch.full((2,), 5.0), "b": torch.ones(1)}


def prefixed(prefix):
    return {prefix + name: tensor for name, tensor in WEIGHTS.items()}


@pytest.mark.parametrize("content", [
    WEIGHTS, {"state_dict": WEIGHTS}, {"model": WEIGHTS, "step": 3, "optimizer": {"state": {0: torch.ones(1)}}},
    {"checkpoint": {"state_dict": WEIGHTS}}, {"a": {"b": {"params": WEIGHTS}}}, {"ema": AVERAGES, "net": WEIGHTS}])
def test_weights_are_found_up_to_two_levels_down(content):
    assert find_state(content, source="x.pt") == WEIGHTS


def test_averages_are_taken_on_request():
    assert find_state({"ema": AVERAGES, "model": WEIGHTS}, ema=True, source="x.pt") == AVERAGES
    assert find_state({"state": {"params_ema": AVERAGES}}, ema=True, source="x.pt") == AVERAGES
    with pytest.raises(CheckpointMismatch, match="x.pt holds no running average .*leave out ema"):
        find_state({"model": WEIGHTS}, ema=True, source="x.pt")


def test_averages_of_latent_diffusion_are_found_under_their_names_without_dots():
    weight, buffer, average = torch.zeros(2), torch.ones(1), torch.full((2,), 5.0)
    first_stage = {"encoder.conv_in.weight": weight, "count": buffer, "model_ema.encoderconv_inweight": average,
                   "model_ema.decay": torch.tensor(0.9)}
    found = find_state({"state_dict": first_stage}, ema=True, source="x.ckpt")
    assert list(found) == ["encoder.conv_in.weight", "count"]
    assert found["encoder.conv_in.weight"] is average and found["count"] is buffer
    diffusion = {"model.diffusion_model.out.weight": weight, "model_ema.diffusion_modeloutweight": average}
    assert list(find_state(diffusion, ema=True, source="x.ckpt").values()) == [average]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.module.", "generator."])
def test_prefixes_of_wrappers_are_taken_away_with_a_note(prefix):
    with pytest.warns(UserWarning, match="x.pt: every name begins with"):
        assert without_prefixes(prefixed(prefix), source="x.pt") == WEIGHTS


def test_what_only_some_names_share_stays(recwarn):
    mixed = {**prefixed("module."), "head": torch.ones(1)}
    assert without_prefixes(mixed, source="x.pt") == mixed and not recwarn
    assert without_prefixes({}, source="x.pt") == {}


@pytest.mark.parametrize("content", [{}, [], None, {"state_dict": {}}, {"epoch": 3}, {0: torch.ones(1)}])
def test_files_without_tensors_are_refused(content):
    with pytest.raises(CheckpointMismatch, match="x.pt holds no state dict of tensors"):
        find_state(content, source="x.pt")


def test_weights_that_are_no_numbers_are_refused():
    check_numbers(WEIGHTS, source="x.pt")
    with pytest.raises(CheckpointMismatch, match="x.pt: b holds values that are no finite numbers"):
        check_numbers({**WEIGHTS, "b": torch.tensor([float("nan")]), "n": torch.tensor([1])}, source="x.pt")


def test_a_vqgan_from_another_framework(tmp_path):
    torch.manual_seed(0)
    model = VQGAN(embed_dim=4, n_embed=8, z_channels=4, resolution=8, in_channels=3, out_ch=3, ch=32, ch_mult=[1, 2],
                  num_res_blocks=1, attn_resolutions=[])
    state = model.state_dict()
    average = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    saved = {"step": 5, "generator": {f"module.{name}": tensor for name, tensor in state.items()}, "g_ema": average}
    torch.save(saved, tmp_path / "net.pt")
    with pytest.warns(UserWarning, match="module."):
        loaded = load_taming_checkpoint(None, tmp_path / "net.pt")
    averaged = load_taming_checkpoint(None, tmp_path / "net.pt", ema=True)
    for name, tensor in state.items():
        assert torch.equal(loaded.state_dict()[name], tensor)
        assert torch.equal(averaged.state_dict()[name], average[name])

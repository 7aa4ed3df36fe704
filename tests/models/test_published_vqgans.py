"""Every published name, read from a file of random weights in the exact layout of the real one, only narrower."""

import collections
import shutil

import pytest
import torch

from t2ilib.cli import main
from t2ilib.errors import BadParameter, CheckpointMismatch, MissingAsset
from t2ilib.models import taming_format
from t2ilib.models.vqgan import VQGAN, VQGAN_MODELS, convert_vqgan, load_vqgan

CONDITIONAL = {"vqgan-sflckr-f16-1024": 182, "vqgan-ade20k-f16": 151, "vqgan-drin-f16-1024": 1}  # channels of the hint
TRANSFORMERS = {*CONDITIONAL, "vqgan-faceshq-f16-1024", "vqgan-celebahq-f16-1024", "vqgan-ffhq-f16-1024"}


def narrow(name):
    """The published arguments with fewer channels, blocks and codes: the layout stays."""
    changes = {"ch": 32, "num_res_blocks": 1, "n_embed": 24}
    if VQGAN_MODELS[name]["embed_dim"] == 256:
        changes.update(embed_dim=8, z_channels=8)
    return {**VQGAN_MODELS[name], **changes}


def published_state(name, model):
    """The tensors that a file of this name holds: the network and what training left around it."""
    state = collections.OrderedDict(model.state_dict())
    if name == "vqgan-coco-f16-8192":
        return state  # the first stage alone
    state["loss.discriminator.main.0.weight"] = torch.randn(4, 3, 4, 4)
    if name.startswith("ldm"):
        state.update({"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(3)})
        state.update({"model_ema." + k.replace(".", ""): v + 1 for k, v in model.state_dict().items()})
    if name in TRANSFORMERS:
        state = collections.OrderedDict(("first_stage_model." + k, v) for k, v in state.items())
        state["transformer.tok_emb.weight"] = torch.randn(24, 16)
    if channels := CONDITIONAL.get(name):  # a second VQGAN, for segmentations or depth
        torch.manual_seed(1)
        hint = VQGAN(**{**narrow(name), "in_channels": channels, "out_ch": channels})
        state.update({"cond_stage_model." + k: v for k, v in hint.state_dict().items()})
    return state


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A function that puts a narrow network's file where a user would put the real one; returns the network."""
    monkeypatch.setenv("T2I_DATA", str(tmp_path))

    def put(name, **changes):
        monkeypatch.setitem(VQGAN_MODELS, name, {k: v for k, v in narrow(name).items() if k in VQGAN_MODELS[name]})
        torch.manual_seed(0)
        model = VQGAN(**{**narrow(name), **changes}).eval().requires_grad_(False)
        folder = tmp_path / "vqgan" / name
        folder.mkdir(parents=True)
        torch.save({"global_step": 7, "state_dict": published_state(name, model), "optimizer_states": [{}]},
                   folder / "by hand.ckpt")
        return model

    return put


def assert_same(loaded, model):
    assert loaded.config == {**model.config, "resolution": 256}
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    found, expected = loaded.state_dict(), model.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in expected)


@pytest.mark.parametrize("name", VQGAN_MODELS)
def test_each_name_loads_from_its_layout(name, published):
    model = published(name)
    loaded = load_vqgan(name)
    assert_same(loaded, model)
    x = torch.rand(1, 3, 2 * model.factor, model.factor) * 2 - 1
    picture, quantized = loaded(x)
    torch.testing.assert_close(picture, model(x)[0], rtol=0, atol=0)
    assert picture.shape == x.shape and quantized.codes.shape == (1, 2, 1)
    torch.testing.assert_close(loaded.decode_codes(loaded.encode_codes(x)), picture)


def test_gumbel_codes_are_the_largest_logits_whatever_the_random_state(published):
    published("vqgan-gumbel-f8-8192")
    loaded = load_vqgan("vqgan-gumbel-f8-8192")
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    codes, before = loaded.encode_codes(x), torch.get_rng_state()
    torch.testing.assert_close(codes, loaded.quantize.proj(loaded.encode(x)).argmax(dim=1))
    torch.manual_seed(99)
    assert torch.equal(loaded.encode_codes(x), codes) and torch.equal(loaded(x)[0], loaded.decode_codes(codes))
    torch.set_rng_state(before)
    loaded(x)
    assert torch.equal(torch.get_rng_state(), before)  # nothing is drawn


def test_another_network_under_a_published_name_is_refused(published):
    published("ldm-vq-f8", n_embed=32)
    with pytest.raises(CheckpointMismatch, match="holds another network than ldm-vq-f8: n_embed=32 instead of 24"):
        load_vqgan("ldm-vq-f8")


def test_network_without_attention_is_not_taken_for_one_with_it(published, tmp_path):
    published("ldm-vq-f4")
    published("ldm-vq-f4-noattn")
    folder = tmp_path / "vqgan"
    shutil.copy(folder / "ldm-vq-f4-noattn" / "by hand.ckpt", folder / "ldm-vq-f4" / "by hand.ckpt")
    with pytest.raises(CheckpointMismatch, match="another network than ldm-vq-f4: mid_attention=False instead of True"):
        load_vqgan("ldm-vq-f4")


def test_only_the_first_stage_of_a_large_file_comes_into_memory(tmp_path):
    state = {"first_stage_model.encoder.conv_in.weight": torch.zeros(4, 3, 3, 3),
             "transformer.head.weight": torch.zeros(2**20)}
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": state}, path)
    tensors = taming_format.read_checkpoint(path)
    content = path.read_bytes()
    place = content.index(bytes(2**22))
    with open(path, "r+b") as file:  # the tensor is a view of the file: what is written there now shows through
        file.seek(place)
        file.write(b"\x3f" * 2**22)
    assert tensors["transformer.head.weight"].unique().numel() == 1 and tensors["transformer.head.weight"][0] != 0
    torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=False)
    assert taming_format.read_checkpoint(path)["transformer.head.weight"].abs().sum() == 0  # old files: read as a whole


def test_loaded_network_owns_its_weights(published, tmp_path):
    model = published("vqgan-coco-f16-8192")
    loaded = load_vqgan("vqgan-coco-f16-8192")
    path = tmp_path / "vqgan" / "vqgan-coco-f16-8192" / "by hand.ckpt"
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert_same(loaded, model)


@pytest.mark.parametrize("name", ["vqgan-sflckr-f16-1024", "vqgan-gumbel-f8-8192", "ldm-vq-f4-noattn"])
def test_conversion_keeps_every_bit_and_leaves_the_rest_behind(name, published, tmp_path, monkeypatch, capsys):
    model = published(name)
    monkeypatch.chdir(tmp_path)
    assert main(["models", "--convert", name, "mine"]) == 0
    assert capsys.readouterr().out.strip() == "mine"
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == ["config.json", "model.safetensors"]
    assert_same(load_vqgan(tmp_path / "mine"), model)
    assert (tmp_path / "mine" / "model.safetensors").stat().st_size < 1.1 * sum(
        4 * v.numel() for v in model.state_dict().values())
    config = (tmp_path / "mine" / "config.json").read_text()
    assert f'"converted_from": "{name}"' in config and '"licence": "MIT' in config and str(tmp_path) not in config
    source = tmp_path / "vqgan" / name
    (tmp_path / "mine").rename(tmp_path / "converted")
    shutil.rmtree(source)
    (tmp_path / "converted").rename(source)
    assert_same(load_vqgan(name), model)  # what was converted serves under the name as well


def test_conversion_takes_files_and_overwrites_nothing(published, tmp_path, capsys):
    model = published("ldm-vq-f8-n256")
    file = tmp_path / "vqgan" / "ldm-vq-f8-n256" / "by hand.ckpt"
    assert_same(load_vqgan(convert_vqgan(file, tmp_path / "new" / "folder")), model)
    with pytest.raises(BadParameter, match="is not an empty folder; give a new one"):
        convert_vqgan(file, file.parent)
    with pytest.raises(BadParameter, match="is not an empty folder"):
        convert_vqgan(file, file)
    assert main(["models", "--convert", str(tmp_path / "none.ckpt"), str(tmp_path / "x")]) == 1
    assert "no VQGAN at" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_offline_each_name_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("T2I_DATA", str(tmp_path))
    monkeypatch.setenv("T2I_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("T2I_OFFLINE", "1")
    for name in VQGAN_MODELS:
        with pytest.raises(MissingAsset, match=r"By hand: put its \.ckpt .*from https://") as caught:
            load_vqgan(name)
        assert str(tmp_path / "vqgan" / name) in str(caught.value)

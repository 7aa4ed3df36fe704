import collections
import os
import pickle
import sys
import types
import zipfile

import pytest
import torch
import yaml

from t2ilib.errors import BadParameter, CheckpointMismatch, MissingAsset, UnknownName
from t2ilib.models.taming_format import infer_config, read_checkpoint
from t2ilib.models.vqgan import VQGAN, load_taming_checkpoint, load_vqgan

DDCONFIG = dict(double_z=False, z_channels=8, resolution=32, in_channels=3, out_ch=3, ch=32, ch_mult=[1, 2, 2],
                num_res_blocks=1, attn_resolutions=[8], dropout=0.0)  # fmt: skip


def write_yaml(path, *, target="taming.models.vqgan.VQModel", nested=False, embed_dim=8, n_embed=24, **changes):
    params = {
        "embed_dim": embed_dim,
        "n_embed": n_embed,
        "ddconfig": {**DDCONFIG, **changes},
        "lossconfig": {"target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator", "params": {}},
    }
    node = {"target": target, "params": params}
    if nested:
        node = {
            "target": "taming.models.cond_transformer.Net2NetTransformer",
            "params": {"first_stage_config": {**node, "params": {**params, "ckpt_path": "logs/x.ckpt"}}},
        }
    path.write_text(yaml.safe_dump({"model": {"base_learning_rate": 4.5e-6, **node}}))
    return path


def make_model(quantizer="vq", **changes):
    torch.manual_seed(0)
    return VQGAN(**{**DDCONFIG, **changes}, embed_dim=8, n_embed=24, quantizer=quantizer).eval()


def lightning_file(path, state, **options):
    """Write what Lightning writes: optimiser states, schedulers, and callbacks keyed by a class of its own package."""
    package, module = types.ModuleType("lightning_like"), types.ModuleType("lightning_like.callbacks")
    callback = type("ModelCheckpoint", (), {"__module__": "lightning_like.callbacks"})
    module.ModelCheckpoint = callback
    sys.modules.update({"lightning_like": package, "lightning_like.callbacks": module})
    monitor = callback()
    monitor.best = torch.tensor(1.0)
    try:
        torch.save(
            {
                "epoch": 3,
                "global_step": 1000,
                "pytorch-lightning_version": "1.0.8",
                "callbacks": {callback: {"best_model_score": torch.tensor(0.5), "monitor": monitor}},
                "optimizer_states": [{"state": {0: {"step": 1, "exp_avg": torch.zeros(2)}}, "param_groups": []}],
                "lr_schedulers": [],
                "state_dict": state,
            },
            path,
            **options,
        )
    finally:
        del sys.modules["lightning_like"], sys.modules["lightning_like.callbacks"]
    return path


def full_state(model, prefix=""):
    """Return the state as published files hold it, with the parts of the training around it."""
    state = collections.OrderedDict((prefix + k, v) for k, v in model.state_dict().items())
    state[prefix + "loss.discriminator.main.0.weight"] = torch.randn(4, 3, 4, 4)
    state[prefix + "loss.perceptual_loss.lin0.model.1.weight"] = torch.randn(1, 4, 1, 1)
    return state


def assert_same(loaded, model):
    assert loaded.state_dict().keys() == model.state_dict().keys()
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(loaded(x)[0], model(x)[0], rtol=0, atol=0)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize("zipped", [True, False])
def test_lightning_checkpoint_loads_without_lightning(tmp_path, zipped):
    model = make_model()
    ckpt = lightning_file(tmp_path / "last.ckpt", full_state(model), _use_new_zipfile_serialization=zipped)
    assert_same(load_taming_checkpoint(write_yaml(tmp_path / "model.yaml"), ckpt), model)


def test_gumbel_checkpoint(tmp_path):
    model = make_model("gumbel")
    config = write_yaml(tmp_path / "model.yaml", target="taming.models.vqgan.GumbelVQ")
    assert_same(load_taming_checkpoint(config, lightning_file(tmp_path / "a.ckpt", full_state(model))), model)


def test_first_stage_of_a_transformer_checkpoint(tmp_path):
    model = make_model()
    state = full_state(model, "first_stage_model.")
    state["transformer.tok_emb.weight"] = torch.randn(4, 4)
    state["cond_stage_model.encoder.conv_in.weight"] = torch.randn(4, 3, 3, 3)
    config = write_yaml(tmp_path / "model.yaml", nested=True)
    assert_same(load_taming_checkpoint(config, lightning_file(tmp_path / "a.ckpt", state)), model)


def test_averaged_codebook_and_latent_diffusion_names(tmp_path):
    model = make_model()
    state = full_state(model)
    state["quantize.embedding.cluster_size"], state["quantize.embedding.embed_avg"] = torch.ones(24), torch.ones(24, 8)
    ckpt = lightning_file(tmp_path / "a.ckpt", state)
    for target in ("taming.models.vqgan.EMAVQ", "ldm.models.autoencoder.VQModelInterface"):
        assert_same(load_taming_checkpoint(write_yaml(tmp_path / "model.yaml", target=target), ckpt), model)


def test_safetensors_plain_state_and_half_precision(tmp_path):
    from safetensors.torch import save_file

    model = make_model()
    config = write_yaml(tmp_path / "model.yaml")
    save_file(dict(full_state(model)), tmp_path / "model.safetensors")
    assert_same(load_taming_checkpoint(config, tmp_path / "model.safetensors"), model)
    torch.save(dict(model.state_dict()), tmp_path / "plain.pt")
    assert_same(load_taming_checkpoint(config, tmp_path / "plain.pt"), model)
    torch.save({k: v.half() for k, v in model.state_dict().items()}, tmp_path / "half.pth")
    half = load_taming_checkpoint(config, tmp_path / "half.pth")
    assert half.codebook.dtype == torch.float32
    torch.testing.assert_close(half.codebook, model.codebook, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("quantizer", ["vq", "gumbel"])
def test_configuration_is_worked_out_from_shapes(tmp_path, quantizer):
    model = make_model(quantizer)
    ckpt = lightning_file(tmp_path / "a.ckpt", full_state(model))
    assert_same(load_taming_checkpoint(None, ckpt), model)
    inferred = infer_config(model.state_dict(), resolution=32)
    assert {k: model.config[k] for k in inferred} == inferred


@pytest.mark.parametrize("levels", [[], [8]])  # which resolutions are listed is without effect there
def test_configuration_without_any_attention(tmp_path, levels):
    model = make_model(attn_resolutions=[], mid_attention=False)
    ckpt = lightning_file(tmp_path / "a.ckpt", full_state(model))
    config = write_yaml(tmp_path / "model.yaml", target="ldm.models.autoencoder.VQModel", attn_type="none",
                        attn_resolutions=levels)
    assert_same(load_taming_checkpoint(config, ckpt), model)
    assert_same(load_taming_checkpoint(None, ckpt), model)
    with pytest.raises(CheckpointMismatch, match="mid_attention is False in the configuration and True in the file"):
        load_taming_checkpoint(config, lightning_file(tmp_path / "b.ckpt", full_state(make_model())))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attn_type": "vanilla", "n_embed": 48}, "n_embed is 48 in the configuration and 24 in the file"),
        ({"ch_mult": [1, 1, 2]}, r"ch_mult is \[1, 1, 2\] in the configuration and \[1, 2, 2\] in the file"),
        ({"num_res_blocks": 2, "ch": 64}, "ch is 64 .* and 32 .*num_res_blocks is 2 .* and 1 "),
        ({"attn_resolutions": [16]}, r"attn_resolutions is \[16\] in the configuration and \[8\] in the file"),
        ({"target": "taming.models.vqgan.GumbelVQ"}, "quantizer is gumbel in the configuration and vq in the file"),
    ],
)
def test_disagreeing_configuration_is_refused_by_name(tmp_path, changes, message):
    ckpt = lightning_file(tmp_path / "a.ckpt", full_state(make_model()))
    with pytest.raises(CheckpointMismatch, match=message):
        load_taming_checkpoint(write_yaml(tmp_path / "model.yaml", **changes), ckpt)


def test_missing_and_unexpected_tensors_are_named(tmp_path):
    config = write_yaml(tmp_path / "model.yaml")
    state = full_state(make_model())
    del state["decoder.mid.attn_1.q.weight"]
    with pytest.raises(CheckpointMismatch, match="missing.*decoder.mid.attn_1.q.weight"):
        load_taming_checkpoint(config, lightning_file(tmp_path / "a.ckpt", state))
    state = full_state(make_model())
    state["decoder.mid.extra.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointMismatch, match="unexpected.*decoder.mid.extra.weight"):
        load_taming_checkpoint(config, lightning_file(tmp_path / "a.ckpt", state))
    with pytest.raises(CheckpointMismatch, match="holds no VQGAN"):
        load_taming_checkpoint(config, lightning_file(tmp_path / "a.ckpt", {"unet.weight": torch.zeros(1)}))


class Bomb:
    """Pickles into a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_executes_nothing(tmp_path, zipped):
    trace = tmp_path / "executed"
    model = make_model()
    state = full_state(model)
    bombs = [
        Bomb(os.system, f"touch {trace}"),
        Bomb(eval, f"open({str(trace)!r}, 'w')"),
        Bomb(exec, f"open({str(trace)!r}, 'w')"),
        Bomb(os.mkdir, str(trace)),
        Bomb(getattr, "text", "upper"),
        Bomb(torch.load, str(trace)),
    ]
    content = {"callbacks": bombs, "state_dict": state, "epoch": Bomb(__import__, "this")}
    torch.save(content, tmp_path / "evil.ckpt", _use_new_zipfile_serialization=zipped)
    loaded = load_taming_checkpoint(write_yaml(tmp_path / "model.yaml"), tmp_path / "evil.ckpt")
    assert not trace.exists() and "this" not in sys.modules
    assert_same(loaded, model)
    with open(tmp_path / "control.pkl", "wb") as file:  # the bombs are live ones
        pickle.dump(bombs[3], file)
    with open(tmp_path / "control.pkl", "rb") as file:
        pickle.load(file)
    assert trace.exists()


def test_a_pickle_cannot_alter_the_functions_that_rebuild_tensors(tmp_path):
    # BUILD sets attributes on whatever object it is given
    program = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(N}X\x04\x00\x00\x00evilK\x01stb0}."
    (tmp_path / "a.ckpt").write_bytes(program)
    with pytest.raises(CheckpointMismatch):
        read_checkpoint(tmp_path / "a.ckpt")
    assert not hasattr(torch._utils._rebuild_tensor_v2, "evil")


def test_damaged_empty_and_foreign_files(tmp_path):
    whole = lightning_file(tmp_path / "a.ckpt", full_state(make_model())).read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.ckpt").write_text("<html>not found</html>")
    torch.save({"state_dict": {"a": 1}}, tmp_path / "empty.ckpt")
    for name in ("cut", "text", "empty"):
        with pytest.raises(CheckpointMismatch, match=name):
            read_checkpoint(tmp_path / f"{name}.ckpt")
    with zipfile.ZipFile(tmp_path / "program.pt", "w") as archive:  # what torch.load takes for a program and runs
        archive.writestr("program/constants.pkl", pickle.dumps(()))
    with pytest.raises(CheckpointMismatch, match="TorchScript"):
        read_checkpoint(tmp_path / "program.pt")
    with pytest.raises(MissingAsset, match="nowhere.ckpt"):
        read_checkpoint(tmp_path / "nowhere.ckpt")


def test_configurations_that_are_not_supported(tmp_path):
    ckpt = lightning_file(tmp_path / "a.ckpt", full_state(make_model()))
    path = tmp_path / "model.yaml"
    with pytest.raises(UnknownName, match="VQGAN class 'KLModel'"):
        load_taming_checkpoint(write_yaml(path, target="x.KLModel"), ckpt)
    with pytest.raises(BadParameter, match="tanh_out"):
        load_taming_checkpoint(write_yaml(path, tanh_out=True), ckpt)
    with pytest.raises(BadParameter, match="attn_type"):
        load_taming_checkpoint(write_yaml(path, attn_type="linear"), ckpt)
    path.write_text("model: 3\n")
    with pytest.raises(BadParameter, match="ddconfig"):
        load_taming_checkpoint(path, ckpt)
    path.write_text("!!python/object/apply:os.system ['true']\n")
    with pytest.raises(BadParameter, match="not a plain yaml"):
        load_taming_checkpoint(path, ckpt)
    with pytest.raises(MissingAsset, match="none.yaml"):
        load_taming_checkpoint(tmp_path / "none.yaml", ckpt)


def test_load_vqgan_takes_folders_files_and_names(tmp_path, monkeypatch):
    monkeypatch.setenv("T2I_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("T2I_DATA", raising=False)
    model = make_model()
    folder = tmp_path / "imagenet"
    folder.mkdir()
    lightning_file(folder / "last.ckpt", full_state(model))
    assert_same(load_vqgan(folder), model)
    write_yaml(folder / "model.yaml")
    assert_same(load_vqgan(folder), model)
    assert_same(load_vqgan(folder / "last.ckpt"), model)
    with pytest.raises(UnknownName, match="did you mean vqgan-imagenet-f16-16384"):
        load_vqgan("vqgan-imagenet-f16-1638")
    with pytest.raises(MissingAsset, match="no VQGAN at"):
        load_vqgan(tmp_path / "none.ckpt")
    with pytest.raises(MissingAsset, match="put its .ckpt .*cache.*vqgan-imagenet-f16-1024"):
        load_vqgan("vqgan-imagenet-f16-1024")
    place = tmp_path / "cache" / "vqgan" / "vqgan-imagenet-f16-1024"
    place.parent.mkdir(parents=True)
    folder.rename(place)
    with pytest.raises(CheckpointMismatch, match="holds another network.*n_embed=24 instead of 1024"):
        load_vqgan("vqgan-imagenet-f16-1024")

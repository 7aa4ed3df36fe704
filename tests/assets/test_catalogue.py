"""The catalogue says the truth about itself, builds the networks it describes, and can be listed."""

import json
import re

import pytest
import torch

from t2ilib import assets
from t2ilib.assets.catalogue import CATALOGUE
from t2ilib.cli import main
from t2ilib.errors import UnknownName
from t2ilib.models.vqgan import VQGAN, VQGAN_MODELS, load_vqgan

NAMES = """vqgan-imagenet-f16-1024 vqgan-imagenet-f16-16384 vqgan-gumbel-f8-8192 vqgan-faceshq-f16-1024
    vqgan-celebahq-f16-1024 vqgan-ffhq-f16-1024 vqgan-ade20k-f16 vqgan-sflckr-f16-1024 vqgan-coco-f16-8192
    vqgan-drin-f16-1024 vqgan-wikiart-f16-1024 vqgan-wikiart-f16-16384 ldm-vq-f4 ldm-vq-f4-noattn ldm-vq-f8
    ldm-vq-f8-n256 ldm-vq-f16""".split()


def test_catalogue_is_complete_and_invents_nothing():
    assert list(CATALOGUE) == list(VQGAN_MODELS) == NAMES
    seen = []
    for name, asset in CATALOGUE.items():
        assert asset.name == name and asset.licence and asset.data and asset.source.startswith("https://")
        assert [f for f in asset.files if not f.optional]
        for file in asset.files:
            assert file.urls and all(re.fullmatch(r"https://[\w.-]+/\S+", url) for url in file.urls)
            assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
            assert file.about_mb is None or file.about_mb > 100
            assert all((".zip" in url or "heibox" in url) == bool(file.member) for url in file.urls
                       if asset.source.endswith("latent-diffusion"))
            for url in file.urls:  # koofr's shares answer only those who come from the share's page
                page = re.match(r"(https://app\.koofr\.net/)content/(links/[\w-]+)/files/get/", url)
                assert file.headers.get(url) == (page and {"Referer": page[1] + page[2]})
            seen += file.urls
    assert len(set(seen)) == len(seen)
    hashes = [f.sha256 for asset in CATALOGUE.values() for f in asset.files if f.sha256]
    assert len(set(hashes)) == len(hashes) == 7


def on_meta(name):
    with torch.device("meta"):
        return VQGAN(**{"n_embed": 4096, **VQGAN_MODELS[name]})


def millions(module):
    return round(sum(p.numel() for p in module.parameters()) / 1e6, 2)


@pytest.mark.parametrize("name", NAMES)
def test_names_tell_factor_and_codes_of_the_network(name):
    model, (_, factor, codes) = on_meta(name), re.fullmatch(r"(.*)-f(\d+)(?:-n?(\d+|noattn))?", name).groups()
    assert model.factor == int(factor)
    if codes and codes.isdigit():
        assert len(model.codebook) == int(codes)
    assert ("n_embed" in VQGAN_MODELS[name]) == (name != "vqgan-ade20k-f16")  # which nobody has published
    assert model.latent_shape(256, 256)[1:] == (256 // model.factor,) * 2
    attention = [i for i, level in enumerate(model.encoder.down) if len(level.attn)]
    assert attention == ([] if name.startswith("ldm-vq-f4") else [len(model.encoder.down) - 1])


def test_networks_have_the_published_number_of_parameters():
    f16, gumbel = on_meta("vqgan-imagenet-f16-16384"), on_meta("vqgan-gumbel-f8-8192")
    assert (millions(f16.encoder), millions(f16.decoder), millions(f16)) == (29.30, 42.45, 76.07)
    assert millions(gumbel.decoder) == 38.32 and gumbel.quantize.proj.weight.shape == (8192, 256, 1, 1)
    for name, size in (("vqgan-coco-f16-8192", 296_030_214), ("ldm-vq-f4", 756_175_527)):
        assert CATALOGUE[name].about_mb == round(size / 1e6)
    parameters = sum(p.numel() for p in on_meta("vqgan-coco-f16-8192").parameters())
    assert 0 < 296_030_214 - 4 * parameters < 200_000  # a first stage alone: nothing but these tensors fits in the file
    with_middle, without = on_meta("ldm-vq-f4").state_dict(), on_meta("ldm-vq-f4-noattn").state_dict()
    assert {re.sub(r"\.\w+\.\w+$", "", k) for k in with_middle.keys() - without.keys()} == {
        "encoder.mid.attn_1", "decoder.mid.attn_1"} and not without.keys() - with_middle.keys()


@pytest.mark.parametrize(("typed", "meant"), [
    ("vqgan-imagenet-f16-1638", "vqgan-imagenet-f16-16384"), ("vqgan_gumbel_f8_8192", "vqgan-gumbel-f8-8192"),
    ("faceshq", "vqgan-faceshq-f16-1024"), ("vq-f8", "ldm-vq-f8"), ("WikiArt", "vqgan-wikiart-f16-1024")])
def test_near_names_are_suggested(typed, meant):
    for load in (load_vqgan, assets.fetch):
        with pytest.raises(UnknownName, match=f"did you mean .*{meant}"):
            load(typed)


def test_models_command_lists_the_catalogue(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("T2I_DATA", raising=False)
    monkeypatch.setenv("T2I_CACHE", str(tmp_path))
    folder = tmp_path / "vqgan" / "vqgan-imagenet-f16-1024"
    folder.mkdir(parents=True)
    (folder / "last.ckpt").write_bytes(b"x")
    assert main(["models"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if "codes" in line}
    assert list(lines) == NAMES and all(len(line) <= 120 for line in lines.values())
    assert re.search("OpenImages +8,192 codes +f8 +MIT", lines["vqgan-gumbel-f8-8192"])
    assert re.search(r"\? MB +ADE20K +\? codes +f16", lines["vqgan-ade20k-f16"])
    assert " here " in lines["vqgan-imagenet-f16-1024"] and "not here" not in lines["vqgan-imagenet-f16-1024"]
    assert "not here" in lines["vqgan-imagenet-f16-16384"] and "980 MB" in lines["vqgan-imagenet-f16-16384"]
    assert "MIT" in lines["vqgan-imagenet-f16-16384"]
    assert main(["models", "--json"]) == 0
    named = json.loads(capsys.readouterr().out)["by_name"]
    gumbel = named["vqgan-gumbel-f8-8192"]
    assert (gumbel["codes"], gumbel["factor"], gumbel["data"]) == (8192, 8, "OpenImages")
    assert gumbel["sha256"]["last.ckpt"].startswith("5cd6c748") and named["ldm-vq-f8"]["sha256"] == {"model.ckpt": None}
    assert named["vqgan-imagenet-f16-1024"]["here"] == str(folder) and named["vqgan-imagenet-f16-16384"]["here"] is None

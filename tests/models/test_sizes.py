"""The sizes are those of the shipped checkpoints, and each builds its network."""

import json

import pytest

from t2ilib.memory import no_memory
from t2ilib.models import sizes
from t2ilib.models.imagen_unet import ImagenUNet
from t2ilib.models.latent_prior import LatentPrior
from t2ilib.models.vqgan import VQGAN
from t2ilib.models.wgan import WGANCritic, WGANGenerator
from t2ilib.paths import checkpoints_dir

SHIPPED = {"emoji-minimagen-base": sizes.IMAGEN["base"], "emoji-minimagen-sr64": sizes.IMAGEN["sr64"],
           "emoji-minimagen-sr128": sizes.IMAGEN["sr128"], "emoji-prior": sizes.PRIOR["shipped"],
           "emoji-vqgan": sizes.VQGAN["shipped"], "emoji-wgan": sizes.WGAN["shipped"]["generator"]}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_networks_have_these_sizes(name):
    kwargs = json.loads((checkpoints_dir() / name / "config.json").read_text())["kwargs"]
    assert kwargs == kwargs | SHIPPED[name]


@pytest.mark.parametrize("network, table", [(ImagenUNet, sizes.IMAGEN), (VQGAN, sizes.VQGAN)])
def test_every_size_builds(network, table):
    with no_memory():
        for kwargs in table.values():
            network(**kwargs)


def test_every_pair_and_prior_builds():
    with no_memory():
        for pair in sizes.WGAN.values():
            assert WGANGenerator(**pair["generator"]).config["image_size"] == WGANCritic(**pair["critic"]).image_size
        for kwargs in sizes.PRIOR.values():
            LatentPrior(latent_channels=8, **kwargs)

"""In a folder of one's own checkpoints, text encoder and decoder beside a network are taken, for every method."""

import pytest
import torch

from t2ilib.checkpoint import save_model
from t2ilib.encoders.emoji_blip import EmojiBlip, tokens_of
from t2ilib.errors import CheckpointMismatch, MissingAsset
from t2ilib.methods import code_checkpoints, generator, gigagan, text_transformer
from t2ilib.methods.code_checkpoints import card_of
from t2ilib.models.feed_forward import CodeGenerator
from t2ilib.models.gigagan import GigaGenerator
from t2ilib.models.sizes import GENERATOR
from t2ilib.models.text_transformer import TextTransformer
from t2ilib.models.vqgan import VQGAN

WIDTH = 32  # of the tiny BLIP's texts
NETWORKS = {
    text_transformer: lambda: TextTransformer(dim=16, depth=1, heads=2, text_dim=WIDTH),
    generator: lambda: CodeGenerator(**GENERATOR["small"], text_dim=WIDTH),
    gigagan: lambda: GigaGenerator(image_size=8, widths=[8, 8], attention=[], heads=2, filters=1, style_dim=8,
                                   text_dim=WIDTH, text_depth=1),
}


def save_vqgan(folder):
    """Save a tiny VQGAN under the name of one that ships."""
    torch.manual_seed(0)
    vqgan = VQGAN(embed_dim=8, n_embed=2048, z_channels=8, resolution=64, ch=8, ch_mult=[1, 1, 1], num_res_blocks=1,
                  attn_resolutions=[], norm_groups=8)
    save_model(folder / "emoji-vqgan-128", vqgan)
    return vqgan


def save_blip(folder):
    tokens = tokens_of(["a red heart"])
    blip = EmojiBlip(vocabulary=len(tokens) + 5, width=WIDTH, heads=2, vision_layers=1, text_layers=1,
                     channels=[8, 8, 16])
    blip.tokens.copy_(torch.tensor(tokens))
    save_model(folder / "emoji-blip", blip)


@pytest.mark.parametrize("method", NETWORKS, ids=lambda method: method.CHECKPOINT)
def test_what_lies_beside_a_network_is_taken(method, tmp_path, monkeypatch):
    vqgan = save_vqgan(tmp_path)
    card = card_of(vqgan, "emoji-vqgan-128", "emoji-blip")
    save_model(tmp_path / method.CHECKPOINT, NETWORKS[method](), **card)
    with monkeypatch.context() as patch:
        patch.setattr(code_checkpoints, "checkpoints_dir", lambda: tmp_path / "nothing")
        with pytest.raises(MissingAsset, match="reads texts by a BLIP beside it: .*train blip"):
            method.load_painter(home=tmp_path)
    save_blip(tmp_path)
    painter = method.load_painter(home=tmp_path)
    assert painter.text_encoder.name == str(tmp_path / "emoji-blip") and painter.text_encoder.dim == WIDTH
    if method is not gigagan:  # which has no decoder
        assert torch.equal(painter.vqgan.codebook, vqgan.codebook)
    save_model(tmp_path / method.CHECKPOINT, NETWORKS[method](), **card, text_weights="others")
    with pytest.raises(CheckpointMismatch, match="was trained with another emoji-blip"):
        method.load_painter(home=tmp_path)

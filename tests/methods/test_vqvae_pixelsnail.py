"""VQ-VAE and PixelSNAIL as a method, with tiny networks in a folder: one grid and two, completing, refusals."""

import json

import pytest
import torch
from PIL import Image
from torch import nn

from t2ilib.checkpoint import save_model
from t2ilib.encoders import load_text_encoder
from t2ilib.encoders.emoji_blip import EmojiBlip, tokens_of
from t2ilib.errors import BadParameter, CheckpointMismatch, MissingAsset
from t2ilib.methods import METHODS, code_checkpoints, generate_with_record, vqvae_pixelsnail
from t2ilib.methods.vqvae_pixelsnail import CHECKPOINT, COARSE, FINE, METHOD, card_of, keep_text_encoder, load_painter
from t2ilib.models.pixelsnail import PixelSNAIL
from t2ilib.models.vqvae2 import VQVAE2

FAST = dict(device="cpu", precision="float32", candidates=1)
SNAIL = dict(codes=32, channels=16, hidden=8, blocks=1, res_blocks=1, heads=2)


def save_vqvae(folder, levels=1, seed=0):
    torch.manual_seed(seed)
    vqvae = VQVAE2(levels=levels, ch=4, ch_mult=[1, 2, 2], norm_groups=2, n_embed=32, embed_dim=4).eval()
    for quantizer in vqvae.quantizers:
        nn.init.normal_(quantizer.embedding.weight)
    save_model(folder / "emoji-vqvae", vqvae)
    return vqvae


def save_blip(folder, seed=0):
    """Save a tiny BLIP with random weights; its texts have 32 numbers a token."""
    torch.manual_seed(seed)
    tokens = tokens_of(["a red heart"])
    blip = EmojiBlip(vocabulary=len(tokens) + 5, width=32, heads=2, vision_layers=1, text_layers=1, channels=[8, 8, 16])
    blip.tokens.copy_(torch.tensor(tokens))
    nn.init.normal_(blip.retrieval.text_encoder.embeddings.word_embeddings.weight)
    return save_model(folder, blip)


def save_network(folder, name, vqvae, text_encoder="minilm", **changes):
    torch.manual_seed(0)
    network = PixelSNAIL(**{**SNAIL, **changes})
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    save_model(folder / name, network, **card_of(vqvae, "emoji-vqvae", text_encoder))


@pytest.fixture(params=[1, 2])
def home(tmp_path, request):
    vqvae = save_vqvae(tmp_path, request.param)
    if request.param == 1:
        save_network(tmp_path, CHECKPOINT, vqvae)
    else:
        save_network(tmp_path, COARSE, vqvae, height=8, width=8)
        save_network(tmp_path, FINE, vqvae, coarse_blocks=1)
    return tmp_path


def draw(home, prompt="a red heart", *, num_images=1, seed=0, **options):
    return generate_with_record(prompt, method="vqvae_pixelsnail", num_images=num_images, seed=seed,
                                **{**FAST, "checkpoint": str(home), **options})


def grids_of(record, home):
    """The codes of the pictures of a record, as grids."""
    painter = load_painter(home=home)
    codes = torch.tensor(record["codes"])
    return painter._grids_of(codes.flatten(1))


def test_a_drawing_seen_through_little_noise_comes_back_on_all_grids(home):
    painter = load_painter(home=home)
    drawing = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    painted = painter.sample(["a red heart"], generators=[torch.Generator().manual_seed(1)], redrawn=[drawing],
                             noise=0.01)
    grids = painter.vqgan.encode_codes(drawing)
    assert torch.equal(painted.codes.flatten(), torch.cat([grid.flatten() for grid in grids]))


def test_pictures_and_record(home):
    images, record = draw(home, num_images=2, seed=3, candidates=2)
    assert [image.size for image in images] == [(64, 64)] * 2 and images[0].tobytes() != images[1].tobytes()
    assert json.loads(json.dumps(record)) == record
    assert record["config"] == {**METHOD.defaults(), **FAST, "candidates": 2, "checkpoint": str(home),
                                "clip": ["emoji-clip-b", "emoji-clip"], "bank_share": 0.0}  # there is no bank
    assert record["text_encoder"] == "minilm" and len(record["guide_similarity"][0]) == 2
    grids = grids_of(record, home)
    assert record["steps_done"] == sum(grid.shape[1] for grid in grids)  # one for each row of codes
    with torch.no_grad():
        painted = load_painter(home=home).vqgan.decode_codes(*grids)[0]
    expected = ((painted.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(0, -1)
    found = torch.frombuffer(bytearray(images[0].tobytes()), dtype=torch.uint8).view(64, 64, 3)
    assert (found.int() - expected.int()).abs().max() <= 1


def test_options_change_the_picture(home):
    def bits(**options):
        return draw(home, seed=5, **options)[0][0].tobytes()

    plain = bits()
    assert bits() == plain == draw(home, ["a car", "a red heart"], seed=5, chunk=1)[0][1].tobytes()
    for options in (dict(guidance_scale=1.0), dict(temperature=0.0), dict(top_k=1), dict(top_p=0.3),
                    dict(negative="a cat")):
        assert bits(**options) != plain, options
    assert bits(temperature=0.0) == bits(top_k=1)


def test_the_lower_part_of_a_picture_is_completed(home, tmp_path):
    Image.effect_noise((64, 64), 80).convert("RGB").save(tmp_path / "noise.png")
    pixels = Image.open(tmp_path / "noise.png")
    (drawn,), record = draw(home, init_image=str(tmp_path / "noise.png"), mask=[0, 0.5, 1, 1])
    assert drawn.crop((0, 0, 64, 32)).tobytes() == pixels.crop((0, 0, 64, 32)).tobytes()
    assert drawn.crop((0, 32, 64, 64)).tobytes() != pixels.crop((0, 32, 64, 64)).tobytes()
    (_,), halved = draw(home, init_image=str(tmp_path / "noise.png"), strength=0.5)
    for one, other in zip(grids_of(record, home), grids_of(halved, home), strict=True):
        upper = one.shape[1] // 2
        assert torch.equal(one[:, :upper], other[:, :upper])
    with pytest.raises(BadParameter, match="below whole rows"):
        draw(home, init_image=str(tmp_path / "noise.png"), mask=[0.5, 0.5, 1, 1])
    painter = load_painter(home=home)
    with pytest.raises(BadParameter, match="64 x 64"):
        painter.edit(torch.zeros(1, 3, 32, 64), ["x"], strength=0.5, generators=[torch.Generator()])


def test_a_callback_may_stop(home):
    seen = []
    draw(home, callback=lambda p: seen.append((p.step, p.steps)) or p.step == 9)
    assert [step for step, _ in seen] == list(range(10)) and seen[0][1] in (16, 24)


def test_another_vqvae_is_refused(tmp_path):
    vqvae = save_vqvae(tmp_path)
    save_network(tmp_path, CHECKPOINT, vqvae)
    save_vqvae(tmp_path / "elsewhere", seed=1)
    with pytest.raises(CheckpointMismatch, match="was trained on the codes of emoji-vqvae"):
        draw(tmp_path, model=str(tmp_path / "elsewhere" / "emoji-vqvae"))
    save_model(tmp_path / CHECKPOINT, PixelSNAIL(**SNAIL), text_encoder="minilm")
    with pytest.raises(CheckpointMismatch, match="does not say on which codes"):
        draw(tmp_path)
    save_network(tmp_path, CHECKPOINT, vqvae, codes=31)
    with pytest.raises(BadParameter, match="31 codes, and this VQVAE2 has 32"):
        draw(tmp_path)


def test_texts_are_read_by_the_blip_that_the_card_names(tmp_path):
    vqvae = save_vqvae(tmp_path)
    words = load_text_encoder(str(save_blip(tmp_path / "elsewhere" / "emoji-blip")))
    words.name = keep_text_encoder(words, tmp_path)
    assert words.name == "emoji-blip" and keep_text_encoder(words, tmp_path) == "emoji-blip"
    save_network(tmp_path, CHECKPOINT, vqvae, words, text_dim=32)
    (one, other), record = draw(tmp_path, ["a red heart", "a heart"])
    assert one.tobytes() != other.tobytes() and record["text_encoder"] == str(tmp_path / "emoji-blip")
    assert load_painter(home=tmp_path).text_encoder.dim == 32

    save_blip(tmp_path / "emoji-blip", seed=1)
    with pytest.raises(CheckpointMismatch, match="another emoji-blip"):
        draw(tmp_path)


def test_an_absent_blip_is_named(tmp_path, monkeypatch):
    vqvae = save_vqvae(tmp_path)
    words = load_text_encoder(str(save_blip(tmp_path / "elsewhere" / "emoji-blip")))
    words.name = "emoji-blip"
    save_network(tmp_path, CHECKPOINT, vqvae, words, text_dim=32)
    for module in (vqvae_pixelsnail, code_checkpoints):
        monkeypatch.setattr(module, "checkpoints_dir", lambda: tmp_path)
    absence = f"reads texts by a BLIP beside it: no checkpoint emoji-blip in {tmp_path}"
    assert absence in METHODS["vqvae_pixelsnail"].missing()
    with pytest.raises(MissingAsset, match="train blip.*name a folder that holds one"):
        draw(tmp_path)


def test_a_blip_of_the_hub_is_named_by_its_folder(tmp_path):
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "blip"}')
    words = load_text_encoder()
    words.name = str(folder)
    assert keep_text_encoder(words, tmp_path) == str(folder.resolve())
    assert keep_text_encoder(load_text_encoder(), tmp_path) == "minilm"


def test_without_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(vqvae_pixelsnail, "checkpoints_dir", lambda: tmp_path)
    assert "no checkpoint emoji-vqvae" in METHODS["vqvae_pixelsnail"].missing()
    save_vqvae(tmp_path)
    assert "train one with `python -m t2ilib train vqvae,pixelsnail`" in METHODS["vqvae_pixelsnail"].missing()
    with pytest.raises(MissingAsset, match="train vqvae,pixelsnail.*checkpoint=FOLDER"):
        draw(tmp_path)


@pytest.mark.parametrize("wrong, message", [
    ({"steps": 3}, "steps"), ({"candidates": 0}, "at least 1"), ({"mask": [0, 0, 1, 1]}, "init_image"),
    ({"vqvae": "x"}, "here it is called 'model'"), ({"model": "emoji-vqvea"}, "emoji-vqvae")])
def test_bad_options_are_refused(tmp_path, wrong, message):
    save_network(tmp_path, CHECKPOINT, save_vqvae(tmp_path))
    with pytest.raises(BadParameter, match=message):
        draw(tmp_path, **wrong)

"""Notebook 06 on pictures of one's own, with words read by a BLIP of one's own."""

import json

import pytest
import torch
from PIL import Image

from t2ilib.checkpoint import read_config, save_model
from t2ilib.encoders.emoji_blip import EmojiBlip, tokens_of
from t2ilib.methods import generate_with_record
from t2ilib.runner.launch import run_script
from t2ilib.runner.plan import plan_run


@pytest.fixture
def blip(tmp_path):
    """A folder with a tiny BLIP of random weights."""
    torch.manual_seed(0)
    tokens = tokens_of(["a red heart"])
    network = EmojiBlip(vocabulary=len(tokens) + 5, width=32, heads=2, vision_layers=1, text_layers=1,
                        channels=[8, 8, 16])
    network.tokens.copy_(torch.tensor(tokens))
    return save_model(tmp_path / "my-blip", network)


@pytest.fixture
def pictures(tmp_path):
    """A folder with 24 plain pictures of 12 captions, without a validation split."""
    folder = tmp_path / "sheets"
    folder.mkdir()
    rows = []
    for i in range(24):
        Image.new("RGB", (64, 64), (10 * i, 200 - 5 * i, 90)).save(folder / f"{i}.png")
        rows.append(json.dumps({"file_name": f"{i}.png", "text": f"sheet number {i // 2}"}))
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return folder


@pytest.mark.slow
def test_a_folder_of_pictures_and_a_blip_train_both_networks(tmp_path, blip, pictures):
    parameters = {"data": str(pictures), "text": str(blip), "prompt": "sheet number 3"}
    result = run_script(plan_run("06", parameters, "smoke"), run_dir=tmp_path / "run")
    log = (tmp_path / "run" / "log.txt").read_text()
    assert result.status == "ok", log[-3000:]
    assert "20 drawings for codes, 4 validation drawings" in log  # captions 1 and 11 are kept back
    assert "texts are read by" in log and "32 numbers a token" in log
    assert "the judge ranks names of emoji, which sheets has not" in log
    metrics = json.loads((tmp_path / "run" / "run.json").read_text())["metrics"]
    assert metrics["validation_bits"] > 0 and "validation_top10" not in metrics

    (home,) = {path.parent.parent for path in (tmp_path / "run").rglob("emoji-pixelsnail/config.json")}
    card = read_config(home / "emoji-pixelsnail")
    assert card["data"]["name"] == "sheets" and card["text_encoder"] == "my-blip"
    (image,), record = generate_with_record("sheet number 3", method="vqvae_pixelsnail", num_images=1, seed=0,
                                            checkpoint=str(home), candidates=1, device="cpu")
    assert image.size == (64, 64) and record["text_encoder"] == str(home / "my-blip")

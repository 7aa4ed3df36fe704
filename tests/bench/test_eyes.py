"""The table of the eyes: each kind of pictures once, and true drawings first."""

import pytest
import torch
from PIL import Image

from t2ilib import methods
from t2ilib.bench import BENCHMARKS, eyes
from t2ilib.metrics import psnr
from t2ilib.metrics.eyes import Eyes, Reference

CPU = torch.device("cpu")


class Thumbnails:
    """A network whose features are a picture of 4 x 4 pixels."""

    def features(self, x):
        return torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)


@pytest.fixture
def thumbnails():
    features = torch.rand(30, 48, generator=torch.Generator().manual_seed(0))
    return Eyes(Thumbnails(), Reference(features, torch.full((30,), 1.5), torch.tensor(1.0).double()))


def test_each_kind_of_pictures_has_its_rows(thumbnails, monkeypatch):
    asked = []

    def generate(prompts, *, method, num_images, seed, device):
        asked.append((len(prompts), method))
        images = [Image.new("RGB", (128, 128), (40 * index, 0, 0)) for index in range(len(prompts))]
        return images, {"checkpoints": {"emoji-clip-photo": "0"} if method == "minimagen" else {}}

    monkeypatch.setattr(methods, "generate_with_record", generate)
    monkeypatch.setattr(eyes, "enlarged_by_minimagen", lambda true, captions, device: true.flip(0))
    rows = list(eyes.eyes_rows(CPU, 0.0, pictures=6, prompts=6, eyes=thumbnails))
    assert BENCHMARKS["eyes"] is eyes.eyes_rows and asked == [(6, "minimagen"), (6, "vqgan_clip")]
    providers = list(dict.fromkeys(row.provider for row in rows))
    assert providers == ["true drawings", "emoji-vqgan-128 reconstructions", "bicubic from true 64 px",
                         "bicubic from true 32 px", "minimagen's enlargers from true 32 px", "minimagen from prompts",
                         "vqgan_clip from prompts"]
    found = {(row.provider, row.metric): row.p50 for row in rows}
    assert {metric for _, metric in found} == {"KID-lite2", "precision", "recall", "PSNR dB", "strict top-10"}
    assert found["bicubic from true 64 px", "PSNR dB"] > found["bicubic from true 32 px", "PSNR dB"] > 20
    assert found["emoji-vqgan-128 reconstructions", "PSNR dB"] > 22
    assert all(row.shape == "n = 6, 128 px" for row in rows)
    modes = {row.provider: row.mode for row in rows}
    assert modes["emoji-vqgan-128 reconstructions"] == "trained by EfficientNet-Lite0"
    assert modes["minimagen from prompts"] == "guided by EfficientNet-Lite0"
    assert modes["vqgan_clip from prompts"] == "neither trained nor guided by EfficientNet-Lite0"


def test_bicubic_enlarges_a_true_small_picture():
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(eyes.bicubic(x, 16), x)
    plain = torch.full((1, 3, 16, 16), 0.3)
    assert psnr(eyes.bicubic(plain, 4), plain) > 100


@pytest.mark.slow
def test_minimagens_enlargers_draw_nearly_the_true_picture():
    from t2ilib.data import load_captioned
    from t2ilib.media import to_unit

    data = load_captioned("emoji", split="validation", image_size=128, limit=2)
    true = to_unit(data.batch([0, 1]))
    made = eyes.enlarged_by_minimagen(true, data.captions, CPU)
    assert made.shape == true.shape and (psnr(made, true) > 18).all()

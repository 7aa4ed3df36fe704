"""A painter takes any network that predicts codes: PixelSNAIL draws, and completes what is kept."""

import pytest
import torch
from torch import nn

from t2ilib.encoders import load_text_encoder
from t2ilib.errors import BadParameter
from t2ilib.media import to_unit
from t2ilib.models.pixelsnail import PixelSNAIL
from t2ilib.models.vqgan import load_vqgan
from t2ilib.runtime import generator
from t2ilib.sampling import CodePainter


@pytest.fixture(scope="module")
def painter():
    network = PixelSNAIL(codes=2048, channels=16, hidden=8, blocks=1, res_blocks=1, heads=2)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator(0))
    return CodePainter(network, load_vqgan("emoji-vqgan"), load_text_encoder("minilm"))


def test_it_draws_and_completes(painter):
    streams = [generator(0, "picture", i) for i in range(2)]
    steps = []
    painted = painter.sample(["a red heart", "a car"], generators=streams, callback=lambda p: steps.append(p.step))
    assert painted.codes.shape == (2, 16, 16) and painted.pictures.shape == (2, 3, 64, 64)
    assert steps == list(range(16))
    assert not torch.equal(*painted.codes)
    mask = torch.zeros(1, 1, 64, 64)
    mask[:, :, 32:] = 1
    known = painter.vqgan.encode_codes(painted.pictures)
    again = painter.inpaint(painted.pictures, mask, ["a car", "a car"], generators=[generator(1), generator(2)])
    assert torch.equal(again.codes[:, :8], known[:, :8]) and not torch.equal(again.codes[:, 8:], known[:, 8:])
    with pytest.raises(BadParameter, match="below whole rows"):
        painter.inpaint(painted.pictures, mask.flip(2), ["a car"] * 2, generators=streams)


def test_a_preview_is_painted_when_it_is_looked_at(painter, monkeypatch):
    painted = []
    decode = painter.decode
    monkeypatch.setattr(painter, "decode", lambda codes: painted.append(len(codes)) or decode(codes))
    previews = []
    result = painter.sample(["a car", "a red heart"], generators=[generator(0), generator(1)],
                            callback=previews.append)
    assert painted == [2] and len(previews) == 16
    torch.testing.assert_close(previews[-1].images, to_unit(result.pictures))
    early = previews[0].images  # as it was then: one row of codes, and white below
    assert early[:, :, 32:].min() > 0.9 > early[:, :, :4].min() and previews[0].images is early
    assert painted == [2, 2, 2]


def test_the_last_candidates_are_redrawn_from_drawings(painter, monkeypatch):
    """With little noise they are the drawings; the others, and texts that have none, are drawn as without them."""
    texts = ["a red heart", "a car"]
    drawings = [painter.decode(torch.tensor(codes)[:, None].expand(-1, 256)) for codes in ([4], [5, 900])]
    seen = []

    def drawn(**options):
        score = lambda pictures, of: seen.append(pictures) or torch.zeros(len(pictures))  # noqa: E731
        painter.sample(texts, generators=[generator(0), generator(1)], candidates=2, score=score, **options)
        return seen[-1].unflatten(0, (2, 2))

    alone = drawn()
    some = drawn(redrawn=drawings, noise=0.01)
    assert torch.equal(some[0, 0], alone[0, 0])
    again = [painter.decode(painter._encode_pictures(own)) for own in drawings]
    torch.testing.assert_close(some[0, 1], to_unit(again[0][0]))
    torch.testing.assert_close(some[1], to_unit(again[1]))
    of_one = drawn(redrawn=[drawings[0], drawings[1][:0]], noise=0.01)
    assert torch.equal(of_one[1], alone[1]) and torch.equal(of_one[0], some[0])
    assert not torch.equal(*again[1])
    monkeypatch.setattr(painter, "chunk", 1)
    torch.testing.assert_close(drawn(redrawn=drawings, noise=0.01), some)
    larger = [nn.functional.interpolate(own, size) for own, size in zip(drawings, (128, 96), strict=True)]
    assert drawn(redrawn=larger, noise=0.01).shape == alone.shape
    for bad in ([drawings[0]], [drawings[0], drawings[1].repeat(2, 1, 1, 1)], [drawings[0][:0]] * 2):
        with pytest.raises(BadParameter, match="for each of 2 texts at most 2 pictures"):
            drawn(redrawn=bad)

"""A first stage among latents: exact networks in a space of their own, and the space of a real VQGAN."""

import dataclasses

import pytest
import torch

from t2ilib.cascade import Cascade, LatentSpace, Stage
from t2ilib.checkpoint import load_model
from t2ilib.errors import BadParameter
from t2ilib.models.latent_prior import LatentPrior
from t2ilib.models.vqgan import load_vqgan
from t2ilib.paths import checkpoints_dir


def streams(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def colour(x):
    return x.mean((2, 3))


class Tenfold:
    """A space of half the side, whose numbers are ten times those of pixels: out of bounds for any threshold."""

    def shape(self, size):
        return 3, size // 2, size // 2

    def encode(self, pictures):
        return 10 * torch.nn.functional.avg_pool2d(pictures, 2)

    def decode(self, latents):
        return (latents / 10).repeat_interleave(2, -1).repeat_interleave(2, -2).clamp(-1, 1)


@pytest.fixture
def latents(make):
    """A cascade of 8 and 16 pixels whose first network draws 4 x 4 latents of mean ten times the text's colour."""
    cascade = make((8, 16))
    first = cascade.stages[0]
    inner = first.network.forward
    first.network.forward = lambda x_t, t, tokens, mask, pooled: inner(x_t, t, 10 * tokens, mask, 10 * pooled)
    stages = [dataclasses.replace(first, space=Tenfold()), cascade.stages[1]]
    return Cascade(stages, cascade.text_encoder, precision="float32", chunk=2)


HOW = dict(steps=8, guidance_scale=1)  # with the default threshold, which is for pixels
TWO = HOW | dict(steps=2)


def test_the_first_stage_draws_latents_and_hands_on_pictures(latents):
    out = latents.sample(["red", "a green", "blue"], generators=streams(0, 1, 2), **HOW)
    assert [tuple(x.shape) for x in out] == [(3, 3, 8, 8), (3, 3, 16, 16)]
    for x in out:
        torch.testing.assert_close(colour(x), torch.tensor([(0.8, -0.6, -0.6), (-0.6, 0.7, -0.6), (-0.6, -0.6, 0.8)]),
                                   atol=0.1, rtol=0)
    assert latents.stages[0].network.calls[0]["x_t"].shape == (2, 3, 4, 4)


def test_previews_and_candidates_are_pictures(latents):
    seen, judged = [], []

    def score(pictures, texts):
        judged.append(tuple(pictures.shape))
        return torch.arange(len(texts))

    kept = []
    out = latents.sample(["red", "blue"], generators=streams(0, 1), candidates=3, score=score, **TWO,
                         callback=lambda p: seen.append(tuple(p.images.shape)))
    assert judged == [(6, 3, 8, 8)] and set(seen) == {(2, 3, 16, 16)} and len(seen) == 3 * 2 + 1
    ended = latents.sample(["red", "blue"], generators=streams(0, 1), candidates=3, score=score, **TWO,
                           callback=lambda p: kept.append(p.images) or p.step == 1)
    assert len(kept) == 2 and ended[1].shape == out[1].shape and ended[1].isfinite().all()
    torch.testing.assert_close(colour(kept[-1][:1] * 2 - 1), torch.tensor([(0.8, -0.6, -0.6)]), atol=0.35, rtol=0)


def test_edits_and_inpainting_start_from_the_latents_of_a_picture(latents):
    picture, mask = torch.full((1, 3, 16, 16), 0.7), torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1
    weak = latents.edit(picture, ["red"], strength=0.02, generators=streams(0), **HOW)[0]
    torch.testing.assert_close(colour(weak), torch.full((1, 3), 0.7), atol=0.15, rtol=0)
    small, large = latents.inpaint(picture, mask, ["red"], generators=streams(0), **HOW)
    torch.testing.assert_close(small[..., :4], torch.full((1, 3, 8, 4), 0.7))
    torch.testing.assert_close(large[..., :8], picture[..., :8])
    torch.testing.assert_close(colour(large[..., 9:]), torch.tensor([(0.8, -0.6, -0.6)]), atol=0.2, rtol=0)


def test_only_the_first_stage_may(latents):
    with pytest.raises(BadParameter, match="only the first"):
        Cascade([latents.stages[1], dataclasses.replace(latents.stages[1], size=32, space=Tenfold())],
                latents.text_encoder)


def test_the_space_of_a_vqgan(make):
    prior = load_model(LatentPrior, checkpoints_dir() / "emoji-prior")
    vqgan = load_vqgan("emoji-vqgan")
    space, x = LatentSpace(vqgan, prior), torch.rand(2, 3, 64, 64) * 2 - 1
    z = space.encode(x)
    assert z.shape[1:] == space.shape(64) == (8, 16, 16)
    torch.testing.assert_close(space.decode(z), vqgan(x)[0].clamp(-1, 1))
    with torch.autocast("cpu", torch.bfloat16):  # pictures are decoded in full precision, wherever it is called
        torch.testing.assert_close(space.decode(z), vqgan(x)[0].float().clamp(-1, 1), atol=0.5, rtol=0)
        assert space.decode(z).dtype == torch.float32
    assert Stage(prior, 64, space=space).card().keys() == Stage.card_names() and "space" not in Stage.card_names()
    with pytest.raises(BadParameter, match="multiple of"):
        space.shape(30)

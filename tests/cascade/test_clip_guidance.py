"""CLIP guidance of the first stage, with a CLIP that sees the mean colour of a picture."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from t2ilib.cascade import ClipGuidance
from t2ilib.encoders import load_clip, load_judge
from t2ilib.errors import BadParameter

PLAIN = dict(steps=10, guidance_scale=1, threshold="static")


class ColourClip:
    """Pictures are as similar as their mean colours are parallel; knows two colours that the networks were not told."""

    image_size = 16
    words = {"yellow": (1.0, 1.0, -1.0), "violet": (0.5, -1.0, 1.0)}

    def __init__(self):
        self.encoded = []

    def encode_text(self, texts):
        self.encoded += texts
        return F.normalize(torch.tensor([self.words[text.split()[-1]] for text in texts]), dim=1)

    def encode_image(self, x):
        assert x.shape[-1] == self.image_size and 0 <= x.min() and x.max() <= 1
        return F.normalize(x.mean((2, 3)) * 2 - 1 + 1e-3, dim=1)


def streams(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw(cascade, texts, *seeds, clip=None, **options):
    how = PLAIN | (dict(clip_guidance=ClipGuidance(clip or ColourClip(), **options)) if options else {})
    return cascade.sample(texts, generators=streams(*seeds), **how)


def similarity(pictures, word):
    clip = ColourClip()
    x = F.interpolate(pictures, 16) * 0.5 + 0.5
    return (clip.encode_image(x) * clip.encode_text([word])).sum(1)


def test_pictures_go_where_the_clip_points(make):
    texts, seeds = ["a yellow", "a violet"], (0, 1)
    plain, steered = (draw(make((8, 16), std=0.5), texts, *seeds, **how) for how in ({}, dict(scale=0.3)))
    more = draw(make((8, 16), std=0.5), texts, *seeds, scale=0.6)
    for i, word in enumerate(("yellow", "violet")):
        for k in (0, 1):  # the stage above enlarges what the first has drawn
            before, after, much = (similarity(x[k][i:i + 1], word).item() for x in (plain, steered, more))
            assert after > before + 0.2 and much > after
    assert all(x.abs().max() <= 1 for x in steered)


def test_only_early_steps_and_never_with_scale_0(make):
    plain = draw(make(std=0.5), ["a yellow"], 0)
    none = draw(make(std=0.5), ["a yellow"], 0, scale=0.0)
    later = draw(make(std=0.5), ["a yellow"], 0, scale=0.3, interval=(0.0, 0.05))
    assert torch.equal(plain[0], none[0]) and torch.equal(plain[0], later[0])  # the last step is taken from 0.1
    assert not torch.equal(plain[0], draw(make(std=0.5), ["a yellow"], 0, scale=0.3, interval=(0.9, 1.0))[0])


def test_a_step_has_the_size_it_is_given(make):
    cascade = make((8,), std=0.5)
    stage, x_t, t = cascade.stages[0], torch.randn(2, 3, 8, 8), torch.full((2,), 0.7)
    alpha, sigma = (x.item() for x in (torch.cos(t[0] * torch.pi / 2), torch.sin(t[0] * torch.pi / 2)))
    def denoiser(x, t):  # v of a picture that is grey
        return alpha * (x / sigma)
    steered = ClipGuidance(ColourClip(), 0.2).steer(denoiser, stage, ["yellow", "violet"], streams(0, 1),
                                                    threshold="static", percentile=1.0)(x_t, t)
    moved = alpha * x_t - sigma * steered
    torch.testing.assert_close(moved.square().mean((1, 2, 3)).sqrt(), torch.full((2,), 0.2), rtol=1e-3, atol=1e-4)
    toward = (moved.mean((2, 3)) * ColourClip().encode_text(["yellow", "violet"])).sum(1)
    assert (toward > 0.1).all()


def test_a_picture_that_is_similar_enough_is_left_alone(make):
    cascade, x_t, t = make((8,), std=0.5), torch.zeros(3, 3, 8, 8), torch.full((3,), 0.7)
    colours = torch.tensor([[1.0, 1.0, -1.0], [0.6, 0.6, 0.0], [-1.0, -1.0, 1.0]])
    x_0 = colours[:, :, None, None].expand(-1, -1, 8, 8)
    clip, moved = ColourClip(), []
    for enough in (0.85, None):
        steered = ClipGuidance(clip, 0.2, similarity_threshold=enough).steer(
            lambda x, t: -x_0 / torch.sin(t * torch.pi / 2).view(-1, 1, 1, 1), cascade.stages[0], ["yellow"] * 3,
            streams(0, 1, 2), threshold="none", percentile=1.0)(x_t, t)
        moved.append((-torch.sin(t * torch.pi / 2).view(-1, 1, 1, 1) * steered - x_0).square().mean((1, 2, 3)).sqrt())
    assert moved[0][0] < 1e-5 < moved[0][1] < 0.2  # yellow already; nearly; the opposite
    torch.testing.assert_close(moved[0][2], torch.tensor(0.2), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(moved[1], torch.full((3,), 0.2), rtol=1e-3, atol=1e-4)


def test_a_picture_depends_on_its_own_stream_and_text_alone(make):
    together = draw(make(std=0.5, chunk=2), ["a yellow", "a violet", "a yellow"], 0, 1, 2, scale=0.3)
    for i, text in enumerate(["a yellow", "a violet", "a yellow"]):
        alone = draw(make(std=0.5), [text], i, scale=0.3)
        torch.testing.assert_close(alone[-1][0], together[-1][i], atol=1e-5, rtol=1e-5)


def test_texts_are_encoded_once_and_candidates_are_steered(make):
    clip = ColourClip()
    def score(pictures, texts):
        return torch.stack([similarity(x[None] * 2 - 1, text.split()[-1])[0]
                            for x, text in zip(pictures, texts, strict=True)])
    best = make(std=0.5).sample(["a yellow", "a violet"], generators=streams(0, 1), candidates=3, score=score,
                                clip_guidance=ClipGuidance(clip), **PLAIN)
    assert len(best[0]) == 2 and clip.encoded == ["a yellow", "a violet"]


def test_the_shipped_guide_steers_and_no_gradient_stays(make):
    guide = load_clip()
    cascade = make((32,), std=0.5)
    plain, steered = (cascade.sample(["a red"], generators=streams(0), **PLAIN, **how)[0] * 0.5 + 0.5
                      for how in ({}, dict(clip_guidance=ClipGuidance(guide, interval=(0.0, 1.0)))))
    with torch.no_grad():
        assert guide.similarity(steered, ["a red"]) > guide.similarity(plain, ["a red"]) + 0.05
    assert not steered.requires_grad and all(p.grad is None for p in guide.parameters())


@pytest.mark.parametrize("wrong", [dict(scale=-0.1), dict(views=0), dict(interval=(0.5, 0.4)), dict(interval=(0, 2))])
def test_settings_are_checked(wrong):
    with pytest.raises(BadParameter, match="CLIP guidance needs"):
        ClipGuidance(ColourClip(), **wrong)


def test_what_cannot_be_steered_is_refused(make):
    with pytest.raises(BadParameter, match="must not judge"):
        ClipGuidance(load_judge())
    cascade = make()
    with pytest.raises(BadParameter, match="reads texts"):
        draw(cascade, cascade.encode(["a yellow"]), 0, scale=0.3)
    cascade.stages[0] = dataclasses.replace(cascade.stages[0], space=object())
    with pytest.raises(BadParameter, match="among pixels"):
        ClipGuidance(ColourClip()).steer(None, cascade.stages[0], ["yellow"], [], threshold="none", percentile=1.0)

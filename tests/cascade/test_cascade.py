"""Drawing with a cascade of exact networks: colours, streams, candidates, edits, and what is refused."""

import pytest
import torch

from t2ilib.cascade import Sampling, mix_conditions
from t2ilib.errors import BadParameter, UnknownName


def streams(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def colour(x):
    return x.mean((2, 3))


PLAIN = dict(steps=8, guidance_scale=1, threshold="none")


def test_every_stage_draws_its_text(make):
    cascade = make((4, 8, 16))
    out = cascade.sample(["a red", "a very green", "blue"], generators=streams(0, 1, 2), **PLAIN)
    assert [tuple(x.shape) for x in out] == [(3, 3, 4, 4), (3, 3, 8, 8), (3, 3, 16, 16)]
    want = torch.tensor([(0.8, -0.6, -0.6), (-0.6, 0.7, -0.6), (-0.6, -0.6, 0.8)])
    for x in out:
        torch.testing.assert_close(colour(x), want, atol=0.1, rtol=0)
        assert x.abs().max() <= 1 and not x.requires_grad
    first, second, third = ([c["low"] for c in s.network.calls] for s in cascade.stages)
    assert set(map(type, first)) == {type(None)} and second[0].shape[-1] == 8 and third[0].shape[-1] == 16


def test_large_pictures_are_enlarged_with_a_margin(make):
    cascade = make((32, 64))
    out = cascade.sample(["a red"], generators=streams(0), **PLAIN)
    base, larger = (stage.network.calls for stage in cascade.stages)
    assert base[0]["x_t"].shape[-1] == 32 and out[-1].shape[-1] == 64
    assert {x.shape[-2:] for call in larger for x in (call["x_t"], call["low"])} == {(80, 80)}
    torch.testing.assert_close(colour(out[-1]), torch.tensor([(0.8, -0.6, -0.6)]), atol=0.1, rtol=0)


@pytest.mark.parametrize("trained", [dict(target="eps"), dict(target="x0"), dict(schedule="linear"),
                                     dict(shift=-1.4), dict(schedule="linear", target="eps", shift=1.0)], ids=str)
def test_what_a_stage_was_trained_for_decides_how_it_is_drawn(make, trained):
    for x in make(**trained).sample(["red"], generators=streams(0), **{**PLAIN, "steps": 20}):
        torch.testing.assert_close(colour(x), torch.tensor([(0.8, -0.6, -0.6)]), atol=0.1, rtol=0)


def test_a_picture_depends_on_its_own_stream_and_text_alone(make):
    texts = ["a red", "a green thing that is blue", "blue"]
    together = make(chunk=2).sample(texts, generators=streams(0, 1, 2), **PLAIN)
    again = make(chunk=2).sample(texts, generators=streams(0, 1, 2), **PLAIN)
    assert all(torch.equal(a, b) for a, b in zip(together, again, strict=True))
    for i in range(3):
        alone = make().sample([texts[i]], generators=streams(i), **PLAIN)
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a[0], b[i], atol=1e-5, rtol=1e-5)
    other = make().sample(texts[:1], generators=streams(7), **PLAIN)
    assert (other[-1] - together[-1][:1]).abs().max() > 0.05
    twins = make().sample(["red", "red"], generators=streams(3, 4), **PLAIN)[0]
    assert not torch.equal(twins[0], twins[1])


def test_each_stage_has_its_own_scale_and_steps(make):
    cascade = make()
    cascade.sample(["red"], generators=streams(0), steps=[5, 2], guidance_scale=[3.0, 1.0], sampler="ddim")
    base, larger = (stage.network.calls for stage in cascade.stages)
    assert [len(c["t"]) for c in base] == [2] * 5 and [len(c["t"]) for c in larger] == [1] * 2
    first, second = (len(stage.network.calls) for stage in cascade.stages)
    cascade.sample(["red"], generators=streams(0), steps=5, guidance_scale=3.0)  # those above: half, and no guidance
    assert [len(c["t"]) for c in base[first:]] == [2] * 5 and [len(c["t"]) for c in larger[second:]] == [1] * 3
    for wrong in (dict(steps=[1, 2, 3]), dict(guidance_scale=[1.0, 2.0, 3.0])):
        with pytest.raises(BadParameter, match="one for each of the 2 stages"):
            cascade.sample(["red"], generators=streams(0), **wrong)


def test_guidance_and_negative_text(make):
    cascade = make((4,), std=0.02)
    def draw(**options):
        return colour(cascade.sample(["red"], generators=streams(0), **{**PLAIN, **options})[0])[0]
    red = torch.tensor((0.8, -0.6, -0.6))
    torch.testing.assert_close(draw(), red, atol=0.03, rtol=0)
    torch.testing.assert_close(draw(guidance_scale=0), red * 0, atol=0.03, rtol=0)
    torch.testing.assert_close(draw(guidance_scale=0.5), red / 2, atol=0.03, rtol=0)
    # away from blue: blue + 0.5 (red - blue)
    torch.testing.assert_close(draw(guidance_scale=0.5, negative="a long text in blue"),
                               torch.tensor((0.1, -0.6, 0.1)), atol=0.03, rtol=0)


def test_thresholding_keeps_the_colour_of_strong_guidance(make):
    def draw(**options):
        return make((4,), std=0.02).sample(["red"], generators=streams(0), steps=8, guidance_scale=2.0, **options)[0]
    clipped, rescaled = draw(threshold="static"), draw(threshold="dynamic", percentile=0.9)
    torch.testing.assert_close(colour(clipped)[0], torch.tensor((1.0, -1.0, -1.0)), atol=0.02, rtol=0)
    torch.testing.assert_close(colour(rescaled)[0], torch.tensor((1.0, -0.75, -0.75)), atol=0.05, rtol=0)


def test_each_text_is_encoded_once(make):
    cascade = make()
    for _ in range(2):
        cascade.sample(["red", "blue", "red"], generators=streams(0, 1, 2), steps=1, negative="green")
    assert cascade.text_encoder.seen == ["red", "blue", "green"]


def test_the_best_candidate_is_enlarged(make):
    seen = []

    def brightest(pictures, texts):
        assert 0 <= pictures.min() and pictures.max() <= 1
        seen.append((len(pictures), texts))
        return pictures.mean((1, 2, 3))

    cascade = make(chunk=3)
    best = cascade.sample(["red", "blue"], generators=streams(0, 1), candidates=4, score=brightest, **PLAIN)
    assert seen == [(8, ["red"] * 4 + ["blue"] * 4)]
    one = make().sample(["red", "blue"], generators=streams(0, 1), **PLAIN)
    assert (best[0].mean((1, 2, 3)) >= one[0].mean((1, 2, 3)) - 1e-6).all() and not torch.equal(best[0], one[0])
    assert max(len(c["t"]) for c in cascade.stages[0].network.calls) == 3  # in chunks
    assert sum(len(c["t"]) for c in cascade.stages[1].network.calls) == 2 * PLAIN["steps"] // 2  # only the chosen
    # the first candidate is what one alone would be, and so is what is made of it
    first = make().sample(["red"], generators=streams(0), candidates=3, score=lambda x, t: -torch.arange(len(x)),
                          **PLAIN)
    for a, b in zip(first, one, strict=True):
        torch.testing.assert_close(a[0], b[0], atol=1e-5, rtol=1e-5)


def test_the_last_candidates_start_from_given_pictures(make):
    bright = torch.full((2, 1, 3, 8, 8), 0.9)
    texts = ["red", "blue"]

    def drawn(place, **given):
        cascade = make(std=0.3, chunk=3)
        chosen = cascade.sample(texts, generators=streams(0, 1), candidates=3, **PLAIN, **given,
                                score=lambda x, _: (torch.arange(len(x)) % 3 == place).float())
        return chosen[0], cascade

    like_pictures, cascade = drawn(2, redrawn=bright, strength=0.05)
    assert (colour(like_pictures) - 0.9).abs().max() < 0.25
    steps = [len(call["t"]) for call in cascade.stages[0].network.calls]
    assert sum(steps) == 4 * PLAIN["steps"] + 2 * max(1, round(0.05 * PLAIN["steps"]))
    from_noise, _ = drawn(1, redrawn=bright, strength=0.05)
    plain, _ = drawn(1)
    torch.testing.assert_close(from_noise, plain)  # the others do not change
    nothing_left, _ = drawn(2, redrawn=bright, strength=1.0)
    plain, _ = drawn(2)
    torch.testing.assert_close(nothing_left, plain, atol=0.05, rtol=0)
    all_of_them, _ = drawn(0, redrawn=bright.expand(-1, 3, -1, -1, -1), strength=0.05)
    assert (colour(all_of_them) - 0.9).abs().max() < 0.25


def test_each_text_may_start_from_another_number_of_pictures(make):
    texts, shown = ["red", "blue", "green"], []
    bright = torch.full((3, 3, 8, 8), 0.9)

    def drawn(place, **given):
        cascade = make(std=0.3, chunk=4)
        chosen = cascade.sample(texts, generators=streams(0, 1, 2), candidates=3, **PLAIN, **given,
                                score=lambda x, _: (torch.arange(len(x)) % 3 == place).float(),
                                callback=lambda preview: shown.append(preview.images))
        return chosen[0]

    ragged = [bright[:1], bright, bright[:0]]
    first, last = (drawn(place, redrawn=ragged, strength=0.05) for place in (0, 2))
    assert (colour(last[:2]) - 0.9).abs().max() < 0.25 and (colour(first[1:2]) - 0.9).abs().max() < 0.25
    torch.testing.assert_close(first[[0, 2]], drawn(0)[[0, 2]])
    torch.testing.assert_close(last[2], drawn(2)[2])
    assert {tuple(images.shape) for images in shown} == {(3, 3, 8, 8)}


def test_given_pictures_are_enlarged_by_the_stages_above_them(make):
    cascade = make((4, 8, 16))
    low = torch.full((2, 3, 8, 8), -0.5)
    out = cascade.sample(["red", "blue"], generators=streams(0, 1), low=low, **PLAIN)
    assert [x.shape[-1] for x in out] == [16] and not cascade.stages[1].network.calls
    torch.testing.assert_close(colour(out[0])[0], torch.tensor((0.15, -0.55, -0.55)), atol=0.05, rtol=0)
    assert [x.shape[-1] for x in cascade.sample(["red"], generators=streams(0), low=low[:1, :, :4, :4], **PLAIN)] \
        == [8, 16]


def test_texts_are_encoded_in_the_encoders_own_precision(make):
    cascade, inside = make(), []
    cascade.dtype, encode = torch.bfloat16, cascade.text_encoder.encode
    cascade.text_encoder.encode = lambda texts: inside.append(torch.is_autocast_enabled("cpu")) or encode(texts)
    cascade.sample(["red"], generators=streams(0), **{**PLAIN, "guidance_scale": 2.0}, negative="blue")
    assert inside == [False, False]


def test_an_edit_keeps_more_the_weaker_it_is(make):
    picture = torch.full((1, 3, 8, 8), 0.9)

    def distance(strength):
        cascade = make(std=0.3)
        found = cascade.edit(picture, ["blue"], strength=strength, generators=streams(0), **{**PLAIN, "steps": 20})[0]
        assert len(cascade.stages[0].network.calls) == max(1, round(20 * strength))
        return (colour(found) - 0.9).abs().mean().item()

    distances = [distance(s) for s in (0.05, 0.4, 0.7, 1.0)]
    assert distances == sorted(distances) and distances[0] < 0.1 < 0.5 < distances[-1]


def test_inpainting_draws_the_masked_part_alone(make):
    picture = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    mask[..., 3, 3] = 1  # one pixel of a larger one in the stage below
    cascade = make()
    out = cascade.inpaint(picture, mask, ["red", "blue"], generators=streams(0, 1), **{**PLAIN, "threshold": "static"})
    drawn = mask.bool().expand_as(picture)
    torch.testing.assert_close(out[-1][~drawn], picture[~drawn], rtol=0, atol=0)
    assert (out[-1] - picture)[drawn].abs().min() > 1e-4
    torch.testing.assert_close(colour(out[-1][..., 4:]), torch.tensor([(0.8, -0.6, -0.6), (-0.6, -0.6, 0.8)]),
                               atol=0.15, rtol=0)
    small = torch.nn.functional.avg_pool2d(picture, 2)
    torch.testing.assert_close(out[0][..., :1], small[..., :1])
    assert (out[0] - small)[:, :, 1, 1].abs().min() > 1e-4


def test_between_two_texts(make):
    cascade = make((4,), std=0.02)
    red, blue = cascade.encode(["red", "a long way to blue"])
    parts = [mix_conditions(red, blue, s) for s in (0.0, 0.5, 1.0)]
    assert parts[0] is red and parts[2] is blue and parts[1].tokens.shape == blue.tokens.shape
    assert parts[1].pooled.norm() == pytest.approx(red.pooled.norm().item(), rel=1e-5)
    out = colour(cascade.sample(parts, generators=streams(0, 0, 0), **PLAIN)[0])
    assert out[0, 0] > out[1, 0] > out[2, 0] and out[0, 2] < out[1, 2] < out[2, 2]
    with pytest.raises(BadParameter, match="share"):
        mix_conditions(red, blue, 1.5)


def test_previews_and_an_early_end(make):
    seen = []
    cascade = make(chunk=2)
    out = cascade.sample(["red", "blue", "green"], generators=streams(0, 1, 2), steps=[3, 2], guidance_scale=1,
                         callback=lambda p: seen.append((p.step, p.steps, p.stage, tuple(p.images.shape))))
    assert [s[0] for s in seen] == list(range(10)) and {s[1] for s in seen} == {10}
    assert [s[2] for s in seen] == [0] * 6 + [1] * 4 and {s[3] for s in seen} == {(3, 3, 8, 8)}
    kept = []

    def stop(preview):
        kept.append(preview.finish())
        return preview.step == 7

    ended = make(chunk=2).sample(["red", "blue", "green"], generators=streams(0, 1, 2), steps=[3, 2], guidance_scale=1,
                                 callback=stop)
    assert len(kept) == 8 and torch.equal(ended[0], out[0])
    torch.testing.assert_close(ended[1] * 0.5 + 0.5, kept[-1])
    torch.testing.assert_close(ended[1][:2], out[1][:2])  # two were ready
    early = make().sample(["red"], generators=streams(0), candidates=2, score=lambda x, t: torch.arange(len(x)),
                          callback=lambda p: True, steps=4)
    assert [tuple(x.shape) for x in early] == [(1, 3, 4, 4), (1, 3, 8, 8)] and early[1].isfinite().all()


@pytest.mark.parametrize("call, message", [
    (lambda c: c.sample("red", generators=streams(0)), "list of texts"),
    (lambda c: c.sample([], generators=[]), "list of texts"),
    (lambda c: c.sample(["red"], generators=streams(0, 1)), "a generator for each"),
    (lambda c: c.sample(["red"], generators=streams(0), candidates=2), "need a score"),
    (lambda c: c.sample(["red"], generators=streams(0), candidates=0), "at least 1"),
    (lambda c: c.sample(["red"], generators=streams(0), guidance_scal=2), "did you mean guidance_scale"),
    (lambda c: c.sample(["red"], generators=streams(0), sampler="dpm"), "dpm_solver"),
    (lambda c: c.sample(["red"], generators=streams(0), threshold="dyn"), "dynamic"),
    (lambda c: c.sample(["red"], generators=streams(0), steps=0), "steps must be a whole number"),
    (lambda c: c.sample(["red"], generators=streams(0), low=torch.zeros(1, 3, 8, 8)), "smaller than 8"),
    (lambda c: c.sample(["red"], generators=streams(0), low=torch.zeros(2, 3, 4, 4)), "1 pictures"),
    (lambda c: c.edit(torch.zeros(1, 3, 8, 8), ["red"], strength=0.0, generators=streams(0)), "strength"),
    (lambda c: c.edit(torch.zeros(2, 3, 8, 8), ["red"], strength=0.5, generators=streams(0)), "1 texts"),
    (lambda c: c.sample(["red"], generators=streams(0), redrawn=torch.zeros(1, 2, 3, 8, 8)), "each text one picture"),
    (lambda c: c.sample(["red"], generators=streams(0), redrawn=torch.zeros(1, 3, 8, 8)), "each text one picture"),
    (lambda c: c.sample(["red"], generators=streams(0), low=torch.zeros(1, 3, 8, 8),
                        redrawn=torch.zeros(1, 1, 3, 8, 8)), "give one of them"),
    (lambda c: c.sample(["red"], generators=streams(0), candidates=2, score=lambda x, _: x.mean((1, 2, 3)),
                        redrawn=torch.zeros(1, 3, 3, 8, 8)), "each text from 1 to 2 pictures"),
    (lambda c: c.inpaint(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4), ["red"], generators=streams(0)), "8 x 8")])
def test_bad_input_is_refused(make, call, message):
    cascade = make()
    with pytest.raises(BadParameter, match=message):
        call(cascade)
    assert not cascade.stages[0].network.calls


def test_a_cascade_goes_from_small_to_large(make):
    for sizes in ((8, 4), (4, 4), ()):
        with pytest.raises(BadParameter, match="from small to large"):
            make(sizes)
    with pytest.raises(UnknownName, match="guidance_scale"):
        Sampling.of({"scale": 2.0})

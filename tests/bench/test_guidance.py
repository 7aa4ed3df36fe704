"""The classic loop is what it claims to be, does the same work as ours, and both are measured alike."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from t2ilib.bench import guidance, guidance_quality, guidance_score
from t2ilib.bench.classic import ClassicLoop, classic_clip, classic_decoder, one_hot_quantise
from t2ilib.bench.measure import short_name
from t2ilib.layers.quantize import vector_quantize
from t2ilib.models.vqgan import VQGAN
from t2ilib.runtime import pick_dtype

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def networks(tiny_clip):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vqgan = VQGAN(embed_dim=4, n_embed=64, z_channels=32, resolution=32, ch=32, ch_mult=(1, 2, 2), num_res_blocks=1,
                      attn_resolutions=(8,))
        nn.init.normal_(vqgan.quantize.embedding.weight)
        return vqgan.eval().requires_grad_(False), tiny_clip(24)


def test_one_hot_rows_are_the_nearest_codes():
    g = torch.Generator().manual_seed(0)
    z, codebook = torch.randn(2, 5, 3, 4, generator=g).requires_grad_(), torch.randn(50, 5, generator=g)
    expected, _ = vector_quantize(z, codebook)
    found = one_hot_quantise(z, codebook)
    assert_close(found, expected)
    weight = torch.randn(found.shape, generator=g)
    assert_close(torch.autograd.grad((found * weight).sum(), z)[0], weight)


def test_the_peers_networks_compute_the_same(networks):
    vqgan, clip = networks
    z, x = torch.randn(1, 4, 6, 8), torch.rand(3, 3, 24, 24)
    assert_close(classic_decoder(vqgan)(z), vqgan.decode(z), rtol=1e-4, atol=1e-4)
    other = classic_clip(clip)
    assert not other.model.visual.transformer.batch_first and clip.model.visual.transformer.batch_first
    assert_close(other.encode_image(x), clip.encode_image(x), rtol=1e-4, atol=1e-5)
    half = classic_clip(clip, half=True)
    assert half.model.visual.conv1.weight.dtype == torch.float16 != clip.model.visual.conv1.weight.dtype
    assert_close(half.encode_image(x), clip.encode_image(x), rtol=0, atol=0.01)
    assert half.encode_text(["a"]).dtype == torch.float32


def test_a_classic_step_is_its_formula(networks):
    vqgan, clip = networks
    loop = ClassicLoop(vqgan.decode, vqgan.codebook, clip.encode_image, clip.encode_text(["a"]), size=(8, 10),
                       num_cutouts=5, cut_size=24, seed=3)
    assert (torch.cdist(loop.z.movedim(1, -1).reshape(-1, 4), vqgan.codebook).min(dim=1).values < 1e-2).all()
    picture = loop.picture()
    assert picture.shape == (1, 3, 32, 40) and 0 <= picture.min() and picture.max() <= 1
    loop.noise = 0.0
    flat = loop.cutouts(torch.full((1, 3, 32, 40), 0.25))
    assert flat.shape == (5, 3, 24, 24)
    assert_close(flat, torch.full_like(flat, 0.25))
    state, before = loop.stream.get_state(), loop.z.detach().clone()
    features = clip.encode_image(loop.cutouts(loop.picture()))
    angle = torch.arccos((features * loop.target).sum(-1))
    (gradient,) = torch.autograd.grad((angle.square() / 2).mean(), loop.z)
    loop.stream.set_state(state)
    assert_close(loop.step(), (angle.square() / 2).mean().detach())
    moved = (before - 0.1 * gradient.sign()).maximum(loop.low).minimum(loop.high)  # Adam's first step
    clear = gradient.abs() > 1e-3 * gradient.abs().max()
    assert_close(loop.z.detach()[clear], moved[clear], rtol=1e-3, atol=1e-3)
    assert float(loop.step()) != float(loop.step())


def test_levers_switched_off_change_the_time_and_not_the_step(networks):
    vqgan, clip = networks
    trajectories = []
    for options in ({}, {"one_hot": True}, {"one_by_one": True}):
        seen = []
        encode = clip.encode_image
        clip.encode_image = lambda x, seen=seen, encode=encode: seen.append(x.detach()) or encode(x)
        step = guidance.guidance_step(vqgan, clip, 32, 3, dtype=torch.float32, **options)
        step()
        step()
        del clip.encode_image
        trajectories.append(seen)
    assert_close(trajectories[1], trajectories[0], rtol=1e-3, atol=1e-3)
    # noise is drawn for each call of `apply_cutouts`, so cutouts made one by one differ by their noise alone
    assert (trajectories[2][0] - trajectories[0][0]).abs().mean() < 0.1


@pytest.mark.slow
def test_rows_tell_time_memory_and_every_lever(networks):
    rows = list(guidance.vqgan_clip_rows(CPU, 0.0, shapes=[(32, 2), (48, 3)], ablation=(48, 3), networks=networks))
    small, large = ([r for r in rows if r.shape == shape] for shape in ("32 px, 2 cutouts", "48 px, 3 cutouts"))
    assert {r.provider for r in small} in ({"classic", "ours"}, {"classic", "ours", "classic, bfloat16",
                                                                 "ours, float32"})
    for r in rows:  # each says its own precision
        assert r.dtype == ("float32" if r.provider in ("classic", "ours, float32") else short_name(pick_dtype(CPU)))
    levers = {r.provider for r in large} - {r.provider for r in small}
    assert levers == {"ours, networks as loaded", "ours, channels first", "ours, cutouts one by one",
                      "ours, one-hot codes", "ours, checkpointed", "ours, augmented"}
    assert {(r.metric, r.mode) for r in rows} == {("ms", "step"), ("MiB", "peak of tensors")}
    assert all(r.ratio == 1.0 for r in rows if r.provider == "classic") and all(r.p50 > 0 for r in rows)
    peak = {r.provider: r.p50 for r in large if r.metric == "MiB"}
    assert peak["ours, checkpointed"] < peak["ours"]
    assert not vars(networks[0]).keys() & {"decode"} and networks[0].decoder.conv_in.weight.is_contiguous()


def test_the_moment_of_passing_is_found(networks, monkeypatch):
    vqgan, clip = networks
    options = {"steps": 3, "num_cutouts": 2, "min_cut": 0.8}

    def run(scores):
        it = iter(scores)
        return guidance_score.trial("a", vqgan, clip, None, lambda images, prompt: next(it), steps=2, cutouts=2,
                                    options=options)

    at_once, late = run([0.5, 0.5, 0.9]), run([0.5, 0.1, 0.2, 0.6, 0.8])
    assert (at_once.passed_step, late.passed_step) == (0, 2) and late.score == 0.8 and late.classic_score == 0.5
    assert 0 < at_once.passed < at_once.seconds and late.passed <= late.seconds
    by_average, never = run([0.5, 0.1, 0.1, 0.1, 0.7]), run([0.5, 0.1, 0.1, 0.1, 0.1])
    assert by_average.passed == by_average.seconds and by_average.passed_step == 3
    assert never.passed == math.inf and never.passed_step == -1
    rows = guidance_score.trial_rows(never, CPU) + guidance_score.summary_rows([at_once, late, never], "3", CPU)
    assert [r.ratio for r in rows if "never" in r.mode] == [0.0]
    summary = {(r.provider, r.mode): r for r in rows if r.shape == "3"}
    assert summary["ours", "to the classic score"].p50 == pytest.approx(max(at_once.passed, late.passed), abs=1e-3)
    assert summary["ours", "prompts that reach the classic score"].p50 == pytest.approx(2 / 3, abs=1e-3)


def test_prompts_come_from_the_validation_split():
    prompts = guidance_score.validation_prompts(4)
    assert len(set(prompts)) == 4 and prompts == guidance_score.validation_prompts(4)


def test_the_difference_of_equal_starts_is_paired():
    names = ["a", "b", "c", "d"] * 2
    plain, levers = torch.tensor([1, 0, 1, 1, 1, 0, 1, 1.0]), torch.tensor([1, 1, 1, 1, 1, 0, 0, 1.0])
    spent = {"plain": 6.0, "levers": 2.0}
    rows = guidance_quality.quality_rows({"plain": plain, "levers": levers}, spent, names, CPU)
    table = {(r.provider, r.mode): r for r in rows}
    difference = table["levers", "top-10, paired difference to plain"]
    assert difference.p50 == 0 and difference.p20 < 0 < difference.p80 and difference.shape == "4 concepts, 8 pictures"
    assert table["levers", "pictures judged alike"].p50 == 0.75
    assert table["levers", "search"].ratio == 3 and table["plain", "top-10 among all names"].p50 == 0.75

import importlib.util
import json
import math
import warnings
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from t2ilib.errors import BadParameter, RunFailed
from t2ilib.guidance import Basis, GuidanceConfig, draw_cutouts, frozen, parse_prompts, vqgan_clip, z_bounds
from t2ilib.guidance.guides import Guides
from t2ilib.guidance.latents import FreeLatents, select_starts
from t2ilib.guidance.objective import PAINTED_HOLD, Step, hold_of_starts, init_term, tv_term
from t2ilib.guidance.prompts import Prompt

spec = importlib.util.spec_from_file_location("plain", Path(__file__).with_name("plain.py"))
plain = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plain)

QUICK = {"steps": 6, "num_cutouts": 4, "min_cut": 0.6}


def run(vqgan, guides, prompt="red", *, fixed=None, **options):
    return vqgan_clip(GuidanceConfig(prompt, **(QUICK | options)), vqgan=vqgan, clips=guides, **(fixed or {}))


def test_ten_steps_equal_an_independent_plain_loop(vqgan, clip):
    config = GuidanceConfig("blue", steps=10, num_cutouts=5, width=48, height=32, augmentations="plain", noise=0.1)
    g = torch.Generator().manual_seed(11)
    parameters = [draw_cutouts([g], 5, (32, 48), cut_size=16, min_cut=0.5, max_cut=1.3, noise=0.1,
                               augmentations=config.augmentations) for _ in range(10)]
    result = vqgan_clip(config, vqgan=vqgan, clips=clip, cutouts=parameters.__getitem__)
    target = clip.encode_text(["blue"])[0].detach()
    losses, z = plain.trajectory(vqgan, clip, target, result.z_start, parameters, 10)
    assert_close(result.losses[:, 0], losses, rtol=1e-4, atol=0)
    assert (result.z - z).norm() / z.norm() < 1e-4
    assert losses[-1] < 0.9 * losses[0]


def test_a_picture_becomes_what_the_prompt_says(vqgan, clip):
    red, blue = (run(vqgan, clip, p, steps=40, num_images=2, augmentations="none") for p in ("red", "blue"))
    for result, channel in ((red, 0), (blue, 2)):
        assert (result.losses[-5:].mean(0) < 0.8 * result.losses[:5].mean(0)).all()
        assert (result.images.mean(dim=(2, 3)).argmax(dim=1) == channel).all()
    assert red.record["guide_similarity"][0][0] > 0.5
    away = run(vqgan, clip, "red:-1", steps=40, augmentations="none")
    assert away.record["guide_similarity"][0][0] > 0  # sign(w) cos: far from red
    assert away.images[:, 0].mean() < red.images[:, 0].mean()


def test_exactly_n_steps_and_a_complete_result(vqgan, clip):
    seen = []
    result = run(vqgan, clip, steps=7, width=40, height=24, fixed={"callback": seen.append})
    assert [p.step for p in seen] == list(range(7)) and seen[0].steps == 7
    assert vqgan.calls == 7 + 1  # one decoding a step, and the final picture
    assert result.losses.shape == (7, 1) and len(result.history) == 7 and result.record["steps_done"] == 7
    assert set(result.history[0]) == {"step", "loss", "guide"}
    assert result.images.shape == (1, 3, 24, 40) and result.z.shape == (1, 4, 3, 5) and result.codes.shape == (1, 3, 5)
    assert not result.images.requires_grad and not seen[0].images.requires_grad
    assert 0 <= result.images.min() and result.images.max() <= 1
    low, high = z_bounds(vqgan.codebook)
    assert (result.z >= low).all() and (result.z <= high).all()
    assert json.loads(json.dumps(result.record))["width"] == 40


def test_no_steps_return_the_start_and_a_true_callback_ends_early(vqgan, clip):
    start = run(vqgan, clip, steps=0)
    assert_close(start.z, start.z_start)
    assert start.losses.shape == (0, 1) and start.history == []
    assert run(vqgan, clip, fixed={"callback": lambda p: p.step == 2}).record["steps_done"] == 3


def test_the_same_seed_gives_the_same_bits_and_another_seed_another_picture(vqgan, clip):
    torch.manual_seed(1)
    one = run(vqgan, clip, seed=5, augmentations="plain")
    torch.manual_seed(2)
    two = run(vqgan, clip, seed=5, augmentations="plain")
    assert torch.equal(one.images, two.images) and torch.equal(one.losses, two.losses)
    assert not torch.equal(one.images, run(vqgan, clip, seed=6, augmentations="plain").images)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])  # sgd feels the scale of the loss
def test_each_picture_of_a_batch_equals_its_own_run(vqgan, clip, optimizer):
    vqgan, clip = vqgan.double(), clip.double()
    options = {"width": 48, "candidates": 3, "ema": 0.5, "steps": 8, "tv_weight": 0.1, "optimizer": optimizer}
    batch = run(vqgan, clip, ["red", "blue | green:-0.5"], num_images=2, seed=3, **options)
    assert batch.record["seeds"] == [3, 4, 3, 4] and len(batch.images) == 4
    for i, (prompt, seed) in enumerate([("red", 3), ("red", 4), ("blue | green:-0.5", 3), ("blue | green:-0.5", 4)]):
        alone = run(vqgan, clip, prompt, seed=seed, **options)
        assert_close(batch.images[i], alone.images[0], rtol=1e-7, atol=1e-7)
        assert_close(batch.losses[:, i], alone.losses[:, 0], rtol=1e-7, atol=1e-7)


def test_several_guides_share_by_weight(vqgan, clips):
    prompts = [parse_prompts("red")]
    images = torch.rand(1, 3, 32, 32)
    cutouts = draw_cutouts([torch.Generator().manual_seed(0)], 3, (32, 32), cut_size=16)
    both = Guides(clips, [3, 1], prompts).losses(images, cutouts)
    single = [Guides([clip], [1], prompts).losses(images, cutouts)[0, 0] for clip in clips]
    assert_close(both[0], torch.stack([0.75 * single[0], 0.25 * single[1]]))
    result = run(vqgan, clips, clip=["a", "b"], clip_weights=[3, 1])
    assert len(result.record["guide_similarity"][0]) == 2
    assert run(vqgan, clips).losses.isfinite().all()  # one weight for any number of guides
    with pytest.raises(BadParameter, match="one weight per guide"):
        run(vqgan, clips[:1], clip=["a", "b"], clip_weights=[3, 1])


def test_the_real_network_fits_the_interface(clip):
    from t2ilib.models.vqgan import VQGAN

    torch.manual_seed(0)
    network = VQGAN(embed_dim=4, n_embed=32, z_channels=8, resolution=32, ch=8, ch_mult=(1, 2, 2), num_res_blocks=1,
                    attn_resolutions=(), norm_groups=4)
    result = run(network, clip, height=24, candidates=2)
    assert result.images.shape == (1, 3, 24, 32) and result.losses.isfinite().all()


def test_a_judge_does_not_guide(vqgan, clip):
    clip.measure_only = True
    with pytest.raises(BadParameter, match="only measures"):
        run(vqgan, clip)


class FakePrior:
    """Each sample is one random code everywhere; keeps what it was asked."""

    def __init__(self, vqgan):
        self.vqgan, self.asked = vqgan, []

    def sample(self, prompts, *, num, generators, size):
        self.asked.append((prompts, num, size))
        codes = torch.cat([torch.randint(64, (num, 1, 1), generator=g) for g in generators])
        return self.vqgan.codebook[codes.expand(-1, *size)].movedim(-1, 1)

    def score_distillation(self, z, prompts, generators):
        assert len(prompts) == len(generators) == len(z)
        return z.square().flatten(1).mean(1)


def test_the_best_of_several_samples_of_a_prior_is_the_start(vqgan, clip):
    prior, options = FakePrior(vqgan), {"init": "prior", "steps": 0}
    best = run(vqgan, clip, "red | paint:0.2", candidates=16, num_images=2, fixed={"prior": prior}, **options)
    assert prior.asked == [(["red, paint"] * 2, 16, (4, 4))]
    first = run(vqgan, clip, "red | paint:0.2", num_images=2, fixed={"prior": prior}, **options)
    similarity = [torch.tensor(r.record["guide_similarity"])[:, 0] for r in (first, best)]
    assert (similarity[1] > similarity[0] + 0.1).all()
    every = run(vqgan, clip, "red | paint:0.2", num_images=32, fixed={"prior": prior}, **options)
    assert similarity[1][0] >= torch.tensor(every.record["guide_similarity"]).quantile(0.5)
    held = run(vqgan, clip, init="prior", prior_weight=5.0, steps=10, fixed={"prior": FakePrior(vqgan)})
    free = run(vqgan, clip, init="prior", steps=10, fixed={"prior": FakePrior(vqgan)})
    assert held.z.norm() < free.z.norm() and "prior" in held.history[0]


def test_starts_are_scored_per_guide_on_one_scale():
    starts = torch.arange(6.0).view(2, 3, 1, 1, 1)
    scores = {0: [[0.0, 100], [1, 0], [0.9, 90]], 1: [[5.0, 0], [4, 0], [3, 0]]}

    def score(z, picture):
        return torch.tensor(scores[picture])[(z.flatten() - 3 * picture).long()]

    z, index = select_starts(starts, score, shares=[0.5, 0.5], chunk=2)
    assert index.tolist() == [2, 0] and z.flatten().tolist() == [2.0, 3.0]
    assert select_starts(starts, score, shares=[1.0, 0.0])[1].tolist() == [1, 0]


def test_a_bonus_counts_in_standard_deviations_of_the_scores():
    starts = torch.arange(4.0).view(1, 4, 1, 1, 1)

    def score(z, _):
        return 1000 * z.flatten()[:, None]  # its size does not matter: standardised, the steps are 0.77 apart

    def bonus_of_the_first(size):
        return lambda z, _: size * (z.flatten() == 0)

    for size, chosen in ((0, 3), (2.2, 3), (2.4, 0)):
        assert select_starts(starts, score, bonus=bonus_of_the_first(size), chunk=3)[1].item() == chosen


def test_starts_that_the_prior_painted_are_held_more_strongly(vqgan, clip):
    class Painting(FakePrior):
        def paints(self, prompt):
            return "blue" in prompt

    prompts = [[Prompt("a blue car")], [Prompt("a car")]]
    config = GuidanceConfig("x", init="prior")
    assert hold_of_starts(config, Painting(vqgan), prompts).tolist() == [PAINTED_HOLD, 1]
    assert hold_of_starts(config, FakePrior(vqgan), prompts).tolist() == [1, 1]
    story = GuidanceConfig("a blue car ^ a red car", init="prior").prompts()
    assert hold_of_starts(config, Painting(vqgan), story).tolist() == [1]
    assert hold_of_starts(GuidanceConfig("x"), Painting(vqgan), prompts).tolist() == [1, 1]
    options = dict(init="prior", init_weight=0.5, steps=10)
    held = run(vqgan, clip, prompt="blue", fixed={"prior": Painting(vqgan)}, **options)
    free = run(vqgan, clip, prompt="blue", fixed={"prior": FakePrior(vqgan)}, **options)
    assert (held.z - held.z_start).norm() < (free.z - free.z_start).norm()


def test_given_latents_are_the_start_for_all_pictures(vqgan, clip):
    z = torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(0))
    result = run(vqgan, clip, init="latents", num_images=2, steps=0, fixed={"latents": z})
    assert_close(result.z_start, z.expand(2, 4, 4, 4))
    with pytest.raises(BadParameter, match="expected"):
        run(vqgan, clip, init="latents", fixed={"latents": z[:, :3]})
    with pytest.raises(BadParameter, match="contradict"):
        run(vqgan, clip, fixed={"latents": z})
    with pytest.raises(BadParameter, match="needs prior"):
        run(vqgan, clip, init="prior")
    with pytest.raises(BadParameter, match="needs basis"):
        run(vqgan, clip, subspace_steps=2)
    with pytest.raises(BadParameter, match="no score_distillation"):
        run(vqgan, clip, prior_weight=1.0)


def test_regularisers_equal_their_formulas(vqgan, clip):
    z, start = torch.randn(2, 2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    step = Step(3, z, torch.rand(2, 3, 8, 8), None)
    assert_close(init_term(1.5, "to_init", start)(step)[1], 0.75 * ((z[1] - start[1]) ** 2).mean())
    held = init_term(1.5, "to_init", start, torch.tensor([1.0, 20.0]))(step)
    assert_close(held, init_term(1.5, "to_init", start)(step) * torch.tensor([1.0, 20.0]))
    assert_close(init_term(1.5, "to_zero_decay", start)(step)[1], 1.5 / 2 / 7 * (z[1] ** 2).mean())
    d, r = step.images[0].diff(dim=1), step.images[0].diff(dim=2)
    expected = 2 * ((d**2).sum() + (r**2).sum()) / (d.numel() + r.numel())
    assert_close(tv_term(2.0)(step)[0], expected)
    near, far = (run(vqgan, clip, steps=15, init_weight=w) for w in (30.0, 0.0))
    assert (near.z - near.z_start).norm() < 0.5 * (far.z - far.z_start).norm()


def test_a_basis_is_that_of_the_data_and_confines_the_latents(vqgan, clip):
    g = torch.Generator().manual_seed(0)
    mixing = torch.randn(3, 4 * 16, generator=g)
    data = (torch.randn(50, 3, generator=g) * torch.tensor([5.0, 2.0, 1.0]) @ mixing).view(50, 4, 4, 4) + 0.5
    basis = Basis.fit(data, 3)
    flat = basis.components.flatten(1)
    assert_close(flat @ flat.T, torch.eye(3), rtol=0, atol=1e-5)
    coefficients = basis.project(data)
    assert_close(basis.expand(coefficients), data, rtol=1e-3, atol=1e-3)
    assert_close(coefficients.std(0), torch.ones(3), rtol=1e-3, atol=1e-3)
    inside = run(vqgan, clip, subspace_steps=6, steps=6, fixed={"basis": basis})
    assert_close(basis.expand(basis.project(inside.z)), inside.z, rtol=1e-3, atol=1e-3)
    free = run(vqgan, clip, subspace_steps=6, steps=9, fixed={"basis": basis})
    assert free.losses.shape == (9, 1)
    assert (basis.expand(basis.project(free.z)) - free.z).norm() > 0.1
    with pytest.raises(BadParameter, match="at most 49"):
        Basis.fit(data, 50)


def test_ema_averages_the_latents_of_all_steps(vqgan, clip, monkeypatch):
    visited, original = [], FreeLatents.clamp_

    def spy(self):
        original(self)
        visited.append(self.z.detach().clone())

    monkeypatch.setattr(FreeLatents, "clamp_", spy)
    result = run(vqgan, clip, ema=0.8, steps=5)
    weights = 0.8 ** torch.arange(4, -1, -1.0)
    expected = (weights.view(-1, 1, 1, 1, 1) * torch.stack(visited)).sum(0) / weights.sum()
    assert_close(result.z, expected)


@pytest.mark.parametrize("name", ["adam", "adamw", "adamax", "adagrad", "nadam", "radam", "rmsprop", "sgd"])
def test_every_optimizer_runs(vqgan, clip, name):
    result = run(vqgan, clip, optimizer=name, steps=3)
    assert not torch.equal(result.z, result.z_start)


def test_networks_are_frozen_inside_and_as_before_after_it(vqgan, clip):
    vqgan.train()
    vqgan.net[0].weight.requires_grad_(False)
    clip.eval()

    def check(preview):
        assert not any(p.requires_grad for p in [*vqgan.parameters(), *clip.parameters()])
        assert not vqgan.training

    run(vqgan, clip, fixed={"callback": check})
    assert vqgan.training and not clip.training and not vqgan.net[0].weight.requires_grad
    assert vqgan.table.requires_grad and vqgan.table.grad is None and clip.mix.weight.grad is None
    with pytest.raises(ZeroDivisionError), frozen(vqgan):
        raise ZeroDivisionError
    assert vqgan.training


def test_bfloat16_networks_leave_latents_and_losses_in_float32(vqgan, clip):
    full, half = (run(vqgan, clip, precision=p, noise=0.0) for p in ("float32", "bfloat16"))
    assert half.z.dtype == half.images.dtype == half.losses.dtype == torch.float32
    assert_close(half.losses[0], full.losses[0], rtol=0.02, atol=0.02)
    assert not torch.equal(half.losses[0], full.losses[0]) and half.record["dtype"] == "bfloat16"


def test_odd_sizes_are_rounded_with_a_warning_and_one_code_is_enough(vqgan, clip):
    with pytest.warns(UserWarning, match="width 50 is not a multiple of 8: the picture has 48"):
        assert run(vqgan, clip, width=50, steps=1).images.shape == (1, 3, 32, 48)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(vqgan, clip, width=72, height=8, steps=2, augmentations="plain").images.shape == (1, 3, 8, 72)


def test_a_loss_that_is_not_a_number_is_reported(vqgan, clip):
    with pytest.raises(BadParameter, match="not a number"):
        run(vqgan, clip, init="latents", fixed={"latents": torch.full((4, 4, 4), math.nan)})
    encode = clip.encode_image
    clip.encode_image = lambda x: encode(x) * (math.nan if vqgan.calls > 3 else 1)
    with pytest.raises(RunFailed, match="step 3 on"):
        run(vqgan, clip)

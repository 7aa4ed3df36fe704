"""What a run can be told to do beyond its plain course: starts, regions, masks, growing, tiles, stories, passes."""

import dataclasses
import importlib.util
import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.testing import assert_close

from t2ilib.errors import BadParameter, CheckpointMismatch, RunFailed
from t2ilib.guidance import GuidanceConfig, Guides, Painter, draw_cutouts, vqgan_clip
from t2ilib.guidance import loop as loop_module
from t2ilib.guidance.search import Search
from t2ilib.guidance.setup import prepare_run
from t2ilib.guidance.starts import make_starts
from t2ilib.media import fit_picture, load_picture, to_pil
from t2ilib.media.png import save_png

spec = importlib.util.spec_from_file_location("doubles", Path(__file__).with_name("conftest.py"))
doubles = importlib.util.module_from_spec(spec)
spec.loader.exec_module(doubles)

QUICK = {"steps": 6, "num_cutouts": 4, "min_cut": 0.6, "augmentations": "none"}


def run(vqgan, guides, prompt="red", *, fixed=None, **options):
    return vqgan_clip(GuidanceConfig(prompt, **(QUICK | options)), vqgan=vqgan, clips=guides, **(fixed or {}))


class WithEncoder(doubles.TinyVQGAN):
    """Encodes by the nearest decoded code of each block."""

    def encode_codes(self, x):
        with torch.no_grad():
            known = self.net(self.table[:, :, None, None]).flatten(1)  # (K, 3 * 64)
            blocks = F.unfold(x, 8, stride=8).movedim(1, 2)  # (B, L, 3 * 64)
            codes = torch.cdist(blocks, known[None]).argmin(-1)
        return codes.unflatten(1, (x.shape[2] // 8, x.shape[3] // 8))

    def embed_codes(self, codes):
        return F.embedding(codes, self.table).movedim(-1, 1)


@pytest.fixture
def coder():
    return WithEncoder()


@pytest.fixture
def picture(coder, tmp_path):
    """A file with a picture that the VQGAN can draw exactly, and its codes."""
    codes = torch.randint(64, (1, 4, 6), generator=torch.Generator().manual_seed(0))
    image = ((coder.decode(coder.embed_codes(codes)) + 1) / 2).clamp(0, 1).detach()
    to_pil(image)[0].save(tmp_path / "start.png")
    return str(tmp_path / "start.png"), codes[0]


def test_a_run_may_start_from_a_picture(coder, clip, picture):
    path, codes = picture
    result = run(coder, clip, init="image", init_image=path, width=48, height=32, steps=0, num_images=2)
    assert result.codes.tolist() == [codes.tolist()] * 2
    assert_close(result.images[0], load_picture(path), atol=0.02, rtol=0)
    with pytest.raises(BadParameter, match="has no encoder"):
        run(doubles.TinyVQGAN(), clip, init="image", init_image=path)


@pytest.mark.parametrize("init", ["pixels", "gradient", "fractal"])
def test_noise_starts_differ_by_seed_and_may_be_chosen_from(coder, clip, init):
    first, same = (run(coder, clip, init=init, steps=0, num_images=2, width=48) for _ in range(2))
    assert torch.equal(first.codes, same.codes) and not torch.equal(first.codes[0], first.codes[1])
    best = run(coder, clip, init=init, steps=0, candidates=12, num_images=2, width=48)
    scores = [torch.tensor(r.record["guide_similarity"]).mean() for r in (first, best)]
    assert scores[1] > scores[0]


def test_a_run_goes_on_from_the_codes_in_a_png(coder, clip, tmp_path):
    made = run(coder, clip, steps=3, width=48, model="tiny")
    record = {**made.record, "codes": made.codes[0].tolist()}
    path = str(save_png(to_pil(made.images)[0], tmp_path / "made.png", record))
    again = run(coder, clip, init="previous", init_image=path, steps=0, width=48, model="tiny")
    assert torch.equal(again.codes, made.codes)
    larger = run(coder, clip, init="previous", init_image=path, steps=0, width=96, height=64, model="tiny")
    assert_close(larger.images.mean((2, 3)), made.images.mean((2, 3)), atol=0.08, rtol=0)
    with pytest.raises(BadParameter, match="codes of 'tiny'"):
        run(coder, clip, init="previous", init_image=path, model="other")
    to_pil(made.images)[0].save(tmp_path / "bare.png")
    with pytest.raises(BadParameter, match="does not say how it was made"):
        run(coder, clip, init="previous", init_image=str(tmp_path / "bare.png"))


def test_a_prior_may_draw_the_start_anew(coder, clip, picture):
    class Prior:
        def redraw(self, z, prompts, *, num, generators, strength):
            assert prompts == ["red", "red"] and strength == 0.5 and z.shape == (2, 4, 4, 6)
            noise = torch.stack([torch.randn(num, *z.shape[1:], generator=g) for g in generators])
            return (z[:, None] + noise).flatten(0, 1)

    options = {"init": "image", "init_image": picture[0], "width": 48, "height": 32, "steps": 0, "num_images": 2}
    result = run(coder, clip, **options, redraw=0.5, candidates=6, fixed={"prior": Prior()})
    plain = run(coder, clip, **options)
    assert len(set(result.record["candidate_chosen"])) > 1 or result.record["candidate_chosen"] != [0, 0]
    assert not torch.equal(result.z_start[0], result.z_start[1]) and torch.equal(plain.z_start[0], plain.z_start[1])
    with pytest.raises(BadParameter, match="redraw needs prior"):
        run(coder, clip, **options, redraw=0.5)


def test_outside_the_mask_every_pixel_is_kept(coder, clip, picture):
    path, _ = picture
    result = run(coder, clip, init="image", init_image=path, width=48, height=32, mask=(0.5, 0, 1, 1), steps=20,
                 learning_rate=0.3)
    before = fit_picture(load_picture(path), (32, 48))
    assert torch.equal(result.images[0, :, :, :24], before[:, :, :24])
    inside = result.images[0, :, :, 24:]
    assert inside[0].mean() > before[0, :, 24:].mean() + 0.1  # redder


def test_a_prompt_for_a_region_changes_that_region(vqgan, clip):
    result = run(vqgan, clip, "blue", regions={"red": (0, 0, 0.5, 1)}, steps=60, width=64)
    left, right = result.images[0, :, :, :32].mean((1, 2)), result.images[0, :, :, 32:].mean((1, 2))
    assert left.argmax() == 0 and right.argmax() == 2
    only = run(vqgan, clip, [{"text": "red", "region": [0, 0, 0.5, 1]}], steps=1, width=64)
    assert only.losses.isfinite().all()
    with pytest.raises(BadParameter, match="needs the whole picture"):
        run(vqgan, clip, "blue", regions={"red": (0, 0, 0.5, 1)}, tile=16)


def test_an_image_guides_as_a_prompt(vqgan, clip, tmp_path):
    Image.new("RGB", (40, 20), (25, 25, 230)).save(tmp_path / "blue.png")
    result = run(vqgan, clip, "x:0.001", image_prompts=f"{tmp_path}/blue.png", steps=40)
    assert result.images.mean(dim=(2, 3)).argmax() == 2
    loss = run(vqgan, clip, "x:0.001", noise_prompts=["3", "4:-0.5"], steps=12).losses
    assert loss[-1] < loss[0]


def test_a_story_changes_its_wish_half_way(vqgan, clip):
    story = run(vqgan, clip, "red ^ blue", steps=60)
    red = run(vqgan, clip, "red", steps=60)
    assert_close(story.losses[:30], red.losses[:30], rtol=1e-4, atol=1e-5)
    assert story.losses[30] > 3 * red.losses[30]
    assert story.images.mean(dim=(2, 3)).argmax() == 2
    assert torch.tensor(story.record["guide_similarity"]) > 0.4  # with the last scene


def test_the_record_says_what_each_picture_should_show_at_its_end(vqgan, clip):
    result = run(vqgan, clip, ["red ^ blue | fog:0.5", "green", "red:-1"], num_images=2, steps=0)
    assert result.record["prompts"] == ["red", "red", "green", "green", "", ""]
    assert result.record["final_texts"] == ["blue, fog", "blue, fog", "green", "green", "red", "red"]


def test_a_run_takes_another_painter_and_other_guides(vqgan, clip):
    class Grey(Painter):
        def decode(self, z):
            return super().decode(z) * 0 + 0.5

    class Blind(Guides):
        def embed(self, images, cutouts):
            return [0 * f + 1 / f.shape[-1] ** 0.5 for f in super().embed(images, cutouts)]

    config = GuidanceConfig("red", **QUICK)
    plain = prepare_run(config, vqgan, clip)
    z_start, _ = make_starts(plain, None)
    other = dataclasses.replace(plain, painter=Grey(config, vqgan, plain.seeds),
                                guides=Blind(plain.guides.clips, plain.guides.shares, plain.prompts))
    images, losses = Search(other, z_start).step()
    assert (images == 0.5).all() and losses != Search(prepare_run(config, vqgan, clip), z_start).step()[1]


def test_fixed_cutouts_serve_every_region_in_any_number_of_passes(vqgan, clip):
    fixed = draw_cutouts([torch.Generator().manual_seed(0)], 4, (32, 32), cut_size=16)
    options = {"regions": {"blue": (0, 0, 1, 1)}, "steps": 2, "fixed": {"cutouts": fixed}}
    one, parts = (run(vqgan, clip, cutout_passes=passes, **options) for passes in (1, 2))
    assert_close(parts.losses, one.losses)


def test_a_growing_run_ends_at_its_size_and_keeps_its_picture(vqgan, clip):
    seen = []
    result = run(vqgan, clip, steps=40, width=64, height=64, progressive=(0.5,), ema=0.5,
                 fixed={"callback": lambda p: seen.append((tuple(p.images.shape[-2:]), tuple(p.finish().shape[-2:])))})
    assert seen == [((32, 32), (64, 64))] * 20 + [((64, 64), (64, 64))] * 20
    assert result.images.shape == (1, 3, 64, 64) and result.losses.shape == (40, 1)
    assert result.losses[20] < result.losses[0]  # what the small picture learned is still there
    assert run(vqgan, clip, steps=0, width=64, progressive=(0.5,)).images.shape == (1, 3, 32, 64)


def test_tiles_are_all_that_is_decoded_at_once(vqgan, clip):
    decode, sides = vqgan.decode, []
    vqgan.decode = lambda z: (sides.append(tuple(z.shape[-2:])), decode(z))[1]
    result = run(vqgan, clip, steps=60, width=96, height=64, tile=32, tv_weight=0.1)
    assert result.images.shape == (1, 3, 64, 96) and set(sides) == {(4, 4)}
    assert (result.images.mean(dim=(2, 3)).argmax(dim=1) == 0).all()
    assert result.losses[-10:].mean() < 0.8 * result.losses[:10].mean()
    whole, tiled = (run(vqgan, clip, steps=3, **o) for o in ({}, {"tile": 64}))  # a tile as large as the picture
    assert torch.equal(whole.images, tiled.images)


@pytest.mark.parametrize("passes", [2, 3, 16])
def test_cutouts_in_passes_give_the_same_gradient(vqgan, clip, passes):
    vqgan, clip = vqgan.double(), clip.double()
    options = {"augmentations": "plain", "tv_weight": 0.2, "init_weight": 0.1, "num_cutouts": 5, "noise": 0.1,
               "prompt": "red | blue:-0.3", "regions": {"green:0.5": (0, 0, 0.5, 1)}}
    one, parts = (run(vqgan, clip, cutout_passes=p, **options) for p in (1, passes))
    assert_close(parts.losses, one.losses, rtol=1e-9, atol=1e-9)
    assert_close(parts.images, one.images, rtol=1e-7, atol=1e-7)
    assert [list(h) for h in parts.history] == [list(h) for h in one.history]


def test_schedules_and_lbfgs(vqgan, clip):
    constant, cosine = (run(vqgan, clip, lr_schedule=s, steps=8) for s in ("constant", "cosine"))
    assert torch.equal(constant.losses[0], cosine.losses[0]) and not torch.equal(constant.z, cosine.z)
    result = run(vqgan, clip, optimizer="lbfgs", learning_rate=0.5, steps=4, noise=0.0)
    assert result.losses[-1] < result.losses[0] and result.losses.shape == (4, 1)


STATE = {"steps": 9, "ema": 0.7, "noise": 0.1, "augmentations": "plain", "num_images": 2, "optimizer": "adamw",
         "lr_schedule": "cosine"}


@pytest.mark.parametrize("extra", [{}, {"progressive": (0.5,), "width": 64}, {"tile": 16}, {"prior_weight": 0.5},
                                   {"subspace_steps": 3}, {"subspace_steps": 7}])
@pytest.mark.parametrize("stop", [3, 5])
def test_an_interrupted_run_ends_as_if_it_had_not_been(vqgan, clip, tmp_path, extra, stop):
    class Prior:
        def score_distillation(self, z, prompts, generators):
            noise = torch.stack([torch.randn(z.shape[1:], generator=g) for g in generators])
            return (z * noise).square().flatten(1).mean(1)

    basis = doubles_basis(vqgan) if "subspace_steps" in extra else None
    fixed = {"prior": Prior() if "prior_weight" in extra else None, "basis": basis}
    whole = run(vqgan, clip, **STATE, **extra, fixed=fixed)
    path, begun = tmp_path / "state" / "run.pt", []

    def interrupt(preview):
        begun.append(preview.step)
        if preview.step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(vqgan, clip, **STATE, **extra, fixed={**fixed, "state": path, "callback": interrupt})
    assert path.is_file()
    torch.manual_seed(5)
    again = run(vqgan, clip, **STATE, **extra, fixed={**fixed, "state": path,
                                                      "callback": lambda p: begun.append(p.step)})
    assert begun == list(range(9)) and not path.exists()
    for name in ("images", "z", "losses", "z_start"):
        assert torch.equal(getattr(again, name), getattr(whole, name)), name
    assert again.history == whole.history and again.record["candidate_chosen"] == whole.record["candidate_chosen"]


def doubles_basis(vqgan):
    from t2ilib.guidance import Basis

    codes = torch.randint(64, (40, 4, 4), generator=torch.Generator().manual_seed(0))
    return Basis.fit(F.embedding(codes, vqgan.codebook.detach()).movedim(-1, 1), 12)


def test_a_state_is_saved_now_and_then_and_belongs_to_one_run(vqgan, clip, tmp_path):
    path, found = tmp_path / "run.pt", []
    with pytest.raises(ZeroDivisionError):  # a crash: what was saved last is there
        run(vqgan, clip, steps=5, fixed={"state": path, "save_every": 0.0, "callback": lambda p: not 1 / (3 - p.step)})
    for options, message in (({"prompt": "blue"}, "prompt was 'red' and is 'blue'"), ({"steps": 7}, "steps was 5")):
        with pytest.raises(CheckpointMismatch, match=message):
            run(vqgan, clip, **{"steps": 5, **options}, fixed={"state": path})
    run(vqgan, clip, steps=5, cutout_passes=2, fixed={"state": path, "callback": lambda p: found.append(p.step)})
    assert found == [4]  # how a step is computed may change on the way
    path.write_bytes(b"damaged")
    with pytest.raises(CheckpointMismatch, match="delete"):
        run(vqgan, clip, fixed={"state": path})


def test_a_damaged_state_is_refused_or_draws_the_same_picture(vqgan, clip, tmp_path):
    path = tmp_path / "run.pt"
    with pytest.raises(ZeroDivisionError):
        run(vqgan, clip, steps=3, fixed={"state": path, "save_every": 0.0, "callback": lambda p: not 1 / (1 - p.step)})
    original = path.read_bytes()
    expected = run(vqgan, clip, steps=3).images
    chance, refused = random.Random(0), 0
    for _ in range(60):
        damaged = bytearray(original)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            assert torch.equal(run(vqgan, clip, steps=3, fixed={"state": path}).images, expected)
        except CheckpointMismatch as error:
            assert "delete" in str(error)
            refused += 1
    assert refused > 10


def test_where_memory_runs_out_less_is_done_at_a_time(vqgan, clip, monkeypatch):
    encode = clip.encode_image

    def scarce(x):
        if len(x) > 2 and x.requires_grad:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8 GiB")
        return encode(x)

    expected = run(vqgan, clip, num_cutouts=4)
    clip.encode_image = scarce
    with pytest.warns(UserWarning, match="cutouts in 2 passes"):
        result = run(vqgan, clip, num_cutouts=4)
    assert_close(result.images, expected.images, atol=1e-4, rtol=0)
    assert len(result.record["fallbacks"]) == 1 and result.record["config"]["cutout_passes"] == 2
    monkeypatch.setattr(loop_module.Search, "step", lambda *_: (_ for _ in ()).throw(RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")))
    with pytest.warns(UserWarning), pytest.raises(RunFailed, match=r"smaller picture \(width, height\)"):
        run(vqgan, clip, num_cutouts=4)

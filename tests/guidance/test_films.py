"""Films: their geometry and order on tiny networks, and that nothing but the seed decides a frame."""

import math

import pytest
import torch
from torch.testing import assert_close

from t2ilib.errors import BadParameter, UnknownName
from t2ilib.guidance import GuidanceConfig, vqgan_clip
from t2ilib.guidance.films import interpolate_latents, interpolate_prompts
from t2ilib.guidance.flight import move, zoom
from t2ilib.guidance.ops import slerp
from t2ilib.layers.quantize import vector_quantize
from t2ilib.models.vqgan import VQGAN

FEW = {"steps": 3, "num_cutouts": 3, "min_cut": 0.6}


@pytest.fixture
def keys(vqgan):
    codes = torch.randint(64, (3, 4, 4), generator=torch.Generator().manual_seed(0))
    return vqgan.codebook.detach()[codes].movedim(-1, 1)


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VQGAN(embed_dim=4, n_embed=64, z_channels=8, resolution=32, ch=8, ch_mult=(1, 2, 2), num_res_blocks=1,
                     attn_resolutions=(), norm_groups=4)


def picture(vqgan, z):
    return ((vqgan.decode(vector_quantize(z, vqgan.codebook)[0]) + 1) / 2).clamp(0, 1).detach()


def test_slerp_turns_evenly_and_blends_lengths():
    a, b = torch.zeros(2, 3, 1, 2).unbind()
    a[0, 0, 0], b[1, 0, 0] = 2.0, 4.0  # a right angle
    a[:, 0, 1], b[:, 0, 1] = 1.0, 3.0  # the same direction
    for t in (0.0, 0.25, 0.5, 1.0):
        x = slerp(a, b, t)
        length, angle = 2 + 2 * t, t * math.pi / 2
        assert_close(x[:, 0, 0], torch.tensor([length * math.cos(angle), length * math.sin(angle), 0]))
        assert_close(x[:, 0, 1], torch.full((3,), 1 + 2 * t))
    assert slerp(a, -a, 0.5).abs().max() < 1e-6  # opposite: no direction is better than another
    assert slerp(torch.zeros_like(a), a, 0.5).isfinite().all()


@pytest.mark.parametrize("snap", [True, False])
@pytest.mark.parametrize("mode", ["slerp", "linear"])
def test_a_film_between_latents_passes_through_its_keys(vqgan, keys, mode, snap):
    film = list(interpolate_latents(vqgan, keys + 0.01, frames_between=4, mode=mode, snap=snap))
    assert len(film) == 2 * 5 + 1 and all(f.shape == (1, 3, 32, 32) for f in film)
    for i in range(3):
        assert_close(film[5 * i], picture(vqgan, keys[i:i + 1] + 0.01))
    assert all(0 <= f.min() and f.max() <= 1 and not f.requires_grad for f in film)
    steps = [float((a - b).abs().mean()) for a, b in zip(film, film[1:], strict=False)]
    assert steps[2] > 1.2 * steps[0] and steps[2] > 1.2 * steps[4]  # rests at the keys


def test_snapped_frames_are_pictures_of_codes(vqgan, keys):
    z = torch.lerp(keys[:1], keys[1:2], 0.5)
    _, between, _ = interpolate_latents(vqgan, keys[:2], frames_between=1, mode="linear", snap=True)
    assert_close(between, picture(vqgan, z))
    _, between, _ = interpolate_latents(vqgan, keys[:2], frames_between=1, mode="linear", snap=False)
    assert_close(between, ((vqgan.decode(z) + 1) / 2).clamp(0, 1).detach())


def test_films_go_on_beyond_their_ends(vqgan):
    middle = vqgan.codebook.detach()[[5, 9]].mul(0.5)  # well within the codebook's range
    vqgan.table.data[:2] = middle
    keys = middle[:, :, None, None].expand(2, 4, 3, 3)
    film = list(interpolate_latents(vqgan, keys, frames_between=3, extrapolate=0.5, ease="linear"))
    assert len(film) == 2 + 5 + 2
    for frame, t in ((0, -0.5), (1, -0.25), (2, 0.0), (6, 1.0), (8, 1.5)):
        z = torch.lerp(keys[:1], keys[1:], t)
        assert_close(film[frame], ((vqgan.decode(z) + 1) / 2).clamp(0, 1).detach())


def test_films_side_by_side_equal_each_alone(vqgan, keys):
    def film(z):
        return torch.stack(list(interpolate_latents(vqgan, z, frames_between=2)))

    both = film(torch.stack([keys, keys.flip(0)], dim=1))
    assert_close(both[:, :1], film(keys))
    assert_close(both[:, 1:], film(keys.flip(0)))


def test_whoever_takes_a_frame_keeps_gradients(vqgan, keys, clip):
    config = GuidanceConfig("red", **FEW)
    for film in (interpolate_latents(vqgan, keys),
                 interpolate_prompts(config, ["red", "blue"], vqgan=vqgan, clips=clip)):
        next(film)
        next(film)
        assert torch.is_grad_enabled() and vqgan.table.requires_grad and vqgan.training


def test_between_prompts_the_colour_follows(vqgan, clip):
    config = GuidanceConfig("unused", **FEW | {"steps": 40, "augmentations": "none"})
    film = list(interpolate_prompts(config, ["red", "blue"], frames=12, steps_per_frame=6, vqgan=vqgan, clips=clip))
    assert len(film) == 13
    red, blue = (torch.stack([f[0, c].mean() for f in film]) for c in (0, 2))
    assert red[0] > blue[0] and blue[-1] > red[-1]
    first = vqgan_clip(GuidanceConfig("red", **FEW | {"steps": 40, "augmentations": "none"}), vqgan=vqgan, clips=clip)
    assert torch.equal(film[0], first.images)


def test_an_anchored_film_passes_through_the_picture_of_each_prompt(vqgan, clip):
    prompts, options = ["red", "blue | green:0.5", "white"], FEW | {"steps": 5, "num_images": 2, "seed": 4}
    film = list(interpolate_prompts(GuidanceConfig("unused", **options), prompts, frames=3, steps_per_frame=2,
                                    anchored=True, vqgan=vqgan, clips=clip))
    finished = vqgan_clip(GuidanceConfig(prompts, **options), vqgan=vqgan, clips=clip).images
    assert len(film) == 7 and all(f.shape == (2, 3, 32, 32) for f in film)
    for i in range(3):
        assert_close(film[3 * i], finished[2 * i:2 * i + 2])


def test_a_film_from_a_prior_is_anchored_by_default(vqgan, clip, keys):
    class Prior:
        def sample(self, prompts, *, num, generators, size):
            return keys[:len(prompts) * num]

    config = GuidanceConfig("unused", **FEW | {"init": "prior"})
    film = list(interpolate_prompts(config, ["red", "blue"], frames=2, steps_per_frame=0, first_steps=0, vqgan=vqgan,
                                    clips=clip, prior=Prior()))
    assert_close(film[0], picture(vqgan, keys[:1]))
    assert_close(film[1], picture(vqgan, slerp(keys[:1], keys[1:2], 0.5)))
    assert_close(film[2], picture(vqgan, keys[1:2]))


def test_frames_are_told_the_share_of_each_prompt(vqgan, clip, monkeypatch):
    seen = []

    def spy(config, **given):
        seen.append(config)
        return vqgan_clip(config, **given)

    monkeypatch.setattr("t2ilib.guidance.films.vqgan_clip", spy)
    config = GuidanceConfig("unused", **FEW | {"candidates": 2, "seed": 7})
    list(interpolate_prompts(config, [r"a \| b", "red at 12:30 | fog:-0.5"], frames=4, steps_per_frame=1, ease="linear",
                             learning_rate=0.3, first_steps=2, vqgan=vqgan, clips=clip))
    weights = [[(p.text, p.weight) for p in c.prompts()[0]] for c in seen]
    assert weights[0] == [("a | b", 1.0)]
    assert weights[1] == [("a | b", 0.75), ("red at 12:30", 0.25), ("fog", -0.125)]
    assert weights[4] == [("red at 12:30", 1.0), ("fog", -0.5)]
    assert [c.steps for c in seen] == [2, 1, 1, 1, 1] and {c.learning_rate for c in seen[1:]} == {0.3}
    assert [c.candidates for c in seen] == [2, 1, 1, 1, 1] and len({c.seed for c in seen}) == 5


@pytest.mark.parametrize("make", [
    lambda config, **n: interpolate_prompts(config, ["red", "blue"], frames=3, steps_per_frame=2, **n),
    lambda config, **n: zoom(config, frames=3, steps_per_frame=2, pan=(0.01, 0), rotate=3, **n)])
def test_the_seed_decides_every_bit_and_each_film_has_its_own(network, clip, make):
    def film(seed, num_images=1):
        torch.manual_seed(seed + 100 * num_images)  # the global stream has no say
        config = GuidanceConfig("red", **FEW | {"seed": seed, "num_images": num_images})
        return torch.stack(list(make(config, vqgan=network, clips=clip)))

    one = film(3)
    assert torch.equal(one, film(3)) and not torch.equal(one, film(4))
    both = film(3, num_images=2)
    assert_close(both[:, :1], one, atol=1e-4, rtol=0)
    assert_close(both[:, 1:], film(4), atol=1e-4, rtol=0)


def test_a_zoom_is_a_chain_of_moved_encoded_optimised_pictures(network, clip):
    config = GuidanceConfig("red", **FEW | {"width": 40, "height": 24})
    start = vqgan_clip(config, vqgan=network, clips=clip)
    film = list(zoom(GuidanceConfig("red", **FEW | {"width": 40, "height": 24, "init": "latents"}), frames=3,
                     first_steps=0, steps_per_frame=0, zoom=1.1, latents=start.z, vqgan=network, clips=clip))
    assert_close(film[0], start.images)
    with torch.no_grad():
        network.eval()
        for a, b in zip(film, film[1:], strict=False):
            assert_close(b, picture(network, network.encode(2 * move(a, zoom=1.1) - 1)))
    painted = list(zoom(config, frames=2, steps_per_frame=4, vqgan=network, clips=clip))
    assert (painted[1] - move(painted[0], zoom=1.02)).abs().mean() > 1e-3


def ramps(height=20, width=30):
    """Red grows to the right by 1/60 a pixel, green downwards by 1/40; bicubic sampling nearly keeps them."""
    x = 0.25 + (torch.arange(width) + 0.5) / width / 2
    y = 0.25 + (torch.arange(height) + 0.5) / height / 2
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width), torch.zeros(height, width)])[None]


def test_move_is_one_exact_affine_map_of_a_picture_of_any_shape():
    x = ramps()
    assert_close(move(x), x)
    inner = (slice(None), slice(None), slice(7, 13), slice(11, 19))
    large = move(x, zoom=2.0)
    assert_close(large[inner][:, :2] - 0.5, (x[inner][:, :2] - 0.5) / 2, atol=2e-3, rtol=0)
    right = move(x, pan=(0.1, 0.0))  # three pixels
    assert_close(right[:, :, :, 3:24], x[:, :, :, 6:27])
    down = move(x, pan=(0.0, 0.1))
    assert_close(down[:, :, 3:14], x[:, :, 5:16])
    turned = move(x, rotate=90)  # clockwise, in pixels: what was left is now above
    assert_close((turned[0, 0, 8:12, 15] - 0.5) * 60, torch.tensor([-1.5, -0.5, 0.5, 1.5]), atol=1e-4, rtol=0)
    spot = torch.zeros(1, 3, 20, 30)
    spot[..., 10, 22] = 1
    assert move(spot, rotate=90)[0, 0].argmax() == 17 * 30 + 14


def test_what_lies_outside_is_the_edge_drawn_out_and_never_the_other_side():
    x = torch.zeros(1, 3, 16, 16)
    x[..., 8:] = 1  # the right half is white
    moved = move(x, pan=(0.25, 0.0))
    assert moved[..., 5:].min() > 0.99 and moved[..., :3].max() < 0.01
    assert move(torch.ones(1, 3, 8, 8), zoom=0.5, rotate=20).min() > 0.999
    assert len(move(torch.rand(1, 3, 64, 64), rotate=1e-3).unique()) > 2000  # floats, not 256 levels


def test_bad_input_is_refused_at_the_call(vqgan, clip, keys):
    config, n = GuidanceConfig("red"), {"vqgan": vqgan, "clips": clip}
    for call, error, message in (
            (lambda: interpolate_latents(vqgan, keys, mode="slurp"), UnknownName, "did you mean slerp"),
            (lambda: interpolate_latents(vqgan, keys, ease="smoth"), UnknownName, "smooth"),
            (lambda: interpolate_latents(vqgan, keys[:1]), BadParameter, "N of at least 2"),
            (lambda: interpolate_latents(vqgan, keys[:, :3]), BadParameter, "got \\(3, 3, 4, 4\\)"),
            (lambda: interpolate_latents(vqgan, keys, frames_between=-1), BadParameter, "frames_between"),
            (lambda: interpolate_latents(vqgan, keys, extrapolate=-0.1), BadParameter, "extrapolate"),
            (lambda: interpolate_prompts(config, ["red"], **n), BadParameter, "at least two"),
            (lambda: interpolate_prompts(config, "red | blue", **n), BadParameter, "list of at least two"),
            (lambda: interpolate_prompts(config, ["red", "blue"], frames=0, **n), BadParameter, "frames"),
            (lambda: interpolate_prompts(config, ["red", "blue:0"], **n), BadParameter, "no prompt pulls"),
            (lambda: zoom(config, frames=0, **n), BadParameter, "frames"),
            (lambda: zoom(config, zoom=0.0, **n), BadParameter, "zoom above 0"),
            (lambda: zoom(config, pan=(0.1,), **n), BadParameter, "pan"),
            (lambda: zoom(config, steps_per_frame=-1, **n), BadParameter, "steps_per_frame")):
        with pytest.raises(error, match=message):
            call()

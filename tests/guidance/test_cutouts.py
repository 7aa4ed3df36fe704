import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from t2ilib.errors import BadParameter, UnknownName
from t2ilib.guidance.augment import Augmentations, resolve_augmentations
from t2ilib.guidance.colours import border_colour, colour_matrices
from t2ilib.guidance.cutouts import apply_cutouts, draw_cutouts, whole_picture
from t2ilib.guidance.geometry import perspective_matrix, window_sizes
from t2ilib.guidance.warping import warp

spec = importlib.util.spec_from_file_location("plain", Path(__file__).with_name("plain.py"))
plain = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plain)

EVERYTHING = {"flip": 0.5, "affine": 1.0, "degrees": 25, "shear": 8, "translate": 0.1, "scale": (0.7, 1.6),
              "perspective": 0.7, "distortion": 0.4, "jitter": 0.8, "brightness": 0.2, "contrast": 0.3,
              "saturation": 0.3, "hue": 0.1, "recolour": 0.5, "erase": 0.5}


def streams(*seeds):
    return [torch.Generator().manual_seed(s) for s in seeds]


def picture(height=32, width=48, seed=0, dtype=torch.float64):
    """A coloured disc on a plain background."""
    g = torch.Generator().manual_seed(seed)
    back, front = torch.rand(2, 3, 1, 1, generator=g, dtype=dtype)
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    texture = 0.2 * torch.rand(3, height, width, generator=g, dtype=dtype)
    return torch.where(x**2 + y**2 < 0.5, (front + texture).clamp(0, 1), back)


@pytest.mark.parametrize(("side", "cut_pow", "mean"), [(512, 0.5, 415), (512, 1, 367), (512, 2, 320), (256, 0.5, 245),
                                                       (256, 1, 239), (256, 2, 234)])
def test_mean_window_size_follows_cut_pow(side, cut_pow, mean):
    u = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    sizes = window_sizes(u, (side, 2 * side), 224, cut_pow=cut_pow)
    assert sizes.mean().item() == pytest.approx(mean, abs=1.0)
    assert sizes.min() >= 224 and sizes.max() <= side


def test_window_limits():
    u = torch.tensor([0.0, 0.9999999], dtype=torch.float64)
    assert window_sizes(u, (64, 80), 224).tolist() == [64, 64]  # smaller than CLIP's input: the shorter side
    assert window_sizes(u, (64, 80), 64, min_cut=0.5, max_cut=1.25).tolist() == [32, 79]


@pytest.mark.parametrize("max_cut", [1.0, 1.5])
def test_plain_windows_are_square_and_stay_inside_where_they_fit(max_cut):
    height, width = 40, 64
    p = draw_cutouts(streams(0), 4000, (height, width), cut_size=16, max_cut=max_cut)
    corners = torch.tensor([[-1.0, -1, 1], [1, 1, 1]], dtype=torch.float64).T
    x, y, _ = (p.matrix[0] @ corners).unbind(1)
    x, y = (x + 1) * width / 2, (y + 1) * height / 2
    w, h = x[:, 1] - x[:, 0], y[:, 1] - y[:, 0]
    assert_close(w, h)  # aspect preserved
    assert_close(x, x.round(), rtol=0, atol=1e-9)
    fits = w <= height
    assert fits.any() and (y[fits] >= -1e-9).all() and (y[fits] <= height + 1e-9).all()
    assert (x[w <= width] >= -1e-9).all() and (x[w <= width] <= width + 1e-9).all()
    assert x[:, 0].min() < 1e-9 and x[:, 1].max() > width - 1e-9  # both edges are reached
    large = h > height
    assert large.any() == (max_cut > 1)
    assert (y[large][:, 0] <= 1e-9).all() and (y[large][:, 1] >= height - 1e-9).all()  # the picture is inside


def test_perspective_moves_the_corners_as_drawn():
    u = {f"corner{i}": torch.rand(50, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
         for i in range(8)} | {"perspective": torch.zeros(50, dtype=torch.float64)}
    m = perspective_matrix(u, Augmentations(perspective=1, distortion=0.6))
    for k, (x, y) in enumerate([(-1, -1), (1, -1), (1, 1), (-1, 1)]):
        p = m @ torch.tensor([x, y, 1.0], dtype=torch.float64)
        assert_close(p[:, 0] / p[:, 2], x + 0.3 * (2 * u[f"corner{2 * k}"] - 1))
        assert_close(p[:, 1] / p[:, 2], y + 0.3 * (2 * u[f"corner{2 * k + 1}"] - 1))


@pytest.mark.parametrize("fill", ["background", "random", "white", "edge"])
@pytest.mark.parametrize("changes", [{}, {"perspective": 0.0}])
def test_batched_cutouts_equal_a_plain_loop(fill, changes):
    images = torch.stack([picture(seed=1), picture(seed=2)])
    a = Augmentations(**(EVERYTHING | changes), fill=fill)
    p = draw_cutouts(streams(3, 4), 6, (32, 48), cut_size=12, min_cut=0.4, max_cut=1.6, noise=0.2, augmentations=a)
    assert (p.recolour > 0).any() and (p.erase[..., 2] > 0).any()
    images.requires_grad_()
    batched = apply_cutouts(images, p, 12, clamp=False)
    loop = torch.stack([torch.stack([plain.one_cutout(images[b], p, b, i, 12) for i in range(6)]) for b in range(2)])
    assert_close(batched, loop, rtol=1e-6, atol=1e-6)
    weights = torch.randn(batched.shape, generator=streams(9)[0], dtype=torch.float64)
    grads = [torch.autograd.grad((f * weights).sum(), images)[0] for f in (batched, loop)]
    assert_close(grads[0], grads[1], rtol=1e-6, atol=1e-6)


def test_a_picture_has_the_same_cutouts_in_any_batch():
    a = Augmentations(**EVERYTHING)
    images = torch.stack([picture(seed=s, dtype=torch.float32) for s in range(3)])
    p = draw_cutouts(streams(5, 6, 7), 4, (32, 48), cut_size=12, noise=0.1, augmentations=a)
    alone = draw_cutouts(streams(6), 4, (32, 48), cut_size=12, noise=0.1, augmentations=a)
    assert_close(p.matrix[1:2], alone.matrix, rtol=0, atol=0)
    assert_close(apply_cutouts(images, p, 12)[1:2], apply_cutouts(images[1:2], alone, 12))
    shared = alone.expand(3)
    assert_close(apply_cutouts(images, shared, 12)[1:2], apply_cutouts(images[1:2], alone, 12))
    with pytest.raises(BadParameter, match="are for 3 pictures, got 1"):
        apply_cutouts(images[:1], p, 12)


def test_identity_returns_the_picture_and_whole_picture_keeps_the_aspect():
    image = picture(32, 32)[None]
    assert_close(apply_cutouts(image, whole_picture(1, (32, 32)), 32)[:, 0], image)
    wide = picture(16, 32)[None]
    seen = apply_cutouts(wide, whole_picture(1, (16, 32)), 32)[0, 0]
    assert_close(seen[:, 8:24], wide[0])
    assert_close(seen[:, :8], border_colour(wide)[0][0][:, None, None].expand(3, 8, 32))


def test_minified_cutouts_do_not_alias_and_use_every_pixel():
    stripes = (torch.arange(64) % 2).double().expand(1, 3, 64, 64).clone().requires_grad_()
    half = apply_cutouts(stripes, whole_picture(1, (64, 64)), 16, clamp=False)
    assert_close(half[..., 2:-2, 2:-2], torch.full_like(half[..., 2:-2, 2:-2], 0.5), rtol=0, atol=1e-9)
    half.sum().backward()
    assert (stripes.grad > 0).all()


def test_warp_with_a_tiny_perspective_equals_the_affine_path():
    image = picture()[None].double()
    p = draw_cutouts(streams(0), 5, (32, 48), cut_size=12, min_cut=0.4, max_cut=1.5,
                     augmentations=Augmentations(affine=1, degrees=20, scale=(0.8, 1.4)))
    bent = p.matrix.clone()
    bent[..., 2, 0] = 1e-12
    for one, other in zip(warp(image, p.matrix, 12), warp(image, bent, 12), strict=True):
        assert_close(one, other, rtol=0, atol=1e-8)


def test_noise_is_scaled_once_for_each_cutout_and_clamping_is_a_choice():
    grey = torch.full((1, 3, 16, 16), 0.98)
    p = draw_cutouts(streams(0), 3000, (16, 16), cut_size=16, noise=0.1)
    assert 0 <= p.noise.min() and p.noise.max() <= 0.1 and p.noise.mean().item() == pytest.approx(0.05, abs=0.002)
    some = draw_cutouts(streams(0), 60, (16, 16), cut_size=16, noise=0.1)
    noise = apply_cutouts(grey, some, 16, clamp=False)[0] - 0.98
    assert_close(noise.flatten(1).std(1).double(), some.noise[0], rtol=0.1, atol=1e-4)
    assert abs(noise.mean()) < 0.002 and (noise + 0.98).max() > 1
    clamped = apply_cutouts(grey, some, 16)
    assert clamped.max() <= 1
    assert_close(clamped[0], (noise + 0.98).clamp(0, 1))
    silent = draw_cutouts(streams(0), 2, (16, 16), cut_size=16)
    assert_close(apply_cutouts(grey, silent, 16), grey.expand(2, 3, 16, 16)[None])


def test_colour_matrices_change_what_they_are_named_for():
    g = torch.Generator().manual_seed(0)
    x, one, zero = torch.rand(3, 500, generator=g, dtype=torch.float64), *torch.tensor([1.0, 0.0]).double()
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)

    def change(brightness=one, contrast=one, saturation=one, hue=zero):
        m, gain = colour_matrices(brightness, contrast, saturation, hue)
        return m @ x + gain * (luma @ x).mean()

    assert_close(change(), x)
    assert_close(change(brightness=one * 1.3), 1.3 * x)
    mean = (luma @ x).mean()
    assert_close(change(contrast=one * 0.4), mean + 0.4 * (x - mean))
    assert_close(change(saturation=zero), (luma @ x).expand(3, -1))
    turned = change(hue=one * 0.2)
    assert_close(luma @ turned, luma @ x)
    assert (turned - x).abs().max() > 0.1
    for _ in range(4):  # five fifths of a turn are none
        m, _ = colour_matrices(one, one, one, one * 0.2)
        turned = m @ turned
    assert_close(turned, x)


def test_background_is_recoloured_only_where_it_is_plain():
    disc = picture(dtype=torch.float32)
    noise = torch.rand(3, 32, 48, generator=streams(3)[0])
    assert border_colour(torch.stack([disc, noise]))[1].tolist() == [True, False]
    images = torch.stack([disc, noise]).requires_grad_()
    p = draw_cutouts(streams(0, 1), 3, (32, 48), cut_size=32, augmentations=Augmentations(recolour=1.0))
    out = apply_cutouts(images, p, 32, clamp=False)
    assert_close(out[0, :, :, 0, 0], p.background[0].float())
    without = apply_cutouts(images, draw_cutouts(streams(0, 1), 3, (32, 48), cut_size=32), 32, clamp=False)
    centre = (slice(None), slice(None), 14, 14)
    assert_close(out[0][centre], without[0][centre])  # the object keeps its colour
    assert_close(out[1], without[1])
    assert_close(*(torch.autograd.grad(f.sum(), images)[0] for f in (out, without)))  # as if nothing had been shifted


def test_augmentation_sets():
    assert resolve_augmentations("none") == Augmentations()
    assert resolve_augmentations({"base": "plain", "flip": 0.5}).recolour == 0.5
    with pytest.raises(UnknownName, match="plain"):
        resolve_augmentations("plian")
    with pytest.raises(UnknownName, match="degrees"):
        resolve_augmentations({"degreees": 3})
    for bad in ({"flip": 2}, {"degrees": -1}, {"scale": (2, 1)}, {"distortion": 1}, {"erase_area": (0.1, 2)}):
        with pytest.raises(BadParameter):
            resolve_augmentations(bad)
    with pytest.raises(UnknownName, match="white"):
        resolve_augmentations({"fill": "whit"})


def test_cutouts_of_one_pixel_high_pictures():
    p = draw_cutouts(streams(0), 3, (1, 9), cut_size=4, augmentations=Augmentations(**EVERYTHING), noise=0.1)
    assert apply_cutouts(torch.rand(1, 3, 1, 9), p, 4).isfinite().all()


def test_gradient_of_a_saturated_cutout_points_back_inside():
    x = torch.full((1, 3, 8, 8), 1.0, requires_grad=True)
    p = draw_cutouts(streams(0), 2, (8, 8), cut_size=8,
                     augmentations=Augmentations(jitter=1.0, brightness=0.5, fill="edge"))
    out = apply_cutouts(x, p, 8)
    (F.relu(out) ** 2).sum().backward()  # wants darker
    assert (x.grad > 0).all()

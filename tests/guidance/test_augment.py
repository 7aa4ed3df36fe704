import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from t2ilib.errors import BadParameter, UnknownName
from t2ilib.guidance.augment import AUGMENTATIONS, CODES, PUBLISHED, Augmentations, resolve_augmentations
from t2ilib.guidance.colours import sharpen
from t2ilib.guidance.cutouts import FIRST_COLUMNS, apply_cutouts, draw_cutouts
from t2ilib.guidance.geometry import ELASTIC, PLATE, bend_basis
from t2ilib.guidance.warping import warp
from t2ilib.kernels import use_backend

POINTS = ELASTIC**2 + len(PLATE)


def streams(*seeds):
    return [torch.Generator().manual_seed(s) for s in seeds]


def draw(num, names, seeds=(0,), size=(40, 40), **options):
    return draw_cutouts(streams(*seeds), num, size, cut_size=20, augmentations=resolve_augmentations(names), **options)


def test_augmentations_by_code_by_name_and_as_a_list_are_the_same():
    latest = resolve_augmentations("Af Pe Ji Er")
    assert (latest.affine, latest.degrees, latest.translate, latest.shear) == (0.7, 15, 0.1, 5)
    assert (latest.perspective, latest.distortion) == (0.7, 0.7)
    assert (latest.jitter, latest.brightness, latest.contrast, latest.saturation, latest.hue) == (0.7, *[0.1] * 4)
    assert (latest.erase, latest.erase_area, latest.erase_together) == (0.7, (0.1, 0.4), True)
    for same in ("Af,Pe, Ji  Er", "Er Ji Pe Af", ["Af", "Pe", "Ji", "Er"], ("affine", "perspective", "jitter", "erase"),
                 "affine perspective Ji,erase"):
        assert resolve_augmentations(same) == latest
    assert set(CODES.values()) | {"flip"} == set(PUBLISHED) and len(CODES) == 11
    assert resolve_augmentations("plain, Sh") == resolve_augmentations({"base": "plain", "sharpness": 0.5})
    assert resolve_augmentations({"base": "Af Pe", "fill": "black"}).degrees == 15
    assert resolve_augmentations("Cr Re").crop_area == (0.1, 1.0)
    assert resolve_augmentations("Re Cr").crop_ratio == (1, 1)
    assert resolve_augmentations("plain") is AUGMENTATIONS["plain"] and resolve_augmentations(()) == Augmentations()


@pytest.mark.parametrize(("wrong", "near"), [("Af Pee", "Pe"), ("afine", "affine"), (["elastik"], "elastic"),
                                             ("af", "Af"), ("thinplate", "thin_plate"), ("Af plain", "plain")])
def test_misspelt_augmentations_are_answered_with_the_nearest(wrong, near):
    with pytest.raises(UnknownName, match=f"did you mean.* ?{near}"):
        resolve_augmentations(wrong)


def test_new_strengths_are_checked():
    for bad in ({"crop": 1.1}, {"rotate_degrees": -1}, {"crop_area": (0.5, 1.5)}, {"crop_ratio": (0, 1)},
                {"elastic": -1}, {"sharpness_factor": (-0.1, 1)}, {"erase_aspect": 0.5}, {"gaussian_std": -1}):
        with pytest.raises(BadParameter, match=next(iter(bad))):
            resolve_augmentations(bad)
    assert resolve_augmentations({"sharpness_factor": [0, 2]}).sharpness_factor == (0, 2)
    with pytest.raises(BadParameter, match="list of names"):
        resolve_augmentations([1, 2])


def test_existing_configurations_consume_their_stream_as_before():
    g, same = streams(3, 3)
    draw_cutouts([g], 7, (32, 48), cut_size=16, noise=0.1, augmentations=AUGMENTATIONS["plain"])
    assert len(FIRST_COLUMNS) == 34
    torch.rand(7, 34, generator=same, dtype=torch.float64)
    torch.randint(2**62, (), generator=same)
    assert torch.equal(g.get_state(), same.get_state())


def test_what_came_later_leaves_what_was_there_as_it_is():
    base = draw(6, "plain", noise=0.1)
    more = draw(6, "plain Ro Re Sh Gn Et Ts", noise=0.1)
    for name in ("colour", "gain", "recolour", "background", "erase"):
        assert torch.equal(getattr(base, name), getattr(more, name))
    assert base.noise_seed == more.noise_seed
    assert base.sharpness is None and base.bend is None and more.sharpness.shape == (1, 6)
    assert more.bend.shape == (1, 6, 2, POINTS)
    assert torch.equal(draw(6, "plain Ro Sh").matrix, draw(6, "plain Ro Et Ts").matrix)  # nor does one disturb another


def test_a_window_inside_the_window_keeps_its_area_and_ratio():
    p = draw(3000, {"base": "Re", "crop": 0.6, "crop_area": (0.2, 0.6)}, min_cut=1.0)
    w, h = p.matrix[0, :, 0, 0], p.matrix[0, :, 1, 1]
    on = w * h < 1
    assert on.double().mean().item() == pytest.approx(0.6, abs=0.03)
    area, ratio = (w * h)[on], (w / h)[on]
    assert 0.2 - 1e-9 <= area.min() < 0.22 and 0.57 < area.max() <= 0.6 + 1e-9
    assert 0.75 - 1e-9 <= ratio.min() < 0.77 and 1.3 < ratio.max() <= 4 / 3 + 1e-9
    for centre, side in ((p.matrix[0, :, 0, 2], w), (p.matrix[0, :, 1, 2], h)):
        assert (centre.abs() + side <= 1 + 1e-9).all() and (centre.abs() + side)[on].max() > 0.99
    square = draw(500, "Cr", min_cut=1.0).matrix[0]
    assert_close(square[:, 0, 0], square[:, 1, 1])
    assert 0.5 <= square[:, 0, 0].min() < 0.55


def test_rotation_turns_about_the_middle_of_the_window():
    p = draw(400, "Ro", size=(40, 60), min_cut=0.5, max_cut=0.9)
    plain = draw(400, "none", size=(40, 60), min_cut=0.5, max_cut=0.9)
    assert torch.equal(p.matrix[..., 2], plain.matrix[..., 2])
    turn = torch.linalg.inv(plain.matrix[0]) @ p.matrix[0]
    assert_close(turn @ turn.mT, torch.eye(3, dtype=turn.dtype).expand_as(turn))
    angle = torch.atan2(turn[:, 1, 0], turn[:, 0, 0]) * 180 / math.pi
    assert 14 < angle.abs().max() <= 15 and (angle == 0).double().mean().item() == pytest.approx(0.3, abs=0.07)


def test_sharpness_blends_with_a_three_by_three_smoothing():
    x = torch.rand(1, 4, 3, 9, 9, generator=streams(0)[0], dtype=torch.float64)
    kernel = torch.ones(3, 1, 3, 3, dtype=torch.float64)
    kernel[:, :, 1, 1] = 5
    smooth = x.clone()
    smooth[..., 1:-1, 1:-1] = F.conv2d(x[0], kernel / 13, groups=3)
    factor = torch.tensor([[0.0, 0.3, 1.0, 1.8]], dtype=torch.float64)
    expected = smooth + factor[..., None, None, None] * (x - smooth)
    assert_close(sharpen(x, factor), expected)
    assert torch.equal(sharpen(x[..., :2, :2], factor), x[..., :2, :2])
    p = draw(1000, "Sh")
    on = p.sharpness[0] != 1
    assert on.double().mean().item() == pytest.approx(0.5, abs=0.05) and 0 <= p.sharpness[0][on].max() <= 0.3
    image = torch.rand(1, 3, 40, 40, generator=streams(1)[0])
    p = draw(4, "Sh")
    seen = apply_cutouts(image, draw(4, "none"), 20)
    assert_close(apply_cutouts(image, p, 20), sharpen(seen, p.sharpness.float()).clamp(0, 1))


def test_added_noise_joins_the_noise_of_every_cutout():
    before, after = draw(2000, "none", noise=0.1).noise, draw(2000, "Gn", noise=0.1).noise
    on = after != before
    assert on.double().mean().item() == pytest.approx(0.5, abs=0.04)
    assert_close(after[on].square(), before[on].square() + 1)


def test_one_box_for_all_cutouts_of_a_picture():
    p = draw(5, {"base": "Er", "erase": 1.0}, seeds=range(300))
    assert torch.equal(p.erase, p.erase[:, :1].expand_as(p.erase))
    w, h = (p.erase[:, 0, 2:] - p.erase[:, 0, :2]).unbind(-1)
    free = (w < 1) & (h < 1)
    assert 0.1 - 1e-9 <= (w * h)[free].min() < 0.12 and 0.35 < (w * h).max() <= 0.4 + 1e-9
    assert (w / h).max() > 2.2 and (w / h)[free].max() <= 1 / 0.3 + 1e-9
    some = draw(5, "Er", seeds=range(300)).erase[..., 2]
    assert ((some > 0) == (some[:, :1] > 0)).all()
    assert (some[:, 0] > 0).double().mean().item() == pytest.approx(0.7, abs=0.08)


def test_bend_basis_moves_smoothly_and_a_thin_plate_bends_least():
    basis = bend_basis(31)  # an odd size has a pixel in the middle
    assert basis.shape == (POINTS, 31 * 31)
    assert_close(basis[:16].sum(0), torch.ones(961, dtype=torch.float64))
    plate = basis[16:].unflatten(1, (31, 31))
    assert_close(plate[:, 15, 15], torch.tensor([0.0, 0, 0, 0, 1]).double())
    assert plate[0, 0, 0] > 0.9 and plate[3, -1, -1] > 0.9 and plate[1, -1, 0] > 0.9  # corners, in the order of PLATE
    x = (torch.arange(31, dtype=torch.float64) * 2 + 1) / 31 - 1
    shifts = torch.tensor([0.3 * px - 0.2 * py for px, py in PLATE], dtype=torch.float64)
    linear = torch.einsum("k,kyx->yx", shifts, plate)
    assert_close(linear, 0.3 * x[None, :] - 0.2 * x[:, None])  # a plane needs no bending


def test_bending_is_added_to_the_sampling_positions():
    image = torch.rand(1, 3, 24, 36, generator=streams(0)[0], dtype=torch.float64)
    p = draw(3, {"base": "Af", "affine": 1.0}, size=(24, 36))
    bend = torch.zeros(1, 3, 2, POINTS, dtype=torch.float64)
    bend[:, :, 0, :16], bend[:, :, 1, :16] = 0.2, -0.1  # all control points alike: the window moves
    moved = torch.eye(3, dtype=torch.float64)
    moved[0, 2], moved[1, 2] = 0.2, -0.1
    for one, other in zip(warp(image, p.matrix, 12, bend=bend), warp(image, p.matrix @ moved, 12), strict=True):
        assert_close(one, other, rtol=0, atol=1e-8)
    p = draw(3, {"elastic": 1.0, "elastic_strength": 0.3}, size=(24, 36), min_cut=0.5, max_cut=0.5)  # nothing shrinks
    axis = (torch.arange(12, dtype=torch.float64) * 2 + 1) / 12 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    for i in range(3):
        dx, dy = (p.bend[0, i] @ bend_basis(12)).view(2, 12, 12)
        m = p.matrix[0, i]
        grid = torch.stack([m[0, 0] * (x + dx) + m[0, 2], m[1, 1] * (y + dy) + m[1, 2]], dim=-1)
        expected = F.grid_sample(image, grid[None], padding_mode="border", align_corners=False)[0]
        assert_close(warp(image, p.matrix, 12, bend=p.bend)[0][0, i], expected)


def test_bent_and_tilted_views_are_warped_whatever_backend_is_asked_for():
    image = torch.rand(1, 3, 24, 36, generator=streams(0)[0])
    for changes in ({"elastic": 1.0}, {"perspective": 1.0, "distortion": 0.4}, {"base": "Af"}):
        p = draw(3, changes, size=(24, 36)).to("cpu", torch.float32)
        plain = warp(image, p.matrix, 12, bend=p.bend)
        with use_backend("triton"):
            for one, other in zip(warp(image, p.matrix, 12, bend=p.bend), plain, strict=True):
                assert_close(one, other)


def test_elastic_and_thin_plate_draws():
    p = draw(200, {"elastic": 0.7, "thin_plate": 1.0}, seeds=(0, 1))
    elastic, plate = p.bend.split([16, 5], dim=-1)
    assert torch.equal(plate, plate[:, :1].expand_as(plate)) and not torch.equal(plate[0], plate[1])
    assert 0.6 < plate.abs().max() <= 0.8 and 0.017 < elastic.abs().max() <= 0.018
    on = elastic.flatten(2).abs().amax(-1) > 0
    assert on.double().mean().item() == pytest.approx(0.7, abs=0.07)
    blur = torch.exp(-(torch.arange(63) - 31.0) ** 2 / 2 / 32**2)  # published: uniform noise, blurred, at 224 px
    rms = (1 / 3) ** 0.5 * float((blur / blur.sum()).square().sum())
    shifts = elastic[on] @ bend_basis(40)[:16]
    assert shifts.square().mean().sqrt().item() == pytest.approx(rms, rel=0.05)

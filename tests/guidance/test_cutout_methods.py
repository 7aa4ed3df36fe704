import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from t2ilib.errors import BadParameter, UnknownName
from t2ilib.guidance.augment import AUGMENTATIONS, resolve_augmentations
from t2ilib.guidance.cutout_methods import CUTOUT_METHODS, CutoutMethod, draw_method, resolve_method
from t2ilib.guidance.cutout_parameters import CutoutParameters
from t2ilib.guidance.cutouts import apply_cutouts, draw_cutouts
from t2ilib.guidance.warping import pooled
from t2ilib.kernels.cutouts import centre_jacobian

SIZE = (40, 64)
EVERYTHING = {"base": "plain, Ro Re Sh Gn Et Ts", "flip": 0.5, "recolour": 0.5}


def streams(*seeds):
    return [torch.Generator().manual_seed(s) for s in seeds]


def pictures(count=2, size=SIZE, dtype=torch.float32):
    x = F.interpolate(torch.rand(count, 3, 5, 8, generator=streams(0)[0], dtype=dtype), size, mode="bilinear")
    x[:, :, :2], x[:, :, -2:], x[..., :2], x[..., -2:] = 0.9, 0.9, 0.9, 0.9  # a plain border, to be recoloured
    return x


def second_picture(p):
    return dataclasses.replace(p, **{k: v[1:] for k, v in p.tensors().items()}, noise_seed=p.noise_seed[1:])


def equal(one, other):
    for f in dataclasses.fields(CutoutParameters):
        a, b = getattr(one, f.name), getattr(other, f.name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, f.name


def test_plain_is_what_draw_cutouts_draws():
    equal(draw_method("plain", streams(1, 2), 5, SIZE, cut_size=16),
          draw_cutouts(streams(1, 2), 5, SIZE, cut_size=16, noise=0.1, augmentations=AUGMENTATIONS["plain"]))


@pytest.mark.parametrize("name", CUTOUT_METHODS)
def test_no_method_squashes_or_depends_on_the_rest_of_a_batch(name):
    p = draw_method(name, streams(1, 2), 9, SIZE, cut_size=16, augmentations="none")
    jacobian = centre_jacobian(p.matrix, SIZE, 16)
    assert_close(jacobian, jacobian[..., :1, :1] * torch.eye(2, dtype=jacobian.dtype))
    both, alone = (draw_method(name, streams(*seeds), 9, SIZE, cut_size=16) for seeds in ((1, 2), (2,)))
    equal(second_picture(both), alone)
    x = pictures()
    assert_close(apply_cutouts(x, both, 16)[1:], apply_cutouts(x[1:], alone, 16))
    x.requires_grad_()
    apply_cutouts(x, draw_method(name, streams(1, 2), 40, SIZE, cut_size=16), 16).square().sum().backward()
    assert x.grad.isfinite().all() and (x.grad.abs().sum(1) > 0).double().mean() > 0.9


def test_original_crops_between_the_input_and_the_short_side_without_noise():
    p = draw_method("original", streams(0), 500, SIZE, cut_size=16)
    sides = p.matrix[0, :, 1, 1] * SIZE[0]
    assert 16 <= sides.min() < 17.5 and 38.5 < sides.max() <= 40
    assert not p.noise.any() and p.sharpness is None and not p.erase.any() and not p.recolour.any()
    updated = draw_method("updated", streams(0), 500, SIZE, cut_size=16)
    assert 0.09 < updated.noise.max() <= 0.1 and (updated.sharpness != 1).double().mean().item() == pytest.approx(
        0.4, abs=0.06)


def test_pooling_shrinks_at_the_aspect_once_for_all_cutouts(monkeypatch):
    x = torch.rand(2, 3, 8, 16, generator=streams(0)[0], dtype=torch.float64)
    blocks = x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)
    assert_close(pooled(x, 8), (blocks.mean(-1) + blocks.amax(-1)) / 2)
    assert pooled(x, 16) is x and pooled(x, 20) is x and pooled(x[:, :, :1], 4).shape == (2, 3, 1, 4)
    calls = []
    monkeypatch.setattr("t2ilib.guidance.cutouts.pooled", lambda *a: calls.append(a) or pooled(*a))
    square = torch.rand(1, 3, 32, 32, generator=streams(1)[0], dtype=torch.float64)
    p = draw_method("latest", streams(0), 4, (32, 32), cut_size=16, augmentations="none", noise=0.0)
    seen = apply_cutouts(square, p, 16)
    assert len(calls) == 1
    assert_close(seen, pooled(square, 16)[:, None].expand_as(seen))


@pytest.mark.parametrize("name", ["pooled", "latest"])
def test_pooled_windows_show_the_whole_picture_on_a_plain_margin(name):
    x = torch.zeros(1, 3, 32, 64)
    p = draw_method(name, streams(0), 30, (32, 64), cut_size=32, augmentations={"fill": "white"}, noise=0.0)
    seen = apply_cutouts(x, p, 32)[0, :, 0]
    assert_close((1 - seen).sum((1, 2)), torch.full((30,), 16.0 * 32), rtol=1e-3, atol=0)  # all of it
    tops = {int(s[:, 5].argmin()) for s in seen}
    assert len(tops) > 5 and min(tops) == 0 and max(tops) == 16  # anywhere along the free side


def test_wide_zoom_is_a_mixture_on_random_greys():
    p = draw_method("wide_zoom", streams(0, 1), 10, SIZE, cut_size=16, noise=0.0)
    assert p.matrix.shape == (2, 10, 3, 3) and not p.noise.any() and p.fill == "random_grey"
    height = (p.matrix[..., 1, :] / p.matrix[..., 2:, 2])[..., 1].abs() * SIZE[0]
    assert (height[:, :6] < 50).all() and (height[:, 6:] > 60).all()
    assert torch.equal(p.background[..., :1].expand(2, 10, 3), p.background)
    assert p.background[..., 0].unique().numel() == 20
    straight = draw_method("wide_zoom", streams(0), 10, SIZE, cut_size=16, noise=0.0, augmentations={"fill": "grey"})
    seen = apply_cutouts(torch.ones(1, 3, *SIZE), straight, 16)[0]
    assert (seen[:6] == 1).all() and (seen[6:].flatten(1).amin(1) == 0.5).all()
    sizes = [len(draw_method("wide_zoom", streams(0), n, SIZE, cut_size=16).matrix[0]) for n in (1, 2, 3, 7)]
    assert sizes == [1, 2, 3, 7]


def test_methods_of_ones_own_and_misspelt_names():
    crops, whole = CutoutMethod(min_cut=0.5, noise=0.0), CutoutMethod(whole=True, augmentations={"flip": 1.0})
    p = draw_method(CutoutMethod(parts=((1, crops), (3, whole))), streams(0), 8, SIZE, cut_size=16)
    assert (p.matrix[0, :2, 0, 0] > 0).all() and (p.matrix[0, 2:, 0, 0] < 0).all()
    assert not p.noise[0, :2].any() and p.noise[0, 2:].all()
    assert resolve_method("updatedpooling") is CUTOUT_METHODS["pooled"]
    with pytest.raises(UnknownName, match="latest"):
        draw_method("lates", streams(0), 4, SIZE, cut_size=16)
    with pytest.raises(UnknownName, match="did you mean cut_pow"):
        draw_method("wide_zoom", streams(0), 4, SIZE, cut_size=16, cut_powr=1)
    with pytest.raises(UnknownName, match="affine"):
        CutoutMethod(augmentations="afine")
    with pytest.raises(BadParameter, match="agree in fill and pool"):
        draw_method(CutoutMethod(parts=((1, crops), (1, crops.replace(pool=True)))), streams(0), 4, SIZE, cut_size=16)
    with pytest.raises(BadParameter, match="above 0"):
        CutoutMethod(parts=((0, crops),))


def chunks(p, ends):
    return [p.cutouts(a, b) for a, b in zip((0, *ends), (*ends, p.matrix.shape[1]), strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pictures_", [1, 2])
@pytest.mark.parametrize("which", [*CUTOUT_METHODS, "everything", "rarely perspective"])
def test_parts_of_the_cutouts_are_the_same_bits(which, pictures_, dtype):
    options = {"everything": EVERYTHING, "rarely perspective": {"perspective": 0.2, "affine": 0.5, "degrees": 20}}
    g, x = streams(*range(pictures_)), pictures(pictures_, dtype=dtype)
    if which in options:
        p = draw_cutouts(g, 11, SIZE, cut_size=20, noise=0.1, min_cut=0.5, max_cut=1.3,
                         augmentations=resolve_augmentations(options[which]))
    else:
        p = draw_method(which, g, 11, SIZE, cut_size=20)
    at_once = apply_cutouts(x, p, 20)
    for ends in ((1, 2, 5), (4, 8), (10,), tuple(range(1, 11))):
        parts = chunks(p, ends)
        assert torch.equal(torch.cat([apply_cutouts(x, part, 20) for part in parts], dim=1), at_once)
    equal(CutoutParameters.cat(parts), p)
    assert torch.equal(apply_cutouts(x, p.cutouts(2, 9).cutouts(3, 5), 20), at_once[:, 5:7])
    moved = p.to("cpu", dtype).cutouts(3, 6)
    assert torch.equal(apply_cutouts(x, moved, 20), at_once[:, 3:6])
    if pictures_ == 2:
        equal(second_picture(p.cutouts(3, 6)), second_picture(p).cutouts(3, 6))


def test_parts_are_views_that_can_be_shared_and_joined():
    p = draw_cutouts(streams(0), 6, SIZE, cut_size=16, noise=0.1, augmentations=resolve_augmentations(EVERYTHING))
    part = p.cutouts(2, 5)
    assert part.matrix.data_ptr() == p.matrix[:, 2].data_ptr() and part.source is p.matrix and part.start == 2
    x = pictures(3)
    shared = apply_cutouts(x, p.expand(3), 16)
    assert torch.equal(apply_cutouts(x, part.expand(3), 16), shared[:, 2:5])
    plain = draw_cutouts(streams(0), 2, SIZE, cut_size=16)
    joined = CutoutParameters.cat([plain, p])
    assert joined.matrix.shape[1] == joined.sharpness.shape[1] == joined.bend.shape[1] == 8
    assert (joined.sharpness[:, :2] == 1).all() and not joined.bend[:, :2].any() and joined.source is None
    quiet = CutoutParameters.cat([dataclasses.replace(q, noise=q.noise * 0) for q in (plain, p)])
    apart = [apply_cutouts(x[:1], dataclasses.replace(q, noise=q.noise * 0), 16) for q in (plain, p)]
    assert_close(apply_cutouts(x[:1], quiet, 16), torch.cat(apart, dim=1), rtol=0, atol=1e-5)
    for a, b in ((3, 3), (-1, 2), (2, 7)):
        with pytest.raises(BadParameter, match="of 6"):
            p.cutouts(a, b)
    with pytest.raises(BadParameter, match="equally many pictures"):
        CutoutParameters.cat([p, p.expand(2)])
    with pytest.raises(BadParameter, match="joined"):
        CutoutParameters.cat([])


def test_gradients_of_parts_add_up():
    p = draw_cutouts(streams(0, 1), 6, SIZE, cut_size=16, noise=0.1, augmentations=resolve_augmentations(EVERYTHING))
    whole, parts = (pictures(dtype=torch.float64).requires_grad_() for _ in range(2))
    apply_cutouts(whole, p, 16).square().sum().backward()
    for part in chunks(p, (1, 4)):
        apply_cutouts(parts, part, 16).square().sum().backward()
    assert_close(parts.grad, whole.grad)

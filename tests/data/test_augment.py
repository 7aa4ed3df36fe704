import pytest
import torch
import torch.nn.functional as F

from t2ilib.data import CaptionedImages
from t2ilib.data import augment as module
from t2ilib.data.augment import (
    augment,
    augment_exact,
    blur,
    composite,
    erase,
    mirror_chances,
    random_affine,
    random_backgrounds,
)
from t2ilib.errors import BadParameter


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n=8, channels=4, size=16):
    return torch.randint(0, 256, (n, channels, size, size), generator=stream(5), dtype=torch.uint8)


def disc(n, colour=(255, 0, 0), size=32):
    """Discs of one colour on transparent black: interpolation of unpremultiplied colours would draw a dark fringe."""
    axis = torch.linspace(-1, 1, size)
    inside = axis[None] ** 2 + axis[:, None] ** 2 < 0.5
    rgba = torch.cat([torch.tensor(colour, dtype=torch.uint8)[:, None, None] * inside, 255 * inside[None]])
    return rgba.byte().expand(n, 4, size, size)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize(("function", "low"), [(augment, 0.0), (augment_exact, -1.0)])
def test_shape_range_and_repeatability(function, low, channels):
    images = pictures(channels=channels)
    before = images.clone()
    x = function(images, stream())
    assert x.shape == (8, 3, 16, 16) and x.dtype == torch.float32
    assert x.min() >= low and x.max() <= 1 and x.std() > 0.1
    torch.testing.assert_close(function(images, stream()), x, rtol=0, atol=0)
    assert (function(images, stream(1)) - x).abs().mean() > 0.05
    assert torch.equal(images, before)
    same = function(images[:1].expand(8, -1, -1, -1), stream())
    assert len({tuple(row.flatten().tolist()) for row in same}) == 8  # each picture is varied by itself


def test_no_strength_is_the_plain_picture_on_white():
    images = disc(2)
    expected = torch.where(images[:, 3:] > 0, images[:, :3] / 255, 1.0)
    torch.testing.assert_close(augment(images, stream(), strength=0), expected)
    opaque = pictures(channels=3)
    torch.testing.assert_close(augment(opaque, stream(), strength=0), opaque / 255)


def test_weak_augmentation_stays_near_the_picture(monkeypatch):
    monkeypatch.setattr(module, "random_backgrounds", lambda n, size, g, **_: torch.ones(n, 3, size, size))
    images = disc(16)
    plain = augment(images, stream(), strength=0)

    def distance(strength):
        return (augment(images, stream(), strength=strength) - plain).abs().mean((1, 2, 3)).median()

    assert 0 < distance(0.02) < 0.6 * distance(0.3) < 0.6 * distance(1.0)


def test_no_dark_fringe(monkeypatch):
    """Red discs over red ground: wherever an edge were mixed with black, a dark ring would show."""
    red = torch.tensor([0.8, 0.2, 0.2]).view(1, 3, 1, 1)
    monkeypatch.setattr(module, "random_backgrounds", lambda n, size, g, **_: red.expand(n, 3, size, size))
    monkeypatch.setattr(module, "erase", lambda x, g, **_: x)
    x = augment(disc(40, colour=(204, 51, 51)), stream())
    spread = x.amax((2, 3)) - x.amin((2, 3))  # per picture and channel; brightness moves a picture as a whole
    quiet = spread.amax(1) < 1e-3
    assert quiet.float().mean() > 0.25  # those without noise are perfectly even
    assert x.std((2, 3)).max() < 0.08  # the others differ by their noise alone (at most 0.06)


def test_affine_matrices():
    theta = random_affine(500, stream(), degrees=0, scale=(0.5, 0.5), stretch=0, shift=0)
    torch.testing.assert_close(theta[0], torch.tensor([[2.0, 0, 0], [0, 2.0, 0]]))  # half the size: twice as far apart
    theta = random_affine(500, stream(), degrees=0, scale=(1, 1), stretch=0, shift=0.25)
    assert theta[:, :, 2].abs().max() <= 0.5 and theta[:, :, 2].abs().max() > 0.45  # a quarter of a side of length 2
    theta = random_affine(500, stream(), degrees=20, scale=(1, 1), stretch=0, shift=0)[:, :, :2]
    torch.testing.assert_close(theta @ theta.transpose(1, 2), torch.eye(2).expand(500, 2, 2))
    assert torch.acos(theta[:, 0, 0].clamp(max=1)).max() <= torch.deg2rad(torch.tensor(20.01))
    theta = random_affine(500, stream(), degrees=0, scale=(1, 1), stretch=0.2, shift=0)
    aspect = theta[:, 0, 0] / theta[:, 1, 1]
    assert aspect.log().abs().max() <= 0.2001 and aspect.log().abs().max() > 0.18
    torch.testing.assert_close(theta[:, 0, 0] * theta[:, 1, 1], torch.ones(500))


def test_backgrounds():
    ground = random_backgrounds(400, 8, stream(), white=0.4)
    assert ground.shape == (400, 3, 8, 8) and ground.min() >= 0 and ground.max() <= 1
    white = (ground == 1).flatten(1).all(1).float().mean()
    assert 0.3 < white < 0.5
    assert (random_backgrounds(5, 8, stream(), white=1.0) == 1).all()
    assert (random_backgrounds(50, 8, stream(), white=0.0).flatten(2).std(2) > 0).any()


def test_composite_blur_and_erase():
    rgba = torch.tensor([1.0, 0.0, 0.0, 0.25]).view(1, 4, 1, 1).expand(2, 4, 3, 3)
    torch.testing.assert_close(composite(rgba, torch.tensor(1.0))[1, :, 0, 0], torch.tensor([1.0, 0.75, 0.75]))
    x = torch.zeros(2, 3, 9, 9)
    x[:, :, 4, 4] = 1.0
    soft = blur(x, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(soft[0], x[0])
    torch.testing.assert_close(soft[1, 0, 4, 4], torch.tensor(36 / 256))
    torch.testing.assert_close(soft[1].sum(), torch.tensor(3.0))
    even = torch.full((1, 3, 6, 6), 0.3)
    torch.testing.assert_close(blur(even, torch.ones(1)), even)  # borders do not darken
    x = torch.full((200, 3, 20, 20), 0.5)
    changed = (erase(x, stream(), probability=0.5) != x).any(1)
    assert 0.35 < changed.flatten(1).any(1).float().mean() < 0.6
    assert changed.flatten(1).float().mean(1).max() <= 0.2  # at most 0.4 x 0.4 of the picture, and a pixel's width
    assert torch.equal(erase(x, stream(), probability=0.0), x)


def shifted(image, dy, dx):
    """The picture moved by whole pixels: white where nothing is."""
    size = image.shape[-1]
    padded = F.pad(image, (size, size, size, size), value=1.0)
    return padded[..., size + dy:2 * size + dy, size + dx:2 * size + dx]


def test_exact_moves_are_whole_pixels():
    images = pictures(n=30, channels=3, size=12)
    x = (augment_exact(images, stream(), shift=2, mirror=0.0, recolour=0.0, white=1.0) + 1) / 2
    moves = set()
    for i, image in enumerate(images / 255):
        hits = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)
                if torch.allclose(shifted(image, dy, dx), x[i], atol=1e-6)]
        assert len(hits) == 1, i  # one of the 25 moves, without a pixel resampled
        moves.update(hits)
    assert len(moves) > 10
    still = augment_exact(images, stream(), shift=0, mirror=0.0, recolour=0.0, white=1.0)
    torch.testing.assert_close((still + 1) / 2, images / 255)


def test_mirror_for_all_or_each():
    images = pictures(channels=3)

    def mirrored(mirror):
        x = (augment_exact(images, stream(), shift=0, mirror=mirror, recolour=0.0, white=1.0) + 1) / 2
        plain = images / 255
        return [torch.allclose(x[i], plain[i].flip(-1), atol=1e-6) for i in range(8)], [
            torch.allclose(x[i], plain[i], atol=1e-6) for i in range(8)]

    assert mirrored(1.0)[0] == [True] * 8 and mirrored(0.0)[1] == [True] * 8
    each = torch.tensor([1.0, 0, 1, 1, 0, 0, 0, 1])
    assert mirrored(each)[0] == (each == 1).tolist() and mirrored(each)[1] == (each == 0).tolist()
    flipped, same = mirrored(0.5)
    assert any(flipped) and any(same)


def test_recolour_exchanges_whole_channels():
    images = pictures(n=40, channels=3)
    x = (augment_exact(images, stream(), shift=0, mirror=0.0, recolour=1.0, white=1.0) + 1) / 2
    for i, image in enumerate(images / 255):
        for channel in x[i]:
            assert any(torch.allclose(channel, c, atol=1e-6) for c in image)
        assert len({tuple(c.flatten().tolist()) for c in x[i]}) == 3
    assert not torch.allclose(x, images / 255)


def test_exact_fringe_and_exposed_border():
    """Half-transparent pixels keep their colour, and what a move uncovers is background."""
    images = torch.full((20, 4, 8, 8), 255, dtype=torch.uint8)
    images[:, 1:3] = 0  # opaque red
    images[:, 3, :, 3:5] = 128
    x = (augment_exact(images, stream(), shift=3, mirror=0.0, recolour=0.0, white=1.0) + 1) / 2
    torch.testing.assert_close(x[:, 0], torch.ones(20, 8, 8))  # red and white both have full red: no dark pixel
    levels = {round(v, 2) for v in x[:, 1].unique().tolist()}
    assert levels == {0.0, 0.5, 1.0}


def test_wrong_pictures_are_refused():
    for images in (torch.zeros(2, 4, 8, 6, dtype=torch.uint8), torch.zeros(2, 1, 8, 8, dtype=torch.uint8),
                   torch.zeros(4, 8, 8, dtype=torch.uint8)):
        for function in (augment, augment_exact):
            with pytest.raises(BadParameter, match="square"):
                function(images, stream())
    with pytest.raises(BadParameter, match="uint8"):
        augment(torch.rand(2, 3, 8, 8), stream())
    with pytest.raises(BadParameter, match=r"strength must be in \[0, 2\]"):
        augment(pictures(), stream(), strength=-1)


def test_only_drawings_whose_left_and_right_mean_the_same_are_mirrored():
    groups = ["Animals & Nature", "People & Body", "Travel & Places", "Travel & Places"]
    subgroups = ["animal-mammal", "hand-single-finger", "time", "sky & weather"]
    data = CaptionedImages(pictures(4), ["a"] * 4, {"group": groups, "subgroup": subgroups})
    assert mirror_chances(data).tolist() == [0.5, 0, 0, 0.5]
    assert mirror_chances(CaptionedImages(pictures(4), ["a"] * 4)).tolist() == [0, 0, 0, 0]

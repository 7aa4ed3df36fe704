import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from t2ilib.errors import BadParameter, MissingAsset
from t2ilib.media import box_pixels, crop_box, fit_picture, load_mask, load_picture, stack_pictures, to_pil


def test_a_picture_is_read_on_white_and_turned_upright(tmp_path):
    Image.new("RGBA", (6, 4), (255, 0, 0, 128)).save(tmp_path / "a.png")
    picture = load_picture(tmp_path / "a.png")
    assert picture.shape == (3, 4, 6)
    assert_close(picture[:, 0, 0], torch.tensor([1, 127 / 255, 127 / 255]))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.new("L", (6, 4)).save(tmp_path / "b.jpg", exif=exif)
    assert load_picture(tmp_path / "b.jpg").shape == (3, 6, 4)
    (tmp_path / "c.png").write_bytes(b"no picture")
    with pytest.raises(BadParameter, match="cannot be read as a picture"):
        load_picture(tmp_path / "c.png")
    with pytest.raises(MissingAsset, match="no picture at"):
        load_picture(tmp_path / "d.png")


def test_stacked_pictures_are_those_that_were_made():
    x = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5) / 255
    assert_close(stack_pictures(to_pil(x)), x)
    grey = stack_pictures([Image.new("L", (5, 4), 51)])
    assert_close(grey, torch.full((1, 3, 4, 5), 0.2))


def test_fitting_cuts_and_never_squashes():
    picture = torch.zeros(3, 20, 40)
    picture[:, 5:15, 15:25] = 1  # a square in the middle
    for size in ((20, 20), (32, 16), (10, 60)):
        fitted = fit_picture(picture, size)
        assert fitted.shape == (3, *size)
        lit = (fitted[0] > 0.5).nonzero()
        height, width = (lit.amax(0) - lit.amin(0) + 1).tolist()
        cut = size == (10, 60)  # there the square is taller than the picture
        assert abs(height - width) <= 1 or cut and height == 10 and abs(width - 15) <= 1
    assert fit_picture(picture, (20, 40)) is not None and torch.equal(fit_picture(picture, (20, 40)), picture)


def test_masks_and_boxes(tmp_path):
    mask = load_mask((0.5, 0, 1, 0.5), (8, 8))
    assert mask.shape == (1, 8, 8) and mask.sum() == 16 and mask[0, 0, 4] == 1 and mask[0, 4, 4] == 0
    Image.new("L", (4, 4), 255).save(tmp_path / "m.png")
    assert load_mask(str(tmp_path / "m.png"), (8, 8)).min() == pytest.approx(1)
    assert box_pixels((0.1, 0, 0.34, 1), (4, 10)) == ((0, 4), (1, 4))
    images = torch.rand(2, 3, 4, 10)
    assert torch.equal(crop_box(images, (0.1, 0, 0.34, 1)), images[:, :, :, 1:4]) and crop_box(images, None) is images

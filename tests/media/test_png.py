import pytest
from PIL import Image

from t2ilib.errors import BadParameter, MissingAsset
from t2ilib.media.png import read_record, save_png


def test_a_record_travels_in_the_picture(tmp_path):
    record = {"call": {"prompt": "a 'red' heart ♥"}, "codes": [[1, 2], [3, 4]], "ema": 0.9, "none": None}
    image = Image.new("RGB", (8, 8), "red")
    paths = [save_png(image, tmp_path / "new" / name, record) for name in ("a.png", "b.png")]
    assert read_record(paths[0]) == record and Image.open(paths[0]).tobytes() == image.tobytes()
    assert paths[0].read_bytes() == paths[1].read_bytes()  # nothing of time or place
    assert sorted(p.name for p in paths[0].parent.iterdir()) == ["a.png", "b.png"]


def test_what_carries_no_record_is_told(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "bare.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg")
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG nothing")
    for name, error, message in (("bare.png", BadParameter, "does not say how it was made"),
                                 ("photo.jpg", BadParameter, "does not say"),
                                 ("damaged.png", BadParameter, "cannot be read"),
                                 ("no.png", MissingAsset, "no picture")):
        with pytest.raises(error, match=message):
            read_record(tmp_path / name)

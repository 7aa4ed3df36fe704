"""Executed copies: small, complete, and only of runs that ended well."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from t2ilib.errors import BadParameter, MissingAsset
from t2ilib.runner import copies


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """A run folder whose notebook shows these PNG pictures."""
    monkeypatch.setenv("T2I_REPORTS", str(tmp_path / "reports"))

    def make(*pictures, status="ok"):
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        cells = [{"cell_type": "markdown", "metadata": {}, "source": ["# Title\n"]}]
        for picture in pictures:
            data = {"image/png": base64.b64encode(picture).decode(), "text/plain": ["Figure"]}
            output = {"output_type": "display_data", "data": data, "metadata": {}}
            cells.append({"cell_type": "code", "execution_count": 1, "metadata": {}, "source": [], "outputs": [output]})
        notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        (folder / "notebook.ipynb").write_text(json.dumps(notebook))
        (folder / "run.json").write_text(json.dumps({"name": "01_gan_basics", "status": status}))
        return folder

    return make


def shown(path):
    """What a copy shows: the kind and the picture of each output."""
    found = []
    for cell in json.loads(path.read_text())["cells"]:
        for output in cell.get("outputs", ()):
            for kind, content in output["data"].items():
                if kind.startswith("image/"):
                    found.append((kind, Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")))
    return found


def photograph(side=300, seed=0):
    """A smooth picture of many colours, as a sheet of drawings is."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC))


def test_a_copy_shows_the_same_pictures_in_fewer_bytes(executed):
    pixels = photograph()
    source = executed(png(pixels))
    path = copies.keep_copy(source)
    assert path.name == "01_gan_basics.ipynb" and path.stat().st_size < 0.5 * len(png(pixels))
    [(_, copy)] = shown(path)
    error = np.abs(np.asarray(copy).astype(int) - pixels).mean()
    assert copy.size == (300, 300) and error < 4


def test_small_pictures_stay_as_they_are(executed):
    pixels = photograph(24)
    [(kind, copy)] = shown(copies.keep_copy(executed(png(pixels))))
    assert kind == "image/png" and (np.asarray(copy) == pixels).all()


def test_where_it_is_transparent_a_picture_becomes_white(executed):
    pixels = np.dstack([photograph(), np.zeros((300, 300), np.uint8)])
    [(_, copy)] = shown(copies.keep_copy(executed(png(pixels))))
    assert np.asarray(copy).min() > 250


def test_pictures_shrink_until_the_copy_is_small_enough(executed):
    pictures = [png(photograph(200, seed)) for seed in range(2)]
    whole = copies.keep_copy(executed(*pictures)).stat().st_size
    path = copies.keep_copy(executed(*pictures), limit=whole * 2 // 3)
    assert path.stat().st_size <= whole * 2 // 3
    widths = {copy.width for _, copy in shown(path)}
    assert len(shown(path)) == 2 and len(widths) == 1 and 80 <= widths.pop() < 200
    with pytest.raises(BadParameter, match="show fewer pictures"):
        copies.keep_copy(executed(*pictures), limit=1000)


def test_only_what_ran_to_its_end_is_kept(executed, tmp_path):
    with pytest.raises(BadParameter, match="'failed'"):
        copies.keep_copy(executed(png(photograph()), status="failed"))
    with pytest.raises(MissingAsset, match="python -m t2ilib run 01"):
        copies.keep_copy(tmp_path / "nothing")

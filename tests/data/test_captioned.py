"""One loader for every source, batches over backgrounds, and errors that name file and row."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from t2ilib.data import CaptionedImages, load_captioned, load_with_validation
from t2ilib.data.captioned import over_background
from t2ilib.errors import BadParameter, MissingAsset, UnknownName


@pytest.fixture(scope="module")
def emoji():
    return load_captioned("emoji", split="held_out", image_size=64)


def picture(color, size=(20, 20), mode="RGB"):
    return Image.new(mode, size, color)


def png(color, size=(20, 20), mode="RGB"):
    import io

    buffer = io.BytesIO()
    picture(color, size, mode).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    rows = [{"file_name": "a.png", "text": "a red square"}, {"file_name": "sub/b.jpg", "text": "green", "kind": "x"}]
    (tmp_path / "sub").mkdir()
    picture("red").save(tmp_path / "a.png")
    picture((0, 255, 0), (40, 20)).save(tmp_path / "sub" / "b.jpg", quality=95)
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    return tmp_path


def test_emoji_shapes_columns_and_sizes(emoji):
    assert emoji.images.shape == (len(emoji), 4, 64, 64) and emoji.images.dtype == torch.uint8
    assert set(emoji.columns["split"]) == {"held_out"}
    assert emoji.image_size == 64 and "held_out" not in repr(emoji) and "RGBA 64x64" in repr(emoji)
    small = load_captioned("emoji", split="held_out", image_size=32)
    expected = emoji.images.float().view(len(emoji), 4, 32, 2, 32, 2).mean((3, 5))  # halving is averaging of 2 x 2
    torch.testing.assert_close(small.images[:, 3].float(), expected[:, 3], atol=1.0, rtol=0)
    assert load_captioned("emoji", split="held_out", image_size=96, limit=3).images.shape == (3, 4, 96, 96)


def test_batch_composites_over_white(emoji):
    index = torch.tensor([3, 0])
    x = emoji.batch(index)
    rgba = emoji.images[index].double() / 255
    expected = (rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]) * 2 - 1
    assert x.dtype == torch.float32 and x.shape == (2, 3, 64, 64)
    torch.testing.assert_close(x, expected.float(), atol=1e-6, rtol=0)
    assert x.min() >= -1 and x.max() <= 1


def test_batch_takes_colours(emoji):
    corner = (slice(None), slice(None), 0, 0)
    clear = [i for i in range(len(emoji)) if emoji.images[i, 3, 0, 0] == 0][:4]
    one = emoji.batch(clear, background=torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(one[corner], torch.tensor([[-1.0, 0.0, 1.0]]).expand(4, 3))
    colors = torch.rand(4, 3)
    torch.testing.assert_close(emoji.batch(clear, background=colors)[corner], colors * 2 - 1)
    first, second = (
        emoji.batch(clear, background="random", generator=torch.Generator().manual_seed(1)) for _ in range(2)
    )
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert len(first[corner].unique()) == 12


@pytest.mark.parametrize("background", ["blue", torch.rand(5, 3), torch.tensor([0.0, 2.0, 0.0])])
def test_bad_background(emoji, background):
    with pytest.raises(BadParameter, match="background"):
        emoji.batch([0, 1], background=background)


def test_spread_takes_pictures_evenly(emoji):
    n = len(emoji)
    few = emoji.spread(3)
    assert few.captions == [emoji.captions[i] for i in (0, (n - 1) // 2, n - 1)]
    assert emoji.spread(0) is emoji and emoji.spread(n + 5) is emoji


def test_the_rows_of_a_split():
    columns = {"split": ["train", "held_out", "train", "train", "validation", "train"]}
    data = CaptionedImages(torch.zeros(6, 3, 8, 8, dtype=torch.uint8), list("abcdef"), columns)
    assert data.rows_of_split("train") == data.rows_of_split("train", 9) == [0, 2, 3, 5]
    assert data.rows_of_split("train", 3) == [0, 2, 3] and data.rows_of_split("train", 2) == [0, 3]
    assert data.rows_of_split("test") == []


def test_where_and_select(emoji):
    red = emoji.where(artist=["noto", "twemoji"], colors="red", group=lambda group: group != "Flags")
    assert len(red) > 5 and set(red.columns["artist"]) == {"noto", "twemoji"}
    assert all("red" in colors for colors in red.columns["colors"])
    again = emoji.select([5, 2])
    assert again.captions == [emoji.captions[5], emoji.captions[2]]
    torch.testing.assert_close(again.images, emoji.images[[5, 2]])
    assert emoji.row(5)["text"] == emoji.captions[5] and emoji.row(5)["id"] == emoji.columns["id"][5]
    assert len(emoji.where(text="no such caption")) == 0
    with pytest.raises(UnknownName, match="artist"):
        emoji.where(artst="noto")
    with pytest.raises(BadParameter, match="outside"):
        emoji.select([len(emoji)])


def test_to_keeps_everything(emoji):
    moved = emoji.to("cpu")
    assert moved.device == torch.device("cpu") and moved.captions == emoji.captions


def test_constructor_checks_lengths():
    with pytest.raises(BadParameter, match="2 images but 1 values in 'captions'"):
        CaptionedImages(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), ["a"])
    with pytest.raises(BadParameter, match="uint8"):
        CaptionedImages(torch.zeros(2, 3, 8, 8), ["a", "b"])


def test_over_background_at_half_alpha():
    rgba = torch.tensor([255, 0, 0, 51], dtype=torch.uint8).view(1, 4, 1, 1)  # alpha 0.2
    got = over_background(rgba, torch.tensor([[0.0, 1.0, 0.5]])).flatten()
    torch.testing.assert_close(got, torch.tensor([0.2, 0.8, 0.4]) * 2 - 1)


def test_folder(folder):
    data = load_captioned(folder, image_size=16)
    assert data.captions == ["a red square", "green"] and data.images.shape == (2, 3, 16, 16)
    assert data.columns == {"file_name": ["a.png", "sub/b.jpg"], "kind": [None, "x"]}
    torch.testing.assert_close(data.batch([0])[0, :, 8, 8], torch.tensor([1.0, -1.0, -1.0]))
    assert len(load_captioned(folder, image_size=16, split="all", limit=1)) == 1


def test_folder_with_transparency_and_grey(folder):
    picture((0, 0, 255, 0), mode="RGBA").save(folder / "a.png")
    picture(51, mode="L").save(folder / "sub" / "b.jpg")
    data = load_captioned(folder, image_size=16)
    assert data.images.shape[1] == 4 and data.images[1, :, 4, 4].tolist() == [51, 51, 51, 255]
    torch.testing.assert_close(data.batch([0]), torch.ones(1, 3, 16, 16))


def test_sixteen_bit_grey_is_scaled_not_clipped(folder):
    Image.fromarray(np.full((20, 20), 32768, dtype=np.uint16)).save(folder / "a.png")
    assert load_captioned(folder, image_size=16).images[0, 0, 3, 3].item() in (127, 128)


def test_folder_splits(folder, tmp_path):
    rows = [
        {"file_name": "a.png", "text": "one", "split": "train"},
        {"file_name": "a.png", "text": "two", "split": "validation"},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert load_captioned(folder, split="validation", image_size=16).captions == ["two"]
    with pytest.raises(UnknownName, match="validation"):
        load_captioned(folder, split="validatoin", image_size=16)


def test_folder_with_a_folder_for_each_split(folder):
    outer = folder / "outer"
    for split in ("train", "test"):
        (outer / split).mkdir(parents=True)
        picture("blue").save(outer / split / "x.png")
        (outer / split / "metadata.jsonl").write_text(json.dumps({"file_name": "x.png", "text": split}))
    assert load_captioned(outer, split="test", image_size=16).captions == ["test"]
    assert sorted(load_captioned(outer, split="all", image_size=16).captions) == ["test", "train"]


def test_pictures_to_choose_by_are_the_validation_split_or_every_tenth_caption(folder):
    def write(rows):
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))

    rows = [{"file_name": "a.png", "text": f"number {i // 2}"} for i in range(24)]
    write(rows)
    train, validation = load_with_validation(folder, image_size=16)
    assert validation.captions == ["number 1"] * 2 + ["number 11"] * 2 and len(train) == 20
    assert not set(train.captions) & set(validation.captions)
    train, validation = load_with_validation(folder, image_size=16, limit=6)
    assert (train.captions[0], validation.captions, len(train)) == ("number 0", ["number 1"] * 2, 4)
    write([row | {"split": "train"} for row in rows[:3]] + [rows[5] | {"split": "validation"}])
    train, validation = load_with_validation(folder, image_size=16)
    assert len(train) == 3 and validation.captions == ["number 2"]
    write(rows[:2])
    with pytest.raises(BadParameter, match="1 caption, and no split 'validation'"):
        load_with_validation(folder, image_size=16)


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"file_name": "a.png"', "line 1 is no valid JSON"),
        ('["a.png", "text"]', "line 1 must hold one object"),
        ('{"text": "x"}', "line 1: there is no 'file_name'"),
        ('{"file_name": "a.png", "label": "x"}', "line 1: there is no caption.*label"),
        ('{"file_name": "a.png", "text": "  "}', "line 1.*empty"),
        ('{"file_name": "a.png", "text": null}', "line 1.*None"),
        ('{"file_name": "gone.png", "text": "x"}', r"line 1 \(gone.png\).*no such file"),
        ('{"file_name": "metadata.jsonl", "text": "x"}', "line 1.*cannot be read"),
    ],
)
def test_bad_lines_name_file_and_line(folder, line, message):
    (folder / "metadata.jsonl").write_text(line)
    with pytest.raises(BadParameter, match=message) as caught:
        load_captioned(folder, image_size=16)
    assert "metadata.jsonl" in str(caught.value)


def test_folder_with_a_table(folder):
    (folder / "metadata.jsonl").unlink()
    table = {"file_name": ["a.png", "sub/b.jpg"], "caption": ["a red square", "green"], "split": ["train", None]}
    pq.write_table(pa.table(table), folder / "metadata.parquet")
    assert load_captioned(folder, image_size=16).captions == ["a red square", "green"]
    text = '\ufefffile_name,text,kind,split\r\na.png,"a heart, ""red""\nor so",x,\r\n\r\nsub/b.jpg,grün,,validation\r\n'
    (folder / "metadata.csv").write_text(text, encoding="utf-8", newline="")
    data = load_captioned(folder, image_size=16, split="all")
    assert data.captions == ['a heart, "red"\nor so', "grün"] and data.columns["kind"] == ["x", None]
    assert load_captioned(folder, image_size=16).captions == data.captions[:1]
    assert load_captioned(folder, image_size=16, split="validation").captions == ["grün"]


@pytest.mark.parametrize("text, message", [
    ("file_name,text\na.png,a heart, red\n", 'line 2: more values than the header.*in quotes: "a heart, red"'),
    ("file_name,text\na.png,\n", "line 2.*empty"), ("file_name,text\na.png\n", "line 2.*empty"),
    ("file;text\na.png;x\n", "line 2: there is no 'file_name'; columns here: .'file;text'"),
    ("file_name,label\na.png,x\n", "line 2: there is no caption.*label"),
    ('file_name,text\na.png,"x\n', "no valid CSV"), ("file_name,text\n../a.png,x\n", "lies outside"),
    ("file_name,text\ngone.png,x\n", r"line 2 \(gone.png\).*no such file")])
def test_bad_rows_of_a_csv_name_file_and_line(folder, text, message):
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text(text)
    with pytest.raises(BadParameter, match=message) as caught:
        load_captioned(folder, image_size=16)
    assert "metadata.csv" in str(caught.value)


def test_truncated_picture_names_row(folder):
    whole = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadParameter, match=r"line 1 \(a.png\): the picture cannot be read"):
        load_captioned(folder, image_size=16)


def test_empty_folders(tmp_path):
    with pytest.raises(MissingAsset, match="no pictures.*metadata.jsonl"):
        load_captioned(tmp_path, image_size=16)
    picture("red").save(tmp_path / "a.png")
    with pytest.raises(MissingAsset, match="1 pictures but no captions"):
        load_captioned(tmp_path, image_size=16)
    (tmp_path / "metadata.jsonl").write_text("\n")
    with pytest.raises(MissingAsset, match="holds no pictures"):
        load_captioned(tmp_path, image_size=16)


def test_parquet(tmp_path):
    path = tmp_path / "set.parquet"
    pq.write_table(pa.table({"jpg": [png("red"), png("blue")], "caption": ["red", "blue"], "n": [1, 2]}), path)
    data = load_captioned(path, image_size=16)
    assert data.captions == ["red", "blue"] and data.columns == {"n": [1, 2]}
    assert load_captioned(str(path), image_size=16, text_column="caption", image_column="jpg").captions == [
        "red",
        "blue",
    ]


def test_bad_parquet_names_row_and_column(tmp_path):
    path = tmp_path / "set.parquet"
    pq.write_table(pa.table({"jpg": [png("red"), b"nonsense"], "caption": ["red", "blue"]}), path)
    with pytest.raises(BadParameter, match=r"set.parquet, row 1: the picture cannot be read"):
        load_captioned(path, image_size=16)
    with pytest.raises(BadParameter, match="no column 'label'.*jpg, caption"):
        load_captioned(path, image_size=16, text_column="label")
    pq.write_table(pa.table({"jpg": [png("red")], "label": ["red"]}), path)
    with pytest.raises(BadParameter, match="no column of captions; its columns: jpg, label.*text_column"):
        load_captioned(path, image_size=16)
    pq.write_table(pa.table({"n": [1], "text": ["red"]}), path)
    with pytest.raises(BadParameter, match="no column of pictures"):
        load_captioned(path, image_size=16)
    path.write_bytes(b"no parquet")
    with pytest.raises(BadParameter, match="no readable parquet"):
        load_captioned(path, image_size=16)
    with pytest.raises(MissingAsset, match="no such file"):
        load_captioned(tmp_path / "gone.parquet", image_size=16)


def test_hub_through_datasets(tmp_path, monkeypatch):
    import datasets

    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    part = datasets.Dataset.from_dict(
        {"image": [{"bytes": png("red"), "path": None}], "text": ["red"]}, features=features
    )
    part.to_parquet(tmp_path / "hub" / "train.parquet")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = load_captioned(f"hub:{tmp_path / 'hub'}", image_size=16)
    assert data.captions == ["red"] and data.images[0, :, 8, 8].tolist() == [255, 0, 0]
    with pytest.raises(BadParameter, match="split 'tset'"):
        load_captioned(f"hub:{tmp_path / 'hub'}", split="tset", image_size=16)


def test_coco(tmp_path):
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").mkdir()
    picture("red", (32, 24)).save(tmp_path / "val2017" / "1.jpg")
    notes = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"id": 5, "image_id": 1, "caption": "a red wall "}, {"id": 6, "image_id": 1, "caption": "red"}],
    }
    (tmp_path / "annotations" / "captions_val2017.json").write_text(json.dumps(notes))
    data = load_captioned(f"coco:{tmp_path}", split="validation", image_size=16)
    assert data.captions == ["a red wall"] and data.columns["captions"] == [["a red wall", "red"]]
    assert data.images.shape == (1, 3, 16, 16)
    with pytest.raises(MissingAsset, match="train2017"):
        load_captioned(f"coco:{tmp_path}", image_size=16)
    with pytest.raises(UnknownName, match="split of COCO"):
        load_captioned(f"coco:{tmp_path}", split="held_out", image_size=16)


@pytest.mark.parametrize("size", [0, 7, 4096, 64.0, "64", True])
def test_bad_size(size):
    with pytest.raises(BadParameter, match="image_size"):
        load_captioned("emoji", image_size=size)


def test_unknown_names():
    with pytest.raises(UnknownName, match="emoji"):
        load_captioned("emojis")
    with pytest.raises(UnknownName, match="held_out"):
        load_captioned("emoji", split="heldout")
    with pytest.raises(MissingAsset, match="build_emoji.*--sizes 512"):
        load_captioned("emoji", image_size=512)
    with pytest.raises(BadParameter, match="limit"):
        load_captioned("emoji", limit=0)

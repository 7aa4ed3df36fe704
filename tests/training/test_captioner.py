"""The second captioner: what it may see, that it learns to write, and that a finished training is taken as it is."""

import pytest
import torch

from t2ilib.data import load_captioned
from t2ilib.encoders import emoji_blip
from t2ilib.errors import BadParameter, CheckpointMismatch
from t2ilib.media import to_unit
from t2ilib.training import captioner
from t2ilib.training.captioner import split_for_captioner, train_captioner, varied

SMALL = {"width": 32, "heads": 2, "vision_layers": 1, "text_layers": 1, "channels": [8, 8, 16], "norm": "group",
         "dropout": 0.0}


@pytest.fixture(scope="module")
def data():
    return load_captioned("emoji", split="all", image_size=64, limit=24)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(emoji_blip.SIZES, "captioner", SMALL)


def weights(reader):
    return list(reader.network.state_dict().values())


def test_it_knows_all_concepts_and_leaves_one_drawing_of_each_out(data):
    known, unseen = split_for_captioner(data)
    assert len(known) + len(unseen) == len(data)
    names = list(unseen.columns["name"])
    assert len(names) == len(set(names)) and set(names) <= set(known.columns["name"])
    together = list(zip(known.columns["name"], known.columns["artist"], strict=True))
    assert not set(together) & set(zip(names, unseen.columns["artist"], strict=True))


def test_it_is_no_relative_of_what_draws():
    sizes = emoji_blip.SIZES
    shipped = emoji_blip.EmojiBlip(vocabulary=10, **sizes["shipped"]).config["width"]
    assert sizes[captioner.CAPTIONER]["width"] not in (shipped, sizes["small"]["width"])
    assert captioner.SEED_OFFSET != 0


def test_varied_drawings_are_what_the_network_reads(data):
    x = varied(data, torch.arange(4), torch.Generator().manual_seed(0))
    assert x.shape == (4, 3, 64, 64) and x.min() >= -1 and x.max() <= 1 and x.min() < 0


def test_it_learns_and_writes_without_a_matching_half(data, small):
    reader, history = train_captioner(data, steps=30, half=4, ema_decay=0.5)
    _, losses = history.curves["loss"]
    assert len(losses) == 30 and losses[-1] < losses[0]
    captions = reader.caption(to_unit(data.batch([0, 1])))
    assert len(captions) == 2 and all(isinstance(text, str) for text in captions)
    with pytest.raises(BadParameter, match="captioner writes"):
        reader.match(to_unit(data.batch([0])), ["a heart"])


def test_a_finished_training_is_taken_from_its_state(data, small, tmp_path):
    whole, _ = train_captioner(data, steps=4, half=4)
    first, _ = train_captioner(data, steps=4, half=4, state=tmp_path / "captioner.pt")
    again, history = train_captioner(data, steps=4, half=4, state=tmp_path / "captioner.pt")
    for a, b, c in zip(weights(whole), weights(first), weights(again), strict=True):
        assert torch.equal(a, b) and torch.equal(b, c)
    assert history.curves["loss"][0] == [0, 1, 2, 3]
    with pytest.raises(CheckpointMismatch):
        train_captioner(data, steps=4, half=4, seed=1, state=tmp_path / "captioner.pt")


def test_its_weights_begin_with_another_seed(data, small, monkeypatch):
    begun = []
    monkeypatch.setattr(captioner, "seed_everything", begun.append)
    train_captioner(data, steps=1, half=2, seed=7)
    assert begun == [8]


def test_it_is_trained_alone_where_several_processes_were(data, small, monkeypatch):
    torchrun = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1",
                "GROUP_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "none"}
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    reader, _ = train_captioner(data, steps=1, half=2)
    assert not torch.distributed.is_initialized()
    assert len(reader.caption(to_unit(data.batch([0])))) == 1

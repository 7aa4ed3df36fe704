import json

import pytest
import torch

from t2ilib.checkpoint import save_model
from t2ilib.errors import BadParameter, CheckpointMismatch, MissingAsset, UnknownName
from t2ilib.models.latent_prior import LatentPrior
from t2ilib.training import (
    check_trained_on,
    checkpoint_home,
    keep_previous,
    peak_rate,
    take_weights,
    training_folder,
)
from t2ilib.training.shipping import PREVIOUS

SMALL = dict(channels=16, channel_mults=[1], num_res_blocks=1, attention=[False])
RECIPE = {"data": "emoji", "text_encoder": "minilm", "steps": 8000}


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setattr("t2ilib.training.shipping.checkpoints_dir", lambda: folder)
    return folder


def test_what_is_trained_stays_in_the_run_unless_a_place_is_named(tmp_path, shipped):
    used = {**RECIPE, "data": "my_pictures", "steps": 2}
    assert checkpoint_home(tmp_path / "run", "", recipe=RECIPE, used=used) == tmp_path / "run" / "checkpoints"
    mine = tmp_path / "mine"
    assert checkpoint_home(tmp_path / "run", str(mine), recipe=RECIPE, used=used) == mine
    with pytest.raises(BadParameter, match="lies among the checkpoints that ship"):
        checkpoint_home(tmp_path / "run", str(shipped / "mine"), recipe=RECIPE, used=RECIPE)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadParameter, match="cannot be written"):
        checkpoint_home(tmp_path / "run", str(tmp_path / "file" / "mine"), recipe=RECIPE, used=used)


def test_only_the_recipe_replaces_what_ships(tmp_path, shipped):
    assert checkpoint_home(tmp_path, "replace", recipe=RECIPE, used={**RECIPE, "steps": 9000}) == shipped
    for name, value in (("data", "my_pictures"), ("text_encoder", "t5-small"), ("steps", 7999)):
        with pytest.raises(BadParameter, match=f"{name} is {value!r}, in the recipe .*-o checkpoint=FOLDER"):
            checkpoint_home(tmp_path, "replace", recipe=RECIPE, used={**RECIPE, name: value})


def test_a_training_that_goes_on_from_what_ships_may_be_short(tmp_path, shipped):
    short = {**RECIPE, "steps": 10}
    assert checkpoint_home(tmp_path, "replace", recipe=RECIPE, used=short, start_from="shipped") == shipped
    assert checkpoint_home(tmp_path, "replace", recipe=RECIPE, used=short, start_from="shipped", minutes=5) == shipped
    with pytest.raises(BadParameter, match="it begins from scratch and ends by minutes"):
        checkpoint_home(tmp_path, "replace", recipe=RECIPE, used=RECIPE, minutes=600)
    with pytest.raises(BadParameter, match="data is 'mine'"):
        checkpoint_home(tmp_path, "replace", recipe=RECIPE, used={**RECIPE, "data": "mine"}, start_from="shipped")
    with pytest.raises(UnknownName, match="did you mean shipped"):
        checkpoint_home(tmp_path, "", recipe=RECIPE, used=RECIPE, start_from="shiped")


def test_states_of_another_data_set_lie_in_another_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("T2I_REPORTS", str(tmp_path))
    names = {"emoji": "emoji-prior", "shapes": "shapes-prior", "hub:owner/birds": "birds-prior",
             str(tmp_path / "my_pictures"): "my_pictures-prior", "hub:birds": "hub-birds-prior"}
    for data, name in names.items():
        assert training_folder("emoji-prior", data=data) == tmp_path / "training" / name
    assert training_folder("emoji-prior", data="shapes", work_dir="mine").name == "mine"


def test_no_network_that_ships_knows_other_data():
    check_trained_on("emoji", False)
    check_trained_on("shapes", True)
    with pytest.raises(BadParameter, match="data='shapes': leave train=False out"):
        check_trained_on("shapes", False)


def test_a_network_takes_the_weights_that_ship(shipped):
    torch.manual_seed(0)
    made, other = LatentPrior(**SMALL), LatentPrior(**SMALL)
    save_model(shipped / "emoji-x", made)
    before = [p.clone() for p in other.parameters()]
    take_weights(other, "scratch", "emoji-x")
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))
    take_weights(other, "shipped", "emoji-x")
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), other.parameters(), strict=True))
    with pytest.raises(CheckpointMismatch, match="holds a LatentPrior, not a Linear"):
        take_weights(torch.nn.Linear(2, 2), "shipped", "emoji-x")
    with pytest.raises(MissingAsset, match="no checkpoint at .*emoji-y"):
        take_weights(other, "shipped", "emoji-y")


def test_what_has_been_trained_goes_on_at_a_fifth_of_the_rate():
    assert peak_rate(1e-3, "scratch") == 1e-3
    assert peak_rate(1e-3, "shipped") == pytest.approx(2e-4)
    with pytest.raises(UnknownName, match="start_from"):
        peak_rate(1e-3, "shiped")


def test_what_is_replaced_is_kept_beside_it(shipped):
    for text in ("first", "second"):
        (shipped / "emoji-x").mkdir(exist_ok=True)
        (shipped / "emoji-x" / "config.json").write_text(json.dumps(text))
        keep_previous(shipped, ["emoji-x", "emoji-absent"])
        assert json.loads((shipped / PREVIOUS / "emoji-x" / "config.json").read_text()) == text
    assert [path.parent.name for path in shipped.glob("*/config.json")] == ["emoji-x"]

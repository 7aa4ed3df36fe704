import json

import pytest

from t2ilib.errors import BadParameter
from t2ilib.training import checkpoint_home, keep_previous
from t2ilib.training.shipping import PREVIOUS

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


def test_what_is_replaced_is_kept_beside_it(shipped):
    for text in ("first", "second"):
        (shipped / "emoji-x").mkdir(exist_ok=True)
        (shipped / "emoji-x" / "config.json").write_text(json.dumps(text))
        keep_previous(shipped, ["emoji-x", "emoji-absent"])
        assert json.loads((shipped / PREVIOUS / "emoji-x" / "config.json").read_text()) == text
    assert [path.parent.name for path in shipped.glob("*/config.json")] == ["emoji-x"]

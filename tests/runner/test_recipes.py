"""Recipes by name: what they are, and the time that is shared among them."""

import pytest

from t2ilib.__main__ import main
from t2ilib.checkpoint import read_config
from t2ilib.errors import BadParameter, UnknownName
from t2ilib.paths import checkpoints_dir
from t2ilib.runner import launch
from t2ilib.runner.plan import plan_run
from t2ilib.runner.recipes import GROUPS, RECIPES, describe, find_recipes, is_queue
from t2ilib.training import pictures_seen


def test_every_recipe_names_a_notebook_its_parameters_and_a_checkpoint_that_ships():
    for name, recipe in RECIPES.items():
        plan = plan_run(recipe.notebook, {**recipe.parameters, "minutes": 5, "threads": 1}, "full")
        assert plan.values["minutes"] == 5, name
        assert (checkpoints_dir() / recipe.checkpoint / "config.json").is_file(), name
    assert {member for members in GROUPS.values() for member in members} <= RECIPES.keys()


def test_names_of_recipes():
    assert find_recipes("guides, base,clip") == ["clip", "clip-b", "base"]
    assert is_queue("base,guides") and not is_queue("08") and not is_queue("base,08")
    with pytest.raises(UnknownName, match="did you mean base"):
        find_recipes("bass")
    with pytest.raises(BadParameter, match="name what to train"):
        find_recipes(",")


def test_what_is_known_of_a_recipe(tmp_path, monkeypatch):
    monkeypatch.setattr("t2ilib.runner.recipes.reports_dir", lambda: tmp_path)
    known = describe(RECIPES["vqgan-128"])
    metrics = read_config(checkpoints_dir() / "emoji-vqgan-128")["metrics"]
    assert known["validation"]["validation_psnr"] == metrics["validation_psnr"] and known["state"] is None
    state = tmp_path / "training" / "emoji-vqgan" / "state_128.pt"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"")
    assert describe(RECIPES["vqgan-128"])["state"] == state


@pytest.mark.parametrize("config, pictures", [
    ({"training": {"steps": 10, "batch_size": 4}}, 40), ({"training": {"steps": 3}}, None), ({}, None),
    ({"training": {"steps": 10, "batch_size": 4}, "pictures_seen": 90}, 90), ({"training": None}, None),
    ({"training": {"steps": 40, "prior_steps": 100, "batch_size": 2}}, 200)])
def test_pictures_seen_by_the_card(config, pictures):
    assert pictures_seen(config) == pictures


@pytest.fixture
def started(monkeypatch):
    """Replace the runs: each takes all of its time, and is interrupted."""
    calls = []

    def run_script(plan, *, echo, limit):
        calls.append((plan.path.stem, plan.values, limit))
        return launch.Result(plan.path.stem, "interrupted", limit or 5.0, plan.path.parent)

    monkeypatch.setattr(launch, "run_script", run_script)
    monkeypatch.setattr("t2ilib.runner.report.build_report", lambda: plan_run("08", {}, "full").path)
    return calls


def test_the_time_is_shared(started, capsys):
    assert main(["train", "base,sr64,guides", "--minutes", "40", "-p", "seed", "3"]) == 0
    assert [limit for _, _, limit in started] == [600.0] * 4
    assert [values.get("stages", values.get("recipe")) for _, values, _ in started] == ["base", "sr64", "emoji-clip",
                                                                                      "emoji-clip-b"]
    assert all(values["threads"] == 1 and values["seed"] == 3 for _, values, _ in started)
    assert "0 ok, 0 failed, 4 interrupted" in capsys.readouterr().out


def test_a_state_elsewhere_is_found_again(started, capsys, tmp_path):
    call = ["train", "words", "--minutes", "5", "-p", "work_dir", str(tmp_path)]
    assert main(call) == 0
    assert "before the first step" in capsys.readouterr().out
    (tmp_path / "recipe.pt").write_bytes(b"")
    assert main(call) == 0
    assert "the same command goes on from" in capsys.readouterr().out


def test_time_that_one_does_not_need_goes_to_the_next(started, monkeypatch):
    limits = []

    def quick(plan, *, echo, limit):
        limits.append(limit)
        return launch.Result(plan.path.stem, "ok", 60.0, plan.path.parent)

    monkeypatch.setattr(launch, "run_script", quick)
    assert main(["train", "cascade", "--minutes", "30"]) == 0
    assert limits == [600.0, 870.0, 1680.0]


def test_bad_calls(started, capsys):
    for arguments, message in ((["train"], "name a notebook"), (["train", "08", "--minutes", "5"], "-p minutes 60"),
                               (["train", "base", "--minutes", "0"], "above 0"), (["train", "bass"], "bass")):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
    assert started == []


def test_the_list_names_every_recipe(capsys):
    assert main(["train", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [*RECIPES, *GROUPS]
    assert "992,000" in lines[1] or "," in lines[1]
    place = lines[0].index("checkpoint")
    for line, recipe in zip(lines[1:-len(GROUPS)], RECIPES.values(), strict=True):  # columns below one another
        assert line[place:].startswith(recipe.checkpoint)


def test_the_recipe_of_gigagan_trains_nothing_beside_it():
    parameters = RECIPES["gigagan"].parameters
    assert parameters["ladder_steps"] == parameters["rival_minutes"] == 0

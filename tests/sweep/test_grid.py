import re
import textwrap

import pytest
import yaml

from t2ilib import sweep
from t2ilib.cli.sweep import EXAMPLE
from t2ilib.errors import BadParameter, MissingAsset, UnknownName
from t2ilib.paths import repo_root
from t2ilib.sweep import Grid, plan_jobs, read_grid

GOOD = {"method": "generator", "prompts": ["a red heart"], "sweep": {"noise": [1, 2], "candidates": [1, 4]},
        "seeds": [0, 3]}


def write(tmp_path, values):
    path = tmp_path / "grid.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False))
    return path


def test_combinations_and_runs(tmp_path):
    grid = read_grid(write(tmp_path, GOOD))
    assert grid.count == 8 and grid.seeds == (0, 3) and grid.goal == "highest"
    assert grid.combinations()[:3] == [{"noise": 1, "candidates": 1}, {"noise": 1, "candidates": 4},
                                       {"noise": 2, "candidates": 1}]


def test_a_number_of_a_notebook_may_be_a_number(tmp_path):
    assert read_grid(write(tmp_path, "notebook: 03\nseeds: [1]\n")).notebook == "3"
    assert read_grid(write(tmp_path, '{"notebook": "08"}')).combinations() == [{}]


@pytest.mark.parametrize("name", ["held_out_top10", "Held-Out top1", "judge.held_out_top1"])
def test_a_held_out_metric_chooses_nothing(name):
    with pytest.raises(BadParameter, match="held-out split, by which nothing may be chosen.*validation_top10"):
        Grid(notebook="08", metric=name)


@pytest.mark.parametrize(("changes", "message"), [
    ({"method": ""}, "either a notebook or a method"), ({"notebook": "08"}, "either a notebook or a method"),
    ({"sweep": {"noise": 3}}, "noise must be a list of values"), ({"sweep": {"noise": []}}, "must be a list"),
    ({"sweep": {"noise": [1, 1]}}, "lists 1 twice"), ({"seeds": [2, 2]}, "seeds lists 2 twice"),
    ({"seeds": []}, "at least one|empty list"), ({"seeds": 3}, "seeds must be a list"),
    ({"seeds": [-1]}, "at least 0"), ({"parameters": {"noise": 1}}, "under parameters and under sweep"),
    ({"parameters": {"seed": 1}}, "write seeds"), ({"sweep": {"seed": [1, 2]}}, "write seeds"),
    ({"concepts": 4}, "either prompts"), ({"prompts": []}, "either prompts"), ({"profile": "full"}, "for a notebook"),
    ({"goal": "higest"}, "did you mean highest"), ({"cpus": 0}, "at least 1"), ({"num_images": 0}, "at least 1"),
    ({"sweep": {"noise": list(range(200)), "candidates": list(range(200))}}, "80,000 runs, more than 10,000")])
def test_what_cannot_be_is_refused(tmp_path, changes, message):
    with pytest.raises(BadParameter, match=message):
        read_grid(write(tmp_path, {**GOOD, **changes}))


def test_a_notebook_draws_what_its_parameters_say():
    with pytest.raises(BadParameter, match="num_images is for a method"):
        Grid(notebook="08", num_images=2)


def test_broken_files(tmp_path):
    with pytest.raises(MissingAsset, match="no grid at"):
        read_grid(tmp_path / "none.yaml")
    with pytest.raises(UnknownName, match="did you mean metric"):
        read_grid(write(tmp_path, {**GOOD, "metrics": "x"}))
    for text, message in (("a: [", "no valid YAML"), ("- a", "must hold names"), ("", "must hold names"),
                          ("1: 2", "unknown key of a grid '1'"), ("a: !!python/object:os.system {}", "no valid YAML")):
        with pytest.raises(BadParameter, match=message):
            read_grid(write(tmp_path, text))


def test_the_examples_that_are_shown_are_grids(tmp_path):
    page = (repo_root() / "t2ilib" / "training" / "README.md").read_text(encoding="utf-8")
    shown, = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    grid = read_grid(write(tmp_path, shown))
    assert f"{grid.count} runs" in shown and len(plan_jobs(grid, tmp_path)) == grid.count
    for text in (sweep.__doc__.split("is a YAML file:")[1].split("A notebook's")[0],
                 EXAMPLE.split("explains it):")[1].split("The same")[0]):
        grid = read_grid(write(tmp_path, textwrap.dedent(text)))
        assert len(plan_jobs(grid, tmp_path)) == grid.count == 18

import json

import pytest

from t2ilib.errors import BadParameter, UnknownName
from t2ilib.sweep import Grid, plan_jobs


def keys(grid, folder, notebooks):
    return [job.key for job in plan_jobs(grid, folder, notebooks=notebooks)]


def test_runs_of_a_notebook_are_checked_and_ordered(tiny, tmp_path):
    grid = Grid(notebook="90", profile="smoke", parameters={"flag": "no"}, sweep={"scale": [1, "1e-3"]}, seeds=(0, 1))
    jobs = plan_jobs(grid, tmp_path, notebooks=tiny(), timeout=7)
    assert [job.label for job in jobs] == ["scale=1, seed 0", "scale=1, seed 1", "scale=1e-3, seed 0",
                                           "scale=1e-3, seed 1"]
    order = json.loads(json.dumps(jobs[3].order()))  # what a worker gets is plain
    assert order["overrides"] == {"profile": "smoke", "flag": False, "scale": 0.001, "seed": 1}
    assert order["timeout"] == 7 and order["threads"] == 1
    assert jobs[0].run_dir == tmp_path / "runs" / "90_tiny" / jobs[0].key
    for changes, message in (({"sweep": {"scal": [1]}}, "did you mean scale"),
                             ({"sweep": {"scale": ["big"]}}, "scale must be float"),
                             ({"sweep": {"scale": [1, 1.0]}}, "is the same run as scale=1, seed 0"),
                             ({"profile": "smok"}, "did you mean smoke")):
        with pytest.raises(BadParameter, match=message):
            plan_jobs(Grid(notebook="90", **changes), tmp_path, notebooks=tiny())


def test_a_run_is_named_by_all_that_decides_it(tiny, tmp_path):
    notebooks = tiny()
    picture = tmp_path / "a.png"
    picture.write_bytes(b"one")
    grid = Grid(notebook="90", sweep={"scale": [2, 3]}, parameters={"words": [str(picture)]})
    before = keys(grid, tmp_path, notebooks)
    assert len(set(before)) == 2 and keys(grid, tmp_path / "elsewhere", notebooks) == before
    more = Grid(notebook="90", sweep={"scale": [1, 3, 2]}, parameters={"words": [str(picture)]}, cpus=2, metric="x")
    assert set(before) < set(keys(more, tmp_path, notebooks))  # a longer grid goes on with the runs of a shorter one
    script = notebooks / "90_tiny.py"
    script.write_text(script.read_text() + "\n# %% [markdown]\n# Words about it.\n")
    assert keys(grid, tmp_path, notebooks) == before
    picture.write_bytes(b"two")
    other_input = keys(grid, tmp_path, notebooks)
    assert not set(other_input) & set(before)
    script.write_text(script.read_text() + "\nprint(3)\n")
    assert not set(keys(grid, tmp_path, notebooks)) & set(other_input)


def test_a_folder_is_known_by_its_files(tiny, tmp_path):
    notebooks = tiny()
    data = tmp_path / "data.v1"
    data.mkdir()
    grid = Grid(notebook="90", parameters={"words": [str(data)]})
    before = keys(grid, tmp_path, notebooks)
    (data / "a.txt").write_text("x")
    assert keys(grid, tmp_path, notebooks) != before


def test_runs_of_a_method(tmp_path):
    grid = Grid(method="minimagen", concepts=4, parameters={"candidates": 2}, sweep={"steps": [4, "5"]}, seeds=(7,),
                metric="validation_top1")
    jobs = plan_jobs(grid, tmp_path)
    order = json.loads(json.dumps(jobs[1].order()))
    assert order["options"] == {"candidates": 2, "steps": 5} and order["overrides"]["seed"] == 7
    assert order["values"]["concepts"] == 4 and order["values"]["guidance_scale"] > 0  # a default
    for changes, error, message in (
            ({"sweep": {"step": [1]}}, UnknownName, "did you mean steps"),
            ({"method": "minimagn"}, UnknownName, "did you mean minimagen"),
            ({"sweep": {"steps": [0]}}, BadParameter, "at least 1"),
            ({"num_images": 10_000, "concepts": 10_000}, BadParameter, "minimagen would take about"),
            ({"metric": "validation_top5"}, UnknownName, "did you mean validation_top1"),
            ({"concepts": 0, "prompts": ["a cat"]}, UnknownName, "unknown metric of a method's run 'validation_top1'")):
        values = dict(method="minimagen", concepts=4, metric="validation_top1") | changes
        with pytest.raises(error, match=message):
            plan_jobs(Grid(**values), tmp_path)


def test_a_method_told_by_a_path_has_a_folder_of_one_name(tmp_path):
    job, = plan_jobs(Grid(method="diffusers:some/where", prompts=("a",)), tmp_path)
    assert job.run_dir == tmp_path / "runs" / "diffusers_some_where" / job.key
    assert json.loads(json.dumps(job.order()))["options"] == {}

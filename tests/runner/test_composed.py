"""Tables of the compositional check are found in run folders and put side by side; what is missing is named."""

import json

import pytest
import torch

from t2ilib.data.shape_captions import CATEGORIES
from t2ilib.errors import BadParameter, MissingInput
from t2ilib.media import to_unit
from t2ilib.metrics.composition import OVERALL
from t2ilib.metrics.shape_check import COMPOSITION, asked_shapes, composition_rows, composition_table
from t2ilib.paths import notebooks_dir
from t2ilib.runner.composed import (
    TABLE,
    by_category,
    find_composed,
    missing_composed,
    notebooks_on_shapes,
    overview,
)
from t2ilib.runner.notebooks import list_notebooks

SPLITS = ("train", "validation")


@pytest.fixture(scope="module")
def tables():
    """Tables as runs keep them, by what they drew: real pictures, or nothing."""
    asked = {split: asked_shapes(split, 2, image_size=32) for split in SPLITS}
    drawn = {"right": {split: to_unit(data.batch(torch.arange(len(data)))) for split, data in asked.items()},
             "empty": {split: torch.ones(len(data), 3, 32, 32) for split, data in asked.items()}}
    return {name: composition_table(composition_rows(asked, x), seed=0).csv() for name, x in drawn.items()}


@pytest.fixture
def make_run(tmp_path):
    """A function that writes a run folder, with a table or without."""
    def make(name, folder, table=None, **record):
        place = tmp_path / "runs" / name / folder
        (place / "tables").mkdir(parents=True)
        record = {"name": name, "status": "ok", "profile": "quick", "seed": 0, "seconds": 90.0, **record}
        (place / "run.json").write_text(json.dumps(record))
        if table is not None:
            (place / TABLE).write_text(table)
        return place
    return make


def test_of_each_notebook_the_newest_run_of_the_largest_profile_counts(tmp_path, make_run, tables):
    make_run("07_gigagan_lite", "a", tables["right"], started="2026-01-03", profile="smoke")
    make_run("07_gigagan_lite", "b", tables["right"], started="2026-01-01", profile="full")
    best = make_run("07_gigagan_lite", "c", tables["empty"], started="2026-01-02", profile="full")
    make_run("07_gigagan_lite", "d", started="2026-01-04", profile="full")  # was trained on something else
    other = make_run("08_minimagen", "e", tables["right"], started="2026-01-02")
    found = find_composed(runs=tmp_path / "runs")
    assert [one.folder for one in found] == [best, other]
    assert [one.label for one in found] == ["07_gigagan_lite", "08_minimagen"]
    assert found[0].rows["validation"]["count"]["shown"] == 0
    assert found[1].rows["validation"]["count"]["shown"] == 1
    assert find_composed(runs=tmp_path / "nothing here") == []


def test_folders_that_are_named_are_compared(make_run, tables):
    one = make_run("07_gigagan_lite", "a", tables["right"], seed=1)
    two = make_run("07_gigagan_lite", "b", tables["empty"], seed=2)
    found = find_composed([two, str(one)])
    assert [part.label for part in found] == ["07_gigagan_lite, a", "07_gigagan_lite, b"]
    bare = make_run("08_minimagen", "c")
    with pytest.raises(MissingInput, match=r"has no tables/composition.csv.*-p data shapes"):
        find_composed([bare])
    with pytest.raises(MissingInput, match="has no run.json"):
        find_composed([bare.parent])


@pytest.mark.parametrize("text", ["", "row,n\n", "row,n,shown\ntrain: count,1,0\n", "row,n,shown\nx,y,z\n"])
def test_another_table_is_refused(make_run, tables, text):
    place = make_run("08_minimagen", "a", text, started="2026-01-02")
    with pytest.raises(BadParameter, match="is no table of the compositional check.*run the notebook again"):
        find_composed([place])
    older = make_run("08_minimagen", "b", tables["right"], started="2026-01-01")
    with pytest.warns(UserWarning, match="left out: .*is no table"):
        (found,) = find_composed(runs=place.parent.parent)
    assert found.folder == older, "one bad table takes no other with it"


def test_methods_stand_beside_their_baselines_by_category(make_run, tables):
    found = find_composed([make_run("07_gigagan_lite", "a", tables["right"], profile="full", seed=3),
                           make_run("08_minimagen", "b", tables["empty"], seconds=None)])
    seen = overview(found)
    assert seen.rows["07_gigagan_lite"] == {
        "profile": "full", "seed": 3, "minutes": 1.5, "train - validation": 0, "train": 1, "validation": 1,
        "train low": found[0].rows["train"][OVERALL]["low"], "train high": 1,
        "validation low": found[0].rows["validation"][OVERALL]["low"], "validation high": 1}
    assert seen.rows["08_minimagen"]["minutes"] is None and seen.rows["08_minimagen"]["validation"] == 0
    table = by_category(found, "validation")
    assert table.columns == [*CATEGORIES, OVERALL]
    assert list(table.rows) == [f"{name}{kind}" for kind in ("", ": shuffled captions", ": real pictures")
                                for name in ("07_gigagan_lite", "08_minimagen")]
    for category in table.columns:
        assert table.rows["07_gigagan_lite"][category] == table.rows["08_minimagen: real pictures"][category] == 1
        assert table.rows["08_minimagen"][category] == table.rows["08_minimagen: shuffled captions"][category] == 0
    assert table.rows["07_gigagan_lite: shuffled captions"][OVERALL] < 0.6
    assert "n = 2 pictures" in table.note


def test_what_is_missing_is_named_with_its_command(make_run, tables):
    found = find_composed([make_run("08_minimagen", "a", tables["right"])])
    missing = missing_composed(found)
    assert "08_minimagen" not in missing
    assert missing["07_gigagan_lite"] == "python -m t2ilib run 07 -p data shapes"
    assert missing_composed([]).keys() == set(notebooks_on_shapes())


def test_all_notebooks_that_train_on_the_shapes_end_with_the_one_table():
    names = notebooks_on_shapes()
    assert {name.partition("_")[0] for name in names} == {"05", "06", "07", "08", "09", "14"}
    for name in names:
        assert "keep_composition(run, " in (notebooks_dir() / f"{name}.py").read_text(encoding="utf-8"), name
    for path in list_notebooks():  # also not the one that shows the tables of others, and would find its own
        assert f'run.keep("{COMPOSITION}"' not in path.read_text(encoding="utf-8"), f"{path.stem} has another table"

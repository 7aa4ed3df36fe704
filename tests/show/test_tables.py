import csv
import io
import math

import pytest

from t2ilib.errors import BadParameter
from t2ilib.show import Table, deviations, over_seeds

ROWS = {
    "ours": {"top10": 0.6, "low": 0.5, "high": 0.7, "KID": 0.06, "seconds": 4, "name": "a<b"},
    "one draft": {"top10": 0.4, "low": 0.3, "high": 0.5, "KID": 0.02, "seconds": 1},
    "real drawings": {"top10": 0.9, "low": 0.85, "high": 0.95, "KID": None},
}
INTERVALS = {"top10": ("low", "high")}


def test_text_has_every_value_and_marks_the_best_row():
    text = str(Table(ROWS, units={"seconds": "s"}, intervals=INTERVALS, best="top10", baselines=["real drawings"],
                     digits=2, title="validation", note="n = 80"))
    lines = text.splitlines()
    assert lines[0] == "validation" and lines[-1] == "n = 80"
    assert lines[1].split() == ["top10", "KID", "seconds", "[s]", "name"]
    assert lines[2].split() == ["ours", "0.60", "[0.50,", "0.70]", "0.06", "4", "a<b", "*"]
    assert lines[4].split() == ["real", "drawings", "0.90", "[0.85,", "0.95]"]
    assert "* best by top10" in lines and len({len(line) for line in lines[1:3]}) <= 2


def test_the_best_row_may_be_the_least_and_is_no_baseline():
    assert Table(ROWS, best="-KID").best_rows() == ["one draft"]
    assert Table(ROWS, best="top10").best_rows() == ["real drawings"]
    assert Table(ROWS, best="top10", baselines={"real drawings"}).best_rows() == ["ours"]
    assert Table({"a": {"x": float("nan")}, "b": {"x": "text"}}, best="x").best_rows() == []


def test_rows_that_tie_are_all_best():
    table = Table({"a": {"x": 0.5}, "b": {"x": 1}, "c": {"x": 1.0}}, best="x")
    assert table.best_rows() == ["b", "c"] and table._repr_html_().count("<tr class='best'>") == 2
    assert str(table).count(" *") == 2


def test_html_escapes_draws_intervals_and_sets_the_best_in_bold():
    page = Table(ROWS, intervals=INTERVALS, best="top10", baselines=["real drawings"])._repr_html_()
    assert "a&lt;b" in page and page.count("class='interval'") == 3
    assert "<tr class='best'><td>ours</td>" in page and "<tr class='baseline'><td>real drawings</td>" in page
    assert "left:52.6%;width:21.1%" in page  # 0.5 to 0.7 on a scale from 0 to 0.95


def test_csv_has_all_numbers_as_they_are():
    rows = list(csv.DictReader(io.StringIO(Table(ROWS, intervals=INTERVALS).csv())))
    assert rows[0] == {"row": "ours", "top10": "0.6", "KID": "0.06", "seconds": "4", "name": "a<b", "low": "0.5",
                       "high": "0.7"}
    assert rows[2]["KID"] == ""


def test_columns_and_digits_by_name():
    text = str(Table(ROWS, columns=["seconds", "KID"], digits={"KID": 1}))
    assert text.splitlines()[0].split() == ["seconds", "KID"] and text.splitlines()[1].split() == ["ours", "4", "0.1"]


@pytest.mark.parametrize("call", [lambda: Table({}), lambda: Table(ROWS, columns=["top1"]),
                                  lambda: Table(ROWS, best="-kid")])
def test_bad_tables_are_refused(call):
    with pytest.raises(BadParameter):
        call()


def test_rows_of_several_seeds_become_a_mean_and_a_deviation_to_both_sides():
    rows = [{"KID": 1.0, "modes": 9, "step": 5}, {"KID": 3.0, "modes": 10, "step": 5}]
    row = over_seeds(rows, ["KID", "modes"])
    low, high = deviations(["KID"])["KID"]
    assert row["KID"] == 2.0 and row["modes"] == 9.5 and "step" not in row
    assert math.isclose(row[low], 2 - math.sqrt(2)) and math.isclose(row[high], 2 + math.sqrt(2))
    table = Table({"ours": row}, intervals=deviations(["KID", "modes"]), digits=1)
    assert table.columns == ["KID", "modes"] and "2.0 [0.6, 3.4]" in str(table)


def test_one_seed_has_no_deviation_and_keeps_its_values():
    row = over_seeds([{"KID": 1.0, "modes": 9, "step": 5}], ["KID", "modes"])
    assert row == {"KID": 1.0, "modes": 9}
    assert str(Table({"ours": row}, intervals=deviations(["KID"]), digits=1)).split()[-2:] == ["1.0", "9"]


def test_a_value_that_is_no_number_is_no_error():
    assert math.isnan(over_seeds([{"KID": math.nan}, {"KID": 1.0}], ["KID"])["KID"])

"""The tables of reports/RESULTS.md are those that the committed files give."""

import csv
import shutil

import pytest
from PIL import Image

from t2ilib.bench import BENCHMARKS
from t2ilib.checkpoint import read_config
from t2ilib.cli import main
from t2ilib.errors import BadParameter, MissingAsset
from t2ilib.media import png
from t2ilib.paths import checkpoints_dir, repo_root
from t2ilib.runner import measured, published

NOT_ON_THE_PAGE = {"profile"}  # hundreds of rows, which notebooks show


def test_the_page_is_up_to_date():
    _, outdated = measured.fill(measured.read_page(), measured.page_tables())
    assert outdated == [], "run `python -m t2ilib results`"


def test_every_committed_benchmark_is_on_the_page():
    committed = {path.stem for path in (repo_root() / measured.BENCHMARKS).glob("*.csv")}
    shown = {spec.benchmark for spec in measured.BENCHMARK_TABLES.values()}
    assert committed - NOT_ON_THE_PAGE <= shown
    assert shown <= set(BENCHMARKS)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder with the sources of the tables; returns it."""
    for name in ("benchmarks", "gallery"):
        shutil.copytree(repo_root() / "reports" / name, tmp_path / "reports" / name)
    shutil.copy(repo_root() / measured.PAGE, tmp_path / measured.PAGE)
    shutil.copytree(repo_root() / published.KEPT, tmp_path / published.KEPT)
    for module in (measured, published):
        monkeypatch.setattr(module, "repo_root", lambda: tmp_path)
    monkeypatch.setenv("T2I_EMBEDDED", str(repo_root() / "data"))
    return tmp_path


def change(path, **values):
    """Give a line of a CSV other values."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0].update(values)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_another_measurement_fails_the_check_and_is_written(clone, capsys):
    page = clone / measured.PAGE
    before = page.read_text(encoding="utf-8")
    change(clone / "reports/benchmarks/gan_step.csv", p50="77.7001", p20="70.0", p80="80.0")
    assert main(["results", "--check"]) == 1
    assert "gan_step" in capsys.readouterr().out
    assert page.read_text(encoding="utf-8") == before
    assert main(["results"]) == 0
    after = page.read_text(encoding="utf-8")
    assert "| 77.7 (70.0 to 80.0) | 1.00 |" in after
    assert main(["results", "--check"]) == 0
    kept = [line for line in before.splitlines() if line in after.splitlines()]
    assert len(kept) == len(before.splitlines()) - 1  # nothing else was touched


@pytest.mark.parametrize("p50, says", [("fast", "where a number should be"), (None, "lacks one of the columns")])
def test_a_csv_of_another_form_is_refused(clone, p50, says):
    path = clone / "reports/benchmarks/gan_step.csv"
    if p50 is None:
        path.write_text("kernel,provider\ngan_step,ours\n")
    else:
        change(path, p50=p50)
    with pytest.raises(BadParameter, match=says):
        measured.page_tables()


def test_an_absent_csv_names_its_command(clone):
    (clone / "reports/benchmarks/startup.csv").unlink()
    with pytest.raises(MissingAsset, match="bench startup"):
        measured.page_tables()


@pytest.mark.parametrize("page, says", [
    ("<!-- table: b -->\n<!-- end of table -->\n", "asks for the table 'b'"),
    ("<!-- table: a -->\nno end\n", "'a' has no end"),
    ("<!-- table: a -->\n<!-- table: a -->\n<!-- end of table -->\n", "'a' has no end"),
    ("nothing here\n", "has no place for a"),
])
def test_a_page_with_wrong_marks_is_refused(page, says):
    with pytest.raises(BadParameter, match=says):
        measured.fill(page, {"a": "| 1 |"})


def test_two_values_for_one_cell_are_refused():
    rows = [{"provider": "ours", "shape": "s", "mode": mode, "metric": "ms", "p50": "1"} for mode in ("a", "b")]
    with pytest.raises(BadParameter, match="has 2 values"):
        measured.benchmark_cell(rows, measured.Column("time", "ms"))


def test_cells():
    rows = [{"provider": "p", "shape": "s", "mode": "step", "metric": "ms", "p50": "1234.56", "p20": "1000",
             "p80": "2000", "ratio": "2.5"}]
    assert measured.benchmark_cell(rows, measured.Column("t", "ms", digits=0)) == "1,235 (1,000 to 2,000)"
    assert measured.benchmark_cell(rows, measured.Column("t", "ms", digits=2, field="ratio")) == "2.50"
    assert measured.benchmark_cell(rows, measured.Column("t", "s")) == measured.ABSENT
    assert measured.markdown(["a", "b"], [["x|y", measured.ABSENT]]) == "| a |\n| --- |\n| x\\|y |"


def test_cards_tell_what_they_hold():
    line = next(line for line in measured.checkpoint_table().splitlines() if "`emoji-minimagen-base`" in line)
    steps = read_config(checkpoints_dir() / "emoji-minimagen-base")["training"]["steps"]
    assert f"| {64 * steps:,} |" in line
    weights = checkpoints_dir() / "emoji-minimagen-base" / "model.safetensors"
    assert f"{weights.stat().st_size:,}" in line
    card = {"metrics": {"top1": 1, "held_out_top5": 0.25, "rows": [1]}}
    assert measured.card_metrics(card) == "held out top5 0.25, top1 1"


def test_pictures_tell_how_they_were_made(tmp_path):
    record = {"call": {"prompt": "a cat", "method": "minimagen", "seed": 3}}
    path = png.save_png(Image.new("RGB", (8, 8)), tmp_path / "a.png", record)
    assert measured.made_by(path) == "prompt a cat, method minimagen, seed 3"
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    assert measured.made_by(tmp_path / "b.png") == "none"

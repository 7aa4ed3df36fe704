"""The leaderboard on the page is the kept tables of one run."""

import csv
import json

import pytest

from t2ilib.errors import BadParameter, MissingAsset
from t2ilib.leaderboard.baselines import NEAREST
from t2ilib.runner import published

TRAIN = {"row": "A method", "place": 1, "top10": 0.875, "top1": 0.5, "low": 0.8, "high": 0.9, "photo10": 0.6}
UNSEEN = TRAIN | {"place": 2, "top10": 0.25, "photo10": 0.05, "photo_low": 0.0, "photo_high": 0.1, "kid": 0.5,
                  "kid_low": 0.4, "kid_high": 0.6, "precision": 0.2, "recall": 0.3, "within": 0.1, "nearest": 0.8,
                  "shuffled": 0.0, "lite0": "trained"}
MEAN = {"row": "the mean picture", "place": "", "top10": 0.0, "top1": 0.0, "low": 0.0, "high": 0.01}
PAIRS = [{"row": f"A method - {NEAREST}", "top10": -0.1, "low": -0.2, "high": 0.05, "p": 0.04321, "": "tie"},
         {"row": "A method - Another", "top10": 0.3, "low": 0.2, "high": 0.4, "p": 0.001, "": "better"},
         {"row": f"{NEAREST} - A poor one", "top10": 0.3, "low": 0.2, "high": 0.45, "p": 0.0001, "": "better"}]
PHOTO_PAIRS = [{"row": f"{NEAREST} - A method", "photo10": 0.2, "low": 0.1, "high": 0.3, "p": 0.002, "": "better"}]


def write_table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        names = list(dict.fromkeys(name for row in rows for name in row))
        table = csv.DictWriter(file, names)
        table.writeheader()
        table.writerows(rows)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The folder of a run, in a clone that has kept nothing yet."""
    monkeypatch.setattr(published, "repo_root", lambda: tmp_path)
    folder = tmp_path / "run"
    write_table(folder / "tables/table_train.csv", [TRAIN, MEAN])
    write_table(folder / "tables/table_held_out.csv", [UNSEEN, MEAN])
    write_table(folder / "tables/pairs_held_out.csv", PAIRS)
    write_table(folder / "tables/pairs_held_out_photo.csv", PHOTO_PAIRS)
    card = {"started": "2026-01-02T03:04:05+00:00", "commit": "abc1234", "device": "CPU, 2 threads", "profile": "full",
            "parameters": {"resolved": {"num_concepts": 80, "num_seeds": 3, "prompt": "left out"}}}
    (folder / "run.json").write_text(json.dumps(card))
    return folder


def test_a_run_becomes_the_tables_of_the_page(run):
    kept = published.keep_leaderboard(run)
    assert sorted(path.name for path in kept) == ["pairs_held_out.csv", "pairs_held_out_photo.csv", "run.json",
                                                  "table_held_out.csv", "table_train.csv"]
    tables = published.leaderboard_tables()
    board = tables["leaderboard"].splitlines()
    assert board[2] == ("| A method | 1 | 0.88 (0.50), 0.80 to 0.90 | 2 | 0.25 (0.50), 0.80 to 0.90 "
                        "| 0.60 | 0.05 (0.00 to 0.10) | 0.50 (0.40 to 0.60) | 0.20 | 0.30 | 0.10 | 0.80 | 0.00 "
                        "| trained |")
    assert board[3].startswith("| the mean picture | – | 0.00 (0.00), 0.00 to 0.01 |")
    assert board[3].endswith("| – |")
    assert "80 concepts of each split, 3 seeds; 2026-01-02, commit abc1234" in board[-1]
    pairs = tables["leaderboard_pairs"]
    assert pairs.splitlines()[2:4] == [
        "| A method | -0.10 (-0.20 to 0.05) | 0.043 | tie | -0.20 (-0.30 to -0.10) | 0.002 | worse |",
        "| A poor one | -0.30 (-0.45 to -0.20) | < 0.001 | worse | – | – | – |"]
    assert "Another" not in pairs


def test_the_row_that_is_looked_up_has_the_leaderboards_name():
    assert published.LOOKED_UP == NEAREST


def test_what_is_no_such_run_is_refused(run):
    with pytest.raises(MissingAsset, match="results --leaderboard RUN"):
        published.leaderboard_tables()
    (run / "tables/pairs_held_out.csv").unlink()
    with pytest.raises(MissingAsset, match="has no pairs_held_out"):
        published.keep_leaderboard(run)
    write_table(run / "tables/pairs_held_out.csv", PAIRS)
    published.keep_leaderboard(run)
    write_table(run.parent / published.KEPT / "table_train.csv", [{"label": "A method"}])
    with pytest.raises(BadParameter, match="no column 'row'"):
        published.leaderboard_table()

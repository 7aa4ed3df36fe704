import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import unquote

import pytest

from t2ilib.errors import BadParameter
from t2ilib.locks import hold, release
from t2ilib.sweep import LocalEngine
from t2ilib.sweep.results import numbers, table

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the pretended worker uses signals of POSIX")


def lines(sweep):
    with open(sweep.folder / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_every_run_is_performed_and_the_best_is_chosen(fake, begun):
    sweep, engine = fake(scales=(1, 3, 2), seeds=(0, 1), metric="validation_score", cpus=6)
    ended = []
    sweep.run(engine, watch=lambda _, row: ended.append(row) if row else None)
    assert begun() == ["1 0", "1 1", "2 0", "2 1", "3 0", "3 1"] and sweep.succeeded
    assert sorted(row.job.key for row in ended) == sorted(row.job.key for row in sweep.rows)
    found = table(sweep)
    assert found.best_rows() == ["scale=3"] and found.rows["scale=3"]["validation_score"] == pytest.approx(3.05)
    assert found.rows["scale=3"]["seeds"] == 2
    rows = lines(sweep)
    assert [(row["scale"], row["seed"]) for row in rows] == [("1", "0"), ("1", "1"), ("3", "0"), ("3", "1"), ("2", "0"),
                                                             ("2", "1")]
    assert rows[3]["validation_score"] == "3.1" and rows[3]["status"] == "ok" and rows[3]["attempts"] == "1"
    assert all((sweep.folder / row["folder"] / "run.json").is_file() for row in rows)


def test_less_may_be_better(fake):
    sweep, engine = fake(scales=(2, 1), metric="validation_score", goal="lowest")
    sweep.run(engine)
    assert table(sweep).best_rows() == ["scale=1"]


def test_what_has_finished_is_not_run_again(fake, begun):
    sweep, engine = fake(scales=(1,))
    sweep.run(engine)
    longer, engine = fake(scales=(1, 2))
    assert [row.kept for row in longer.rows] == [True, False]
    longer.run(engine)
    assert begun() == ["1 0", "2 0"] and longer.succeeded
    assert [row["status"] for row in lines(longer)] == ["ok", "ok"]
    anew, engine = fake(scales=(1, 2), again=True)
    anew.run(engine)
    assert begun() == ["1 0", "1 0", "2 0", "2 0"]


def test_a_run_whose_process_was_killed_at_the_end_has_not_finished(fake):
    sweep, engine = fake(scales=(1,))
    sweep.run(engine)
    (sweep.rows[0].job.run_dir / "run.json.lock").touch()  # nobody came to release it
    assert not fake(scales=(1,))[0].rows[0].kept


def test_a_lost_worker_costs_its_run_only(fake, begun):
    sweep, engine = fake(scales=(1, 13, 2))
    sweep.run(engine)
    assert [row.status for row in sweep.rows] == ["ok", "lost", "ok"] and not sweep.succeeded
    lost = sweep.rows[1]
    assert "signal 9" in lost.error and lost.attempts == 1 and begun().count("13 0") == 1
    assert json.loads((lost.job.run_dir / "run.json").read_text())["status"] == "interrupted"
    assert lines(sweep)[1]["status"] == "lost" and "signal 9" in lines(sweep)[1]["error"]
    again, engine = fake(scales=(1, 13, 2))
    again.run(engine)
    assert begun() == ["1 0", "13 0", "13 0", "2 0"]


def test_a_failure_of_its_own_is_not_tried_again(fake, begun):
    sweep, engine = fake(scales=(15, 1))
    sweep.run(engine, retries=5)
    assert [row.status for row in sweep.rows] == ["failed", "ok"] and begun() == ["1 0", "15 0"]
    assert sweep.rows[0].error == "ValueError: no"


@pytest.mark.parametrize(("scale", "attempts"), [(14, 3), (16, 2)])
def test_a_failure_to_start_is_tried_again(fake, begun, scale, attempts):
    sweep, engine = fake(scales=(scale, 1))
    sweep.run(engine)
    assert sweep.succeeded and begun().count(f"{scale} 0") == attempts == sweep.rows[0].attempts
    assert len(sweep.notes) == attempts - 1 and "tried again" in sweep.notes[0] and sweep.rows[0].error == ""


def test_tries_have_an_end(fake, begun):
    sweep, engine = fake(scales=(14,))
    sweep.run(engine, retries=1)
    assert sweep.rows[0].status == "lost" and begun() == ["14 0"] * 2
    assert sweep.rows[0].error == "its worker ended with code 9: no room"


@pytest.mark.parametrize(("cpus", "per_run", "most"), [(2, 1, 2), (5, 2, 2), (1, 1, 1)])
def test_runs_are_placed_by_the_cpus_that_they_take(fake, tmp_path, cpus, per_run, most):
    sweep, engine = fake(scales=(1, 2, 3, 4), cpus=cpus, cpus_per_run=per_run)
    sweep.run(engine)
    spans = [tuple(map(float, line.split())) for line in (tmp_path / "times.txt").read_text().splitlines()]
    at_once = []
    for moment, _ in spans:
        at_once.append(sum(began <= moment < ended for began, ended in spans))
    assert len(spans) == 4 and max(at_once) <= most == engine.slots


def test_what_a_machine_does_not_have_is_refused():
    with pytest.raises(BadParameter, match="takes cpus: 4, and there are 2"):
        LocalEngine(cpus=2, cpus_per_run=4)
    with pytest.raises(BadParameter, match="gpus: 1 asks for GPUs, which `--engine ray` places"):
        LocalEngine(gpus_per_run=1)


def test_an_interrupt_ends_the_runs_and_keeps_what_there_is(fake, begun):
    sweep, engine = fake(scales=(1, 17, 2), cpus=1)
    main_thread = threading.main_thread().ident

    def interrupt_when_it_waits():
        end = time.monotonic() + 30
        while "17 0" not in begun() and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(0.5)
        signal.pthread_kill(main_thread, signal.SIGINT)

    threading.Thread(target=interrupt_when_it_waits, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        sweep.run(engine)
    assert time.monotonic() - began < 30 and begun() == ["1 0", "17 0"]
    assert [row.status for row in sweep.rows] == ["ok", "interrupted", "waiting"]
    assert [row["status"] for row in lines(sweep)] == ["ok", "interrupted", "waiting"]
    assert fake(scales=(1, 17, 2))[0].rows[0].kept


def test_two_sweeps_do_not_share_a_folder(fake):
    sweep, engine = fake()
    sweep.folder.mkdir()
    held = sweep.folder / "results.csv"
    code = f"import sys, time; from t2ilib.locks import hold; hold({str(held)!r}); print(1, flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        with pytest.raises(BadParameter, match="in use by another run"):
            sweep.run(engine)
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    hold(held)
    release(held)


def test_the_page_shows_every_run_and_nothing_of_the_held_out_split(fake):
    sweep, engine = fake(scales=(1, 2, 15), metric="validation_score")
    sweep.run(engine)
    page = (sweep.folder / "index.html").read_text()
    assert page.count('<article class="card"') == 3 and page.count('data-latest="1"') == 3
    assert "scale=2" in page and "<tr class='best'><td>scale=2</td>" in page and "ValueError: no" in page
    assert "held_out_score" not in page and "held_out_score" not in (sweep.folder / "results.csv").read_text()
    links = [unquote(link) for link in re.findall(r"<a href='([^']*)'>folder", page)]
    assert len(links) == 3 and all((sweep.folder / link).is_dir() for link in links)
    assert "{{" not in page and not re.search(r'(src|href)=["\'](https?:)?//', page)


def test_a_metric_that_nobody_recorded_is_said(fake):
    sweep, engine = fake(metric="validation_scor")
    sweep.run(engine)
    assert len(sweep.notes) == 1 and "recorded no metric 'validation_scor'" in sweep.notes[0]
    assert "validation_score" in sweep.notes[0] and table(sweep).best_rows() == []


def test_combinations_without_all_seeds_are_not_compared(fake):
    sweep, engine = fake(scales=(1, 2), seeds=(0, 1), metric="validation_score")
    sweep.run(engine)
    sweep.rows[3].status = "failed"
    found = table(sweep)
    assert found.best_rows() == ["scale=1"] and found.rows["scale=2"]["seeds"] == 1 and "lack seeds" in found.note


def test_rows_near_the_best_are_named(fake):
    sweep, engine = fake(scales=(1, 1.05, 3), seeds=(0, 1), metric="validation_score", cpus=6)
    sweep.run(engine)
    assert "within one deviation" not in table(sweep).note
    for row in sweep.rows[4:]:
        row.record["metrics"]["validation_score"] = 1.15 + row.job.seed / 10
    assert table(sweep).best_rows() == ["scale=3"]
    assert "within one deviation of the best: scale=1.05" in table(sweep).note


def test_numbers_of_metrics():
    metrics = {"a": 1, "b": {"value": 2.5, "n": 8}, "c": {"d": 3.0, "held_out": 1.0}, "e": "text", "f": float("nan"),
               "held_out_top10": 0.5, "g": True}
    assert numbers(metrics) == {"a": 1, "b": 2.5, "c.d": 3.0}


def test_nothing_to_do_begins_no_engine(fake):
    sweep, engine = fake(scales=(1,))
    sweep.run(engine)
    kept, _ = fake(scales=(1,))
    kept.run(None)
    assert kept.succeeded and Path(kept.folder, "index.html").is_file()

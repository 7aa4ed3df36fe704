"""What `test_full_disk` runs inside a file system of 3 MB: python tests/small_disk.py CASE FOLDER."""

import contextlib
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from PIL import Image  # noqa: E402

from t2ilib.cli import generate, main  # noqa: E402
from t2ilib.files import read_json  # noqa: E402
from t2ilib.media.png import read_record  # noqa: E402

DRAW = ("generate", "a red heart", "-o", "steps=2", "-o", "num_cutouts=2", "-o", "candidates=1")


def fill(disk):
    """Leave no room on the disk."""
    with contextlib.suppress(OSError), open(disk / "filler", "ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def call(*argv):
    """Return exit code and the lines on stderr that begin with the program's name."""
    stream = io.StringIO()
    with contextlib.redirect_stderr(stream):
        code = main([str(argument) for argument in argv])
    assert "Traceback" not in stream.getvalue(), stream.getvalue()
    return code, [line for line in stream.getvalue().splitlines() if line.startswith("t2ilib:")]


def draw_onto_a_full_disk(disk):
    """A finished picture goes elsewhere, an old one stays, and a state that has no room does not stop a run."""
    out = disk / "out.png"
    assert call(*DRAW, "--out", out)[0] == 0
    before = out.read_bytes()
    original = generate._finish

    def finish(*args):
        fill(disk)
        return original(*args)

    generate._finish = finish
    with tempfile.TemporaryDirectory(dir=Path.home(), prefix="t2ilib-test-") as elsewhere:
        for places in ((elsewhere, disk), (disk, elsewhere)):  # of temporary files, and the home
            tempfile.tempdir, os.environ["HOME"] = map(str, places)
            code, lines = call(*DRAW, "--out", out, "--seed", 1)
            assert code == 1 and len(lines) == 1, (code, lines)
            assert "(No space left on device); the picture is in " in lines[0], lines
            kept = Path(lines[0].rsplit(" ", 1)[1])
            assert kept.is_relative_to(elsewhere) and read_record(kept)["call"]["seed"] == 1
            assert out.read_bytes() == before and sorted(p.name for p in disk.iterdir()) == ["filler", "out.png"]
            (disk / "filler").unlink()
    generate._finish = original
    fill(disk)
    code, lines = call(*DRAW, "--out", out)
    assert code == 2 and len(lines) == 1 and "No space left on device" in lines[0], lines
    (disk / "filler").unlink()
    draw_while_states_have_no_room(disk)


def draw_while_states_have_no_room(disk):
    from t2ilib.guidance import GuidanceConfig, vqgan_clip

    def fill_at_once(_):
        fill(disk)

    config = GuidanceConfig("a red heart", steps=3, num_cutouts=2, candidates=1)
    result = vqgan_clip(config, state=disk / "state", save_every=0, callback=fill_at_once)
    assert result.record["steps_done"] == 3


def write_to_a_read_only_disk(disk):
    """Everything that would write says so before the work, in one line."""
    out = disk / "out.png"
    Image.new("RGB", (8, 8)).save(out)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    code, lines = call(*DRAW, "--out", out)
    assert code == 2 and len(lines) == 1 and "Read-only file system" in lines[0], lines
    os.environ["T2I_REPORTS"] = str(disk / "reports")
    for argv in (("run", "11", "--profile", "smoke"), ("train", "11", "--profile", "smoke"), ("report",)):
        code, lines = call(*argv)
        assert code in (1, 2) and len(lines) == 1 and "Read-only file system" in lines[0], (argv, lines)


def run_onto_a_full_disk(disk):
    """A run whose folder is full has failed; its record is whole, and the page says that it did not end."""
    from t2ilib.runner.report import load_runs

    os.environ["T2I_REPORTS"] = str(disk)
    notebooks = disk / "notebooks"
    notebooks.mkdir()
    (notebooks / "90_tiny.py").write_text(f'''\
# %% tags=["parameters"]
profile: str = "quick"
seed: int = 0

# %%
import contextlib
from t2ilib.record import Run
run = Run("90_tiny", given={{"profile": profile, "seed": seed}})
with contextlib.suppress(OSError), open({str(disk / "filler")!r}, "ab", buffering=0) as file:
    while True:
        file.write(bytes(4096))
run.metric(text="x" * 5000)
run.finish()
''')
    from t2ilib.runner.launch import run_script
    from t2ilib.runner.plan import plan_run

    try:
        run_script(plan_run("90_tiny", folder=notebooks))
    except OSError as error:
        assert error.errno == 28, error
    (disk / "filler").unlink()
    record = load_runs(disk / "runs")[0]
    assert read_json(record["dir"] / "run.json")["name"] == "90_tiny"
    assert record["status"] in ("failed", "interrupted"), record["status"]
    assert call("report")[0] == 0


if __name__ == "__main__":
    cases = {"generate": draw_onto_a_full_disk, "read_only": write_to_a_read_only_disk, "run": run_onto_a_full_disk}
    os.environ["T2I_RUN_DIR"] = ""
    cases[sys.argv[1]](Path(sys.argv[2]))

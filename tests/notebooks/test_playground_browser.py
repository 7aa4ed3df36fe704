"""The playground in a real JupyterLab, driven by a real browser: type, click, wait, and the picture is there."""

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import jupytext
import nbformat
import pytest

from t2ilib.paths import notebooks_dir, repo_root
from t2ilib.runner.page import free_port

PATIENCE = 300_000  # milliseconds: a busy machine with two cores needs a minute for the imports alone
SETTINGS = {  # nothing pops up, nothing is fetched, and cells out of sight are drawn too
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    "notebook-extension/tracker": {"windowingMode": "none"},
}
FAILED = '.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]'


@pytest.fixture
def lab(tmp_path):
    """A JupyterLab of its own, with a copy of the playground in profile smoke: (address of the notebook, reports)."""
    place, state = tmp_path / "place", tmp_path / "jupyter"
    place.mkdir()
    (place / "t2ilib").symlink_to(repo_root() / "t2ilib", target_is_directory=True)
    notebook = jupytext.read(notebooks_dir() / "00_playground.ipynb")
    at = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell('profile = "smoke"'))
    nbformat.write(notebook, place / "00_playground.ipynb")
    for name, values in SETTINGS.items():
        path = state / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    env = {key: value for key, value in os.environ.items() if not key.startswith(("JUPYTER", "JPY_", "PYTEST", "T2I_"))}
    env |= {"T2I_INTERACTIVE": "1", "T2I_REPORTS": str(tmp_path / "reports"), "IPYTHONDIR": str(state / "ipython"),
            "JUPYTERLAB_SETTINGS_DIR": str(state / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(state / "workspaces"),
            **{f"JUPYTER_{kind}_DIR": str(state / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}}
    with _server(place, state, env) as (address, token):
        yield f"{address}/lab/tree/00_playground.ipynb?token={token}", tmp_path / "reports"


@contextlib.contextmanager
def _server(place: Path, state: Path, env: dict[str, str]):
    port = free_port(0)
    token, address = secrets.token_hex(16), f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
               "--ServerApp.port_retries=0", f"--ServerApp.root_dir={place}", f"--IdentityProvider.token={token}",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    log = state / "log.txt"
    with log.open("w") as out:
        server = subprocess.Popen(command, env=env, stdout=out, stderr=out, cwd=place, start_new_session=True)
    try:
        _until_up(f"{address}/api/status?token={token}", server, log)
        yield address, token
    finally:
        _end(server, address, token)


def _until_up(url: str, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=10).close()
            return
        assert server.poll() is None, log.read_text()[-3000:]
        time.sleep(0.3)
    raise TimeoutError(f"JupyterLab did not answer; its log ends with:\n{log.read_text()[-3000:]}")


def _end(server: subprocess.Popen, address: str, token: str) -> None:
    """Ask the server to end, which ends its kernels; what is still there after that is killed."""
    import psutil  # comes with ipykernel

    family = []
    with contextlib.suppress(psutil.Error):
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    with contextlib.suppress(OSError):
        urllib.request.urlopen(urllib.request.Request(f"{address}/api/shutdown?token={token}", method="POST"),
                               timeout=10).close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(30)
    _, left = psutil.wait_procs(family, timeout=5)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    server.wait(10)
    assert not psutil.wait_procs(left, timeout=10)[1]


@pytest.mark.slow
def test_click_and_the_picture_is_there(lab, browser, stroke, tmp_path):
    url, reports = lab
    page, errors = browser.new_page(viewport={"width": 1280, "height": 1000}), []
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    try:
        panel = _run_all(page)
        _draw(page, panel, "a blue car")
        _save(panel, reports)
        _mark(page, panel, stroke)
        _refuse(panel)
        _stop(panel)
    finally:
        page.screenshot(path=os.environ.get("T2I_SCREENSHOT") or tmp_path / "playground.png")
    assert page.locator(FAILED).count() == 0 and errors == []


def _run_all(page):
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()
    page.locator("#jp-main-statusbar").get_by_text("(ipykernel) | Idle").wait_for()  # else Lab asks for a kernel
    page.locator("#jp-MainMenu").get_by_text("Run", exact=True).click()
    page.locator(".lm-Menu-itemLabel").get_by_text("Run All Cells", exact=True).click()
    failed, panel = page.locator(FAILED), page.locator(".t2i-panel")
    panel.or_(failed).first.wait_for()
    assert failed.count() == 0, failed.first.inner_text()
    return panel


def _draw(page, panel, prompt):
    panel.locator(".t2i-prompt input").fill(prompt)
    panel.get_by_role("button", name="Draw").click()
    panel.locator(".t2i-row", has_text=prompt).wait_for()  # the history's row: drawn and measured
    pictures = panel.locator(".t2i-picture img")
    assert pictures.count() == 2
    assert all(w >= 64 for w in pictures.evaluate_all("all => all.map(i => i.complete && i.naturalWidth)"))
    panel.get_by_text(re.compile(r"2 pictures in [\d.]+ s")).first.wait_for()
    caption = panel.locator(".t2i-picture").first.inner_text()
    assert re.search(r"seed 0\s+guide -?[01]\.\d\d\s+judge -?[01]\.\d\d\s+sees \w+", caption), caption
    assert panel.locator(".t2i-error").count() == 0
    box, column = panel.bounding_box(), page.locator(".jp-OutputArea-output", has=panel).bounding_box()
    assert box["x"] >= column["x"] and box["x"] + box["width"] <= column["x"] + column["width"] + 1


def _save(panel, reports):
    panel.locator(".t2i-picture").nth(1).locator(".t2i-save").click()
    panel.get_by_text("Saved as").wait_for()
    picture, = reports.rglob("a-blue-car_s1.png")
    record = json.loads(picture.with_suffix(".json").read_text())
    assert record["asked"]["prompt"] == "a blue car" and record["picture"] == 1 and record["checkpoints"]
    run = json.loads((picture.parent.parent / "run.json").read_text())
    assert [made["file"] for made in run["artefacts"]] == [f"pictures/a-blue-car_s1.{kind}" for kind in ("png", "json")]
    assert run["metrics"]["drawings"] == 1


def _mark(page, panel, stroke):
    """A stroke of the mouse reaches the kernel, and is taken back."""
    stroke(page, panel, (0.3, 0.5), (0.7, 0.5), steps=5)
    panel.get_by_role("button", name="undo").click()
    panel.get_by_text("Without a stroke").wait_for()
    panel.get_by_role("button", name="edit no picture").click()
    panel.locator(".t2i-canvas-mask").wait_for(state="hidden")


def _refuse(panel):
    """What is wrong is said in the panel, in words."""
    panel.get_by_text("options", exact=True).click()
    others = panel.get_by_placeholder("name=value")
    others.fill("learning_rat=1")
    panel.get_by_role("button", name="Draw").click()
    error = panel.locator(".t2i-error")
    error.wait_for()
    assert "learning_rate" in error.inner_text() and "Traceback" not in panel.inner_text()


def _stop(panel):
    """The kernel hears the stop button while it draws, and keeps what there is."""
    panel.get_by_placeholder("name=value").fill("steps=100000")
    panel.get_by_role("button", name="Draw").click()
    panel.get_by_text(re.compile(r"step \d+ of 100000")).first.wait_for()
    panel.get_by_role("button", name="Stop").click()
    panel.get_by_text(re.compile(r"stopped at step \d+")).first.wait_for()
    panel.locator(".t2i-row").nth(1).wait_for()  # the row comes after the line that says where it stopped

"""The playground as a page, in a real browser: type and a picture comes, draw a mask with the mouse, save."""

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2ilib.paths import repo_root

PATIENCE = 240_000  # milliseconds: a busy machine with two cores needs a minute for the imports alone
WIDTHS = (480, 900, 1400)
ERROR = '[data-mime-type="application/vnd.jupyter.error"]'
ROUNDING = 2  # of 255: what scaling the picture for the screen may change where nothing is drawn


@pytest.fixture
def served(tmp_path):
    """The command that serves the page in profile smoke: (address, folder of reports)."""
    strangers = ("JUPYTER", "JPY_", "PYTEST", "T2I_")
    env = {key: value for key, value in os.environ.items() if not key.startswith(strangers)}
    env |= {"T2I_REPORTS": str(tmp_path / "reports"), "IPYTHONDIR": str(tmp_path / "ipython"),
            "PYTHONPATH": str(repo_root())}
    env |= {f"JUPYTER_{kind}_DIR": str(tmp_path / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    command = [sys.executable, "-m", "t2ilib", "app", "--port", "0", "--no-browser", "--profile", "smoke",
               "-p", "method", "generator"]
    log = tmp_path / "log.txt"
    with log.open("w") as out:
        server = subprocess.Popen(command, env=env, stdout=out, stderr=out, cwd=tmp_path, start_new_session=True)
    try:
        yield _address(server, log), tmp_path / "reports"
    finally:
        _end(server)


def _address(server: subprocess.Popen, log: Path) -> str:
    """Return the address that the command prints, once somebody listens there."""
    end = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()[-3000:]
        found = re.search(r"http://localhost:(\d+)/", log.read_text())
        if found:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", int(found[1])), timeout=10).close()
                return f"http://127.0.0.1:{found[1]}/"
        time.sleep(0.3)
    raise TimeoutError(f"the page was not served; the log ends with:\n{log.read_text()[-3000:]}")


def _end(server: subprocess.Popen) -> None:
    """End the command as a person or a machine does; it takes the processes of its pages with it."""
    import psutil  # comes with ipykernel

    family = []
    with contextlib.suppress(psutil.Error):
        family = psutil.Process(server.pid).children(recursive=True)
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(60)
        _, left = psutil.wait_procs(family, timeout=20)
        assert left == [], "processes of the page outlived the command"
    finally:
        for process in (server, *family):
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                process.kill()


@pytest.mark.long
def test_the_page_draws_while_one_types_and_under_a_mask(served, browser, stroke, tmp_path):
    address, reports = served
    page = browser.new_page(viewport={"width": 900, "height": 1000}, color_scheme="light")
    page.set_default_timeout(PATIENCE)
    errors = []
    outside = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: outside.append(request.url) if _is_outside(request.url, address) else None)
    page.goto(address)
    panel = page.locator(".t2i-panel")
    try:
        panel.or_(page.locator(ERROR)).first.wait_for()
        assert page.locator(ERROR).count() == 0, page.locator(ERROR).first.inner_text()
        _reads_as_a_page(page)
        _draws_while_one_types(panel)
        _fits_widths_and_is_dark_where_asked(page)
        _edits(page, panel, stroke)
        _saves(panel, reports)
    finally:
        page.screenshot(path=os.environ.get("T2I_SCREENSHOT") or tmp_path / "page.png", full_page=True)
    assert errors == [] and outside == []


def _is_outside(url: str, address: str) -> bool:
    return not url.startswith((address, address.replace("http", "ws"), "data:", "blob:"))


def _reads_as_a_page(page):
    """Its words make sense without code, and no code is there."""
    assert page.title() == "Playground"
    words = page.locator("body").inner_text()
    assert "Type a prompt" in words and "Two opinions" in words and "What to expect" in words
    assert "import" not in words and "Exercises" not in words and str(repo_root()) not in words
    assert page.locator(".jp-InputArea-editor:visible").count() == 0


def _draws_while_one_types(panel):
    prompt = panel.locator(".t2i-prompt input")
    prompt.clear()
    prompt.press_sequentially("a red apple")
    panel.get_by_text(re.compile("drawn while you type")).wait_for()
    picture = panel.locator(".t2i-picture img").first
    assert picture.evaluate("image => image.complete && image.naturalWidth") >= 64
    assert panel.locator(".t2i-row").count() == 0  # it is kept only when that is asked for
    panel.get_by_role("button", name="Draw").click()
    panel.locator(".t2i-row", has_text="a red apple").wait_for()
    assert re.search(r"seed 0\s+judge -?[01]\.\d\d\s+sees \w+", panel.locator(".t2i-picture").first.inner_text())


def _fits_widths_and_is_dark_where_asked(page):
    colour = "getComputedStyle(document.body).backgroundColor"
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 1000})
            page.wait_for_timeout(300)
            assert page.locator("#rendered_cells").evaluate("box => box.scrollWidth") <= width
            red, green, blue = map(int, re.findall(r"\d+", page.evaluate(colour))[:3])
            assert (red + green + blue < 300) == (scheme == "dark")
    page.set_viewport_size({"width": 900, "height": 1000})


def _edits(page, panel, stroke):
    """A stroke of the mouse is what a method draws anew; the rest is kept."""
    panel.get_by_label("method").select_option("minimagen")
    before = _pixels(panel)
    stroke(page, panel, (0.2, 0.2), (0.8, 0.2), steps=10)
    panel.locator(".t2i-prompt input").fill("a blue hat")
    panel.get_by_role("button", name="Draw").click()
    panel.locator(".t2i-row", has_text="a blue hat").or_(panel.locator(".t2i-error")).first.wait_for()
    assert panel.locator(".t2i-error").count() == 0, panel.locator(".t2i-error").inner_text()
    difference = np.abs(_pixels(panel) - before).max(axis=-1)  # (H, W)
    height = len(difference)
    assert difference[height // 10:3 * height // 10].max() > 20 * ROUNDING
    assert difference[4 * height // 10:].mean() <= ROUNDING


def _pixels(panel) -> np.ndarray:
    """Return the first picture of the panel: (256, 256, 3)."""
    fetch = "async image => Array.from(new Uint8Array(await (await fetch(image.src)).arrayBuffer()))"
    data = bytes(panel.locator(".t2i-picture img").first.evaluate(fetch))
    picture = Image.open(io.BytesIO(data)).convert("RGB").resize((256, 256))
    return np.asarray(picture).astype(float)


def _saves(panel, reports):
    panel.locator(".t2i-picture").first.locator(".t2i-save").click()
    panel.get_by_text("Saved as").wait_for()
    picture, = reports.rglob("a-blue-hat_s0.png")
    record = json.loads(picture.with_suffix(".json").read_text())
    assert record["asked"]["method"] == "minimagen" and Path(record["asked"]["mask"]).is_file()
    assert record["config"]["steps"] == 2  # the profile's
    run = json.loads((picture.parent.parent / "run.json").read_text())
    kinds = sorted(made["file"].split("/")[0] for made in run["artefacts"])
    assert kinds == ["edits", "edits", "pictures", "pictures"]

"""What all tests share: reports and cache in scratch folders, no network, one thread, tiny notebooks, a browser."""

import atexit
import os
import random
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

# Set before torch is imported, and inherited by worker processes and notebook kernels.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels run on the CPU; 0 tests them compiled, on a GPU
os.environ["HF_HUB_OFFLINE"] = "1"  # what ships must be enough; a test that reaches for the network fails here too
for name in ("T2I_RUN_DIR", "T2I_INTERACTIVE"):
    os.environ.pop(name, None)
if "PYTEST_XDIST_WORKER" not in os.environ:
    for name in ("T2I_REPORTS", "T2I_CACHE"):
        os.environ[name] = tempfile.mkdtemp(prefix="t2i-test-")
        atexit.register(shutil.rmtree, os.environ[name], ignore_errors=True)

HEADER = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Tiny
# [![Open in Colab](badge.svg)](https://colab.research.google.com/github/OWNER/REPO/blob/main/notebooks/{name}.ipynb)
# See https://github.com/other/project too.

# %% tags=["setup"]
import sys
REPOSITORY = "https://github.com/OWNER/REPO"
if "google.colab" in sys.modules:
    print("git clone", REPOSITORY)

# %% nbmake={{"mock": {{"profile": "smoke"}}}} tags=["parameters"]
profile: str = "quick"  # smoke, quick or full
seed: int = 0
scale: float = 2.0  # how much
flag: bool = True
words: list[str] = ["a", "b"]
limit: int | None = None

"""


@pytest.fixture(autouse=True)
def same_numbers():
    """A test draws the same numbers by itself as among others."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def tiny(tmp_path):
    """A function that adds a notebook with the given last cell to a small repository; returns its notebooks folder."""
    root = tmp_path / "repository"
    folder = root / "notebooks"

    def add(body: str = "print(scale)", name: str = "90_tiny") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        source = Path(__file__).parent.parent / "notebooks" / "jupytext.toml"
        shutil.copy(source, folder / "jupytext.toml")
        (root / "pyproject.toml").write_text('[project]\nname = "x"\n\n[project.urls]\n'
                                             'Repository = "https://github.com/OWNER/REPO"\n')
        text = HEADER.format(name=name) + "# %%\n" + textwrap.dedent(body).strip() + "\n"
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
        return folder

    return add


@pytest.fixture(scope="session")
def run_python():
    """A function that runs a script, under torchrun in several processes, and asserts that it ended well."""
    from t2ilib.paths import repo_root

    def run(script, *arguments, processes=1, **environment):
        torchrun = []
        if processes > 1:
            torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command = [sys.executable, *torchrun, str(script), *map(str, arguments)]
        env = os.environ | {"PYTHONPATH": str(repo_root()), "OMP_NUM_THREADS": "1"} | environment
        done = subprocess.run(command, capture_output=True, text=True, cwd=repo_root(), env=env, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]

    return run


@pytest.fixture(scope="session")
def wait_for():
    """A function that waits until a condition holds."""
    def wait(condition, seconds=60):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.2)

    return wait


@pytest.fixture(scope="session")
def is_alive():
    """A function that returns whether a process of this number runs; reads /proc."""
    def alive(pid):
        try:
            with open(f"/proc/{pid}/stat") as file:
                return file.read().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False

    return alive


@pytest.fixture
def serve():
    """serve(handler) starts a server of this machine and returns it, its address as `url`; it ends with the test."""
    running = []

    def serve(handler):
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        running.append((server, thread))
        return server

    yield serve
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    """Downloads are allowed, into an empty cache; no proxy interferes."""
    for name in ("T2I_DATA", "T2I_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("T2I_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def tiny_clip():
    """A function that returns a small random open_clip ViT with QuickGELU, for square views of the given side."""
    import torch

    from t2ilib.encoders.clip import Clip
    from t2ilib.encoders.open_clip_checkpoints import build

    def make(image_size: int) -> Clip:
        model = build({"embed_dim": 16, "vision_cfg": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8,
                                                       "image_size": image_size},
                       "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}},
                      quick_gelu=True, precision="fp32")
        clip = Clip(model, lambda texts: torch.arange(8).repeat(len(texts), 1), name="tiny", dim=16,
                    image_size=image_size, mean=[0.5] * 3, std=[0.3] * 3)
        return clip.eval().requires_grad_(False)

    return make


def find_browser() -> str | None:
    """Return the path of an installed Chromium or Chrome."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    mac = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
    return next(filter(None, map(shutil.which, names)), str(mac) if mac.exists() else None)


@pytest.fixture
def browser():
    """A headless Chromium or Chrome through playwright; tests that want it are skipped where there is none."""
    path = find_browser()
    if path is None:
        pytest.skip("no Chromium or Chrome is installed")
    sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def stroke():
    """A function that draws a line with the mouse on the canvas of the playground's first picture."""
    def draw(page, panel, start, end, steps):
        """Begin to edit the picture, and draw between two places, in shares of the canvas, by so many moves."""
        panel.locator(".t2i-picture").first.locator(".t2i-edit").click()
        canvas = panel.locator(".t2i-canvas-mask")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        page.mouse.move(box["x"] + start[0] * box["width"], box["y"] + start[1] * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + end[0] * box["width"], box["y"] + end[1] * box["height"], steps=steps)
        page.mouse.up()
        panel.get_by_text("What is marked is drawn anew").wait_for()
    return draw


class WatchedNotebooks:
    """Notebooks under nbmake run as if a person watched; as scripts, in `tests/notebooks`, nobody does."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        with pytest.MonkeyPatch.context() as patch:
            if item.path.suffix == ".ipynb":
                patch.setenv("T2I_INTERACTIVE", "1")  # inherited by the kernel
            return (yield)


class LongestFirst:
    """Each process of `-n N --dist worksteal` begins with notebooks, then runs slow tests, and quick ones last.

    It is given a stretch of the list, and when it has done that, the end of another's: what is left then is quick.
    """

    @pytest.hookimpl(trylast=True)  # what `-m` leaves out is gone
    def pytest_collection_modifyitems(self, items):
        processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        if processes > 1:
            items[:] = self.ordered(items, processes)

    def ordered(self, items, processes):
        """Return the items in `processes` stretches of equal length."""
        notebooks = []
        slow = []
        quick = []
        for item in items:
            if item.path.suffix == ".ipynb":
                notebooks.append(item)
            elif item.get_closest_marker("slow"):
                slow.append(item)
            else:
                quick.append(item)
        long = notebooks + slow
        stretches = []
        for process in range(processes):
            size = (len(items) - len(stretches)) // (processes - process)
            share = long[process::processes]
            count = max(0, size - len(share))
            stretches += share + quick[:count]
            quick = quick[count:]
        return stretches + quick


def pytest_configure(config):
    """Register what also concerns tests outside this folder, whose hooks this file would not get."""
    config.pluginmanager.register(WatchedNotebooks())
    config.pluginmanager.register(LongestFirst(), "longest first")


def pytest_collection_modifyitems(items):
    """Mark what runs a notebook: nbmake's items, and everything in tests/notebooks."""
    notebooks = Path(__file__).parent / "notebooks"
    for item in items:
        if item.path.suffix == ".ipynb" or item.path.is_relative_to(notebooks):
            item.add_marker(pytest.mark.notebook)

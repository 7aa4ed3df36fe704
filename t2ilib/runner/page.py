"""A notebook as a page of its own: its code runs unseen, and of its words those tagged `page` are shown (Voila)."""

import os
import re
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .plan import Plan
from ..errors import BadParameter, MissingAsset
from ..paths import python_path

HOST = "127.0.0.1"  # this machine alone may ask for the page
TAG = "page"  # of the words that make sense without code
TEMPLATES = Path(__file__).with_name("jupyter")  # laid out as a data folder of Jupyter
FORGOTTEN_AFTER = 600  # seconds after which the process of a page that nobody watches ends


def import_voila() -> Any:
    """Return the class `voila.app.Voila`; raises MissingAsset where the package is not installed."""
    try:
        from voila.app import Voila
    except ImportError as error:
        raise MissingAsset(f'the page needs the package voila, an extra ({error}): {sys.executable} -m pip install '
                           '"voila>=0.5", or `pip install -e ".[app]"` in this repository, or make app; the same panel '
                           "without it: notebook 00 in JupyterLab (make lab)") from error
    return Voila


def free_port(port: int) -> int:
    """Return `port`, or one that is free where it is 0; raises BadParameter where it cannot be listened on."""
    if not 0 <= port <= 65535:
        raise BadParameter(f"--port must be from 0 to 65535, got {port}; 0 takes any that is free")
    with socket.socket() as probe:
        if os.name == "posix":  # a port whose last connections are still closing is free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise BadParameter(f"port {port} cannot be used ({error.strerror}); name another, such as --port "
                               f"{port % 65535 + 1}, or --port 0 for any that is free") from error
        number: int = probe.getsockname()[1]
    return number


def page_notebook(script: Path, values: Mapping[str, Any], folder: Path) -> Any:
    """Return the notebook of a page: code cells in their order, and the words tagged `page` above and below.

    Words that stand before the first code cell are shown above what the code shows; others below it, since a reader
    without code looks at the result first.

    Args:
        script: a percent script. values: parameters that were given. folder: where its code runs.
    """
    import jupytext
    import nbformat

    notebook = jupytext.read(script)
    above = []
    place = [f"__file__ = {str(script)!r}  # from which the set-up cell finds the repository", "import os",
             f"os.chdir({str(folder)!r})"]
    code = [nbformat.v4.new_code_cell("\n".join(place))]
    below = []
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code":
            code.append(cell)
            if "parameters" in tags and values:
                lines = [f"{name} = {value!r}" for name, value in values.items()]
                code.append(nbformat.v4.new_code_cell("\n".join(lines)))
        elif TAG in tags:
            words = below if len(code) > 1 else above
            words.append(nbformat.v4.new_markdown_cell(re.sub(r"^# \d\d · ", "# ", cell.source)))
    page = nbformat.v4.new_notebook(cells=[*above, *code, *below])
    page.metadata.kernelspec = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    page.metadata.title = script.stem.split("_", 1)[-1].replace("_", " ").capitalize()
    return page


def serve_page(plan: Plan, *, port: int, open_browser: bool = True) -> None:
    """Serve a notebook as a page on this machine until Ctrl-C or SIGTERM; each visit has a process of its own.

    Args:
        plan: the notebook and its parameters, checked. port: 0 takes one that is free.

    Raises:
        MissingAsset: Voila is not installed. BadParameter: the port cannot be used.
    """
    import nbformat

    voila = import_voila()
    port = free_port(port)
    os.environ.update({
        "JUPYTER_PATH": os.pathsep.join(filter(None, [str(TEMPLATES), os.environ.get("JUPYTER_PATH")])),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYTHONPATH": python_path(),
        "T2I_INTERACTIVE": "1",  # a person watches
    })
    with tempfile.TemporaryDirectory(prefix="t2i-page-") as scratch:
        # its name is seen while the page loads; nothing else lies in this folder, so that nothing else is served
        path = Path(scratch) / f"{plan.path.stem}.ipynb"
        nbformat.write(page_notebook(plan.path, plan.overrides, Path.cwd()), path)
        print(f"{plan.path.stem} as a page, in some seconds: http://localhost:{port}/ (dark as the browser is, or with "
              "?theme=dark). Ctrl-C ends it.", flush=True)
        voila.launch_instance(voila_arguments(path, port, open_browser))


def voila_arguments(path: Path, port: int, open_browser: bool) -> list[str]:
    """Return the command line of Voila that serves a notebook."""
    arguments = [
        str(path), f"--port={port}", f"--Voila.ip={HOST}", "--Voila.port_retries=0", "--template=t2ilib",
        "--Voila.log_level=WARN", "--show_tracebacks=True", "--VoilaConfiguration.allow_template_override=NO",
        f"--MappingKernelManager.cull_idle_timeout={FORGOTTEN_AFTER}", "--MappingKernelManager.cull_interval=60"]
    if not open_browser:
        arguments.append("--no-browser")
    return arguments

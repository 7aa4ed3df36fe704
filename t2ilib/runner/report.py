"""The report of all runs: one self-contained page, made from the `run.json` of each run folder."""

import base64
import csv
import html
import io
import json
import math
import os
import re
import shlex
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import BadParameter
from ..files import read_json, write_text
from ..locks import was_left
from ..paths import notebooks_dir, repo_root, reports_dir

STATUSES = {"ok": "ok", "failed": "failed", "running": "running", "interrupted": "stopped"}
NO_RUNS = '<p class="empty">No runs yet. Start with <code>python -m t2ilib run 03 --profile quick</code>.</p>'
NO_MATCH = '<p class="empty" id="none" hidden>No run matches.</p>'
ABOUT = "Every card is one notebook run: picture, numbers, parameters, and the rendered notebook."
MAX_METRICS = 6
THUMBNAIL_WIDTH = 640


def build_report(folder: Path | None = None, out: Path | None = None) -> Path:
    """Write the page of all runs and return its path.

    Args:
        folder: where the run folders lie; default `reports/runs/`.
        out: the page; default `index.html` in the reports folder. Links to runs are relative to it.
    """
    folder = folder or reports_dir() / "runs"
    out = out or reports_dir() / "index.html"
    page = render(load_runs(folder), base=out.parent)
    write_text(out, page)
    return out


def load_runs(folder: Path) -> list[dict[str, Any]]:
    """Return the records under `folder`, newest first, each with its folder as `dir`.

    One that cannot be read, or is of another form, counts as failed and says so.
    """
    runs = []
    for path in folder.glob("*/*/run.json"):
        defaults = {"name": path.parent.parent.name, "status": "running", "started": ""}
        try:
            record = {**defaults, **read_json(path)}
            _check_texts(record)
            if record["status"] == "running" and was_left(path):
                record |= {"status": "interrupted", "error": "its process was killed"}
        except BadParameter as error:
            record = _unreadable(path.parent, str(error))
        runs.append({**record, "dir": path.parent})
    return sorted(runs, key=lambda run: (run["started"] or "", run["dir"].name), reverse=True)


def _check_texts(record: dict[str, Any]) -> None:
    for name in ("name", "status", "started", "profile"):
        if not isinstance(record.get(name), str | None):
            raise BadParameter(f"its {name} is {record[name]!r}, no text")


def _unreadable(folder: Path, problem: str) -> dict[str, Any]:
    """Return the record that stands for one that cannot be shown."""
    return {"name": folder.parent.name, "status": "failed", "started": "", "error": f"unreadable run.json: {problem}",
            "dir": folder}


def render(runs: list[dict[str, Any]], base: Path, *, title: str = "Runs", about: str = ABOUT, above: str = "",
           every: bool = False) -> str:
    """Return the HTML page for `runs`.

    Args:
        base: the folder that links start from. title, about: heading and the sentence below it.
        above: HTML before the cards. every: show all runs, those too that have a newer one.
    """
    latest = [True] * len(runs) if every else find_latest(runs)
    cards = []
    for run, is_latest in zip(runs, latest, strict=True):
        try:
            card = _card(run, base, latest=is_latest)
        except Exception as error:  # noqa: BLE001 - a record of a foreign or older form can fail in any way
            card = _card(_unreadable(run["dir"], f"{type(error).__name__}: {error}"), base, latest=is_latest)
        cards.append(card)
    empty = NO_MATCH if runs else NO_RUNS
    older = latest.count(False)
    values = {"title": _e(title), "about": _e(about), "above": above,
              "cards": "\n".join(cards), "chips": _chips(runs), "empty": empty, "older": older,
              "older_hidden": "" if older else "hidden", "count": f"{len(runs)} run{'s' * (len(runs) != 1)}",
              "made": datetime.now().strftime("%d %B %Y, %H:%M")}
    template = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    # one pass, so that text from a run is never taken for a placeholder
    return re.sub(r"\{\{(\w+)\}\}", lambda match: str(values[match[1]]), template)


def find_latest(runs: list[dict[str, Any]]) -> list[bool]:
    """Return for each run, newest first, whether the page shows it without being asked for earlier ones.

    That is the newest run of each notebook and profile, and a failed one as long as its command was not run again.
    """
    shown: set[tuple] = set()  # name and profile of the runs that have a newer one
    repeated: set[tuple] = set()  # the same with the parameters that were given
    latest = []
    for run in runs:
        key = (run["name"], run.get("profile"))
        command = (*key, json.dumps(run.get("overrides"), sort_keys=True, default=str))
        has_failed = run["status"] not in STATUSES or run["status"] == "failed"
        latest.append(key not in shown or (has_failed and command not in repeated))
        shown.add(key)
        repeated.add(command)
    return latest


def _chips(runs: list[dict[str, Any]]) -> str:
    """Return the buttons that show the runs of one status or profile."""
    chips = ""
    for status, label in STATUSES.items():
        count = sum(run["status"] == status for run in runs)
        if count:
            chips += f'<button class="chip {status}" data-status="{status}">{count} {label}</button>'
    for profile in sorted({str(run["profile"]) for run in runs if run.get("profile")}):
        chips += f'<button class="chip" data-profile="{_e(profile)}">{_e(profile)}</button>'
    return chips


def _card(run: dict[str, Any], base: Path, latest: bool) -> str:
    status = run["status"] if run["status"] in STATUSES else "failed"
    number, _, title = run["name"].partition("_")
    facts = [_when(run["started"]), _duration(run.get("seconds")), run.get("device")]
    if run.get("peak_memory_mib"):
        facts.append(f"{run['peak_memory_mib'] / 1024:.1f} GB")
    changed = {name: value for name, value in run.get("overrides", {}).items() if name != "profile"}
    tags = "".join(f"<code>{_e(name)}={_e(_short(value, 24))}</code>" for name, value in changed.items())
    error = f'<p class="error">{_e(_short(run["error"], 300))}</p>' if run.get("error") else ""
    notes = "".join(f'<p class="note">{_e(text)}</p>' for text in run.get("fallbacks", []))
    profile = f"<b>{_e(run['profile'])}</b>" if run.get("profile") else ""
    words = " ".join([run["name"], status, str(run.get("profile")), str(run.get("device")), *map(str, changed)]).lower()
    return f"""<article class="card" data-status="{status}" data-profile="{_e(run.get('profile', ''))}"
 data-latest="{int(latest)}" data-words="{_e(words)}">
{_picture(run, base)}
<div class="body">
<header><h2><span>{_e(number)}</span> {_e((title or number).replace('_', ' '))}</h2>
<i class="pill {status}">{STATUSES[status]}</i></header>
<p class="facts">{profile}{' · '.join(map(_e, filter(None, facts)))}</p>
{f'<p class="tags">{tags}</p>' if tags else ''}{error}{notes}{_metrics(run)}{_details(run)}
<footer>{_links(run, base)}</footer></div></article>"""


def _picture(run: dict[str, Any], base: Path) -> str:
    names = [run.get("thumbnail"), *run.get("figures", [])]
    figures = [run["dir"] / name for name in names if name and (run["dir"] / name).is_file()]
    target = _href(run["dir"] / "notebook.html", base)
    data = ""
    if figures:
        target = target or _href(figures[0], base)
        data = _thumbnail(figures[0])
    inner = f'<span class="blank">{_e(run["name"].partition("_")[0])}</span>'
    if data:
        inner = f'<img alt="{_e(run["name"])}" src="data:image/webp;base64,{data}">'
    return f'<a class="picture" {target and f"href={target!r}"}>{inner}</a>'


def _thumbnail(path: Path) -> str:
    """Return a small copy of a figure as base64 WebP, so that the page can be moved or sent alone; "" if broken."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image = image.convert("RGB")
            image.thumbnail((THUMBNAIL_WIDTH, THUMBNAIL_WIDTH), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            image.save(buffer, "WEBP", quality=82)
    except OSError:
        return ""
    return base64.b64encode(buffer.getvalue()).decode()


def _metrics(run: dict[str, Any]) -> str:
    items = list(_flat(run.get("metrics", {})))
    rows = "".join(f"<div><dt>{_e(name.replace('_', ' '))}</dt><dd>{_e(_short(value, 28))}</dd></div>"
                   for name, value in items[:MAX_METRICS])
    return (f'<dl class="metrics">{rows}</dl>' if rows else "") + _sparkline(run["dir"] / "metrics.csv")


def _details(run: dict[str, Any]) -> str:
    parameters = run.get("parameters") or {}
    more_metrics = dict(list(_flat(run.get("metrics", {})))[MAX_METRICS:])
    files = {}
    for artefact in run.get("artefacts", []):
        if isinstance(artefact, dict):
            files[artefact["file"]] = f"{artefact.get('bytes', 0) / 2**20:.2f} MiB"
    body = _table("metrics", more_metrics)
    body += _table("parameters", {**(parameters.get("given") or {}), **(parameters.get("resolved") or {})})
    body += _table("versions", {**run.get("versions", {}), "commit": run.get("commit")})
    body += _table("files", files)
    return (f"<details><summary>parameters and versions</summary>{body}<h3>again</h3>"
            f"<pre>{_e(_command(run))}</pre></details>")


def _table(title: str, values: dict[str, Any]) -> str:
    rows = ""
    for name, value in values.items():
        if value is not None:
            rows += f"<tr><th>{_e(name)}</th><td>{_e(_short(value, 160))}</td></tr>"
    return f"<h3>{title}</h3><table>{rows}</table>" if rows else ""


def _command(run: dict[str, Any]) -> str:
    """Return the command that repeats a run: the one that it recorded, or that of a notebook."""
    if isinstance(run.get("command"), str):
        return run["command"]
    command = f"python -m t2ilib run {run['name']}"
    for name, value in run.get("overrides", {}).items():
        command += f" --profile {value}" if name == "profile" else f" -p {name} {shlex.quote(str(value))}"
    return command


def _links(run: dict[str, Any], base: Path) -> str:
    files = {"metrics": "metrics.csv", "log": "log.txt", "folder": "."}
    links = [_notebook_link(run, base)]
    links += [(label, _href(run["dir"] / name, base)) for label, name in files.items()]
    return "".join(f"<a href={href!r}>{label}</a>" for label, href in links if href)


def _notebook_link(run: dict[str, Any], base: Path) -> tuple[str, str]:
    """Return label and link of what was run: the executed copy; a script's text; the notebook as it stands now."""
    source = notebooks_dir() / f"{Path(run['name']).name}.ipynb"
    places = {"notebook": run["dir"] / "notebook.html", "notebook file": run["dir"] / "notebook.ipynb",
              "script": run["dir"] / "script.py", "notebook source": source}
    for label, path in places.items():
        href = _href(path, base)
        if href:
            return label, href
    return "", ""


def _href(path: Path, base: Path) -> str:
    """Return a relative link that holds no quote character, or "" if there is no such file."""
    return quote(Path(os.path.relpath(path, base)).as_posix()) if path.exists() else ""


def _sparkline(path: Path, width: int = 300, height: int = 40) -> str:
    """Return the curve of the first metric with "loss" in its name, or of the first metric at all, as inline SVG."""
    series = {name: points for name, points in _read_curves(path).items() if len(points) > 2}
    if not series:
        return ""
    losses = [name for name in series if "loss" in name.lower()]
    name = losses[0] if losses else next(iter(series))
    points = series[name][::max(1, len(series[name]) // 200)]
    xs, ys = zip(*points, strict=True)
    span_x = (max(xs) - min(xs)) or 1
    span_y = (max(ys) - min(ys)) or 1
    places = []
    for x, y in points:
        right = (x - min(xs)) / span_x * width
        down = 3 + (max(ys) - y) / span_y * (height - 6)
        places.append(f"{right:.1f},{down:.1f}")
    path_data = " ".join(places)
    label = f"{name}: {ys[0]:.3g} → {ys[-1]:.3g}"
    return (f'<figure class="spark"><svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" '
            f'aria-label="{_e(label)}"><polyline points="{path_data}"/></svg>'
            f"<figcaption>{_e(label)}</figcaption></figure>")


def _read_curves(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Return name -> points (step, value) of a `metrics.csv`; lines that cannot be read are left out."""
    series: dict[str, list[tuple[float, float]]] = {}
    if not path.is_file():
        return series
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        try:
            rows = list(csv.DictReader(file))
        except csv.Error:
            return series
    for row in rows:
        try:
            point = (float(row["step"]), float(row["value"]))
        except (TypeError, ValueError, KeyError):
            continue  # a line cut short by a kill
        if all(map(math.isfinite, point)) and row.get("name"):
            series.setdefault(row["name"], []).append(point)
    return series


def _flat(metrics: dict[str, Any], prefix: str = ""):
    for name, value in metrics.items():
        if isinstance(value, dict) and set(value) == {"value", "n"}:
            yield prefix + name, f"{_short(value['value'], 12)} (n {value['n']})"
        elif isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _short(value: Any, length: int) -> str:
    if isinstance(value, float):
        value = f"{value:.4g}"
    elif isinstance(value, (list, tuple)):
        value = ", ".join(_short(v, length) for v in value)
    text = " ".join(str(value).replace(str(repo_root()), ".").split())
    return text if len(text) <= length else text[:length - 1] + "…"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(seconds, 60)
    if minutes < 1:
        return f"{seconds:.1f} s"
    return f"{minutes:.0f} min {rest:02.0f} s" if minutes < 60 else f"{minutes // 60:.0f} h {minutes % 60:02.0f} min"


def _when(started: str) -> str:
    try:
        return datetime.fromisoformat(started).astimezone().strftime("%d %b %Y %H:%M")
    except (TypeError, ValueError):
        return ""


def _e(value: Any) -> str:
    return html.escape(str(value if value is not None else ""), quote=True)

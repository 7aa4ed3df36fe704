"""`python -m t2ilib info`: versions, device and what is here, as one asks for them in a report of a fault."""

import argparse
import importlib.metadata
import json
import platform
from typing import Any

from .. import __version__

HELP = "Print versions, the device and which weights are here, for a report of a fault."
EXAMPLE = "example: python -m t2ilib info --json"

EXTRAS = ("jupyterlab", "papermill", "diffusers", "ray", "voila", "triton")  # of which some runs depend


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this command understands."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print what this machine and this clone are; no path and no name of a person or machine is among it."""
    found = about_this_machine()
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    for title, value in found.items():
        print(f"{title:<12} {in_words(value)}")
    return 0


def about_this_machine() -> dict[str, Any]:
    """Return title -> text, list of texts, or name -> text."""
    from ..runtime import commit, cpu_has_fast_bf16, device_name, pick_device, versions

    device = pick_device("auto")
    shown = device_name(device)
    if device.type == "cpu" and cpu_has_fast_bf16():
        shown += ", fast in bfloat16"
    return {"t2ilib": f"{__version__}, commit {commit()}", "system": f"{platform.system()} {platform.machine()}",
            "device": shown, "versions": versions(), "extras": installed(EXTRAS), **weights_here()}


def installed(packages: tuple[str, ...]) -> dict[str, str]:
    """Return package -> version, or "absent"."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def weights_here() -> dict[str, dict[str, str]]:
    """Return what is here of shipped checkpoints and of weights that pip brings: "here", "absent" or what is wrong."""
    from .models import packaged_models, shipped_models
    from ..errors import MissingAsset

    try:
        models = shipped_models()
    except MissingAsset:
        models = {}
    checkpoints = {}
    for name, model in models.items():
        if "error" in model:
            checkpoints[name] = "unreadable"
        else:
            checkpoints[name] = "absent" if model["mib"] is None else "here"
    packaged = {name: "here" if model["here"] else "absent" for name, model in packaged_models().items()}
    return {"checkpoints": checkpoints, "from pip": packaged}


def in_words(value: Any) -> str:
    """Return a value in one line; of weights that are all here, their number alone."""
    if not isinstance(value, dict):
        return str(value)
    if not value:
        return "none"
    if set(value.values()) == {"here"}:
        return f"all {len(value)} here"
    if set(value.values()) <= {"here", "absent", "unreadable"}:
        wrong = [f"{name} {state}" for name, state in value.items() if state != "here"]
        return f"{len(value) - len(wrong)} of {len(value)} here; {', '.join(wrong)}"
    return ", ".join(f"{name} {state}" for name, state in value.items())

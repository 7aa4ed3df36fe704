"""`python -m t2ilib models`: what ships with the repository, what pip brings, and what is downloaded by name."""

import argparse
import json
from pathlib import Path
from typing import Any

from .console import relative
from ..errors import BadParameter
from ..files import read_json
from ..paths import CONFIG, WEIGHTS, checkpoints_dir

HELP = "List the models that ship with the repository, those that pip brings, and those by name."
EXAMPLE = "example: python -m t2ilib models --convert vqgan-imagenet-f16-16384 my-vqgan"

CONFIG_TYPES = {"class": str, "parameters": (int, float), "metrics": dict}  # of a checkpoint's config.json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this command understands."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--convert", nargs=2, metavar=("NAME_OR_PATH", "OUT_FOLDER"),
                        help="write a VQGAN as safetensors and config.json, without training state")


def run(args: argparse.Namespace) -> int:
    """List, or convert one."""
    if args.convert:
        from ..models.vqgan import convert_vqgan

        print(relative(convert_vqgan(*args.convert)))
        return 0
    shipped = shipped_models()
    packaged = packaged_models()
    bundled = bundled_models()
    by_name = named_models()
    if args.json:
        listed = {"shipped": shipped, "packaged": packaged, "bundled": bundled, "by_name": by_name}
        print(json.dumps(listed, indent=2, default=str))
        return 0
    print("shipped with the repository")
    for name, model in shipped.items():
        print(_shipped_line(name, model))
    if not shipped:
        print("  none yet")
    print("in packages of pip")
    for name, model in packaged.items():
        print(_packaged_line(name, model))
    print("in a bundle for a machine without internet")
    for name, model in bundled.items():
        print(_packaged_line(name, model))
    print("by name, downloaded when first used")
    for name, model in by_name.items():
        print(_named_line(name, model))
    return 0


def shipped_models() -> dict[str, dict[str, Any]]:
    """Return what the config of each shipped checkpoint says of it; of one that is damaged, the reason as `error`."""
    models = {}
    for path in sorted(checkpoints_dir().glob(f"*/{CONFIG}")):
        try:
            models[path.parent.name] = _shipped_model(path)
        except BadParameter as error:
            models[path.parent.name] = {"error": str(error)}
    return models


def _shipped_model(path: Path) -> dict[str, Any]:
    """Return what a `config.json` says; raises BadParameter where it cannot be read or has another form."""
    config = read_json(path)
    for name, kind in CONFIG_TYPES.items():
        value = config.get(name)
        if value is not None and not isinstance(value, kind):
            raise BadParameter(f"{path} has {value!r} as its {name}")
    weights = path.with_name(WEIGHTS)
    size = round(weights.stat().st_size / 2**20, 1) if weights.exists() else None
    return {"class": config.get("class"), "parameters": config.get("parameters"), "mib": size,
            "metrics": config.get("metrics") or {}, "licence": config.get("licence")}


def packaged_models() -> dict[str, dict[str, Any]]:
    """Return what is known of weights that arrive through pip, and the file that holds them here, or None."""
    from .. import assets

    models = {}
    for name, weights in assets.PACKAGED.items():
        models[name] = _one_file(weights) | {"package": weights.package, "here": assets.find_packaged(name)}
    return models


def bundled_models() -> dict[str, dict[str, Any]]:
    """Return what is known of weights that a bundle carries in the place of a package's, and their file, or None."""
    from .. import assets

    models = {}
    for name, weights in assets.BUNDLED.items():
        models[name] = _one_file(weights) | {"replaces": weights.replaces, "here": assets.find_bundled(name)}
    return models


def _one_file(weights: Any) -> dict[str, Any]:
    """Return what is known of a file of weights wherever it comes from."""
    return {"data": weights.data, "mb": weights.about_mb, "licence": weights.licence, "sha256": weights.sha256,
            "source": weights.source}


def named_models() -> dict[str, dict[str, Any]]:
    """Return what the catalogue says of each published model, and the folder in which it lies here, or None."""
    from .. import assets

    models = {}
    for name, asset in assets.CATALOGUE.items():
        factor = 2 ** (len(asset.arguments["ch_mult"]) - 1)
        hashes = {file.name: file.sha256 for file in asset.files if not file.optional}
        models[name] = {"data": asset.data, "codes": asset.arguments.get("n_embed"), "factor": factor,
                        "mb": asset.about_mb, "licence": asset.licence, "sha256": hashes, "source": asset.source,
                        "here": assets.find(asset)}
    return models


def _shipped_line(name: str, model: dict[str, Any]) -> str:
    if "error" in model:
        return f"  {name:<24} unreadable: {model['error']}"
    size = ""
    if model["parameters"]:
        size = f"{model['parameters'] / 1e6:5.1f} M  {model['mib'] or 0:5.1f} MiB"
    metrics = []
    for metric, value in list(model["metrics"].items())[:3]:
        if isinstance(value, float):
            metrics.append(f"{metric} {value:.4g}")
        elif not isinstance(value, (dict, list)):
            metrics.append(f"{metric} {value}")
    return f"  {name:<24} {model['class'] or '':<24} {size}  {', '.join(metrics)}".rstrip()


def _packaged_line(name: str, model: dict[str, Any]) -> str:
    here = "here" if model["here"] else "not here"
    return (f"  {name:<25} {here:<8} {model['mb']:>5,.0f} MB  {model['data']:<27}  "
            f"{model['licence']}")


def _named_line(name: str, model: dict[str, Any]) -> str:
    here = "here" if model["here"] else "not here"
    size = f"{model['mb']:,.0f}" if model["mb"] else "?"
    codes = f"{model['codes']:,.0f}" if model["codes"] else "?"
    return (f"  {name:<25} {here:<8} {size:>5} MB  {model['data']:<15} {codes:>6} codes  f{model['factor']:<2}  "
            f"{model['licence']}")

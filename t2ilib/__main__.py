"""The command line: `python -m t2ilib run | generate | train | bench | models | notebooks | report`.

Exit code 0 only on success; 1 when something failed; 2 for bad input, answered with one line; 130 when interrupted.
Heavy packages are imported by the command that needs them, so that `--help` is instant.
"""

import argparse
import ast
import json
import sys
import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import __version__
from .console import Live, relative, summary
from .errors import BadParameter, T2IError, close_matches, unknown_name
from .paths import checkpoints_dir

COMING = ("sweep",)


class _Parser(argparse.ArgumentParser):
    """A parser that answers in one line, with the nearest names for a misspelt option or command."""

    def error(self, message: str) -> NoReturn:
        raise BadParameter(message)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        args = _parse(argv)
        return args.command(args)
    except T2IError as error:
        print(f"t2ilib: {error}", file=sys.stderr)
        return 2 if isinstance(error, BadParameter) else 1
    except KeyboardInterrupt:
        print("t2ilib: interrupted", file=sys.stderr)
        return 130


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="python -m t2ilib", description="A laboratory for text-to-image generation.",
                     epilog=f"coming: {', '.join(COMING)}", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    for add in (_add_run, _add_generate, _add_train, _add_bench, _add_models, _add_notebooks, _add_report):
        add(commands)
    if not argv:
        parser.print_help()
        raise SystemExit(2)
    if argv[0] in COMING:
        raise BadParameter(f"the command {argv[0]!r} is still to come; there are {', '.join(commands.choices)}")
    if not argv[0].startswith("-") and argv[0] not in commands.choices:
        raise unknown_name("command", argv[0], commands.choices)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        options = [o for o in commands.choices[argv[0]]._option_string_actions if o.startswith("--")]
        near = close_matches(unknown[0].split("=")[0], options)
        hint = f"did you mean {' or '.join(near)}?" if near else f"see: python -m t2ilib {argv[0]} --help"
        raise BadParameter(f"unknown argument {unknown[0]!r}; {hint}")
    return args


def _command(commands: Any, name: str, run: Any, text: str, epilog: str = "") -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text, epilog=epilog, allow_abbrev=False,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(command=run)
    return parser


def _add_parameters(parser: argparse.ArgumentParser, profile: str) -> None:
    parser.add_argument("--profile", default=profile, help="smoke, quick or full (default: %(default)s)")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), dest="parameters",
                        help="set a parameter of the notebook; checked against its own names and types")


# --- run and train ----------------------------------------------------------------------------------------------------


def _add_run(commands: Any) -> None:
    parser = _command(commands, "run", _run, "Execute notebooks, each in its own process, and write the report.",
                      "example: python -m t2ilib run 03 00 --profile quick -p seed 1")
    parser.add_argument("names", nargs="*", metavar="NN", help="notebooks by number or name (default: all)")
    _add_parameters(parser, profile="quick")
    parser.add_argument("--timeout", type=int, help="seconds that one cell may take (default: no limit)")


def _run(args: argparse.Namespace) -> int:
    from . import notebooks, report

    names = args.names or [path.stem for path in notebooks.list_notebooks()]
    if not names:
        raise BadParameter(f"there are no notebooks in {notebooks.notebooks_dir()}")
    plans = [notebooks.plan(name, dict(args.parameters), args.profile) for name in names]
    results, code = [], 0
    try:
        for i, work in enumerate(plans):
            with Live(f"[{i + 1}/{len(plans)}] {work.path.stem}") as live:
                results.append(notebooks.run_notebook(work, timeout=args.timeout, progress=live.cells))
                live.end(results[-1].status, results[-1].error)
    except KeyboardInterrupt:
        code = 130
    summary(results)
    print(f"report: {relative(report.build_report())}")
    return code or int(any(result.status != "ok" for result in results))


def _add_train(commands: Any) -> None:
    parser = _command(commands, "train", _train, "Run a notebook as a script, on one device or on many (torchrun).",
                      "example: python -m t2ilib train 13 --devices 8 --profile full -p seed 1")
    parser.add_argument("name", metavar="NN", help="notebook by number or name")
    _add_parameters(parser, profile="full")
    parser.add_argument("--devices", type=int, default=1, help="processes on this machine (default: 1)")
    parser.add_argument("--num-nodes", type=int, default=1, help="machines; start this command on each (default: 1)")
    parser.add_argument("--node-rank", type=int, default=0, help="number of this machine (default: 0)")
    parser.add_argument("--rendezvous", default="", metavar="HOST:PORT", help="address of machine 0")
    parser.add_argument("--run-dir", type=Path, help="folder to write to, or to continue in (default: a new one)")


def _train(args: argparse.Namespace) -> int:
    from . import notebooks, report

    work = notebooks.plan(args.name, dict(args.parameters), args.profile)
    result = notebooks.run_script(work, devices=args.devices, num_nodes=args.num_nodes, node_rank=args.node_rank,
                                  rendezvous=args.rendezvous, run_dir=args.run_dir, echo=sys.stdout)
    summary([result])
    if result.error:
        print(result.error, file=sys.stderr)
    print(f"report: {relative(report.build_report())}")
    return int(result.status != "ok")


# --- bench ------------------------------------------------------------------------------------------------------------


def _add_bench(commands: Any) -> None:
    parser = _command(commands, "bench", _bench, "Measure hot loops beside what they replace, into reports/benchmarks.",
                      "example: python -m t2ilib bench kernels --seconds 5")
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks (default: all)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument("--seconds", type=float, default=2.0, help="measured for each provider (default: 2)")


def _bench(args: argparse.Namespace) -> int:
    from . import bench

    for name in args.names:
        if name not in bench.BENCHMARKS:
            raise unknown_name("benchmark", name, bench.BENCHMARKS)
    for name in args.names or bench.BENCHMARKS:
        rows, path = bench.run_benchmark(name, device=args.device, seconds=args.seconds)
        for row in rows:
            print(f"{row.kernel:<16} {row.shape:<28} {row.provider:<18} {row.p50:10.2f} {row.metric:<4} "
                  f"x{row.ratio:.2f}", flush=True)
        print(relative(path))
    return 0


# --- generate ---------------------------------------------------------------------------------------------------------


def _add_generate(commands: Any) -> None:
    parser = _command(commands, "generate", _generate, "Make pictures for a prompt.",
                      'examples:\n  python -m t2ilib generate "a red heart" --num-images 4 -o steps=200\n'
                      "  python -m t2ilib generate --from out.png              repeat the run that made a PNG\n"
                      "Interrupted by Ctrl-C, the picture so far is in --out, and the same command goes on from there.")
    parser.add_argument("prompt", nargs="?", metavar="PROMPT")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="a text file with one prompt a line, in one pass")
    parser.add_argument("--from", type=Path, metavar="PNG", dest="source", help="repeat the run that made this "
                        "picture; prompt, --method, --seed, --num-images and -o change it")
    parser.add_argument("--method", help="name of a method, or all (default: vqgan_clip)")
    parser.add_argument("--seed", type=int, help="(default: 0)")
    parser.add_argument("--num-images", type=int, help="pictures for each method and prompt (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("out.png"), help="file to write (default: out.png); several "
                        "pictures become one sheet there, and out_1.png, out_2.png, ... beside it; a PNG carries all "
                        "that repeats it")
    parser.add_argument("-o", "--option", action="append", default=[], metavar="NAME=VALUE", dest="options",
                        help="option of the method, such as steps=200")
    parser.add_argument("--save-every", type=int, default=0, metavar="STEPS", help="write the picture so far to --out "
                        "every so many steps (default: once a minute)")
    parser.add_argument("--film", type=Path, metavar="FILE", help="film of the steps: .mp4 (needs ffmpeg), .webp, .gif")
    parser.add_argument("--restart", action="store_true", help="forget a run that was interrupted")
    parser.add_argument("--json", action="store_true", help="print a JSON record instead of the path")
    parser.add_argument("--options", action="store_true", dest="list_options",
                        help="list the options of --method (default: vqgan_clip)")


def _generate(args: argparse.Namespace) -> int:
    from . import generation, methods

    if args.list_options:
        print(generation.options_page(args.method or "vqgan_clip"), end="")
        return 0
    call, index = generation.repeat(args.source) if args.source else ({}, None)
    call, given = {"method": "vqgan_clip", "seed": 0, "num_images": 1, **call}, vars(args)
    call |= {k: given[k] for k in ("prompt", "method", "seed", "num_images") if given[k] is not None}
    call |= dict(map(_option, args.options))
    if args.prompts:
        call["prompt"] = generation.read_prompts(args.prompts)
    _check_call(args, call, methods.METHODS)
    prompt, method, seed, num_images = (call.pop(k) for k in ("prompt", "method", "seed", "num_images"))
    images, captions, records, names = [], [], [], []
    for name in methods.METHODS if method == "all" else [method]:
        start = time.monotonic()
        made, record = generation.make(prompt, method=name, num_images=num_images, seed=seed, options=call,
                                       out=args.out, every=args.save_every, film=args.film, restart=args.restart)
        record = {"method": name, "seed": seed, "seconds": round(time.monotonic() - start, 2), **record}
        kept = range(len(made)) if index is None or index >= len(made) else [index]
        images += [made[i] for i in kept]
        captions += [name.replace("_", " ")] * len(kept)
        records += [(record, i) for i in kept]
        names += [f"{name}_{i + 1}" if method == "all" else str(i + 1) for i in kept]
        if args.json:
            record.setdefault("judge_score", generation.judge_scores(made, prompt))
        else:
            print(f"{name}: {len(made)} picture{'s' * (len(made) > 1)} in {record['seconds']:.1f} s", flush=True)
    title = prompt if isinstance(prompt, str) else " | ".join(prompt)
    files = generation.save(images, captions if method == "all" else None, records, args.out, title=title, names=names)
    if args.json:
        shown = [{k: v for k, v in r.items() if k != "codes"} for r in {id(r): r for r, _ in records}.values()]
        print(json.dumps({"prompt": prompt, "files": files, "results": shown} if method == "all"
                         else {"prompt": prompt, **shown[0], "files": files}, indent=2))
    else:
        print(files[0])
    return 0


def _check_call(args: argparse.Namespace, call: dict[str, Any], known: Any) -> None:
    if args.prompts and (args.prompt or args.source):
        raise BadParameter("--prompts holds the prompts; leave out PROMPT and --from")
    if call.get("prompt") is None:
        raise BadParameter("PROMPT is missing; say what the picture should show, or give --from or --prompts")
    if not all(p.strip() for p in ([call["prompt"]] if isinstance(call["prompt"], str) else call["prompt"])):
        raise BadParameter("the prompt is empty; say what the picture should show")
    if call["num_images"] < 1:
        raise BadParameter(f"--num-images must be at least 1, got {call['num_images']}")
    if args.out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise BadParameter(f"--out must end in .png, .jpg or .webp, got {str(args.out)!r}")
    if call["method"] != "all" and call["method"] not in known:
        raise unknown_name("method", call["method"], ["all", *known])


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (equals and name.strip()):
        raise BadParameter(f"an option must be NAME=VALUE, got {text!r}")
    words = {"true": True, "false": False, "none": None, "null": None}
    if value.lower() in words:
        return name.strip(), words[value.lower()]
    try:
        return name.strip(), ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name.strip(), value


# --- models, notebooks, report ----------------------------------------------------------------------------------------


def _add_models(commands: Any) -> None:
    parser = _command(commands, "models", _models, "List the models that ship with the repository, and those by name.",
                      "example: python -m t2ilib models --convert vqgan-imagenet-f16-16384 my-vqgan")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--convert", nargs=2, metavar=("NAME_OR_PATH", "OUT_FOLDER"),
                        help="write a VQGAN as safetensors and config.json, without training state")


def _models(args: argparse.Namespace) -> int:
    if args.convert:
        from .models.vqgan import convert_vqgan

        print(relative(convert_vqgan(*args.convert)))
        return 0
    shipped = {}
    for path in sorted(checkpoints_dir().glob("*/config.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        weights = path.with_name("model.safetensors")
        shipped[path.parent.name] = {"class": config.get("class"), "parameters": config.get("parameters"),
                                     "mib": round(weights.stat().st_size / 2**20, 1) if weights.exists() else None,
                                     "metrics": config.get("metrics", {}), "licence": config.get("licence")}
    named = _catalogue()
    if args.json:
        print(json.dumps({"shipped": shipped, "by_name": named}, indent=2, default=str))
        return 0
    print("shipped with the repository")
    for name, model in shipped.items():
        metrics = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
                            for k, v in list(model["metrics"].items())[:3] if not isinstance(v, (dict, list)))
        size = f"{model['parameters'] / 1e6:5.1f} M  {model['mib'] or 0:5.1f} MiB" if model["parameters"] else ""
        print(f"  {name:<24} {model['class'] or '':<24} {size}  {metrics}".rstrip())
    if not shipped:
        print("  none yet")
    if named:
        print("by name, downloaded when first used")
        for name, model in named.items():
            size, codes = (f"{model[k]:,.0f}" if model[k] else "?" for k in ("mb", "codes"))
            print(f"  {name:<25} {'here' if model['here'] else 'not here':<8} {size:>5} MB  {model['data']:<15} "
                  f"{codes:>6} codes  f{model['factor']:<2}  {model['licence']}")
    return 0


def _catalogue() -> dict[str, dict[str, Any]]:
    from . import assets

    return {name: {"data": asset.data, "codes": asset.arguments.get("n_embed"),
                   "factor": 2 ** (len(asset.arguments["ch_mult"]) - 1), "mb": asset.about_mb,
                   "licence": asset.licence, "sha256": {f.name: f.sha256 for f in asset.files if not f.optional},
                   "source": asset.source, "here": assets.find(asset)} for name, asset in assets.CATALOGUE.items()}


def _add_notebooks(commands: Any) -> None:
    parser = _command(commands, "notebooks", _notebooks, "List the notebooks or one's parameters; keep pairs in step.",
                      "example: python -m t2ilib notebooks 03")
    parser.add_argument("name", nargs="?", metavar="NN", help="show the parameters of this notebook")
    parser.add_argument("--sync", action="store_true", help="make every .ipynb from its .py, without outputs")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a pair or an address does not agree")
    parser.add_argument("--set-address", metavar="URL", help="set the public address: pyproject.toml, badges, README")


def _notebooks(args: argparse.Namespace) -> int:
    from . import notebooks, pairs

    if args.set_address or args.sync:
        changed = pairs.set_repository_url(args.set_address) if args.set_address else pairs.sync_pairs()
        print("\n".join(f"changed {relative(path)}" for path in changed) or "nothing to change")
        return 0
    if args.check:
        problems = pairs.address_problems()
        problems += [text for script in notebooks.list_notebooks() for text in pairs.pair_problems(script)]
        print("\n".join(problems) or "all pairs and addresses agree")
        return int(bool(problems))
    if args.name:
        for known in notebooks.read_parameters(notebooks.find_notebook(args.name)).values():
            print(f"{known.name:<20} {known.annotation:<16} {known.default!r:<24} {known.help}".rstrip())
        return 0
    for path in notebooks.list_notebooks():
        print(f"{path.stem:<24} {notebooks.title(path)}".rstrip())
    return 0


def _add_report(commands: Any) -> None:
    parser = _command(commands, "report", _report, "Write the page of all runs, reports/index.html.")
    parser.add_argument("--open", action="store_true", help="show it in the browser")


def _report(args: argparse.Namespace) -> int:
    from . import report

    path = report.build_report()
    print(f"report: {relative(path)}")
    if args.open:
        webbrowser.open(path.resolve().as_uri())
    return 0


if __name__ == "__main__":
    sys.exit(main())

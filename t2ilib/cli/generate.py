"""`python -m t2ilib generate`: make pictures for a prompt."""

import argparse
import ast
import json
import time
from pathlib import Path
from typing import Any

from ..errors import BadParameter, unknown_name

HELP = "Make pictures for a prompt."
EXAMPLE = ('examples:\n  python -m t2ilib generate "a red heart" --num-images 4 -o steps=200\n'
           "  python -m t2ilib generate --from out.png              repeat the run that made a PNG\n"
           "Interrupted by Ctrl-C, the picture so far is in --out, and the same command goes on from there.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(args: argparse.Namespace) -> int:
    from . import generation
    from .. import methods

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

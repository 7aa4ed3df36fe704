"""`python -m t2ilib generate`: make pictures for a prompt."""

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BadParameter, MissingInput, RunFailed, unknown_name
from ..files import check_writable, read_lines, reason

HELP = "Make pictures for a prompt."
EXAMPLE = ('examples:\n  python -m t2ilib generate "a red heart" --num-images 4 -o steps=200\n'
           "  python -m t2ilib generate --from out.png              repeat the run that made a PNG\n"
           "Interrupted by Ctrl-C, the picture so far is in out.partial.png, and the same command goes on from there.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this command understands."""
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
    parser.add_argument("--save-every", type=int, default=0, metavar="STEPS", help="write the picture so far to "
                        "out.partial.png every so many steps (default: once a minute)")
    parser.add_argument("--film", type=Path, metavar="FILE", help="film of the steps: .mp4 (needs ffmpeg), .webp, .gif")
    parser.add_argument("--restart", action="store_true", help="forget a run that was interrupted")
    parser.add_argument("--json", action="store_true", help="print a JSON record instead of the path")
    parser.add_argument("--options", action="store_true", dest="list_options",
                        help="list the options of --method (default: vqgan_clip)")


SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
DEFAULT_METHOD = "vqgan_clip"
MOST_NAMES = 6  # of files of earlier runs that are told
LONG_CALL = 120.0  # seconds, from which on the estimate is said before


@dataclass
class Call:
    """What is asked for: arguments of `generate`, options of the method, and which pictures of a repeated run.

    Attributes:
        option_texts: as typed, read once the method is known. options: of a repeated run, typed already.
        index: the one picture of a repeated run that is wanted; None is all of them. source: the PNG of that run.
    """

    prompt: str | list[str] | None = None
    method: str = DEFAULT_METHOD
    seed: int = 0
    num_images: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    option_texts: dict[str, str] = field(default_factory=dict)
    index: int | None = None
    source: Path | None = None


def run(args: argparse.Namespace) -> int:
    """Make the pictures, save them, and say where they are."""
    from .options_page import options_page
    from ..methods import METHODS

    if args.list_options:
        print(options_page(args.method or DEFAULT_METHOD), end="")
        return 0
    call = read_call(args)
    names = _methods_that_are_here() if call.method == "all" else [call.method]
    # every option is checked before anything is drawn
    options = {name: {**call.options, **METHODS[name].read(call.option_texts)} for name in names}
    pictures: list[Any] = []
    try:
        for name in names:
            pictures += _draw(name, call, options[name], args)
    except KeyboardInterrupt as interrupt:
        if not pictures:
            raise
        from .pictures import save_each

        finished = " and ".join(save_each(pictures, args.out))
        raise KeyboardInterrupt(f"{interrupt}; finished before: {finished}") from None
    return _finish(pictures, call, args)


def _methods_that_are_here() -> list[str]:
    """Return the names of all methods that can draw; say of the others what is missing."""
    from ..methods import METHODS

    names = []
    for name, method in METHODS.items():
        missing = method.missing()
        if missing:
            print(f"{name} is left out: {missing}", file=sys.stderr, flush=True)
        else:
            names.append(name)
    return names


def read_call(args: argparse.Namespace) -> Call:
    """Return what the arguments ask for; raises BadParameter where that cannot be."""
    call = Call()
    if args.source:
        from .pictures import repeat

        repeated, call.index = repeat(args.source)
        for name in ("prompt", "method", "seed", "num_images"):
            setattr(call, name, repeated.pop(name))
        call.options = repeated
        call.source = args.source
    for name in ("prompt", "method", "seed", "num_images"):
        if getattr(args, name) is not None:
            setattr(call, name, getattr(args, name))
    call.option_texts = dict(_split_option(text) for text in args.options)
    if args.prompts:
        if args.prompt or args.source:
            raise BadParameter("--prompts holds the prompts; leave out PROMPT and --from")
        call.prompt = read_prompts_file(args.prompts)
    _check_call(call)
    _check_files(args)
    return call


def _check_files(args: argparse.Namespace) -> None:
    """Refuse files that the result could not be written to."""
    if args.out.suffix.lower() not in SUFFIXES:
        raise BadParameter(f"--out must end in .png, .jpg or .webp, got {str(args.out)!r}")
    if args.save_every < 0:
        raise BadParameter(f"--save-every must be 0 or more steps, got {args.save_every}")
    check_writable(args.out)
    if args.film is not None:
        if args.film.absolute() == args.out.absolute():
            raise BadParameter(f"--film and --out are the same file, {args.out}; give the film another name")
        check_writable(args.film)


def _check_call(call: Call) -> None:
    """Refuse a call without words, without pictures, or of a method that is not there."""
    from ..methods import METHODS

    if call.prompt is None:
        raise BadParameter("PROMPT is missing; say what the picture should show, or give --from or --prompts")
    prompts = [call.prompt] if isinstance(call.prompt, str) else call.prompt
    if not all(prompt.strip() for prompt in prompts):
        raise BadParameter("the prompt is empty; say what the picture should show")
    if call.num_images < 1:
        raise BadParameter(f"--num-images must be at least 1, got {call.num_images}")
    if call.method != "all" and call.method not in METHODS:
        raise unknown_name("method", call.method, ["all", *METHODS.known_names()])


def _split_option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and name.strip()):
        raise BadParameter(f"an option must be NAME=VALUE, got {text!r}")
    return name.strip(), value


def read_prompts_file(path: Path) -> list[str]:
    """Return the prompts of a text file, one a line; empty lines and those that start with # are left out.

    Raises:
        MissingInput: there is no such file. BadParameter: it holds no prompt.
    """
    if not path.is_file():
        raise MissingInput(f"no file of prompts at {path}; write one prompt a line")
    lines = [line.strip() for line in read_lines(path)]
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise BadParameter(f"{path} holds no prompt; write one a line")
    return prompts


def _draw(name: str, call: Call, options: dict[str, Any], args: argparse.Namespace) -> list[Any]:
    """Return the pictures of one method."""
    from .keeper import make
    from .pictures import Picture, judge_scores, tell_other_settings
    from ..methods import METHODS
    from ..methods.limits import check_cost, describe

    prompts = [call.prompt] if isinstance(call.prompt, str) else call.prompt
    cost = check_cost(METHODS[name], call.num_images * len(prompts), options)
    if cost is not None and cost.seconds > LONG_CALL:
        print(f"{name}: {describe(cost)}", file=sys.stderr, flush=True)
    began = time.monotonic()
    images, record = make(call.prompt, method=name, num_images=call.num_images, seed=call.seed, options=options,
                          out=args.out, every=args.save_every, film=args.film, quiet=args.json, restart=args.restart)
    if call.source is not None and call.method == record.get("call", {}).get("method"):
        tell_other_settings(call.source, record, call.option_texts)
    record = {"method": name, "seed": call.seed, "seconds": round(time.monotonic() - began, 2), **record}
    if args.json and "judge_score" not in record:
        texts = record.get("final_texts") or [prompt for prompt in prompts for _ in range(call.num_images)]
        record["judge_score"] = judge_scores(images, texts)
    if not args.json:
        plural = "s" if len(images) > 1 else ""
        print(f"{name}: {len(images)} picture{plural} in {record['seconds']:.1f} s", flush=True)
    several = call.method == "all"
    pictures = []
    for i, image in enumerate(images):
        if call.index is None or call.index >= len(images) or i == call.index:
            captions = [name.replace("_", " ")] if several else []
            if len(prompts) > 1:
                captions.append(prompts[i // call.num_images])
            file = f"{name}_{i + 1}" if several else str(i + 1)
            pictures.append(Picture(image, ": ".join(captions), record, i, file))
    return pictures


def _save_elsewhere(pictures: list[Any], name: str, *, title: str) -> str:
    """Save pictures where there is room for them, and return in words where that is."""
    from .pictures import save

    for parent in (Path(tempfile.gettempdir()), Path.home(), Path.cwd()):
        with contextlib.suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix="t2ilib-", dir=parent))
            try:
                files = save(pictures, folder / name, title=title)
            except OSError:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            return f"the picture is in {files[0]}"
    return "neither could it be written to the folder for temporary files, the home or the working folder: it is lost"


def _finish(pictures: list[Any], call: Call, args: argparse.Namespace) -> int:
    """Save the pictures and print the record or the path."""
    from .keeper import picture_so_far
    from .pictures import older_files, save

    title = call.prompt if isinstance(call.prompt, str) else call.method.replace("_", " ")
    try:
        files = save(pictures, args.out, title=title)
    except OSError as error:
        place = _save_elsewhere(pictures, args.out.name, title=title)
        raise RunFailed(f"{args.out} could not be written ({reason(error)}); {place}") from error
    picture_so_far(args.out).unlink(missing_ok=True)
    older = older_files(args.out, files)
    if older:
        names = ", ".join(path.name for path in older[:MOST_NAMES]) + (", ..." if len(older) > MOST_NAMES else "")
        print(f"beside it, not of this run: {names}", file=sys.stderr, flush=True)
    if not args.json:
        print(files[0])
        return 0
    records = {id(picture.record): picture.record for picture in pictures}  # pictures of one run share one
    shown = []
    for record in records.values():
        shown.append({name: value for name, value in record.items() if name != "codes"})
    if call.method == "all":
        answer = {"prompt": call.prompt, "files": files, "results": shown}
    else:
        answer = {"prompt": call.prompt, **shown[0], "files": files}
    print(json.dumps(answer, indent=2))
    return 0

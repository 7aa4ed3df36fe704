"""One run of a method in a sweep: `python -m t2ilib.sweep.drawing job.json` draws, lets the judge look, and records."""

import shlex
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..data import load_captioned
from ..encoders import load_judge
from ..errors import MissingAsset, T2IError
from ..files import write_text
from ..media import contact_sheet, stack_pictures
from ..media.png import save_png
from ..methods import generate_with_record
from ..metrics.judging import Judgement
from ..record import Run
from ..runner.execute import serve
from ..runtime import pick_device

SPLIT = "validation"
DATA_SIZE = 64  # of the drawings, whose names alone are needed
MOST_SHOWN = 36  # pictures on the sheet
STEPS = 4  # begun, drawn, judged, kept


def draw(job: dict[str, Any]) -> str:
    """Draw what the job says and return the error that stopped it, or "".

    Args:
        job: `method`; `options` of it; `values` with `seed`, `num_images`, and `prompts` or `concepts`.
    """
    try:
        _draw(job["method"], job["options"], job["values"])
    except T2IError as error:
        return f"{type(error).__name__}: {error}"
    except Exception as error:  # whatever stopped it, the runner has to be told
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return ""


def _draw(method: str, options: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    run = Run(method, given=dict(values), device=pick_device(options.get("device", "auto")))
    report(1)
    judgement, problem = load_judgement(ranks=bool(values.get("concepts")))
    if problem:
        run.fallback(problem)
    prompts = list(values.get("prompts") or judgement.concepts(SPLIT, values["concepts"]))
    began = time.perf_counter()
    images, record = generate_with_record(prompts, method=method, num_images=values["num_images"],
                                          seed=values["seed"], **options)
    seconds = (time.perf_counter() - began) / len(images)
    report(2)
    texts = [prompt for prompt in prompts for _ in range(values["num_images"])]
    run.metric(seconds_per_picture=seconds)
    run.metric(**judge_pictures(judgement, images, texts, record.get("final_texts") or texts))
    report(3)
    keep_pictures(run, images, texts, record)
    run.data["checkpoints"] = record.get("checkpoints", {})
    run.data["command"] = command_of(run, method, options, prompts, values)
    run.finish()
    report(STEPS)


def report(done: int) -> None:
    """Tell the runner how far this is."""
    print(f"{done}/{STEPS}", flush=True)


def load_judgement(*, ranks: bool) -> tuple[Any, str]:
    """Return the judge with the names that it ranks, or the judge alone; None and the reason where it is not here.

    Raises:
        MissingAsset: it is not here, and ranks are wanted.
    """
    try:
        judge = load_judge()
    except MissingAsset as error:
        if ranks:
            raise
        return None, f"the pictures are not judged: {error}"
    if not ranks:
        return judge, ""
    return Judgement(judge, load_captioned("emoji", image_size=DATA_SIZE, split="all")), ""


def judge_pictures(judgement: Any, images: Sequence[Image.Image], texts: Sequence[str],
                   final_texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return what the judge says of pictures: by name, and {} without a judge.

    Args:
        judgement: a `Judgement` for concepts, a CLIP for free texts, or None. texts: the prompt of each picture.
        final_texts: what each should show, which a method may have read out of its prompt.
    """
    if judgement is None:
        return {}
    is_ranked = isinstance(judgement, Judgement)
    judge = judgement.judge if is_ranked else judgement
    stacked = stack_pictures(images)  # (N, 3, H, W)
    scores = {"judge_similarity": judge.similarity(stacked, list(final_texts)).mean().item()}
    if is_ranked:
        row = judgement.report(judgement.features(stacked), texts)
        scores |= {"validation_top10": row["top10"], "validation_top1": row["top1"],
                   "validation_top10_low": row["low"], "validation_top10_high": row["high"]}
    return {name: {"value": value, "n": len(images)} for name, value in scores.items()}


def keep_pictures(run: Run, images: Sequence[Image.Image], texts: Sequence[str], record: dict[str, Any]) -> None:
    """Save each picture with what made it, and the first of them on one sheet."""
    about = {name: value for name, value in record.items() if name != "codes"}
    for number, image in enumerate(images):
        path = run.dir / "pictures" / f"{number + 1}.png"
        save_png(image, path, {**about, "index": number})
    sheet = contact_sheet(list(images[:MOST_SHOWN]), list(texts[:MOST_SHOWN]), size=128)
    run.figure("pictures", sheet, thumbnail=True)


def command_of(run: Run, method: str, options: Mapping[str, Any], prompts: Sequence[str],
               values: Mapping[str, Any]) -> str:
    """Return the command that draws the same pictures; the prompts are written into the run's folder."""
    write_text(run.dir / "prompts.txt", "\n".join(prompts) + "\n")
    words = ["python", "-m", "t2ilib", "generate", "--prompts", "prompts.txt", "--method", method,
             "--seed", str(values["seed"]), "--num-images", str(values["num_images"])]
    for name, value in options.items():
        words += ["-o", f"{name}={Path(value).name if isinstance(value, Path) else value}"]
    return shlex.join(words)


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1], draw))

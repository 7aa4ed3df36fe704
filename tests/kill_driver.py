"""What `test_kills` runs: python tests/kill_driver.py FOLDER TRAINING|DRAWING, which prints a summary as JSON.

This process imports everything once and forks a child for each attempt. A child is killed at a random moment, or kills
itself before its n-th operation on a file, or when half of a state is written. After each kill every file is read.
"""

import contextlib
import importlib
import importlib.util
import io
import json
import os
import random
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402
from PIL import Image  # noqa: E402

from t2ilib.checkpoint import configurable  # noqa: E402
from t2ilib.cli import main  # noqa: E402
from t2ilib.data.text_features import EncodedTexts  # noqa: E402
from t2ilib.files import check_archive  # noqa: E402
from t2ilib.guidance import GuidanceConfig, vqgan_clip  # noqa: E402
from t2ilib.media import picture_list  # noqa: E402
from t2ilib.methods import METHODS, Method  # noqa: E402
from t2ilib.runtime import generator  # noqa: E402

STEPS = 3
OPERATIONS = ("open", "os.rename", "os.remove", "os.link", "os.truncate", "os.mkdir", "os.rmdir")
SEED = 0


@configurable
class Network(torch.nn.Module):
    """A network with few tensors, whose states are saved fast."""

    def __init__(self):
        super().__init__()
        self.text = torch.nn.Linear(12, 3)
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.SiLU(), torch.nn.Dropout(0.2),
                                          torch.nn.Conv2d(8, 3, 3, padding=1))

    def without_text(self, tokens, mask, pooled, drop):
        return tokens, mask, pooled * ~drop[:, None]

    def forward(self, x_t, t, tokens, mask, pooled):
        return self.layers(x_t + self.text(pooled)[:, :, None, None] + t[:, None, None, None])


def train(folder):
    """Train a tiny stage as notebook 08 does: state after every step, curves, record, and the network at the end."""
    from t2ilib.checkpoint import save_model
    from t2ilib.record import Run
    from t2ilib.training import (
        Batches,
        DiffusionTraining,
        History,
        cosine_lr,
        draw_diffusion_batch,
        loop,
        make_fabric,
    )

    os.environ["T2I_RUN_DIR"] = str(folder)
    run = Run("08_tiny", given={"profile": "smoke", "seed": SEED})
    torch.manual_seed(SEED)
    training = DiffusionTraining(Network(), make_fabric(), ema_decay=0.9)
    lengths = torch.arange(1, 7)
    starts = lengths.cumsum(0) - lengths
    texts = EncodedTexts(torch.randn(21, 12).half(), starts, lengths, torch.randn(6, 12), torch.arange(6))
    pictures = torch.randn(12, 3, 8, 8)
    captions = torch.arange(12).view(12, 1) % 6
    stream = generator(SEED, "training")
    batches = Batches(12, 4, generator(SEED, "batches"))
    history = History()
    parts = training.parts() | {"stream": stream, "batches": batches, "history": history}
    settings = {"seed": SEED, "steps": STEPS}
    state = folder / "state.pt"
    loop.SAVE_SECONDS = 0.0  # after every step
    steps = loop.TrainingLoop(steps=STEPS, state=state, settings=settings, parts=parts, run=run)
    for step in steps:
        rows = batches.next()
        batch = draw_diffusion_batch(pictures[rows] + 0.01 * torch.randn(4, 3, 8, 8), captions[rows], texts, stream)
        loss = training.step(batch, cosine_lr(steps.position, STEPS, peak=1e-2))
        history.add(step, loss=float(loss))
        run.log(step, loss=float(loss))
    save_model(folder / "net", training.ema.model, curve=history.curves["loss"][1])
    run.finish()


def draw(folder):
    """Draw with the command line and tiny networks, whose state is kept after every step."""
    code = main(["generate", "red", "--method", "tiny", "--out", str(folder / "out.png"), "--save-every", "2"])
    if code:
        raise SystemExit(code)


def tiny_method():
    path = Path(__file__).parent / "guidance" / "conftest.py"
    spec = importlib.util.spec_from_file_location("tiny_networks", path)
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)

    def run(prompt, *, num_images, seed, callback=None, state=None):
        config = GuidanceConfig(prompt, steps=STEPS, num_cutouts=2, min_cut=0.6, candidates=2, ema=0.5, noise=0.1,
                                augmentations="plain", seed=seed, num_images=num_images)
        result = vqgan_clip(config, vqgan=networks.TinyVQGAN(), clips=networks.TinyCLIP(), callback=callback,
                            state=state, save_every=0)
        return picture_list(result.images), {key: result.record[key] for key in ("prompts", "final_texts")}

    return Method("tiny", "Tiny", run, previews=True, resumable=True)


class Killer:
    """Counts operations on files below a folder, and kills this process before one of them."""

    def __init__(self, folder, at=None):
        self.folder = str(folder)
        self.at = at
        self.count = 0
        sys.addaudithook(self)

    def __call__(self, event, args):
        if event not in OPERATIONS or not any(str(argument).startswith(self.folder) for argument in args[:2]):
            return
        reads = event == "open" and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if reads:
            return
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def kill_in_the_middle_of_a_state(number):
    """Let the n-th saving of a state write half of it and end the process."""
    original = torch.save
    calls = []

    def save(content, file):
        calls.append(file)
        if len(calls) < number:
            return original(content, file)
        buffer = io.BytesIO()
        original(content, buffer)
        half = buffer.getvalue()[: buffer.tell() // 2]
        if hasattr(file, "write"):
            file.write(half)
            file.flush()
        else:
            Path(file).write_bytes(half)
        os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save


def attempt(work, folder, *, operation=None, state=None, after=None):
    """Run the work in a child; return whether it ended by itself, and how many operations on files it made."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                warnings.simplefilter("ignore")
                killer = Killer(folder, operation)
                if state is not None:
                    kill_in_the_middle_of_a_state(state)
                work(folder)
                os.write(write, str(killer.count).encode())
                code = 0
            except BaseException:
                traceback.print_exc()
        from t2ilib.locks import release_all

        release_all()  # os._exit skips what runs at an ordinary end
        os._exit(code)
    os.close(write)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    count = int(os.read(read, 20) or 0)
    os.close(read)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False, 0
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"the child failed with {os.waitstatus_to_exitcode(status)}")
    return True, count


def check_files(folder):
    """Read every file that is not temporary; a half one raises."""
    for path in folder.rglob("*"):
        if not path.is_file() or path.suffix in (".tmp", ".lock"):
            continue
        if path.suffix in (".pt", ".previous", ".state"):
            check_archive(path)
            torch.load(path, weights_only=True)
        elif path.suffix in (".json", ".next"):
            json.loads(path.read_text())
        elif path.suffix == ".png":
            Image.open(path).load()


def outcome(folder):
    """Return what must be equal: names of files, weights, pictures and curves, without times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = ""
        if path.suffix in (".png", ".safetensors") or path.name == "config.json":
            found[name] = path.read_bytes().hex()
        elif path.name == "metrics.csv":
            rows = path.read_text().split()
            found[name] = " ".join(dict.fromkeys(rows))  # a step that was made twice stands there twice
        elif path.name == "state.pt":
            parts = torch.load(path, weights_only=True)["parts"]
            found[name] = repr([parts[part] for part in ("net", "ema", "optimizer", "stream", "batches", "history")])
    return found


def until_done(work, folder, expected, kills):
    """Start the work again after each kill; then it must have ended as an undisturbed one did."""
    killed = 0
    for kill in kills:
        ended, _ = attempt(work, folder, **kill)
        check_files(folder)
        if ended:
            break
        killed += 1
    else:
        attempt(work, folder)
    result = outcome(folder)
    different = [name for name in result.keys() | expected.keys() if result.get(name) != expected.get(name)]
    if different:
        raise SystemExit(f"after {kills}: {sorted(different)} differ")
    return killed


def warm_up(work, folder):
    """Import here what the work imports on its way, so that children need not; it runs in one of them."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        with contextlib.suppress(BaseException):
            work(folder)
        os.write(write, "\n".join(sys.modules).encode())
        os._exit(0)
    os.close(write)
    with open(read) as names:
        for name in names.read().split("\n"):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    os.wait()


def run(folder, work):
    warm_up(work, folder / "warm")
    whole = folder / "whole"
    began = time.monotonic()
    _, operations = attempt(work, whole)
    seconds = time.monotonic() - began
    expected = outcome(whole)
    again = folder / "again"
    attempt(work, again)
    if outcome(again) != expected:
        raise SystemExit("two undisturbed runs differ")
    killed = 0
    for number in range(1, operations + 1):
        killed += until_done(work, folder / f"operation{number}", expected, [{"operation": number}])
    for number in range(1, STEPS + 1):
        killed += until_done(work, folder / f"state{number}", expected, [{"state": number}])
    # once before the 4th operation, and again and again
    killed += until_done(work, folder / "again_and_again", expected, [{"operation": n} for n in (4, 9, 13, 17)])
    chance = random.Random(SEED)
    for number in range(4):
        kills = [{"after": chance.uniform(0, 1.1 * seconds)} for _ in range(3)]
        killed += until_done(work, folder / f"moment{number}", expected, kills)
    return {"operations": operations, "killed": killed, "seconds_of_one": round(seconds, 2), "files": list(expected)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    METHODS.add("tiny", tiny_method())
    works = {"training": train, "drawing": draw}
    print(json.dumps(run(Path(sys.argv[1]), works[sys.argv[2]])))

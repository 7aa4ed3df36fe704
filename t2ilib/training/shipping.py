"""Where a notebook saves the networks that it trained: never silently over those that ship."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..checkpoint import load_state, load_strict, read_config
from ..errors import BadParameter, check_name
from ..files import check_writable
from ..paths import checkpoints_dir, reports_dir

REPLACE = "replace"  # the word that lets a training take the place of what ships
PREVIOUS = ".previous"  # folder that keeps what was replaced
SCRATCH = "scratch"
SHIPPED = "shipped"
STARTS = (SCRATCH, SHIPPED)
LATER_SHARE = 0.2  # of a recipe's learning rate, for a network that has been trained
EMOJI = "emoji"  # what the networks that ship were trained on


def checkpoint_home(run_dir: Path, choice: str, *, recipe: Mapping[str, Any], used: Mapping[str, Any],
                    start_from: str = SCRATCH, minutes: float | None = None) -> Path:
    """Return the folder for the checkpoints of a training, checked before it begins.

    Args:
        run_dir: of the run. choice: the notebook's parameter `checkpoint`: "" is `checkpoints` in the run's folder,
            "replace" the folder of those that ship, anything else a folder to make.
        recipe: what the checkpoints that ship were trained with, by name. used: what this run trains with; more
            steps than in the recipe are no difference.
        start_from: "scratch", or "shipped" for a training that goes on from what ships, as long as it likes.
        minutes: of a training that ends by time, or None.

    Raises:
        UnknownName: not one of STARTS.
        BadParameter: "replace", but this training is not the recipe, or the folder cannot be written.
    """
    check_name("start_from", start_from, STARTS)
    if choice == "":
        return run_dir / "checkpoints"
    if choice != REPLACE:
        folder = Path(choice).expanduser()
        if folder.resolve().is_relative_to(checkpoints_dir().resolve()):
            raise BadParameter(f"checkpoint={choice!r} lies among the checkpoints that ship; give another folder, or "
                               f"{REPLACE!r} to put this training in their place")
        check_writable(folder / "config.json")
        return folder
    goes_on = start_from == SHIPPED
    differences = []
    if minutes is not None and not goes_on:
        differences.append("it begins from scratch and ends by minutes")
    for name, value in recipe.items():
        fewer = name.endswith("steps") and used[name] < value and not goes_on
        other = not name.endswith("steps") and used[name] != value
        if fewer or other:
            differences.append(f"{name} is {used[name]!r}, in the recipe {value!r}")
    if differences:
        raise BadParameter(f"checkpoint={REPLACE!r} is for the recipe of the checkpoints that ship: "
                           f"{'; '.join(differences)}. Leave it out, and draw with -o checkpoint=FOLDER")
    return checkpoints_dir()


def check_trained_on(data: str, train: bool | None) -> None:
    """Refuse to draw what a data set shows with a network that ships.

    Raises:
        BadParameter: other data than the emoji set, and nothing is trained on it.
    """
    if data != EMOJI and not train:
        raise BadParameter(f"no network that ships was trained on data={data!r}: leave train=False out, so that one is "
                           "trained")


def training_folder(name: str, *, data: str = EMOJI, work_dir: str = "") -> Path:
    """Return the folder of a training's states: `work_dir`, else one in `reports/training` for each data set.

    Args:
        name: of the network that ships, such as "emoji-prior": with data "shapes" the folder is "shapes-prior".
        data: what is trained on, as `load_captioned` takes it.
        work_dir: the notebook's parameter; "" leaves the choice.
    """
    if work_dir:
        return Path(work_dir)
    data_name = Path(data).name.replace(":", "-")
    return reports_dir() / "training" / f"{data_name}-{name.removeprefix(f'{EMOJI}-')}"


def keep_previous(home: Path, names: Sequence[str]) -> None:
    """Copy what ships and is about to be replaced to the folder `.previous` beside it; nothing in another `home`."""
    if home != checkpoints_dir():
        return
    for name in names:
        if (home / name).is_dir():
            shutil.rmtree(home / PREVIOUS / name, ignore_errors=True)
            shutil.copytree(home / name, home / PREVIOUS / name)


def take_weights(network: nn.Module, start_from: str, name: str) -> None:
    """Give a network the weights of the checkpoint `name` that ships, if `start_from` says "shipped".

    Raises:
        UnknownName: not one of STARTS. MissingAsset: there is no such checkpoint.
        CheckpointMismatch: the checkpoint is of a network of another class or size.
    """
    check_name("start_from", start_from, STARTS)
    if start_from == SHIPPED:
        folder = checkpoints_dir() / name
        state, _ = load_state(folder, kind=type(network).__name__)
        load_strict(network, state, source=str(folder))


def peak_rate(learning_rate: float, start_from: str) -> float:
    """Return the peak of a learning rate's schedule: a fifth of a recipe's own for a network that has been trained.

    A full peak undoes what a network has learned, and the same minutes do not bring it back: PixelSNAIL of notebook 06,
    going on for two hours of one core at its recipe's 1e-3, fell from 0.53 to 0.30 of strict top-10 (best of 8 drafts,
    40 training concepts).

    Raises:
        UnknownName: not one of STARTS.
    """
    check_name("start_from", start_from, STARTS)
    return learning_rate * (LATER_SHARE if start_from == SHIPPED else 1)


def pictures_seen(config: Mapping[str, Any]) -> int | None:
    """Return how many pictures a checkpoint's training has seen, by its card; None if that does not say."""
    if "pictures_seen" in config:
        return config["pictures_seen"]
    training = config.get("training") or {}
    steps = None
    for name in ("prior_steps", "steps", "grow_steps"):  # the names that cards have had
        steps = steps or training.get(name)
    batch_size = training.get("batch_size")
    return steps * batch_size if steps and batch_size else None


def seen_before(start_from: str, name: str) -> int:
    """Return how many pictures the weights that a training begins with have seen; 0 from scratch."""
    if start_from == SCRATCH:
        return 0
    return pictures_seen(read_config(checkpoints_dir() / name)) or 0

"""The trainings of the checkpoints that ship, by short names: which notebook, with which parameters, makes which."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BadParameter, check_name
from ..files import read_json
from ..paths import checkpoints_dir, reports_dir
from ..training.shipping import pictures_seen


@dataclass(frozen=True)
class Recipe:
    """One training.

    Attributes:
        notebook: its number. parameters: of the notebook, beside profile "full".
        checkpoint: what it makes. state: of the training, in the folder of trainings.
    """

    notebook: str
    checkpoint: str
    state: str
    parameters: dict[str, Any] = field(default_factory=dict)

    def state_file(self, work_dir: str = "") -> Path:
        """Return where the training keeps its state, given the notebook's parameter `work_dir`."""
        if work_dir:
            return Path(work_dir) / Path(self.state).name
        return reports_dir() / "training" / self.state


def _minimagen(stage: str) -> Recipe:
    parameters = {"stages": stage, "measure": False}
    return Recipe("08", f"emoji-minimagen-{stage}", f"emoji-minimagen/{stage}.pt", parameters)


def _clip(name: str) -> Recipe:
    return Recipe("12", name, f"{name}/state.pt", {"recipe": name})


def _pixelsnail(stage: str, name: str) -> Recipe:
    state = "vqvae" if stage == "vqvae" else name
    parameters = {"stages": stage, "live_steps": 0, "measure": False}
    return Recipe("06", name, f"emoji-vqvae-pixelsnail/{state}.pt", parameters)


RECIPES = {
    "base": _minimagen("base"),
    "sr64": _minimagen("sr64"),
    "sr128": _minimagen("sr128"),
    "wgan": Recipe("02", "emoji-wgan", "emoji-wgan/recipe.pt", {"live_steps": 0}),
    "clip": _clip("emoji-clip"),
    "clip-b": _clip("emoji-clip-b"),
    "clip-photo": _clip("emoji-clip-photo"),
    "clip-student": Recipe("04", "emoji-clip-student", "emoji-clip-student/image-separable.pt",
                           {"arm_steps": 0, "measure": False}),
    "judge": _clip("emoji-judge"),
    "judge-photo": _clip("emoji-judge-photo"),
    "vqgan": Recipe("13", "emoji-vqgan", "emoji-vqgan/state.pt", {"grow_steps": 0, "mend_steps": 0}),
    "vqgan-128": Recipe("13", "emoji-vqgan-128", "emoji-vqgan/state_128.pt",
                        {"steps": 0, "start_from": "shipped"}),
    "decoder": Recipe("13", "emoji-vqgan-128", "emoji-vqgan/state_mend.pt",
                      {"steps": 0, "grow_steps": 0, "start_from": "shipped"}),
    "prior": Recipe("14", "emoji-prior", "emoji-prior/state.pt"),
    "generator": Recipe("05", "emoji-generator", "emoji-generator/recipe.pt", {"arm_steps": 0, "measure": False}),
    "gigagan": Recipe("07", "emoji-gigagan", "emoji-gigagan/recipe.pt",
                      {"ladder_steps": 0, "rival_minutes": 0, "measure": False}),
    "words": Recipe("09", "emoji-text-transformer", "emoji-text-transformer/recipe.pt",
                    {"arm_steps": 0, "measure": False}),
    "blip": Recipe("16", "emoji-blip", "emoji-blip/state.pt", {"measure": False}),
    "vqvae": _pixelsnail("vqvae", "emoji-vqvae"),
    "pixelsnail": _pixelsnail("pixelsnail", "emoji-pixelsnail"),
}
GROUPS = {"cascade": ("base", "sr64", "sr128"), "guides": ("clip", "clip-b")}


def is_queue(name: str) -> bool:
    """Return whether a name means recipes, such as "base" or "sr64,guides", and not a notebook."""
    return all(part in RECIPES or part in GROUPS for part in _parts(name))


def find_recipes(names: str) -> list[str]:
    """Return the names of recipes in a list such as "base,guides", each once.

    Raises:
        UnknownName: neither a recipe nor a group of them. BadParameter: none is named.
    """
    found: list[str] = []
    for part in _parts(names):
        check_name("recipe", part, [*RECIPES, *GROUPS])
        found += [name for name in GROUPS.get(part, (part,)) if name not in found]
    if not found:
        raise BadParameter(f"name what to train, such as base or guides; known are {', '.join([*RECIPES, *GROUPS])}")
    return found


def _parts(names: str) -> list[str]:
    return [part for part in names.replace(" ", "").split(",") if part]


def describe(recipe: Recipe) -> dict[str, Any]:
    """Return what is known of a recipe: its notebook, how many pictures it has seen, figures, and a state here."""
    config: dict[str, Any] = {}
    folder = checkpoints_dir() / recipe.checkpoint
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
    state = recipe.state_file()
    return {"notebook": recipe.notebook, "checkpoint": recipe.checkpoint, "pictures": pictures_seen(config),
            "validation": _validation(config), "state": state if state.is_file() else None}


def _validation(config: dict[str, Any]) -> dict[str, float]:
    """Return what a card says of validation: choices are made by these figures."""
    metrics = config.get("metrics") or {}
    return {name: value for name, value in metrics.items() if name.startswith(("validation", "left_out"))}

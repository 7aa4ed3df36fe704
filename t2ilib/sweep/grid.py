"""A grid: the file that says what a sweep runs, read and checked before anything starts."""

import dataclasses
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BadParameter, MissingInput, check_name
from ..files import read_text
from ..options import check_fields, option

MOST_RUNS = 10_000
GOALS = ("highest", "lowest")
HELD_OUT = "held_out"
OF_A_METHOD = ("prompts", "concepts", "num_images")


@dataclass(frozen=True)
class Grid:
    """What a sweep runs. Lists become tuples; see the docstring of the package for the file.

    Raises:
        BadParameter: a value is of another type or out of range, or two contradict one another.
    """

    notebook: str = option("", "what runs", "number or name of a notebook")
    method: str = option("", "what runs", "name of a method")
    profile: str = option("", "what runs", "of the notebook; empty is `quick`")
    parameters: Mapping[str, Any] = option(None, "values", "the same in every run", type="dict | None")
    sweep: Mapping[str, Any] = option(None, "values", "name -> list of values to try", type="dict | None")
    seeds: tuple[int, ...] = option((0,), "values", "each combination is run with each", type="list[int]", low=0)
    metric: str = option("", "choice", "by which the best row is chosen")
    goal: str = option("highest", "choice", "whether more of it is better", choices=GOALS)
    prompts: tuple[str, ...] = option((), "pictures", "texts that the method draws", type="list[str]")
    concepts: int = option(0, "pictures", "or so many names of concepts of `validation`", low=0)
    num_images: int = option(1, "pictures", "of each prompt", low=1)
    cpus: int = option(1, "machine", "that a run takes, also its number of threads", low=1)
    gpus: float = option(0.0, "machine", "that a run takes; a share of one is possible", low=0)

    def __post_init__(self):
        check_fields(self)
        for name in ("parameters", "sweep"):
            object.__setattr__(self, name, dict(getattr(self, name) or {}))
        if bool(self.notebook) == bool(self.method):
            raise BadParameter("a grid names either a notebook or a method; got "
                               f"notebook: {self.notebook!r} and method: {self.method!r}")
        check_metric(self.metric)
        self._check_sweep()
        self._check_kind()

    def _check_sweep(self) -> None:
        for name, values in self.sweep.items():
            if not isinstance(values, (list, tuple)) or not values:
                raise BadParameter(f"sweep: {name} must be a list of values to try, got {values!r}; what is the same "
                                   "in every run stands under parameters")
            if name in self.parameters:
                raise BadParameter(f"{name} stands under parameters and under sweep; leave it out of one")
            check_each_once(f"sweep: {name}", values)
        for place, names in (("parameters", self.parameters), ("sweep", self.sweep)):
            if "seed" in names:
                raise BadParameter(f"seed stands under {place}; write seeds: [0, 1, 2] instead")
        if not self.seeds:
            raise BadParameter("seeds must be a list of at least one number, such as [0, 1, 2]")
        check_each_once("seeds", self.seeds)
        if self.count > MOST_RUNS:
            raise BadParameter(f"the grid has {self.count:,} runs, more than {MOST_RUNS:,}; try fewer values at once")

    def _check_kind(self) -> None:
        if self.notebook:
            for name in OF_A_METHOD:
                if getattr(self, name) != Grid.__dataclass_fields__[name].default:
                    raise BadParameter(f"{name} is for a method; a notebook says under parameters what it draws")
            return
        if self.profile:
            raise BadParameter("profile is for a notebook; a method has options, which stand under parameters")
        if bool(self.prompts) == bool(self.concepts):
            raise BadParameter("a method draws either prompts: [a red heart, ...] or concepts: 40 of `validation`; got "
                               f"{len(self.prompts)} prompts and concepts: {self.concepts}")

    @property
    def count(self) -> int:
        """Return the number of runs."""
        count = len(self.seeds)
        for values in self.sweep.values():
            count *= len(values)
        return count

    def combinations(self) -> list[dict[str, Any]]:
        """Return every combination of the swept values, by name; the last name changes fastest."""
        names = list(self.sweep)
        return [dict(zip(names, values, strict=True)) for values in itertools.product(*self.sweep.values())]


def check_metric(name: str) -> None:
    """Refuse a metric of the held-out split as a criterion."""
    if HELD_OUT in name.lower().replace("-", "_").replace(" ", "_"):
        raise BadParameter(f"metric: {name} looks at the held-out split, by which nothing may be chosen: it would no "
                           "longer say how unseen concepts fare. Choose by a metric of `validation`, such as "
                           "validation_top10")


def check_each_once(where: str, values: Any) -> None:
    """Refuse a list that holds a value twice."""
    texts = [json.dumps(value, sort_keys=True, default=str) for value in values]
    for text in texts:
        if texts.count(text) > 1:
            raise BadParameter(f"{where} lists {text} twice; a run is not repeated, seeds: [0, 1, 2] repeats it with "
                               "other random numbers")


def read_grid(path: str | Path) -> Grid:
    """Return the grid in a YAML (or JSON) file.

    Raises:
        MissingInput: there is no such file. UnknownName: a key is misspelt; the message gives the nearest.
        BadParameter: it is no YAML, or says what cannot be.
    """
    import yaml

    path = Path(path).expanduser()
    if not path.is_file():
        raise MissingInput(f"no grid at {path}; write one, `python -m t2ilib sweep --help` shows an example")
    try:
        values = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise BadParameter(f"{path} is no valid YAML: {problem}") from error
    if not isinstance(values, dict):
        raise BadParameter(f"{path} must hold names with values, such as `method: minimagen`; got {values!r:.80}")
    known = [field.name for field in dataclasses.fields(Grid)]
    for name in values:
        check_name("key of a grid", name, known)
    if isinstance(values.get("notebook"), int):
        values["notebook"] = str(values["notebook"])  # YAML reads 03 as a number
    return Grid(**values)

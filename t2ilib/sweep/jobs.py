"""The runs of a grid: each checked before anything starts, and named by the hash of all that decides it."""

import ast
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .grid import Grid
from ..errors import BadParameter, check_name
from ..files import content_hash, folder_name, paths_in
from ..methods import METHODS
from ..methods.limits import check_cost
from ..methods.registry import Method
from ..runner.plan import Plan, plan_run

DIGITS = 12  # of the hash
JUDGED = ("judge_similarity", "seconds_per_picture")
JUDGED_CONCEPTS = ("validation_top10", "validation_top1", *JUDGED)  # what a method's run records


@dataclass(frozen=True)
class MethodPlan:
    """A run of a method that was checked and not yet started; attributes as `runner.plan.Planned` has them."""

    name: str
    overrides: dict[str, Any]
    values: dict[str, Any]
    options: dict[str, Any]  # those of the values that the method itself takes


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        plan: what runs. swept: its values of the swept names. seed: its seed.
        identity: all that decides the run, of which `key` is the hash.
        run_dir: the folder with everything it leaves. timeout: seconds for one cell; None is no limit.
        threads: that it may use.
    """

    plan: Plan | MethodPlan
    swept: dict[str, Any]
    seed: int
    identity: dict[str, Any]
    key: str
    run_dir: Path
    timeout: int | None = None
    threads: int = 1

    @property
    def combination(self) -> str:
        """Return the swept values in words, such as "guidance_scale=3, steps=6"."""
        return ", ".join(f"{name}={value}" for name, value in self.swept.items()) or self.plan.name

    @property
    def label(self) -> str:
        """Return the swept values and the seed in words."""
        return f"{self.combination}, seed {self.seed}"

    def order(self) -> dict[str, Any]:
        """Return what a worker needs, as plain JSON types."""
        order = {"name": self.plan.name, "overrides": self.plan.overrides, "values": self.plan.values,
                 "identity": self.identity, "run_dir": str(self.run_dir), "threads": self.threads}
        if isinstance(self.plan, MethodPlan):
            return order | {"options": self.plan.options}
        return order | {"notebook": str(self.plan.path), "timeout": self.timeout}


def plan_jobs(grid: Grid, folder: Path, *, notebooks: Path | None = None, timeout: int | None = None) -> list[Job]:
    """Return the runs of a grid in its order, seeds changing fastest; every one is checked.

    Args:
        folder: of the sweep. notebooks: folder of the notebooks; None is that of the repository.
        timeout: seconds that one cell of a notebook may take.

    Raises:
        UnknownName, BadParameter: a name, a value or the metric cannot be, or two runs are the same.
    """
    jobs = []
    places: dict[str, str] = {}
    for swept in grid.combinations():
        for seed in grid.seeds:
            job = _plan_job(grid, swept, seed, folder, notebooks=notebooks, timeout=timeout)
            if job.key in places:
                raise BadParameter(f"{job.label} is the same run as {places[job.key]}; leave one of the values out")
            places[job.key] = job.label
            jobs.append(job)
    return jobs


def _plan_job(grid: Grid, swept: Mapping[str, Any], seed: int, folder: Path, *, notebooks: Path | None,
              timeout: int | None) -> Job:
    parameters = {**grid.parameters, **swept}
    plan: Plan | MethodPlan
    if grid.notebook:
        plan = plan_run(grid.notebook, {**parameters, "seed": seed}, grid.profile or "quick", notebooks)
        identity = {"notebook": plan.name, "code": code_hash(plan.path), "values": plan.values}
    else:
        plan = _plan_method(grid, parameters, seed)
        identity = {"method": plan.name, "values": plan.values}
    identity["inputs"] = versions_of_inputs({"name": plan.name, **plan.values})
    key = hash_of(identity)
    run_dir = folder / "runs" / folder_name(plan.name) / key
    return Job(plan, dict(swept), seed, identity, key, run_dir, timeout, grid.cpus)


def _plan_method(grid: Grid, parameters: Mapping[str, Any], seed: int) -> MethodPlan:
    method = METHODS.find(grid.method)
    options = {}
    for name, value in parameters.items():
        known = method.option(name)
        options[name] = known.read(value) if isinstance(value, str) else known.check(value)
    pictures = grid.num_images * (grid.concepts or len(grid.prompts))
    check_cost(method, pictures, options)
    if grid.metric:
        check_name("metric of a method's run", grid.metric, JUDGED_CONCEPTS if grid.concepts else JUDGED)
    drawn: dict[str, Any] = {"concepts": grid.concepts} if grid.concepts else {"prompts": list(grid.prompts)}
    drawn |= {"num_images": grid.num_images, "seed": seed}
    values = {**_plain_defaults(method), **options, **drawn, "profile": None}
    return MethodPlan(method.name, {**options, "seed": seed}, values, options)


def _plain_defaults(method: Method) -> dict[str, Any]:
    """Return the defaults of a method as plain JSON types."""
    return json.loads(json.dumps(method.defaults(), default=str))


def hash_of(identity: Mapping[str, Any]) -> str:
    """Return the first digits of the SHA-256 of plain JSON types, whatever the order of names."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def code_hash(script: Path) -> str:
    """Return the hash of what a percent script does: of its syntax tree, in which comments and prose do not stand.

    Raises:
        BadParameter: it is no Python.
    """
    try:
        tree = ast.parse(script.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise BadParameter(f"{script.name} is no Python, see line {error.lineno}; correct it") from error
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:DIGITS]


def versions_of_inputs(values: Mapping[str, Any]) -> dict[str, str]:
    """Return for each file and folder that values name what tells it from another version of itself.

    Of a file it is the hash of its content; of a folder, which may be a data set of gigabytes, that of the names, sizes
    and times of all files in it.
    """
    versions = {}
    for path in paths_in(dict(values)):
        versions[str(path)] = _folder_version(path) if path.is_dir() else content_hash(path)
    return versions


def _folder_version(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            about = file.stat()
            line = f"{file.relative_to(folder).as_posix()} {about.st_size} {about.st_mtime_ns}\n"
            digest.update(line.encode())
    return digest.hexdigest()[:DIGITS]

"""Sweeps: one notebook or method with many settings and seeds, each run in processes of its own, and one table.

    python -m t2ilib sweep grid.yaml --engine local      # as many at once as there are CPUs for
    python -m t2ilib sweep grid.yaml --engine ray        # on a Ray cluster; wants pip install "t2ilib[sweep]"

A grid is a YAML file:

    method: minimagen                  # or  notebook: "08"  with  profile: full
    parameters: {candidates: 1}        # the same in every run
    sweep:                             # every combination of these is run
      guidance_scale: [1, 3, 5]
      steps: [6, 12]
    seeds: [0, 1, 2]                   # each combination with each of them
    metric: validation_top10           # the best row is chosen by it; without it nothing is chosen
    goal: highest                      # or lowest
    concepts: 40                       # of a method: draw so many concepts of `validation`; or  prompts: [a cat, ...]
    num_images: 1                      # of a method: pictures of each prompt
    cpus: 1                            # that a run takes, also its number of threads
    gpus: 0                            # that a run takes; Ray places them

A notebook's metrics are those that it records with `run.metric`. A method's are `validation_top1` and
`validation_top10` (the judge's strict rank of each concept; with `concepts`), `judge_similarity` (its mean cosine of
picture and prompt) and `seconds_per_picture`. A metric with "held_out" in its name is refused: choices are made on
`validation`. Such metrics stay in the records of the runs, and out of the table.

The folder `reports/sweeps/NAME/` gets `results.csv` (a line for each run), `index.html` (the table, and a card for each
run) and `runs/`. A run's folder is named by the hash of its resolved plan: every value, defaults included, the contents
of the files that values name, and the notebook's code without comments. A run that has finished is not run again, one
that failed is; a change of the library is not noticed (`--again` runs everything). A run that failed before anything of
its own ran, because a port was taken or a process did not come up, is tried again; one that failed in its own code is
not. A worker that is lost costs its run, and no other. On several machines the folder must be on a disk that they
share, and the repository in the same place on each.
"""

from .engines import Engine, LocalEngine
from .grid import Grid, read_grid
from .jobs import Job, plan_jobs
from .sweep import Row, Sweep

__all__ = ["Engine", "Grid", "Job", "LocalEngine", "Row", "Sweep", "plan_jobs", "read_grid"]

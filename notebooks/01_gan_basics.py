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
# # 01 · GAN basics: two networks, three problems
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPO/blob/main/notebooks/01_gan_basics.ipynb)
#
# One network draws digits, another tells them from real ones, and each learns from the other: often, and not always.
#
# **What you will learn**
# - the game, its two losses, and a training step that waits for nothing
# - why the first loss stops teaching as soon as the discriminator is good, in exact numbers
# - what mode collapse looks like on a ring of eight heaps of points, and how to count it: classes, entropy, duplicates,
#   a thousand modes of stacked digits
# - why a falling loss says little about the pictures, as a rank correlation
# - what two losses and five remedies are worth on the same budget, beside real digits and noise
#
# | profile | device | time | memory |
# |---|---|---|---|
# | smoke | 1 CPU core | 35 s | 1.1 GB |
# | quick | 2 CPU cores | 3 min | 1.2 GB |
# | full, three seeds | 1 CPU core | 70 min | 1.3 GB |
# | full, three seeds | GPU | not measured | |
#
# MNIST is taken where `T2I_DATA` names a folder that holds it, or with `-p data mnist`, which may download it; else the
# 1,797 digits of 8 x 8 pixels that come with scikit-learn. Rerun with `python -m t2ilib run 01 -p seed 1`.

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
    needed = {"safetensors": "safetensors", "sklearn": "scikit-learn", "scipy": "scipy"}
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
data: str = "auto"  # auto, digits or mnist
steps: Optional[int] = None  # of each training of the convolutional pair; None: the profile's own
seeds: Optional[int] = None  # how often each row of the table is trained
batch_size: Optional[int] = None
learning_rate: Optional[float] = None  # of the convolutional pair
threads: int = 0  # CPU threads; 0 leaves torch's own choice

# %% [markdown]
# A profile gives the settings that the parameters leave open; `quick` names them all.

# %%
import copy
import math
import time
from types import SimpleNamespace

import torch
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional as F

from t2ilib import metrics, runtime, show
from t2ilib.checkpoint import load_model, save_model
from t2ilib.data import load_digits
from t2ilib.lesson import start
from t2ilib.media import to_unit
from t2ilib.models.digit_classifier import DigitClassifier
from t2ilib.models.digit_gans import (
    ConvCritic,
    ConvGenerator,
    LinearDiscriminator,
    LinearGenerator,
    MinibatchStd,
)
from t2ilib.models.sizes import DIGIT_GAN
from t2ilib.training import GanRule, critic_step, gan_step, generator_step, losses

# %%
train_digits = load_digits(data, split="train")
test_digits = load_digits(data, split="test")
run, cfg, device_, _ = start(
    "01_gan_basics", profile=profile, seed=seed, device=device, dtype="float32", threads=threads,
    data=data, steps=steps, seeds=seeds, batch_size=batch_size, learning_rate=learning_rate,
    smoke=dict(classifier_steps=20, linear_steps=4, steps=4, stacked_steps=2, looks=3, samples=64,
               stacked_samples=64, frozen_steps=2, final_steps=2, ring_steps=6),
    quick=dict(classifier_steps=500, linear_steps=200, steps=600, stacked_steps=400, looks=10,
               samples=2000, seeds=1, stacked_samples=4000, frozen_steps=400, final_steps=1000,
               ring_steps=800, batch_size=64, learning_rate=1e-3),
    full=dict(classifier_steps=2000, linear_steps=1000, steps=4000, stacked_steps=6000, looks=20,
              samples=10000, seeds=3, stacked_samples=26000, frozen_steps=1000, final_steps=8000,
              ring_steps=2000, learning_rate=5e-4))

# %% tags=["look"]
run.keep("sketch", show.diagram(
    [["noise z", "generator G", "fake picture", "", ""],
     ["", "", "real picture", "discriminator D", "logit"]],
    ["noise z > generator G > fake picture > discriminator D > logit",
     "real picture > discriminator D"],
    learns=["generator G", "discriminator D"],
    gradients=["logit > discriminator D > fake picture > generator G"]))

# %% [markdown]
# The dashed arrows are the step of $G$: what it learns comes to it through $D$ alone.
#
# ## The idea
# A generator $G$ turns noise $z$ into a picture. A discriminator $D$ gives a picture a logit, whose sigmoid is its
# belief that the picture is real. It learns to be right, the generator learns to make it wrong (Goodfellow et al.
# 2014):
#
# $$L_D = -\tfrac12\left[\log \sigma(D(x)) + \log(1 - \sigma(D(G(z))))\right], \qquad
#   L_G^{\text{saturating}} = \log(1 - \sigma(D(G(z)))), \qquad
#   L_G^{\text{non-saturating}} = -\log \sigma(D(G(z))).$$
#
# Both losses of $G$ ask for the same, a high logit. They differ in how hard they pull. Written down as they stand they
# overflow; with $-\log\sigma(\ell) = \text{softplus}(-\ell)$ they do not. **Check**, and see what the library returns
# at a logit where the naive form has given up:

# %%
def naive_losses(on_real, on_fake):
    p_real = torch.sigmoid(on_real)
    p_fake = torch.sigmoid(on_fake)
    discriminator = -0.5 * (p_real.log() + (1 - p_fake).log()).mean()
    saturating = (1 - p_fake).log().mean()
    non_saturating = -p_fake.log().mean()
    return torch.stack([discriminator, saturating, non_saturating])


def library_losses(on_real, on_fake):
    discriminator = losses.logistic_critic_loss(on_real, on_fake)
    saturating = losses.saturating_generator_loss(on_fake)
    non_saturating = losses.nonsaturating_generator_loss(on_fake)
    return torch.stack([discriminator, saturating, non_saturating])


# %%
stream = runtime.generator(seed, "check")
on_real, on_fake = torch.randn(2, 64, generator=stream, dtype=torch.float64)
torch.testing.assert_close(naive_losses(on_real, on_fake), library_losses(on_real, on_fake))
sure_of_real = torch.tensor([120.0])
sure_of_fake = torch.tensor([-120.0])
rows = {}
for name, function in {"naive": naive_losses, "library": library_losses}.items():
    values = function(sure_of_real, sure_of_fake) + 0.0  # no -0.0 in the table
    rows[name] = dict(zip(("discriminator", "saturating", "non-saturating"), values.tolist()))
run.keep("sure_losses", show.Table(
    rows, digits=1, note="losses at a logit of -120 for a fake picture, 120 for a real one"))

# %% [markdown]
# ## The data
# All digits lie on the device as bytes, and a batch is an index into them: no loader, no worker, no copy in the loop.
# (MNIST is 47 MB like this.) The public first scripts unpack each picture from PIL, in each epoch anew.

# %%
train_digits = train_digits.to(device_)
test_digits = test_digits.to(device_)
size = train_digits.images.shape[-1]
real_count = min(len(test_digits), cfg.samples)


def draw_real(count, stream):
    """Random training digits (count, 1, H, W) in [-1, 1]; no number is read from the device."""
    rows = torch.randint(len(train_digits), (count,), generator=stream, device=device_)
    return train_digits.batch(rows)


def stream_of(*names):
    return runtime.generator(seed, *names, device=device_)


# %%
def shown(x):
    """Pictures in [0, 1]; tiny ones enlarged smoothly, or eyes read edges of pixels, not digits."""
    x = to_unit(x)
    if size > 16:
        return x
    return F.interpolate(x, scale_factor=6.0, mode="bicubic").clamp(0, 1)


real_train = train_digits.batch(torch.arange(min(len(train_digits), 10000), device=device_))
real_test = test_digits.batch(torch.arange(real_count, device=device_))
print(f"{train_digits.name}: {len(train_digits)} to train, {len(test_digits)} to test, "
      f"{size} x {size} pixels")
run.keep("digits", show.grid(shown(real_test[:24]), columns=12, scale=0.6,
                             title="real digits, from the test set"))

# %% [markdown]
# ## An instrument: a classifier of digits
# To count what a generator draws, something must read digits. A small network does, trained here in seconds; its
# features (32 numbers before the last layer) also measure how far two sets of pictures are apart. Three quarters of its
# pictures are turned, scaled and moved a little. It sees neither the test digits nor anything generated, and it is the
# same for every `seed`: an instrument must not change with what it measures.

# %%
def wiggled(x, stream):
    """Turn, scale and move pictures at random."""
    turn, scale, right, down = 2 * torch.rand(4, len(x), generator=stream, device=x.device) - 1
    turn = 0.3 * turn
    scale = 1 + 0.14 * scale
    cosine = scale * turn.cos()
    sine = scale * turn.sin()
    rows = [cosine, -sine, 0.18 * right, sine, cosine, 0.18 * down]
    theta = torch.stack(rows, dim=1).view(-1, 2, 3)  # (B, 2, 3)
    grid = F.affine_grid(theta, x.shape, align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


# %%
torch.manual_seed(0)
classifier = DigitClassifier(image_size=size, ch=24).to(device_)
stream = runtime.generator(0, "classifier", device=device_)
optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=0.05)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=cfg.classifier_steps)
for _ in range(cfg.classifier_steps):
    rows = torch.randint(len(train_digits), (64,), generator=stream, device=device_)
    x = train_digits.batch(rows)
    logits = classifier(torch.cat([x[:16], wiggled(x[16:], stream)]))
    loss = F.cross_entropy(logits, train_digits.labels[rows], label_smoothing=0.1)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
classifier = classifier.eval().requires_grad_(False)

# %% [markdown]
# **FID-digits** is the Fréchet distance between two Gaussians fitted to these features, as FID is on those of an
# Inception network (Heusel et al. 2017); the numbers of one cannot be compared with those of the other. It shrinks with
# the number of pictures, so everything below is measured on equally many. The rest is counted from the classes.

# %%
def features_of(x):
    return torch.cat([classifier.features(part) for part in x.split(1024)])  # (N, 32)


def measure(x, *, duplicates=True):
    """What pictures (N, 1, H, W) in [-1, 1] are worth: distance, classes, duplicates."""
    features = features_of(x)
    counts = metrics.class_histogram(classifier.head(features).argmax(1), 10)
    row = {"FID-digits": metrics.frechet_distance(train_features, features),
           "entropy": metrics.entropy(counts),
           "modes": metrics.modes_covered(counts, share=0.01),
           "KL": metrics.kl_to_data(counts, class_counts)}
    if duplicates:
        row["duplicates"] = metrics.duplicate_rate(x[:2000], real_train[:len(x[:2000])])
    return row


# %%
train_features = features_of(real_train)
class_counts = metrics.class_histogram(train_digits.labels, 10)
all_test = test_digits.batch(torch.arange(len(test_digits)))
logits = torch.cat([classifier(part) for part in all_test.split(1024)])  # (N, 10)
accuracy = (logits.argmax(1) == test_digits.labels).double().mean().item()
run.metric(classifier_accuracy=accuracy)
print(f"classifier: {accuracy:.4f} of {len(test_digits)} test digits")

# %% [markdown]
# What do these numbers say of pictures whose worth we know? Real test digits are the goal. Duplicates: pictures whose
# nearest other one is closer than for all but 1 % of real digits.

# %% tags=["baselines"]
COLUMNS = ("FID-digits", "entropy", "modes", "KL", "duplicates")
UNITS = {"entropy": "nats", "modes": "of 10", "KL": "nats", "duplicates": "share"}
noise = 2 * torch.rand(real_test.shape, generator=stream_of("noise"), device=device_) - 1
one_digit = real_train[:1].repeat(real_count, 1, 1, 1)  # (N, 1, H, W)
ones = real_train[train_digits.labels[:len(real_train)] == 1]
copies = math.ceil(real_count / len(ones))
ones = ones.repeat(copies, 1, 1, 1)[:real_count]  # (N, 1, H, W)
baselines = {"real test digits": measure(real_test), "noise": measure(noise),
             "one training digit": measure(one_digit), "ones only": measure(ones)}
run.keep("baselines", show.Table(
    baselines, columns=COLUMNS, units=UNITS, digits=2,
    note=f"n = {real_count} pictures each; entropy of all classes alike {math.log(10):.2f}"))

# %% [markdown]
# ## The networks
# The linear pair is that of the first lesson: nothing but matrices. (A widespread script passes 0.8 as the second
# argument of `BatchNorm1d`: that is `eps`, not momentum, and its norms hardly normalise. Here it stays at 1e-5.) The
# convolutional pair is a small DCGAN. No discriminator normalises over the batch, so that each can be given a gradient
# penalty.

# %%
def build(kind, *, channels=1, minibatch_std=False, wider=1):
    """A generator and a discriminator; equal `seed`s give equal weights."""
    shape = dict(image_channels=channels, image_size=size)
    if kind == "linear":
        pair = LinearGenerator(**shape), LinearDiscriminator(**shape)
    else:
        shape["ch"] = wider * DIGIT_GAN["convolutional"]["ch"]
        pair = ConvGenerator(**shape), ConvCritic(minibatch_std=minibatch_std, **shape)
    return [net.to(device_) for net in pair]


def sgd(net, *_):
    return torch.optim.SGD(net.parameters(), lr=0.01)


def adam(net, lr=None, betas=(0.5, 0.99)):
    fused = device_.type != "mps"
    return torch.optim.Adam(net.parameters(), lr=lr or cfg.learning_rate, betas=betas, fused=fused)


# %%
rows = {}
for kind in ("linear", "convolutional"):
    net, critic = build(kind)
    z = torch.zeros(2, net.latent_dim, device=device_)
    for network, x in ((net, z), (critic, real_test[:2])):
        rows[type(network).__name__] = {"parameters": sum(p.numel() for p in network.parameters()),
                                        "input": str(tuple(x.shape)),
                                        "output": str(tuple(network(x).shape))}
run.keep("networks", show.Table(rows, note="shapes for a batch of two"))

# %% [markdown]
# ## One step
# The discriminator learns first, from *detached* fakes: its loss must not reach the generator. Then the generator, on
# the same fakes. As it is told:

# %%
def naive_step(net, critic, optimizers, real, z):
    """One update of the discriminator, one of the generator, with the losses of the beginning."""
    generator_optimizer, critic_optimizer = optimizers
    fake = net(z)
    loss, _, _ = naive_losses(critic(real), critic(fake.detach()))
    critic_optimizer.zero_grad()
    loss.backward()
    critic_optimizer.step()
    _, _, generator_loss = naive_losses(critic(real), critic(fake))
    generator_optimizer.zero_grad()
    generator_loss.backward()
    generator_optimizer.step()
    return torch.stack([loss, generator_loss]).detach()


# %% [markdown]
# The generator needs from the discriminator only the gradient of its loss with respect to the pictures. So the library
# asks for nothing else, and no gradient of the discriminator's weights is computed a second time. That gradient is
# also what we want to look at. **Check** that both sides still move alike:

# %%
plain = build("convolutional")
ours = copy.deepcopy(plain)
real = real_test[:16]
z = torch.randn(16, plain[0].latent_dim, generator=stream_of("one step"), device=device_)
naive = naive_step(*plain, [sgd(net) for net in plain], real, z)
step = gan_step(GanRule(), *ours, *[sgd(net) for net in ours], real, z)
torch.testing.assert_close(torch.stack([step.critic.loss, step.generator.loss]), naive)
for ours_net, plain_net in zip(ours, plain):
    torch.testing.assert_close(ours_net.state_dict(), plain_net.state_dict(), rtol=1e-4, atol=1e-5)
print(f"losses {naive[0]:.4f} and {naive[1]:.4f}, and equal weights after one step")

# %% [markdown]
# A rule says what is played: `GanRule` names the loss and the weights of the penalties that remedies add. What a step
# saw is kept as six numbers on the device: reading one of them here would make the program wait for the device in
# every step.

# %%
STEP_COLUMNS = ("discriminator loss", "generator loss", "gradient at the pictures", "right on real",
                "right on fake", "gap")


def train_step(rule, net, critic, optimizers, real, stream):
    """One update of each network; return six numbers (6,), as named in STEP_COLUMNS."""
    z = torch.randn(len(real), net.latent_dim, generator=stream, device=device_)
    alpha = None
    if rule.penalty:
        alpha = torch.rand(len(real), generator=stream, device=device_)
    step = gan_step(rule, net, critic, *optimizers, real, z, alpha=alpha)
    pull = step.generator.at_pictures.flatten(1).norm(dim=1)  # (B,)
    strength = len(pull) * pull.mean()  # of one picture: the loss is a mean over the batch
    right_on_real = (step.critic.on_real > 0).float().mean()
    right_on_fake = (step.critic.on_fake < 0).float().mean()
    gap = step.critic.on_real.mean() - step.critic.on_fake.mean()
    return torch.stack([step.critic.loss, step.generator.loss, strength, right_on_real,
                        right_on_fake, gap])


# %% [markdown]
# The loop: draw a batch, step, and at a few places look at pictures from noise that stays the same. Only there the
# program waits.

# %%
fixed_z = torch.stack([torch.randn(128, generator=runtime.generator(seed, "look", i))
                       for i in range(12)]).to(device_)  # (12, 128)


@torch.no_grad()
def draw(net, count, *, name="measured"):
    """Pictures (count, C, H, W) of a generator in eval mode, always from the same noise."""
    z = torch.randn(count, net.latent_dim, generator=stream_of(name), device=device_)
    training = net.training
    pictures = torch.cat([net.eval()(part) for part in z.split(1024)])
    net.train(training)
    return pictures


def draw_fixed(net):
    """Twelve pictures of a generator, from the same noise at every look, and whatever its size."""
    pictures = net.eval()(fixed_z[:, :net.latent_dim]).detach()
    net.train()
    return pictures


# %%
def players(change, *, repeat=0, pair=None, channels=1, wider=1, optimize=adam, lr=None,
            betas=(0.5, 0.99)):
    """The rule that `change` makes of the plain one; a pair, fresh or a copy; its optimisers."""
    minibatch_std = "minibatch_std" in change  # which the network does, not the loss
    rule = GanRule(**{} if minibatch_std else change)
    torch.manual_seed(runtime.derived_seed(seed, "weights", repeat))  # the same for all rules
    shape = dict(channels=channels, minibatch_std=minibatch_std, wider=wider)
    net, critic = copy.deepcopy(pair) or build("convolutional", **shape)
    return rule, net, critic, [optimize(net, lr, betas), adam(critic, lr, betas)]


def log_steps(name, history):
    """Record what about two hundred of the steps measured."""
    for step in range(0, len(history), max(1, len(history) // 200)):
        values = zip(STEP_COLUMNS, history[step].tolist())
        run.log(step, **{f"{name}: {column}": value for column, value in values})


# %% [markdown]
# `train` returns the pair, what its steps measured, and what was found at the looks.

# %%
def train(name, change, *, steps, looks=0, repeat=0, source=draw_real, **options):
    rule, net, critic, optimizers = players(change, repeat=repeat, **options)
    stream = stream_of("train", repeat)
    result = SimpleNamespace(net=net, critic=critic, found=[], shots=[], seconds=0.0)
    result.history = torch.zeros(steps, len(STEP_COLUMNS), device=device_)
    look_at = {round(steps * (k + 1) / looks) for k in range(looks)}
    began = time.perf_counter()
    for step in runtime.progress(range(steps), desc=name, every=60):
        real = source(cfg.batch_size, stream)
        result.history[step] = train_step(rule, net, critic, optimizers, real, stream)
        if step + 1 in look_at or step + 1 == steps:
            result.history[step].cpu()  # wait for the device before the clock is read
            result.seconds += time.perf_counter() - began
        if step + 1 in look_at:
            row = measure(draw(net, real_count), duplicates=step + 1 == steps)
            result.found.append({"step": step + 1, **row})
            result.shots.append(draw_fixed(net))
            began = time.perf_counter()
    log_steps(f"{name} {repeat}", result.history)
    return result


# %% [markdown]
# ## Problem 1: the gradient vanishes
# The slope of the generator's loss at a logit $\ell$ is $-\sigma(\ell)$ for the saturating loss and $-\sigma(-\ell)$
# for the other. Where the discriminator is sure of a fake, $\ell = -10$, the first leaves 4.5e-5 of the gradient.
# The direction is the same: for each picture the two gradients differ by the factor $e^{\ell}$ alone.

# %% tags=["problems"]
LOSSES = {"saturating": losses.saturating_generator_loss,
          "non-saturating": losses.nonsaturating_generator_loss}
rows = {}
for logit in (-10.0, -5.0, 0.0, 5.0):
    at = torch.tensor(logit, dtype=torch.float64, requires_grad=True)
    rows[f"logit {logit:.0f}"] = {}
    for name, loss in LOSSES.items():
        (slope,) = torch.autograd.grad(loss(at), at)
        rows[f"logit {logit:.0f}"][name] = f"{slope.item():.3e}"
run.keep("slopes", show.Table(rows, note="slope of the generator's loss at a logit"))

# %% [markdown]
# The experiment of Arjovsky and Bottou (2017): keep the generator as it is, train only the discriminator, and watch
# what each loss would send back through the pictures.

# %%
torch.manual_seed(seed)
waiting = build("linear")
net, critic = waiting
optimizer = adam(critic, 2e-4, (0.5, 0.999))
stream = stream_of("frozen")
pulls = {name: [] for name in LOSSES}
right = []
for _ in range(cfg.linear_steps):
    with torch.no_grad():
        z = torch.randn(cfg.batch_size, net.latent_dim, generator=stream, device=device_)
        fake = net(z)
    real = draw_real(cfg.batch_size, stream)
    judged = critic_step(GanRule(), critic, optimizer, real, fake)
    right += [(judged.on_real > 0).float().mean(), (judged.on_fake < 0).float().mean()]
    logits = critic(fake.requires_grad_())
    for name, loss in LOSSES.items():
        (pull,) = torch.autograd.grad(cfg.batch_size * loss(logits), fake, retain_graph=True)
        pulls[name].append(pull.flatten(1).norm(dim=1))  # (B,)

# %%
ratio = pulls["saturating"][-1] / pulls["non-saturating"][-1]
torch.testing.assert_close(ratio, logits.detach().exp(), rtol=1e-3, atol=1e-9)
curves = {name: torch.stack(values).mean(1).tolist() for name, values in pulls.items()}
last_right = torch.stack(right[-10:]).mean().item()  # of five steps, on real and on fake pictures
print(f"after {cfg.linear_steps} steps it is right in {last_right:.0%}; gradient at a picture: "
      + ", ".join(f"{name} {curve[-1]:.2e}" for name, curve in curves.items()))
run.metric(**{f"frozen_{name}_gradient": curve[-1] for name, curve in curves.items()})
run.keep("vanishing", show.curves(curves, log=True, size=(6.0, 2.8), title="a generator that waits",
                                  ylabel="gradient at a picture"))

# %% [markdown]
# Now both learn, from this point on: the discriminator is far ahead. Does the generator catch up? Each loss is tried
# with plain gradient descent and with Adam. Adam divides a gradient by its own recent size, so a factor that all
# pictures share is lost, and with it most of the difference between the losses.

# %%
linear = {}
for optimize in (sgd, adam):
    for loss in LOSSES:
        name = f"{loss}, {optimize.__name__}"
        linear[name] = train(f"linear {name}", dict(loss=loss), steps=cfg.linear_steps, looks=1,
                             pair=waiting, optimize=optimize, lr=2e-4, betas=(0.5, 0.999))
rows = {}
for name, training in linear.items():
    rows[name] = {}
    for column, short in {2: "gradient", 4: "right on fake", 5: "gap"}.items():
        rows[name][f"{short} first"] = training.history[0, column].item()
        rows[name][f"{short} last"] = training.history[-20:, column].mean().item()
    run.metric(**{f"linear {name}: gradient": rows[name]["gradient last"]})

# %%
run.keep("linear_steps", show.Table(
    rows, digits=4, units={"right on fake first": "share", "right on fake last": "share"},
    note=f"first: step 1; last: mean of the last {min(20, cfg.linear_steps)} of {cfg.linear_steps} "
         f"steps of {cfg.batch_size} pictures; gradient: of the loss, at a picture; gap: mean "
         f"logit of real pictures minus that of fake ones; one training each, seed {seed}"))
curves = {name: training.history[:, 2].tolist() for name, training in linear.items()}
run.keep("linear", show.curves(curves, log=True, smooth=5, ylabel="gradient at a picture",
                               size=(6.0, 3.0), title="both learn"))

# %% [markdown]
# Gradient descent on the saturating loss gets nothing to follow, and falls further behind. With Adam both losses catch
# up in a few steps. So one rarely meets this problem as it is told; one meets it where gradients fall below Adam's
# `eps`, are clipped or rounded to half precision, or where another loss is added and outweighs what is left.

# %%
rows = {"real test digits": baselines["real test digits"]}
rows |= {name: training.found[-1] for name, training in linear.items()}
run.keep("linear_measured", show.Table(
    rows, columns=COLUMNS, units=UNITS, digits=2, best="-FID-digits",
    baselines=["real test digits"],
    note=f"n = {real_count} pictures, after {cfg.linear_steps} steps from behind, seed {seed}"))
pictures = {name: shown(training.shots[-1]) for name, training in linear.items()}
run.keep("linear_pictures", show.compare(pictures, scale=0.7))

# %% [markdown]
# ## Seven rules, one budget
# Now the convolutional pair. Each rule begins from the same seed (minibatch deviation gives the critic one more
# channel, so that its last layers begin otherwise), with the same number of updates of both networks, batch, learning
# rate and optimiser. That is a choice: none was tuned on its own, penalties cost extra time (last column), and the
# paper of WGAN-GP gives the critic five updates for each of the generator.
#
# | rule | change |
# |---|---|
# | saturating | the minimax loss of 2014 |
# | non-saturating | the other one of 2014, the baseline |
# | label smoothing | real pictures count as 0.9 (Salimans et al. 2016) |
# | R1 | half the squared gradient at real pictures, weight 0.2 (Mescheder et al. 2018) |
# | R1 + R2, relativistic | at real and at fake ones, weight 0.1 each, and logits in pairs (Huang et al. 2024) |
# | WGAN-GP | scores, and a gradient of length 1 between real and fake (Gulrajani et al. 2017) |
# | minibatch deviation | the discriminator sees how much a batch varies (Karras et al. 2018) |
#
# With $\hat x$ a point between a real and a fake picture, what they add to or put in the place of $L_D$:
#
# $$L^{\text{smooth}} = -\tfrac12\left[0.9 \log \sigma(D(x)) + 0.1 \log(1 - \sigma(D(x)))
#     + \log(1 - \sigma(D(G(z))))\right],$$
#
# $$R_1 = \tfrac12 \lVert \nabla_x D(x) \rVert^2, \qquad
#   L^{\text{relativistic}} = \log\left(1 + e^{D(G(z)) - D(x)}\right), \qquad
#   L^{\text{WGAN-GP}} = D(G(z)) - D(x) + 10\,(\lVert \nabla_{\hat x} D(\hat x) \rVert - 1)^2 .$$
#
# In code, and **checked** against the library:

# %%
def naive_smoothed(on_real, on_fake):
    p_real = torch.sigmoid(on_real)
    p_fake = torch.sigmoid(on_fake)
    for_real = 0.9 * p_real.log() + 0.1 * (1 - p_real).log()
    return -0.5 * (for_real + (1 - p_fake).log()).mean()


def naive_relativistic(on_real, on_fake):
    return (1 + (on_fake - on_real).exp()).log().mean()


def naive_gradient(critic, picture):
    """The gradient of a score with respect to one picture (C, H, W)."""
    picture = picture.clone().requires_grad_()
    return torch.autograd.grad(critic(picture[None]).sum(), picture)[0]


def naive_r1(critic, pictures):
    total = 0.0
    for picture in pictures:
        total += naive_gradient(critic, picture).square().sum()
    return 0.5 * total / len(pictures)


def naive_penalty(critic, real, fake, alpha):
    total = 0.0
    for x, x_fake, a in zip(real, fake, alpha):
        length = naive_gradient(critic, a * x + (1 - a) * x_fake).square().sum().sqrt()
        total += (length - 1) ** 2
    return total / len(real)


def naive_deviation(features):
    """How much the batch varies, as one more channel: (B, C, H, W) -> (B, C + 1, H, W)."""
    deviation = features.std(dim=0, correction=0).mean()
    channel = torch.full_like(features[:, :1], deviation.item())
    return torch.cat([features, channel], dim=1)


# %%
stream = runtime.generator(seed, "check", "remedies")
some_critic = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Tanh(), nn.Flatten(), nn.LazyLinear(1)).double()
real, fake = torch.randn(2, 5, 1, 6, 6, generator=stream, dtype=torch.float64)
alpha = torch.rand(5, generator=stream, dtype=torch.float64)
on_real = some_critic(real)[:, 0]
on_fake = some_critic(fake)[:, 0]
pairs = {
    "label smoothing": (naive_smoothed(on_real, on_fake),
                        losses.logistic_critic_loss(on_real, on_fake, real_label=0.9)),
    "relativistic": (naive_relativistic(on_real, on_fake),
                     losses.relativistic_loss(on_real, on_fake)),
    "R1": (naive_r1(some_critic, real), losses.zero_centred_penalty(some_critic, real)),
    "penalty": (naive_penalty(some_critic, real, fake, alpha),
                losses.gradient_penalty(some_critic, real, fake, alpha)),
    "minibatch deviation": (naive_deviation(real), MinibatchStd()(real))}
for naive, ours in pairs.values():
    torch.testing.assert_close(naive, ours, rtol=1e-6, atol=1e-6)
print("equal:", ", ".join(pairs))

# %% [markdown]
# R2 is R1 at the fake pictures. Now the seven play:

# %%
REMEDIES = {
    "saturating": dict(loss="saturating"),
    "non-saturating": {},
    "label smoothing": dict(real_label=0.9),
    "R1": dict(r1=0.2),
    "R1 + R2, relativistic": dict(loss="relativistic", r1=0.1, r2=0.1),
    "WGAN-GP": dict(loss="wasserstein", penalty=10.0),
    "minibatch deviation": dict(minibatch_std=True)}
trained = {name: [] for name in REMEDIES}
for name, change in REMEDIES.items():
    for k in range(cfg.seeds):
        training = train(name, change, steps=cfg.steps, repeat=k, looks=cfg.looks)
        trained[name].append(training)

# %%
def over_seeds(columns, rows):
    """One row of several seeds' rows: the mean of each column, and mean ± deviation."""
    if len(rows) == 1:
        return rows[0]
    result = {}
    for column in columns:
        values = torch.tensor([row[column] for row in rows], dtype=torch.float64)
        result[column] = values.mean().item()
        result[f"{column} -"] = (values.mean() - values.std()).item()
        result[f"{column} +"] = (values.mean() + values.std()).item()
    return result


def bounds(columns):
    return {column: (f"{column} -", f"{column} +") for column in columns}


SEEDS = (f"{cfg.seeds} seeds: mean, and one deviation between seeds to both sides" if cfg.seeds > 1
         else "one seed, which says nothing about the spread")

# %% [markdown]
# What is drawn at the end, measured and seen:

# %%
columns = (*COLUMNS, "ms a step")
rows = dict(baselines)
for name, repeats in trained.items():
    measured = [t.found[-1] | {"ms a step": 1e3 * t.seconds / cfg.steps} for t in repeats]
    rows[name] = over_seeds(columns, measured)
    run.metric(**{f"{name}: {column}": rows[name][column] for column in COLUMNS})
run.keep("remedies_measured", show.Table(
    rows, columns=columns, units=UNITS, digits=2, intervals=bounds(columns), best="-FID-digits",
    baselines=list(baselines), note=f"n = {real_count} pictures; {cfg.steps} steps of "
                                    f"{cfg.batch_size} pictures; {SEEDS}"))
best = min(trained, key=lambda name: rows[name]["FID-digits"])
pictures = {"real": shown(real_test[:12])}
pictures |= {name: shown(repeats[0].shots[-1]) for name, repeats in trained.items()}
title = "first twelve of one seed, not chosen"
run.keep("remedies", show.compare(pictures, scale=0.7, title=title))

# %% [markdown]
# The same twelve noise vectors at every look, drawn by the rule that ends with the lowest FID-digits, and how that
# distance fell for all of them.

# %%
def looks_of(training, at_most=5):
    """Some looks at one training, from the first on: step -> pictures."""
    looks = list(zip(training.found, training.shots))[::max(1, len(training.found) // at_most)]
    return {f"step {found['step']}": shown(pictures) for found, pictures in looks}


print("lowest FID-digits:", best)
run.keep("along", show.compare(looks_of(trained[best][0]), scale=0.7, title=best))
curves = {}
for name, repeats in trained.items():
    found = repeats[0].found
    curves[name] = [row["step"] for row in found], [row["FID-digits"] for row in found]
run.keep("fid", show.curves(curves, log=True, ylabel="FID-digits", size=(6.5, 3.6)))

# %% [markdown]
# ## Problem 2: modes collapse
# Which digits does each rule draw, as shares of all? Real ones are near 0.10 each.

# %%
drawn = {"real test digits": real_test}
drawn |= {f"linear, {name}": draw(t.net, real_count) for name, t in linear.items()}
drawn |= {name: draw(repeats[0].net, real_count) for name, repeats in trained.items()}
rows = {}
for name, x in drawn.items():
    counts = metrics.class_histogram(classifier.head(features_of(x)).argmax(1), 10).double()
    rows[name] = dict(zip("0123456789", (counts / counts.sum()).tolist()))
run.keep("classes", show.Table(rows, digits=2, baselines=["real test digits"],
                               note=f"share of each digit, n = {real_count} pictures, seed {seed}"))

# %% [markdown]
# ### Collapse that one can see
# Digits have many dimensions, and ten classes are easy to keep. So look at collapse where it can be drawn: real
# ones are points of the plane, in eight small heaps on a ring (Metz et al. 2017). Generator and discriminator are fully
# connected, with the rules of above. What changes from row to row is the *pace*: how many updates the generator makes
# for each update of the discriminator.
#
# In theory the generator answers a discriminator that is always at its best. Turn that round, let the generator find
# its best answer to a discriminator that hardly moves: the best answer is the one place that the discriminator likes
# most, for every noise. Then the discriminator learns that this place is fake, another one becomes the best, and all
# points move on together.

# %%
directions = torch.arange(8) * (2 * math.pi / 8)
heaps = 2 * torch.stack([directions.cos(), directions.sin()], dim=1)  # (8, 2)
ring_z = torch.randn(500, 2, generator=runtime.generator(seed, "ring", "look"))


def draw_heaps(count, stream):
    """Real points (count, 2)."""
    heap = torch.randint(len(heaps), (count,), generator=stream)
    return heaps[heap] + 0.02 * torch.randn(count, 2, generator=stream)


def fully_connected(outputs):
    return nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(),
                         nn.Linear(64, outputs))


def heap_shares(points):
    """The share of the points whose nearest heap is number i: (8,)."""
    nearest = torch.cdist(points, heaps).argmin(1)
    return torch.bincount(nearest, minlength=len(heaps)).double() / len(points)


# %%
def train_ring(name, rule, pace, repeat=0):
    """Clouds of points from the same noise, at eight looks; live where a person watches."""
    torch.manual_seed(runtime.derived_seed(seed, "ring", repeat))
    net = fully_connected(2)
    critic = nn.Sequential(fully_connected(1), nn.Flatten(0))  # (B, 2) -> (B,)
    optimizers = [torch.optim.Adam(x.parameters(), 2e-3, (0.5, 0.99)) for x in (net, critic)]
    stream = runtime.generator(seed, "ring", "train", repeat)
    live = show.Live()
    looks = []
    for step in range(cfg.ring_steps):
        real = draw_heaps(128, stream)
        fake = net(torch.randn(128, 2, generator=stream))
        judged = critic_step(rule, critic, optimizers[1], real, fake)
        for _ in range(pace):
            fake = net(torch.randn(128, 2, generator=stream))
            generator_step(rule, net, critic, optimizers[0], fake, on_real=judged.on_real)
        if live.watched and step % 10 == 0:
            points = net(ring_z).detach()
            live.update(show.clouds({f"{name}, step {step + 1}": [points]}, around=heaps, scale=3))
        if (step + 1) % max(1, cfg.ring_steps // 8) == 0:
            looks.append(net(ring_z).detach())
    return looks[:8]


# %% [markdown]
# *Heaps at a time*: $e^{\text{entropy}}$ of the shares of the heaps, 8 if all have as many points and 1 if one has all,
# the mean over the second half of the looks. *Heaps visited*: how many different heaps had the largest share at some
# look. It says something only where nearly all points are in one heap: there it counts how far they move on.

# %%
PACES = {"1 update for each": (GanRule(), 1),
         "5 updates for each": (GanRule(), 5),
         "5 updates, R1 + R2": (GanRule(**REMEDIES["R1 + R2, relativistic"]), 5)}
ring_rows = {}
ring_clouds = {}
for name, (rule, pace) in PACES.items():
    measured = []
    for k in range(cfg.seeds):
        looks = train_ring(name, rule, pace, repeat=k)
        shares = torch.stack([heap_shares(points) for points in looks])  # (looks, 8)
        at_a_time = torch.special.entr(shares).sum(1).exp()  # (looks,)
        measured.append({"heaps at a time": at_a_time[len(looks) // 2:].mean().item(),
                         "heaps visited": float(len(shares.argmax(1).unique()))})
        ring_clouds.setdefault(name, looks)
    ring_rows[name] = over_seeds(("heaps at a time", "heaps visited"), measured)
    run.metric(**{f"ring, {name}": ring_rows[name]["heaps at a time"]})

# %%
columns = ("heaps at a time", "heaps visited")
run.keep("ring_measured", show.Table(
    ring_rows, columns=columns, units=dict.fromkeys(columns, "of 8"), digits=1,
    intervals=bounds(columns),
    note=f"n = 500 points at each of 8 looks, {cfg.ring_steps} steps of 128 points; {SEEDS}"))
run.keep("ring", show.clouds(ring_clouds, around=heaps, title="the same noise at eight looks"))
if profile != "smoke":
    balanced, ahead, penalised = [row["heaps at a time"] for row in ring_rows.values()]
    assert balanced > 6 and max(ahead, penalised) < 3, "the text below says something else"

# %% [markdown]
# At equal pace the points spread over the ring. With five updates for each they fall onto one place, which wanders
# around the ring: that is mode collapse, and both networks learn all the time. The last row plays by the rule *R1 + R2,
# relativistic* of the table of the digits. Its penalties smooth the discriminator; they do not help against a generator
# that runs ahead of it.
#
# ### The limit: a discriminator that stands still
# Freeze the discriminator of the digits altogether, and let the generator raise its logit as high as it goes. The best
# answer is one pattern, again and again. It is no digit: it is an adversarial pattern of this one network, found far
# from where the network was ever trained (FID-digits says how far). So this shows why a generator that is ahead ends in
# one place, and not what that place looks like in a real training.

# %%
victim = copy.deepcopy(trained["non-saturating"][0])
optimizer = adam(victim.net)
stream = stream_of("answer")
found = []
pictures = {}
for step in range(cfg.frozen_steps + 1):
    if step % max(1, cfg.frozen_steps // 6) == 0:
        row = measure(draw(victim.net, min(real_count, 500)))
        found.append({"step": step, **row})
        pictures[f"step {step}"] = shown(draw_fixed(victim.net))
    z = torch.randn(cfg.batch_size, victim.net.latent_dim, generator=stream, device=device_)
    fake = victim.net(z)
    optimizer.zero_grad()
    losses.generator_score_loss(victim.critic(fake)).backward()  # as high a logit as there is
    optimizer.step()
run.keep("collapse", show.compare(pictures, scale=0.7,
                                  title="the generator alone, against a frozen discriminator"))

# %%
curves = {}
labels = {"entropy": "entropy", "duplicates": "share of duplicates", "FID-digits": "FID-digits"}
for column, label in labels.items():
    curves[label] = [row["step"] for row in found], [row[column] for row in found]
    run.metric(**{f"frozen_{column}": found[-1][column]})
    print(f"{label}: {found[0][column]:.2f} -> {found[-1][column]:.2f}")
run.keep("collapse_curves", show.curves(curves, separate=True, size=(5.0, 2.4)))

# %% [markdown]
# ### A thousand modes
# Ten classes of digits are easily covered. Three at once, as red, green and blue, make a thousand (Metz et al. 2017). A
# mode counts as covered if one picture shows it. How many can n pictures show at best? The line of real stacked test
# digits says.

# %%
share = (class_counts / class_counts.sum()).double().cpu()
triple_shares = torch.einsum("i,j,k->ijk", share, share, share).flatten()  # (1000,)


def draw_stacked(count, stream):
    return train_digits.stacked(count, stream)[0]


def measure_stacked(x):
    counts = metrics.class_histogram(metrics.stacked_modes(classifier, x), 1000)
    return {"modes": metrics.modes_covered(counts), "KL": metrics.kl_to_data(counts, triple_shares)}


def apart(x):
    """Four pictures (4, 3, H, W) as three digits each."""
    return shown(x[:4].flatten(0, 1)[:, None])  # (12, 1, H, W)


# %%
real_stacked = test_digits.stacked(cfg.stacked_samples, stream_of("stacked"))[0]
rows = {"real test digits": measure_stacked(real_stacked)}
pictures = {"real test digits": apart(real_stacked)}
run.metric(**{"stacked real test digits: modes": rows["real test digits"]["modes"]})
for name in ("non-saturating", "R1 + R2, relativistic", "minibatch deviation"):
    measured = []
    for k in range(cfg.seeds):
        training = train(f"stacked {name}", REMEDIES[name], steps=cfg.stacked_steps, repeat=k,
                         channels=3, source=draw_stacked)
        x = draw(training.net, cfg.stacked_samples)
        measured.append(measure_stacked(x))
        if k == 0:
            pictures[name] = apart(x)
    rows[name] = over_seeds(("modes", "KL"), measured)
    run.metric(**{f"stacked {name}: modes": rows[name]["modes"]})

# %% [markdown]
# Of a thousand modes, so many are covered, and so far from the digits' shares:

# %%
run.keep("stacked_measured", show.Table(
    rows, units={"modes": "of 1000", "KL": "nats"}, digits=2, intervals=bounds(("modes", "KL")),
    best="modes", baselines=["real test digits"],
    note=f"n = {cfg.stacked_samples} pictures; {cfg.stacked_steps} steps; {SEEDS}"))
run.keep("stacked", show.compare(pictures, scale=0.7, titles=["red", "green", "blue"] * 4))

# %% [markdown]
# ## Problem 3: a loss that says nothing
# Does a loss tell when pictures get better? For each rule: the rank correlation (Spearman) of each curve, averaged
# between looks, with FID-digits at the looks. +1: it falls as the pictures improve, a loss to trust. 0: it says
# nothing. -1: it *rises* as they improve. The gap is the difference between the mean logits of real and fake pictures;
# for WGAN-GP it is the estimate of a distance, and minus its loss without the penalty.

# %%
def correlations(training):
    """Spearman's correlation of what steps measured with FID-digits, over a training's looks."""
    ends = [row["step"] for row in training.found]
    distances = [row["FID-digits"] for row in training.found]
    result = {}
    for label, column in {"discriminator loss": 0, "generator loss": 1, "gap": 5}.items():
        between_looks = zip([0, *ends], ends)
        means = [training.history[a:b, column].mean().item() for a, b in between_looks]
        result[label] = spearmanr(means, distances).statistic
    return result


# %%
columns = ("discriminator loss", "generator loss", "gap")
rows = {}
for name, repeats in trained.items():
    rows[name] = over_seeds(columns, [correlations(training) for training in repeats])
    run.metric(**{f"{name}: rank correlation of {key}": rows[name][key] for key in columns})
chance = min(1.0, 1.96 / max(1, cfg.looks - 1) ** 0.5)
run.keep("correlations", show.Table(
    rows, columns=columns, digits=2, intervals=bounds(columns),
    note=f"rank correlation with FID-digits over {cfg.looks} looks at each training; {SEEDS}; "
         f"without any relation, one training in twenty is beyond ±{chance:.2f} or so"))
history = trained["non-saturating"][0].history
curves = {STEP_COLUMNS[column]: history[:, column].tolist() for column in (0, 1)}
run.keep("losses", show.curves(curves, smooth=max(1, cfg.steps // 40), size=(6.0, 2.8),
                               title="non-saturating"))

# %% [markdown]
# ## What these numbers say, and what they do not
# Of one run of `full` on the digits of scikit-learn, three seeds, 4000 steps. The tables above may be of `quick`, with
# one seed and fewer steps, which orders nothing: where they differ, that is why. Other data, other sizes: another
# order.
#
# - *Remedies*: the penalties lead, R1 with R2 and relativistic pairs at 8.5 ± 0.6 and R1 at 8.7 ± 1.8, then WGAN-GP,
#   the saturating loss, minibatch deviation, label smoothing, and the non-saturating loss last at 13.0 ± 0.9. Three
#   seeds tell the first from the last, not neighbours. Real test digits are at 2.2: nothing here comes near. Twice as
#   wide and twice as long reaches 3.7.
# - *Penalties cost*: two to three times the time of a step. At equal time the order may be another.
# - *The first loss is not lost*: with Adam it is in the middle of the table, and it catches up from behind (18.5) as
#   the other does (19.6). With plain gradient descent it never moves (259).
# - *No digits collapsed*: ten classes everywhere, of a thousand stacked modes 990 to 998. On the ring it takes a
#   generator that is ahead. A frozen discriminator is answered by one pattern (entropy 2.2 to 0.6), which
#   is no digit.
# - *Losses*: without a penalty the discriminator's loss goes with FID-digits (+0.7 to +0.8) and the generator's
#   *against* it (-0.6 to -0.8): it rises as the pictures improve. With R1 and R2 both signs are turned (-0.4 ± 0.2 and
#   +0.4 ± 0.1); with R1 alone and with WGAN-GP one deviation between seeds reaches from one sign to the other.
# - *On MNIST* (`quick` with `-p data mnist`, one seed, 11 minutes): 39 to 61, real digits 1.3, R1 with R2 first again.
#   Stacked digits after 400 steps are a mush of 2 modes, and with R1 and R2 rough digits of 648. And in these young
#   trainings the generator's loss *falls* as the pictures improve (+0.9). So a loss that falls says nothing by itself:
#   its sign changes with the rule, the data and the age of the training.
# - All rules share one learning rate, and penalties one weight for all data. Each rule has better ones of its own.
# - The classifier puts everything into one of ten classes, also what is no digit: ten modes do not mean ten digits.
#   FID-digits sees that, entropy does not. Coverage within a class is not measured by either.
# - FID-digits depends on this classifier and on n, 297 here. It compares rows of one table, not of two.
# - `ms a step` is the time of this machine while it ran; `python -m t2ilib bench gan_step` compares with the classic
#   loop side by side.
#
# ## The winner goes on
# The rule with the lowest FID-digits gets networks twice as wide, and more steps: this is the generator that is kept.
# (Chosen by one table of this run; with one seed another rule may win next time.)

# %%
winner = train(f"{best}, wider", REMEDIES[best], steps=cfg.final_steps, wider=2,
               looks=min(5, cfg.looks))
run.metric(**{f"winner: {key}": value for key, value in winner.found[-1].items()})
rows = {"real test digits": baselines["real test digits"], best: trained[best][0].found[-1],
        f"{best}, wider": winner.found[-1]}
run.keep("winner_measured", show.Table(
    rows, columns=COLUMNS, units=UNITS, digits=2, best="-FID-digits",
    baselines=["real test digits"],
    note=f"n = {real_count} pictures, seed {seed}; {cfg.steps} steps, wider {cfg.final_steps}"))
pictures = looks_of(winner) | {"real": shown(real_test[:12])}
title = f"{best}, the same noise at every look"
run.keep("winner", show.compare(pictures, scale=0.7, title=title), thumbnail=True)

# %% [markdown]
# ### Between pictures
# Four noise vectors in the corners, mixtures between them. A mixture of Gaussian vectors is too short; divided by the
# root of the sum of its squared weights it is again what the generator was trained on.

# %%
final = winner.net.eval().requires_grad_(False)
corners = fixed_z[[0, 3, 5, 8], :final.latent_dim]  # (4, D)


def between(right, down):
    """The picture at a place of the unit square, (1, 1, H, W) in [0, 1]."""
    weights = torch.tensor([(1 - right) * (1 - down), right * (1 - down), (1 - right) * down,
                            right * down])
    weights = (weights / weights.norm()).to(device_)  # (4,)
    return shown(final((weights @ corners)[None]))


places = torch.linspace(0, 1, 8).tolist()
square = torch.cat([between(right, down) for down in places for right in places])  # (64, 1, H, W)
run.keep("interpolation", show.grid(square, columns=8, scale=0.6))

# %% [markdown]
# ## Save and reload
# What is loaded draws what was saved, to the last bit. Below, a slider from corner to corner where a person watches,
# and its stops side by side elsewhere.

# %%
saved = save_model(run.dir / "generator", final, rule=best, seed=seed, steps=cfg.final_steps,
                   licence="MIT", data={"name": train_digits.name}, metrics=winner.found[-1],
                   commit=runtime.commit())
weights_file = saved / "model.safetensors"
run.artefact(weights_file)
again = load_model(ConvGenerator, saved, device=device_)
assert torch.equal(again(corners), final(corners))
print(f"{sum(p.numel() for p in final.parameters()):,} parameters, "
      f"{weights_file.stat().st_size / 2**20:.1f} MiB, equal after loading")
run.finish()
print(f"{run.data['seconds']:.0f} s, peak memory {run.data['peak_memory_mib']:.0f} MiB")
stops = [0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0]
show.slider(lambda place: between(place, place)[0], stops, label="from corner to corner")

# %% [markdown]
# ## Summary
# - The saturating loss sends back $\sigma(\ell)$, which is nothing where the discriminator is right; the other sends
#   back $\sigma(-\ell)$, which is everything there.
# - A generator that learns much faster than the discriminator answers it with one place, which wanders. Collapse is
#   counted, not guessed: heaps, classes, entropy, duplicates, a thousand modes, each beside real ones.
# - The losses of this game are measured against an opponent who learns, so their values say little about the pictures.
# - A step needs no loader and no number read from the device; fakes are detached, and only the pictures' gradient is
#   asked of the discriminator.
#
# ## Exercise: the penalty R1
# **Write these lines**: half the squared length of the gradient of the critic's output at each real picture, the mean
# over the batch, with a graph, so that a loss can contain it. The check passes when it agrees with the library.
# (Expected for a critic that adds up twice all $d$ numbers of a picture: $2 d$.)
#
# <details><summary>Hint</summary>
#
# `torch.autograd.grad(critic(real).sum(), real, create_graph=True)`: pictures do not see one another in the critic, so
# the gradient of the sum holds that of each.
#
# </details>

# %% tags=["exercise"]
def r1_penalty(critic, real):
    """A function (B, ...) -> (B,) and pictures (B, ...) -> scalar, with a graph."""
    raise NotImplementedError("write these lines")


def check_r1_penalty(function):
    """Raise AssertionError unless the function is right."""
    rng = runtime.generator(seed, "exercise")
    real = torch.rand(4, 1, 3, 3, generator=rng)
    weight = torch.rand(9, generator=rng, requires_grad=True)
    for critic in (lambda x: 2 * x.flatten(1).sum(1), lambda x: (x.flatten(1) @ weight).tanh()):
        expected = losses.zero_centred_penalty(critic, real)
        torch.testing.assert_close(function(critic, real.clone()), expected)
    (gradient,) = torch.autograd.grad(function(critic, real.clone()), weight)
    assert gradient.abs().max() > 0, "no gradient reaches the critic: create_graph=True"


try:
    check_r1_penalty(r1_penalty)
    print("right")
except NotImplementedError as error:
    print(f"exercise: {error}")

# %% [markdown]
# One solution: [solutions/01_gan_basics.py](solutions/01_gan_basics.py).
#
# More exercises:
# 1. Give WGAN-GP its five updates of the critic for each of the generator, at the same number of critic updates and
#    then at the same time. Which comparison is fair?
# 2. Put `real_label=0.9` on the *fake* side too (count fakes as 0.1). What does the generator learn from fakes that are
#    already good?
# 3. Average the generator's weights (`t2ilib.training.EMA`) and measure FID-digits with and without. When does it help,
#    and what has to be done about batch norm?
#
# <details><summary>Hints, and what to expect</summary>
#
# 1. Count updates of the critic in `train`: `GanRule` has no ratio, so call `critic_step` five times. (Expected: at
#    equal critic updates the generator has learned a fifth as often and FID-digits is worse; at equal time neither is
#    favoured by construction. Say which question you ask.)
# 2. `losses.logistic_critic_loss` smooths the real side only; write the fake side as `-0.1 * log(sigmoid) - 0.9 * log(1
#    - sigmoid)`. (Expected: the best discriminator no longer depends on the ratio of densities alone; where fakes are,
#    it is pulled up, and the generator keeps what it already draws.)
# 3. `EMA(net).update(net)` after each step, and `recalibrate_batch_norm` before you draw, since averaged weights do not
#    fit the statistics of any of their batches. (Expected: it helps most in the middle of a training, when looks differ
#    much from one another.)
#
# </details>
#
# ## References
# - Goodfellow et al. 2014, *Generative adversarial nets*, arXiv:1406.2661
# - Radford, Metz and Chintala 2016, *Unsupervised representation learning with deep convolutional generative
#   adversarial networks*, arXiv:1511.06434
# - Salimans et al. 2016, *Improved techniques for training GANs*, arXiv:1606.03498
# - Arjovsky and Bottou 2017, *Towards principled methods for training generative adversarial networks*,
#   arXiv:1701.04862
# - Metz et al. 2017, *Unrolled generative adversarial networks*, arXiv:1611.02163
# - Gulrajani et al. 2017, *Improved training of Wasserstein GANs*, arXiv:1704.00028
# - Heusel et al. 2017, *GANs trained by a two time-scale update rule converge to a local Nash equilibrium*,
#   arXiv:1706.08500
# - Arora and Zhang 2017, *Do GANs actually learn the distribution? An empirical study*, arXiv:1706.08224 (duplicates as
#   a sign of collapse)
# - Karras et al. 2018, *Progressive growing of GANs for improved quality, stability, and variation*, arXiv:1710.10196
# - Mescheder, Geiger and Nowozin 2018, *Which training methods for GANs do actually converge?*, arXiv:1801.04406
# - Jolicoeur-Martineau 2018, *The relativistic discriminator*, arXiv:1807.00734
# - Huang et al. 2024, *The GAN is dead; long live the GAN! A modern GAN baseline*, arXiv:2501.05441

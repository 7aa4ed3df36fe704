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
# - what mode collapse is and how to count it: classes, entropy, duplicates, a thousand modes of stacked digits
# - why a falling loss says little about the pictures, as a rank correlation
# - what seven remedies are worth on the same budget, beside real digits and noise
#
# | profile | device | time | memory |
# |---|---|---|---|
# | smoke | 1 CPU core | 35 s | 1.1 GB |
# | quick | 2 CPU cores | 2.5 min | 1.2 GB |
# | full, three seeds | 1 CPU core | 70 min | 1.3 GB |
# | full, three seeds | GPU | not measured | |
#
# MNIST is taken where `T2I_DATA` names a folder that holds it, or with `-p data mnist`, which may download it; else the
# 1,797 digits of 8 x 8 pixels that come with scikit-learn. Rerun with `python -m t2ilib run 01 -p seed 1`.

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
    needed = {"safetensors": "safetensors", "sklearn": "scikit-learn", "scipy": "scipy"}
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
data: str = "auto"  # auto, digits or mnist
steps: int | None = None  # of each training of the convolutional pair; None: the profile's own
seeds: int | None = None  # how often each row of the table is trained
batch_size: int | None = None
learning_rate: float | None = None  # of the convolutional pair
threads: int = 0  # CPU threads; 0 leaves torch's own choice

# %%
import copy
import time
from types import SimpleNamespace

import torch
from scipy.stats import spearmanr
from torch.nn import functional as F

from t2ilib import metrics, profiles, runtime, show
from t2ilib.checkpoint import load_model, save_model
from t2ilib.data import load_digits
from t2ilib.models.digit_classifier import DigitClassifier
from t2ilib.models.digit_gans import ConvCritic, ConvGenerator, LinearDiscriminator, LinearGenerator
from t2ilib.models.sizes import DIGIT_GAN
from t2ilib.record import Run
from t2ilib.training import GanRule, critic_step, gan_step, losses

# %% [markdown]
# A profile gives the settings that the parameters leave open; `quick` names them all.

# %%
options = dict(steps=steps, seeds=seeds, batch_size=batch_size, learning_rate=learning_rate)
given = dict(profile=profile, seed=seed, device=device, data=data, **options)
train_digits, test_digits = (load_digits(data, split=split) for split in ("train", "test"))
cfg = profiles.resolve(
    profile, overrides=options,
    smoke=dict(classifier_steps=20, linear_steps=4, steps=4, stacked_steps=2, looks=3, samples=64, stacked_samples=64,
               frozen_steps=2, final_steps=2),
    quick=dict(classifier_steps=500, linear_steps=200, steps=600, stacked_steps=400, looks=10, samples=2000, seeds=1,
               stacked_samples=4000, frozen_steps=400, final_steps=1000, batch_size=64, learning_rate=1e-3),
    full=dict(classifier_steps=2000, linear_steps=1000, steps=4000, stacked_steps=6000, looks=20, samples=10000,
              seeds=3, stacked_samples=26000, frozen_steps=1000, final_steps=8000, learning_rate=5e-4))
if threads:
    torch.set_num_threads(threads)
device_ = runtime.pick_device(device)
runtime.seed_everything(seed)
run = Run("01_gan_basics", given=given, resolved=cfg, device=device_)
print(runtime.describe(device_, torch.float32, profile, seed))

# %% [markdown]
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
    p_real, p_fake = torch.sigmoid(on_real), torch.sigmoid(on_fake)
    return torch.stack([-0.5 * (p_real.log() + (1 - p_fake).log()).mean(), (1 - p_fake).log().mean(),
                        -p_fake.log().mean()])


def library_losses(on_real, on_fake):
    return torch.stack([losses.logistic_critic_loss(on_real, on_fake), losses.saturating_generator_loss(on_fake),
                        losses.nonsaturating_generator_loss(on_fake)])


on_real, on_fake = torch.randn(2, 64, generator=runtime.generator(seed, "check"), dtype=torch.float64)
torch.testing.assert_close(naive_losses(on_real, on_fake), library_losses(on_real, on_fake))
sure = torch.tensor([120.0]), torch.tensor([-120.0])
print("at a logit of -120, naive  ", [f"{v:.3g}" for v in naive_losses(*sure).tolist()])
print("at a logit of -120, library", [f"{v:.3g}" for v in library_losses(*sure).tolist()])

# %% [markdown]
# ## The data
# All digits lie on the device as bytes, and a batch is an index into them: no loader, no worker, no copy in the loop.
# (MNIST is 47 MB like this.) The public first scripts unpack each picture from PIL, in each epoch anew.

# %%
train_digits, test_digits = train_digits.to(device_), test_digits.to(device_)
size, real_count = train_digits.images.shape[-1], min(len(test_digits), cfg.samples)


def draw_real(count, stream):
    """Random training digits (count, 1, H, W) in [-1, 1], without asking the device for a number."""
    return train_digits.batch(torch.randint(len(train_digits), (count,), generator=stream, device=device_))


def stream_of(*names):
    return runtime.generator(seed, *names, device=device_)


def shown(x):
    """Pictures in [0, 1], tiny ones enlarged smoothly, because eyes read edges of pixels before they read digits."""
    return x * 0.5 + 0.5 if size > 16 else F.interpolate(x * 0.5 + 0.5, scale_factor=6.0, mode="bicubic").clamp(0, 1)


real_train = train_digits.batch(torch.arange(min(len(train_digits), 10000), device=device_))
real_test = test_digits.batch(torch.arange(real_count, device=device_))
print(f"{train_digits.name}: {len(train_digits)} to train, {len(test_digits)} to test, {size} x {size} pixels")
run.keep("digits", show.grid(shown(real_test[:24]), columns=12, scale=0.6, title="real digits, from the test set"))

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
    turn, scale = 0.3 * turn, 1 + 0.14 * scale
    theta = torch.stack([scale * turn.cos(), -scale * turn.sin(), 0.18 * right, scale * turn.sin(), scale * turn.cos(),
                         0.18 * down], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, x.shape, align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


torch.manual_seed(0)
classifier, stream = DigitClassifier(image_size=size, ch=24).to(device_), runtime.generator(0, "classifier",
                                                                                           device=device_)
optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=0.05)
plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=cfg.classifier_steps)
for _ in range(cfg.classifier_steps):
    rows = torch.randint(len(train_digits), (64,), generator=stream, device=device_)
    x = train_digits.batch(rows)
    logits = classifier(torch.cat([x[:16], wiggled(x[16:], stream)]))
    optimizer.zero_grad()
    F.cross_entropy(logits, train_digits.labels[rows], label_smoothing=0.1).backward()
    optimizer.step()
    plan.step()
classifier.eval().requires_grad_(False)

# %% [markdown]
# **FID-digits** is the Fréchet distance between two Gaussians fitted to these features, as FID is on those of an
# Inception network (Heusel et al. 2017); the numbers of one cannot be compared with those of the other. It shrinks with
# the number of pictures, so everything below is measured on equally many. The rest is counted from the classes.

# %%
def features_of(x):
    return torch.cat([classifier.features(part) for part in x.split(1024)])


def measure(x, *, duplicates=True):
    """What pictures (N, 1, H, W) in [-1, 1] are worth: distance, classes, duplicates."""
    features = features_of(x)
    counts = metrics.class_histogram(classifier.head(features).argmax(1), 10)
    found = {"FID-digits": metrics.frechet_distance(train_features, features), "entropy": metrics.entropy(counts),
             "modes": metrics.modes_covered(counts, share=0.01), "KL": metrics.kl_to_data(counts, class_counts)}
    if duplicates:
        found["duplicates"] = metrics.duplicate_rate(x[:2000], real_train[:len(x[:2000])])
    return found


train_features, class_counts = features_of(real_train), metrics.class_histogram(train_digits.labels, 10)
logits = torch.cat([classifier(part) for part in test_digits.batch(torch.arange(len(test_digits))).split(1024)])
accuracy = (logits.argmax(1) == test_digits.labels).double().mean().item()
run.metric(classifier_accuracy=accuracy)
print(f"classifier: {accuracy:.4f} of {len(test_digits)} test digits")

# %% [markdown]
# What do these numbers say of pictures whose worth we know? Real test digits are the goal. Duplicates: pictures whose
# nearest other one is closer than for all but 1 % of real digits.

# %% tags=["baselines"]
noise = 2 * torch.rand(real_test.shape, generator=stream_of("noise"), device=device_) - 1
only_ones = real_train[train_digits.labels[:len(real_train)] == 1]
baselines = {"real test digits": measure(real_test), "noise": measure(noise),
             "one training digit": measure(real_train[:1].repeat(real_count, 1, 1, 1)),
             "ones only": measure(only_ones.repeat(-(-real_count // len(only_ones)), 1, 1, 1)[:real_count])}
COLUMNS = ("FID-digits", "entropy", "modes", "KL", "duplicates")
print(f"n = {real_count} pictures each; entropy of all classes alike {torch.tensor(10.0).log():.2f}")
print(" " * 26 + "".join(f"{c:>12}" for c in COLUMNS))
for name, row in baselines.items():
    print(f"{name:26}" + "".join(f"{row[c]:12.2f}" for c in COLUMNS))

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
    return torch.optim.Adam(net.parameters(), lr=lr or cfg.learning_rate, betas=betas, fused=device_.type != "mps")


for kind in ("linear", "convolutional"):
    for net, x in zip(build(kind), (torch.zeros(2, 100 if kind == "linear" else 64), real_test[:2])):
        print(f"{type(net).__name__:20}{sum(p.numel() for p in net.parameters()):>10,} parameters   "
              f"{tuple(x.shape)} -> {tuple(net(x.to(device_)).shape)}")

# %% [markdown]
# ## One step
# The discriminator learns first, from *detached* fakes: its loss must not reach the generator. Then the generator, on
# the same fakes. As it is told:

# %%
def naive_step(net, critic, optimizers, real, z):
    """One update of the discriminator, then one of the generator, with the losses of the beginning."""
    fake = net(z)
    loss, _, _ = naive_losses(critic(real), critic(fake.detach()))
    optimizers[1].zero_grad()
    loss.backward()
    optimizers[1].step()
    _, _, generator_loss = naive_losses(critic(real), critic(fake))
    optimizers[0].zero_grad()
    generator_loss.backward()
    optimizers[0].step()
    return torch.stack([loss, generator_loss]).detach()


# %% [markdown]
# The generator needs from the discriminator only the gradient of its loss with respect to the pictures. So the library
# asks for nothing else, and no gradient of the discriminator's weights is computed a second time. That gradient is
# also what we want to look at. **Check** that both sides still move alike:

# %%
plain = build("convolutional")
ours = copy.deepcopy(plain)
real, z = real_test[:16], torch.randn(16, plain[0].latent_dim, generator=stream_of("one step"), device=device_)
naive = naive_step(*plain, [sgd(net) for net in plain], real, z)
step = gan_step(GanRule(), *ours, *[sgd(net) for net in ours], real, z)
torch.testing.assert_close(torch.stack([step.critic.loss, step.generator.loss]), naive)
for ours_net, plain_net in zip(ours, plain):
    torch.testing.assert_close(ours_net.state_dict(), plain_net.state_dict(), rtol=1e-4, atol=1e-5)
print(f"losses {naive.tolist()}, and equal weights after one step")

# %% [markdown]
# A rule says what is played: `GanRule` names the loss and the weights of the penalties that remedies add. What a step
# saw is kept as six numbers on the device: reading one of them here would make the program wait for the device in
# every step.

# %%
def train_step(rule, net, critic, optimizers, real, stream):
    """One update of each network; return what was seen (6,), as named in SEEN."""
    z = torch.randn(len(real), net.latent_dim, generator=stream, device=device_)
    alpha = torch.rand(len(real), generator=stream, device=device_) if rule.penalty else None
    step = gan_step(rule, net, critic, *optimizers, real, z, alpha=alpha)
    on_real, on_fake = step.critic.on_real, step.critic.on_fake
    pull = step.generator.at_pictures.flatten(1).norm(dim=1)
    strength = len(pull) * pull.mean()  # of one picture: the loss is a mean over the batch
    right = [(on_real > 0).float().mean(), (on_fake < 0).float().mean()]
    return torch.stack([step.critic.loss, step.generator.loss, strength, *right, on_real.mean() - on_fake.mean()])


SEEN = ("discriminator loss", "generator loss", "gradient at the pictures", "right on real", "right on fake", "gap")

# %% [markdown]
# The loop: draw a batch, step, and at a few places look at pictures from noise that stays the same. Only there the
# program waits.

# %%
fixed_z = torch.stack([torch.randn(128, generator=runtime.generator(seed, "look", i)) for i in range(12)]).to(device_)


@torch.no_grad()
def draw(net, count, *, name="measured"):
    """Pictures (count, C, H, W) of a generator in eval mode, always from the same noise."""
    stream, training = stream_of(name), net.training
    z = torch.randn(count, net.latent_dim, generator=stream, device=device_)
    pictures = torch.cat([net.eval()(part) for part in z.split(1024)])
    net.train(training)
    return pictures


def train(name, change, *, steps, kind="convolutional", repeat=0, lr=None, betas=(0.5, 0.99), channels=1, looks=0,
          source=draw_real, start=None, optimize=adam, wider=1):
    """Train a pair, or a copy of `start`, by a changed rule; return it, what steps saw, and what looks found."""
    minibatch_std = "minibatch_std" in change  # which the network does, not the loss
    rule = GanRule(**{} if minibatch_std else change)
    stream = stream_of("train", repeat)
    torch.manual_seed(runtime.derived_seed(seed, "weights", repeat))  # all rules begin with the same weights
    pair = copy.deepcopy(start) or build(kind, channels=channels, minibatch_std=minibatch_std, wider=wider)
    net, critic = pair
    optimizers = [optimize(net, lr, betas), adam(critic, lr, betas)]
    history, found, shots, seconds = torch.zeros(steps, len(SEEN), device=device_), [], [], 0.0
    look_at = {round(steps * (k + 1) / looks) - 1 for k in range(looks)}
    began = time.perf_counter()
    for step in runtime.progress(range(steps), desc=name, every=60):
        history[step] = train_step(rule, net, critic, optimizers, source(cfg.batch_size, stream), stream)
        if step in look_at:
            history[step].cpu()  # wait for the device before the clock is read
            seconds += time.perf_counter() - began
            found.append({"step": step + 1, **measure(draw(net, real_count), duplicates=step + 1 == steps)})
            shots.append(net.eval()(fixed_z[:, :net.latent_dim]).detach())
            net.train()
            began = time.perf_counter()
    history = history.cpu()
    seconds += time.perf_counter() - began
    for step in range(0, steps, max(1, steps // 200)):
        run.log(step, **{f"{name} {repeat}: {k}": v for k, v in zip(SEEN, history[step].tolist())})
    return SimpleNamespace(net=net, critic=critic, history=history, found=found, shots=shots, seconds=seconds)


# %% [markdown]
# ## Problem 1: the gradient vanishes
# The slope of the generator's loss at a logit $\ell$ is $-\sigma(\ell)$ for the saturating loss and $-\sigma(-\ell)$
# for the other. Where the discriminator is sure of a fake, $\ell = -10$, the first leaves 4.5e-5 of the gradient.
# The direction is the same: for each picture the two gradients differ by the factor $e^{\ell}$ alone.

# %% tags=["problems"]
LOSSES = {"saturating": losses.saturating_generator_loss, "non-saturating": losses.nonsaturating_generator_loss}
print(f"{'logit':>8}" + "".join(f"{name:>18}" for name in LOSSES))
for logit in (-10.0, -5.0, 0.0, 5.0):
    at = torch.tensor(logit, dtype=torch.float64, requires_grad=True)
    slopes = [torch.autograd.grad(loss(at), at)[0].item() for loss in LOSSES.values()]
    print(f"{logit:8.0f}" + "".join(f"{slope:18.3e}" for slope in slopes))

# %% [markdown]
# The experiment of Arjovsky and Bottou (2017): keep the generator as it is, train only the discriminator, and watch
# what each loss would send back through the pictures.

# %%
torch.manual_seed(seed)
net, critic = waiting = build("linear")
optimizer, stream = adam(critic, 2e-4, (0.5, 0.999)), stream_of("frozen")
pulls = {name: [] for name in (*LOSSES, "right")}
for _ in range(cfg.linear_steps):
    with torch.no_grad():
        fake = net(torch.randn(cfg.batch_size, net.latent_dim, generator=stream, device=device_))
    real = draw_real(cfg.batch_size, stream)
    judged = critic_step(GanRule(), critic, optimizer, real, fake)
    logits = critic(fake.requires_grad_())
    for name, loss in LOSSES.items():
        pull, = torch.autograd.grad(cfg.batch_size * loss(logits), fake, retain_graph=True)
        pulls[name].append(pull.flatten(1).norm(dim=1))
    pulls["right"].append(((judged.on_real > 0).float().mean() + (judged.on_fake < 0).float().mean()) / 2)
ratio = pulls["saturating"][-1] / pulls["non-saturating"][-1]
torch.testing.assert_close(ratio, logits.detach().exp(), rtol=1e-3, atol=1e-9)
pulls = {name: torch.stack(values).cpu() for name, values in pulls.items()}
ends = {name: pulls[name][-1].mean().item() for name in LOSSES}
print(f"after {cfg.linear_steps} steps it is right in {pulls['right'][-5:].mean():.0%}; gradient at a picture: "
      + ", ".join(f"{k} {v:.2e}" for k, v in ends.items()))
run.metric(**{f"frozen_{name}_gradient": value for name, value in ends.items()})
run.keep("vanishing", show.curves({name: pulls[name].mean(1).tolist() for name in LOSSES}, log=True, size=(6.0, 2.8),
                                  ylabel="gradient at a picture", title="a generator that waits"))

# %% [markdown]
# Now both learn, from this point on: the discriminator is far ahead. Does the generator catch up? Each loss is tried
# with plain gradient descent and with Adam. Adam divides a gradient by its own recent size, so a factor that all
# pictures share is lost, and with it most of the difference between the losses.

# %%
linear = {f"{loss}, {optimize.__name__}": train(f"linear {loss}, {optimize.__name__}", dict(loss=loss), lr=2e-4,
                                                steps=cfg.linear_steps, betas=(0.5, 0.999), looks=1, start=waiting,
                                                optimize=optimize) for optimize in (sgd, adam) for loss in LOSSES}
print(f"{'':24}" + "".join(f"{SEEN[column]:>26}" for column in (2, 4, 5)))
for name, t in linear.items():
    ends = [(t.history[0, column].item(), t.history[-20:, column].mean().item()) for column in (2, 4, 5)]
    print(f"{name:24}" + "".join(f"{a:>14.4f} ->{b:>9.4f}" for a, b in ends))
    run.metric(**{f"linear {name}: gradient": ends[0][1]})
run.keep("linear", show.curves({name: t.history[:, 2].tolist() for name, t in linear.items()}, log=True, smooth=5,
                               ylabel="gradient at a picture", size=(6.0, 3.0), title="both learn"))

# %% [markdown]
# Gradient descent on the saturating loss gets nothing to follow, and falls further behind. With Adam both losses catch
# up in a few steps. So one rarely meets this problem as it is told; one meets it where gradients fall below Adam's
# `eps`, are clipped or rounded to half precision, or where another loss is added and outweighs what is left.

# %%
print(f"n = {real_count} pictures, after {cfg.linear_steps} steps from behind")
print(" " * 26 + "".join(f"{c:>12}" for c in COLUMNS))
for name, row in [("real test digits", baselines["real test digits"]), *((n, t.found[-1]) for n, t in linear.items())]:
    print(f"{name:26}" + "".join(f"{row[c]:12.2f}" for c in COLUMNS))
run.keep("linear_pictures", show.compare({name: shown(t.shots[-1]) for name, t in linear.items()}, scale=0.7))

# %% [markdown]
# ## Seven rules, one budget
# Now the convolutional pair. Each rule gets the same weights to begin with, the same number of updates of both
# networks, batch, learning rate and optimiser. That is a choice: none was tuned on its own, penalties cost extra time
# (last column), and the paper of WGAN-GP gives the critic five updates for each of the generator.
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

# %%
REMEDIES = {
    "saturating": dict(loss="saturating"),
    "non-saturating": {},
    "label smoothing": dict(real_label=0.9),
    "R1": dict(r1=0.2),
    "R1 + R2, relativistic": dict(loss="relativistic", r1=0.1, r2=0.1),
    "WGAN-GP": dict(loss="wasserstein", penalty=10.0),
    "minibatch deviation": dict(minibatch_std=True)}
trained = {name: [train(name, change, steps=cfg.steps, repeat=k, looks=cfg.looks) for k in range(cfg.seeds)]
           for name, change in REMEDIES.items()}


# %%
def spread(values):
    """Mean, and the deviation between seeds where there is more than one."""
    values = torch.tensor(values, dtype=torch.float64)
    return f"{values.mean():.2f}" + (f" ± {values.std():.2f}" if len(values) > 1 else "")


print(f"n = {real_count} pictures, {cfg.seeds} seed(s), {cfg.steps} steps of {cfg.batch_size} pictures; mean"
      + (" ± deviation between seeds" if cfg.seeds > 1 else "; one seed says nothing about the spread"))
print(f"{'':26}" + "".join(f"{c:>16}" for c in (*COLUMNS, "ms a step")))
for name, row in baselines.items():
    print(f"{name:26}" + "".join(f"{row[c]:16.2f}" for c in COLUMNS))
for name, repeats in trained.items():
    cells = [spread([t.found[-1][c] for t in repeats]) for c in COLUMNS]
    pace = spread([1e3 * t.seconds / cfg.steps for t in repeats])
    print(f"{name:26}" + "".join(f"{cell:>16}" for cell in (*cells, pace)))
    run.metric(**{f"{name}: {c}": sum(t.found[-1][c] for t in repeats) / len(repeats) for c in COLUMNS})
best = min(trained, key=lambda name: sum(t.found[-1]["FID-digits"] for t in trained[name]))
run.keep("remedies", show.compare({"real": shown(real_test[:12])} | {
        name: shown(repeats[0].shots[-1]) for name, repeats in trained.items()}, scale=0.7,
        title="first twelve of one seed, not chosen"))

# %% [markdown]
# The same twelve noise vectors at every look, drawn by the rule that ends with the lowest FID-digits, and how that
# distance fell for all of them.

# %%
print("lowest FID-digits:", best)
run.keep("along", show.compare({f"step {f['step']}": shown(x) for f, x in list(zip(
        trained[best][0].found, trained[best][0].shots))[::max(1, cfg.looks // 5)]}, scale=0.7, title=best))

# %%
run.keep("fid", show.curves({name: ([f["step"] for f in t[0].found], [f["FID-digits"] for f in t[0].found])
                             for name, t in trained.items()}, log=True, ylabel="FID-digits", size=(6.5, 3.6)))

# %% [markdown]
# ## Problem 2: modes collapse
# Which digits does each rule draw, as shares of all? Real ones are near 0.10 each.

# %%
print(f"{'':30}" + "".join(f"{digit:6}" for digit in range(10)))
for name, x in {"real test digits": real_test, **{f"linear, {n}": draw(t.net, real_count) for n, t in linear.items()},
                **{name: draw(t[0].net, real_count) for name, t in trained.items()}}.items():
    counts = metrics.class_histogram(classifier.head(features_of(x)).argmax(1), 10).double()
    print(f"{name:30}" + "".join(f"{share:6.2f}" for share in (counts / counts.sum()).tolist()))

# %% [markdown]
# Why should it collapse at all? The theory wants the generator to answer a discriminator that is always at its best.
# Turn that round: freeze a discriminator and let the generator raise its logit as high as it goes. The best answer is
# the one picture that this discriminator likes most, again and again. In training both move at once, and how much of
# this shows is a matter of pace.

# %%
victim = copy.deepcopy(trained["non-saturating"][0])
optimizer, stream = adam(victim.net), stream_of("answer")
collapse, shots = {"entropy": [], "share of duplicates": []}, {}
for step in range(cfg.frozen_steps + 1):
    if step % max(1, cfg.frozen_steps // 6) == 0:
        row = measure(draw(victim.net, min(real_count, 500)))
        for key, value in zip(collapse, (row["entropy"], row["duplicates"])):
            collapse[key].append((step, value))
        shots[f"step {step}"] = shown(victim.net.eval()(fixed_z[:, :victim.net.latent_dim]).detach())
        victim.net.train()
    fake = victim.net(torch.randn(cfg.batch_size, victim.net.latent_dim, generator=stream, device=device_))
    optimizer.zero_grad()
    losses.generator_score_loss(victim.critic(fake)).backward()  # as high a logit as there is
    optimizer.step()
print({key: f"{points[0][1]:.2f} -> {points[-1][1]:.2f}" for key, points in collapse.items()})
run.metric(frozen_entropy=collapse["entropy"][-1][1], frozen_duplicates=collapse["share of duplicates"][-1][1])
run.keep("collapse", show.compare(shots, scale=0.7, title="the generator alone, against a frozen discriminator"))

# %%
run.keep("collapse_curves", show.curves({key: tuple(zip(*points)) for key, points in collapse.items()}, separate=True,
                                        size=(5.0, 2.4)))

# %% [markdown]
# ### A thousand modes
# Ten classes are easily covered. Three digits at once, as red, green and blue, make a thousand (Metz et al. 2017). A
# mode counts as covered if one picture shows it. How many can n pictures show at best? The line of real stacked test
# digits says.

# %%
def draw_stacked(count, stream):
    return train_digits.stacked(count, stream)[0]


def stacked_row(x):
    counts = metrics.class_histogram(metrics.stacked_modes(classifier, x), 1000)
    apart = x[:4].flatten(0, 1)[:, None]  # four pictures, as three digits each
    return metrics.modes_covered(counts), metrics.kl_to_data(counts, triple_shares), shown(apart)


share = (class_counts / class_counts.sum()).double().cpu()
triple_shares = torch.einsum("i,j,k->ijk", share, share, share).flatten()
rows = {"real test digits": [stacked_row(test_digits.stacked(cfg.stacked_samples, stream_of("stacked"))[0])]}
for name in ("non-saturating", "R1 + R2, relativistic", "minibatch deviation"):
    players = [train(f"stacked {name}", REMEDIES[name], steps=cfg.stacked_steps, repeat=k, channels=3,
                     source=draw_stacked) for k in range(cfg.seeds)]
    rows[name] = [stacked_row(draw(player.net, cfg.stacked_samples)) for player in players]
print(f"n = {cfg.stacked_samples} pictures, {cfg.seeds} seed(s), {cfg.stacked_steps} steps")
for name, found in rows.items():
    covered, divergence, _ = zip(*found)
    print(f"{name:26}{spread(covered):>18} of 1000 modes   KL {spread(divergence)}")
    run.metric(**{f"stacked {name}: modes": sum(covered) / len(covered)})
run.keep("stacked", show.compare({name: found[0][2] for name, found in rows.items()}, scale=0.7,
                                 titles=["red", "green", "blue"] * 4))

# %% [markdown]
# ## Problem 3: a loss that says nothing
# Does a loss tell when pictures get better? For each rule: the rank correlation (Spearman) of each curve, averaged
# between looks, with FID-digits at the looks. +1: it falls as the pictures improve, a loss to trust. 0: it says
# nothing. -1: it *rises* as they improve. The gap is the difference between the mean logits of real and fake pictures;
# for WGAN-GP it is the estimate of a distance, and minus its loss without the penalty.

# %%
def correlation(t, column):
    """Spearman's correlation of what the steps saw with FID-digits, over the looks of one training."""
    ends = [f["step"] for f in t.found]
    means = [t.history[a:b, column].mean().item() for a, b in zip([0, *ends], ends)]
    return spearmanr(means, [f["FID-digits"] for f in t.found]).statistic


print(f"{cfg.looks} looks at each training, {cfg.seeds} seed(s); without any relation, one training in twenty is "
      f"beyond ±{min(1.0, 1.96 / max(1, cfg.looks - 1) ** 0.5):.2f} or so")
print(f"{'':26}{'discriminator loss':>22}{'generator loss':>22}{'gap':>22}")
for name, repeats in trained.items():
    cells = [spread([correlation(t, column) for t in repeats]) for column in (0, 1, 5)]
    print(f"{name:26}" + "".join(f"{cell:>22}" for cell in cells))
    run.metric(**{f"{name}: rank correlation of {SEEN[c]}": cell for c, cell in zip((0, 1, 5), cells)})
baseline = trained["non-saturating"][0]
run.keep("losses", show.curves({name: baseline.history[:, k].tolist() for k, name in ((0, SEEN[0]), (1, SEEN[1]))},
                               smooth=max(1, cfg.steps // 40), size=(6.0, 2.8), title="non-saturating"))

# %% [markdown]
# ## What these numbers say, and what they do not
# Of one run of `full` on the digits of scikit-learn, three seeds, 4000 steps; its output is in
# `reports/notebooks/01_gan_basics.ipynb`. Other data, other sizes: another order.
#
# - *Remedies*: the penalties lead, R1 with R2 and relativistic pairs at 8.5 ± 0.6 and R1 at 8.7 ± 1.8, then WGAN-GP,
#   the saturating loss, minibatch deviation, label smoothing, and the non-saturating loss last at 13.0 ± 0.9. Three
#   seeds tell the first from the last, not neighbours. Real test digits are at 2.2: nothing here comes near. Twice as
#   wide and twice as long reaches 3.7.
# - *Penalties cost*: two to three times the time of a step. At equal time the order may be another.
# - *The first loss is not lost*: with Adam it is in the middle of the table, and it catches up from behind (18.5) as
#   the other does (19.6). With plain gradient descent it never moves (259).
# - *Nothing collapsed*: ten classes everywhere, of a thousand stacked modes 990 to 998. At this size collapse must be
#   provoked, with a discriminator that stands still (entropy 2.2 to 0.6).
# - *Losses*: without a penalty the discriminator's loss goes with FID-digits (+0.7) and the generator's *against* it
#   (-0.6 to -0.8): it rises as the pictures improve. With a penalty they say little (within ±0.5, other signs for other
#   seeds). So a falling loss of the generator is no good news anywhere.
# - *On MNIST* (`quick` with `-p data mnist`, one seed, 11 minutes): 39 to 61, real digits 1.3, R1 with R2 first again.
#   Stacked digits after 400 steps are a mush of 2 modes, and with R1 and R2 rough digits of 648. And in these young
#   trainings the generator's loss *falls* as the pictures improve (+0.9): what a loss says depends on when one looks.
# - One learning rate and one weight for all is fair and cruel: each rule has a better one of its own.
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
winner = train(f"{best}, wider", REMEDIES[best], steps=cfg.final_steps, wider=2, looks=min(5, cfg.looks))
print("   ".join(f"{key} {winner.found[-1][key]:.2f}" for key in COLUMNS), f"  n = {real_count}, {best}")
run.metric(**{f"winner: {key}": value for key, value in winner.found[-1].items()})
run.keep("winner", show.compare({f"step {f['step']}": shown(x) for f, x in zip(winner.found, winner.shots)} | {
        "real": shown(real_test[:12])}, scale=0.7, title=f"{best}, the same noise at every look"), thumbnail=True)

# %% [markdown]
# ### Between pictures
# Four noise vectors in the corners, mixtures between them. A mixture of Gaussian vectors is too short; divided by the
# root of the sum of its squared weights it is again what the generator was trained on.

# %%
final = winner.net.eval().requires_grad_(False)
corners = fixed_z[[0, 3, 5, 8], :final.latent_dim]


def between(right, down):
    """The picture at a place of the unit square, (1, 1, H, W) in [0, 1]."""
    weights = torch.tensor([(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down])
    return shown(final(((weights / weights.norm()).to(device_) @ corners)[None]))


places = torch.linspace(0, 1, 8).tolist()
run.keep("interpolation", show.grid(torch.cat([between(x, y) for y in places for x in places]), columns=8, scale=0.6))

# %% [markdown]
# ## Save and reload
# What is loaded draws what was saved, to the last bit. Below, a slider from corner to corner where a person watches,
# and its stops side by side elsewhere.

# %%
saved = save_model(run.dir / "generator", final, rule=best, seed=seed, steps=cfg.final_steps, licence="MIT",
                   data={"name": train_digits.name}, metrics=winner.found[-1], commit=runtime.commit())
run.artefact(saved / "model.safetensors")
again = load_model(ConvGenerator, saved, device=device_)
assert torch.equal(again(corners), final(corners))
print(f"{sum(p.numel() for p in final.parameters()):,} parameters, "
      f"{(saved / 'model.safetensors').stat().st_size / 2**20:.1f} MiB, equal after loading")
run.finish()
print(f"{run.data['seconds']:.0f} s, peak memory {run.data['peak_memory_mib']:.0f} MiB")
show.slider(lambda t: between(t, t)[0], [0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0], label="from corner to corner")

# %% [markdown]
# ## Summary
# - The saturating loss sends back $\sigma(\ell)$, which is nothing where the discriminator is right; the other sends
#   back $\sigma(-\ell)$, which is everything there.
# - Collapse is the best answer to a discriminator that stands still. It is counted, not guessed: classes, entropy,
#   duplicates, a thousand modes, each beside real digits.
# - The losses of this game are measured against an opponent who learns, so their values say little about the pictures.
# - A step needs no loader and no number read from the device; fakes are detached, and only the pictures' gradient is
#   asked of the discriminator.
#
# ## Exercises
# 1. Give WGAN-GP its five updates of the critic for each of the generator, at the same number of critic updates and
#    then at the same time. Which comparison is fair?
# 2. Put `real_label=0.9` on the *fake* side too (count fakes as 0.1). What does the generator learn from fakes that are
#    already good?
# 3. Average the generator's weights (`t2ilib.training.EMA`) and measure FID-digits with and without. When does it help,
#    and what has to be done about batch norm?
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
# - Arora and Zhang 2018, *Do GANs learn the distribution? Some theory and empirics*, arXiv:1706.08224
# - Karras et al. 2018, *Progressive growing of GANs for improved quality, stability, and variation*, arXiv:1710.10196
# - Mescheder, Geiger and Nowozin 2018, *Which training methods for GANs do actually converge?*, arXiv:1801.04406
# - Jolicoeur-Martineau 2018, *The relativistic discriminator*, arXiv:1807.00734
# - Huang et al. 2024, *The GAN is dead; long live the GAN! A modern GAN baseline*, arXiv:2501.05441

